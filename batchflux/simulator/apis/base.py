"""What an API is whose answer holds the picture: where it is asked, how it asks, answers and refuses.

A refusal is written once, as the envelope of `replies.error_reply`; `told` puts it as the API does. So every fault that
all APIs share has each API's own form.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from batchflux.simulator.drawing import parse_ratio
from batchflux.simulator.replies import STREAM_TYPE, Reply, dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchflux.simulator.replies import Api
    from batchflux.simulator.requests import ImageRequest, Upload

Form = tuple[tuple[str, str | bytes], ...]
"""The parts of a multipart body: texts, and files as their bytes."""
LETTERS_A_TOKEN = 4
_ENVELOPE = {"message", "type", "param", "code"}
_WIDEST, _TALLEST = "21:9", "9:21"


def bearer(headers: Mapping[str, str]) -> str:
    """Return the bearer token, "" without one."""
    kind, _, token = headers.get("Authorization", "").partition(" ")
    return token if kind.lower() == "bearer" else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request as it came: its body (or the parts of one), and what its path and its query say."""

    raw: bytes = b""
    form: Form | None = None
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A picture that was made: `data` (None: it is behind `url`), `draft` of what shows unfinished ones before it."""

    request: ImageRequest
    url: str
    media_type: str
    data: bytes | None
    draft: bytes
    forms: frozenset[str]
    id: str
    created: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One API. `answer` returns a whole reply, or the packets of a stream; None: it makes tasks, see `queues`.

    `faults` are its own answers in the place of a good one; one that returns None cannot be shown to that request. Of
    those in `billed` the picture is paid for all the same. One that is `open` asks for no key.
    """

    name: Api
    parse: Callable[[Asked], ImageRequest]
    told: Callable[[Reply], Reply]
    routes: tuple[str, ...] = ()
    answer: Callable[[Made], Reply | list[bytes]] | None = None
    open: bool = False
    key: Callable[[Mapping[str, str]], str] = bearer
    faults: Mapping[str, Callable[[ImageRequest], Reply | None]] = field(default_factory=dict)
    billed: frozenset[str] = frozenset()


def error_in(reply: Reply) -> dict[str, Any] | None:
    """Return what a common envelope says; None: the reply is none, and stays as it is."""
    try:
        error = json.loads(reply.body)["error"]
    except (ValueError, LookupError, TypeError):
        return None
    return error if isinstance(error, dict) and error.keys() == _ENVELOPE else None


def as_json(reply: Reply, status: int, value: Any) -> Reply:
    """Return the reply with another status and body, and its headers."""
    return replace(reply, status=status, body=dumps(value))


def event(value: Any, name: str = "") -> bytes:
    """Return one event of a stream."""
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + dumps(value) + b"\n\n"


def stream_of(*packets: bytes) -> Reply:
    """Return a whole stream."""
    return Reply(content_type=STREAM_TYPE, body=b"".join(packets))


def text_tokens(prompt: str) -> int:
    """Return how many tokens a prompt is counted as."""
    return len(prompt) // LETTERS_A_TOKEN + 1


def credits_of(millions: float) -> float:
    """Return credits (1 = $0.01) for so many dollars times a million tokens."""
    return round(millions / 10_000, 6)


def drawable(width: int, height: int) -> str:
    """Return the ratio of two sides, in pixels, as the simulator draws it: within 21:9 and 9:21."""
    ratio = f"{width}:{height}"
    return ratio if parse_ratio(ratio) else _WIDEST if width > height else _TALLEST


def apart(images: list[str | Upload]) -> tuple[tuple[str, ...], tuple[Upload, ...]]:
    """Return references as URLs, and those that came along."""
    return tuple(one for one in images if isinstance(one, str)), tuple(
        one for one in images if not isinstance(one, str)
    )


def identity_of(images: list[str | Upload]) -> list[str]:
    """Return what the content of a request counts of its references."""
    return [one if isinstance(one, str) else f"{one.place} {one.sha256}" for one in images]
