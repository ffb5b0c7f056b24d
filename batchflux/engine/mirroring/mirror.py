"""Which pictures are put into the bucket, and when: those that are done as they are done, and what earlier runs left.

A picture passes four steps, each on record before the next: an older one of ours makes way, the picture is put, that is
written down, and with `keep_local: false` its file is removed. While the bucket is away one picture at a time asks
whether it is there again, less and less often; nothing that is paid for waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from batchflux.engine.mirroring.bucket import (
    FOLLOWING,
    AwayError,
    MirrorBucket,
    RefusedError,
    TakenError,
    aside_name,
)
from batchflux.errors import StopRun
from batchflux.failpoints import reach
from batchflux.ledger.books.mirrored import AWAY, Picture, is_known, named_so, note_mirrored, window, with_objects
from batchflux.ledger.tables import set_meta
from batchflux.models import Status
from batchflux.transport.threads import Unawaited, in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from batchflux.ledger.books.mirrored import MirrorUse
    from batchflux.ledger.connection import Database
    from batchflux.models import Outcome

T = TypeVar("T")
AT_ONCE = 16  # pictures that are put
FRESH = 4096  # pictures that are remembered until there is time for them; the ledger knows of all
_LOOKED_UP = 256  # of them at once
_REFUSALS = 1000  # after so many refusals the rest would be refused, too
_TRIES = 3  # of a picture that fails while others get through
_PAUSES = 1.0, 60.0  # seconds between two questions whether the bucket is there: the first, the longest
_PAUSE_AT_END = 5.0  # the longest once all else is done
PATIENCE = 60.0  # seconds at the end in which nothing gets through until the rest is left to the next run
_GATHERING = 0.1  # seconds in which pictures gather that are put on record together
_TOLD = 3  # failures one after another from which on the bucket is said to be away


class Mirror:
    """Puts a folder's pictures into its bucket, while `beside` is entered and at its end; then `follow` puts files.

    `event` is told what is worth a line in the log. `brings_back`: files were removed here in earlier runs, and are
    wanted again. `why` says why the bucket is away, while it is.
    """

    def __init__(
        self,
        bucket: MirrorBucket,
        database: Database,
        event: Callable[..., None],
        *,
        keep_local: bool = True,
        brings_back: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.to, self.why = bucket.to, ""
        self._bucket, self._database, self._event, self._now = bucket, database, event, now
        self._keep_local, self._brings_back = keep_local, brings_back
        self._clock = asyncio.get_running_loop().time
        self._fresh: deque[Picture] = deque()
        self._ready: deque[Picture] = deque()
        self._at_hand: set[str] = set()  # the names of those that are ready or under way
        self._after: int | None = 0  # the job from which on the ledger is read; None: all of it was
        self._overflowed = False  # more came than are remembered: the ledger is read once more
        self._reading, self._asking, self._moving = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()
        self._news, self._ending, self._stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._refused: dict[str, str] = {}
        self._gone = 0
        self._put = 0
        self._failed: dict[str, tuple[int, int]] = {}  # how often a picture failed, and how many had got through then
        self._in_a_row, self._pause, self._since = 0, 0.0, 0.0
        self._cleared = self._clock()  # when files were removed last
        self._placed: list[Picture] = []  # in the bucket, and not yet on record
        self._arrived, self._all_put = asyncio.Event(), False
        self._threads = Unawaited(AT_ONCE, "batchflux-mirror")

    def note(self, outcome: Outcome) -> None:
        """Take up the picture of a job that has just ended, if it has one."""
        stored = outcome.stored
        if outcome.status is not Status.DONE or stored is None:
            return
        if len(self._fresh) < FRESH:
            self._fresh.append(Picture(stored.file_name, stored.sha256))
        else:
            self._overflowed = True
        self._news.set()

    def stop(self) -> None:
        """Put what is under way, and no more."""
        for event in (self._stopped, self._ending, self._news):
            event.set()

    def clears(self) -> bool:
        """Whether files are being removed here, their pictures being in the bucket, or were a short time ago."""
        comes = bool(self._at_hand or self._fresh) or self._after is not None
        lately = self._clock() - self._cleared < PATIENCE
        return (comes or lately) and not (self._keep_local or self.why or self._stopped.is_set())

    def waiting(self) -> str | None:
        """Return what the end of the run waits for, None before it."""
        if not self._ending.is_set() or self._stopped.is_set():
            return None
        return f"for {self.to}: {self.why}" if self.why else f"for the last pictures to be in {self.to}"

    @asynccontextmanager
    async def beside(self, on_fault: Callable[[StopRun], object]) -> AsyncIterator[None]:
        """Put pictures while this is entered, and what is left at its end, as long as the bucket is there.

        `on_fault` is told when the ledger cannot be written any more; that is raised at the end, too.
        """
        tasks = [asyncio.create_task(self._work()) for _ in range(AT_ONCE)]
        recording = asyncio.create_task(self._record())
        tasks += [] if self._keep_local else [asyncio.create_task(self._sweep())]

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self.stop()
                on_fault(error if isinstance(error, StopRun) else StopRun("bug", f"batchflux failed: {error!r}"))

        for task in (*tasks, recording):
            task.add_done_callback(ended)
        try:
            yield
            self._since = self._clock()
            self._ending.set()
            self._news.set()
            await asyncio.gather(*tasks)
            self._all_put = True
            self._arrived.set()
            await recording
            await self._note_brought_back()
        finally:
            for task in (*tasks, recording):
                task.cancel()
            await asyncio.gather(*tasks, recording, return_exceptions=True)
            self._threads.shutdown()
            self._event("mirror_ended", put=self._put, refused=len(self._refused), why=self.why)

    async def follow(self) -> None:
        """Put the files that show the folder over the last run's, unless this was stopped or the bucket is away."""
        if self._stopped.is_set() or self.why:
            return
        try:
            for name in FOLLOWING:
                known = (await self._now_in_ledger(partial(with_objects, pictures=[Picture(name, "")])))[0].there
                digest = await self._in_thread(partial(self._bucket.put_file, name, known))
                if digest is not None:
                    await self._noted(Picture(name, digest))
        except AwayError as error:
            self.why = str(error)
            self._event("mirror_away", message=f"{self.to} takes no files now: {error}")
        finally:
            self._threads.shutdown()

    def verdict(self, use: MirrorUse, reason: str, message: str, code: int) -> tuple[str, str, int]:
        """Return reason, message and exit code of a run, with what is not in the bucket."""
        refused = len(self._refused)
        waiting = max(0, use.left - self._gone - refused)
        if refused:
            first = next(iter(self._refused.values()))
            message = f"{message} {_count(refused, 'cannot', 'cannot')} be put into {self.to}: {first}, then run again."
            code = code or 1
        if waiting or (self.why and not refused):
            why = f" ({self.why})" if self.why else ""
            what = f"{_count(waiting, 'is', 'are')} not in {self.to} yet" if waiting else f"{self.to} is behind"
            message = f"{message} {what}{why}; run again to put them there."
            reason, code = ("mirror", 3) if code in {0, 1} else (reason, code)
        return reason, message, code

    async def _work(self) -> None:
        while (picture := await self._next()) is not None:
            if not self.why:
                await self._attempt(picture)
                continue
            async with self._asking:
                if self.why:
                    await self._wait()
                if not self._stopped.is_set():
                    await self._attempt(picture)

    async def _next(self) -> Picture | None:
        """Return a picture to put; None: there is no more, or it is left to the next run."""
        while not self._stopped.is_set():
            if self._ready:
                return self._ready.popleft()
            async with self._reading:
                if self._ready or await self._read():
                    continue
                if self._ending.is_set():
                    return None
                self._news.clear()
                await self._news.wait()
        return None

    async def _read(self) -> bool:
        """Make pictures ready, or some way to them; False when there are none."""
        if self._fresh:
            fresh = [self._fresh.popleft() for _ in range(min(len(self._fresh), _LOOKED_UP))]
            found = await self._database.submit(partial(with_objects, pictures=fresh))
            self._add(one for one in found if not one.mirrored)
            if not self._keep_local:  # they were made again, and are the same
                await self._spare(one for one in found if one.mirrored)
            return True
        if self._after is None and self._overflowed:
            self._after, self._overflowed = 0, False
        if self._after is None:
            return False
        found, self._after = await self._database.submit(partial(window, after=self._after, every=self._brings_back))
        if self._brings_back:
            found = await self._in_thread(lambda: [one for one in found if not self._settled(one)])
        self._add(found)
        return True

    def _settled(self, picture: Picture) -> bool:
        return picture.mirrored and self._bucket.has_file(picture.name)

    def _add(self, pictures: Iterable[Picture]) -> None:
        for one in pictures:
            if one.name not in self._at_hand and one.name not in self._refused:
                self._at_hand.add(one.name)
                self._ready.append(one)

    async def _attempt(self, picture: Picture) -> None:
        asked = bool(self.why)
        try:
            if picture.mirrored:
                await self._in_thread(partial(self._bucket.bring_back, picture))
                self._at_hand.discard(picture.name)
            else:
                await self._mirrored_over(picture)
        except AwayError as error:
            self._fails(picture, str(error), asked=asked)
            if self._ending.is_set() and asked and not error.passes:
                self.stop()
            return
        except RefusedError as error:
            self._refuse(picture, str(error))
            self._at_hand.discard(picture.name)
        self._failed.pop(picture.name, None)
        self._gets_through()

    async def _mirrored_over(self, picture: Picture) -> None:
        """Put a picture; what a killed run of this folder put in its place, and did not record, makes way as well."""
        try:
            await self._mirrored(picture)
        except TakenError as error:
            if not await self._database.submit(partial(is_known, sha256=error.sha256)):
                raise
            await self._noted(picture._replace(sha256=error.sha256))
            await self._mirrored(picture._replace(there=error.sha256))

    async def _mirrored(self, picture: Picture) -> None:
        """Put a picture: create its object, or let one that is there make way, or copy its bytes within the bucket."""
        if picture.there is None and await self._in_thread(partial(self._bucket.put, picture)):
            self._place(picture)
            return
        async with self._moving:
            await self._make_way(picture)
            here = await self._in_thread(partial(self._bucket.put, picture))
            if not here and not await self._copied(picture):
                self._gone += 1  # the run itself says what becomes of its job
                self._at_hand.discard(picture.name)
                return
            await self._noted(picture)
        if not here and self._keep_local:
            await self._in_thread(partial(self._bucket.bring_back, picture))
        self._place(picture)

    async def _make_way(self, picture: Picture) -> None:
        """Let an older object of ours lie under another name, too, before a picture is put over it."""
        there = None
        if picture.there is not None:
            there = await self._in_thread(partial(self._bucket.replaced, picture))
        if there is not None:
            aside = Picture(aside_name(picture), picture.there or "")
            (known,) = await self._database.submit(partial(with_objects, pictures=[aside]))
            if not known.mirrored:
                await self._in_thread(partial(self._bucket.set_aside, aside, there))
                await self._noted(aside)

    async def _copied(self, picture: Picture) -> bool:
        """Copy the bytes of a picture that is not here to its name; False when they are nowhere."""
        name = await self._database.submit(partial(named_so, sha256=picture.sha256))
        if name is not None:
            data = await self._in_thread(partial(self._bucket.fetch, picture, name))
            await self._in_thread(partial(self._bucket.put, picture, data))
        return name is not None

    def _place(self, picture: Picture) -> None:
        self._put += 1
        self._placed.append(picture)
        self._arrived.set()

    async def _record(self) -> None:
        """Write down what is in the bucket, many at a time, and then remove the files that are not to stay."""
        while not (self._all_put and not self._placed):
            await self._arrived.wait()
            self._arrived.clear()
            placed, self._placed = self._placed, []
            if placed:
                await self._database.submit(partial(note_mirrored, pictures=placed, at=self._now()))
                reach("mirror.recorded")
                if not self._keep_local:
                    await self._in_thread(partial(self._bucket.remove, placed))
                    self._cleared = self._clock()
            self._at_hand.difference_update(one.name for one in placed)
            if not self._all_put:
                await asyncio.sleep(_GATHERING)

    def _fails(self, picture: Picture, why: str, *, asked: bool) -> None:
        """Try a picture again later; less and less often while none gets through."""
        times, put = self._failed.get(picture.name, (0, -1))
        times += put != self._put
        if times > _TRIES and not asked:
            self._failed.pop(picture.name)
            self._at_hand.discard(picture.name)
            self._refuse(picture, why)
            return
        self._failed[picture.name] = times, self._put
        self._ready.append(picture)
        first, longest = _PAUSES
        self._pause = min(2 * self._pause, longest) if asked else self._pause or first
        self.why, self._in_a_row = why, self._in_a_row + 1
        if self._in_a_row == _TOLD:
            self._event(
                "mirror_away", message=f"{self.to} takes no pictures now, so they are kept here meanwhile: {why}"
            )
        if self._ending.is_set() and self._clock() - self._since >= PATIENCE:
            self.stop()

    def _gets_through(self) -> None:
        if self._in_a_row >= _TOLD:
            self._event("mirror_back", message=f"{self.to} is there again.")
        self.why, self._in_a_row, self._pause, self._since = "", 0, 0.0, self._clock()

    def _refuse(self, picture: Picture, why: str) -> None:
        self._refused[picture.name] = why
        self._event("mirror_refused", name=picture.name, message=why)
        if len(self._refused) >= _REFUSALS:
            self.stop()

    async def _wait(self) -> None:
        """Wait until the bucket is asked again: not for long at the end."""
        ending = self._ending.is_set()
        seconds = min(self._pause, _PAUSE_AT_END) if ending else self._pause
        with suppress(TimeoutError):
            await asyncio.wait_for((self._stopped if ending else self._ending).wait(), seconds)

    async def _sweep(self) -> None:
        """Remove the files of pictures that are on record, and in the bucket: a kill may have left some."""
        names = self._bucket.files()
        while batch := await self._in_thread(lambda: [Picture(name, "") for name in islice(names, AT_ONCE)]):
            found = await self._database.submit(partial(with_objects, pictures=batch))
            there = [one._replace(sha256=one.there) for one in found if one.there is not None]
            if self._stopped.is_set() or not await self._spare(there):
                return

    async def _spare(self, pictures: Iterable[Picture]) -> bool:
        """Remove the files of pictures that were put before, so far as they are there; False: the bucket is away."""

        async def spare(picture: Picture) -> bool:
            try:
                await self._in_thread(partial(self._bucket.spare, picture))
            except AwayError as error:  # it stays for the next run
                self._event("mirror_kept", name=picture.name, message=str(error))
                return False
            except RefusedError as error:
                self._refuse(picture, str(error))
            return True

        return all(await asyncio.gather(*map(spare, pictures)))

    async def _note_brought_back(self) -> None:
        if self._brings_back and not (self._stopped.is_set() or self._refused):
            await self._database.submit(partial(set_meta, name=AWAY, value="0"))

    def _noted(self, picture: Picture) -> asyncio.Future[None]:
        return self._database.submit(partial(note_mirrored, pictures=[picture], at=self._now()))

    def _now_in_ledger(self, operation: Callable[[Any], T]) -> asyncio.Future[T]:
        return self._database.submit(operation)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await in_thread(work, self._threads)


def _count(number: int, one: str, more: str) -> str:
    return f"1 picture {one}" if number == 1 else f"{number:,} pictures {more}"
