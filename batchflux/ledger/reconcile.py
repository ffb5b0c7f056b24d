"""Decides what there is to do for each job of the manifest, by what the ledger says of it.

| the ledger says        | the run does                                                                           |
|------------------------|----------------------------------------------------------------------------------------|
| nothing                | submit                                                                                 |
| submitted, with handle | poll it; never submit                                                                  |
| pending, with picture  | fetch or store what was received; never submit                                         |
| pending, without       | submit                                                                                 |
| done, file there       | nothing; so where it is in the bucket that mirrors the folder                          |
| done, file removed     | fetch its link again; without a link it is failed until `--retry-failed`               |
| failed, never sent     | submit (`network` and `timeout`; a run that meets an outage leaves its jobs pending)   |
| failed, picture kept   | put it in its place where `output.accept` takes it by now; else nothing                |
| failed, `download`     | fetch its link again; so for one to a private host, where hosts are allowed by now     |
| failed                 | nothing; with `--retry-failed` read kept answers again, fetch a kept link, else submit |
| its request is out     | as for unknown, which a run made it at its start: only a plan meets this, after a kill |
| unknown, with handle   | poll it, whatever `--on-unknown` says: that is free                                    |
| unknown                | ask an API that can tell whether it was accepted, and poll what is found; else         |
|                        | `--on-unknown`: retry submits once more, hold leaves it, fail makes it failed          |

What is free is done by every run; kept answers are read by every run while the reader is newer than they are. A picture
that may still be had is bought anew with `--retry-failed --pay-again` only.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from batchflux.errors import RULES, Code, JobError
from batchflux.ledger.means import NO_MEANS, Means
from batchflux.ledger.sample import is_meant
from batchflux.models import Finished, Job, Link, Status, Way
from batchflux.output.base import REJECTED, attempt_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchflux.ledger.tables import Known
    from batchflux.providers.batches import BatchAnswer

OnUnknown = Literal["retry", "hold", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What the user asked of this run: `only` is a glob on ids, or several, `limit` the most jobs to work on.

    `redo` leaves out all but the redos that were asked for in a review. `pay_again`, with `retry_failed`, lets a
    picture be bought anew although the one that was paid for may still be had. `sample` is how many jobs are taken,
    spread over the manifest; `positions`, once they are found, says which.
    """

    only: str | Sequence[str] | None = None
    limit: int | None = None
    sample: int | None = None
    positions: frozenset[int] | None = None
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
    its. It is `lost` when its answer never came and its API can tell whether it was accepted: that is asked first, and
    the rest holds where it was not. `made_by` is how it was made then, by the provider that it was sent to; those
    `refused` are asked no more. `batched` is what a batch answered, of which `handle` is the name; `placed`: it has a
    place of the canary.
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
    lost: bool = False
    made_by: Way | None = None
    refused: frozenset[str] = frozenset()
    batched: BatchAnswer | None = None
    placed: bool = False

    @property
    def costs(self) -> bool:
        """Whether the work begins with a request that costs money."""
        if self.lost:
            return False
        return (self.picture, self.answer, self.handle, self.verdict, self.job.fault) == (None,) * 5

    @property
    def may_cost(self) -> bool:
        """Whether the work may come to such a request: what was received cannot be had, or was not accepted."""
        if self.lost:
            return self.verdict is None and self.job.fault is None
        return self.pay_again or (self.renew and isinstance(self.picture, Link))


def work_for(
    job: Job, known: Known | None, selection: Selection, exists: Callable[[str], bool], means: Means = NO_MEANS
) -> Work | None:
    """Return what there is to do for a job, None for nothing. `exists` tells whether a file of the folder is there.

    Raises StorageError: an answer that was kept cannot be read.
    """
    left_out = selection.redo and job.redo_of is None
    if selection.positions is not None:
        left_out |= job.redo_of is not None or job.position not in selection.positions
    if left_out or not is_meant(job.id, selection.only):
        return None
    if known is None:
        return Work(job=job)
    work = _follows(job, known, selection, exists, means)
    return work if work is None or work.costs else replace(work, made_by=_made_by(known))


