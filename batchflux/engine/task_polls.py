"""Polls a task until it ends: free, so what fails is asked for again, with another key when its own is dead.

A task keeps its slot and its key from submit to its final status; a poll is no attempt and takes no rate slot. A call
of its API (see `webhooks`) makes the next poll come now; where calls are seen to come, polls are far apart. A task that
has not ended in its time leaves its job `unknown`, with its handle: later runs ask first.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING

from batchflux.engine.outages import PATIENCE, away
from batchflux.engine.retry import Tries
from batchflux.errors import RULES, Code, JobError
from batchflux.failpoints import reach
from batchflux.models import Ended, Finished, Missing, Pending

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from batchflux.engine.budget import Budget, Purse
    from batchflux.engine.limits.key_pool import Lease
    from batchflux.engine.limits.rate_limiter import Rest
    from batchflux.engine.ports import World
    from batchflux.engine.services import Service
    from batchflux.ledger.reconcile import Work
    from batchflux.models import Exchanged, HttpRequest, Job, Link
    from batchflux.providers import Provider
    from batchflux.webhooks.wakes import Wake

FIRST_POLL, LONGEST_POLL, POLL_GROWTH = 0.5, 3.0, 1.25  # seconds between two polls of a task; BFL's examples: 0.5 to 2
TOO_EARLY = 0.75  # of what the quickest of a model's last tasks took: none is asked for before that
LONGEST_UNHEARD = 30.0  # seconds between two polls while none is answered
BACKSTOP = 60.0  # seconds between two polls of a task whose API will call when it has ended, at most
GRACE = 60.0  # seconds that a task may be unknown to its API, or that an old one is asked for before it is left


@dataclass(slots=True, kw_only=True)
class JobRun:
    """What has happened to one job in this run.

    `work` has the job as `service` makes it, `own` as its own provider does; `refused` names those that refused it
    and are asked no more. `stranger` is who accepted its task, by the name of a provider that the manifest does not
    have. `began` in epoch seconds; `attempt` is the number of the attempt that its picture is of. `resumes` while
    the job's first step is to ask for a task of an earlier run. `troubled` while the circuit breaker counts its
    download among those that fail. `out`: the run stops while its request or task is out. `placed` while its
    request holds a place of the canary, `free` while the canary waits for what it may get without one. `answered`
    is what the last answer came to while nothing is out or received but an answer after which the job may be asked
    again. `rest` is what a key that refused it has asked for, `more` are links to pictures that came beside its
    own, `beside` is what is to be said of those that are kept already. `budget` is what pays for it. `task` is its last
    attempt that a task was accepted for, with handle and key; `relinked` is the attempt whose task was asked for
    another link. `withdrawn`: its next request was not admitted, so it stays as it is.
    """

    work: Work
    own: Job
    service: Service
    budget: Budget | Purse
    stranger: str | None = None
    refused: set[str] = field(default_factory=set)
    task: tuple[int, str, str | None] | None = None
    relinked: int = 0
    tries: Tries = field(default_factory=Tries)
    downloads: Tries = field(default_factory=Tries)
    began: float = 0.0
    attempt: int = 0
    resumes: bool = False
    api_seconds: float | None = None
    download_seconds: float | None = None
    more: tuple[Link, ...] = ()
    beside: str = ""
    link: str | None = None
    troubled: bool = False
    out: bool = False
    placed: bool = False
    free: bool = False
    answered: tuple[Code, str] | None = None
    rest: Rest | None = None
    withdrawn: bool = False

    def turn_to(self, job: Job) -> None:
        """Go on with the job as it is now: as another provider makes it, or with its photos prepared."""
        if job is not self.work.job:
            self.work = replace(self.work, job=job)


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One attempt under way: its number in the ledger, its lease, what is reserved for it, and when its task is late.

    `job` is as it was sent, with links that may be secrets; as it is now where an earlier run sent it.
    `late_at` gives a time of the loop's clock, as things stand, once a task is known: `accepted` then. `key_name` is
    whose it is. `batched`: it is one of a batch, and is paid so. `hooked`: its API was told to call us when the task
    has ended. `earlier`: an earlier run sent it. `heard` is the failure that outages were told of before it was looked
    for, and whether it is an attempt.
    """

    number: int
    job: Job
    lease: Lease
    reserved: int
    began: float
    key_name: str | None
    accepted: bool = False
    batched: bool = False
    hooked: bool = False
    earlier: bool = False
    heard: tuple[Code, bool] | None = None
    late_at: Callable[[], float] = lambda: float("inf")

    def told(self, code: Code) -> bool | None:
        """Return whether the failure that outages were told of is an attempt; None: they were not told of this one."""
        failure, counts = self.heard or (None, False)
        return counts if failure is code else None


