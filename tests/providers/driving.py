"""Reads answers as the engine does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from batchflux.errors import JobError
from batchflux.models import BASE, HttpRequest, Json, Then

if TYPE_CHECKING:
    from collections.abc import Mapping

HOME = "http://127.0.0.1:8188"


def read(
    request: HttpRequest, answer: Any, *, status: int = 200, headers: Mapping[str, str] | None = None, cut: int = 0
) -> Any:
    """Return what an answer means, its last `cut` bytes lost."""
    body = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
    reader = request.reader(status, {BASE: HOME, **(headers or {})})
    reader.feed(body[: len(body) - cut])
    try:
        return reader.finish(complete=not cut)
    except JobError as error:
        return error


def then(reply: Any) -> HttpRequest:
    """Return the step that follows."""
    assert isinstance(reply, Then)
    assert reply.request.repeatable
    return reply.request


def body_of(request: HttpRequest) -> dict[str, Any]:
    assert isinstance(request.content, Json)
    return dict(request.content.value)
