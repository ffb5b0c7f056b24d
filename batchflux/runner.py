"""Runs a manifest: the one place that wires the stages together.

(It is not called `run`, because a module of that name would hide the public function `batchflux.run`.)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from traceback import format_tb
from typing import TYPE_CHECKING, Any

from batchflux.billing.asking import account_balances
from batchflux.engine.executors.opening import Elsewhere, Means, open_executors
from batchflux.engine.job_runner import JobRunner
from batchflux.engine.limits.key_pool import KeyWatch
from batchflux.engine.mirroring import Mirror, open_mirror
from batchflux.engine.ports import World
from batchflux.engine.settings import (
    Start,
    found_of,
    keep_distance,
    keys_of,
    retune,
    rules_of,
    secrets_of,
    shared_of,
)
from batchflux.engine.shutdown import Gate, Signals, nothing_to_redo, on_hangup, verdict
from batchflux.engine.worker_pool import Tally, WorkerPool, workers_for
from batchflux.errors import BatchfluxError, JobError, ManifestError, StopRun, StorageError
from batchflux.exports.dataset import has_dataset, write_dataset
from batchflux.exports.results_csv import Results
from batchflux.failpoints import reach
from batchflux.ledger.batches import BatchLedger
from batchflux.ledger.bookkeeping import Books, Feeder, FreeFirst, made_before, take_back
from batchflux.ledger.books.balances import note_balance
from batchflux.ledger.books.runs import note_begun, note_ended
from batchflux.ledger.health import check_ledger
from batchflux.ledger.ledger import Ledger, give_up_in_flight
from batchflux.ledger.lessons import Lessons
from batchflux.ledger.means import exists_in
from batchflux.ledger.reconcile import Selection
from batchflux.ledger.summary import Summary, state_of
from batchflux.ledger.tables import last_activity, nanos, set_meta, spent, spooled
from batchflux.monitoring.fields import with_names
from batchflux.monitoring.monitor import Monitor
from batchflux.observers import Progress, Waits, Watcher
from batchflux.output.base import LEDGER, RESULTS, RUN_LOG, SUMMARY
from batchflux.output.file_systems import shaky_locks
from batchflux.output.folder import FolderLock, RunLog, write_whole
from batchflux.output.image_store import ImageStore, kept_files
from batchflux.output.resources import LowWaterMark, ensure_open_files
from batchflux.photos import Buckets
from batchflux.planner import Plan, check_currency, check_options, plan_of, remember_folder
from batchflux.providers import providers, webhook_apis
from batchflux.state import note_proven, proven
from batchflux.transport.threads import Unawaited, in_thread
from batchflux.webhooks.opening import hooks_of
from batchflux.webhooks.wakes import Wakes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from batchflux.engine.canary import Canary
    from batchflux.engine.limits.key_pool import Key
    from batchflux.engine.ports import Executor, Source
    from batchflux.engine.settings import Rules, Shared
    from batchflux.errors import Fault
    from batchflux.ledger.survey import Survey
    from batchflux.manifest import Manifest
    from batchflux.manifest.reading.targets import NoticeTarget
    from batchflux.models import HttpRequest, Job, Outcome, Reply
    from batchflux.state import Lesson
    from batchflux.webhooks.wakes import Hook

OUTAGE = frozenset({"away", "probe_failed", "back"})  # events: the provider is not there, still not, and there again


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How to run: `environ` is where keys and proxies are looked up, and files that hold keys are named.

    `signals` lets SIGINT and SIGTERM drain the run, and SIGHUP call `reload` for a manifest whose limits hold then.
    `notify` are told how it goes, beside those that the manifest names; `metrics` is a file that Prometheus collects.
    """

    selection: Selection = field(default_factory=Selection)
    signals: bool = False
    notify: Sequence[NoticeTarget] = ()
    metrics: Path | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    watcher: Watcher | None = None
    reload: Callable[[], Manifest] | None = None
    elsewhere: Elsewhere | None = None  # where requests leave and pictures are fetched, None: here


