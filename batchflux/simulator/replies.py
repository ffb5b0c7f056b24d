"""Write HTTP replies: error envelopes, the frames of a stream, the error answers of faults, broken connections.

An error is `{"error": {"message", "type", "param", "code"}}`, all four always there. BFL's API says the same as
`{"detail": ...}`: `as_detail` translates.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Api = Literal["standard", "chat", "bfl", "relay"]

JSON_TYPE = "application/json"
STREAM_TYPE = "text/event-stream"
DONE = b"data: [DONE]\n\n"
BROKEN_JSON = b'{"created":1,"data":[{"url":"htt'
_LINGER_NOTHING = struct.pack("ii", 1, 0)
_WAIT = 1
_UPSTREAM = (
    "get_channel_failed",
    "channel:no_available_key",
    "bad_response_status_code",
    "do_request_failed",
    "empty_response",
)
_MODERATION = ("sensitive_words_detected", "content_policy_violation", "prompt_blocked")
_PAGE = "<!DOCTYPE html>\n<html><head><title>{0}</title></head><body><center><h1>{0}</h1></center><hr></body></html>\n"
_DETAILS: dict[str, tuple[int, str]] = {
    "invalid_api_key": (403, "Not authenticated - Invalid Authentication"),
    "insufficient_user_quota": (402, "Insufficient credits"),
    "model_not_found": (404, "Not Found"),
}
_DETAIL_TYPES = {"unknown_parameter": "extra_forbidden", "missing_parameter": "missing"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One whole HTTP answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)


class Refusal(Exception):  # noqa: N818  it carries an answer, it is not a fault of ours
    """The end of a request with `reply`."""

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


def detail_reply(status: int, detail: str) -> Reply:
    """Return an error in the form of BFL's API."""
    return Reply(status=status, body=dumps({"detail": detail}))


def malformed_key() -> Reply:
    """Return BFL's 422 of a key that cannot be one."""
    return detail_reply(422, "Invalid API key format")


def as_detail(reply: Reply) -> Reply:
    """Translate an error envelope into the form of BFL's API; any other reply is returned as it is.

    What is wrong at a parameter becomes a 422 with a list of errors.
    """
    try:
        error = json.loads(reply.body)["error"]
    except (ValueError, LookupError, TypeError):
        return reply
    status, detail = _DETAILS.get(error["code"], (reply.status, error["message"]))
    if reply.status == 400 and error["type"] == "invalid_request_error":  # noqa: PLR2004  Bad Request
        kind = _DETAIL_TYPES.get(error["code"], "value_error")
        place = ["body", error["param"]] if error["param"] else ["body"]
        status, detail = 422, [{"loc": place, "msg": error["message"], "type": kind}]
    return replace(reply, status=status, body=dumps({"detail": detail}))


def unauthorized() -> Reply:
    """Return the 401 of a key that is not accepted."""
    return error_reply(401, "Incorrect API key provided.", "invalid_request_error", code="invalid_api_key")


def model_not_found(model: str) -> Refusal:
    """Return the refusal of a model nobody serves: relays send it as a 503, and only `code` tells what it is."""
    message = f"No available channel for model {model} under the current group"
    return Refusal(error_reply(503, message, "new_api_error", code="model_not_found"))


def rate_limited(wait: float, headers: Mapping[str, str]) -> Reply:
    """Return the 429 that asks to come back after `wait` seconds; Retry-After is whole seconds, rounded up."""
    told = {"Retry-After": str(max(1, math.ceil(wait))), "retry-after-ms": str(math.ceil(wait * 1000)), **headers}
    message = f"Rate limit reached for requests. Try again in {wait:.2f}s."
    return error_reply(429, message, "requests", code="rate_limit_exceeded", headers=told)


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


def whole(reply: Reply, headers: Mapping[str, str]) -> web.Response:
    """Return `reply` as aiohttp sends it."""
    return web.Response(
        status=reply.status,
        body=reply.body,
        content_type=reply.content_type,
        charset="utf-8" if reply.content_type.startswith("text/") else None,
        headers={**headers, **reply.headers},
    )


def reset(request: web.Request) -> web.StreamResponse:
    """Reset the connection; the response returned goes nowhere."""
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOTHING)
        transport.abort()
    return web.Response()


