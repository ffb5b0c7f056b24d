"""Drives the providers as the engine does: takes the flow's request, feeds its reader, sends the picture back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from batchflux.errors import JobError
from batchflux.models import Job, Picture, Reference, Request
from batchflux.providers import styles

if TYPE_CHECKING:
    from collections.abc import Iterable

REFERENCE = "https://photos.example/in/mug%20(1).jpg?v=1&w=2"


class MakeJob(Protocol):
    def __call__(self, *, images: tuple[Reference, ...] | None = None, **fields: Any) -> Job: ...


class Answer(Protocol):
    def __call__(self, job: Job, packets: bytes | Iterable[bytes], **how: Any) -> Picture | JobError: ...


class Frames(Protocol):
    def __call__(self, *contents: str, done: bool = True) -> bytes: ...


@pytest.fixture(scope="session")
def reference_url() -> str:
    return REFERENCE


@pytest.fixture(scope="session")
def make_job() -> MakeJob:
    """Make a job with one URL reference unless told otherwise."""

    def make(*, images: tuple[Reference, ...] | None = None, **fields: Any) -> Job:
        if images is None:
            images = (Reference(source=REFERENCE, url=REFERENCE),)
        known: dict[str, Any] = {
            "id": "mug-red",
            "key": "0" * 64,
            "prompt": "Make the mug red",
            "style": "chat",
            "model": "flux-kontext-pro",
            "provider": "tuzi",
            "file_name": "images/mug-red.jpg",
            "position": 0,
            **fields,
        }
        return Job(images=images, **known)

    return make


@pytest.fixture(scope="session")
def answer() -> Answer:
    """Run a job's flow against an answer: its picture, or the error in place of it."""

    def run(job: Job, packets: bytes | Iterable[bytes], **how: Any) -> Picture | JobError:
        flow = styles()[job.style].flow(job)
        request = next(flow)
        assert isinstance(request, Request)
        reader = request.reader(how.get("status", 200), how.get("headers", {}))
        for packet in [packets] if isinstance(packets, bytes) else packets:
            if reader.feed(packet):
                break
        try:
            picture: Picture = reader.finish(complete=how.get("complete", True))
        except JobError as error:
            return error
        with pytest.raises(StopIteration) as end:
            flow.send(picture)
        assert end.value.value == picture
        return picture

    return run


@pytest.fixture(scope="session")
def frames() -> Frames:
    """Make a chat stream of the given contents, a frame each."""

    def make(*contents: str, done: bool = True) -> bytes:
        lines = [
            b"data: "
            + json.dumps({"choices": [{"index": 0, "delta": {"content": content}}]}, ensure_ascii=False).encode()
            + b"\n\n"
            for content in contents
        ]
        return b"".join(lines) + (b"data: [DONE]\n\n" if done else b"")

    return make
