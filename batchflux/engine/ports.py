"""What the engine needs of the world, so that it runs unchanged on real servers and on a virtual clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from batchflux.webhooks.wakes import Wakes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
    from random import Random

    from batchflux.engine.shutdown import Gate
    from batchflux.errors import JobError, StorageError
    from batchflux.ledger.batches import Batch, Closing, Freed
    from batchflux.ledger.reconcile import Work
    from batchflux.models import (
        Collected,
        Exchanged,
        HttpRequest,
        Inline,
        Job,
        Json,
        Leaving,
        Link,
        Outcome,
        Received,
        Reference,
        Stored,
    )
    from batchflux.photos import Published
    from batchflux.providers import Provider
    from batchflux.transport.lines import Lines


class Executor(Protocol):
    """Performs a job's HTTP steps and puts its picture in place; knows neither limits nor money."""

    async def exchange(
        self,
        request: HttpRequest,
        *,
        provider: Provider,
        secret: str | None,
        at: tuple[str, str],
        on_sent: Callable[[], None] | None = None,
    ) -> Exchanged:
        """Perform one API step; call `on_sent` when the request has left.

        `at` is whom to ask: the manifest's name of a provider, and which of its addresses ("": its only one).

        Raises JobError: with the code of what happened; `unknown` when it left and no answer came.
        """

    def lines(
        self, request: HttpRequest, *, provider: Provider, secret: str | None, at: tuple[str, str]
    ) -> AsyncGenerator[bytes]:
        """Perform a free API step whose answer is lines, and give them as they come, no faster than they are taken.

        Raises JobError: as `exchange`, also in the midst of it where it broke off.
        """

    async def write_lines(self, name: str, lines: Iterable[tuple[str, Json]]) -> Lines:
        """Write a batch's lines, pairs of key and content, into a private file; see transport.lines.write_lines."""

    async def drop_lines(self, name: str) -> None:
        """Remove the file of a batch, if there is one."""

    async def keep(self, job: Job, picture: Inline) -> str:
        """Keep the bytes that came with an answer durably; return the name that the ledger records."""

    async def keep_answer(self, job: Job, attempt: int, body: bytes) -> str:
        """Keep an answer that was not understood durably, without secrets; return the name that the ledger records."""

    async def collect(self, job: Job, asset: Link | str, attempt: int) -> Collected:
        """Fetch a link (or take the bytes kept under a name), verify the picture, and put it in its place.

        A whole picture that is refused its place is kept elsewhere: see `Stored.refused`. `attempt` is its number in
        the ledger. Raises JobError: `download`, `bad_image`, `unsafe_url`, `echoed_input`.
        """

    async def beside(self, job: Job, own: Stored | None, more: Sequence[Link | Inline]) -> str:
        """Keep pictures that an answer had beside the job's `own`, which may not be had; return remarks that say so.

        What cannot be had is only said, by its link. One of the same bytes as another is no further picture.
        """


class Ledger(Protocol):
    """Records durably; each awaitable is done once the record survives a crash.

    An attempt goes authorized -> submitted -> captured, or ends voided or failed; one whose answer was kept may still
    be found to have a picture.
    """

    def authorize(self, job: Job, leaving: Leaving) -> Awaitable[int]:
        """Record an attempt before its request leaves, its price counted as spent; return its number."""

    def submitted(self, attempt: int, handle: str, cost: int | None) -> Awaitable[None]:
        """Record the handle of an accepted task before it is polled; `cost` (nanounits) replaces the price.

        So also for an unknown attempt whose task was found.
        """

    def captured(self, attempt: int, received: Received) -> Awaitable[None]:
        """Record a picture before it is fetched or written."""

    def further(self, job: Job) -> Awaitable[Sequence[str]]:
        """Return the links of further pictures of a job that `captured` recorded and no `finish` followed."""

    def handles_near(self, attempt: int, seconds: float) -> Awaitable[list[str]]:
        """Return the handles of the other attempts that were sent within so many seconds of this one."""

    def found(self, attempt: int, received: Received) -> Awaitable[int]:
        """Record a picture that was read out of a failed attempt's kept answer; return its number from now on."""

    def voided(self, attempt: int, *, unanswered: bool) -> Awaitable[None]:
        """Take back an attempt whose request has not left; `unanswered` when an earlier one still is."""

    def failed(
        self,
        attempt: int,
        error: JobError,
        *,
        counts: bool,
        cost: int | None = None,
        answer: str | None = None,
        unanswered: bool = False,
    ) -> Awaitable[None]:
        """End an attempt that gave no picture; `counts` tells whether it is one of the job's attempts.

        `cost` in nanounits is what its answer told, in place of the price.
        `answer` is the file that keeps what was answered, `unanswered` as in `voided`.
        """

    def finish(self, job: Job, outcome: Outcome) -> Awaitable[None]:
        """Record how a job ended."""

    def upload_of(self, provider: str, sha256: str, now: float) -> Awaitable[str | None]:
        """Return where a reference lies that was uploaded before, None when it must be uploaded."""

    def uploaded(self, provider: str, sha256: str, url: str, expires: float | None) -> Awaitable[None]:
        """Record where an uploaded reference lies, until epoch second `expires`."""


