"""What a run holds open, whatever feeds it: its folder, keys, executors and limits, and who is told of it."""

from __future__ import annotations

import asyncio
import os
import random
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from traceback import format_tb
from typing import TYPE_CHECKING, Any

from batchflux.engine.executors.opening import Elsewhere, Means, open_executors
from batchflux.engine.job_runner import JobRunner
from batchflux.engine.limits.key_pool import KeyWatch
from batchflux.engine.mirroring import Mirror, open_mirror
from batchflux.engine.ports import World
from batchflux.engine.settings import (
    Rules,
    Shared,
    Start,
    found_of,
    keep_distance,
    keys_of,
    rules_of,
    secrets_of,
    shared_of,
)
from batchflux.engine.shutdown import Gate
from batchflux.engine.worker_pool import Tally, WorkerPool
from batchflux.errors import JobError, ManifestError, StorageError
from batchflux.exports.results_csv import Results
from batchflux.ledger.batches import BatchLedger
from batchflux.ledger.bookkeeping import Books, made_before, take_back
from batchflux.ledger.books.runs import note_ended
from batchflux.ledger.health import check_ledger
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.lessons import Lessons
from batchflux.ledger.reconcile import Selection
from batchflux.ledger.tables import last_activity, nanos, set_meta, spooled
from batchflux.monitoring.fields import with_names
from batchflux.monitoring.monitor import Monitor
from batchflux.observers import Progress, Waits, Watcher
from batchflux.output.base import LEDGER, RESULTS, RUN_LOG, SUMMARY
from batchflux.output.file_systems import shaky_locks
from batchflux.output.folder import FolderLock, RunLog, write_whole
from batchflux.output.image_store import ImageStore, kept_files
from batchflux.output.resources import LowWaterMark, check_writable, ensure_open_files
from batchflux.photos import Buckets
from batchflux.planner import check_currency, check_options
from batchflux.providers import providers, webhook_apis
from batchflux.state import note_proven, proven
from batchflux.webhooks.opening import hooks_of
from batchflux.webhooks.wakes import Wakes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from batchflux.engine.canary import Canary
    from batchflux.engine.limits.key_pool import Key
    from batchflux.engine.ports import Executor
    from batchflux.ledger.summary import Summary
    from batchflux.ledger.tables import Known
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What works on jobs, until its gate closes."""

    world: World
    rules: Rules
    runner: JobRunner
    pool: WorkerPool


@asynccontextmanager
async def session_of(manifest: Manifest, options: RunOptions) -> AsyncIterator[Session]:
    """Hold the manifest's folder for a run, while this is entered; for what is raised see `run`."""
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
            yield Session(manifest, options, secrets, lock, monitor)
        except ManifestError:
            take_back(manifest, lock.made)
            raise
        finally:
            lock.release()