async def run(manifest: Manifest, options: RunOptions | None = None) -> Summary:
    """Run a manifest, or continue it; return how it ended.

    Raises ManifestError: with all faults; nothing was spent; UsageError: a key is not set, or the output folder cannot
    be used; nothing was spent; FolderBusy: another process runs this folder; StorageError: the output folder cannot be
    used from the start. (Later, it ends the run: see Summary.reason.).
    """
    options = options or RunOptions()
    monitor = Monitor(manifest, options.environ, options.notify, options.metrics, signals=options.signals)
    monitor.speaks((options.watcher or Watcher()).event)
    async with monitor.telling():
        secrets = secrets_of(manifest, options.environ)
        check_options(manifest, options.environ)
        monitor.check()
        lock = FolderLock(manifest.output.dir)
        lock.acquire()
        try:
            monitor.notices.started()
            check_ledger(manifest.output.dir / LEDGER)
            return await _Run(manifest, options, secrets, lock, monitor).whole()
        except ManifestError:
            take_back(manifest, lock.made)
            raise
        finally:
            lock.release()


class _Run:
    def __init__(
        self,
        manifest: Manifest,
        options: RunOptions,
        secrets: Mapping[str, str | None],
        lock: FolderLock,
        monitor: Monitor,
    ) -> None:
        self.manifest, self.monitor = manifest, monitor
        self.options = options
        self.selection = options.selection  # with the sample found, once all jobs were surveyed
        self.watcher = options.watcher or Watcher()
        self.secrets = secrets
        self.keys: dict[str, list[Key]] = {}  # of each provider
        self.folder = manifest.output.dir
        self.began, self.started = time.time(), time.monotonic()
        self.loop = asyncio.get_running_loop()
        self.gate = Gate()
        self.tally = Tally()
        self.signals = Signals(self.gate, self.event)
        self.log: RunLog | None = None
        self.mirror: Mirror | None = None
        self.results = Results(self.folder / RESULTS, manifest.tag_names, bom=manifest.output.csv == "excel")
        self.ledger = Ledger(self.folder / LEDGER, on_finish=self.results.append, kept=kept_files(self.folder))
        self.ledger.database.check = lock.check
        self.batches = BatchLedger(self.ledger.database, time.time)
        self.books = Books(manifest, self.ledger, self.results, self.began)

    async def whole(self) -> Summary:
        try:
            async with self.monitor.telling():
                self.monitor.speaks(self.event)
                return await self._whole()
        finally:
            self.books.photos.close()
            self.ledger.close()
            self.results.close()
            if self.log is not None:
                self.log.close()

    async def _whole(self) -> Summary:
        try:
            self.ledger.database.now(lambda connection: check_currency(self.manifest, connection))
            named = self.manifest.providers.items()
            self.lessons = {name: Lessons(provider, self.ledger.database) for name, provider in named}
            survey = self.books.survey(self.options.selection, self.watcher.checking)
            self.selection = survey.selection
            already = self.ledger.database.now(spent)
            plan = plan_of(self.manifest, survey, already)
            self.ledger.database.now(partial(note_begun, began=self.began, todo=plan.counts["todo"]))
            reach("run.surveyed")
            remember_folder(self.manifest)
            self.log = RunLog(self.folder / RUN_LOG)
            self.mirror = await open_mirror(self.manifest, self.options.environ, self.ledger.database, self.event)
            if (doubt := shaky_locks(self.folder)) is not None:
                self.event("shaky_locks", message=doubt)
            self.event("run_started", name=self.manifest.name, jobs=plan.counts, calls=plan.calls, pid=os.getpid())
            self.books.bring_in_line(survey)
            async with self.monitor.kept():
                await self._performed(survey, plan, already)
                return await self._closed(survey, self._finish(survey, already))
        except StorageError as error:
            first = self.gate.reason
            if first is error or not isinstance(first, StorageError):
                raise
            raise first from error  # what stopped the run says more than what its end could not write then
        except BatchfluxError:
            raise
        except Exception as error:
            with contextlib.suppress(StorageError):
                self.event("bug", message=type(error).__name__, traceback="".join(format_tb(error.__traceback__)))
            raise

    async def _performed(self, survey: Survey, plan: Plan, already: int) -> None:
        """Do what there is to do, and mirror the pictures beside it."""
        with self.signals.handled() if self.options.signals else contextlib.nullcontext():
            async with contextlib.nullcontext() if self.mirror is None else self.mirror.beside(self.gate.close):
                if survey.todo or self.batches.unread():
                    await self._work(plan, already)
                else:
                    ImageStore(self.folder, self.manifest.output.verify).sweep(self.ledger.database.now(spooled))

    async def _closed(self, survey: Survey, summary: Summary) -> Summary:
        """Write how the run ended, and let the folder's files follow into the mirror; return the summary as written."""
        written = self._written(summary)
        if self.mirror is not None:
            away = self.mirror.why
            await self.mirror.follow()
            written = written if self.mirror.why == away else self._written(summary)
        how = {name: getattr(written, name) for name in ("exit_code", "reason", "message")}
        self.event("run_ended", **how, **written.this_run)
        self.monitor.finished(written)
        self.books.note_clean(self.options.selection if survey.todo == self.tally.ended else None)
        reach("run.closed")
        return written

    def _written(self, summary: Summary) -> Summary:
        """Write a summary, with what is not in the mirror."""
        if self.mirror is not None and summary.mirror is not None:
            ended = self.mirror.verdict(summary.mirror, summary.reason, summary.message, summary.exit_code)
            summary = replace(summary, reason=ended[0], message=ended[1], exit_code=ended[2])
        noted = {name: getattr(summary, name) for name in ("seconds", "exit_code", "reason", "message")}
        noted |= summary.this_run | {"ended": summary.finished_at, "spent": nanos(summary.spent_this_run)}
        self.ledger.database.now(partial(note_ended, began=self.began, ended=noted))
        write_whole(self.folder / SUMMARY, summary.to_json())
        return summary

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Observer: log a job's end."""
        if self.log is not None:
            said = {"id": job.id, "status": outcome.status.value, "code": outcome.error_code}
            self.log.write("job_ended", **with_names({**said, "provider": job.provider, "model": job.model}))
        self.monitor.job_ended(job, outcome)
        if self.mirror is not None:
            self.mirror.note(outcome)
        self.watcher.ended(job, outcome)

    def event(self, name: str, /, **fields: Any) -> None:
        """Observer: log an event, and note for who looks on what the run waits for."""
        if self.log is not None:
            self.log.write(name, **with_names(fields))
        self.monitor.heard(name, fields)
        if name == "signal" and self.mirror is not None:
            self.mirror.stop()
        if name in OUTAGE:
            waiting = "" if name == "back" else str(fields["message"])
            self.ledger.database.submit(lambda connection: set_meta(connection, "waiting", waiting))
        self.watcher.event(name, **fields)

    async def _work(self, plan: Plan, already: int) -> None:
        at_once = min(self.manifest.limits.concurrency, plan.counts["todo"])
        shared = shared_of(self.manifest, self.options.environ, ensure_open_files(at_once))
        async with AsyncExitStack() as stack:
            mark = LowWaterMark(self.folder)
            images = ImageStore(self.folder, self.manifest.output.verify, mark=mark, accept=self.manifest.output.accept)
            stack.callback(images.close)
            for name, provider in self.manifest.providers.items():
                rate = self.manifest.limits_of(name).rate
                self.keys[name] = keys_of(provider, rate, self.secrets, self.lessons[name].known)
            wakes = Wakes(hooks_of(self.manifest, webhook_apis(), self.secrets))
            images.sweep(self.ledger.database.now(spooled))
            images.check_writable()
            means = Means(
                manifest=self.manifest,
                images=images,
                shared=shared,
                redos=self.books.redos,
                keys=self.secrets,
                secrets=[*wakes.secrets, *filter(None, self.secrets.values())],
                tell=self.event,
            )
            local, executor = await open_executors(stack, means, self.options.elsewhere)
            buckets = Buckets(self.manifest.buckets(self.options.environ), self.books.photos, self.manifest.published)
            stack.callback(buckets.close)
            world = World(
                executor=executor,
                ledger=self.ledger,
                batches=self.batches,
                observer=KeyWatch(self, [key for keys in self.keys.values() for key in keys]),
                gate=self.gate,
                random=random.Random(),
                ready=self.books.photos.ready,
                buckets=buckets,
                room=mark.check,
                clears=(lambda: False) if self.mirror is None else self.mirror.clears,
                wakes=await self._receive(stack, wakes, local),
            )
            async with self._balances(world) if plan.calls else contextlib.nullcontext():
                await self._pool(world, plan, already, shared)

    @contextlib.asynccontextmanager
    async def _balances(self, world: World) -> AsyncIterator[None]:
        """Note what each key's account has left before and after, for who compares the provider's own books."""

        async def note() -> None:
            found = await account_balances(self.manifest, self.keys, world.executor, self.began, self.event)
            for noted in found:
                await self.ledger.database.submit(partial(note_balance, noted=noted))

        await note()
        yield
        if not self.signals.cut_off:
            await note()

    async def _receive(self, stack: AsyncExitStack, wakes: Wakes, executor: Executor) -> Wakes:
        """Receive the calls of APIs until `stack` is closed, where there are hooks; UsageError: the port is taken."""
        if not wakes.hooks or self.manifest.webhooks.listen is None:
            return wakes
        from batchflux.webhooks.receiver import Keys, Receiver  # noqa: PLC0415  a server, seldom needed

        async def ask(hook: Hook, request: HttpRequest) -> AsyncIterator[Reply]:
            provider = providers()[self.manifest.providers[hook.name].api, hook.style]
            for key in self.keys[hook.name]:
                at = (hook.name, key.address)
                try:
                    yield (await executor.exchange(request, provider=provider, secret=key.secret, at=at)).reply
                except JobError as error:  # another key's answer will do, where there is one
                    self.event("webhook_keys_failed", provider=hook.name, code=error.code, message=error.message)

        receiver = await stack.enter_async_context(Receiver(wakes, *self.manifest.webhooks.listen, Keys(ask)))
        stack.callback(lambda: self.event("webhooks", answers={str(n): c for n, c in receiver.answers.items()}))
        return wakes

    async def _pool(self, world: World, plan: Plan, already: int, shared: Mapping[str, Shared]) -> None:
        manifest, selection = self.manifest, self.options.selection
        start = Start(already=already, on_unknown=selection.on_unknown)
        rules = rules_of(manifest, self.keys, shared, self.gate, start)
        paced = [key for name, keys in self.keys.items() if manifest.limits_of(name).rate for key in keys]
        keep_distance(paced, self.ledger.database.now(last_activity) if paced else None)
        runner = JobRunner(world, rules)
        pool = WorkerPool(runner, world, selection.on_unknown)
        self.tally = pool.tally
        self._watch_canary(rules.canary, plan)
        source: Source = self._feeder()
        free = plan.counts["todo"] - plan.calls + plan.maybe
        if plan.calls and free:
            source = FreeFirst(self._feeder(), self._feeder(), plan.counts["todo"])
        times = [service.times for service in rules.services]
        progress = Progress(pool.tally, rules.services, rules.budget, self.gate, times=times, todo=plan.counts["todo"])
        progress.batches = runner.batches.waiting_for
        progress.mirror = progress.mirror if self.mirror is None else self.mirror.waiting
        self.watcher.started(plan, progress)
        self.monitor.follow(progress, rules.budget)
        workers = min(workers_for(manifest.limits.concurrency), max(1, plan.counts["todo"]))
        reload = self.options.reload
        hangup: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self.options.signals and reload is not None:
            hangup = on_hangup(lambda: self._read_limits(rules, pool, reload))
        with hangup:
            async with self._learning(), Waits(rules.services, world.observer.event).followed():
                await pool.run(source, workers, free=free)

    @contextlib.asynccontextmanager
    async def _learning(self) -> AsyncIterator[None]:
        """Note meanwhile what the keys are found to allow."""
        noting = [
            asyncio.create_task(lessons.keep(partial(self._found, name))) for name, lessons in self.lessons.items()
        ]
        for task in noting:
            task.add_done_callback(self._noted)
        try:
            yield
        finally:
            for task in noting:
                task.cancel()
            await asyncio.wait(noting)

    def _noted(self, noting: asyncio.Task[None]) -> None:
        if not noting.cancelled() and isinstance(error := noting.exception(), StorageError):
            self.gate.close(error)

    def _found(self, name: str) -> dict[str, Lesson]:
        return found_of(self.keys.get(name, ())) if self.tally.done else {}

    def _feeder(self) -> Feeder:
        jobs = self.books.jobs(self._late_fault)
        return Feeder(jobs, self.ledger, self.selection, exists_in(self.manifest), self.books.means)

    def _watch_canary(self, canary: Canary, plan: Plan) -> None:
        """Let the canary know which kinds of requests have given a picture: in this folder, or lately in another."""
        places = {name: provider.base_url or "" for name, provider in self.manifest.providers.items()}

        async def known(job: Job) -> bool:
            here = await self.ledger.database.submit(lambda connection: made_before(connection, job))
            return here or await asyncio.to_thread(proven, job.provider, job.model, job.style, places[job.provider])

        async def note(job: Job) -> None:
            await asyncio.to_thread(note_proven, job.provider, job.model, job.style, places[job.provider])

        canary.proven, canary.note = known, note
        canary.alone = plan.alone

    async def _read_limits(self, rules: Rules, pool: WorkerPool, reload: Callable[[], Manifest]) -> None:
        """Let the limits of the manifest as it stands now hold from here on."""
        threads = Unawaited(1, "batchflux-reload")  # tables may come out of buckets
        try:
            manifest = await in_thread(reload, threads)
        except BatchfluxError as error:
            self.event("limits_kept", message=f"The manifest has faults, so the limits stay: {error}")
            return
        finally:
            threads.shutdown()
        retune(rules, manifest)
        pool.grow(workers_for(manifest.limits.concurrency))
        self.manifest = replace(self.manifest, limits=manifest.limits)
        self.event("limits_changed", message=f"The limits of {manifest.display} hold from now on.")

    def _late_fault(self, fault: Fault) -> None:
        """A table or the manifest's files changed after they were checked; called in the feeder's thread."""
        reason = StopRun("manifest", f"The manifest changed while it ran: {fault}")
        self.loop.call_soon_threadsafe(self.gate.close, reason)

    def _finish(self, survey: Survey, already: int) -> Summary:
        database, tally = self.ledger.database, self.tally
        reach("run.closing")
        if self.signals.cut_off:
            database.now(lambda connection: give_up_in_flight(connection, kept_files(self.folder)))
        for name, lessons in self.lessons.items():
            lessons.note(self._found(name))
        self.books.put_in_order(survey)
        if self.books.rewrote or not has_dataset(self.folder):
            database.now(lambda connection: write_dataset(self.folder, connection))
        state = database.now(state_of)
        reason, message, code = verdict(state, self.gate, self.signals, left=survey.todo - self.tally.ended)
        if self.options.selection.redo and survey.todo == 0:
            reason, message, code = nothing_to_redo(survey.waiting)
        if survey.missed is not None and code == 0:
            message = survey.missed
        unknown = max(tally.unknown, state.unknown - survey.unknown)  # what was cut off reached no tally
        this_run = {"done": tally.done, "failed": tally.failed, "unknown": unknown}
        return replace(
            self.books.summary(state, already, self.manifest.limits, time.monotonic() - self.started, tally.done),
            exit_code=code,
            reason=reason,
            message=message,
            jobs=survey.as_counts() | {name: getattr(state, name) for name in ("done", "failed", "unknown", "pending")},
            this_run=this_run,
        )
