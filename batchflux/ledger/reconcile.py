"""Reconciles the manifest's jobs with the ledger: what is new, changed, done or no longer listed, and what is to do.

| the ledger says        | the run does                                                                           |
|------------------------|----------------------------------------------------------------------------------------|
| nothing                | submit                                                                                 |
| submitted, with handle | poll it; never submit                                                                  |
| pending, with picture  | fetch or store what was received; never submit                                         |
| pending, without       | submit                                                                                 |
| done, file there       | nothing                                                                                |
| done, file removed     | fetch its link again; without a link it is failed until `--retry-failed`               |
| failed, never sent     | submit (`network` and `timeout`; a run that meets an outage leaves its jobs pending)   |
| failed, picture kept   | put it in its place where `output.accept` takes it by now; else nothing                |
| failed, `download`     | fetch its link again; so for one to a private host, where hosts are allowed by now     |
| failed                 | nothing; with `--retry-failed` read kept answers again, fetch a kept link, else submit |
| its request is out     | as for unknown, which a run made it at its start: only a plan meets this, after a kill |
| unknown, with handle   | poll it, whatever `--on-unknown` says: that is free                                    |
| unknown                | `--on-unknown`: retry submits once more, hold leaves it, fail makes it failed          |

A run also brings the ledger in line with the manifest (`apply`): places, ids, tags and file names follow an edit
without a new request, since none of them is part of a job's key. All of it is one transaction; a manifest fault rolls
it back. What is free is done by every run; kept answers are read by every run while the reader is newer than they are.
A picture that may still be had is bought anew with `--retry-failed --pay-again` only. Files are moved afterwards (see
moves.py).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from batchflux.errors import RULES, Code, Fault, JobError, ManifestError
from batchflux.ledger.means import Means, means_of
from batchflux.ledger.moves import Move, exists_in, followed
from batchflux.ledger.reviews import is_pinned, pin, redos, waiting_redos
from batchflux.ledger.tables import LEAN, Known, known_as, known_by_key, note_alias, paid_pictures, select, tags_text
from batchflux.manifest import Redos, expand
from batchflux.models import Finished, Job, Link, Redo, Status
from batchflux.output.base import REJECTED, REPLACED, attempt_of, variants
from batchflux.providers import capabilities

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from batchflux.manifest import Manifest

OnUnknown = Literal["retry", "hold", "fail"]
Through = Callable[[Iterable[Job]], Iterable[Job]]  # passes jobs on, and may show how many there were
SAMPLES = 3
FAULTS = 1000  # different ones of references that are told apart
_NO_MEANS = Means()
KEPT_JOBS = 10_000  # about 10 MB
KEPT_CHARACTERS = 16 << 20  # of prompts and references, which may be whole pictures
_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What the user asked of this run: `only` is a glob on ids, `limit` the most jobs to work on.

    `redo` leaves out all but the redos that were asked for in a review. `pay_again`, with `retry_failed`, lets a
    picture be bought anew although the one that was paid for may still be had.
    """

    only: str | None = None
    limit: int | None = None
    retry_failed: bool = False
    pay_again: bool = False
    on_unknown: OnUnknown = "retry"
    redo: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One job to work on.

    `picture` is what was received for it already: a link, or the name of a file of the folder; `answer` reads it out of
    an answer that was kept. `used` counts the attempts that its limit must hold against it, `resent` the sends after an
    unknown outcome, `again` the answers without a picture, the last of which came to `answered`. `renew` allows a new
    request when the picture turns out to be gone, `pay_again` also when it may only not be had now. `verdict` ends the
    job at once, as failed with that code and message. `attempt` is the attempt that gave this; with a `handle` it is
    polled, by the key `key_name`; it was sent at `sent_at`, in epoch seconds, and `price` nanounits of the budget are
    its.
    """

    job: Job
    picture: Link | str | None = None
    answer: Callable[[], Finished] | None = None
    used: int = 0
    resent: int = 0
    again: int = 0
    answered: tuple[Code, str] | None = None
    renew: bool = False
    pay_again: bool = False
    verdict: tuple[Code, str] | None = None
    attempt: int | None = None
    handle: str | None = None
    key_name: str | None = None
    sent_at: float | None = None
    price: int = 0

    @property
    def costs(self) -> bool:
        """Whether the work begins with a request that costs money."""
        return (self.picture, self.answer, self.handle, self.verdict, self.job.fault) == (None,) * 5

    @property
    def may_cost(self) -> bool:
        """Whether the work may come to such a request, because what was received cannot be had any more."""
        return self.pay_again or (self.renew and isinstance(self.picture, Link))


def work_for(
    job: Job, known: Known | None, selection: Selection, exists: Callable[[str], bool], means: Means = _NO_MEANS
) -> Work | None:
    """Return what there is to do for a job, None for nothing. `exists` tells whether a file of the folder is there.

    Raises StorageError: an answer that was kept cannot be read.
    """
    left_out = selection.redo and job.redo_of is None
    if left_out or (selection.only is not None and not fnmatchcase(job.id, selection.only)):
        return None
    if known is None:
        return Work(job=job)
    match standing(known):
        case Status.DONE:
            return _lost(job, known, selection, exists)
        case Status.FAILED:
            return _failed(job, known, selection, means)
        case Status.UNKNOWN:
            return _unknown(job, known, selection)
        case _:
            return _pending(job, known, means)


def _pending(job: Job, known: Known, means: Means) -> Work:
    # A spooled file that is gone was moved into its place before a kill; the store finds it there.
    picture = known.spool or (None if known.link is None else Link(url=known.link))
    if picture is None and known.handle is None and (known.again or known.answers):
        return _read_again(job, known, means) or _asked_again(job, known, means)
    return _begun(Work(job=job, picture=picture, used=0 if picture else known.attempts), known)


def standing(known: Known) -> str:
    """Return the job's status as the next run finds it: what was out when a process died is unknown then."""
    lost = known.in_flight is not None and known.handle is None
    return Status.UNKNOWN if lost else known.status


