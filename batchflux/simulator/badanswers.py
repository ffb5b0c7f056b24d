"""The answers that come in place of a picture, one function a fault; a chat stream is sent whole."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING

from batchflux.simulator.requests import model_not_found as refuse_model
from batchflux.simulator.faults import fraction
from batchflux.simulator.endpoint import rate_limited as too_fast
from batchflux.simulator.replies import DONE, STREAM_TYPE, Chunks, Reply, dumps, error_body, error_reply, event

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.simulator.requests import Ask

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What a bad answer is made from; `chance` is what choices are drawn by."""

    ask: Ask
    chunks: Chunks
    chance: tuple[object, ...]

    def pick(self, names: tuple[str, ...]) -> str:
        """Return one of `names`."""
        return names[int(fraction("pick", *self.chance) * len(names))]

    @property
    def chat(self) -> bool:
        """Whether the answer is a stream."""
        return self.ask.style == "chat"


def _stream(*frames: bytes) -> Reply:
    return Reply(content_type=STREAM_TYPE, body=b"".join(frames))


def _page(status: int, title: str) -> Reply:
    return Reply(status=status, content_type="text/html", body=_PAGE.format(title).encode())


def _rate_limited(_: Moment) -> Reply:
    return too_fast(_WAIT, {})


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
    return _page(502, "502 Bad Gateway")


def _server_524_html(_: Moment) -> Reply:
    return _page(524, "524: A timeout occurred")


def _upstream_error(moment: Moment) -> Reply:
    return error_reply(500, "upstream error: the channel failed", "new_api_error", code=moment.pick(_UPSTREAM))


def _quota(_: Moment) -> Reply:
    message = "This token's remaining quota is not enough"
    return error_reply(429, message, "new_api_error", code="insufficient_user_quota")


def _auth(_: Moment) -> Reply:
    return unauthorized()


def unauthorized() -> Reply:
    """Return the 401 of a key that is not accepted."""
    return error_reply(401, "Incorrect API key provided.", "invalid_request_error", code="invalid_api_key")


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


def _model_not_found(moment: Moment) -> Reply:
    return refuse_model(moment.ask.model).reply


def _bad_json(moment: Moment) -> Reply:
    broken = b'{"created":1,"data":[{"url":"htt'
    return _stream(b"data: " + broken + b"\n\n", DONE) if moment.chat else Reply(body=broken)


def _empty_body(moment: Moment) -> Reply:
    return Reply(content_type=STREAM_TYPE if moment.chat else "application/json")


def _no_image(moment: Moment) -> Reply:
    if moment.chat:
        return _stream(moment.chunks.role(), moment.chunks.text("![image]()\n"), moment.chunks.stop(), DONE)
    return Reply(body=dumps({"created": moment.chunks.created, "data": []}))


def _error_event(moment: Moment) -> Reply:
    body = error_body("upstream error: the channel failed", "upstream_error", code="bad_response_status_code")
    return _stream(moment.chunks.role(), b"event: error\n" + event(body))


BAD_ANSWERS: dict[str, Callable[[Moment], Reply]] = {
    "rate_limited": _rate_limited,
    "rate_limited_date": _rate_limited_date,
    "rate_limited_in_200": _rate_limited_in_200,
    "server_500": _server_500,
    "server_502_html": _server_502_html,
    "server_524_html": _server_524_html,
    "upstream_error": _upstream_error,
    "quota": _quota,
    "auth": _auth,
    "forbidden": _forbidden,
    "moderated": _moderated,
    "moderated_prose": _moderated_prose,
    "model_not_found": _model_not_found,
    "bad_json": _bad_json,
    "empty_body": _empty_body,
    "no_image": _no_image,
    "error_event": _error_event,
}
