"""Reads a request body strictly, as the guide's table says (CONTRACT 7): what is not in it is refused.

Every refusal is a 400 `invalid_request_error` that names the parameter. Nulls are taken as absent where the guide's
table lists the type as nullable (seed, aspect_ratio, webhook_url, webhook_secret) and are wrong elsewhere.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchflux.simulator.drawing import parse_ratio
from batchflux.simulator.requests import Upload, read_content
from batchflux.simulator.replies import Refusal, dumps, error_reply, invalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchflux.models import Format, Style

_STANDARD = frozenset(
    [
        "model",
        "prompt",
        "seed",
        "aspect_ratio",
        "output_format",
        "safety_tolerance",
        "prompt_upsampling",
        "webhook_url",
        "webhook_secret",
    ]
)
_CHAT = frozenset({"model", "messages", "stream"})
_ROLES = ("system", "user", "assistant")  # a tuple: what is looked up may be unhashable
_NULLABLE = frozenset({"seed", "aspect_ratio", "webhook_url", "webhook_secret"})
_FRONT_URL = re.compile(r"(https?://\S+)(?: |\Z)", re.IGNORECASE)
_SAFEST, _FREEST = 0, 6
_SEED_BITS = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request that passed.

    `prompt` is the text behind the reference URLs. `content` is the SHA-256 of everything that was asked: two
    requests with one content ask for the same thing.
    """

    style: Style
    model: str
    prompt: str
    content: str
    urls: tuple[str, ...] = ()
    uploads: tuple[Upload, ...] = field(default=(), repr=False)
    seed: int | None = None
    aspect_ratio: str | None = None
    output_format: Format = "jpeg"


def parse_ask(style: Style, raw: bytes) -> Ask:
    """Return the request in `raw`.

    Raises:
        Refusal: the body is not what the guide allows.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise invalid("The body is not valid JSON.", None) from error
    if not isinstance(body, dict):
        raise invalid("The body must be a JSON object.", None)
    ask = _standard(body) if style == "standard" else _chat(body)
    if ask.model.startswith("missing-"):
        raise model_not_found(ask.model)
    return ask


def model_not_found(model: str) -> Refusal:
    """Return the refusal of a model nobody serves: relays send it as a 503, and only `code` tells what it is."""
    message = f"No available channel for model {model} under the current group"
    return Refusal(error_reply(503, message, "new_api_error", code="model_not_found"))


def _standard(body: dict[str, Any]) -> Ask:
    if "input_image" in body:
        raise invalid(
            "input_image is not supported for now; send references as URLs in front of prompt.", "input_image"
        )
    _refuse_unknown(body, _STANDARD)
    given = {key: value for key, value in body.items() if value is not None or key not in _NULLABLE}
    for name, check in _CHECKS.items():
        if name in given:
            check(name, given[name])
    urls, prompt = split_urls(_text(body, "prompt"), "prompt")
    return Ask(
        style="standard",
        model=_text(body, "model"),
        prompt=prompt,
        content=sha256(dumps(["standard", sorted(given.items())])).hexdigest(),
        urls=urls,
        seed=given.get("seed"),
        aspect_ratio=given.get("aspect_ratio") or None,
        output_format=given.get("output_format", "jpeg"),
    )


def _chat(body: dict[str, Any]) -> Ask:
    _refuse_unknown(body, _CHAT)
    model = _text(body, "model")
    if body.get("stream") is not True:
        raise invalid("This model answers as a stream only: set stream to true.", "stream")
    text, uploads = _last_user_message(body.get("messages"))
    urls, prompt = split_urls(text, "messages")
    parts: list[Any] = ["chat", model, text, *(upload.sha256 for upload in uploads)]
    return Ask(
        style="chat",
        model=model,
        prompt=prompt,
        content=sha256(dumps(parts)).hexdigest(),
        urls=urls,
        uploads=uploads,
    )


def _last_user_message(messages: Any) -> tuple[str, tuple[Upload, ...]]:
    if not isinstance(messages, list) or not messages:
        raise invalid("messages must be a list with at least one message.", "messages")
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        if not isinstance(message, dict):
            raise invalid(f"{place} must be an object with role and content.", place)
        _refuse_unknown(message, frozenset({"role", "content"}), f"{place}.")
        if message.get("role") not in _ROLES:
            raise invalid(f"{place}.role must be system, user or assistant.", f"{place}.role")
        content = read_content(message.get("content"), f"{place}.content")
    if messages[-1]["role"] != "user":
        raise invalid("The last message must be the user's.", "messages")
    return content


def split_urls(text: str, param: str) -> tuple[tuple[str, ...], str]:
    """Split `text` into the reference URLs at its front, one space apart, and the prompt behind them."""
    urls: list[str] = []
    rest = text
    while found := _FRONT_URL.match(rest):
        if not _has_host(found[1]):
            raise invalid(f"{found[1][:80]!r} is not a URL.", param)
        urls.append(found[1])
        rest = rest[found.end() :]
    if urls and rest[:1].isspace() and _FRONT_URL.match(rest.lstrip()):
        raise invalid("Reference URLs must be separated by exactly one space.", param)
    if not rest.strip():
        raise invalid("The prompt must not be empty.", param)
    return tuple(urls), rest


def _refuse_unknown(body: Mapping[str, Any], known: frozenset[str], place: str = "") -> None:
    for key in body:
        if key not in known:
            raise invalid(f"Unknown parameter: '{place}{key}'.", f"{place}{key}", code="unknown_parameter")


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise invalid(f"{name} is required and must be a string.", name)
    if not value.strip():
        raise invalid(f"{name} must not be empty.", name)
    return value


def _seed(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 1 << _SEED_BITS:
        raise invalid("seed must be an integer of 64 bits.", name)


def _ratio(name: str, value: Any) -> None:
    if not isinstance(value, str) or (value and parse_ratio(value) is None):
        raise invalid("aspect_ratio must be W:H from 21:9 to 9:21.", name)


def _format(name: str, value: Any) -> None:
    if value not in ("jpeg", "png"):
        raise invalid("output_format must be jpeg or png.", name)


def _tolerance(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not _SAFEST <= value <= _FREEST:
        raise invalid("safety_tolerance must be an integer from 0 to 6.", name)


def _boolean(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise invalid(f"{name} must be true or false.", name)


def _webhook(name: str, value: Any) -> None:
    if not isinstance(value, str) or not re.match(r"https?://", value, re.IGNORECASE) or not _has_host(value):
        raise invalid(f"{name} must be an http or https URL.", name)


def _secret(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise invalid(f"{name} must be a string.", name)


def _has_host(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname)
    except ValueError:
        return False


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "seed": _seed,
    "aspect_ratio": _ratio,
    "output_format": _format,
    "safety_tolerance": _tolerance,
    "prompt_upsampling": _boolean,
    "webhook_url": _webhook,
    "webhook_secret": _secret,
}
