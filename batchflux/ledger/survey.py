"""Surveys the manifest's jobs: how many are new, changed, done or no longer listed, and what a run will do.

A run also brings the ledger in line with the manifest (`apply`): places, ids, tags and file names follow an edit
without a new request, since none of them is part of a job's key. All of it is one transaction; a manifest fault rolls
it back. Files are moved afterwards (see moves.py).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from shlex import quote
from typing import TYPE_CHECKING, Any, NamedTuple

from batchflux.errors import Fault, ManifestError
from batchflux.ledger.books.calls import uncalled
from batchflux.ledger.means import NO_MEANS, Means, exists_in, means_of
from batchflux.ledger.moves import Move, followed, set_aside
from batchflux.ledger.reconcile import Selection, Work, standing, work_for
from batchflux.ledger.reviews import is_pinned, pin, redos, waiting_redos
from batchflux.ledger.sample import globs, is_meant, sampled
from batchflux.ledger.tables import (
    LEAN,
    Known,
    free_providers,
    known_as,
    known_by_key,
    note_alias,
    paid_pictures,
    select,
    tags_text,
)
from batchflux.manifest import Redos, expand
from batchflux.manifest.identity import on_windows
from batchflux.models import Job, Status
from batchflux.output.base import REJECTED, REPLACED, variants
from batchflux.photos import Unpublished
from batchflux.providers import capabilities, providers, quoted

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from decimal import Decimal

    from batchflux.manifest import Manifest
    from batchflux.manifest.identity import KnownBefore
    from batchflux.manifest.redo import Redo
    from batchflux.photos import Photos

Through = Callable[[Iterable[Job]], Iterable[Job]]  # passes jobs on, and may show how many there were
SAMPLES = 3
FAULTS = 1000  # different ones of references that are told apart
KEPT_JOBS = 10_000  # about 10 MB
KEPT_CHARACTERS = 16 << 20  # of prompts and references, which may be whole pictures
_BATCH = 500


class Asked(NamedTuple):
    """Whom a request asks, what trials and pace are of; and the most that it may cost there (None: not known)."""

    provider: str
    model: str
    style: str
    most: Decimal | None

    @classmethod
    def all_of(cls, job: Job, most: Callable[[Job], Decimal | None]) -> tuple[Asked, ...]:
        """Return whom a job asks, and then those that it asks when that one cannot make it."""
        ways = (job, *(job.by(way) for way in job.fallbacks))
        return tuple(cls(one.provider, one.model, one.style, most(one)) for one in ways)


@dataclass(slots=True, kw_only=True)
class Survey:
    """Counts of jobs; `todo` of them will be worked on, `calls` of those need a request that costs money.

    `maybe` calls are made only where what was received cannot be had, or what was lost was not accepted: APIs are asked
    for that of `lost` jobs. `retried` jobs of those to do had failed.
    `made_by` counts all jobs by the provider and style that make them; `asked` the requests by whom they ask, and
    then by whom they ask when that one cannot: its fallbacks, in order. `redo` of those to do were asked for in a
    review; `redos` are all that were, pinned, by the key of their origin; `waiting` redos were asked for of jobs
    that the manifest does not list as they were, so nothing makes them. `set_aside` counts the pictures that were
    paid for and make way for another job's, `remade` the requests of those jobs, as `asked`. `dropped` counts the
    jobs of which a field was dropped, by its name, `called` those that no manifest lists, but clients of a gateway
    called for. `reference_faults` has what cannot be read, with the first job
    that needs it and how many do, of which `references` is the count; `photos` are counted as photos.Seen does.
    `redone` has a byte for each row of the ledger, by number: whether it is worked on. `unmeant` are
    the globs of the selection's `only` that no job's id is like, `missed` says that all of them are. `renamed` has
    how many file names were changed to such that Windows has, and the first; `same` names the first jobs that were
    merged. `jobs` are all of them, in order, where they are few enough to be kept: a run need not make them a second
    time. `tables` says of each what was assumed and left out, `selection` is what was asked, a sample found.
    `unpublished` counts what would be put into a bucket; None where photos are not.
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
    called: int = 0
    todo: int = 0
    redo: int = 0
    waiting: int = 0
    retried: int = 0
    calls: int = 0
    maybe: int = 0
    lost: int = 0
    made_by: Counter[tuple[str, str]] = field(default_factory=Counter)
    asked: Counter[tuple[Asked, ...]] = field(default_factory=Counter)
    references: int = 0
    reference_faults: dict[str, tuple[str, int]] = field(default_factory=dict)
    photos: dict[str, Any] = field(default_factory=dict)
    set_aside: int = 0
    remade: Counter[tuple[Asked, ...]] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    samples: list[Job] = field(default_factory=list)
    moves: dict[int, Move] = field(default_factory=dict)
    edited: bool = False
    redos: dict[str, tuple[Redo, ...]] = field(default_factory=dict)
    redone: bytearray = field(default_factory=bytearray)
    unmeant: list[str] = field(default_factory=list)
    missed: str | None = None
    renamed: tuple[int, str] = (0, "")
    same: tuple[str, ...] = ()
    jobs: list[Job] | None = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    selection: Selection = field(default_factory=Selection)
    unpublished: Unpublished | None = None

    @property
    def warnings(self) -> list[str]:
        """What of the command line did nothing, in words."""
        said = f"is like no id of the {self.total:,} jobs: correct it, or leave it out."
        return [f"{_option(glob)} {said}" for glob in self.unmeant]

    def as_counts(self) -> dict[str, int]:
        """Return the counts that `plan` and `summary.json` show."""
        names = ("total", "new", "changed", "done", "failed", "unknown", "pending", "merged", "unlisted", "todo")
        counts = {name: getattr(self, name) for name in names}
        return counts | {name: value for name in ("redo", "waiting") if (value := getattr(self, name))}


