"""The steps of one job: submit (costs money), then fetch and store (cost nothing). Each is retried by itself.

The order of records is the promise (CONTRACT 6): money is reserved, a lease taken and the attempt written to the
journal before the request leaves; the answer is written before anything is done with it. A job that has its answer is
never submitted again by a failing download; only a user who asks with `--retry-failed` starts anew from a dead link.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from batchflux.engine.retry import KEY_IS_DEAD, Retrying, RetryQuota, Tries
from batchflux.engine.shutdown import Halted
from batchflux.errors import Code, JobError
from batchflux.failpoints import reach
from batchflux.models import Link, Request, Stored, Wait
from batchflux.transport.headers import pause_hinted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from batchflux.engine.key_pool import Lease
    from batchflux.engine.life import Life, Rules
    from batchflux.engine.ports import World
    from batchflux.models import Answered, Picture
    from batchflux.providers.base import Provider


class Steps:
    """Performs the steps of jobs over the engine's ports and limits."""

    def __init__(self, world: World, rules: Rules, providers: Mapping[str, Provider]) -> None:
        self._providers = providers
        self._caller = world.caller
        self._journal = world.journal
        self._shelf = world.shelf
        self._observer = world.observer
        self._gate = world.gate
        self._room = world.room
        self._now = world.now
        self._limits = rules.limits
        self._budget = rules.budget
        self._breaker = rules.breaker
        self._quota = RetryQuota(world.gate)
        self._deadline = rules.deadline
        self._clock = asyncio.get_running_loop().time
        self._fetch_slots = asyncio.Semaphore(rules.fetches)
        self._rules = rules
        random = world.random
        self._api = Retrying(lambda tries, error: rules.policy.api(tries, error, random), world.gate.sleep)
        self._fetch = Retrying(lambda tries, error: rules.policy.fetch(tries, error, random), world.gate.sleep)

    def on_time(self) -> AbstractContextManager[None]:
        """Hold the run to its deadline while this is entered."""
        return self._deadline.watch()

    async def see_through(self, life: Life) -> Stored:
        """Take a job from where it stands to its picture in place.

        Raises:
            JobError: the job ended without one.
            Halted: the run stops; the job stays where it is.
        """
        work = life.work
        if work.verdict is not None:
            raise JobError(*work.verdict)
        if work.job.fault is not None and work.picture is None:
            raise JobError(Code.REFERENCE, work.job.fault)
        picture = work.picture
        if isinstance(picture, Link):
            try:
                return await self._keep(life, picture)
            except JobError as error:
                if not (error.dead and work.renew):
                    raise
                self._observer.event("link_dead", id=work.job.id, message=error.message)
                picture = None
                life.fetches = Tries()
                self.relieve(life)
        while True:
            if picture is None:
                picture = await self._submit(life)
            try:
                return await self._keep(life, picture)
            except JobError as error:
                # Bytes that came with the answer cannot be fetched again: it was no answer, as with bad_answer.
                if isinstance(picture, Link) or error.code is not Code.BAD_IMAGE or not self._may_try(life):
                    raise
                self._observer.event("bad_picture", id=work.job.id, message=error.message)
                picture = None

    def relieve(self, life: Life) -> None:
        """Count the job among the troubled no longer; see Breaker."""
        if life.troubled:
            life.troubled = False
            self._breaker.relieved()

    def _may_try(self, life: Life) -> bool:
        return life.tries.used < self._rules.policy.attempts

    async def _submit(self, life: Life) -> Link | str:
        job = life.work.job
        flow = self._providers[job.style].flow(job)
        kept: Link | str | None = None
        wanted = next(flow)
        while True:
            try:
                if isinstance(wanted, Wait):
                    await self._gate.sleep(wanted.seconds)
                    wanted = flow.send(None)
                else:
                    picture, kept = await self._step(life, wanted)
                    wanted = flow.send(picture)
            except StopIteration as end:
                final: Picture = end.value
                if kept is not None:
                    return kept
                return final if isinstance(final, Link) else await self._shelf.spool(job, final)

    async def _step(self, life: Life, request: Request) -> tuple[Picture, Link | str | None]:
        return await self._api(lambda: self._attempt(life, request), life.tries)

    async def _attempt(self, life: Life, request: Request) -> tuple[Picture, Link | str]:
        retried = life.tries.used > life.work.used
        if retried:
            await self._quota.take()
        lease = await self._departure(life)
        began = self._clock()
        try:
            answered = await self._send(life, request, lease)
            reach("answer.received")
            self._budget.settle(spent=True)
            self._limits.answered(lease, pause_hinted(answered.headers, self._now()))
            self._breaker.answered()
            self._quota.succeeded(retried=retried)
            life.api_seconds = answered.seconds
            job, picture = life.work.job, answered.picture
            # A picture that came inside keeps its slot until it is kept: the low-water mark is for so many.
            kept = picture if isinstance(picture, Link) else await self._shelf.spool(job, picture)
        finally:
            self._limits.release(lease)
        await self._journal.answered(job, kept, api_seconds=answered.seconds)
        reach("answer.recorded")
        self._deadline.took(self._clock() - began)
        return answered.picture, kept

    async def _departure(self, life: Life) -> Lease:
        """Take a lease, reserve the money, write the attempt down, and wait for its moment."""
        while True:
            lease = await self._limits.acquire()
            left = False
            try:
                self._deadline.check(self._clock())
                self._check_room()
                self._gate.check()
                if reserved := self._budget.try_reserve():
                    left = await self._written_and_left(life, lease)
            finally:
                if not left:
                    self._limits.release(lease)
            if left:
                return lease
            if not reserved:  # what waits for money does not hold a slot
                await self._budget.wait()

    def _check_room(self) -> None:
        """Close the gate when the answers under way would no longer fit on the disk."""
        full = self._room(self._limits.in_flight)
        if full is not None:
            self._gate.close(full)

    async def _written_and_left(self, life: Life, lease: Lease) -> bool:
        left = False
        try:
            await self._journal.intend(life.work.job, price=self._budget.price, at=self._now())
            reach("attempt.intended")
            left = await self._left(life, lease)
        finally:
            if not left:
                self._budget.settle(spent=False)
        return left

    async def _left(self, life: Life, lease: Lease) -> bool:
        left = False
        try:
            left = await self._limits.depart(lease)
        except Halted:
            await self._journal.withdraw(life.work.job, unknown=life.tries.resent > 0)
            reach("attempt.withdrawn")
            raise
        if not left:
            await self._journal.withdraw(life.work.job, unknown=life.tries.resent > 0)
            reach("attempt.withdrawn")
        return left

    async def _send(self, life: Life, request: Request, lease: Lease) -> Answered:
        life.tries.used += 1
        reach("request.leaving")
        try:
            return await self._caller.call(request, key=lease.key.secret, on_sent=lease.sent)
        except JobError as error:
            await self._failed(life, lease, error)
            raise

    async def _failed(self, life: Life, lease: Lease, error: JobError) -> None:
        job = life.work.job
        counts = error.code is not Code.RATE_LIMITED and error.code not in KEY_IS_DEAD
        if counts:
            self._limits.served(lease)
            self._breaker.failed(error, self._clock())
        else:
            life.tries.used -= 1
            self._limits.refused(lease, error)
        self._budget.settle(spent=error.billed)
        reach("attempt.failing")
        await self._journal.settle(job, error, counts=counts)
        reach("attempt.settled")
        self._observer.event(
            "attempt_failed", id=job.id, code=error.code.value, message=error.message, attempt=life.tries.used
        )

    async def _keep(self, life: Life, picture: Link | str) -> Stored:
        if isinstance(picture, str):
            return await self._shelf.store(life.work.job, picture)
        life.link = picture.url
        return await self._fetch(lambda: self._fetch_once(life, picture.url), life.fetches)

    async def _fetch_once(self, life: Life, url: str) -> Stored:
        async with self._fetch_slots:
            life.fetches.used += 1
            try:
                fetched = await self._caller.fetch(url)
                life.download_seconds = fetched.seconds
                return await self._shelf.store(life.work.job, fetched)
            except JobError as error:
                if not life.troubled:
                    life.troubled = True
                    self._breaker.troubled()
                self._observer.event(
                    "fetch_failed",
                    id=life.work.job.id,
                    code=error.code.value,
                    message=error.message,
                    attempt=life.fetches.used,
                )
                raise
