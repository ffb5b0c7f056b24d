"""The free steps of a batch: what fails is asked again, with another key when its own is dead; it holds no slot."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from batchflux.engine.limits.key_pool import Lease
from batchflux.engine.outages import FAILURES, away
from batchflux.engine.steps import Steps
from batchflux.errors import RULES, Code, JobError, StopRun
from batchflux.models import Missing, Pending, Submitted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from batchflux.engine.batching.rooms import Room
    from batchflux.engine.ports import World
    from batchflux.models import HttpRequest, Reply

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between two steps that fail
GRACE = 60.0  # seconds that a batch may be unknown to its API which it accepted
LOOK = 5.0  # seconds between two looks for a batch


class Asking:
    """Asks for batches, and tells limits and outages what it learns."""

    def __init__(self, world: World) -> None:
        self._world, self._executor, self._event = world, world.executor, world.observer.event
        self._steps = Steps(world.executor)
        self._clock = asyncio.get_running_loop().time

    async def ask(self, room: Room, request: HttpRequest) -> Reply:
        """Return what a step comes to. Raises JobError: its answer would be the same again; Halted."""
        pause, since = FIRST_PAUSE, self._clock()
        while True:
            lease = await room.service.limits.resume(room.batch.key_name)
            try:
                exchanged = await self._steps.ask(request, room.provider, room.service, lease.key)
            except JobError as error:
                wait = max(pause, self._wait(room, lease, error, since))
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
        pause, since = FIRST_PAUSE, self._clock()
        while True:
            lease = await room.service.limits.resume(room.batch.key_name)
            room.service.limits.release(lease)  # it takes as long as it takes
            at = room.service.name, lease.key.address
            step = self._executor.lines(request, provider=room.provider, secret=lease.key.secret, at=at)
            try:
                async with aclosing(step) as lines:
                    async for line in lines:
                        pause, since = FIRST_PAUSE, self._clock()
                        yield line
            except JobError as error:
                wait = max(pause, self._wait(room, lease, error, since))
            else:
                self._heard(room, lease)
                return
            await room.service.gate.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE)
            yield None

    async def found(self, room: Room) -> Submitted | Missing | None:
        """Look for a batch by its name until its fate is known; Missing: it was not accepted.

        A listing may lag behind, and so may what accepts a batch whose answer was cut off: it is looked for GRACE from
        now on. None: the key that knows it cannot be asked. Raises JobError: no listing was whole for `patience`.
        """
        began = self._clock()
        while True:
            waited = self._clock() - began
            try:
                reply = await self.ask(room, room.api.find(room.batch.name))
            except JobError:
                if waited >= self.patience(room):
                    raise
                reply = Pending()
            if isinstance(reply, Submitted):
                return reply
            if isinstance(reply, Missing) and waited >= GRACE:
                return reply if room.own else None
            await room.service.gate.sleep(min(LOOK, max(GRACE - waited, FIRST_PAUSE)))

    def patience(self, room: Room) -> float:
        """Return for how many seconds a batch is asked for while its API gives no answer that can be understood."""
        return max(room.service.outages.patience, GRACE)

    def refused(self, room: Room, error: JobError) -> None:
        """Take note that the key of a batch was refused."""
        for key in room.service.limits.keys:
            if key.name == room.batch.key_name:
                room.service.limits.refused(Lease(key=key, clock=self._clock, preparing=False), error)

    def _heard(self, room: Room, lease: Lease) -> None:
        room.own = lease.key.name == room.batch.key_name
        room.service.outages.reached(lease.key.place, self._clock())

    def _wait(self, room: Room, lease: Lease, error: JobError, since: float) -> float:
        """Take note of a step that failed; return how many seconds the API asks to wait, or raise its error.

        When nothing was heard `since` for as long as an outage is waited out, the gate closes.
        """
        room.own = lease.key.name == room.batch.key_name
        self._event("batch_step_failed", batch=room.batch.name, code=error.code.value, message=error.message)
        if RULES[error.code].fault == "key":
            room.service.limits.refused(lease, error)
        elif away(error):
            now = self._clock()
            room.service.outages.failed(lease.key.place, room.batch.name, error, now, now)
            if now - since >= room.service.outages.patience:
                what = f"Nothing was heard of a batch for {(now - since) / 60:.0f} minutes ({error.message})"
                room.service.gate.close(StopRun(FAILURES, f"{what}: nothing is lost; run again to ask for it."))
        elif error.dead and self._clock() - since < GRACE:  # a file may not be there yet
            return LOOK
        elif error.code is not Code.RATE_LIMITED:
            raise error
        return error.retry_after or 0.0
