"""Runs a manifest from its first job to its last: the one place that wires the stages together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from batchflux.billing.asking import account_balances
from batchflux.engine.settings import Start, retune
from batchflux.engine.shutdown import Signals, closing, nothing_to_redo, on_hangup, verdict
from batchflux.engine.worker_pool import workers_for
from batchflux.errors import BatchfluxError, StopRun, StorageError
from batchflux.exports.dataset import has_dataset, write_dataset
from batchflux.failpoints import reach
from batchflux.ledger.bookkeeping import Feeder, FreeFirst
from batchflux.ledger.books.balances import note_balance
from batchflux.ledger.books.runs import note_begun
from batchflux.ledger.ledger import give_up_in_flight
from batchflux.ledger.means import exists_in
from batchflux.ledger.summary import Summary, state_of
from batchflux.ledger.tables import spent, spooled
from batchflux.output.image_store import ImageStore, kept_files
from batchflux.planner import Plan, plan_of, remember_folder
from batchflux.runner.session import RunOptions, Session, session_of
from batchflux.transport.threads import Unawaited, in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from batchflux.engine.ports import Source, World
    from batchflux.engine.settings import Rules, Shared
    from batchflux.engine.worker_pool import WorkerPool
    from batchflux.errors import Fault
    from batchflux.ledger.survey import Survey
    from batchflux.manifest import Manifest

_STANDING = ("total", "done", "failed", "unknown", "pending")  # counts of the folder, with what clients called for


async def run(manifest: Manifest, options: RunOptions | None = None) -> Summary:
    """Run a manifest, or continue it; return how it ended.

    Raises ManifestError: with all faults; nothing was spent; UsageError: a key is not set, or the output folder cannot
    be used; nothing was spent; FolderBusy: another process runs this folder; StorageError: the output folder cannot be
    used from the start. (Later, it ends the run: see Summary.reason.).
    """
    with contextlib.ExitStack() as until_told:
        async with session_of(manifest, options or RunOptions()) as session:
            return await _Run(session, until_told).whole()


class _Run:
    def __init__(self, session: Session, until_told: contextlib.ExitStack) -> None:
        self._until_told = until_told  # closed when all that is to be told of the end is told
        self.session, self.manifest = session, session.manifest
        self.options, self.selection = session.options, session.options.selection  # the latter with the sample found
        self.books, self.database = session.books, session.ledger.database
        self.signals = Signals(session.gate, session.event)
        self.loop = asyncio.get_running_loop()

    async def whole(self) -> Summary:
        session = self.session
        async with session.opened():
            try:
                survey = self.books.survey(self.options.selection, session.watcher.checking)
                self.selection = survey.selection
                already = self.database.now(spent)
                plan = plan_of(self.manifest, survey, already)
                self.database.now(partial(note_begun, began=session.began, todo=plan.counts["todo"]))
                reach("run.surveyed")
                remember_folder(self.manifest)
                await session.begin(jobs=plan.counts, calls=plan.calls)
                for warning in survey.warnings:
                    session.event("selects_nothing", message=warning)
                self.books.bring_in_line(survey)
                async with session.monitor.kept():
                    await self._performed(survey, plan, already)
                    return await self._closed(survey, self._finish(survey, already))
            except StorageError as error:
                self.database.check_there()  # whoever misses the folder first has words for a file of it only
                first = session.gate.reason
                if first is error or not isinstance(first, StorageError):
                    raise
                raise first from error  # what stopped the run says more than what its end could not write then
            except BatchfluxError:
                raise
            except Exception as error:
                session.bug(error)
                raise

    async def _performed(self, survey: Survey, plan: Plan, already: int) -> None:
        """Do what there is to do, and mirror the pictures beside it."""
        session = self.session
        if self.options.signals:
            self._until_told.enter_context(closing(self._hurry))
        with self.signals.handled() if self.options.signals else contextlib.nullcontext():
            async with session.mirroring():
                if survey.todo or session.batches.unread():
                    at_once = min(self.manifest.limits.concurrency, plan.counts["todo"])
                    async with session.working(at_once) as (world, shared), self._balances(world, plan):
                        await self._pool(world, plan, already, shared)
                else:
                    ImageStore(session.folder, self.manifest.output.verify).sweep(self.database.now(spooled))

    def _hurry(self) -> None:
        """Let the mirror follow no further."""
        if self.session.mirror is not None:
            self.session.mirror.stop()

    async def _closed(self, survey: Survey, summary: Summary) -> Summary:
        """Write how the run ended, and let the folder's files follow into the mirror; return the summary as written."""
        session = self.session
        written = await session.closed(summary)
        self.books.note_clean(self.options.selection if survey.todo == session.tally.ended else None)
        reach("run.closed")
        return written

    @contextlib.asynccontextmanager
    async def _balances(self, world: World, plan: Plan) -> AsyncIterator[None]:
        """Note what each key's account has left before and after, for who compares the provider's own books."""
        session = self.session

        async def note() -> None:
            found = await account_balances(self.manifest, session.keys, world.executor, session.began, session.event)
            for noted in found:
                await self.database.submit(partial(note_balance, noted=noted))

        if plan.calls:
            await note()
        yield
        if plan.calls and not self.signals.cut_off:
            await note()

    async def _pool(self, world: World, plan: Plan, already: int, shared: Mapping[str, Shared]) -> None:
        session = self.session
        start = Start(already=already, on_unknown=self.options.selection.on_unknown)
        engine = session.engine(world, shared, start, alone=plan.alone)
        rules, pool = engine.rules, engine.pool
        source: Source = self._feeder()
        free = plan.counts["todo"] - plan.calls + plan.maybe
        if plan.calls and free:
            source = FreeFirst(self._feeder(), self._feeder(), plan.counts["todo"])
        session.watcher.started(plan, session.progress(engine, todo=plan.counts["todo"]))
        workers = min(workers_for(self.manifest.limits.concurrency), max(1, plan.counts["todo"]))
        reload = self.options.reload
        hangup: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self.options.signals and reload is not None:
            hangup = on_hangup(lambda: self._read_limits(rules, pool, reload))
        with hangup:
            async with session.watched(engine):
                await pool.run(source, workers, free=free)

    def _feeder(self) -> Feeder:
        jobs = self.books.jobs(self._late_fault)
        return Feeder(jobs, self.session.ledger, self.selection, exists_in(self.manifest), self.books.means)

    async def _read_limits(self, rules: Rules, pool: WorkerPool, reload: Callable[[], Manifest]) -> None:
        """Let the limits of the manifest as it stands now hold from here on."""
        threads, event = Unawaited(1, "batchflux-reload"), self.session.event  # tables may come out of buckets
        try:
            manifest = await in_thread(reload, threads)
        except BatchfluxError as error:
            event("limits_kept", message=f"The manifest has faults, so the limits stay: {error}")
            return
        finally:
            threads.shutdown()
        retune(rules, manifest)
        pool.grow(workers_for(manifest.limits.concurrency))
        self.manifest = replace(self.manifest, limits=manifest.limits)
        event("limits_changed", message=f"The limits of {manifest.display} hold from now on.")

    def _late_fault(self, fault: Fault) -> None:
        """A table or the manifest's files changed after they were checked; called in the feeder's thread."""
        reason = StopRun("manifest", f"The manifest changed while it ran: {fault}")
        self.loop.call_soon_threadsafe(self.session.gate.close, reason)

    def _finish(self, survey: Survey, already: int) -> Summary:
        session, database = self.session, self.database
        tally, folder = session.tally, session.folder
        reach("run.closing")
        if self.signals.cut_off:
            database.now(lambda connection: give_up_in_flight(connection, kept_files(folder)))
        session.note_lessons()
        self.books.put_in_order(added=survey.todo > 0)
        if self.books.rewrote or not has_dataset(folder):
            database.now(lambda connection: write_dataset(folder, connection))
        state = database.now(state_of)
        ending = verdict(state, session.gate, self.signals, left=survey.todo - tally.ended)
        if self.options.selection.redo and survey.todo == 0:
            ending = nothing_to_redo(survey.waiting)
        if survey.missed is not None and ending.exit_code == 0:
            ending = ending._replace(message=survey.missed)
        unknown = max(tally.unknown, state.unknown - survey.unknown)  # what was cut off reached no tally
        this_run = {"done": tally.done, "failed": tally.failed, "unknown": unknown}
        return replace(
            self.books.summary(state, already, self.manifest.limits, time.monotonic() - session.started, tally.done),
            **ending._asdict(),
            jobs=survey.as_counts() | {name: getattr(state, name) for name in _STANDING},
            this_run=this_run,
        )
