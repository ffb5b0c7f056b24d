"""Which jobs a run works on, and where in their life it takes them up: one pure decision.

| the ledger says        | the run does                                                                       |
|------------------------|------------------------------------------------------------------------------------|
| nothing                | submit                                                                             |
| pending, with picture  | fetch or store what was received; never submit                                     |
| pending, without       | submit                                                                             |
| done, file there       | nothing                                                                            |
| done, file removed     | fetch its link again; without a link it is failed until `--retry-failed`            |
| failed                 | nothing; with `--retry-failed` fetch a link that may still live, else submit        |
| its request is out     | as for unknown, which a run made it at its start: only a plan meets this, after a kill |
| unknown                | `--on-unknown`: retry submits once more, hold leaves it, fail makes it failed         |
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from batchflux.errors import Code
from batchflux.models import Job, Link, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.engine.retry import OnUnknown
    from batchflux.ledger.ledger import Known


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

    `picture` is what was received for it already: a link, or the name of a spooled file. `used` counts the attempts
    that its limit must hold against it, `resent` the sends after an unknown outcome. `renew` allows a new request
    when the link turns out dead. `verdict` ends the job at once, as failed with that code and message.
    """

    job: Job
    picture: Link | str | None = None
    used: int = 0
    resent: int = 0
    renew: bool = False
    verdict: tuple[Code, str] | None = None

    @property
    def costs(self) -> bool:
        """Whether the work begins with a request that costs money."""
        return self.picture is None and self.verdict is None and self.job.fault is None


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
    return known.status if known.in_flight is None else Status.UNKNOWN


def _unfinished(job: Job, known: Known) -> Work:
    # A spooled file that is gone was moved into its place before a kill; the shelf finds it there.
    if known.spool is not None:
        return Work(job=job, picture=known.spool)
    if known.link is not None:
        return Work(job=job, picture=Link(url=known.link))
    return Work(job=job, used=known.attempts)


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
    if known.error_code == Code.UNKNOWN:
        return Work(job=job, resent=1)
    # With a link on record the provider gave a picture, so a request that was refused is one for its file's name.
    if known.link is not None and known.error_code in {Code.DOWNLOAD, Code.BAD_IMAGE, Code.INVALID_REQUEST}:
        return Work(job=job, picture=Link(url=known.link), renew=True)
    return Work(job=job)


def _unknown(job: Job, known: Known, selection: Selection) -> Work | None:
    if selection.on_unknown == "hold":
        return None
    if selection.on_unknown == "fail":
        return Work(job=job, verdict=(Code.UNKNOWN, "its request was sent and never answered (--on-unknown fail)"))
    return Work(job=job, used=known.attempts, resent=1)
