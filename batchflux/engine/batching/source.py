"""The source of a run's work, with batches: what is to be sent in one is put aside, and comes back with its answer.

A batch leaves when it is full; or when the source has no more for now, and nothing that is under way at its provider
could still join it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from batchflux.engine.batching.asking import Asking
from batchflux.engine.batching.following import Following
from batchflux.engine.batching.forming import Departures
from batchflux.engine.batching.rooms import NEVER, Group, Room, Rooms, SetAside
from batchflux.engine.shutdown import Halted
from batchflux.engine.steps import with_bytes
from batchflux.errors import Code, StopRun

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from batchflux.capabilities import BatchTerms
    from batchflux.engine.ports import Source, World
    from batchflux.engine.services import Service
    from batchflux.engine.settings import Rules
    from batchflux.engine.task_polls import JobRun
    from batchflux.ledger.batches import Batch
    from batchflux.ledger.reconcile import Work
    from batchflux.models import Job

MOST = 50_000  # jobs that wait in batches, or for one to leave: more are not read from the source


class Batches:
    """Puts jobs aside for batches, sends them, and gives them out again; a Source, `along` another.

    It does nothing in a run without any.
    """

    def __init__(self, world: World, rules: Rules) -> None:
        self._world, self._gate, self._services, self._canary = world, world.gate, rules.services, rules.canary
        self._rooms, asking = Rooms(world, rules), Asking(world)
        self._departures = Departures(world, rules, self._rooms, asking)
        self._following = Following(world, self._rooms, asking)
        self._groups: dict[tuple[str, str, str, str], Group] = {}
        self._live_at = {
            service.name: service.batching.live_from(world.now())
            for service in self._services
            if service.batching is not None and service.batching.live_from is not None
        }
        self._source: Source | None = None
        self._orphans: dict[str, str] = {}  # batches of providers that are no more, or sell none
        self._exhausted = False
        self._given: Counter[str] = Counter()
        self._tasks: dict[asyncio.Task[None], Service] = {}
        self._timers: list[asyncio.TimerHandle] = []
        self._stopped = False
        self._crash: Exception | None = None
        self.waiting_for = self._rooms.waiting_for

    async def along(self, source: Source) -> Source:
        """Return the source of a run's work, given one that knows no batches."""
        batches = await self._world.batches.open()
        if not batches and not any(one.batching is not None and one.batching.on for one in self._services):
            return source
        self._source = source
        for batch in batches:
            self._take_in(batch)
        loop = asyncio.get_running_loop()
        for service in self._services:
            service.gate.on_close(self._closed)
            if (at := self._live_at.get(service.name)) is not None:
                self._timers.append(loop.call_later(max(0.0, at - self._world.now()), self._turn_live, service))
        return self

    async def take(self) -> Work | None:
        """Return the next job to work on, None when there is no more."""
        if self._source is None:
            raise RuntimeError("it is along no source")
        while True:
            if self._crash is not None:
                raise self._crash
            if self._rooms.ready and not self._gate.closed:
                return self._give(self._rooms.ready.popleft())
            if not self._exhausted and (self._gate.closed or not self._full):
                work = await self._source.take()
                if (work := self._seen(work)) is not None:
                    return self._give(work)
            elif self._gate.closed or self._finished:
                return None
            else:
                await self._rooms.change()

    async def answer(self) -> Work | None:
        """Return the next job that a batch has answered, None when there is no more.

        Those who wait for it do nothing else: all others may wait for the money that batches hold.
        """
        while True:
            if self._crash is not None:
                raise self._crash
            if self._gate.closed or self._finished:
                return None
            if self._rooms.answers:
                return self._give(self._rooms.answers.popleft())
            await self._rooms.change(answers=True)

    def takes(self, job: Job) -> bool:
        """Whether a job is to be sent in a batch, and can be now."""
        service = self._services.of(job)
        if self._source is None or service.batching is None or not service.batching.on:
            return False
        if job.key in self._rooms.live or self._world.now() >= self._live_at.get(service.name, NEVER):
            return False
        return not (service.gate.closed or self._canary.stops(job)) and self._terms(service, job) is not None

    async def set_aside(self, run: JobRun) -> None:
        """Put a job aside that is to be sent in a batch, by raising SetAside. JobError: its photos cannot be had."""
        if not self.takes(run.work.job):
            return
        job = await with_bytes(self._world, run, await self._world.ready(run.work.job))
        terms = self._terms(run.service, job)
        api = run.service.wire(job).batches
        if terms is None or api is None or not self.takes(job):
            return
        kind = api.kind(job)
        group = self._groups.get((job.provider, job.model, job.style, kind))
        if group is None:
            group = Group(service=run.service, provider=run.service.wire(job), api=api, terms=terms, kind=kind)
            self._groups[job.provider, job.model, job.style, kind] = group
        group.waiting.append((_aside(run), job))
        raise SetAside

    def hand_over(self, work: Work) -> None:
        """Let the price of a job, whose answer is taken now, be spent as that of any task of before."""
        self._rooms.hand_over(work)

    def over(self, work: Work) -> None:
        """Take note that a worker is through with work that it was given."""
        if self._source is None:
            return
        self._given.subtract(self._who(work.job))
        self._rooms.over(work)
        self._look()

    async def ended(self) -> None:
        """Wait until no batch is under way any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def stop(self) -> list[asyncio.Task[None]]:
        """Stop at once; return what is left to be waited for."""
        self._stopped = True
        for timer in self._timers:
            timer.cancel()
        return list(self._tasks)

    @property
    def _full(self) -> bool:
        waiting = sum(len(group.waiting) for group in self._groups.values())
        return waiting + self._rooms.filled >= MOST

    @property
    def _finished(self) -> bool:
        return self._exhausted and not (self._rooms.ready or self._rooms.answers or self._tasks or self._given.total())

    def _terms(self, service: Service, job: Job) -> BatchTerms | None:
        """Return how batches of a job's model are sold; None: they are not."""
        provider = service.wire(job)
        return None if provider.batches is None else provider.capabilities(job.model).for_model(job.model).batch

    def _who(self, job: Job) -> set[str]:
        """Return by their names who may make a job."""
        return {self._services.of(way).name for way in self._services.ways(job)}

    def _give(self, work: Work) -> Work:
        self._given.update(self._who(work.job))
        return work

    def _seen(self, work: Work | None) -> Work | None:
        """Return work of the source that a worker can do; what waits for a batch of an earlier run goes to its room."""
        if work is None:
            self._exhausted = True
        if work is None or work.costs:
            self._rooms.settled.set()
        waits = work is not None and not (work.picture or work.answer or work.verdict)
        room = self._rooms.of.get(work.handle or "") if work is not None and waits else None
        if work is None or room is None:
            self._look()
            return _stranded(work, self._orphans.get(work.handle or "")) if work is not None and waits else work
        if room.service.gate.closed:
            room.service.left = True
        else:
            self._rooms.enter(room, work)
            if not room.followed:
                room.followed = True
                self._spawn(partial(self._following.follow, room), room.service)
        self._look()
        return None

    def _take_in(self, batch: Batch) -> None:
        """Make a room for a batch of an earlier run."""
        service = next(iter(self._services)) if self._services.single else self._services.named(batch.provider)
        batching = None if service is None else service.batching
        api = None if batching is None else batching.seller.batches
        if service is None or batching is None or api is None:
            self._orphans[batch.name] = batch.provider
            return
        room = Room(batch=batch, service=service, provider=batching.seller, api=api, fresh=False)
        self._rooms.add(room)
        if not batch.out:  # its answers are taken, and it was not closed
            room.followed = True
            self._spawn(partial(self._following.follow, room), service)

    def _spawn(self, work: Callable[[], Awaitable[None]], service: Service) -> None:
        task = asyncio.create_task(self._guarded(work, service))
        self._tasks[task] = service
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._look()

    async def _guarded(self, work: Callable[[], Awaitable[None]], service: Service) -> None:
        try:
            await work()
        except Halted:
            return
        except asyncio.CancelledError:
            self._stopped |= not service.gate.closed
        except StopRun as reason:
            self._gate.close(reason)
        except Exception as error:  # noqa: BLE001  kept, and raised to a worker
            self._crash = self._crash or error

    def _look(self) -> None:
        """Let those batches leave that are due, and wake all when there is nothing more to wait for."""
        if self._full:
            self._rooms.settled.set()
        for group in () if self._gate.closed or self._stopped else self._groups.values():
            if group.waiting and not group.leaving and self._due(group):
                group.leaving = True
                self._spawn(partial(self._leave, group), group.service)
        if self._crash is not None or self._gate.closed or self._finished:
            self._rooms.wake()
        elif not self._full:
            self._rooms.wake(1)

    def _due(self, group: Group) -> bool:
        if len(group.waiting) >= group.terms.most:
            return True
        name = group.service.name
        return (self._exhausted or self._full) and not self._given[name] and name not in self._rooms.reading

    async def _leave(self, group: Group) -> None:
        """Let batches of a group leave while one is due; what is to go elsewhere is given back."""
        try:
            while group.waiting and self._due(group):
                await self._canary.ready(group.waiting[0][1])
                # What let it may be an answer of a batch whose others are still to come, and to be counted.
                room = await self._departures.leave(group) if group.waiting and self._due(group) else None
                if room is not None:
                    self._spawn(partial(self._following.follow, room), group.service)
        finally:
            group.leaving = False
            if group.waiting and not self.takes(group.waiting[0][1]):
                self._give_back(group)

    def _give_back(self, group: Group) -> None:
        while group.waiting:
            self._rooms.give(group.waiting.popleft()[0])

    def _turn_live(self, service: Service) -> None:
        """Send live what waits for a batch to leave; those that are out are cancelled by who follows them."""
        for group in self._groups.values():
            if group.service is service:
                self._give_back(group)

    def _closed(self) -> None:
        """End what is under way for a provider whose gate has closed, but for a request that costs money."""
        own = asyncio.current_task()  # which closed it, and finds it closed
        for task, service in self._tasks.items():
            if service.gate.closed and task is not own and task not in self._rooms.steady:
                task.cancel()
        self._rooms.wake()


def _stranded(work: Work, provider: str | None) -> Work:
    """Return the work on a job; without any, when its batch was sent to a `provider` that it cannot be asked of."""
    if provider is None:
        return work
    remedy = "put it back as it was, so that it can be asked for; nothing is sent anew"
    what = f"the manifest has no provider {provider} that sells batches, which has this job's: {remedy}"
    return replace(work, handle=None, verdict=(Code.UNKNOWN, what))


def _aside(run: JobRun) -> Work:
    """Return the work on a job as it stands in its run, for another run of it to go on."""
    tries = run.tries
    return replace(
        run.work,
        job=run.own,
        made_by=None,
        used=tries.used,
        resent=tries.resent,
        again=tries.again,
        answered=run.answered,
        refused=frozenset(run.refused),
        attempt=None,
        handle=None,
        picture=None,
        answer=None,
        price=0,
        batched=None,
        placed=False,
    )
