"""Makes jobs as they come: one run without an end, whose folder, money and limits are those of any other.

What ends a run (a budget, a provider that is not there, a full disk) ends here the jobs that have not left, each with
that reason, and the run goes on with the next that come: as a new run would, in the same process.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchflux.engine.settings import Start
from batchflux.engine.shutdown import BUDGET, CANARY, SIGNAL, STORAGE, Gate
from batchflux.engine.worker_pool import Tally, workers_for
from batchflux.errors import StopRun, StorageError, UsageError
from batchflux.exports.dataset import write_dataset
from batchflux.failpoints import reach
from batchflux.ledger.books.runs import note_begun
from batchflux.ledger.summary import state_of
from batchflux.ledger.tables import spent
from batchflux.models import Status
from batchflux.observers import Watcher
from batchflux.runner.session import session_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from batchflux.engine.budget import Purse
    from batchflux.ledger.reconcile import Work
    from batchflux.ledger.tables import Known
    from batchflux.manifest import Manifest
    from batchflux.models import Job, Outcome
    from batchflux.runner.session import Engine, RunOptions, Session

RENEWED = "renewed"  # the reason of a gate that closes so that providers are tried anew
REST = 15.0  # seconds, at least, between two times that what ended is tried anew
PATIENCE = 45.0  # seconds that an outage is waited out unless the manifest says: clients wait for jobs, shells for 60
_NO_PLACE = frozenset({STORAGE, "bucket"})  # reasons by which nothing more can be kept
_OF_COURSE = frozenset({RENEWED, SIGNAL, "withdrawn"})  # reasons that nobody has to see to


class NotMadeError(Exception):
    """A job was not made, and has not ended; `reason` is that of a StopRun, or `withdrawn`.

    RENEWED: the providers are about to be tried anew, and it may be made then, by what the ledger has of it by now.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


