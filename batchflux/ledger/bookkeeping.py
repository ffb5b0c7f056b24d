"""Brings the ledger, the pictures' names and results.csv in line with the manifest, and feeds a run with its work.

The order is what a kill may interrupt anywhere: the ledger first, in the transaction of the survey, which also notes
that results.csv is behind; then the files, each move noted when it is done; then results.csv, and last the note that
all of it stands.

Memory stays flat: at most one batch of jobs waits to be worked on. The first batch is small, so that the first request
leaves at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from batchflux.ledger.connection import LEDGER
from batchflux.ledger.moves import move_files, record_moves, settle_moves
from batchflux.ledger.reconcile import Selection, Work, survey_jobs, work_for
from batchflux.ledger.reviews import is_stale, shown, verdicts
from batchflux.ledger.tables import ended_rows, get_meta, set_meta
from batchflux.manifest import Redos, expand
from batchflux.output.folder import write_whole
from batchflux.providers import capabilities

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from batchflux.errors import Fault
    from batchflux.ledger.ledger import Ledger
    from batchflux.ledger.reconcile import Survey, Through
    from batchflux.ledger.reviews import Verdict
    from batchflux.ledger.tables import Known
    from batchflux.manifest import Manifest
    from batchflux.models import Job

FIRST_BATCH = 32
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
    """What a folder has on record of one manifest's jobs.

    Args:
        manifest: whose jobs they are.
        ledger: the folder's.
        results: the folder's results.csv.
        began: when the run began, in epoch seconds.

    `redos` are those that the survey met, each pinned; None without any.
    """

    def __init__(self, manifest: Manifest, ledger: Ledger, results: Projection, began: float) -> None:
        self.redos: Redos | None = None
        self._manifest = manifest
        self._folder = manifest.output.dir
        self._database = ledger.database
        self._results = results
        self._began = began
        self._kept: list[Job] | None = None

    def survey(self, selection: Selection, through: Through = iter) -> Survey:
        """Go `through` all jobs and let the ledger follow the manifest, in one transaction.

        Raises ManifestError: with all faults; nothing has changed then; StorageError: the ledger cannot be written.
        """
        return self._database.now(lambda connection: self._survey(connection, selection, through))

    def bring_in_line(self, survey: Survey) -> None:
        """Make files and results.csv say what the ledger and the manifest say.

        Raises StorageError: the folder cannot take it.
        """
        database = self._database
        write_whole(self._folder / "manifest.yaml", self._manifest.text)
        if survey.moves:
            moves = list(survey.moves.values())
            move_files(
                self._folder, moves, lambda moved: database.now(lambda connection: record_moves(connection, moved))
            )
        clean = database.now(lambda connection: get_meta(connection, "clean") == "1")
        redo = survey.failed + survey.unknown > 0 and survey.todo > 0
        if not clean or survey.edited or survey.moves or redo or not self._results.intact():
            database.now(lambda connection: self._rewrite(connection, survey.redone.__contains__))
        database.now(lambda connection: set_meta(connection, "clean", "0" if survey.todo else "1"))

    def put_in_order(self, survey: Survey) -> None:
        """Bring results.csv into manifest order, with all verdicts. Raises StorageError: the folder cannot take it."""
        if survey.todo or self._database.now(is_stale):
            self._database.now(self._rewrite)

    def jobs(self, on_fault: Callable[[Fault], None]) -> Iterator[Job]:
        """Return the jobs that were surveyed; `on_fault` is told of what has changed in the files since."""
        kept, self._kept = self._kept, None
        if kept is not None:
            return iter(kept)
        return iter(expand(self._manifest, capabilities(), on_fault, redos=self.redos))

    def note_clean(self) -> None:
        """Note that the folder's files say all that the ledger does."""
        self._database.now(lambda connection: set_meta(connection, "clean", "1"))

    def _survey(self, connection: sqlite3.Connection, selection: Selection, through: Through) -> Survey:
        settle_moves(self._folder, connection)
        survey = survey_jobs(self._manifest, connection, selection, apply=True, through=through)
        self._kept, survey.jobs = survey.jobs, None
        set_meta(connection, "total", str(survey.total))
        set_meta(connection, "currency", self._manifest.provider.currency)
        if survey.edited or survey.moves:
            set_meta(connection, "clean", "0")  # with the edit: a kill from here on leaves results.csv behind it
        self._introduce(connection)
        self._results.verdicts = verdicts(connection)
        if survey.redos:
            self.redos = Redos(survey.redos, lambda _: False)  # all are pinned, so none is chosen anew
        return survey

    def _introduce(self, connection: sqlite3.Connection) -> None:
        """Tell who looks on (pages, exports) which run this is; `base` is where local references are."""
        manifest, budget = self._manifest, self._manifest.limits.budget
        set_meta(connection, "name", manifest.name)
        set_meta(connection, "base", str(manifest.base))
        set_meta(connection, "began", repr(self._began))
        set_meta(connection, "budget", "" if budget is None else format(budget, "f"))

    def _rewrite(self, connection: sqlite3.Connection, skip: Callable[[int], bool] | None = None) -> None:
        self._results.verdicts = verdicts(connection)
        self._results.rewrite(ended_rows(connection, skip))
        shown(connection)


def take_back(manifest: Manifest, made: Sequence[Path]) -> None:
    """Remove the folders that were made for a manifest that turned out to have faults, the innermost first."""
    if not made:
        return
    for name in (LEDGER, f"{LEDGER}-journal", f"{LEDGER}-wal", f"{LEDGER}-shm", ".lock"):
        (manifest.output.dir / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody put a file there meanwhile: then that folder stays
        for folder in made:
            folder.rmdir()


class Register(Protocol):
    """Knows jobs by key (Ledger)."""

    def lookup(self, keys: Sequence[str]) -> Awaitable[dict[str, Known]]:
        """Return what is known of these jobs."""
        ...


class Feeder:
    """A stream of jobs as work: expands, looks up and decides a batch at a time, off the event loop.

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