def _begun(work: Work, known: Known) -> Work:
    """Add the attempt from which something is still to come, if there is one."""
    begun = {name: getattr(known, name) for name in ("attempt", "handle", "key_name", "sent_at")}
    return replace(work, price=known.reserved or 0, **begun)


def _lost(job: Job, known: Known, selection: Selection, exists: Callable[[str], bool]) -> Work | None:
    if known.file_name is not None and exists(known.file_name):
        return None
    if known.link is not None:
        return _received(job, known, selection)
    if selection.retry_failed:
        return Work(job=job)
    gone = f"its file {known.file_name} was removed and no link to it is known; --retry-failed makes it again"
    return Work(job=job, verdict=(Code.DOWNLOAD, gone))


def _failed(job: Job, known: Known, selection: Selection, means: Means) -> Work | None:
    """Return what follows a failure: first what is free, then what the user lets be bought again."""
    if known.handle is not None:  # to poll is free
        return _begun(Work(job=job, used=known.attempts), known)
    retry, code = selection.retry_failed, Code(known.error_code or Code.INTERNAL)
    if known.file_name is not None and known.file_name.startswith(f"{REJECTED}/"):
        if means.accept.issuperset((known.differs or "").split()):  # without any, its place was taken
            return Work(job=job, picture=known.file_name, attempt=known.attempt, renew=retry)
        return Work(job=job) if retry and selection.pay_again else None
    if (retry or means.newer) and (found := _read_again(job, known, means)) is not None:
        return found
    # With a link on record the provider gave a picture: what was refused since is its file's name, or another request.
    if (known.spool or known.link) is not None and RULES[code].keeps_link:
        is_free = RULES[code].free and (code is not Code.UNSAFE_URL or means.hosts)
        return _received(job, known, selection) if retry or is_free else None
    unheard = RULES[code].free and RULES[code].fault == "away"  # it never reached anybody
    return Work(job=job, resent=int(code is Code.UNKNOWN)) if retry or unheard else None


def _received(job: Job, known: Known, selection: Selection) -> Work:
    renew, pay_again = selection.retry_failed, selection.retry_failed and selection.pay_again
    picture = known.spool or Link(url=known.link or "")
    return Work(job=job, picture=picture, attempt=known.attempt, renew=renew, pay_again=pay_again)


def _read_again(job: Job, known: Known, means: Means) -> Work | None:
    """Return the work on a picture that today's reader finds in an answer that was kept, None when it finds none."""
    for name in (known.answers or "").split():
        with contextlib.suppress(JobError):
            means.read(job, name)
            return Work(job=job, answer=partial(means.read, job, name), attempt=attempt_of(name))
    return None


