"""Relays of the Flux-Kontext guide: the standard style and the chat style (the native one is in bfl.py).

Reference URLs stand at the front of the prompt, in order, one space apart. With the standard style a local file cannot
travel; with the chat style, which works only streamed, files follow the text as parts of the content, in order.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from batchflux.capabilities import Capabilities
from batchflux.errors import Code, JobError
from batchflux.models import HttpRequest, Json
from batchflux.providers.answers.reading import AnswerReader
from batchflux.providers.base import Provider, carried, file_of
from batchflux.providers.books.accounts import RelayUsage

if TYPE_CHECKING:
    from batchflux.models import Job


_DAY = 86_400  # seconds
_UNLIMITED = 100_000_000  # what keys without a limit are said to have
_FIELDS = frozenset(
    {"seed", "aspect_ratio", "output_format", "safety_tolerance", "prompt_upsampling", "webhook_url", "webhook_secret"}
)


class Standard(Provider):
    """One call, one JSON answer with a link or base64."""

    api, style = "flux-relay", "standard"
    books = RelayUsage()

    def capabilities(self, model: str) -> Capabilities:
        """Return that all fields travel, and no file."""
        return Capabilities(api=self.api, style=self.style, fields=_FIELDS, local_images=False)

    def submit(self, job: Job, attempt: int) -> HttpRequest:
        """Return the one request; JobError `invalid_request` when the job has a local reference."""
        local = next((image for image in job.images if image.url is None), None)
        if local is not None:
            message = f"the standard style cannot carry the local file {local.source}: use style chat, or give its URL"
            raise JobError(Code.INVALID_REQUEST, message)
        body = {"model": job.model, "prompt": _led_by_urls(job), **carried(job, _FIELDS)}
        return _request("/v1/images/generations", job, body)


class Chat(Provider):
    """One call, one event stream with the picture in its text."""

    api, style = "flux-relay", "chat"
    books = RelayUsage()

    def capabilities(self, model: str) -> Capabilities:
        """Return that files travel, and no field."""
        return Capabilities(api=self.api, style=self.style, fields=frozenset(), local_images=True, files="data URL")

    def submit(self, job: Job, attempt: int) -> HttpRequest:
        """Return the one request; JobError `reference` when a local reference could not be read."""
        content: Any = _led_by_urls(job)
        files = [file_of(image) for image in job.images if image.url is None]
        if files:
            parts = [{"type": "image_url", "image_url": {"url": file}} for file in files]
            content = [{"type": "text", "text": content}, *parts]
        messages = [{"role": "user", "content": content}]
        body = {"model": job.model, "messages": messages, "stream": True, **dict(job.options)}
        return _request("/v1/chat/completions", job, body)


def _request(url: str, job: Job, body: dict[str, Any]) -> HttpRequest:
    return HttpRequest(method="POST", url=url, content=Json(value=body), reader=partial(AnswerReader, job))


def _led_by_urls(job: Job) -> str:
    return " ".join(filter(None, [*(image.url for image in job.images), job.prompt]))


PROVIDERS = (Standard(), Chat())
