"""Sees a batch through: found, polled until it has closed, its answers read line by line, and closed in the ledger.

Each answer is taken, and so on record, before the batch is closed. A download that breaks off begins anew, and gives
nobody's answer twice; so does a run that goes on with a batch whose answers were half read.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from batchflux.engine.batching.asking import FIRST_PAUSE, GRACE, LONGEST_PAUSE
from batchflux.engine.batching.rooms import NEVER
from batchflux.errors import RULES, Code, JobError
from batchflux.failpoints import reach
from batchflux.ledger.batches import Closing, End
from batchflux.models import Closed, Missing, Pending, Submitted
from batchflux.transport.threads import in_thread

if TYPE_CHECKING:
    from batchflux.engine.batching.asking import Asking
    from batchflux.engine.batching.rooms import Room, Rooms
    from batchflux.engine.ports import World
    from batchflux.models import Reply
    from batchflux.providers.batches import BatchAnswer

POLL_GROWTH = 1.5
SUCCESS = 300  # below it, an HTTP status is one of success
MOST_HELD = 32 << 20  # bytes of refusals that wait for the end of a batch's files


@dataclass(slots=True)
class Answers:
    """What the files of a batch hold for `jobs`, the keys of all its jobs.

    `keys` are of those that have an answer, `made` of those with a picture, `again` of those that came again; `strange`
    lines are not understood, or of no job of it. `refused` holds the refusals until all is read, for a job of them may
    have been made too. `gone` says why one of the files cannot be had any more.
    """

    jobs: frozenset[str]
    keys: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    again: Counter[str] = field(default_factory=Counter)
    refused: dict[str, BatchAnswer] = field(default_factory=dict)
    held: int = 0
    strange: int = 0
    gone: JobError | None = None

    def copy(self) -> Answers:
        """Return the same, to go back to."""
        return replace(
            self, keys=set(self.keys), made=set(self.made), again=self.again.copy(), refused=self.refused.copy()
        )

    def add(self, answer: BatchAnswer) -> bool:
        """Count an answer; return whether it is to be handed out: the first picture of its job.

        A refusal is handed out when all is read and there was no picture. One that comes again costs nothing.
        """
        made = answer.status < SUCCESS
        if made:
            self.made.add(answer.key)
        if made and self.refused.pop(answer.key, None) is not None:
            return True
        if answer.key in self.keys:
            self.again[answer.key] += made
            return False
        self.keys.add(answer.key)
        if made or self.held + len(answer.body) > MOST_HELD:
            return True
        self.refused[answer.key] = answer
        self.held += len(answer.body)
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
        except JobError as error:
            said = f"its batch could not be asked for ({error.message}); the next run asks again"
            self._rooms.strand(room, JobError(Code.UNKNOWN, said))
        finally:
            room.followed = room.reading = False
            self._rooms.left(room)

    async def _followed(self, room: Room) -> None:
        if not room.handle:
            match await self._asking.found(room):
                case Submitted(handle=handle):
                    await self._rooms.opened(room, handle)
                case Missing():
                    await self._rooms.close(room, Closing(end="voided"))
                    return
                case None:
                    self._strand(room)
                    return
        closed = await self._closed(room)
        if closed is not None:
            await self._taken(room, closed)
        elif room.own:
            gone = "the API accepted this job's batch and does not know it any more; it may have been billed"
            await self._rooms.close(room, Closing(end="lost", error=JobError(Code.UNKNOWN, gone)))
        else:
            self._strand(room)

    def _strand(self, room: Room) -> None:
        other = f"its batch is known to the key {room.batch.key_name} only, which is refused; the next run asks"
        self._rooms.strand(room, JobError(Code.UNKNOWN, other))

    async def _closed(self, room: Room) -> Closed | None:
        """Poll a batch until it has closed; None: the API does not know it. When its time is over, it is cancelled.

        Raises JobError: nothing was understood of what it said for as long as it is asked so.
        """
        pause, missing_since, gate, heard_at = FIRST_PAUSE, None, room.service.gate, self._clock()
        if room.fresh:
            await gate.sleep(pause)
        while True:
            try:
                reply, asked_to_wait = await self._polled(room), 0.0
                heard_at = self._clock()
            except JobError:  # said in the log, and to ask again costs nothing
                if self._clock() - heard_at >= self._asking.patience(room):
                    raise
                reply, asked_to_wait = Pending(), 0.0
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
        """Ask how a batch stands; cancel it first when it is time to. Raises JobError."""
        if self._world.now() >= room.live_at and not room.cancelled:
            room.cancelled = True  # also when it is refused: it has ended, or is asked for until it has
            await self._asking.ask(room, room.api.cancel(room.handle))
        return await self._asking.ask(room, room.api.poll(room.handle))

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
                later = f"its batch's answers could not be read ({unreadable.message}); the next run asks for them"
                self._rooms.strand(room, JobError(Code.UNKNOWN, f"{later} again"))
                return
            await room.idle.wait()
            reach("batch.read")
            end, error = _meant(closed, answers, error)
            closing = Closing(end=end, answered=answers.keys, again=answers.again, error=error)
            freed = await self._rooms.close(room, closing)
            if closed.error is not None and RULES[closed.error.code].fault == "key":
                self._asking.refused(room, closed.error)
            if freed.whole or answers.keys.isdisjoint(room.works):
                break
        if error is not None and not freed.whole:
            self._rooms.strand(room, error)

    async def _read(self, room: Room, closed: Closed) -> Answers:
        """Hand out the answers of the jobs that wait; return what there was in all, of whomever.

        Raises JobError: they cannot be read now.
        """
        answers = Answers(await self._world.batches.jobs(room.batch.number))
        for file in closed.files:
            try:
                answers = await self._file(room, file, answers)
            except JobError as error:
                if not (error.dead and room.own):
                    raise
                answers.gone = error
        for answer in answers.refused.values():
            await self._rooms.hand(room, answer)
        return answers

    async def _file(self, room: Room, file: str, before: Answers) -> Answers:
        """Hand out the pictures of a file; return what there was until its end."""
        answers = before.copy()
        async for line in self._asking.lines(room, room.api.answers(file)):
            room.service.gate.check()
            if line is None:
                answers = before.copy()
                continue
            await self._line(room, line, answers)
        return answers

    async def _line(self, room: Room, line: bytes, answers: Answers) -> None:
        try:
            answer = await in_thread(partial(room.api.read, line))
        except JobError as error:
            self._strange(room, answers, error)
            return
        if answer is not None and answer.key not in answers.jobs:
            self._strange(room, answers, JobError(Code.BAD_ANSWER, "a line of the batch's answers is of no job of it"))
        elif answer is not None and answers.add(answer):
            await self._rooms.hand(room, answer)

    def _strange(self, room: Room, answers: Answers, error: JobError) -> None:
        answers.strange += 1
        self._event("batch_line_strange", batch=room.batch.name, code=error.code.value, message=error.message)

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


def _meant(closed: Closed, answers: Answers, error: JobError | None) -> tuple[End, JobError | None]:
    """Return how a batch ended, and what becomes of a job that it has no answer for, which may be an `error`.

    None: it was not made. Of a batch that was completed, what is not there may have been made and billed, unless all is
    there that it says it made. One that answers nothing is not believed that, or it might be bought without an end.
    """
    if answers.gone is not None:
        gone = f"its batch was made, and what it came to is gone ({answers.gone.message}); it may have been billed"
        return "lost", JobError(Code.UNKNOWN, gone)
    if error is None and answers.strange:
        what = f"of its batch's answers {answers.strange} could not be read, and one of them may be its own"
        error = JobError(Code.BAD_ANSWER, what)
    told = closed.made is not None and bool(answers.keys) and closed.made <= len(answers.made)
    if error is None and closed.state == "completed" and not told:
        error = JobError(Code.BAD_ANSWER, "its batch was completed without an answer for it; it may have been billed")
    return closed.state, error
