"""Sees one job through: submit (costs money), poll, then collect (both free). Each step is retried by itself.

The order of records is the promise. Money is reserved, a lease taken and the attempt authorized in the ledger before
the request leaves. A handle is on record before it is polled, and a picture before anything is done with it. A job that
has either is never submitted again by a failing poll or download; only `--retry-failed` starts anew from a dead link.
"""

from __future__ import annotations

import asyncio
import traceback
from functools import partial
from typing import TYPE_CHECKING

from batchflux.engine.batching import Batches, SetAside, read_answer
from batchflux.engine.limits.rate_limiter import UNKNOWN, ElsewhereError
from batchflux.engine.pictures import Pictures
from batchflux.engine.recovery import Recovery
from batchflux.engine.retry import Retrying, RetryQuota, Tries
from batchflux.engine.shutdown import Halted
from batchflux.engine.steps import ROOM_PAUSE, Steps, Uploads, awaits_room, check_wanted, learn
from batchflux.engine.task_polls import GRACE, Attempt, JobRun, TaskPolls
from batchflux.errors import RULES, Code, JobError, StopRun
from batchflux.failpoints import reach
from batchflux.models import Cost, Finished, Leaving, Link, Received, Submitted
from batchflux.redaction import hushed, tidy, without_own, without_signatures

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from batchflux.engine.limits.key_pool import Lease
    from batchflux.engine.ports import World
    from batchflux.engine.services import Service
    from batchflux.engine.settings import Rules
    from batchflux.ledger.reconcile import Work
    from batchflux.models import Exchanged, Job, Stored


