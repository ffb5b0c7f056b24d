"""Brings the ledger, the pictures' names and results.csv in line with the manifest, and feeds a run with its work.

The order is what a kill may interrupt anywhere: the ledger first, in the transaction of the survey, which also notes
that results.csv is behind; then the files, each move noted when it is done; then results.csv, and last the note that
all of it stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from collections import deque
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from batchflux.errors import ManifestError
from batchflux.ledger.books.calls import unsent
from batchflux.ledger.connection import reading
from batchflux.ledger.means import NO_MEANS, Means, means_of
from batchflux.ledger.means import NOTE as READER_NOTE
from batchflux.ledger.moves import move_files, record_moves, settle_moves
from batchflux.ledger.reconcile import Selection, Work, work_for
from batchflux.ledger.reviews import is_stale, shown, verdicts
from batchflux.ledger.sample import globs
from batchflux.ledger.summary import Summary
from batchflux.ledger.survey import Asked, known_before, survey_jobs
from batchflux.ledger.tables import currency, ended_rows, get_meta, set_meta
from batchflux.manifest import Redos, expand
from batchflux.manifest.reading.written import Tables
from batchflux.models import Status
from batchflux.output.base import CACHE, LEDGER, LOCK, MANIFEST
from batchflux.output.folder import write_whole
from batchflux.providers import READER, capabilities

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from batchflux.errors import Fault
    from batchflux.ledger.ledger import Ledger
    from batchflux.ledger.reviews import Verdict
    from batchflux.ledger.summary import State
    from batchflux.ledger.survey import Survey, Through
    from batchflux.ledger.tables import Known
    from batchflux.manifest import LimitsConfig, Manifest
    from batchflux.models import Job

BATCH = 256


class Projection(Protocol):
    """A file that shows the ledger's ended jobs (exports.results_csv.Results)."""

    verdicts: Mapping[bytes, Verdict]

    def intact(self) -> bool:
        """Whether the file is there, has this run's header, and ends with a whole row."""
        ...

    def rewrite(self, rows: Iterable[Known]) -> None:
        """Replace the file by one of these rows, whole or not at all."""
        ...


