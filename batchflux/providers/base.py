"""What every provider is: the wire format of one API, without I/O and without a clock.

A provider says which HTTP step it wants done, and reads the answer; the engine does the step, repeats it where that is
free, and keeps the record. Nothing of a provider lives between two steps: a submitted task goes on from its `handle`,
which is in the ledger, in this process or in one that starts days later.

To add an API, write a module of this package that names its providers in `PROVIDERS`, or a package with an entry
point of the group `batchflux.providers`, and run `batchflux.testing` over it.
The reader of `submit` returns Finished, or Submitted with a handle, and raises what went wrong; Then, where the request
was refused for its form, which costs nothing, and is to be sent once more in another. The reader of `poll`
returns Pending, Missing (not known, which may pass), Finished, or Ended (the task failed for good); what it raises is a
poll that failed, and is repeated. The readers of free steps may return Then: one more free step, which the engine does
at once. What is uploaded is Uploaded in the end.

An API that can tell whether a request was accepted whose answer was lost says so by `finds_lost` in its capabilities;
the reader of `recover` returns Listed, or Ended (with what the attempt comes to: nothing was accepted, for certain).
What its own books say that it billed is asked for as `books` says.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar

from batchflux.errors import Code, JobError
from batchflux.manifest.job_fields import REQUEST_FIELDS
from batchflux.manifest.kinds import LARGEST, MEGAPIXEL
from batchflux.models import BASE, HttpRequest, Json, LocalImage
from batchflux.providers.answers.reading import AnswerReader
from batchflux.redaction import HIDDEN

if TYPE_CHECKING:
    from decimal import Decimal

    from batchflux.capabilities import Capabilities
    from batchflux.models import Content, Encoding, Finished, Job, Reference
    from batchflux.providers.batches import BatchApi
    from batchflux.providers.books.base import Books
    from batchflux.webhooks.api import WebhookApi


READER = 2
"""The version of the reader of answers: what an earlier one kept in answers/ is read again by a later one, for free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """An attempt, by its number, whose request left at `sent_at` and was not answered.

    What it gave ends by `until`; both in epoch seconds.
    """

    attempt: int
    sent_at: float
    until: float


class Provider(ABC):
    """One way of calling an API; `api` and `style` name it in manifests, keys and tables."""

    api: ClassVar[str]
    style: ClassVar[str]
    answers: ClassVar[type[AnswerReader]] = AnswerReader
    """Reads the answer of a request that gives its picture at once, and what was kept of one."""

    batches: ClassVar[BatchApi | None] = None
    """How it takes batches, where it sells some."""

    books: ClassVar[Books | None] = None
    """How it tells what it billed, where it does."""

    webhooks: ClassVar[WebhookApi | None] = None
    """How it calls `Job.webhook_url` once a task has ended, where it does; its `submit` puts that into the request."""

    @abstractmethod
    def capabilities(self, model: str) -> Capabilities:
        """Return what a request for this model has a place for; asked at plan time."""

    def authorize(self, secret: str) -> Mapping[str, str]:
        """Return the headers that carry a key; they go to no host but those that `may_have_key` names."""
        return {"Authorization": f"Bearer {secret}"}

    def may_have_key(self, host: str, *, https: bool) -> bool:
        """Whether the key may go to this host, besides the address that the manifest names."""
        return False

    def quote(self, job: Job, price: Decimal | None) -> Decimal | None:
        """Return the most that a request may cost, None when unknown; `price` is the manifest's for the job's model."""
        return price

    def megapixels(self, job: Job) -> int:
        """Return the most megapixels that a request may be billed for: of the picture, and of each reference."""
        return LARGEST + sum(map(megapixels_of, job.references))

    @abstractmethod
    def submit(self, job: Job, attempt: int) -> HttpRequest:
        """Return the step that may cost money; its reader returns Finished, or Submitted with a handle.

        `attempt` is its number in the output folder, for an API that lets a client name its request: the same number
        is never used for another. It must not change what is made.
        Raises JobError (`invalid_request`, `reference`) when the job cannot be sent this way.
        """

    def poll(self, job: Job, handle: str) -> HttpRequest:
        """Return the free step that asks for a task until it is Finished or Ended; JobError: this API has no tasks."""
        raise JobError(Code.INVALID_REQUEST, f"{self.api} has no tasks that could be asked for")

    def recover(self, job: Job, lost: Lost) -> HttpRequest:
        """Return the free step that asks for all tasks that a lost request may have given, of an API that `finds_lost`.

        The job is as it was sent. Raises JobError, as `submit` does; `invalid_request`: this API cannot tell.
        """
        raise JobError(Code.INVALID_REQUEST, f"{self.api} cannot tell what became of a request")

    def task_of(self, handle: str) -> str:
        """Return the name of a handle's task, which is the same in all handles of it, and in calls of `webhooks`."""
        return handle

    def read_again(self, job: Job, body: bytes, *, base_url: str = "") -> Finished:
        """Return the picture in an answer that was kept because none was found in it; free, and without I/O.

        `body` is the answer's, whole and decoded; relative links lead on from `base_url`. Raises JobError, as the first
        reading did, when today's reader finds no picture either.
        """
        reader = self.answers(job, 200, {BASE: base_url})
        reader.feed(body)
        return reader.picture(complete=True)

    def one_call(self, job: Job, url: str, body: Content) -> HttpRequest:
        """Return the step of an API that gives its picture at once, as `answers` reads it."""
        return HttpRequest(method="POST", url=url, content=body, reader=partial(self.answers, job))

    def takes_links(self, job: Job) -> bool:
        """Whether the references of a job may travel as links."""
        return self.capabilities(job.model).url_images

    def upload(self, image: Reference) -> HttpRequest | None:
        """Return the free step whose reader returns Uploaded, for `submit` to see the local reference as a URL."""
        return None


