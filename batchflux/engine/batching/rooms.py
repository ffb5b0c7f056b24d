"""Who waits: jobs for a batch to leave, and, in the room of each batch, jobs for their answers; and their money.

A job in a room has its attempt on record, its price reserved and, of a kind that is not proven, a place of the canary.
It leaves the room with its answer, as work that costs nothing more; or, when the batch has none for it, as work that
begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from batchflux.engine.shutdown import Halted
from batchflux.errors import Code, JobError
from batchflux.failpoints import reach
from batchflux.models import Exchanged
from batchflux.transport.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batchflux.capabilities import BatchTerms
    from batchflux.engine.ports import World
    from batchflux.engine.services import Service
    from batchflux.engine.settings import Rules
    from batchflux.ledger.batches import Batch, Closing, Freed
    from batchflux.ledger.reconcile import Work
    from batchflux.models import Job, Reply
    from batchflux.providers import Provider
    from batchflux.providers.batches import BatchAnswer, BatchApi

AT_HAND = 16  # answers that are read and not yet taken: each may hold a picture
NEVER = math.inf
_DAY = 86_400.0  # seconds


class SetAside(Halted):
    """A job waits for a batch to leave; this ends the worker's part in it."""


@dataclass(slots=True, kw_only=True, eq=False)
class Group:
    """Jobs that may be in one batch, as work and as they are sent; `leaving` while some are about to."""

    service: Service
    provider: Provider
    api: BatchApi
    terms: BatchTerms
    kind: str
    waiting: deque[tuple[Work, Job]] = field(default_factory=deque)
    leaving: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class Room:
    """A batch, and the jobs that wait for its answers, by key.

    `fresh`: this run made it. `live_at` is the epoch second from which on its jobs are sent live, `cancelled` when the
    API was told so. `own`: the last answer about it came to the key that made it. `reading` while its answers are
    read; `busy` counts those that are handed out, and `idle` is set while none is.
    """

    batch: Batch
    service: Service
    provider: Provider
    api: BatchApi
    fresh: bool
    live_at: float = NEVER
    works: dict[str, Work] = field(default_factory=dict)
    cancelled: bool = False
    own: bool = True
    followed: bool = False
    reading: bool = False
    busy: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()

    @property
    def handle(self) -> str:
        """By which the API is asked for it, once that is known."""
        return self.batch.handle or ""


