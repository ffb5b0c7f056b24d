"""Write HTTP replies: error envelopes, the frames of a stream, the error answers of faults, broken connections.

An error is `{"error": {"message", "type", "param", "code"}}`; `apis` says how each API that has another form puts it.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Literal, get_args

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Api = Literal[
    "standard",
    "chat",
    "bfl",
    "relay",
    "openai",
    "gemini",
    "openrouter",
    "together",
    "siliconflow",
    "fal",
    "replicate",
    "comfyui",
]
RELAY = "flux-relay"
_RELAY_STYLES = ("standard", "chat", "relay")
SERVED = (RELAY, *(api for api in get_args(Api) if api not in _RELAY_STYLES))
"""Every API that is served, by the name that manifests have for it; a relay's is three styles."""

JSON_TYPE = "application/json"
STREAM_TYPE = "text/event-stream"
DONE = b"data: [DONE]\n\n"
_LINGER_NOTHING = struct.pack("ii", 1, 0)
_WAIT = 1
_LIMITED = "rate_limit_exceeded"
_UPSTREAM_CODES = (
    *("get_channel_failed", "channel:no_available_key", "bad_response_status_code"),
    *("do_request_failed", "empty_response"),
)
_MODERATION_CODES = ("sensitive_words_detected", "content_policy_violation", "prompt_blocked")
# Fault: HTTP status, message, type, the codes that may come.
_ERRORS: dict[str, tuple[int, str, str, tuple[str | None, ...]]] = {
    "server_500": (500, "The server had an error while processing your request", "server_error", (None,)),
    "server_503": (503, "The service is temporarily unavailable", "server_error", (None,)),
    "upstream_error": (500, "upstream error: the channel failed", "new_api_error", _UPSTREAM_CODES),
    "quota": (429, "This token's remaining quota is not enough", "new_api_error", ("insufficient_user_quota",)),
    "auth": (401, "Incorrect API key provided.", "invalid_request_error", ("invalid_api_key",)),
    "forbidden": (403, "This token may not use the model", "new_api_error", ("access_denied",)),
    "moderated": (400, "Your request was refused by the safety system", "invalid_request_error", _MODERATION_CODES),
}
_PAGES = {"server_502_html": (502, "502 Bad Gateway"), "server_524_html": (524, "524: A timeout occurred")}
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


def json_reply(value: Any, status: int = 200) -> Reply:
    """Return an answer with `value` as JSON."""
    return Reply(status=status, body=dumps(value))


def error_reply(status: int, message: str, kind: str, code: str | None = None, param: str | None = None) -> Reply:
    """Return an error answer."""
    return json_reply({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)


def invalid(message: str, param: str | None, *, code: str | None = None) -> Refusal:
    """Return the refusal of a request that is wrong at `param`."""
    return Refusal(error_reply(400, message, "invalid_request_error", code, param))


def as_detail(reply: Reply) -> Reply:
    """Translate an error envelope into BFL's form (422 for a bad request); any other reply stays as it is."""
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


def plain_error(fault: str, share: float = 0.0) -> Reply:
    """Return the answer of a fault in the table of errors; `share` in [0, 1) decides between several codes."""
    status, message, kind, codes = _ERRORS[fault]
    return error_reply(status, message, kind, codes[int(share * len(codes))])


def model_not_found(model: str) -> Reply:
    """Return the answer for a model nobody serves: relays send it as a 503, and only `code` tells what it is."""
    says = f"No available channel for model {model} under the current group"
    return error_reply(503, says, "new_api_error", "model_not_found")


def rate_limited(wait: float, headers: Mapping[str, str]) -> Reply:
    """Return the 429 that asks to come back after `wait` seconds; Retry-After is whole seconds, rounded up."""
    told = {"Retry-After": str(max(1, math.ceil(wait))), "retry-after-ms": str(math.ceil(wait * 1000)), **headers}
    message = f"Rate limit reached for requests. Try again in {wait:.2f}s."
    return replace(error_reply(429, message, "requests", _LIMITED), headers=told)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks:
    """Makes the frames of one chat completion; `created` is in seconds since the epoch."""

    id: str
    created: int
    model: str

    def frame(self, delta: dict[str, str] | None, finish: str | None = None) -> bytes:
        """Return the frame of `delta`; of None one without choices, as relays send for usage."""
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
        head = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}
        return _event(dumps({**head, "choices": choices}))

    def message(self, *texts: str) -> list[bytes]:
        """Return the frames of a whole message: who speaks, `texts`, the end."""
        first = self.frame({"role": "assistant", "content": ""})
        return [first, *(self.frame({"content": text}) for text in texts), self.frame({}, "stop")]


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
    if (transport := request.transport) is not None:
        if (connection := transport.get_extra_info("socket")) is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOTHING)
        transport.abort()
    return web.Response()