class Books:
    """What a folder has on record of one manifest's jobs; `began` is when the run began, in epoch seconds.

    `redos` are those that the survey met, each pinned; None without any; `means` what the survey counted with; `photos`
    are the manifest's, which whoever makes this closes. All methods raise StorageError when ledger or folder cannot
    take it.
    """

    def __init__(self, manifest: Manifest, ledger: Ledger, results: Projection, began: float) -> None:
        self.redos: Redos | None = None
        self.means = NO_MEANS
        self.rewrote = False  # results.csv, so that other files that show the ledger are behind it, too
        self._manifest = manifest
        self.photos = manifest.photos(manifest.output.dir)
        self._folder = manifest.output.dir
        self._database = ledger.database
        self._results = results
        self._began = began
        self._kept: list[Job] | None = None
        self._tables = Tables(manifest)

    def survey(self, selection: Selection, through: Through = iter) -> Survey:
        """Go `through` all jobs and let the ledger follow the manifest, in one transaction.

        Raises ManifestError: with all faults; nothing has changed then.
        """
        return self._database.now(lambda connection: self._survey(connection, selection, through))

    def begin_serving(self) -> None:
        """Make the folder ready for jobs that come from elsewhere; those that it has stay as they are."""
        self._database.now(self._begin_serving)
        write_whole(self._folder / MANIFEST, self._manifest.text)
        if not self._results.intact() or self._database.now(lambda connection: get_meta(connection, "clean") != "1"):
            self._database.now(self.rewrite)
        self._database.now(lambda connection: set_meta(connection, "clean", "0"))

    def _begin_serving(self, connection: sqlite3.Connection) -> None:
        settle_moves(self._folder, connection)
        self.means = means_of(self._manifest, connection)
        total = connection.execute("SELECT COUNT(*) FROM jobs WHERE listed").fetchone()[0]
        self._note(connection, total + unsent(connection), {})

    def bring_in_line(self, survey: Survey) -> None:
        """Make files and results.csv say what the ledger and the manifest say."""
        now = self._database.now
        write_whole(self._folder / MANIFEST, self._manifest.text)
        if survey.moves:
            moves = list(survey.moves.values())
            move_files(
                self._folder, moves, lambda moved: now(lambda connection: record_moves(connection, moved, moves))
            )
        clean = now(lambda connection: get_meta(connection, "clean") == "1")
        redo = survey.failed + survey.unknown > 0 and survey.todo > 0
        if not clean or survey.edited or survey.moves or redo or not self._results.intact():
            now(lambda connection: self.rewrite(connection, lambda number: bool(survey.redone[number])))
        now(lambda connection: set_meta(connection, "clean", "0" if survey.todo else "1"))

    def put_in_order(self, *, added: bool) -> None:
        """Bring results.csv into manifest order, with all verdicts; `added`: rows may have been."""
        if added or self._database.now(is_stale):
            self._database.now(self.rewrite)

    def jobs(self, on_fault: Callable[[Fault], None]) -> Iterator[Job]:
        """Return the jobs that were surveyed; `on_fault` is told of what has changed in the files since."""
        kept = self._kept
        if kept is not None:
            yield from kept
            return
        with reading(self._database.path) as connection:  # the run's own belongs to the thread that writes
            names = known_before(self._manifest, connection)
            jobs = iter(
                expand(self._manifest, capabilities(), on_fault, redos=self.redos, known_as=names).decoding(self.photos)
            )
            replaced = True  # until it is open
            while batch := list(islice(jobs, BATCH)):
                if (fault := self._tables.fault(replaced=replaced or self._tables.several)) is not None:
                    on_fault(fault)
                    return
                replaced = False
                yield from batch

    def note_clean(self, through: Selection | None) -> None:
        """Note that the folder's files say all that the ledger does.

        A run that is `through` with all jobs has also read all answers that are kept, by today's reader.
        """
        self._database.now(lambda connection: set_meta(connection, "clean", "1"))
        if through is None or through.redo:
            return
        if (globs(through.only), through.limit, through.sample) == ((), None, None):
            self._database.now(lambda connection: set_meta(connection, READER_NOTE, str(READER)))

    def summary(self, state: State, already: int, limits: LimitsConfig, seconds: float, made: int) -> Summary:
        """Return what a summary says of folder, money and time; how the run ended is for the caller to fill in.

        `already` is what earlier runs spent, in nanounits; this one `made` so many pictures in so many `seconds`.
        """
        return Summary(
            name=self._manifest.name,
            folder=str(self._folder),
            exit_code=0,
            reason="",
            message="",
            started_at=self._began,
            finished_at=time.time(),
            seconds=seconds,
            jobs={},
            this_run={},
            failures=state.failures,
            attempts=state.attempts,
            possibly_billed=state.possibly_billed,
            spent=state.spent,
            spent_possibly=state.spent_possibly,
            spent_this_run=state.spent - currency(already),
            currency=self._manifest.currency,
            budget=limits.budget,
            budget_per_run=limits.budget_per_run,
            images_per_minute=60.0 * made / max(seconds, 1e-3),
            dropped=state.dropped,
            providers=state.providers,
            batches=state.batches,
            answered_again=state.answered_again,
            mirror=state.mirror if self._manifest.output.mirror else None,
        )

    def _survey(self, connection: sqlite3.Connection, selection: Selection, through: Through) -> Survey:
        manifest = self._manifest
        settle_moves(self._folder, connection)
        self.means = means_of(manifest, connection)
        survey = survey_jobs(manifest, connection, selection, apply=True, through=through, photos=self.photos)
        if (fault := self._tables.fault(replaced=True)) is not None:
            raise ManifestError([fault])
        self._kept, survey.jobs = survey.jobs, None
        self._note(connection, survey.total + survey.called, survey.dropped)
        if survey.edited or survey.moves:
            set_meta(connection, "clean", "0")  # with the edit: a kill from here on leaves results.csv behind it
        self._results.verdicts = verdicts(connection)
        if survey.redos:
            self.redos = Redos(survey.redos, lambda _: False)  # all are pinned, so none is chosen anew
        return survey

    def _note(self, connection: sqlite3.Connection, total: int, dropped: Mapping[str, int]) -> None:
        """Note what of the run concerns those who look on (status, pages, exports)."""
        manifest, limits = self._manifest, self._manifest.limits
        began = datetime.fromtimestamp(self._began).astimezone()
        notes = {  # `base` is where local references are
            "total": str(total),
            "currency": manifest.currency,
            "name": manifest.name,
            "base": str(manifest.base),
            "began": repr(self._began),
            "waiting": "",
            "budget": "" if limits.budget is None else format(limits.budget, "f"),
            "budget_per_run": "" if limits.budget_per_run is None else format(limits.budget_per_run, "f"),
            "deadline": "" if limits.deadline is None else repr(self._began + limits.deadline.seconds_from(began)),
            "simulated": "1" if manifest.simulated else "0",
            "dropped": json.dumps(dict(dropped)),
        }
        if get_meta(connection, READER_NOTE) is None:
            notes[READER_NOTE] = str(READER)  # no answer is older
        for name, value in notes.items():
            set_meta(connection, name, value)

    def rewrite(self, connection: sqlite3.Connection, skip: Callable[[int], bool] | None = None) -> None:
        """Write results.csv anew, without the jobs whose number `skip` holds."""
        self._results.verdicts = verdicts(connection)
        self._results.rewrite(ended_rows(connection, skip))
        self.rewrote = True
        shown(connection)