def _option(glob: str) -> str:
    return f"--only {quote(glob)}"


class Surveyor:
    """Makes a Survey of a stream of jobs; `apply` lets the ledger follow it.

    `leads` says whether a job is the first of its row: samples are of different rows, where there are as many. `free`
    are the names of providers whose pictures were not paid for, `most` the most that a job's request may cost.
    """

    most: Callable[[Job], Decimal | None] = staticmethod(lambda _: None)

    def __init__(
        self,
        connection: sqlite3.Connection,
        selection: Selection,
        exists: Callable[[str], bool],
        means: Means = NO_MEANS,
        *,
        apply: bool,
        leads: Callable[[Job], bool] = lambda _: True,
    ) -> None:
        self.free = free_providers(connection, ())
        self._leads = leads
        self._others: list[Job] = []  # samples where there are too few rows
        self._connection = connection
        self._selection = selection
        self._exists = exists
        self._means = means
        self._apply = apply
        largest, self._rows = connection.execute("SELECT COALESCE(MAX(number), 0), COUNT(*) FROM jobs").fetchone()
        self._seen = bytearray(largest + 1)
        self._superseded = bytearray(largest + 1)
        self._away: dict[int, Move] = {}
        self._by_status: Counter[str] = Counter()
        self._characters = 0
        self._remade: set[str] = set()  # the ids of a batch whose jobs have another content and a picture of it
        self._only = globs(selection.only)
        self.result = Survey(redone=bytearray(largest + 1), unmeant=[*dict.fromkeys(self._only)])

    def take(self, jobs: Iterable[Job]) -> Survey:
        """Go through all jobs."""
        result, stream = self.result, iter(jobs)
        while batch := list(islice(stream, _BATCH)):
            known: dict[str, Known] = {}
            if self._rows:
                known = known_by_key(self._connection, [job.key for job in batch], LEAN)
                self._find_in_the_way([job for job in batch if _claims(job, known.get(job.key))])
            result.unmeant = [glob for glob in result.unmeant if not any(is_meant(job.id, glob) for job in batch)]
            self._count_fresh([job.id for job in batch if job.key not in known])
            for job in batch:
                self._count(job, known.get(job.key))
            self._keep(batch)
        if result.unmeant and len(result.unmeant) == len({*self._only}):
            given = " or ".join(map(_option, result.unmeant))
            result.missed = f"No job has an id like {given}, so there is nothing to do."
        result.samples = sorted([*result.samples, *self._others][:SAMPLES], key=lambda job: job.position)
        result.done, result.failed, result.unknown, result.pending = (self._by_status[status] for status in Status)
        if self._by_status.total() < self._rows:
            self._find_unlisted()
        # A listed job's file goes where its own name says; only the others make way.
        away = {number: move for number, move in self._away.items() if not self._seen[number]}
        result.moves.update(away)
        result.set_aside = paid_pictures(self._connection, self.free, numbers=away)
        return result

    def _keep(self, batch: Sequence[Job]) -> None:
        if self.result.jobs is None:
            return
        self.result.jobs += batch
        self._characters += sum(len(job.prompt) + sum(len(image.source) for image in job.references) for job in batch)
        if len(self.result.jobs) > KEPT_JOBS or self._characters > KEPT_CHARACTERS:
            self.result.jobs = None

    def _count(self, job: Job, known: Known | None) -> None:
        result = self.result
        result.total += 1
        result.made_by[job.provider, job.style] += 1
        if job.dropped:
            result.dropped.update(job.dropped)
        full = result.todo == self._selection.limit
        work = None if full and known is None else work_for(job, known, self._selection, self._exists, self._means)
        if job.fault is not None:
            self._count_faults(job)
        if known is not None:
            self._count_known(job, known, work)
        if work is None or full:
            return
        result.todo += 1
        result.redo += job.redo_of is not None
        if known is not None:
            result.redone[known.number] = True
        result.lost += work.lost
        result.retried += known is not None and known.status == Status.FAILED
        if work.costs or work.may_cost:
            result.calls += 1
            result.maybe += not work.costs
            asked = Asked.all_of(job, self.most)
            result.asked[asked] += 1
            if job.id in self._remade:
                result.remade[asked] += 1
            if result.unpublished is not None:
                result.unpublished.take(job)
            shown = result.samples if self._leads(job) else self._others
            if len(shown) < SAMPLES:
                shown.append(job)

    def _count_faults(self, job: Job) -> None:
        self.result.references += 1
        known = self.result.reference_faults
        for fault in {image.fault: None for image in job.references if image.fault is not None}:
            first, jobs = known.get(fault, (job.id, 0))
            if jobs or len(known) < FAULTS:
                known[fault] = first, jobs + 1

    def _count_known(self, job: Job, known: Known, work: Work | None) -> None:
        self._seen[known.number] = True
        self._by_status[standing(known)] += 1
        if self._apply:
            note_alias(self._connection, job)
        planned = _kept_name(job, known)
        now = (job.id, job.position, 1, planned, tags_text(job))
        if now != (known.id, known.position, known.listed, known.planned, known.tags):
            self.result.edited = True
            if self._apply:
                self._connection.execute(
                    "UPDATE jobs SET id = ?, position = ?, listed = ?, planned = ?, tags = ? WHERE number = ?",
                    (*now, known.number),
                )
        if known.status == Status.DONE and known.file_name is not None and work is None:
            target = followed(planned, known.file_name)
            if target != known.file_name:
                self.result.moves[known.number] = Move.of(known, target)

    def _count_fresh(self, ids: Sequence[str]) -> None:
        """Count new jobs, and those that take an old one's id; the old one's file makes way."""
        olds = select(self._connection, "id", ids, LEAN) if self._rows else []
        self._remade = {old.id for old in olds if old.status == Status.DONE}
        for old in olds:
            self._superseded[old.number] = True
            self._make_way(old)
        changed = len({old.id for old in olds}.intersection(ids))
        self.result.changed += changed
        self.result.new += len(ids) - changed

    def _find_in_the_way(self, claimants: Sequence[Job]) -> None:
        """Make way for jobs whose file name an old job may hold, under any suffix that a picture's bytes can give."""
        names = [name for job in claimants for name in variants(job.file_name)]
        for old in select(self._connection, "planned", names, LEAN):
            self._make_way(old)

    def _make_way(self, old: Known) -> None:
        if old.file_name is not None:
            self._set_aside(old.number, old.key.hex(), old.file_name)

    def _set_aside(self, number: int, key: str, name: str) -> None:
        if not name.startswith((f"{REPLACED}/", f"{REJECTED}/")):
            self._away[number] = Move(number=number, key=key, source=name, target=set_aside(key, name))

    def _find_unlisted(self) -> None:
        query = (
            "SELECT number, listed, EXISTS (SELECT 1 FROM jobs AS other WHERE other.id = jobs.id AND other.listed"
            " AND other.number != jobs.number), planned, file_name, lower(hex(key)) FROM jobs WHERE "
        )
        gone: list[tuple[int]] = []
        query += uncalled(self._connection)
        for number, listed, has_heir, planned, name, key in self._connection.execute(query):
            if self._seen[number]:
                continue
            if name is not None and followed(planned, name) != name:  # a kill kept it from making way
                self._set_aside(number, key, name)
            if not (self._superseded[number] or has_heir):
                self.result.unlisted += 1
            if listed:
                gone.append((number,))
        called = self._connection.execute(f"SELECT number FROM jobs WHERE listed AND NOT {uncalled(self._connection)}")  # noqa: S608  constants
        self.result.called = sum(not self._seen[number] for (number,) in called)
        self.result.edited |= bool(gone)
        if self._apply:
            self._connection.executemany("UPDATE jobs SET listed = 0 WHERE number = ?", gone)


