"""Reads an answer as a provider does, for the tests of APIs that answer in one call."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from batchflux.errors import JobError
from batchflux.models import Job, Json, Reference

if TYPE_CHECKING:
    from batchflux.models import HttpRequest, Reply

DRAFT, PNG = b"\x89PNG\r\n\x1a\ndraft" * 40, b"\x89PNG\r\n\x1a\nmade" * 40
DRAFT_64, B64 = base64.b64encode(DRAFT).decode(), base64.b64encode(PNG).decode()
LOCAL = Reference(source="a.png", path="/a.png", sha256="a" * 64, media_type="image/png")
REMOTE = Reference(source="https://x.example/b.png?sig=1", url="https://x.example/b.png?sig=1")


def made(api: str, model: str, **fields: Any) -> Job:
    """Return a job of an API without references, unless they are named."""
    known: dict[str, Any] = {"id": "a", "key": "0" * 64, "prompt": "a mug", "style": api, "model": model}
    return Job(**{**known, "provider": api, "file_name": "images/a.png", "position": 0, **fields})


def read(request: HttpRequest, answer: Any, status: int = 200, *, whole: bool = True, headers: Any = None) -> Any:
    """Return the reply to an answer, or the JobError in place of it."""
    reader = request.reader(status, headers or {})
    reader.feed(answer.encode() if isinstance(answer, str) else json.dumps(answer).encode())
    try:
        reply: Reply | JobError = reader.finish(complete=whole)
    except JobError as error:
        return error
    return reply


def body_of(request: HttpRequest) -> dict[str, Any]:
    """Return the JSON of a request."""
    assert isinstance(request.content, Json)
    return dict(request.content.value)
