"""Drives the providers as the engine does: takes the request of a job, and feeds the answer to its reader."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from batchflux.errors import JobError
from batchflux.models import Asset, Finished, Job, Reference
from batchflux.providers import Provider, providers

if TYPE_CHECKING:
    from collections.abc import Iterable

REFERENCE = "https://photos.example/in/mug%20(1).jpg?v=1&w=2"


def provider_of(job: Job) -> Provider:
    return providers()["flux-relay", job.style]


class MakeJob(Protocol):
    def __call__(self, *, images: tuple[Reference, ...] | None = None, **fields: Any) -> Job: ...


class Answer(Protocol):
    def __call__(self, job: Job, packets: bytes | Iterable[bytes], **how: Any) -> Asset | JobError: ...


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
    """Read an answer to a job: its picture, or the error in place of it."""

    def run(job: Job, packets: bytes | Iterable[bytes], **how: Any) -> Asset | JobError:
        request = provider_of(job).submit(job, 1)
        reader = request.reader(how.get("status", 200), how.get("headers", {}))
        for packet in [packets] if isinstance(packets, bytes) else packets:
            if reader.feed(packet):
                break
        try:
            reply = reader.finish(complete=how.get("complete", True))
        except JobError as error:
            return error
        assert isinstance(reply, Finished)
        return reply.asset

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