def error_answer(fault: str, api: Api, chunks: Chunks, share: float = 0.0) -> Reply | None:
    """Return the answer that a fault puts in the place of a good one; None when it puts none."""
    if fault in _ERRORS:
        return plain_error(fault, share)
    if fault in _PAGES:
        status, title = _PAGES[fault]
        return Reply(status=status, content_type="text/html", body=_PAGE.format(title).encode())
    return _OTHER_ANSWERS[fault](api, chunks) if fault in _OTHER_ANSWERS else None


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def _stream(*frames: bytes) -> Reply:
    return Reply(content_type=STREAM_TYPE, body=b"".join(frames))


def _rate_limited_date(_: Api, __: Chunks) -> Reply:
    # Dates carry whole seconds: without the second on top, "in one second" could already be past.
    when = formatdate(time.time() + _WAIT + 1, usegmt=True)
    return replace(error_reply(429, "Too many requests", "requests", _LIMITED), headers={"Retry-After": when})


def _no_image(api: Api, chunks: Chunks) -> Reply:
    empty = _stream(*chunks.message("![image]()\n"), DONE)
    return empty if api == "chat" else json_reply({"created": chunks.created, "data": []})


def _in_200(api: Api, data: bytes) -> Reply:
    return _stream(_event(data), DONE) if api == "chat" else Reply(body=data)


MALFORMED_KEY = json_reply({"detail": "Invalid API key format"}, 422)
_LIMITED_IN_200 = error_reply(200, "Rate limit reached, please try again later", "requests", _LIMITED)
_UPSTREAM = error_reply(200, "upstream error: the channel failed", "upstream_error", "bad_response_status_code")
_CODE_AND_MESSAGE = {"code": "upstream_failed", "message": "The upstream failed", "data": None}
_PROSE = ("> 进度 **2%**\n\n", "生成失败 ❌\n\n", "失败原因：input_moderation\n")  # noqa: RUF001  the colon is the relays'
_OTHER_ANSWERS: dict[str, Callable[[Api, Chunks], Reply]] = {
    "rate_limited": lambda _api, _chunks: rate_limited(_WAIT, {}),
    "rate_limited_date": _rate_limited_date,
    "rate_limited_in_200": lambda api, _: _in_200(api, _LIMITED_IN_200.body),
    "key_format": lambda _api, _chunks: MALFORMED_KEY,
    "model_not_found": lambda _, chunks: model_not_found(chunks.model),
    "moderated_prose": lambda _, chunks: _stream(*chunks.message(*_PROSE), DONE),
    "bad_json": lambda api, _: _in_200(api, b'{"created":1,"data":[{"url":"htt'),
    "empty_body": lambda api, _: Reply(content_type=STREAM_TYPE if api == "chat" else JSON_TYPE),
    "no_image": _no_image,
    "error_event": lambda _, chunks: _stream(chunks.message()[0], b"event: error\n" + _event(_UPSTREAM.body)),
    "detail_passed_on": lambda _api, _chunks: json_reply({"detail": "The upstream refused the request"}, 422),
    "code_and_message": lambda _api, _chunks: json_reply(_CODE_AND_MESSAGE, 500),
}