def _asked_again(job: Job, known: Known, means: Means) -> Work:
    """Return the work on a job that was cut off after an answer without a picture: none after two, or a last word."""
    answered = Code(known.error_code or Code.BAD_ANSWER), known.error or "no picture was found in what was answered"
    answers, again = (known.answers or "").split(), known.again or 0
    why = means.why(job, answers[0]) if answers else None
    if again > 1 or (why is not None and why.final):
        return Work(job=job, verdict=(why.code, why.message) if why is not None else answered)
    return Work(job=job, used=known.attempts, again=again, answered=answered)


def _unknown(job: Job, known: Known, selection: Selection) -> Work | None:
    if known.handle is not None:
        return _begun(Work(job=job, used=known.attempts), known)
    if selection.on_unknown == "hold":
        return None
    if selection.on_unknown == "fail":
        return Work(job=job, verdict=(Code.UNKNOWN, "its request was sent and never answered (--on-unknown fail)"))
    return Work(job=job, used=known.attempts, resent=1, again=known.again or 0)


@dataclass(slots=True, kw_only=True)
class Survey:
    """Counts of jobs; `todo` of them will be worked on, `calls` of those need a request that costs money.

    `maybe` calls are made only where what was received cannot be had; `retried` jobs of those to do had failed.
    `models` counts requests by the model that they ask. `redo` of those to do were asked for in a review; `redos` are
    all that were, pinned, by the key of their origin; `waiting` redos were asked for of jobs that the manifest does not
    list as they were, so nothing makes them. `set_aside` counts the pictures that were paid for and make way for
    another job's, `remade` the requests of those jobs by model. `dropped` counts the jobs of which a field was dropped,
    by its name. `reference_faults` has what cannot be read, with the first job that needs it and how many do, of which
    `references` is the count. `redone` has a byte for each row of the ledger, by number: whether it is worked on.
    `jobs` are all of them, in order, where they are few enough to be kept: a run need not make them a second time.
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
    retried: int = 0
    calls: int = 0
    maybe: int = 0
    models: Counter[str] = field(default_factory=Counter)
    references: int = 0
    reference_faults: dict[str, tuple[str, int]] = field(default_factory=dict)
    set_aside: int = 0
    remade: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    styles: dict[str, int] = field(default_factory=dict)
    samples: list[Job] = field(default_factory=list)
    moves: dict[int, Move] = field(default_factory=dict)
    edited: bool = False
    redos: dict[str, tuple[Redo, ...]] = field(default_factory=dict)
    redone: bytearray = field(default_factory=bytearray)
    jobs: list[Job] | None = field(default_factory=list)

    def as_counts(self) -> dict[str, int]:
        """Return the counts that `plan` and `summary.json` show."""
        names = ("total", "new", "changed", "done", "failed", "unknown", "pending", "merged", "unlisted", "todo")
        counts = {name: getattr(self, name) for name in names}
        return counts | {name: value for name in ("redo", "waiting") if (value := getattr(self, name))}


class Surveyor:
    """Makes a Survey of a stream of jobs; `apply` lets the ledger follow it."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        selection: Selection,
        exists: Callable[[str], bool],
        means: Means = _NO_MEANS,
        *,
        apply: bool,
    ) -> None:
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
        self.result = Survey(redone=bytearray(largest + 1))

    def take(self, jobs: Iterable[Job]) -> Survey:
        """Go through all jobs."""
        result, stream = self.result, iter(jobs)
        while batch := list(islice(stream, _BATCH)):
            known: dict[str, Known] = {}
            if self._rows:
                known = known_by_key(self._connection, [job.key for job in batch], LEAN)
                self._find_in_the_way([job for job in batch if _claims(job, known.get(job.key))])
            self._count_fresh([job.id for job in batch if job.key not in known])
            for job in batch:
                self._count(job, known.get(job.key))
            self._keep(batch)
        result.done, result.failed, result.unknown, result.pending = (self._by_status[status] for status in Status)
        if self._by_status.total() < self._rows:
            self._find_unlisted()
        # A listed job's file goes where its own name says; only the others make way.
        away = {number: move for number, move in self._away.items() if not self._seen[number]}
        result.moves.update(away)
        result.set_aside = paid_pictures(self._connection, numbers=away)
        return result

    def _keep(self, batch: Sequence[Job]) -> None:
        if self.result.jobs is None:
            return
        self.result.jobs += batch
        self._characters += sum(len(job.prompt) + sum(len(image.source) for image in job.images) for job in batch)
        if len(self.result.jobs) > KEPT_JOBS or self._characters > KEPT_CHARACTERS:
            self.result.jobs = None

    def _count(self, job: Job, known: Known | None) -> None:
        result = self.result
        result.total += 1
        result.styles[job.style] = result.styles.get(job.style, 0) + 1
        if job.dropped:
            result.dropped.update(job.dropped)
        full = result.todo == self._selection.limit
        work = None if full and known is None else work_for(job, known, self._selection, self._exists, self._means)
        if job.fault is not None:
            result.references += 1
            first, jobs = result.reference_faults.get(job.fault, (job.id, 0))
            if jobs or len(result.reference_faults) < FAULTS:
                result.reference_faults[job.fault] = first, jobs + 1
        if known is not None:
            self._count_known(job, known, work)
        if work is None or full:
            return
        result.todo += 1
        result.redo += job.redo_of is not None
        if known is not None:
            result.redone[known.number] = True
        result.retried += known is not None and known.status == Status.FAILED
        if work.costs or work.may_cost:
            result.calls += 1
            result.maybe += not work.costs
            result.models[job.model] += 1
            if job.id in self._remade:
                result.remade[job.model] += 1
            if len(result.samples) < SAMPLES:
                result.samples.append(job)

    def _count_known(self, job: Job, known: Known, work: Work | None) -> None:
        self._seen[known.number] = True
        self._by_status[standing(known)] += 1
        if self._apply:
            note_alias(self._connection, job)
        now = (job.id, job.position, 1, job.file_name, tags_text(job))
        if now != (known.id, known.position, known.listed, known.planned, known.tags):
            self.result.edited = True
            if self._apply:
                self._connection.execute(
                    "UPDATE jobs SET id = ?, position = ?, listed = ?, planned = ?, tags = ? WHERE number = ?",
                    (*now, known.number),
                )
        if known.status == Status.DONE and known.file_name is not None and work is None:
            target = followed(job.file_name, known.file_name)
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
        if old.file_name is not None and not old.file_name.startswith((f"{REPLACED}/", f"{REJECTED}/")):
            suffix = PurePosixPath(old.file_name).suffix
            self._away[old.number] = Move.of(old, f"{REPLACED}/{old.key.hex()[:32]}{suffix}")

    def _find_unlisted(self) -> None:
        query = (
            "SELECT number, listed, EXISTS (SELECT 1 FROM jobs AS other WHERE other.id = jobs.id AND other.listed"
            " AND other.number != jobs.number) FROM jobs"
        )
        gone: list[tuple[int]] = []
        for number, listed, has_heir in self._connection.execute(query):
            if self._seen[number]:
                continue
            if not (self._superseded[number] or has_heir):
                self.result.unlisted += 1
            if listed:
                gone.append((number,))
        self.result.edited |= bool(gone)
        if self._apply:
            self._connection.executemany("UPDATE jobs SET listed = 0 WHERE number = ?", gone)


def _claims(job: Job, known: Known | None) -> bool:
    """Whether the job takes a file name that it did not have when the folder was last run."""
    return known is None or not known.listed or known.planned != job.file_name


def survey_jobs(
    manifest: Manifest, connection: sqlite3.Connection, selection: Selection, *, apply: bool, through: Through = iter
) -> Survey:
    """Go through all jobs of a manifest once, redos included, or raise ManifestError. `apply` also pins the redos."""
    faults: list[Fault] = []
    wanted = redos(connection)
    asked = Redos(wanted, lambda key: bool(known_by_key(connection, [key], LEAN)) or is_pinned(connection, key))
    redone = asked if wanted else None
    jobs = expand(manifest, capabilities(), faults.append, redos=redone, known_as=known_as(connection))
    means = means_of(manifest, connection)
    survey = Surveyor(connection, selection, exists_in(manifest), means, apply=apply).take(through(jobs))
    if faults:
        raise ManifestError(faults)
    survey.merged = jobs.merged
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
