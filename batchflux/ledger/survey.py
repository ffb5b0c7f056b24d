"""Compares the manifest with the ledger before anything is sent: what is new, changed, done, or no longer listed.

A run also brings the ledger in line with the manifest (`apply`): places, ids, tags and file names follow an edit
without a new request, since none of them is part of a job's key. All of it is one transaction; a manifest fault rolls
it back. Files are moved afterwards (see storage/moves.py).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from batchflux.ledger.kept import Kept
from batchflux.ledger.ledger import COLUMNS, Known, rows_by_key, tags_text
from batchflux.ledger.moves import Move
from batchflux.ledger.selection import Selection, Work, standing, work_for
from batchflux.ledger.suffixes import followed
from batchflux.models import Job, Redo, Status
from batchflux.output.base import REPLACED, variants

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Sequence

BATCH = 500
# What takes room in a row and tells a survey nothing stays in the file.
LEAN_COLUMNS = COLUMNS.replace(" spec,", " '',").replace(" error,", " NULL,")
SAMPLES = 3


class Numbers:
    """A set of row numbers, one bit each."""

    def __init__(self, largest: int) -> None:
        self._bits = bytearray((largest >> 3) + 1)

    def add(self, number: int) -> None:
        """Put a number in."""
        self._bits[number >> 3] |= 1 << (number & 7)

    def __contains__(self, number: int) -> bool:
        return number >> 3 < len(self._bits) and bool(self._bits[number >> 3] & (1 << (number & 7)))


@dataclass(slots=True, kw_only=True)
class Survey:
    """Counts of jobs; `todo` of them will be worked on, `calls` of those need a request that costs money.

    `redo` of those to do were asked for in a review; `redos` are all that were, pinned, by the key of their origin;
    `waiting` redos were asked for of jobs that the manifest does not list as they were, so nothing makes them.
    `local_files` tells whether any job has a local file as reference. `vetted`: the jobs of one large table were not
    gone through, and those that are the same count as several until a run has met them all. `jobs` are all of them,
    in order, where they are few enough to be kept: a run need not make them a second time.
    """

    total: int = 0
    new: int = 0
    changed: int = 0
    done: int = 0
    failed: int = 0
    unknown: int = 0
    pending: int = 0
    merged: int = 0
    unlisted: int = 0
    todo: int = 0
    redo: int = 0
    waiting: int = 0
    calls: int = 0
    references: int = 0
    reference_faults: list[str] = field(default_factory=list)
    styles: dict[str, int] = field(default_factory=dict)
    samples: list[Job] = field(default_factory=list)
    moves: dict[int, Move] = field(default_factory=dict)
    edited: bool = False
    redos: dict[str, tuple[Redo, ...]] = field(default_factory=dict)
    local_files: bool = False
    redone: Numbers = field(default_factory=lambda: Numbers(0))
    vetted: bool = False
    jobs: list[Job] | None = None

    def settle(self, total: int, merged: int) -> None:
        """Let the counts of a vetted table be exact: it has `total` jobs, and `merged` rows that are jobs again."""
        fewer = self.total - total
        for name in ("total", "new", "todo", "calls"):
            setattr(self, name, max(0, getattr(self, name) - fewer))
        self.styles = dict.fromkeys(self.styles, total)
        self.merged, self.vetted = merged, False

    def as_counts(self) -> dict[str, int]:
        """Return the counts that `plan` and `summary.json` show."""
        names = ("total", "new", "changed", "done", "failed", "unknown", "pending", "merged", "unlisted", "todo")
        counts = {name: getattr(self, name) for name in names}
        return counts | {name: value for name in ("redo", "waiting") if (value := getattr(self, name))}


class Surveyor:
    """Makes a Survey of a stream of jobs. `connection` is None when the folder has no ledger yet."""

    def __init__(
        self,
        connection: sqlite3.Connection | None,
        selection: Selection,
        exists: Callable[[str], bool],
        *,
        apply: bool,
    ) -> None:
        self._connection = connection
        self._selection = selection
        self._exists = exists
        self._apply = apply
        largest = _one(connection, "SELECT MAX(number) FROM jobs") if connection is not None else 0
        self._seen = Numbers(largest)
        self._superseded = Numbers(largest)
        self._away: dict[int, Move] = {}
        self._rows = _one(connection, "SELECT COUNT(*) FROM jobs") if connection is not None else 0
        self._known_count = 0
        self._by_status: Counter[str] = Counter()
        self._kept = Kept()
        self.result = Survey(redone=Numbers(largest))

    def take(self, jobs: Iterable[Job]) -> Survey:
        """Go through all jobs."""
        stream = iter(jobs)
        while batch := list(islice(stream, BATCH)):
            known = self._lookup(batch)
            fresh = [job for job in batch if job.key not in known]
            if self._connection is None or not self._rows:
                self.result.new += len(fresh)
            else:
                self._find_replaced(self._connection, fresh)
                self._find_in_the_way(self._connection, [job for job in batch if _claims(job, known.get(job.key))])
            for job in batch:
                self._count(job, known.get(job.key))
            self._kept.add(batch)
        self.result.jobs = self._kept.jobs
        self._known_count = self._by_status.total()
        for status, count in self._by_status.items():
            setattr(self.result, status, count)
        if self._connection is not None and self._known_count < self._rows:
            self._find_unlisted(self._connection)
        # A listed job's file goes where its own name says; only the others make way.
        self.result.moves.update((number, away) for number, away in self._away.items() if number not in self._seen)
        return self.result

    def _lookup(self, batch: Sequence[Job]) -> dict[str, Known]:
        if self._connection is None or not self._rows:
            return {}
        rows = rows_by_key(self._connection, [job.key for job in batch], LEAN_COLUMNS)
        return {row[1].hex(): Known.of(row) for row in rows}

    def _count(self, job: Job, known: Known | None) -> None:
        result = self.result
        result.total += 1
        result.styles[job.style] = result.styles.get(job.style, 0) + 1
        work = work_for(job, known, self._selection, self._exists)
        if not result.local_files:
            result.local_files = any(image.path is not None for image in job.images)
        if job.fault is not None:
            result.references += 1
            if len(result.reference_faults) < SAMPLES:
                result.reference_faults.append(f"{job.id}: {job.fault}")
        if known is not None:
            self._count_known(job, known, work)
        if work is None or (self._selection.limit is not None and result.todo >= self._selection.limit):
            return
        result.todo += 1
        result.redo += job.redo_of is not None
        if known is not None:
            result.redone.add(known.number)
        if work.costs:
            result.calls += 1
            if len(result.samples) < SAMPLES:
                result.samples.append(job)

    def _count_known(self, job: Job, known: Known, work: Work | None) -> None:
        self._seen.add(known.number)
        self._by_status[standing(known)] += 1
        now = (job.id, job.position, 1, job.file_name, tags_text(job))
        if now != (known.id, known.position, known.listed, known.planned, known.tags):
            self.result.edited = True
            if self._apply and self._connection is not None:
                self._connection.execute(
                    "UPDATE jobs SET id = ?, position = ?, listed = ?, planned = ?, tags = ? WHERE number = ?",
                    (*now, known.number),
                )
        if known.status == Status.DONE and known.file_name is not None and work is None:
            target = followed(job.file_name, known.file_name)
            if target != known.file_name:
                self.result.moves[known.number] = Move.of(known, target)

    def _find_replaced(self, connection: sqlite3.Connection, fresh: Sequence[Job]) -> None:
        """Count new jobs, and those that take an old one's id; the old one's file makes way."""
        olds = _select(connection, "id", [job.id for job in fresh])
        for old in olds:
            self._superseded.add(old.number)
            self._make_way(old)
        changed = {old.id for old in olds}
        self.result.changed += sum(job.id in changed for job in fresh)
        self.result.new += sum(job.id not in changed for job in fresh)

    def _find_in_the_way(self, connection: sqlite3.Connection, claimants: Sequence[Job]) -> None:
        """Make way for jobs whose file name an old job may hold, under any suffix that a picture's bytes can give."""
        for old in _select(connection, "planned", [name for job in claimants for name in variants(job.file_name)]):
            self._make_way(old)

    def _make_way(self, old: Known) -> None:
        if old.file_name is not None and not old.file_name.startswith(f"{REPLACED}/"):
            suffix = PurePosixPath(old.file_name).suffix
            self._away[old.number] = Move.of(old, f"{REPLACED}/{old.key.hex()[:32]}{suffix}")

    def _find_unlisted(self, connection: sqlite3.Connection) -> None:
        query = (
            "SELECT number, listed, EXISTS (SELECT 1 FROM jobs AS other WHERE other.id = jobs.id AND other.listed"
            " AND other.number != jobs.number) FROM jobs"
        )
        gone: list[tuple[int]] = []
        for number, listed, has_heir in connection.execute(query):
            if number in self._seen:
                continue
            if not (number in self._superseded or has_heir):
                self.result.unlisted += 1
            if listed:
                gone.append((number,))
        if gone:
            self.result.edited = True
            if self._apply:
                connection.executemany("UPDATE jobs SET listed = 0 WHERE number = ?", gone)


def _claims(job: Job, known: Known | None) -> bool:
    """Whether the job takes a file name that it did not have when the folder was last run."""
    return known is None or not known.listed or known.planned != job.file_name


def _select(connection: sqlite3.Connection, column: str, values: Sequence[str]) -> list[Known]:
    marks = ",".join("?" * len(values))
    query = f"SELECT {COLUMNS} FROM jobs WHERE {column} IN ({marks})"  # noqa: S608  constants and marks
    rows = connection.execute(query, values)
    return [Known.of(row) for row in rows]


def _one(connection: sqlite3.Connection, query: str) -> Any:
    return connection.execute(query).fetchone()[0] or 0