def take_back(manifest: Manifest, made: Sequence[Path]) -> None:
    """Remove the folders that were made for a manifest that turned out to have faults, the innermost first."""
    if not made:
        return
    for name in (LEDGER, f"{LEDGER}-journal", f"{LEDGER}-wal", f"{LEDGER}-shm", LOCK):
        (manifest.output.dir / name).unlink(missing_ok=True)
    shutil.rmtree(manifest.output.dir / CACHE, ignore_errors=True)
    with contextlib.suppress(OSError):  # somebody put a file there meanwhile: then that folder stays
        for folder in made:
            folder.rmdir()


class Feeder:
    """A stream of jobs as work: reads, looks up and decides a batch at a time, off the event loop.

    `exists` tells whether a file of the output folder is there; for `means` see work_for. Memory stays flat: at most
    one batch waits.
    """

    def __init__(
        self,
        jobs: Iterator[Job],
        ledger: Ledger,
        selection: Selection,
        exists: Callable[[str], bool],
        means: Means | None = None,
    ) -> None:
        self._jobs = jobs
        self._ledger = ledger
        self._selection = selection
        self._exists = exists
        self._means = means or NO_MEANS
        self._ready: deque[Work] = deque()
        self._given = 0
        self._exhausted = False
        self._filling = asyncio.Lock()

    async def take(self) -> Work | None:
        """Return the next job to work on, None when there is no more."""
        async with self._filling:
            if self._selection.limit is not None and self._given >= self._selection.limit:
                return None
            while not self._ready and not self._exhausted:
                await self._fill()
            if not self._ready:
                return None
            self._given += 1
            return self._ready.popleft()

    async def _fill(self) -> None:
        batch = await asyncio.to_thread(lambda: list(islice(self._jobs, BATCH)))
        self._exhausted = not batch
        known = await self._ledger.lookup([job.key for job in batch])
        works = await self._works(batch, known)
        # A file may have been removed since, once its picture was in the mirror and on record.
        gone = {work.job.key for work in works if _is_done(known.get(work.job.key))}
        if gone:
            known |= await self._ledger.lookup([*gone])
            works = await self._works([work.job for work in works], known)
        self._ready += works

    async def _works(self, jobs: Sequence[Job], known: Mapping[str, Known]) -> list[Work]:
        works = await asyncio.to_thread(lambda: [self._work(job, known.get(job.key)) for job in jobs])
        return [work for work in works if work is not None]

    def _work(self, job: Job, known: Known | None) -> Work | None:
        return work_for(job, known, self._selection, self._exists, self._means)


def _is_done(known: Known | None) -> bool:
    return known is not None and known.status == Status.DONE


class FreeFirst:
    """A stream of work in two passes over the jobs: what costs nothing, then the rest; `most` of it in all.

    While it is not known whether a provider's pictures can be kept, one that was paid for before may tell; and what is
    free is not left behind when the money ends.
    """

    def __init__(self, free: Feeder, rest: Feeder, most: int) -> None:
        self._free, self._rest, self._most = free, rest, most
        self._given: set[str] = set()

    async def take(self) -> Work | None:
        """Return the next job to work on, None when there is no more."""
        while (work := await self._free.take()) is not None:
            if not work.costs:
                self._given.add(work.job.key)
                self._most -= 1
                return work
        while self._most > 0 and (work := await self._rest.take()) is not None:
            if work.job.key not in self._given:
                self._most -= 1
                return work
        return None


def made_before(connection: sqlite3.Connection, job: Job | Asked) -> bool:
    """Whether the folder has a picture of the provider, model and style that a job asks."""
    of = " AND ".join(f"json_extract(spec, '$.{name}') = ?" for name in ("provider", "model", "style"))
    query = f"SELECT 1 FROM jobs WHERE status = 'done' AND {of} LIMIT 1"  # noqa: S608  constants and marks
    return connection.execute(query, (job.provider, job.model, job.style)).fetchone() is not None
