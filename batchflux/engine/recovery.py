"""Asks an API that can tell what became of a request whose answer was lost, before anything is sent anew; free.

One task that is equal to the request, was sent when it was, and is no other attempt's, is its own: it goes on from
there as if its answer had come. Of two nobody knows which is; one of them is paid for, so the job is not sent again
while the API lists them. Only where the API was heard to have none does `--on-unknown` decide; while it cannot be
heard, the job stays unknown, and the next run asks.

A task whose link leads to nothing is asked once for another, which some APIs sign anew.

An answer 5xx says that nothing came of a request, which is not always so: it is looked for too, and where nothing is
found, or nobody was heard in all that time, it is what RULES say of it. Outages hear of what failed before the search
begins, and it has a slot for as long only as something may be out.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batchflux.engine.outages import away
from batchflux.engine.shutdown import Halted
from batchflux.engine.steps import heard
from batchflux.engine.task_polls import GRACE
from batchflux.errors import Code, JobError
from batchflux.failpoints import reach
from batchflux.models import Ended, Exchanged, Finished, Listed, Submitted
from batchflux.providers.base import Lost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from batchflux.engine.limits.key_pool import Lease
    from batchflux.engine.ports import World
    from batchflux.engine.steps import Steps, Uploads
    from batchflux.engine.task_polls import Attempt, JobRun
    from batchflux.models import Content, Job, Link, Received
    from batchflux.providers import Provider

    Receive = Callable[[JobRun, Finished, int | None], Awaitable[Received]]

FIRST_LOOK, LONGEST_LOOK, LOOK_GROWTH = 0.5, 15.0, 1.5  # seconds between two looks at a list
SETTLED = 10.0  # seconds after which a list that is whole has what was accepted
NEAR = 600.0  # seconds between two attempts of which one may have the other's task, by when they were recorded
_LOST = frozenset({Code.UNKNOWN, Code.BAD_ANSWER})  # what a submit comes to that may have been accepted all the same
_NOT_TOLD = frozenset({Code.INVALID_REQUEST, Code.AUTH, Code.QUOTA, Code.REFERENCE})  # it cannot be asked for this
_UNHEARD = (
    "its request was sent and never answered, and the API could not tell whether it was accepted ({doubt}); nothing is "
    "sent anew, and the next run asks again"
)
_SEVERAL = (
    "its request was sent and never answered, and the API lists {count} requests of that time which are like it, so "
    "that nobody knows which is its own; it is not sent again, for one of them was paid for: see at the provider what "
    "they gave. --on-unknown fail and then --retry-failed buy it anew"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """What is looked for: the request of an attempt, sent at an epoch second.

    An absence is believed from `settled` on where the list is whole, or the request was `refused` by an answer 5xx, and
    else from `due` on, when the search ends; its slot is given back at `slotless`: all are times of the loop's clock.
    """

    run: JobRun
    provider: Provider
    job: Job
    lease: Lease
    attempt: int
    sent_at: float
    settled: float
    slotless: float
    due: Callable[[], float]
    refused: bool = False


class Recovery:
    """Finds tasks of lost requests, and links. `received` keeps the picture of an answer.

    `out` are the jobs whose request is out and has no handle yet, by their attempt.
    """

    def __init__(self, world: World, steps: Steps, uploads: Uploads, received: Receive) -> None:
        self._received = received
        self._ledger, self._gate, self._event, self._now = world.ledger, world.gate, world.observer.event, world.now
        self._ready, self._steps, self._uploads = world.ready, steps, uploads
        self._clock = asyncio.get_running_loop().time
        self._claimed: set[str] = set()
        self.out: dict[int, tuple[Provider, Job]] = {}

    async def accepted(
        self, run: JobRun, attempt: Attempt, provider: Provider, job: Job, error: JobError
    ) -> Exchanged | None:
        """Return the task that a request gave whose answer was lost; None: nothing but its `error` is known of it.

        Raises JobError: what the attempt comes to. One that is `final` lets nothing be sent again in this run.
        """
        self.out.pop(attempt.number, None)
        refused = error.code is Code.SERVER
        lost = refused or (error.code in _LOST and error.billed)
        if not lost or not provider.capabilities(job.model).finds_lost:
            return None  # and not raised here: this frame would hold it, and it the answer that it came of
        if away(error):
            attempt.heard = error.code, heard(run, attempt.lease, error, self._clock())
        try:
            found = await self._found(self._just_lost(run, attempt, provider, job, refused=refused))
        except (JobError, Halted) as doubt:
            if refused:
                raise (error if isinstance(doubt, Halted) else doubt) from doubt
            error.final = True
            if isinstance(doubt, JobError) and error.code is Code.UNKNOWN:
                error.message = doubt.message
            raise error from doubt
        if isinstance(found, str):
            attempt.heard = None
            return Exchanged(reply=Submitted(handle=found), seconds=self._clock() - attempt.began)
        if found is None or refused:
            return None
        raise found

    async def relinked(self, run: JobRun, link: Link, error: JobError) -> Link | str | None:
        """Return what a job's task gives by now, once, where its link cannot be followed; None: nothing else.

        It is on record then.
        """
        job, provider = run.work.job, run.service.wire(run.work.job)
        number, handle, key_name = run.task or (run.work.attempt, run.work.handle, run.work.key_name)
        own = number == run.attempt and run.stranger is None and run.relinked != number
        if not own or handle is None or error.code is not Code.DOWNLOAD:
            return None
        run.relinked = run.attempt
        lease = await run.service.limits.resume(key_name)
        try:
            reply = (await self._steps.exchange(run, provider.poll(job, handle), provider, lease)).reply
        except JobError as failure:
            self._event("poll_failed", id=job.id, code=failure.code.value, message=failure.message)
            return None
        finally:
            run.service.limits.release(lease)
        if not isinstance(reply, Finished) or reply.asset == link:
            return None
        received = await self._received(run, reply, None)
        await self._ledger.captured(run.attempt, received)
        self._event("link_renewed", id=job.id, attempt=run.attempt)
        return received.asset

    def _just_lost(self, run: JobRun, attempt: Attempt, provider: Provider, job: Job, *, refused: bool) -> _Search:
        """Return what is looked for of an attempt of this run, from now on."""
        now, times, left = self._clock(), run.service.times, attempt.lease.departed_at
        return _Search(
            run=run,
            provider=provider,
            job=job,
            lease=attempt.lease,
            attempt=attempt.number,
            sent_at=self._now() - (now - (attempt.began if left is None else left)),
            settled=now + min(SETTLED, times.longest),
            slotless=now if refused else now + SETTLED,
            refused=refused,
            due=lambda: max(times.due(attempt.began), now + min(times.longest, GRACE)),
        )

    async def taken_up(self, run: JobRun) -> None:
        """Ask for the request of an earlier run that was lost; one that is found `resumes`, as a task of that run.

        What was certainly not accepted is recorded so, and costs nothing. Raises JobError: it stays unknown; Halted.
        """
        work, service = run.work, run.service
        run.work = replace(work, lost=False)
        if run.stranger is not None:
            return
        number = work.attempt or 0
        lease = await service.limits.resume(work.key_name)
        try:
            found = await self._found(await self._search(run, lease))
            if isinstance(found, str):
                await self._ledger.submitted(number, found, None)
                reach("handle.recorded")
                run.tries.resent, run.work = 0, replace(run.work, handle=found, resent=0, verdict=None)
        finally:
            service.limits.release(lease)
        if isinstance(found, JobError):
            await self._ledger.failed(number, found, counts=True)
            reach("attempt.settled")
            run.budget.take_up(work.price)
            run.budget.settle(work.price, 0, earlier=True)
            run.tries.resent, run.work = 0, replace(run.work, resent=0, verdict=None)

    async def _search(self, run: JobRun, lease: Lease) -> _Search:
        """Return what is looked for of an earlier run's attempt; a photo that is gone cannot be compared."""
        work, began, longest = run.work, self._clock(), run.service.times.longest
        sent_at = work.sent_at or 0.0
        age = max(0.0, self._now() - sent_at)
        job = work.job
        try:
            job = await self._uploads.known(run, await self._ready(job), lease)
        except JobError as error:
            self._event("not_told", id=job.id, attempt=work.attempt, message=error.message)
        return _Search(
            run=run,
            provider=run.service.wire(job),
            job=job,
            lease=lease,
            attempt=work.attempt or 0,
            sent_at=sent_at,
            settled=began + SETTLED - age,
            slotless=began + SETTLED - age,
            due=lambda: began + max(0.0, longest - age),
        )

    async def _found(self, search: _Search) -> str | JobError | None:
        """Look until a task is found, or none will be; return its handle, or what its API says that came of it.

        None: the API has none, or cannot tell. Raises JobError `unknown`: there are several, or it could not be heard;
        Halted.
        """
        pause = FIRST_LOOK
        while True:
            last, wait, doubt = self._clock() >= search.due(), pause, ""
            if self._clock() >= search.slotless:
                search.run.service.limits.release(search.lease)
            reach("lost.asking")
            try:
                listed = await self._listed(search)
            except JobError as error:
                self._event("not_told", id=search.job.id, attempt=search.attempt, message=error.message)
                if error.code in _NOT_TOLD:
                    return None
                listed, doubt, wait = None, error.message, max(pause, error.retry_after or 0.0)
                last |= error.final
            if isinstance(listed, JobError):
                return listed
            handles = () if listed is None else listed.handles
            twin = bool(handles) and self._has_twin(search)  # before the handles are read: what ends now is among them
            own = await self._untaken(search, handles)
            if own and twin:
                doubt = "an equal request is out, and either may be the one that is listed"
            elif own:
                return self._only(search, own)
            if self._is_over(search, listed, doubt, last=last):
                return None
            await self._gate.sleep_polling(max(0.0, min(wait, search.due() - self._clock())))
            pause = min(pause * LOOK_GROWTH, LONGEST_LOOK)

    def _is_over(self, search: _Search, listed: Listed | None, doubt: str, *, last: bool) -> bool:
        """Whether no more is to be found. Raises JobError `unknown`: it could not be heard, of what may be paid for."""
        soon = listed is not None and (listed.whole or search.refused) and self._clock() >= search.settled
        if listed is not None and not doubt and (last or soon):
            self._event("lost_not_found", id=search.job.id, attempt=search.attempt)
            return True
        if last and not search.refused:
            raise JobError(Code.UNKNOWN, _UNHEARD.format(doubt=doubt), final=True)
        return last

    async def _listed(self, search: _Search) -> Listed | JobError:
        """Ask once; return what is listed, or what the API is certain of. Raises JobError: it could not be heard."""
        until = max(search.sent_at, min(self._now(), search.sent_at + search.run.service.times.longest))
        lost = Lost(attempt=search.attempt, sent_at=search.sent_at, until=until)
        request = search.provider.recover(search.job, lost)
        reply = (await self._steps.exchange(search.run, request, search.provider, search.lease)).reply
        if isinstance(reply, Ended):
            return reply.error
        if not isinstance(reply, Listed):
            raise TypeError(f"a reader of lost requests returned {reply!r}")
        return reply

    async def _untaken(self, search: _Search, handles: tuple[str, ...]) -> list[str]:
        """Return the handles of tasks that no other attempt has."""
        if not handles:
            return []
        task_of = search.provider.task_of
        taken = set(map(task_of, await self._ledger.handles_near(search.attempt, NEAR))) | self._claimed
        return [handle for handle in handles if task_of(handle) not in taken]

    def _has_twin(self, search: _Search) -> bool:
        """Whether a request is out that would be listed as this one."""
        try:
            own = _said(search.provider, search.job, search.attempt)
        except JobError:  # a photo is gone: what was found all the same is known by more than what it says
            return False
        return any(_said(*one, number) == own for number, one in self.out.items())

    def _only(self, search: _Search, handles: list[str]) -> str:
        """Return the one handle, which is this attempt's from now on. Raises JobError: there are several."""
        name = {"id": search.job.id, "attempt": search.attempt}
        if len(handles) > 1:
            self._event("lost_ambiguous", **name, matches=len(handles))
            raise JobError(Code.UNKNOWN, _SEVERAL.format(count=len(handles)), final=True)
        self._event("lost_found", **name)
        self._claimed.add(search.provider.task_of(handles[0]))
        reach("lost.found")
        return handles[0]


def _said(provider: Provider, job: Job, attempt: int) -> tuple[str, Content | None]:
    """Return what of a request an API lists: all but whom it is to call."""
    request = provider.submit(replace(job, webhook_url=None, webhook_secret=None), attempt)
    return request.url, request.content