def _follows(job: Job, known: Known, selection: Selection, exists: Callable[[str], bool], means: Means) -> Work | None:
    match standing(known):
        case Status.DONE:
            return _lost(job, known, selection, exists)
        case Status.FAILED:
            return _failed(job, known, selection, means)
        case Status.UNKNOWN:
            return _unknown(job, known, selection, means)
        case _:
            return _pending(job, known, selection, means)


def _pending(job: Job, known: Known, selection: Selection, means: Means) -> Work:
    picture = known.spool or (None if known.link is None else Link(url=known.link))  # a store finds a moved spool
    if picture is None and known.handle is None and (known.again or known.answers):
        return _read_again(job, known, means) or _asked_again(job, known, means)
    used, again = 0 if picture else known.attempts, selection.retry_failed and selection.pay_again
    return _begun(Work(job=job, picture=picture, used=used, renew=again, pay_again=again), known)


def standing(known: Known) -> str:
    """Return the job's status as the next run finds it: what was out when a process died is unknown then."""
    lost = known.in_flight is not None and known.handle is None
    return Status.UNKNOWN if lost else known.status


def _begun(work: Work, known: Known) -> Work:
    """Add the attempt from which something is still to come, if there is one."""
    begun = {name: getattr(known, name) for name in ("attempt", "handle", "key_name", "sent_at")}
    return replace(work, price=known.reserved or 0, **begun)


def _made_by(known: Known) -> Way | None:
    """Return by whom a job was sent last; None where only counts were read."""
    spec = json.loads(known.spec or "{}")
    return Way(provider=spec["provider"], style=spec["style"], model=spec["model"]) if "provider" in spec else None


def _as_made(job: Job, known: Known) -> Job:
    """Return a job as it was sent last, for its answers are to be read as that provider means them."""
    way = _made_by(known)
    return job if way is None else job.by(way)


def _lost(job: Job, known: Known, selection: Selection, exists: Callable[[str], bool]) -> Work | None:
    if known.file_name is not None and (known.mirrored or exists(known.file_name)):
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


def collected_again(job: Job, known: Known) -> Work | None:
    """Return the work on a picture that was paid for and failed later, where it may be had now; it buys nothing."""
    code = Code(known.error_code or Code.INTERNAL)
    received = known.spool or (None if known.link is None else Link(url=known.link))
    if received is None or not RULES[code].keeps_link or (known.file_name or "").startswith(f"{REJECTED}/"):
        return None
    return Work(job=job, picture=received, attempt=known.attempt, made_by=_made_by(known))


def _read_again(job: Job, known: Known, means: Means) -> Work | None:
    """Return the work on a picture that today's reader finds in an answer that was kept, None when it finds none."""
    made = _as_made(job, known) if known.answers else job
    for name in (known.answers or "").split():
        with contextlib.suppress(JobError):
            means.read(made, name)
            return Work(job=job, answer=partial(means.read, made, name), attempt=attempt_of(name))
    return None


def _asked_again(job: Job, known: Known, means: Means) -> Work:
    """Return the work on a job that was cut off after an answer without a picture: none after two, or a last word."""
    answered = Code(known.error_code or Code.BAD_ANSWER), known.error or "no picture was found in what was answered"
    answers, again = (known.answers or "").split(), known.again or 0
    why = means.why(_as_made(job, known), answers[0]) if answers else None
    if again > 1 or (why is not None and why.final):
        return Work(job=job, verdict=(why.code, why.message) if why is not None else answered)
    return Work(job=job, used=known.attempts, again=again, answered=answered)


def _unknown(job: Job, known: Known, selection: Selection, means: Means) -> Work | None:
    if known.handle is not None:
        return _begun(Work(job=job, used=known.attempts), known)
    lost = known.sent_at is not None and means.finds_lost(_as_made(job, known))
    if selection.on_unknown == "hold" and not lost:
        return None
    work = Work(job=job, used=known.attempts, resent=1, again=known.again or 0, lost=lost)
    if selection.on_unknown != "retry":
        also = ", and its API does not know of it" if lost else ""
        what = f"its request was sent and never answered{also} (--on-unknown {selection.on_unknown})"
        work = replace(work, verdict=(Code.UNKNOWN, what))
    return _begun(work, known) if lost else work