def file_of(image: Reference, encoding: Encoding = "data_url") -> LocalImage:
    """Return what stands in a request for a local reference; JobError `reference` when it could not be read."""
    image = image.copy or image
    if image.path is None or image.sha256 is None or image.media_type is None:
        raise JobError(Code.REFERENCE, image.fault or f"the reference {image.source} could not be read")
    return LocalImage(path=image.path, sha256=image.sha256, media_type=image.media_type, encoding=encoding)


def in_json(image: Reference) -> str | LocalImage:
    """Return a reference as it stands in JSON, where a link may, and a data URL; JobError as of `file_of`."""
    return image.url if image.url is not None else file_of(image)


def carried(job: Job, fields: frozenset[str]) -> dict[str, Any]:
    """Return the optional fields that the job asks for and the request has a place for, then its `options`."""
    sent = {name: getattr(job, name) for name in REQUEST_FIELDS if name in fields and name not in job.dropped}
    return {**{name: value for name, value in sent.items() if value is not None}, **dict(job.options)}


def megapixels_of(image: Reference) -> int:
    """Return the most megapixels that a reference may be billed for; the manifest's `references.max_side` bounds it."""
    side = json.loads(image.settings).get("max_side") if image.settings else None
    return LARGEST if side is None else min(LARGEST, -(-side * side // MEGAPIXEL))


def size_of(ratio: str, pixels: int = MEGAPIXEL, step: int = 16) -> tuple[int, int]:
    """Return width and height of about so many pixels in this ratio, each a multiple of `step`."""
    wide, high = map(int, ratio.split(":"))
    width = (pixels * wide / high) ** 0.5
    return round(width / step) * step, round(width * high / wide / step) * step


def preview(request: HttpRequest) -> dict[str, Any]:
    """Return a request's JSON as it may be shown: a short stand-in for each local picture, `***` for each secret."""
    if not isinstance(request.content, Json):
        return {}
    return {key: HIDDEN if key == "webhook_secret" else _shown(value) for key, value in request.content.value.items()}


def _shown(value: Any) -> Any:
    if isinstance(value, LocalImage):
        head = f"data:{value.media_type};base64," if value.encoding == "data_url" else ""
        return f"{head}<{PurePath(value.path).name}, sha256 {value.sha256[:8]}…>"
    if isinstance(value, Mapping):
        return {key: _shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    return value
