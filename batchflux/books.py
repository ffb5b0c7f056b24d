"""Brings the ledger, the pictures' names and results.csv in line with the manifest before anything is sent.

The order is what a kill may interrupt anywhere: the ledger first, in the transaction of the survey, which also notes
that results.csv is behind; then the files, each move noted when it is done; then results.csv, and last the note that
all of it stands.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from batchflux.exports.results_csv import ended_rows
from batchflux.ledger.ledger import get_meta, set_meta
from batchflux.ledger.moves import move_files, record_moves, settle_moves
from batchflux.ledger.reviews import is_stale, shown, verdicts
from batchflux.ledger.unchanged import digest_of, mark
from batchflux.manifest import Redos, expand
from batchflux.output.base import LEDGER, LOCK, MANIFEST
from batchflux.output.folder import write_whole
from batchflux.planner import survey_jobs
from batchflux.providers import capabilities

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from batchflux.errors import Fault
    from batchflux.exports.results_csv import Results
    from batchflux.ledger.ledger import Ledger
    from batchflux.ledger.selection import Selection
    from batchflux.ledger.survey import Survey
    from batchflux.manifest import Expansion, Manifest
    from batchflux.models import Job
    from batchflux.planner import Through


class Books:
    """What a folder has on record of one manifest's jobs.

    Args:
        manifest: whose jobs they are.
        ledger: the folder's.
        results: the folder's results.csv.
        began: when the run began, in epoch seconds.

    `redos` are those that the survey met, each pinned; None without any.
    """

    def __init__(self, manifest: Manifest, ledger: Ledger, results: Results, began: float) -> None:
        self.redos: Redos | None = None
        self._manifest = manifest
        self._folder = manifest.output.dir
        self._database = ledger.database
        self._results = results
        self._began = began
        self._digest = digest_of(manifest, before=began)  # before its files are read
        self._kept: list[Job] | None = None
        self._expansion: Expansion | None = None

    def survey(self, selection: Selection, through: Through = iter) -> Survey:
        """Go `through` all jobs and let the ledger follow the manifest, in one transaction.

        Raises:
            ManifestError: with all faults; nothing has changed then.
            StorageError: the ledger cannot be written.
        """
        return self._database.now(lambda connection: self._survey(connection, selection, through))

    def bring_in_line(self, survey: Survey) -> None:
        """Make files and results.csv say what the ledger and the manifest say.

        Raises:
            StorageError: the folder cannot take it.
        """
        database = self._database
        write_whole(self._folder / MANIFEST, self._manifest.text)
        if survey.moves:
            moves = list(survey.moves.values())
            move_files(
                self._folder, moves, lambda moved: database.now(lambda connection: record_moves(connection, moved))
            )
        clean = database.now(lambda connection: get_meta(connection, "clean") == "1")
        redo = survey.failed + survey.unknown > 0 and survey.todo > 0
        if not clean or survey.edited or survey.moves or redo or not self._results.intact():
            database.now(lambda connection: self._rewrite(connection, survey.redone.__contains__))

        def in_line(connection: sqlite3.Connection) -> None:
            set_meta(connection, "clean", "0" if survey.todo else "1")
            mark(connection, self._digest, survey)

        database.now(in_line)

    def put_in_order(self, survey: Survey) -> None:
        """Bring results.csv into manifest order, with all verdicts.

        Raises:
            StorageError: the folder cannot take it.
        """
        if survey.todo or self._database.now(is_stale):
            self._database.now(self._rewrite)

    def jobs(self, on_fault: Callable[[Fault], None]) -> Iterator[Job]:
        """Return the jobs that were surveyed; `on_fault` is told of what has changed in the files since."""
        kept, self._kept = self._kept, None
        if kept is not None:
            return iter(kept)
        self._expansion = expand(self._manifest, capabilities(), on_fault, redos=self.redos)
        return iter(self._expansion)

    def settle(self, survey: Survey) -> None:
        """Note how many jobs a vetted table has, if the run has met all of them; see Survey.settle."""
        total = None if self._expansion is None else self._expansion.made
        if not survey.vetted or self._expansion is None or total is None:
            return
        survey.settle(total, self._expansion.merged)

        def note(connection: sqlite3.Connection) -> None:
            set_meta(connection, "total", str(total))
            mark(connection, self._digest, survey)

        self._database.now(note)

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
            mark(connection, None, survey)  # and the manifest of the last mark, should it come back, is another edit
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
    for name in (LEDGER, f"{LEDGER}-journal", f"{LEDGER}-wal", f"{LEDGER}-shm", LOCK):
        (manifest.output.dir / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody put a file there meanwhile: then that folder stays
        for folder in made:
            folder.rmdir()
