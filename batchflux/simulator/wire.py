"""What goes over the wire: whole answers, errors in the documented shape, frames of an event stream.

An error is `{"error": {"message", "type", "param", "code"}}`, all four always there (CONTRACT 7).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON_TYPE = "application/json"
STREAM_TYPE = "text/event-stream"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One whole HTTP answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)


class Refusal(Exception):  # noqa: N818  it carries an answer, it is not a fault of ours
    """A request ends here, with `reply`."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def dumps(value: Any) -> bytes:
    """Return compact JSON in UTF-8, non-ASCII characters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def error_body(message: str, kind: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return the documented error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_reply(
    status: int,
    message: str,
    kind: str,
    *,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Return an error answer that names no parameter."""
    return Reply(status=status, body=dumps(error_body(message, kind, code=code)), headers=headers or {})


def invalid(message: str, param: str | None, *, code: str | None = None) -> Refusal:
    """Return the refusal of a request that is wrong at `param`."""
    body = error_body(message, "invalid_request_error", code=code, param=param)
    return Refusal(Reply(status=400, body=dumps(body)))


def event(value: Any) -> bytes:
    """Return one server-sent event with JSON data."""
    return b"data: " + dumps(value) + b"\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks:
    """Makes the frames of one chat completion; `created` is in seconds since the epoch."""

    id: str
    created: int
    model: str

    def text(self, content: str) -> bytes:
        """Return a frame that adds `content`."""
        return self._frame([self._choice({"content": content})])

    def role(self) -> bytes:
        """Return the first frame, which says who speaks and nothing else."""
        return self._frame([self._choice({"role": "assistant", "content": ""})])

    def nothing(self) -> bytes:
        """Return a frame without choices, as relays send for usage."""
        return self._frame([])

    def stop(self) -> bytes:
        """Return the frame that ends the message."""
        return self._frame([{"index": 0, "delta": {}, "finish_reason": "stop"}])

    @staticmethod
    def _choice(delta: dict[str, str]) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "finish_reason": None}

    def _frame(self, choices: list[dict[str, Any]]) -> bytes:
        return event(
            {
                "id": self.id,
                "object": "chat.completion.chunk",
                "created": self.created,
                "model": self.model,
                "choices": choices,
            }
        )