class Endless(Watcher):
    """The run; see `endless`. `task` ends before it is stopped only by what nobody can go on from."""

    def __init__(
        self, session: Session, admits: Callable[[Job], bool], purse_of: Callable[[Job], Purse] | None
    ) -> None:
        self.session, self.database, self.made = session, session.ledger.database, Tally()
        self._admits, self._purse_of, self._listener = admits, purse_of, session.watcher
        self._queue: asyncio.Queue[Work | None] = asyncio.Queue()
        self._futures: dict[str, asyncio.Future[Known]] = {}
        self._rows: dict[str, Known] = {}  # of jobs that are about to be `ended`
        session.on_rows = lambda rows: self._rows.update({row.key.hex(): row for row in rows})
        self._engine: Engine | None = None
        self._began = 0.0
        self._before = 0
        self._stopped: StopRun | None = None
        self._twice = self._worked = False
        self._told: str | None = None
        self._kept = True  # when it was looked at last
        self.task: asyncio.Task[None] | None = None
        self._came = asyncio.Event()

    async def make(self, work: Work) -> Known:
        """See a job through, once for all who ask now, and return what the ledger has of it as it ends.

        Raises NotMadeError: it is as it was.
        """
        over = self._stopped is not None or (self.task is not None and self.task.done())
        if over or self._refused() is not None:
            raise self._not_made()
        future = self._futures.get(work.job.key)
        if future is None:
            future = self._futures[work.job.key] = asyncio.get_running_loop().create_future()
            self._queue.put_nowait(work)
            self._came.set()
        return await asyncio.shield(future)

    def _refused(self) -> StopRun | None:
        """Return what ended the jobs of before and holds off new ones still; None where they are taken."""
        reason = self.session.gate.reason
        ended = reason is not None and reason.reason != RENEWED
        return reason if ended and (self._engine is not None or not self._rested()) else None

    async def keeps(self) -> bool:
        """Whether what is made can be kept, so that no job is refused for that; who runs this is told why not."""
        refused = self._refused()
        fault = refused if refused is not None and refused.reason in _NO_PLACE else await self.session.fault()
        if fault is not None and self._kept:
            self._tell(fault.reason, str(fault))
        self._kept = fault is None
        return self._kept

    def ends_again(self) -> None:
        """Take note that a job which has a row in results.csv may end once more; the file follows before long."""
        self._twice = True

    async def _in_order(self) -> None:
        """Let results.csv have one row a job."""
        while True:
            await asyncio.sleep(REST)
            if self._twice:
                self._twice = False
                try:
                    await self.database.submit(self.session.books.rewrite)
                except StorageError:  # whose reason the next job's end has, too
                    self._twice = True

    def waiting(self) -> bool:
        """Whether requests are kept back now: by a rate, an outage, a closed gate."""
        engine = self._engine
        return engine is None or self.session.gate.closed or engine.rules.services.waiting_for() is not None

    def affords(self, job: Job, count: int = 1) -> bool:
        """Whether the budget, and the job's payer, have the price of so many like it now."""
        if self._engine is None:
            return True  # each request asks again, when it is about to leave
        rules = self._engine.rules
        return rules.budget_of(job).allows(rules.services.of(job).most_of(job) * count)

    def stop(self, reason: StopRun) -> None:
        """Begin no more; what is under way finishes."""
        self._stopped = reason
        self.session.gate.close(reason)
        self._came.set()

    async def drained(self) -> None:
        """Begin no more, and wait until what is under way is in."""
        self.stop(StopRun(SIGNAL, "The gateway is stopping."))
        if self.task is not None:
            await asyncio.wait([self.task])

    async def take(self) -> Work | None:
        """Source: return the next job, None when the gate is closed."""
        work = await self._queue.get()
        if work is None or self.session.gate.closed:
            self._queue.put_nowait(work)  # for the other workers; a job for who comes after them
            return None
        return work

    def event(self, name: str, /, **fields: Any) -> None:
        """Watcher: pass on what happens."""
        self._listener.event(name, **fields)

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Watcher: a job ended."""
        self.made.add(outcome)
        self._told = None if outcome.status is Status.DONE else self._told
        row, future = self._rows.pop(job.key), self._futures.get(job.key)
        if future is not None and not future.done():
            future.set_result(row)

    def over(self, work: Work) -> None:
        """Let go of a job; one that has not ended goes back to who wants it, for the ledger may have more of it now.

        Where its provider has given up, and may be there again, the providers are tried anew.
        """
        future = self._futures.pop(work.job.key, None)
        if future is None or future.done():
            return
        if self._engine is not None and not self.session.gate.closed:
            rules = self._engine.rules
            away = rules.services.of(work.job).gate.closed or rules.canary.stops(work.job)
            if away and self._rested() and self._admits(work.job):
                self.session.gate.close(StopRun(RENEWED, "The providers are tried anew."))
        future.set_exception(self._not_made(work.job))

    def _rested(self) -> bool:
        return time.monotonic() - self._began > REST

    def _not_made(self, job: Job | None = None) -> NotMadeError:
        """Return that a job is not made, and why; who runs this is told, once until a job is done again."""
        reason, message = self._why(job)
        if reason not in _OF_COURSE:
            self._tell(reason, message)
        return NotMadeError(reason, message)

    def _tell(self, reason: str, message: str) -> None:
        if message != self._told:
            self._told = message
            said = {"reason": reason, "message": message}
            try:
                self.session.event("not_made", **said)
            except StorageError:  # the log is on that disk, too
                self.event("not_made", **said)

    def _why(self, job: Job | None = None) -> tuple[str, str]:
        """Return why a job is not made: by what closed the gate of the run or of its provider, if one is closed."""
        reason = self._stopped or self.session.gate.reason
        if reason is None and job is not None and self._engine is not None:
            reason = self._engine.rules.services.of(job).gate.reason
            if reason is None and self._engine.rules.canary.stops(job):
                return CANARY, "No picture of its model was kept yet."
        if reason is None and job is not None and not self.affords(job):
            return BUDGET, "There is not money enough for another request."
        if reason is None:
            return "withdrawn", "Nothing more was sent for it."
        return reason.reason, str(reason)

    async def serve(self) -> None:
        """Make what comes until it is stopped. Raises what nobody can go on from."""
        ordering = asyncio.create_task(self._in_order())
        try:
            while self._stopped is None:
                await self._next_pool()
                self._came.clear()
                if self._queue.empty() and self._stopped is None:
                    await self._came.wait()
        finally:
            ordering.cancel()
            for future in self._futures.values():
                if not future.done():
                    future.set_exception(self._not_made())

    async def _next_pool(self) -> None:
        """Work in a pool; one that the disk does not let begin ends as one that it has ended, but for the first."""
        try:
            await self._pool()
        except StorageError as error:
            if not self._worked:
                raise
            self.session.gate.close(error)
            self._let_go()
            with suppress(StorageError):  # the log is on that disk, too
                self.session.event("not_begun", message=str(error))

    async def _pool(self) -> None:
        """Work until the gate closes, and what is out then is in."""
        session = self.session
        if session.gate.closed:
            session.gate = Gate()
        self._began = time.monotonic()
        concurrency = session.manifest.limits.concurrency
        session.gate.on_close(lambda: self._queue.put_nowait(None))
        async with session.mirroring(), session.working(concurrency) as (world, shared):
            already = await self.database.submit(spent)
            start = Start(already=already, on_unknown="hold", earlier=self._before)
            engine = session.engine(replace(world, admits=self._admits), shared, start, alone=False)
            if (purse_of := self._purse_of) is not None:
                engine.rules.purse_of = lambda job: purse_of(job).of(engine.rules.budget)
            session.progress(engine, todo=0)  # which the monitor follows
            self._engine, self._worked = engine, True
            try:
                async with session.watched(engine):
                    await engine.pool.run(self, workers_for(concurrency), free=0, over=self.over)
            finally:
                self._engine = None
                session.note_lessons()
                self._let_go()

    def _let_go(self) -> None:
        """Give back what was not begun, but where the providers are tried anew at once."""
        reason = self.session.gate.reason
        taken = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
        for work in filter(None, taken):
            if reason is not None and reason.reason == RENEWED:
                self._queue.put_nowait(work)
            else:
                self.over(work)

    async def open(self) -> None:
        """Make the folder ready."""
        session = self.session
        if any(one.batched for one in session.manifest.providers.values()):
            raise UsageError("A gateway's clients wait for their answers: set mode: live in place of batch.")
        self._before = await self.database.submit(spent)
        session.books.begin_serving()
        self.database.now(lambda connection: note_begun(connection, session.began, 0))
        await session.begin(serves=True)

    async def close(self) -> None:
        """Bring the folder's files into order, and write how the run ended."""
        session, made = self.session, self.made
        reach("run.closing")
        session.books.put_in_order(added=made.ended > 0)
        self.database.now(lambda connection: write_dataset(session.folder, connection))
        state = self.database.now(state_of)
        seconds = time.monotonic() - session.started
        summary = session.books.summary(state, self._before, session.manifest.limits, seconds, made.done)
        counts = {name: getattr(state, name) for name in ("total", "done", "failed", "unknown", "pending")}
        none = dict.fromkeys(("new", "changed", "merged", "unlisted", "todo"), 0)
        this_run = {name: getattr(made, name) for name in ("done", "failed", "unknown")}
        failed = made.failed + made.unknown
        message = f"The gateway was stopped: {made.done:,} pictures were made, {failed:,} calls failed."
        await session.closed(
            replace(summary, reason=SIGNAL, message=message, jobs=counts | none, this_run=this_run, exit_code=0)
        )
        session.books.note_clean(None)


@asynccontextmanager
async def endless(
    manifest: Manifest,
    options: RunOptions,
    *,
    admits: Callable[[Job], bool] = lambda _: True,
    purse_of: Callable[[Job], Purse] | None = None,
) -> AsyncIterator[Endless]:
    """Have jobs made in the manifest's folder while this is entered; its own are not, and its deadline does not hold.

    `admits` and `purse_of` are asked before each request, whether it may leave, and who pays for it. What happened to
    a request that was never answered is not sent again: its job is unknown. The watcher of `options` is told what
    happens, and that jobs are not made (`not_made`). Raises what `run` does before it begins.
    """
    patience = PATIENCE if manifest.limits.patience is None else manifest.limits.patience
    lasting = replace(manifest, limits=manifest.limits.model_copy(update={"deadline": None, "patience": patience}))
    async with session_of(lasting, options) as session, session.opened():
        run = Endless(session, admits, purse_of)
        session.watcher = run
        await run.open()
        run.task = serving = asyncio.create_task(run.serve())
        try:
            async with session.monitor.kept():
                yield run
                await run.drained()
                await serving
                await run.close()
        finally:
            serving.cancel()
            await asyncio.wait([serving])