class TaskPolls:
    """Asks for tasks with `exchange`, and tells limits and outages what it learns."""

    def __init__(
        self, world: World, exchange: Callable[[JobRun, HttpRequest, Provider, Lease], Awaitable[Exchanged]]
    ) -> None:
        self._gate, self._event, self._wakes = world.gate, world.observer.event, world.wakes
        self._exchange, world.wakes.event = exchange, world.observer.event
        self._clock = asyncio.get_running_loop().time

    async def followed(self, run: JobRun, attempt: Attempt, provider: Provider, handle: str) -> Exchanged:
        """Poll a task until it is finished. What fails is polled again: it is free.

        Its API is believed that it does not know the task (`dead`) only when it said nothing else for GRACE seconds, to
        the key that submitted it. Raises JobError: the task ended without a picture (its code), or is `unknown`: it has
        not ended in its time, or is `dead`; Halted: the run stops by a signal; the task is left to the next one.
        """
        poll = cache(partial(provider.poll, attempt.job, handle))
        with self._wakes.awaited(run.work.job, provider.task_of(handle), hooked=attempt.hooked) as wake:
            return await self._polled(run, attempt, poll, provider, wake)

    async def _polled(
        self, run: JobRun, attempt: Attempt, poll: Callable[[], HttpRequest], provider: Provider, wake: Wake
    ) -> Exchanged:
        pause, missing_since, said, heard_at = FIRST_POLL, None, "", self._clock()
        if not run.resumes:
            wait, pause = self._first(run, attempt, wake)
            await self._gate.sleep_polling(wait, wake.called)
        while True:
            reach("poll.leaving")
            last = self._clock() >= attempt.late_at()
            try:
                exchanged = await self._exchange(run, poll(), provider, attempt.lease)
            except JobError as error:
                missing_since, asked_to_wait, said = None, error.retry_after or 0.0, f" ({error.message})"
                last = not self._stretched(run, attempt, error, heard_at) and last
                pause = min(2 * pause, LONGEST_UNHEARD)
            else:
                said, heard_at = "", self._clock()
                run.service.outages.reached(attempt.lease.key.place, heard_at)
                asked_to_wait = exchanged.pause or 0.0
                match exchanged.reply:
                    case Finished() | Ended():
                        wake.ended()
                        return _end_of(exchanged, self._clock() - attempt.began)
                    case Pending(retry_after=retry_after):
                        missing_since, asked_to_wait = None, max(asked_to_wait, retry_after or 0.0)
                    case Missing():
                        missing_since = self._clock() if missing_since is None else missing_since
                pause = min(pause * POLL_GROWTH, LONGEST_POLL)
            missing = missing_since is not None and self._clock() - missing_since >= GRACE
            if last or missing:
                raise self._unresolved(run, said, missing=missing and attempt.lease.key.name == attempt.key_name)
            quiet = not said and missing_since is None and pause >= LONGEST_POLL
            wait = max(self._backstop(run, attempt) if quiet and wake.expected else pause, asked_to_wait)
            left = attempt.late_at() - self._clock()
            # What failed is asked for again in its own time, whoever calls.
            if await self._gate.sleep_polling(min(wait, left) if left > 0 else wait, None if said else wake.called):
                pause = FIRST_POLL

    def _backstop(self, run: JobRun, attempt: Attempt) -> float:
        """Return the seconds until a task is asked for whose API will call.

        That is when nearly all others had ended; from then on whenever it has taken half as long again.
        """
        took = self._clock() - attempt.began
        left = run.service.times.usual(run.work.job.model) - took
        return max(LONGEST_POLL, left if left > 0 else min(took / 2, BACKSTOP))

    def _first(self, run: JobRun, attempt: Attempt, wake: Wake) -> tuple[float, float]:
        """Return the seconds until a task is first asked for, and how far that poll is from the one before.

        What would be asked too early is left out; the other polls come when they would have come all the same.
        """
        if wake.expected:
            return self._backstop(run, attempt), LONGEST_POLL
        wait = pause = FIRST_POLL
        early = attempt.began + TOO_EARLY * run.service.times.quickest(run.work.job.model) - self._clock()
        while wait < early:
            pause = min(pause * POLL_GROWTH, LONGEST_POLL)
            wait += pause
        return wait, pause

    def _stretched(self, run: JobRun, attempt: Attempt, error: JobError, heard_at: float) -> bool:
        """Take note of a poll that failed; return whether its task's time does not run out meanwhile.

        So it is while its place is down, for as long as an outage is waited out: what became of it is kept there.
        Raises Halted: the task is left to the next run, since no key is left to ask with, or an outage ended this one.
        """
        self._event("poll_failed", id=run.work.job.id, code=error.code.value, message=error.message)
        place, now = attempt.lease.key.place, self._clock()
        if RULES[error.code].fault == "key":
            run.service.limits.refused(attempt.lease, error)
            if not run.service.limits.move(attempt.lease):
                raise self._unresolved(run, f" ({error.message})", missing=False)
        elif away(error):
            run.service.outages.failed(place, run.work.job.id, error, now, now)
            if place.down:
                run.service.gate.check()
                return now - heard_at < min(run.service.outages.patience, PATIENCE)
        return False

    def _unresolved(self, run: JobRun, said: str, *, missing: bool) -> JobError:
        """Say that a task's end is not known; its job is not submitted again in this invocation."""
        run.tries.resent = max(run.tries.resent, 1)
        message = (
            f"the task has not ended in limits.timeout{said}; its handle is kept, and the next run asks for it first"
        )
        if missing:
            message = "the API accepted this task and does not know it any more; it may have been billed"
        return JobError(Code.UNKNOWN, message, dead=missing)


def _end_of(exchanged: Exchanged, seconds: float) -> Exchanged:
    """Return the picture of a task that took so many seconds, or raise why there is none."""
    if isinstance(exchanged.reply, Ended):
        raise exchanged.reply.error
    return replace(exchanged, seconds=seconds)
