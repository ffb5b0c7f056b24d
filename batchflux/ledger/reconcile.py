"""Reconciles the manifest's jobs with the ledger: what is new, changed, done or no longer listed, and what is to do.

| the ledger says        | the run does                                                                           |
|------------------------|----------------------------------------------------------------------------------------|
| nothing                | submit                                                                                 |
| submitted, with handle | poll it; never submit                                                                  |
| pending, with picture  | fetch or store what was received; never submit                                         |
| pending, without       | submit                                                                                 |
| done, file there       | nothing                                                                                |
| done, file removed     | fetch its link again; without a link it is failed until `--retry-failed`               |
| failed                 | nothing; with `--retry-failed` fetch a link that may still live, else submit           |
| its request is out     | as for unknown, which a run made it at its start: only a plan meets this, after a kill |
| unknown, with handle   | poll it, whatever `--on-unknown` says: that is free                                    |
| unknown                | `--on-unknown`: retry submits once more, hold leaves it, fail makes it failed          |

A run also brings the ledger in line with the manifest (`apply`): places, ids, tags and file names follow an edit
without a new request, since none of them is part of a job's key. All of it is one transaction; a manifest fault rolls
it back. Files are moved afterwards (see moves.py).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from batchflux.errors import RULES, Code, Fault, ManifestError
from batchflux.ledger.moves import REPLACED, Move, followed, variants
from batchflux.ledger.reviews import is_pinned, pin, redos, waiting_redos
from batchflux.ledger.tables import COLUMNS, Known, rows_by_key, tags_text
from batchflux.manifest import Redos, expand
from batchflux.models import Job, Link, Redo, Status
from batchflux.providers import capabilities

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from batchflux.manifest import Manifest

OnUnknown = Literal["retry", "hold", "fail"]
Through = Callable[[Iterable[Job]], Iterable[Job]]  # passes jobs on, and may show how many there were
SAMPLES = 3
KEPT_JOBS = 10_000  # about 10 MB
KEPT_CHARACTERS = 16 << 20  # of prompts and references, which may be whole pictures
_BATCH = 500
# What takes room in a row, or must be summed for it, and tells a survey nothing stays in the file.
_UNUSED = {"spec": "''", "error": "NULL", "possibly_billed": "0", "cost": "0", "maybe_cost": "0"}
_LEAN_COLUMNS = ", ".join(_UNUSED.get(name, name) for name in COLUMNS.split(", "))


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What the user asked of this run. `only` is a glob on ids, `limit` the most jobs to work on.

    `redo` leaves out all but the redos that were asked for in a review.
    """

    only: str | None = None
    limit: int | None = None
    retry_failed: bool = False
    on_unknown: OnUnknown = "retry"
    redo: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One job to work on.

    `picture` is what was received for it already: a link, or the name of a spooled file. `attempt` is the attempt from
    which something is still to come: with a `handle` it is polled, by the key `key_name`; it was sent at `sent_at`, in
    epoch seconds, and `price` nanounits of the budget are its. `used` counts the attempts that its limit must hold against it, `resent` the sends after an unknown
    outcome. `renew` allows a new request when the link turns out dead. `verdict` ends the job at once, as failed with
    that code and message.
    """

    job: Job
    picture: Link | str | None = None
    used: int = 0
    resent: int = 0
    renew: bool = False
    verdict: tuple[Code, str] | None = None
    attempt: int | None = None
    handle: str | None = None
    key_name: str | None = None
    sent_at: float | None = None
    price: int = 0

    @property
    def costs(self) -> bool:
        """Whether the work begins with a request that costs money."""
        begun = self.picture is not None or self.handle is not None
        return not begun and self.verdict is None and self.job.fault is None


def work_for(job: Job, known: Known | None, selection: Selection, exists: Callable[[str], bool]) -> Work | None:
    """Return what there is to do for a job, None for nothing. `exists` tells whether a file of the folder is there."""
    left_out = selection.redo and job.redo_of is None
    if left_out or (selection.only is not None and not fnmatchcase(job.id, selection.only)):
        return None
    if known is None:
        return Work(job=job)
    match standing(known):
        case Status.DONE:
            return _lost(job, known, selection, exists)
        case Status.FAILED:
            return _failed(job, known) if selection.retry_failed else None
        case Status.UNKNOWN:
            return _unknown(job, known, selection)
        case _:
            return _unfinished(job, known)


def standing(known: Known) -> str:
    """Return the job's status as the next run finds it: what was out when a process died is unknown then."""
    lost = known.in_flight is not None and known.handle is None
    return Status.UNKNOWN if lost else known.status


