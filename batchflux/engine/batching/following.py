"""Sees a batch through: found, polled until it has closed, its answers read line by line, and closed in the ledger.

Each answer is taken, and so on record, before the batch is closed. A download that breaks off begins anew, and gives
nobody's answer twice; so does a run that goes on with a batch whose answers were half read.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from batchflux.engine.batching.asking import FIRST_PAUSE, GRACE, LONGEST_PAUSE
from batchflux.engine.batching.rooms import NEVER
from batchflux.errors import RULES, Code, JobError
from batchflux.failpoints import reach
from batchflux.ledger.batches import Closing
from batchflux.models import Closed, Missing, Pending
from batchflux.transport.threads import in_thread

if TYPE_CHECKING:
    from batchflux.engine.batching.asking import Asking
    from batchflux.engine.batching.rooms import Room, Rooms
    from batchflux.engine.ports import World
    from batchflux.models import Reply
    from batchflux.providers.batches import BatchAnswer

POLL_GROWTH = 1.5
SUCCESS = 300  # below it, an HTTP status is one of success


@dataclass(slots=True)
class Answers:
    """What the files of a batch hold: `keys` of jobs, those that came `again`, and lines that are not `understood`."""

    keys: set[str] = field(default_factory=set)
    again: Counter[str] = field(default_factory=Counter)
    strange: int = 0

    def add(self, answer: BatchAnswer) -> bool:
        """Count an answer; return whether it is its job's first. A refusal that comes again costs nothing."""
        if answer.key not in self.keys:
            self.keys.add(answer.key)
            return True
        if answer.status < SUCCESS:
            self.again[answer.key] += 1
        return False


class Following:
    """Follows batches to their end."""

    def __init__(self, world: World, rooms: Rooms, asking: Asking) -> None:
        self._world, self._rooms, self._asking = world, rooms, asking
        self._event, self._clock = world.observer.event, asyncio.get_running_loop().time

    async def follow(self, room: Room) -> None:
        """See a batch through, as far as this run goes. Raises Halted: it stops, and the batch is left to the next."""
        room.followed = True
        try:
            room.service.gate.check()
            await self._followed(room)
        finally:
            room.followed = room.reading = False
            self._rooms.left(room)

    async def _followed(self, room: Room) -> None:
        if not room.handle:
            handle = await self._asking.found(room)
            if handle is None:
                await self._rooms.close(room, Closing(end="voided"))
                return
            await self._rooms.opened(room, handle)
        closed = await self._closed(room)
        if closed is not None:
            await self._taken(room, closed)
        elif room.own:
            gone = "the API accepted this job's batch and does not know it any more; it may have been billed"
            await self._rooms.close(room, Closing(end="lost", error=JobError(Code.UNKNOWN, gone)))
        else:
            other = f"its batch is known to the key {room.batch.key_name} only, which is refused; the next run asks"
            self._rooms.strand(room, JobError(Code.UNKNOWN, other))

    async def _closed(self, room: Room) -> Closed | None:
        """Poll a batch until it has closed; None: the API does not know it. When its time is over, it is cancelled."""
        pause, missing_since, gate = FIRST_PAUSE, None, room.service.gate
        if room.fresh:
            await gate.sleep(pause)
        while True:
            reply, asked_to_wait = await self._polled(room), 0.0
            match reply:
                case Closed():
                    return reply
                case Missing():
                    missing_since = self._clock() if missing_since is None else missing_since
                    if self._clock() - missing_since >= GRACE:
                        return None
                case Pending(retry_after=retry_after):
                    missing_since, asked_to_wait = None, retry_after or 0.0
                case _:
                    raise TypeError(f"the reader of a batch's poll returned {reply!r}")
            left = NEVER if room.cancelled else max(0.0, room.live_at - self._world.now())
            await gate.sleep(min(max(pause, asked_to_wait), left))
            pause = min(pause * POLL_GROWTH, LONGEST_PAUSE)

    async def _polled(self, room: Room) -> Reply:
        """Ask how a batch stands; cancel it first when it is time to."""
        api = room.api
        try:
            if self._world.now() >= room.live_at and not room.cancelled:
                room.cancelled = True  # also when it is refused: it has ended, or is asked for until it has
                await self._asking.ask(room, api.cancel(room.handle))
            return await self._asking.ask(room, api.poll(room.handle))
        except JobError:  # said in the log, and to ask again costs nothing
            return Pending()

    async def _taken(self, room: Room, closed: Closed) -> None:
        """Take all answers of a batch, and close it; what it has none for goes on without it."""
        if not room.fresh:
            await self._rooms.settled.wait()
        room.reading = True
        error = await self._error(room, closed)
        while True:
            try:
                answers = await self._read(room, closed)
            except JobError as unreadable:
                await room.idle.wait()
                await self._unreadable(room, unreadable)
                return
            await room.idle.wait()
            reach("batch.read")
            if answers.strange and error is None:
                what = f"of its batch's answers {answers.strange} could not be read, and one of them may be its own"
                error = JobError(Code.BAD_ANSWER, what)
            closing = Closing(end=closed.state, answered=answers.keys, again=answers.again, error=error)
            freed = await self._rooms.close(room, closing)
            if closed.error is not None and RULES[closed.error.code].fault == "key":
                self._asking.refused(room, closed.error)
            if freed.whole or not room.works:
                return

    async def _unreadable(self, room: Room, error: JobError) -> None:
        """End a batch whose answers are gone, or leave it to the next run where they may be read then."""
        if error.dead and room.own:
            gone = f"its batch was made, and what it came to is gone ({error.message}); it may have been billed"
            await self._rooms.close(room, Closing(end="lost", error=JobError(Code.UNKNOWN, gone)))
        else:
            later = f"its batch's answers could not be read ({error.message}); the next run asks for them again"
            self._rooms.strand(room, JobError(Code.UNKNOWN, later))

    async def _read(self, room: Room, closed: Closed) -> Answers:
        """Hand out the answers of the jobs that wait; return what there was in all, of whomever."""
        answers = Answers()
        for file in closed.files:
            before = Answers(set(answers.keys), answers.again.copy(), answers.strange)
            async for line in self._asking.lines(room, room.api.answers(file)):
                room.service.gate.check()
                if line is None:
                    answers = Answers(set(before.keys), before.again.copy(), before.strange)
                    continue
                await self._line(room, line, answers)
        return answers

    async def _line(self, room: Room, line: bytes, answers: Answers) -> None:
        try:
            answer = await in_thread(partial(room.api.read, line))
        except JobError as error:
            answers.strange += 1
            self._event("batch_line_strange", batch=room.batch.name, code=error.code.value, message=error.message)
            return
        if answer is None or not answers.add(answer):
            return
        await self._rooms.hand(room, answer)

    async def _error(self, room: Room, closed: Closed) -> JobError | None:
        """Return what becomes of jobs that a batch has no answer for; None: they are sent again.

        What is said of the key, or of too much at once, is no fault of theirs.
        """
        error = closed.error
        if error is None and closed.state == "failed" and not closed.files:
            error = JobError(Code.INVALID_REQUEST, "the API says that the batch failed, and not why")
        if error is None:
            return None
        self._event("batch_failed", batch=room.batch.name, code=error.code.value, message=error.message)
        if RULES[error.code].fault == "key":
            return None
        if error.code is Code.RATE_LIMITED:
            await room.service.gate.sleep(error.retry_after or LONGEST_PAUSE)
            return None
        error.billed = False
        return error