async def cut(request: web.Request, reply: Reply, headers: Mapping[str, str]) -> web.StreamResponse:
    """Send the first half of `reply` and close the connection, whose length promised the rest."""
    response = web.StreamResponse(status=reply.status, headers={**headers, "Content-Type": reply.content_type})
    if reply.content_type == JSON_TYPE:
        response.content_length = len(reply.body)
    await response.prepare(request)
    await response.write(reply.body[: len(reply.body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The circumstances of an error answer; `share` in [0, 1) decides between several possible answers."""

    api: Api
    chunks: Chunks
    share: float

    def pick(self, names: tuple[str, ...]) -> str:
        """Return one of `names`."""
        return names[int(self.share * len(names))]

    @property
    def chat(self) -> bool:
        """Whether the answer is a stream."""
        return self.api == "chat"


def _stream(*frames: bytes) -> Reply:
    return Reply(content_type=STREAM_TYPE, body=b"".join(frames))


def html_page(status: int, title: str) -> Reply:
    """Return an error as the HTML page of a proxy."""
    return Reply(status=status, content_type="text/html", body=_PAGE.format(title).encode())


def _rate_limited_date(_: Moment) -> Reply:
    # Dates carry whole seconds: without the second on top, "in one second" could already be past.
    when = formatdate(time.time() + _WAIT + 1, usegmt=True)
    return error_reply(429, "Too many requests", "requests", code="rate_limit_exceeded", headers={"Retry-After": when})


def _rate_limited_in_200(moment: Moment) -> Reply:
    body = error_body("Rate limit reached, please try again later", "requests", code="rate_limit_exceeded")
    return _stream(event(body), DONE) if moment.chat else Reply(body=dumps(body))


def _server_500(_: Moment) -> Reply:
    return error_reply(500, "The server had an error while processing your request", "server_error")


def _server_502_html(_: Moment) -> Reply:
    return html_page(502, "502 Bad Gateway")


def _server_524_html(_: Moment) -> Reply:
    return html_page(524, "524: A timeout occurred")


def _upstream_error(moment: Moment) -> Reply:
    return error_reply(500, "upstream error: the channel failed", "new_api_error", code=moment.pick(_UPSTREAM))


def _quota(_: Moment) -> Reply:
    message = "This token's remaining quota is not enough"
    return error_reply(429, message, "new_api_error", code="insufficient_user_quota")


def _forbidden(_: Moment) -> Reply:
    return error_reply(403, "This token may not use the model", "new_api_error", code="access_denied")


def _moderated(moment: Moment) -> Reply:
    message = "Your request was refused by the safety system"
    return error_reply(400, message, "invalid_request_error", code=moment.pick(_MODERATION))


def _moderated_prose(moment: Moment) -> Reply:
    text = moment.chunks.text
    reason = text("失败原因：input_moderation\n")  # noqa: RUF001  the colon is the relays'
    prose = (text("> 进度 **2%**\n\n"), text("生成失败 ❌\n\n"), reason)
    return _stream(moment.chunks.role(), *prose, moment.chunks.stop(), DONE)


def _bad_json(moment: Moment) -> Reply:
    return _stream(b"data: " + BROKEN_JSON + b"\n\n", DONE) if moment.chat else Reply(body=BROKEN_JSON)


def _empty_body(moment: Moment) -> Reply:
    return Reply(content_type=STREAM_TYPE if moment.chat else JSON_TYPE)


def _no_image(moment: Moment) -> Reply:
    if moment.chat:
        return _stream(moment.chunks.role(), moment.chunks.text("![image]()\n"), moment.chunks.stop(), DONE)
    return Reply(body=dumps({"created": moment.chunks.created, "data": []}))


def _error_event(moment: Moment) -> Reply:
    body = error_body("upstream error: the channel failed", "upstream_error", code="bad_response_status_code")
    return _stream(moment.chunks.role(), b"event: error\n" + event(body))


ERROR_ANSWERS: dict[str, Callable[[Moment], Reply]] = {
    "rate_limited": lambda _: rate_limited(_WAIT, {}),
    "rate_limited_date": _rate_limited_date,
    "rate_limited_in_200": _rate_limited_in_200,
    "server_500": _server_500,
    "server_502_html": _server_502_html,
    "server_524_html": _server_524_html,
    "upstream_error": _upstream_error,
    "quota": _quota,
    "auth": lambda _: unauthorized(),
    "key_format": lambda _: malformed_key(),
    "forbidden": _forbidden,
    "moderated": _moderated,
    "moderated_prose": _moderated_prose,
    "model_not_found": lambda moment: model_not_found(moment.chunks.model).reply,
    "bad_json": _bad_json,
    "empty_body": _empty_body,
    "no_image": _no_image,
    "error_event": _error_event,
}
