"""Feeds the pool from the manifest: expands, looks up and decides a batch at a time, off the event loop.

Memory stays flat: at most one batch waits. The first batch is small, so that the first request leaves at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from batchflux.ledger.selection import Selection, Work, work_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from batchflux.ledger.ledger import Known
    from batchflux.models import Job

FIRST_BATCH = 32
BATCH = 256


class Register(Protocol):
    """Knows jobs by key (storage.Ledger)."""

    def lookup(self, keys: Sequence[str]) -> Awaitable[dict[str, Known]]:
        """Return what is known of these jobs."""
        ...


class Feeder:
    """The engine's Source over a stream of jobs.

    Args:
        jobs: the manifest's jobs; read in a thread.
        register: where to look them up.
        selection: what the user asked for.
        exists: whether a file of the output folder is there.
    """

    def __init__(
        self, jobs: Iterator[Job], register: Register, selection: Selection, exists: Callable[[str], bool]
    ) -> None:
        self._jobs = jobs
        self._register = register
        self._selection = selection
        self._exists = exists
        self._ready: deque[Work] = deque()
        self._given = 0
        self._size = FIRST_BATCH
        self._exhausted = False
        self._filling = asyncio.Lock()

    async def take(self) -> Work | None:
        """Return the next job to work on, None when there is no more."""
        if self._selection.limit is not None and self._given >= self._selection.limit:
            return None
        if not self._ready:
            async with self._filling:
                while not self._ready and not self._exhausted:
                    await self._fill()
            if not self._ready or (self._selection.limit is not None and self._given >= self._selection.limit):
                return None
        self._given += 1
        return self._ready.popleft()

    async def _fill(self) -> None:
        loop = asyncio.get_running_loop()
        size, self._size = self._size, BATCH
        batch = await loop.run_in_executor(None, lambda: list(islice(self._jobs, size)))
        if not batch:
            self._exhausted = True
            return
        known = await self._register.lookup([job.key for job in batch])
        for job in batch:
            work = work_for(job, known.get(job.key), self._selection, self._exists)
            if work is not None:
                self._ready.append(work)