class JobRunner:
    """Performs the steps of jobs over the engine's ports and limits."""

    def __init__(self, world: World, rules: Rules) -> None:
        self._world, self._rules = world, rules
        self._executor, self._ledger, self._gate = world.executor, world.ledger, world.gate
        self._event, self._clock = world.observer.event, asyncio.get_running_loop().time
        self._services, self._canary = rules.services, rules.canary
        for service in self._services:
            service.outages.event = partial(world.observer.event, provider=service.name)
            service.outages.wall = world.now
        self._secrets = [*world.wakes.secrets, *(key.secret for key in self._services.keys if key.secret is not None)]
        self._quota, self._steps = RetryQuota(world.gate), Steps(world.executor)
        self._tasks, self._uploads = TaskPolls(world, self._steps.exchange), Uploads(world, self._steps)
        self._recovery = Recovery(world, self._steps, self._uploads, self._received)
        self.pictures, self.batches = Pictures(world, rules, self._recovery.relinked), Batches(world, rules)

    def begin(self, work: Work, began: float) -> JobRun:
        """Return the run of a job that begins at epoch second `began`, at the provider that made something of it."""
        service, tries = self._services.of(work.job), Tries(used=work.used, resent=work.resent, again=work.again)
        paid = self._rules.budget_of(work.job)
        run = JobRun(work=work, own=work.job, service=service, budget=paid, tries=tries, began=began)
        run.answered, run.refused, run.placed = work.answered, set(work.refused), work.placed
        if (way := work.made_by) is not None and way.provider != service.name and not self._services.single:
            maker = self._services.named(way.provider)
            run.stranger = f"provider {way.provider}" if maker is None else None
            if maker is not None:
                run.service = maker
                run.turn_to(work.job.by(way))
        if run.stranger is None and (address := run.service.limits.gone(work.key_name)):
            run.stranger = f"address {address}"
        return run

    def conclude(self) -> None:
        """Say why the run ends with jobs that it had no leave to buy, if it does."""
        self._canary.conclude()
        self._services.conclude()

    def on_time(self) -> AbstractContextManager[None]:
        """Hold the run to its deadline while this is entered."""
        return self._rules.deadline.watch()

    async def see_through(self, run: JobRun) -> Stored:
        """Take a job from where it stands to its picture in place.

        A picture that is whole and refused its place is returned too. Raises JobError: the job ended without one;
        Halted: the run stops; the job stays where it is.
        """
        if not (run.work.costs or run.placed):
            run.free = True
            self._canary.free_begun(run.work.job)
        run.attempt = run.work.attempt or 0
        try:
            if run.work.lost:
                await self._recovery.taken_up(run)
            stored = await self._seen_through(run)
        except JobError as error:
            self._vacate(run, error)
            raise
        except SetAside:
            self._vacate(run, None)
            raise
        except (Halted, StopRun, asyncio.CancelledError) as end:
            self._vacate(run, None)
            run.service.left |= run.service.gate.closed
            if isinstance(end, Halted) and run.answered is not None:  # or each run might ask again, at a price
                raise JobError(*run.answered) from end
            raise
        except Exception as error:
            failure = self._own_fault(run, error)
            self._vacate(run, failure)
            raise failure from error
        finally:
            self.pictures.free_over(run)
        if stored.refused is None:
            await self._canary.kept(run.work.job, placed=run.placed)
        else:
            self._vacate(run, JobError(*stored.refused))
        return stored

    async def _seen_through(self, run: JobRun) -> Stored:
        work = run.work
        if work.verdict is not None:
            raise JobError(*work.verdict)
        asset = work.picture
        run.resumes = asset is None and work.handle is not None
        if work.job.fault is not None and asset is None and not run.resumes:
            raise JobError(Code.REFERENCE, work.job.fault)
        if run.resumes and run.stranger is not None:
            remedy = "put it back, so that the task can be asked for; nothing is sent anew"
            what = f"the manifest has no {run.stranger}, which has this job's task"
            raise JobError(Code.UNKNOWN, f"{what}: {remedy}")
        if asset is None and work.answer is not None:
            asset = await self._read_again(run, work.answer)
        received = asset
        while True:
            if asset is None:
                asset = await self._api(run)(lambda: self._attempt(run), run.tries)
            try:
                return await self.pictures.collect(run, asset)
            except JobError as error:
                # Bytes that came with the answer just now and are no picture cannot be fetched again: it was no answer.
                no_answer = isinstance(asset, str) and asset is not received and error.code is Code.BAD_IMAGE
                if asset is received and work.renew and (error.dead or work.pay_again):
                    self._event("link_dead", id=work.job.id, message=error.message)
                    run.downloads = Tries()
                    self.pictures.relieve(run)
                elif no_answer and not error.final and run.service.policy.asks_again(run.tries):
                    self._event("bad_picture", id=work.job.id, message=error.message)
                    run.answered = error.code, error.message
                else:
                    raise
                self._vacate(run, error)
                asset = None

    async def _read_again(self, run: JobRun, read: Callable[[], Finished]) -> Link | str:
        """Take the picture out of an answer that an earlier attempt was given; that costs nothing more."""
        finished = await asyncio.to_thread(read)
        batched = await self._world.batches.has(run.attempt)
        received = await self._received(run, finished, run.service.told(run.work.job, finished.cost, batched=batched))
        if received.cost is not None:  # the budget counts its price already, as possibly billed
            counted = run.service.paid(batched=batched).price_of(run.work.job)
            run.budget.settle(0, max(0, received.cost - counted), earlier=True)
        run.attempt = await self._ledger.found(run.attempt, received)
        reach("answer.recorded")
        self._event("answer_read_again", id=run.work.job.id, attempt=run.attempt)
        return received.asset

    def _own_fault(self, run: JobRun, error: Exception) -> JobError:
        """Return what an exception that nobody foresaw comes to: it ends this job, and what was paid for it is kept."""
        what = tidy(hushed(f"{type(error).__name__}: {error}", self._secrets))
        place = "".join(traceback.format_tb(error.__traceback__))
        self._event(Code.INTERNAL.value, id=run.work.job.id, message=what, traceback=place)
        return JobError(Code.INTERNAL, f"batchflux failed in this job ({what}); run.log has the place")

    def _vacate(self, run: JobRun, error: JobError | None) -> None:
        """End what the job's request has of the canary: it gave no picture, or none that was kept."""
        if run.placed:
            run.placed = False
            self._canary.ended(run.work.job, error)

    async def _attempt(self, run: JobRun) -> Link | str:
        """Make one attempt, or take up the one of an earlier run; return its picture.

        The job's own provider comes first, each time; another takes it while that is not there, or takes no request.
        """
        if run.resumes:
            return await self._resumed(run)
        retried = run.tries.used + run.tries.excused > run.work.used
        if retried and not self.batches.takes(run.own):
            await self._quota.take()
        self.pictures.free_over(run)
        halted, waits = list["Service"](), True
        while waits:
            waits = False
            for job in self._services.ways(run.own, run.refused):
                run.service = self._services.of(job)
                run.turn_to(job)
                await self.batches.set_aside(run)
                try:
                    return await self._bought(run, retried=retried)
                except ElsewhereError:
                    waits = True
                    if run.service.there:
                        break  # one that comes before it is back
                except Halted:
                    self._goes_elsewhere(run)
                    halted.append(run.service)
                except JobError as error:
                    if not self._goes_on(run, error):
                        raise
        self._services.leave(halted)
        raise Halted

    async def _resumed(self, run: JobRun) -> Link | str:
        try:
            return await self._made(run, retried=False)
        except JobError as error:
            self._vacate(run, error)
            raise

    def _goes_elsewhere(self, run: JobRun) -> None:
        """Raise Halted when the whole run stops, or the job's request is out, or is not wanted."""
        self._gate.check()
        if run.out or run.withdrawn:
            raise Halted

    def _goes_on(self, run: JobRun, error: JobError) -> bool:
        """Whether another provider is to make a job; the one that refused it is asked no more, nor in a later run."""
        if error.code.value not in self._rules.fallback_on:
            return False  # a frame that raised it would hold it, and it the answer that it came of
        run.answered = error.code, error.message
        run.refused.add(run.service.name)
        self._event("handed_on", id=run.own.id, provider=run.service.name)
        return bool(self._services.ways(run.own, run.refused))

    def _elsewhere(self, run: JobRun, away: bool) -> bool:  # noqa: FBT001  as the limits call it
        """Whether another provider can make the job at once: any while this one is `away`, else one before it."""
        ways = self._services.ways(run.own, run.refused)
        own = next((n for n, job in enumerate(ways) if self._services.of(job) is run.service and not away), len(ways))
        return any(self._services.of(job).there and not self._canary.stops(job) for job in ways[:own])

    async def _bought(self, run: JobRun, *, retried: bool) -> Link | str:
        """Make one attempt at one provider."""
        await self._canary.take(run.work.job)
        run.placed = True
        try:
            return await self._made(run, retried=retried)
        except JobError as error:
            self._vacate(run, error)
            raise
        except (Halted, ElsewhereError):
            self._vacate(run, None)
            raise

    async def _made(self, run: JobRun, *, retried: bool) -> Link | str:
        attempt = await (self._taken_up(run) if run.resumes else self._departure(run))
        job = attempt.job
        run.attempt = attempt.number
        try:
            try:
                with run.service.times.watch(job.id, None if run.resumes else job.model):
                    exchanged = await self._asked(run, attempt)
                kept = await self._captured(run, attempt, exchanged)
            except JobError as error:
                await self._failed(run, attempt, error)
                raise
            except (Halted, StopRun):
                run.answered, run.out = None, True  # what is out may bring another answer
                raise
            except Exception as error:
                failure = self._own_fault(run, error)
                await self._failed(run, attempt, failure)
                raise failure from error
            finally:
                run.resumes = False
        finally:
            self._recovery.out.pop(attempt.number, None)
            run.service.limits.release(attempt.lease)
        self._quota.succeeded(retried=retried)
        if not attempt.batched:
            self._rules.deadline.took(self._clock() - attempt.began)
        return kept

    async def _asked(self, run: JobRun, attempt: Attempt) -> Exchanged:
        """Submit a job and follow its task, or follow the task of an earlier run, to the picture."""
        job, provider = attempt.job, run.service.wire(attempt.job)
        if run.resumes and run.work.batched is not None:
            return await read_answer(provider, job, run.work.batched)
        if run.resumes:
            return await self._tasks.followed(run, attempt, provider, run.work.handle or "")
        run.tries.used += 1
        reach("request.leaving")
        hooked = self._world.wakes.hooked(job)
        request = provider.submit(hooked, attempt.number)
        self._recovery.out[attempt.number] = provider, job
        try:
            exchanged = await self._steps.exchange(run, request, provider, attempt.lease, paid=True)
        except JobError as error:
            if (found := await self._recovery.accepted(run, attempt, provider, job, error)) is None:
                raise
            exchanged = found
        reach("answer.received")
        run.service.limits.answered(attempt.lease, exchanged.pause)
        reply = exchanged.reply
        if not isinstance(reply, Submitted):
            return exchanged
        cost = run.service.told(run.work.job, reply.cost)
        await self._ledger.submitted(attempt.number, reply.handle, cost)
        self._recovery.out.pop(attempt.number, None)
        reach("handle.recorded")
        if not attempt.lease.held:  # it was looked for, and gave its slot to others meanwhile
            attempt.lease = await run.service.limits.resume(attempt.key_name)
        if cost is not None:
            run.budget.adjust(attempt.reserved, cost)
            attempt.reserved = cost
        attempt.accepted, attempt.late_at = True, lambda: run.service.times.due(attempt.began)
        attempt.hooked, run.task = hooked is not job, (attempt.number, reply.handle, attempt.key_name)
        return await self._tasks.followed(run, attempt, provider, reply.handle)

    async def _captured(self, run: JobRun, attempt: Attempt, exchanged: Exchanged) -> Link | str:
        """Record the picture of an attempt before anything is done with it."""
        finished = exchanged.reply
        if not isinstance(finished, Finished):
            raise TypeError(f"a provider's reader returned {finished!r} where only a picture can be meant")
        cost = run.service.told(run.work.job, finished.cost, batched=attempt.batched)
        run.budget.settle(attempt.reserved, attempt.reserved if cost is None else cost, earlier=attempt.earlier)
        attempt.reserved = 0
        run.api_seconds = None if attempt.batched else exchanged.seconds
        # A picture that came inside keeps its slot until it is kept: room on the disk is for so many.
        received = await self._received(run, finished, cost, run.api_seconds)
        await self._ledger.captured(attempt.number, received)
        run.answered = None
        reach("answer.recorded")
        return received.asset

    async def _received(self, run: JobRun, finished: Finished, cost: int | None, took: float | None = None) -> Received:
        """Return what the ledger records of a picture, whose bytes are kept where they came with the answer."""
        prompt = finished.revised_prompt
        return Received(
            asset=await self.pictures.kept(run, finished),
            cost=cost,
            api_seconds=took,
            seed_used=finished.seed,
            revised_prompt=prompt and without_own(without_signatures(prompt), run.work.job, self._secrets),
            receipt=finished.receipt,
            handle=finished.handle,
            more=run.more,
        )

    async def _departure(self, run: JobRun) -> Attempt:
        """Take a lease, reserve the money, authorize the attempt, and wait for its moment."""
        run.turn_to(await self._world.ready(run.work.job))
        service = run.service
        failures = UNKNOWN if run.tries.resent else run.tries.used + run.tries.excused
        while True:
            lease = await service.limits.acquire(failures, run.rest, partial(self._elsewhere, run))
            attempt, reserved = None, False
            price = service.most_of(run.work.job)
            try:
                self._rules.deadline.check(self._clock())
                waits = awaits_room(self._world, self._services.in_flight)
                service.gate.check()
                check_wanted(self._world, run)
                job = run.work.job if waits else await self._uploads.done(run, lease)
                if not waits and (reserved := run.budget.try_reserve(price)):
                    attempt = await self._authorized(run, lease, price, job)
            finally:
                if attempt is None:
                    service.limits.release(lease)
            if attempt is not None:
                return attempt
            if waits:
                await self._gate.sleep(ROOM_PAUSE)
            elif not reserved:  # what waits for money does not hold a slot
                await run.budget.wait(price)

    async def _authorized(self, run: JobRun, lease: Lease, price: int, placed: Job) -> Attempt | None:
        """Record the attempt and wait for its moment; None when it has to begin anew. Links are signed then."""
        job, sent = run.work.job, None
        leaving = Leaving(
            provider=job.provider, key_name=lease.key.name, model=job.model, price=price, at=self._world.now()
        )
        try:
            number = await self._ledger.authorize(job, leaving)
            reach("attempt.intended")
            try:
                if await run.service.limits.depart(lease):
                    sent = await self._uploads.signed(placed)
            finally:
                if sent is None:
                    await self._ledger.voided(number, unanswered=run.tries.resent > 0)
                    reach("attempt.withdrawn")
        finally:
            if sent is None:
                run.budget.settle(price, 0)
        if sent is None:
            return None
        name = lease.key.name
        return Attempt(number=number, job=sent, lease=lease, reserved=price, began=self._clock(), key_name=name)

    async def _taken_up(self, run: JobRun) -> Attempt:
        """Take a lease for a task that an earlier run submitted; its money counts as reserved again."""
        work = run.work
        lease = await run.service.limits.resume(work.key_name)
        self.batches.hand_over(work)
        run.budget.take_up(work.price)
        began = self._clock()
        age, longest = max(0.0, self._world.now() - (work.sent_at or 0.0)), run.service.times.longest
        late_at = began + max(longest - age, min(longest, GRACE))
        return Attempt(
            number=work.attempt or 0,
            job=work.job,
            lease=lease,
            reserved=work.price,
            began=began,
            key_name=work.key_name,
            accepted=True,
            batched=work.batched is not None,
            earlier=not work.placed,
            late_at=lambda: late_at,
        )

    async def _failed(self, run: JobRun, attempt: Attempt, error: JobError) -> None:
        """Record that an attempt gave no picture, and let limits, breaker and budget learn from it."""
        error.message, told = without_own(error.message, attempt.job, self._secrets), attempt.told(error.code)
        counts = learn(run, attempt.lease, error, self._clock(), accepted=attempt.accepted, counts=told)
        if error.code is Code.UNKNOWN or RULES[error.code].retry == "once":
            run.answered = None if error.code is Code.UNKNOWN else (error.code, error.message)
        bill = Cost(amount=error.amount, tokens=error.tokens or {}) if error.billed and error.tells_cost else None
        cost = run.service.told(run.work.job, bill, batched=attempt.batched)
        spent = 0 if not error.billed else attempt.reserved if cost is None else cost
        run.budget.settle(attempt.reserved, spent, earlier=attempt.earlier)
        reach("attempt.failing")
        body, error.answer = error.answer, None
        answer = None if body is None else await self._executor.keep_answer(attempt.job, attempt.number, body)
        unanswered = run.tries.resent > 0
        await self._ledger.failed(attempt.number, error, counts=counts, cost=cost, answer=answer, unanswered=unanswered)
        reach("attempt.settled")
        await self._uploads.doubt(attempt.job, error.code)
        said = {"id": run.work.job.id, "code": error.code.value, "message": error.message}
        self._event("attempt_failed", attempt=run.tries.used, **said)

    def _api(self, run: JobRun) -> Retrying:
        """Return what tries attempts at a job again, as its provider's limits say."""

        def decide(tries: Tries, error: JobError) -> float | None:
            delay = run.service.policy.api(tries, error, self._world.random)
            return 0.0 if delay is not None and self.batches.takes(run.own) else delay  # the next batch is later anyway

        return Retrying(decide, self._world.gate.sleep)
