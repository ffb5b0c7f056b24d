"""The free steps of a batch: what fails is asked again, with another key when its own is dead; it holds no slot."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from batchflux.engine.outages import away
from batchflux.engine.steps import ask
from batchflux.errors import RULES, Code, JobError
from batchflux.models import Missing, Pending, Submitted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from batchflux.engine.batching.rooms import Room
    from batchflux.engine.limits.key_pool import Lease
    from batchflux.engine.ports import World
    from batchflux.models import HttpRequest, Reply

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between two steps that fail
GRACE = 60.0  # seconds that a batch may be unknown to its API which it accepted
LOOK = 5.0  # seconds between two looks for a batch


class Asking:
    """Asks for batches, and tells limits and outages what it learns."""

    def __init__(self, world: World) -> None:
        self._world, self._executor, self._event = world, world.executor, world.observer.event
        self._clock = asyncio.get_running_loop().time

    async def ask(self, room: Room, request: HttpRequest) -> Reply:
        """Return what a step comes to. Raises JobError: its answer would be the same again; Halted."""
        pause = FIRST_PAUSE
        while True:
            lease = await room.service.limits.resume(room.batch.key_name)
            try:
                exchanged = await ask(self._executor, request, room.provider, room.service, lease.key)
            except JobError as error:
                wait = self._wait(room, lease, error, pause)
            else:
                self._heard(room, lease)
                return exchanged.reply
            finally:
                room.service.limits.release(lease)
            await room.service.gate.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def lines(self, room: Room, request: HttpRequest) -> AsyncIterator[bytes | None]:
        """Give the lines of a step's answer as they come; None: it broke off, and they come from the first on again.

        Raises JobError, as `ask`.
        """
        pause = FIRST_PAUSE
        while True:
            lease = await room.service.limits.resume(room.batch.key_name)
            room.service.limits.release(lease)  # it takes as long as it takes
            at = room.service.name, lease.key.address
            step = self._executor.lines(request, provider=room.provider, secret=lease.key.secret, at=at)
            try:
                async with aclosing(step) as lines:
                    async for line in lines:
                        pause = FIRST_PAUSE
                        yield line
            except JobError as error:
                wait = self._wait(room, lease, error, pause)
            else:
                self._heard(room, lease)
                return
            await room.service.gate.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE)
            yield None

    async def found(self, room: Room) -> str | None:
        """Look for a batch by its name until its fate is known; return its handle, None: it was not accepted."""
        began = self._clock()
        while True:
            waited = max(self._world.now() - room.batch.sent_at, self._clock() - began)
            try:
                reply = await self.ask(room, room.api.find(room.batch.name))
            except JobError:  # said in the log; the listing was not whole
                reply = Pending()
            if isinstance(reply, Submitted):
                return reply.handle
            if isinstance(reply, Missing) and waited >= GRACE and room.own:
                return None
            await room.service.gate.sleep(min(LOOK, max(GRACE - waited, FIRST_PAUSE)))

    def _heard(self, room: Room, lease: Lease) -> None:
        room.own = lease.key.name == room.batch.key_name
        room.service.outages.reached(lease.key.place, self._clock())

    def _wait(self, room: Room, lease: Lease, error: JobError, pause: float) -> float:
        """Take note of a step that failed; return after how many seconds it is done again, or raise its error."""
        room.own = lease.key.name == room.batch.key_name
        self._event("batch_step_failed", batch=room.batch.name, code=error.code.value, message=error.message)
        if RULES[error.code].fault == "key":
            room.service.limits.refused(lease, error)
        elif away(error):
            now = self._clock()
            room.service.outages.failed(lease.key.place, room.batch.name, error, now, now)
        elif error.code is not Code.RATE_LIMITED:
            raise error
        return max(pause, error.retry_after or 0.0)