def _unfinished(job: Job, known: Known) -> Work:
    # A spooled file that is gone was moved into its place before a kill; the store finds it there.
    picture = Link(url=known.link) if known.link is not None and known.spool is None else known.spool
    return _begun(Work(job=job, picture=picture, used=known.attempts if picture is None else 0), known)


def _begun(work: Work, known: Known) -> Work:
    """Add the attempt from which something is still to come, if there is one."""
    if known.attempt is None:
        return work
    return replace(
        work,
        attempt=known.attempt,
        handle=known.handle,
        key_name=known.key_name,
        sent_at=known.sent_at,
        price=known.reserved or 0,
    )


def _lost(job: Job, known: Known, selection: Selection, exists: Callable[[str], bool]) -> Work | None:
    if known.file_name is not None and exists(known.file_name):
        return None
    if known.link is not None:
        return Work(job=job, picture=Link(url=known.link), renew=selection.retry_failed)
    if selection.retry_failed:
        return Work(job=job)
    gone = f"its file {known.file_name} was removed and no link to it is known; --retry-failed makes it again"
    return Work(job=job, verdict=(Code.DOWNLOAD, gone))


def _failed(job: Job, known: Known) -> Work:
    if known.handle is not None:
        return _begun(Work(job=job, used=known.attempts), known)
    if known.error_code == Code.UNKNOWN:
        return Work(job=job, resent=1)
    # With a link on record the provider gave a picture, so a request that was refused is one for its file's name.
    if known.link is not None and known.error_code is not None and RULES[Code(known.error_code)].keeps_link:
        return Work(job=job, picture=Link(url=known.link), renew=True)
    return Work(job=job)


