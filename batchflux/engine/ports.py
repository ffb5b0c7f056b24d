"""What the engine needs of the world, so that it runs unchanged on real servers and on a virtual clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from batchflux.engine.shutdown import Gate
    from batchflux.errors import JobError, StorageError
    from batchflux.ledger.selection import Work
    from batchflux.models import Answered, Fetched, Inline, Job, Link, Outcome, Request, Stored


class Caller(Protocol):
    """Performs HTTP steps (transport.Transport)."""

    async def call(
        self, request: Request, *, key: str | None, on_sent: Callable[[], Awaitable[None]] | None = None
    ) -> Answered:
        """Perform one API step, and tell when it is on the wire; raise JobError."""
        ...

    async def fetch(self, url: str) -> Fetched:
        """Download a picture; raise JobError."""
        ...


class Journal(Protocol):
    """Records durably (storage.Ledger); each awaitable is done once the record survives a crash."""

    def intend(self, job: Job, *, price: int, at: float) -> Awaitable[None]:
        """Before a request leaves."""
        ...

    def answered(self, job: Job, picture: Link | str, *, api_seconds: float) -> Awaitable[None]:
        """Before a picture is fetched or written."""
        ...

    def withdraw(self, job: Job, *, unknown: bool) -> Awaitable[None]:
        """Take back an intention whose request has not left; `unknown` when an earlier one is still unanswered."""
        ...

    def settle(self, job: Job, error: JobError, *, counts: bool) -> Awaitable[None]:
        """After an attempt without a picture; `counts` tells whether it is one of the job's attempts."""
        ...

    def finish(self, job: Job, outcome: Outcome) -> Awaitable[None]:
        """When a job ended."""
        ...


class Shelf(Protocol):
    """Puts pictures in their place, off the event loop."""

    async def spool(self, job: Job, picture: Inline) -> str:
        """Keep the bytes that a job's answer brought durably; return the name of their file in the folder."""
        ...

    async def store(self, job: Job, source: Fetched | str) -> Stored:
        """Verify a downloaded or spooled picture and put it in its place; raise JobError."""
        ...


class Source(Protocol):
    """Gives the engine its work."""

    async def take(self) -> Work | None:
        """Return the next job, None when there is no more."""
        ...


class Observer(Protocol):
    """Is told what happens; must return at once."""

    def ended(self, job: Job, outcome: Outcome) -> None:
        """A job ended."""
        ...

    def event(self, name: str, /, **fields: Any) -> None:
        """Something worth a line in the log: a retry, a rate limit, a dead key."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All that the engine touches outside itself.

    `room` says why no request may leave while so many are in flight, if the disk is almost full; `now` is the wall
    clock, in epoch seconds.
    """

    caller: Caller
    journal: Journal
    shelf: Shelf
    observer: Observer
    gate: Gate
    random: Random
    now: Callable[[], float] = time.time
    room: Callable[[int], StorageError | None] = lambda _: None