def _claims(job: Job, known: Known | None) -> bool:
    """Whether the job takes a file name that it did not have when the folder was last run."""
    return known is None or not known.listed or known.planned != _kept_name(job, known)


def _kept_name(job: Job, known: Known) -> str:
    """Return the file name of a job; one that the ledger knows keeps a name that is only not for Windows."""
    return known.planned if on_windows(known.planned) == job.file_name else job.file_name


def known_before(manifest: Manifest, connection: sqlite3.Connection) -> KnownBefore | None:
    """Return what finds a job that has another key by now than the ledger has it by; None where there is none."""
    put = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'uploads'").fetchone() is not None
    before = put and connection.execute("SELECT 1 FROM uploads WHERE provider GLOB 'bucket *' LIMIT 1").fetchone()
    return known_as(connection, twins=manifest.published.to is not None or bool(before))


def _with_sample(
    manifest: Manifest, connection: sqlite3.Connection, selection: Selection, photos: Photos | None
) -> Selection:
    """Return the selection with the places of its sample, which takes a look at all jobs and keeps none."""
    if selection.sample is None:
        return selection
    jobs = expand(manifest, capabilities(), lambda _: None, known_as=known_before(manifest, connection)).decoding(
        photos
    )
    return replace(selection, positions=sampled(jobs, selection.sample, len(manifest.entries), selection.only))