def _unknown(job: Job, known: Known, selection: Selection) -> Work | None:
    if known.handle is not None:
        return _begun(Work(job=job, used=known.attempts), known)
    if selection.on_unknown == "hold":
        return None
    if selection.on_unknown == "fail":
        return Work(job=job, verdict=(Code.UNKNOWN, "its request was sent and never answered (--on-unknown fail)"))
    return Work(job=job, used=known.attempts, resent=1)


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

    `models` counts those requests by the model that they ask. `redo` of those to do were asked for in a review; `redos`
    are all that were, pinned, by the key of their origin; `waiting` redos were asked for of jobs that the manifest does
    not list as they were, so nothing makes them. `jobs` are all of them, in order, where they are few enough to be
    kept: a run need not make them a second time.
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
    models: Counter[str] = field(default_factory=Counter)
    references: int = 0
    reference_faults: list[str] = field(default_factory=list)
    styles: dict[str, int] = field(default_factory=dict)
    samples: list[Job] = field(default_factory=list)
    moves: dict[int, Move] = field(default_factory=dict)
    edited: bool = False
    redos: dict[str, tuple[Redo, ...]] = field(default_factory=dict)
    redone: Numbers = field(default_factory=lambda: Numbers(0))
    jobs: list[Job] | None = field(default_factory=list)

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
        self._by_status: Counter[str] = Counter()
        self._characters = 0
        self.result = Survey(redone=Numbers(largest))

    def take(self, jobs: Iterable[Job]) -> Survey:
        """Go through all jobs."""
        stream = iter(jobs)
        while batch := list(islice(stream, _BATCH)):
            known = self._lookup(batch)
            fresh = [job for job in batch if job.key not in known]
            if self._connection is None or not self._rows:
                self.result.new += len(fresh)
            else:
                self._find_replaced(self._connection, fresh)
                self._find_in_the_way(self._connection, [job for job in batch if _claims(job, known.get(job.key))])
            for job in batch:
                self._count(job, known.get(job.key))
            self._keep(batch)
        for status, count in self._by_status.items():
            setattr(self.result, status, count)
        if self._connection is not None and self._by_status.total() < self._rows:
            self._find_unlisted(self._connection)
        # A listed job's file goes where its own name says; only the others make way.
        self.result.moves.update((number, away) for number, away in self._away.items() if number not in self._seen)
        return self.result

    def _lookup(self, batch: Sequence[Job]) -> dict[str, Known]:
        if self._connection is None or not self._rows:
            return {}
        rows = rows_by_key(self._connection, [job.key for job in batch], _LEAN_COLUMNS)
        return {row[1].hex(): Known.of(row) for row in rows}

    def _keep(self, batch: Sequence[Job]) -> None:
        if self.result.jobs is None:
            return
        self.result.jobs.extend(batch)
        self._characters += sum(len(job.prompt) + sum(len(image.source) for image in job.images) for job in batch)
        if len(self.result.jobs) > KEPT_JOBS or self._characters > KEPT_CHARACTERS:
            self.result.jobs = None

    def _count(self, job: Job, known: Known | None) -> None:
        result = self.result
        result.total += 1
        result.styles[job.style] = result.styles.get(job.style, 0) + 1
        work = work_for(job, known, self._selection, self._exists)
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
            result.models[job.model] += 1
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
        if old.file_name is not None and not old.file_name.startswith(REPLACED):
            suffix = PurePosixPath(old.file_name).suffix
            self._away[old.number] = Move.of(old, f"{REPLACED}{old.key.hex()[:32]}{suffix}")

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
    query = f"SELECT {_LEAN_COLUMNS} FROM known WHERE {column} IN ({marks})"  # noqa: S608  constants and marks
    rows = connection.execute(query, values)
    return [Known.of(row) for row in rows]


def _one(connection: sqlite3.Connection, query: str) -> Any:
    return connection.execute(query).fetchone()[0] or 0


def survey_jobs(
    manifest: Manifest,
    connection: sqlite3.Connection | None,
    selection: Selection,
    *,
    apply: bool,
    through: Through = iter,
) -> Survey:
    """Go through all jobs of a manifest once, redos included. `apply` also pins the redos.

    Raises ManifestError: with all faults.
    """
    faults: list[Fault] = []
    asked = _asked(connection)
    jobs = expand(manifest, capabilities(), faults.append, redos=asked)
    survey = Surveyor(connection, selection, exists_in(manifest), apply=apply).take(through(jobs))
    if faults:
        raise ManifestError(faults)
    survey.merged = jobs.merged
    if asked is not None and connection is not None:
        left = {redo.number for redo in asked.left}
        survey.waiting = sum(one.redo.number in left for one in waiting_redos(connection))
        survey.jobs = None  # pinned redos are other jobs than those that were met here
    for made in asked.jobs if asked is not None else ():
        redo = replace(made.redo, seed=made.job.seed, variant=made.job.variant)
        survey.redos[redo.origin] = (*survey.redos.get(redo.origin, ()), redo)
        if apply and connection is not None and redo != made.redo:
            pin(connection, redo, made.job.key)
    return survey


def _asked(connection: sqlite3.Connection | None) -> Redos | None:
    found = redos(connection) if connection is not None else {}
    if connection is None or not found:
        return None
    return Redos(found, lambda key: bool(rows_by_key(connection, [key], "1")) or is_pinned(connection, key))


def exists_in(manifest: Manifest) -> Callable[[str], bool]:
    """Return a function that tells whether a file, named relative to the output folder, is there."""
    root = str(manifest.output.dir) + os.sep

    def exists(name: str) -> bool:
        return os.path.exists(root + name)  # noqa: PTH110  called a million times; a Path each would double the cost

    return exists