class Session:
    """A run of `manifest` in its folder, whose lock is held; an observer of the engine."""

    def __init__(
        self,
        manifest: Manifest,
        options: RunOptions,
        secrets: Mapping[str, str | None],
        lock: FolderLock,
        monitor: Monitor,
    ) -> None:
        self.manifest, self.options, self.monitor = manifest, options, monitor
        self.watcher = options.watcher or Watcher()
        self.secrets = secrets
        self.keys: dict[str, list[Key]] = {}  # of each provider
        self.folder = manifest.output.dir
        self.began, self.started = time.time(), time.monotonic()
        self.gate = Gate()
        self.tally = Tally()
        self.log: RunLog | None = None
        self.mirror: Mirror | None = None
        self.results = Results(self.folder / RESULTS, manifest.tag_names, bom=manifest.output.csv == "excel")
        self.on_rows: Callable[[list[Known]], None] = lambda _: None  # told in the ledger's thread, of jobs that end
        self.ledger = Ledger(self.folder / LEDGER, on_finish=self._finished, kept=kept_files(self.folder))
        self.ledger.database.check = lock.check
        self.batches = BatchLedger(self.ledger.database, time.time)
        self.books = Books(manifest, self.ledger, self.results, self.began)
        self.lessons: dict[str, Lessons] = {}

    def _finished(self, rows: list[Known]) -> None:
        self.results.append(rows)
        self.on_rows(rows)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Have the folder open while this is entered; ManifestError: it counts in another currency."""
        try:
            async with self.monitor.telling():
                self.monitor.speaks(self.event)
                self.ledger.database.now(lambda connection: check_currency(self.manifest, connection))
                named = self.manifest.providers.items()
                self.lessons = {name: Lessons(provider, self.ledger.database) for name, provider in named}
                yield
        finally:
            self.books.photos.close()
            self.ledger.close()
            self.results.close()
            if self.log is not None:
                self.log.close()

    async def begin(self, **said: Any) -> None:
        """Begin run.log with what is `said` of the run, and the mirror."""
        self.log = RunLog(self.folder / RUN_LOG)
        self.mirror = await open_mirror(self.manifest, self.options.environ, self.ledger.database, self.event)
        if (doubt := shaky_locks(self.folder)) is not None:
            self.event("shaky_locks", message=doubt)
        self.event("run_started", name=self.manifest.name, **said, pid=os.getpid())

    def mirroring(self) -> AbstractAsyncContextManager[None]:
        """Put pictures into the mirror, if there is one, while this is entered."""
        return nullcontext() if self.mirror is None else self.mirror.beside(self.gate.close)

    async def closed(self, summary: Summary) -> Summary:
        """Write how the run ended, and let the folder's files follow into the mirror; return the summary as written."""
        written = self._written(summary)
        if self.mirror is not None:
            away = self.mirror.why
            await self.mirror.follow()
            written = written if self.mirror.why == away else self._written(summary)
        how = {name: getattr(written, name) for name in ("exit_code", "reason", "message")}
        self.event("run_ended", **how, **written.this_run)
        self.monitor.finished(written)
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

    async def fault(self) -> StorageError | None:
        """Return why nothing could be kept in the folder now, None where it could: it is tried."""
        try:
            await asyncio.to_thread(check_writable, self.folder)
            await self.ledger.database.submit(lambda _: None)
        except StorageError as error:
            return error
        clears = self.mirror is not None and self.mirror.clears()
        return None if clears else await asyncio.to_thread(LowWaterMark(self.folder).check, 1)

    def bug(self, error: Exception) -> None:
        """Log what nobody foresaw: where it happened, and no text of it, which may hold a secret."""
        with suppress(StorageError):
            self.event("bug", message=type(error).__name__, traceback="".join(format_tb(error.__traceback__)))

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

    @asynccontextmanager
    async def working(self, at_once: int) -> AsyncIterator[tuple[World, Mapping[str, Shared]]]:
        """Have all open that `at_once` requests need, while this is entered."""
        shared = shared_of(self.manifest, self.options.environ, ensure_open_files(at_once))
        async with AsyncExitStack() as stack:
            mark = LowWaterMark(self.folder)
            images = ImageStore(self.folder, self.manifest.output.verify, mark=mark, accept=self.manifest.output.accept)
            stack.callback(images.close)
            self._renew_keys()
            wakes = Wakes(hooks_of(self.manifest, webhook_apis(), self.secrets))
            images.sweep(self.ledger.database.now(spooled))
            check_writable(self.folder)
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
            yield (
                World(
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
                ),
                shared,
            )

    def _renew_keys(self) -> None:
        """Have all keys as nothing had been asked by them in this run."""
        for name, provider in self.manifest.providers.items():
            rate = self.manifest.limits_of(name).rate
            self.keys[name] = keys_of(provider, rate, self.secrets, self.lessons[name].known)

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

    def engine(self, world: World, shared: Mapping[str, Shared], start: Start, *, alone: bool) -> Engine:
        """Return what works on jobs; for `alone` see Canary."""
        rules = rules_of(self.manifest, self.keys, shared, self.gate, start)
        limits_of = self.manifest.limits_of
        paced = [key for name, keys in self.keys.items() if limits_of(name).rate for key in keys]
        keep_distance(paced, self.ledger.database.now(last_activity) if paced else None)
        runner = JobRunner(world, rules)
        pool = WorkerPool(runner, world, start.on_unknown)
        self.tally = pool.tally
        self._watch_canary(rules.canary, alone=alone)
        return Engine(world=world, rules=rules, runner=runner, pool=pool)

    @asynccontextmanager
    async def watched(self, engine: Engine) -> AsyncIterator[None]:
        """Note meanwhile what the keys are found to allow, and tell what requests wait for."""
        noting = [
            asyncio.create_task(lessons.keep(partial(self._found, name))) for name, lessons in self.lessons.items()
        ]
        for task in noting:
            task.add_done_callback(self._noted)
        try:
            async with Waits(engine.rules.services, engine.world.observer.event).followed():
                yield
        finally:
            for task in noting:
                task.cancel()
            await asyncio.wait(noting)

    def progress(self, engine: Engine, *, todo: int) -> Progress:
        """Return the numbers of the engine's work on so many jobs, which the monitor follows from here on."""
        rules = engine.rules
        times = [service.times for service in rules.services]
        made = Progress(engine.pool.tally, rules.services, rules.budget, self.gate, times=times, todo=todo)
        made.batches = engine.runner.batches.waiting_for
        made.mirror = made.mirror if self.mirror is None else self.mirror.waiting
        self.monitor.follow(made, rules.budget)
        return made

    def note_lessons(self) -> None:
        """Note what the keys were found to allow."""
        for name, lessons in self.lessons.items():
            lessons.note(self._found(name))

    def _noted(self, noting: asyncio.Task[None]) -> None:
        if not noting.cancelled() and isinstance(error := noting.exception(), StorageError):
            self.gate.close(error)

    def _found(self, name: str) -> dict[str, Lesson]:
        return found_of(self.keys.get(name, ())) if self.tally.done else {}

    def _watch_canary(self, canary: Canary, *, alone: bool) -> None:
        """Let the canary know which kinds of requests have given a picture: in this folder, or lately in another."""
        places = {name: provider.base_url or "" for name, provider in self.manifest.providers.items()}

        async def known(job: Job) -> bool:
            here = await self.ledger.database.submit(lambda connection: made_before(connection, job))
            return here or await asyncio.to_thread(proven, job.provider, job.model, job.style, places[job.provider])

        async def note(job: Job) -> None:
            await asyncio.to_thread(note_proven, job.provider, job.model, job.style, places[job.provider])

        canary.proven, canary.note = known, note
        canary.alone = alone