class Rooms:
    """The rooms of a run, and what comes out of them: `answers` of jobs, and what else is `ready`.

    `live` has the keys of jobs that are sent live now.
    `settled` is set when the source has no more, for now, that waits for a batch of an earlier run.
    """

    def __init__(self, world: World, rules: Rules) -> None:
        self._world, self._ledger, self._event = world, world.batches, world.observer.event
        self._budget, self._canary = rules.budget, rules.canary
        self.of: dict[str, Room] = {}
        self.ready: deque[Work] = deque()
        self.answers: deque[Work] = deque()
        self.live: set[str] = set()
        self.settled = asyncio.Event()
        self.began = world.now()
        self.steady: set[asyncio.Task[Any] | None] = set()
        self._held: dict[int, int] = {}
        self._space = asyncio.Event()
        self._space.set()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._listening: deque[asyncio.Future[None]] = deque()

    @property
    def reading(self) -> set[str]:
        """The names of the providers whose batches are being read."""
        return {room.service.name for room in self.of.values() if room.reading}

    @property
    def filled(self) -> int:
        """How many jobs wait."""
        return sum(len(room.works) for room in self.of.values())

    def waiting_for(self) -> str | None:
        """Return in words what waits in batches, None when nothing does."""
        rooms = [room for room in self.of.values() if room.works]
        if not rooms:
            return None
        jobs = sum(len(room.works) for room in rooms)
        left, live = min(room.batch.sent_at for room in rooms), min(room.live_at for room in rooms)
        what = "a batch that left" if len(rooms) == 1 else f"{len(rooms):,} batches, of which the first left"
        then = "" if live == NEVER else f"; live from {_clock(live)} on"
        return f"for {jobs:,} {'job' if jobs == 1 else 'jobs'} in {what} at {_clock(left)}{then}"

    async def change(self, *, answers: bool = False) -> None:
        """Wait until there may be something ready, or `answers`, or nothing more to wait for."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._listening if answers else self._waiting).append(future)
        await future

    def wake(self, most: int | None = None) -> None:
        """Wake those who wait for a change, or so many of those who wait for something ready."""
        _wake(self._waiting, most)
        if most is None:
            _wake(self._listening, None)

    @contextlib.contextmanager
    def unbroken(self) -> Iterator[None]:
        """Let what is done within end when the run stops, before it does."""
        task = asyncio.current_task()
        self.steady.add(task)
        try:
            yield
        finally:
            self.steady.discard(task)

    def add(self, room: Room) -> None:
        """Take a room in."""
        self.of[room.batch.name] = room
        room.live_at = self.live_at(room)

    def live_at(self, room: Room) -> float:
        """Return from which epoch second on what is in a batch is sent live."""
        batching = room.service.batching
        if batching is None or batching.live_from is None:
            return NEVER
        return batching.live_from(self.began if room.fresh else room.batch.sent_at)

    async def opened(self, room: Room, handle: str) -> None:
        """Record by which handle the API knows a batch."""
        await self._ledger.recorded(room.batch.number, handle)
        reach("batch.recorded")
        room.batch = replace(room.batch, state="open", handle=handle)
        said = {"provider": room.service.name, "batch": room.batch.name, "handle": handle}
        self._event("batch_open", **said, jobs=len(room.works))

    def end(self, work: Work, error: JobError) -> None:
        """Let a job end with an error, of which nothing is out."""
        self.give(_ended(work, error))

    def give(self, work: Work) -> None:
        """Let a worker have work."""
        if work.batched is None:
            self.ready.append(work)
            self.wake(1)
        else:
            self.answers.append(work)
            _wake(self._listening, 1)

    def enter(self, room: Room, work: Work) -> None:
        """Let a job of an earlier run wait in its batch's room: its price may come back, and its picture tell."""
        room.works[work.job.key] = work
        self._budget.take_up(work.price)
        self._canary.free_begun(as_made(work))

    async def hand(self, room: Room, answer: BatchAnswer) -> None:
        """Give out the job of an answer, when few others are at hand; one that is not in the room has its own."""
        if answer.key not in room.works:
            return
        await self._space.wait()
        work = room.works.pop(answer.key)
        reach("batch.answered")
        self._held[work.attempt or 0] = work.price
        room.busy += 1
        room.idle.clear()
        if len(self._held) >= AT_HAND:
            self._space.clear()
        self.give(replace(work, batched=answer))

    def hand_over(self, work: Work) -> None:
        """Let the price of a job, whose answer is taken now, be spent as that of any task of before."""
        price = self._held.get(work.attempt or 0)
        if price is not None and work.batched is not None:
            self._held[work.attempt or 0] = 0
            self._budget.settle(price, price)

    def over(self, work: Work) -> None:
        """End what a job that was handed out has of its room."""
        if work.batched is None:
            return
        self.hand_over(work)
        self._held.pop(work.attempt or 0)
        if len(self._held) < AT_HAND:
            self._space.set()
        if not work.placed:
            self._canary.free_over(as_made(work))
        room = self.of[work.handle or ""]
        room.busy -= 1
        if not room.busy:
            room.idle.set()

    async def close(self, room: Room, closing: Closing) -> Freed:
        """Record how a batch ended; what it has no answer for begins anew, or ends with the closing's error."""
        with self.unbroken():
            freed = await self._ledger.closed(room.batch.number, closing)
        reach("batch.closed")
        self._budget.settle(0, freed.again)
        for key, price in freed.ended.items():
            self._freed(room, key, price, closing.error)
        self._event(
            "batch_closed",
            provider=room.service.name,
            batch=room.batch.name,
            state=closing.end,
            answers=len(closing.answered),
            without=len(freed.ended),
            again=sum(closing.again.values()),
        )
        return freed

    def strand(self, room: Room, error: JobError) -> None:
        """End the jobs of a batch for this run with an error that says nothing of them: the next one asks again."""
        self._leave(room.works.values(), error)
        for work in room.works.values():
            self.give(_ended(work, error))
        room.works.clear()

    def left(self, room: Room) -> None:
        """Leave a batch to the next run."""
        room.service.left |= room.service.gate.closed and bool(room.works)
        self._leave(room.works.values(), None)
        room.works.clear()

    def _leave(self, works: Iterable[Work], error: JobError | None) -> None:
        for work in works:
            self._budget.settle(work.price, work.price)
            self._vacate(work, error)

    def _freed(self, room: Room, key: str, price: int, error: JobError | None) -> None:
        spent = price if error is not None and error.billed else 0
        work = room.works.pop(key, None)
        if work is None:  # an earlier run's, and not to be done in this one
            self._budget.settle(0, spent - price, earlier=True)
            return
        self._budget.settle(price, spent, earlier=not work.placed)
        self._vacate(work, error)
        if error is not None:
            self.give(_ended(work, error))
            return
        if self._world.now() >= room.live_at:
            self.live.add(key)
        self.give(replace(_begun_anew(work), used=max(0, work.used - 1)))

    def _vacate(self, work: Work, error: JobError | None) -> None:
        """End what a job that has no answer has of the canary."""
        if work.placed:
            self._canary.ended(as_made(work), error)
        else:
            self._canary.free_over(as_made(work))


def _wake(waiting: deque[asyncio.Future[None]], most: int | None) -> None:
    while waiting and most != 0:
        future = waiting.popleft()
        if not future.done():
            future.set_result(None)
            most = None if most is None else most - 1


def _clock(at: float) -> str:
    """Return the local time of an epoch second, with its day where that is not the last or the next such time."""
    far = abs(at - time.time()) >= _DAY
    return f"{datetime.fromtimestamp(at).astimezone():{'%m-%d %H:%M' if far else '%H:%M'}}"


def as_made(work: Work) -> Job:
    """Return the job of a work as it was sent."""
    way = work.made_by
    return work.job if way is None or way.provider == work.job.provider else work.job.by(way)


def _begun_anew(work: Work) -> Work:
    """Return the work on a job of which nothing is out."""
    return replace(
        work, attempt=None, handle=None, key_name=None, sent_at=None, price=0, made_by=None, placed=False, batched=None
    )


def _ended(work: Work, error: JobError) -> Work:
    """Return the work on a job that has ended."""
    return replace(_begun_anew(work), verdict=(error.code, error.message))


async def read_answer(provider: Provider, job: Job, answer: BatchAnswer) -> Exchanged:
    """Return what a batch answered for a job, read as the answer of a single request.

    Raises JobError, as that would; an answer that a gateway gave up is none: the batch knows what it made.
    """

    def read() -> Reply:
        reader = provider.answers(job, answer.status, {})
        reader.feed(answer.body)
        return reader.finish(complete=True)

    try:
        return Exchanged(reply=await in_thread(read), seconds=0.0)
    except JobError as error:
        if error.code is Code.UNKNOWN:
            error.code = Code.SERVER
        raise