def _unpublished(manifest: Manifest, connection: sqlite3.Connection) -> Unpublished | None:
    published, wires = manifest.published, providers()
    if published.to is None:
        return None

    def links(job: Job) -> bool:
        maker = manifest.providers[job.provider]
        return not maker.batched and wires[maker.api, job.style].takes_links(job)

    return Unpublished(published=published, links=links, there=_uploaded_to(connection, published.where, time.time()))


def _uploaded_to(connection: sqlite3.Connection, where: str, now: float) -> set[int]:
    """Return the digests of what lies there now, as hashes."""
    query = "SELECT sha256 FROM uploads WHERE provider = ? AND (expires IS NULL OR expires > ?)"
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'uploads'").fetchone():
        return set()  # of an older version, which is only read
    return {hash(digest) for (digest,) in connection.execute(query, (where, now))}


def survey_jobs(
    manifest: Manifest,
    connection: sqlite3.Connection,
    selection: Selection,
    *,
    apply: bool,
    through: Through = iter,
    photos: Photos | None = None,
) -> Survey:
    """Go through all jobs of a manifest once, redos included, or raise ManifestError. `apply` also pins the redos."""
    faults: list[Fault] = []
    wanted = redos(connection)
    asked = Redos(wanted, lambda key: bool(known_by_key(connection, [key], LEAN)) or is_pinned(connection, key))
    redone = asked if wanted else None
    selection = _with_sample(manifest, connection, selection, photos)
    jobs = expand(
        manifest, capabilities(), faults.append, redos=redone, known_as=known_before(manifest, connection)
    ).decoding(photos)
    means = means_of(manifest, connection)
    surveyor = Surveyor(connection, selection, exists_in(manifest), means, apply=apply, leads=jobs.leads)
    surveyor.free, surveyor.most = free_providers(connection, manifest.providers), partial(quoted, manifest)
    surveyor.result.unpublished = _unpublished(manifest, connection)
    survey = surveyor.take(through(jobs))
    if faults:
        raise ManifestError(faults)
    survey.merged, survey.renamed, survey.tables, survey.selection = jobs.merged, jobs.renamed, jobs.tables, selection
    survey.same = tuple(jobs.same)
    if photos is not None:
        survey.photos = photos.seen.as_counts()
    if wanted:
        left = {redo.number for redo in asked.left}
        survey.waiting = sum(one.redo.number in left for one in waiting_redos(connection))
        survey.jobs = None  # pinned redos are other jobs than those that were met here
    for made in asked.jobs:
        redo = replace(made.redo, seed=made.job.seed, variant=made.job.variant, key=made.job.key)
        survey.redos[redo.origin] = (*survey.redos.get(redo.origin, ()), redo)
        if apply and redo != made.redo:
            pin(connection, redo, made.job.key)
    return survey