class BatchLedger(Protocol):
    """Records batches; each awaitable is done once the record survives a crash. See ledger/batches.py."""

    def open(self) -> Awaitable[list[Batch]]:
        """Return the batches that are not closed."""

    def jobs(self, number: int) -> Awaitable[frozenset[str]]:
        """Return the keys of all jobs of a batch."""

    def has(self, attempt: int) -> Awaitable[bool]:
        """Whether an attempt is one of a batch, and so is paid as such."""

    def authorize(self, name: str, kind: str, sent: Sequence[tuple[Job, Leaving]]) -> Awaitable[list[int]]:
        """Record a batch and an attempt a job before anything leaves; return their numbers, the batch's first."""

    def leaves(self, number: int, at: float) -> Awaitable[None]:
        """Record that the request that creates a batch may leave from epoch second `at` on."""

    def recorded(self, number: int, handle: str) -> Awaitable[None]:
        """Record by which handle the API knows a batch."""

    def closed(self, number: int, closing: Closing) -> Awaitable[Freed]:
        """Record how a batch ended, and what it has no answer for."""


class Buckets(Protocol):
    """Puts references where APIs fetch them, and makes links to what is there. See photos.Buckets."""

    published: Published

    async def put(self, image: Reference) -> str:
        """Put a local reference, unless it is there; return its address. JobError `reference`, StorageError."""

    async def sign(self, address: str) -> str:
        """Return a link to what lies at an address, good from now on: a secret. StorageError."""

    async def look(self, image: Reference) -> str | None:
        """Return why a reference that lies in a bucket cannot be sent as a link, if it cannot. StorageError."""

    async def read(self, image: Reference) -> Reference:
        """Return a reference that lies in a bucket as a photo in a file; its fault says what is wrong. StorageError."""


class Source(Protocol):
    """Gives the engine its work."""

    async def take(self) -> Work | None:
        """Return the next job, None when there is no more."""


class Observer(Protocol):
    """Is told what happens; must return at once."""

    def ended(self, job: Job, outcome: Outcome) -> None:
        """A job ended."""

    def event(self, name: str, /, **fields: Any) -> None:
        """Something worth a line in the log: a retry, a rate limit, a dead key."""


async def _as_it_is(job: Job) -> Job:
    return job


def _admitted(_job: Job) -> bool:
    return True


def _always_room(_in_flight: int) -> StorageError | None:
    return None


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All that the engine touches outside itself.

    `ready` returns a job as it is sent, its photos prepared; it raises JobError `reference`. `room` says why the disk
    has no room for the pictures of so many requests that are out, None when it has; `clears` whether some is being
    made. `now` is the wall clock, in epoch seconds. `buckets` are asked where references are published, or lie in a
    bucket. `admits` tells whether a job's next request may still leave; where not, it
    stays as it is. `wakes` are the calls by which APIs say that a task is to be asked for.
    """

    executor: Executor
    ledger: Ledger
    batches: BatchLedger
    observer: Observer
    gate: Gate
    random: Random
    ready: Callable[[Job], Awaitable[Job]] = _as_it_is
    buckets: Buckets | None = None
    room: Callable[[int], StorageError | None] = _always_room
    clears: Callable[[], bool] = _never
    now: Callable[[], float] = time.time
    admits: Callable[[Job], bool] = _admitted
    wakes: Wakes = field(default_factory=Wakes)
