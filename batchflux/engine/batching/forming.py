"""Sends batches: money and attempts for all jobs of one first, then its file, and last the request that creates it."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from batchflux.engine.batching.rooms import Room
from batchflux.engine.limits.rate_limiter import ElsewhereError
from batchflux.engine.outages import away
from batchflux.engine.shutdown import Halted
from batchflux.errors import RULES, Code, JobError, StorageError
from batchflux.failpoints import reach
from batchflux.ledger.batches import Batch, Closing
from batchflux.models import Leaving, Missing, Submitted, Uploaded, Way
from batchflux.transport.lines import size_of

if TYPE_CHECKING:
    from batchflux.engine.batching.asking import Asking
    from batchflux.engine.batching.rooms import Group, Rooms
    from batchflux.engine.limits.key_pool import Key, Lease
    from batchflux.engine.limits.rate_limiter import Rest
    from batchflux.engine.ports import World
    from batchflux.engine.settings import Rules
    from batchflux.ledger.reconcile import Work
    from batchflux.models import Job, LocalFile

BREATH = 64  # jobs that are looked at before others have their turn
LONGEST_PAUSE = 60.0  # seconds between two requests that create the same batch, where none left


class Chosen(NamedTuple):
    """A job that is about to leave: its price is reserved, and it has its place of the canary."""

    work: Work
    job: Job
    price: int


class Departures:
    """Sends batches of groups of jobs, within the budget and the canary's places."""

    def __init__(self, world: World, rules: Rules, rooms: Rooms, asking: Asking) -> None:
        self._world, self._executor, self._ledger = world, world.executor, world.batches
        self._event = world.observer.event
        self._budget, self._canary = rules.budget, rules.canary
        self._rooms, self._asking = rooms, asking
        self._clock = asyncio.get_running_loop().time

    async def leave(self, group: Group) -> Room | None:
        """Let a batch of what waits in a group leave; return its room once the API has it, None: it never came to be.

        Raises Halted: the run stops; what waits stays where it is.
        """
        job = group.waiting[0][1]
        group.service.gate.check()
        key = _key_of(group)
        chosen = await self._chosen(group)
        if not chosen:
            if group.waiting:
                await self._budget.wait(group.service.most_of(job, batched=True))
            return None
        name = uuid.uuid4().hex
        try:
            room, file = await self._authorized(group, key, name, chosen)
            return room if room is not None and await self._came_to_be(room, key, file) else None
        finally:
            await self._executor.drop_lines(name)

    async def _chosen(self, group: Group) -> list[Chosen]:
        """Take as many jobs as the API takes at once, the canary has places for, and there is money for."""
        chosen: list[Chosen] = []
        try:
            await self._choose(group, chosen)
        except asyncio.CancelledError:
            self._put_back(group, chosen)
            raise
        return chosen

    async def _choose(self, group: Group, chosen: list[Chosen]) -> None:
        terms, size = group.terms, 0
        while group.waiting and len(chosen) < terms.most:
            work, job = group.waiting[0]
            unproven = terms.unproven is not None and not self._canary.passed(job)
            if not self._canary.room(job) or (unproven and len(chosen) >= (terms.unproven or 0)):
                break
            try:
                size += _size_in(group, job)
            except JobError as error:
                group.waiting.popleft()
                self._rooms.end(work, error)
                continue
            price = group.service.most_of(job, batched=True)
            if size > terms.most_bytes or not self._budget.try_reserve(price):
                break
            self._canary.place(job)
            chosen.append(Chosen(*group.waiting.popleft(), price))
            if len(chosen) % BREATH == 0:
                await asyncio.sleep(0)

    def _put_back(self, group: Group, chosen: list[Chosen]) -> None:
        for one in reversed(chosen):
            self._vacate(one, None)
            group.waiting.appendleft((one.work, one.job))

    async def _authorized(
        self, group: Group, key: Key, name: str, chosen: list[Chosen]
    ) -> tuple[Room | None, LocalFile]:
        """Write the file of a batch, and record it with an attempt a job; None: no job could be written."""
        lines = ((one.job.key, group.api.line(one.job, one.job.key)) for one in chosen)
        try:
            written = await self._executor.write_lines(name, lines)
        except (Halted, StorageError, asyncio.CancelledError):
            self._put_back(group, chosen)
            raise
        reach("batch.written")
        for one in chosen:
            if (error := written.left_out.get(one.job.key)) is not None:
                self._vacate(one, error)
                self._rooms.end(one.work, error)
        chosen = [one for one in chosen if one.job.key not in written.left_out]
        if not chosen:
            return None, written.file
        with self._rooms.unbroken():
            return await self._recorded(group, key, name, chosen), written.file

    def _vacate(self, one: Chosen, error: JobError | None) -> None:
        self._budget.settle(one.price, 0)
        self._canary.ended(one.job, error)

    async def _recorded(self, group: Group, key: Key, name: str, chosen: list[Chosen]) -> Room:
        service, at = group.service, self._world.now()
        whose: dict[str, Any] = {"provider": service.name, "key_name": key.name}
        sent = [(one.job, Leaving(model=one.job.model, price=one.price, at=at, **whose)) for one in chosen]
        number, *attempts = await self._ledger.authorize(name, group.kind, sent)
        reach("batch.authorized")
        batch = Batch(number=number, name=name, kind=group.kind, state="authorized", handle=None, sent_at=at, **whose)
        works = [_submitted(one, attempt, batch) for one, attempt in zip(chosen, attempts, strict=True)]
        room = Room(batch=batch, service=service, provider=group.provider, api=group.api, fresh=True)
        room.works = {work.job.key: work for work in works}
        self._rooms.add(room)
        return room

    async def _came_to_be(self, room: Room, key: Key, file: LocalFile) -> bool:
        """Send a batch that is on record; return whether the API has it, and take it back if not."""
        closing = Closing(end="voided")
        try:
            room.service.gate.check()
            uploaded = await self._asking.ask(room, room.api.upload(file))
            if not isinstance(uploaded, Uploaded):
                raise TypeError(f"an upload's reader returned {uploaded!r}")
            reach("batch.uploaded")
            if await self._created(room, key, uploaded.url):
                return True
        except JobError as error:
            error.billed = False  # it was refused, so nothing of it is out
            closing = Closing(end="failed", error=error)
        except (Halted, asyncio.CancelledError):
            if room.batch.state == "authorized":
                await self._rooms.close(room, closing)
            self._rooms.left(room)
            raise
        await self._rooms.close(room, closing)
        self._rooms.left(room)
        return False

    async def _created(self, room: Room, key: Key, file: str) -> bool:
        """Create a batch, again only when it is known that the API has none; return whether it has one.

        Raises JobError: the API refuses it as it is.
        """
        tries, rest, limits = 0, None, room.service.limits
        while True:
            try:
                lease = await limits.acquire(tries, rest, only=key)
            except ElsewhereError:
                return False
            try:
                if self._world.now() >= room.live_at:
                    return False
                if await self._sent(room, lease, file):
                    return True
            except JobError as error:
                rest = self._learned(room, lease, error)
                lost = error.billed or error.code is Code.SERVER
                if not (lost or RULES[error.code].free or RULES[error.code].retry == "limits"):
                    raise
                if not lost:
                    room.batch = replace(room.batch, state="authorized")
            finally:
                limits.release(lease)
            if room.batch.state == "leaving":
                return await self._accepted(room)
            tries += 1
            await room.service.gate.sleep(min(2.0 ** min(tries, 30), LONGEST_PAUSE))

    async def _sent(self, room: Room, lease: Lease, file: str) -> bool:
        """Send the request that creates a batch, and record its handle; return False when it is not to leave yet."""
        number, sent_at = room.batch.number, self._world.now()
        with self._rooms.unbroken():
            await self._ledger.leaves(number, sent_at)
            reach("batch.leaving")
            if not await room.service.limits.depart(lease):
                return False
            room.batch = replace(room.batch, state="leaving", sent_at=sent_at)
            exchanged = await self._executor.exchange(
                room.api.create(room.batch.kind, file, room.batch.name),
                provider=room.provider,
                secret=lease.key.secret,
                at=(room.service.name, lease.key.address),
                on_sent=lease.sent,
            )
            reach("batch.created")
            room.service.limits.answered(lease, exchanged.pause)
            if not isinstance(exchanged.reply, Submitted):
                raise TypeError(f"the reader of a batch that was created returned {exchanged.reply!r}")
            await self._rooms.opened(room, exchanged.reply.handle)
        return True

    async def _accepted(self, room: Room) -> bool:
        """Return whether the API has, or may have, a batch all the same, for which its answer was lost."""
        try:
            found = await self._asking.found(room)
        except JobError:  # who follows it asks on
            return True
        if isinstance(found, Missing):
            room.batch = replace(room.batch, state="authorized")
        elif found is not None:
            await self._rooms.opened(room, found.handle)
        return not isinstance(found, Missing)

    def _learned(self, room: Room, lease: Lease, error: JobError) -> Rest | None:
        """Let limits and outages learn from a batch that was not created; return when its key may be asked again."""
        service, now = room.service, self._clock()
        self._event("batch_refused", batch=room.batch.name, code=error.code.value, message=error.message)
        if not RULES[error.code].attempt:
            return service.limits.refused(lease, error)
        service.limits.failed(lease, error)
        if away(error):
            left_at = now if lease.departed_at is None else lease.departed_at
            service.outages.failed(lease.key.place, room.batch.name, error, left_at, now)
            service.breaker.gave_back()
        return None


def _key_of(group: Group) -> Key:
    """Return the key that a batch is sent with: one that is answered, and has least out."""
    living = [key for key in group.service.limits.keys if key.dead is None]
    if not living:
        raise Halted
    return min(living, key=lambda key: (key.place.down, key.leased))


def _size_in(group: Group, job: Job) -> int:
    """Return how many bytes a job takes in a batch; JobError: it cannot be in one."""
    size = size_of(group.api.line(job, job.key))
    if size > group.terms.most_bytes:
        most = group.terms.most_bytes
        raise JobError(Code.INVALID_REQUEST, f"its photos come to {size} bytes, and a whole batch has room for {most}")
    return size


def _submitted(one: Chosen, attempt: int, batch: Batch) -> Work:
    """Return the work on a job that waits for its batch."""
    own, job = one.work.job, one.job
    way = Way(provider=job.provider, style=job.style, model=job.model, options=job.options, dropped=job.dropped)
    return replace(
        one.work,
        attempt=attempt,
        handle=batch.name,
        key_name=batch.key_name,
        sent_at=batch.sent_at,
        price=one.price,
        used=one.work.used + 1,
        made_by=None if job.provider == own.provider else way,
        placed=True,
    )
