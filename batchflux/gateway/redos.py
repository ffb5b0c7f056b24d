"""Makes the redos that a review of the folder asks for of clients' pictures; whose picture it was, pays for them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from batchflux.errors import StorageError
from batchflux.gateway.orders import RefusalError
from batchflux.ledger.books.calls import call_of_job, is_called, jobs_of, note_redo
from batchflux.ledger.means import exists_in
from batchflux.ledger.reconcile import Selection, work_for
from batchflux.ledger.reviews import is_pinned, pin, redos, redos_to_make
from batchflux.ledger.tables import known_by_key
from batchflux.manifest import Redos
from batchflux.runner import NotMadeError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from batchflux.gateway.desk import Desk
    from batchflux.gateway.maker import Maker
    from batchflux.ledger.books.calls import Call
    from batchflux.ledger.tables import Known
    from batchflux.models import Job
    from batchflux.runner import Endless

LOOK = 3.0  # seconds between two looks for what was asked for
REST = 60.0  # seconds until what could not be made is tried again


class Redoing:
    """Looks for redos and has them made, as long as `look` goes on."""

    def __init__(self, run: Endless, maker: Maker, desk: Desk) -> None:
        self._run, self._maker, self._desk = run, maker, desk
        self._exists = exists_in(run.session.manifest)
        self._told: set[str] = set()  # roots whose redos cannot be made
        self._making: dict[str, asyncio.Task[None]] = {}

    async def look(self) -> None:
        """Have all made that is asked for, for ever."""
        while True:
            with suppress(StorageError):  # whose reason the next call is told; the next look may find it mended
                await self._begin()
            await asyncio.sleep(LOOK)

    async def _begin(self) -> None:
        for root in await self._run.database.submit(redos_to_make):
            for job, known in await self._family(root):
                if job.key not in self._making:
                    self._making[job.key] = asyncio.create_task(self._made(job, known))

    async def _family(self, root: str) -> list[tuple[Job, Known | None]]:
        """Return the redos that go back to a job, each pinned; none where no call is for it."""
        call = await self._run.database.submit(partial(call_of_job, key=root))
        if call is None:
            return []  # a job of a manifest, whose next run makes them
        try:
            first = await asyncio.to_thread(self._maker.job, call.asked)
        except (RefusalError, StorageError) as error:
            if root not in self._told:
                self._told.add(root)
                self._run.session.event("redo_left", key=root, message=str(error))
            return []
        count = 1 + max(0, call.place)
        jobs = jobs_of(
            call.number, call.variant, count, partial(self._maker.take, self._desk.tagged(first, call.client))
        )
        return await self._run.database.submit(partial(self._pinned, call=call, root=replace(jobs[-1], key=root)))

    def _pinned(self, connection: sqlite3.Connection, call: Call, root: Job) -> list[tuple[Job, Known | None]]:
        family = Redos(redos(connection), partial(_is_taken, connection))
        family.met(root)
        made = []
        for first, parent, redo in family.wanted():
            job = self._maker.redo(first, parent, redo, lambda key: not family.is_known(key))
            family.made(redo, first, job)
            pinned = replace(redo, seed=job.seed, variant=job.variant, key=job.key)
            if pinned != redo:
                pin(connection, pinned, job.key)
                note_redo(connection, job, call.number, redo.ordinal)
            made.append((job, _known(connection, job.key).get(job.key)))
        return made

    async def _made(self, job: Job, known: Known | None) -> None:
        try:
            selection = Selection(on_unknown="hold")
            work = work_for(job, known, selection, self._exists, self._run.session.books.means)
            if work is not None:
                await self._run.make(work)
        except NotMadeError as error:
            self._run.session.event("redo_left", id=job.id, message=error.message)
            await asyncio.sleep(REST)
        finally:
            del self._making[job.key]


def _is_taken(connection: sqlite3.Connection, key: str) -> bool:
    return bool(_known(connection, key)) or is_pinned(connection, key) or is_called(connection, key)


def _known(connection: sqlite3.Connection, key: str) -> Mapping[str, Known]:
    return known_by_key(connection, [key])
