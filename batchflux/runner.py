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
from typing import TYPE_CHECKING, Any

from batchflux import openfiles
from batchflux.ending import NO_REDO, Signals, on_hangup, verdict
from batchflux.engine.feeder import Feeder
from batchflux.engine.gate import Gate
from batchflux.engine.pool import Pool, Tally, workers_for
from batchflux.engine.ports import World
from batchflux.engine.selection import Selection
from batchflux.engine.steps import Steps
from batchflux.engine.unchanged import digest_of, mark
from batchflux.errors import BatchfluxError, ManifestError, StopRun, StorageError
from batchflux.manifest import Redos, expand
from batchflux.planner import LEDGER, Plan, check_options, exists_in, plan_of, survey_jobs
from batchflux.points import reach
from batchflux.providers import capabilities, styles
from batchflux.storage.ballast import Ballast
from batchflux.storage.folder import FolderLock, RunLog, write_whole
from batchflux.storage.images import ImageStore, kept_pictures
from batchflux.storage.ledger import Ledger, currency, get_meta, give_up_in_flight, set_meta, spent, spooled
from batchflux.storage.moves import move_files, record_moves, settle_moves
from batchflux.storage.results import Results, ended_rows
from batchflux.storage.reviews import is_stale, shown, verdicts
from batchflux.storage.shelf import DiskShelf
from batchflux.storage.summary import Summary, state_of
from batchflux.transport import Transport
from batchflux.tuning import keys_of, retune, rules_of, transport_options
from batchflux.watcher import Progress, Watcher

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping

    from batchflux.engine.limits import Key
    from batchflux.engine.steps import Rules
    from batchflux.engine.survey import Survey
    from batchflux.errors import Fault
    from batchflux.manifest import Manifest
    from batchflux.model import Job, Outcome

SIMULATOR_HOST = "simulator.localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How to run.

    `signals` lets SIGINT and SIGTERM drain the run, and SIGHUP call `reload` for a manifest whose limits hold from then
    on; `environ` is where keys are looked up.
    """

    selection: Selection = field(default_factory=Selection)
    signals: bool = False
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    watcher: Watcher | None = None
    reload: Callable[[], Manifest] | None = None


async def run(manifest: Manifest, options: RunOptions | None = None) -> Summary:
    """Run a manifest, or continue it; return how it ended.

    Raises:
        ManifestError: with all faults; nothing was spent.
        UsageError: a key is not set, or the output folder cannot be used; nothing was spent.
        FolderBusy: another process runs this folder.
        StorageError: the output folder cannot be used from the start. (Later, it ends the run: see Summary.reason.)
    """
    options = options or RunOptions()
    keys = keys_of(manifest, options.environ)
    check_options(manifest)
    folder = manifest.output.dir
    new = not folder.exists()
    lock = FolderLock(folder)
    lock.acquire()
    try:
        return await _Run(manifest, options, keys).whole()
    except ManifestError:
        if new:
            _take_back(manifest)
        raise
    finally:
        lock.release()


class _Run:
    def __init__(self, manifest: Manifest, options: RunOptions, keys: list[Key]) -> None:
        self.manifest = manifest
        self.options = options
        self.keys = keys
        self.folder = manifest.output.dir
        self.began, self.started = time.time(), time.monotonic()
        self.loop = asyncio.get_running_loop()
        self.gate = Gate()
        self.tally = Tally()
        self.signals = Signals(self.gate, self.event)
        self.log: RunLog | None = None
        self.redos: Redos | None = None
        self.digest = digest_of(manifest, before=self.began)  # before its files are read
        self.results = Results(self.folder / "results.csv", manifest.tag_names)
        self.ledger = Ledger(self.folder / LEDGER, on_finish=self.results.append, kept=kept_pictures(self.folder))

    async def whole(self) -> Summary:
        try:
            survey = self.ledger.database.now(self._survey)
            already = self.ledger.database.now(spent)
            plan = plan_of(self.manifest, survey, already, None)
            reach("run.surveyed")
            self.log = RunLog(self.folder / "run.log")
            self.event("run_started", name=self.manifest.name, jobs=plan.counts, calls=plan.calls, pid=os.getpid())
            self._bring_in_line(survey)
            if survey.todo:
                await self._work(plan, already)
            else:
                ImageStore(self.folder).sweep(self.ledger.database.now(spooled))
            return self._finish(survey, already)
        except StorageError as error:
            first = self.gate.reason
            if first is error or not isinstance(first, StorageError):
                raise
            raise first from error  # what stopped the run says more than what its end could not write then
        finally:
            self.ledger.close()
            self.results.close()
            if self.log is not None:
                self.log.close()

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Observer: log a job's end."""
        if self.log is not None:
            self.log.write("job_ended", id=job.id, status=outcome.status.value, code=outcome.error_code)
        if self.options.watcher is not None:
            self.options.watcher.ended(job, outcome)

    def event(self, name: str, /, **fields: Any) -> None:
        """Observer: log an event."""
        if self.log is not None:
            self.log.write(name, **fields)
        if self.options.watcher is not None:
            self.options.watcher.event(name, **fields)

    def _survey(self, connection: sqlite3.Connection) -> Survey:
        settle_moves(self.folder, connection)
        survey = survey_jobs(self.manifest, connection, self.options.selection, apply=True)
        set_meta(connection, "total", str(survey.total))
        set_meta(connection, "currency", self.manifest.provider.currency)
        if survey.edited or survey.moves:
            set_meta(connection, "clean", "0")  # with the edit: a kill from here on leaves results.csv behind it
        self._introduce(connection)
        self.results.verdicts = verdicts(connection)
        if survey.redos:
            self.redos = Redos(survey.redos, lambda _: False)  # all are pinned, so none is chosen anew
        return survey

    def _rewrite(self, connection: sqlite3.Connection, skip: Callable[[int], bool] | None = None) -> None:
        self.results.verdicts = verdicts(connection)
        self.results.rewrite(ended_rows(connection, skip))
        shown(connection)

    def _introduce(self, connection: sqlite3.Connection) -> None:
        """Tell who looks on (pages, exports) which run this is; `base` is where local references are."""
        manifest, budget = self.manifest, self.manifest.limits.budget
        set_meta(connection, "name", manifest.name)
        set_meta(connection, "base", str(manifest.base))
        set_meta(connection, "began", repr(self.began))
        set_meta(connection, "budget", "" if budget is None else format(budget, "f"))

    def _bring_in_line(self, survey: Survey) -> None:
        """Make files and results.csv say what the ledger and the manifest say."""
        database = self.ledger.database
        write_whole(self.folder / "manifest.yaml", self.manifest.text)
        if survey.moves:
            moves = list(survey.moves.values())
            move_files(
                self.folder, moves, lambda moved: database.now(lambda connection: record_moves(connection, moved))
            )
        clean = database.now(lambda connection: get_meta(connection, "clean") == "1")
        redo = survey.failed + survey.unknown > 0 and survey.todo > 0
        if not clean or survey.edited or survey.moves or redo or not self.results.intact():
            database.now(lambda connection: self._rewrite(connection, survey.redone.__contains__))

        def in_line(connection: sqlite3.Connection) -> None:
            set_meta(connection, "clean", "0" if survey.todo else "1")
            mark(connection, self.digest, survey)

        database.now(in_line)

    async def _work(self, plan: Plan, already: int) -> None:
        at_once = min(self.manifest.limits.concurrency, plan.counts["todo"])
        openfiles.ensure(at_once)
        async with AsyncExitStack() as stack:
            transport = await self._transport(stack)
            ballast = Ballast(self.folder, at_once, self._disk_full)
            shelf = DiskShelf(self.folder, self.manifest.output.verify, ballast)
            stack.callback(shelf.close)
            self.ledger.sync_pictures = shelf.sync
            shelf.sweep(self.ledger.database.now(spooled))
            stack.callback(ballast.drop)
            ballast.hold()
            self.ledger.database.relief = ballast.release
            if self.options.signals:
                stack.enter_context(self.signals.handled())
            await self._pool(transport, shelf, plan, already)

    async def _transport(self, stack: AsyncExitStack) -> Transport:
        provider = self.manifest.provider
        base_url, resolve = provider.base_url, {}
        if base_url is None:
            from batchflux.simulator import (  # noqa: PLC0415  a server, which other providers do not need
                EmbeddedSimulator,
                parse_options,
            )

            # A request does not tell its job's variant, and a redo must not be the same picture once more.
            salt = sum(map(len, self.redos.asked.values())) if self.redos is not None else 0
            simulator = EmbeddedSimulator(replace(parse_options(provider.options), salt=salt))
            resolve[SIMULATOR_HOST] = await asyncio.to_thread(simulator.start)
            stack.push_async_callback(asyncio.to_thread, simulator.stop)
            base_url = f"http://{SIMULATOR_HOST}"
        options = transport_options(self.manifest, base_url, resolve)
        return await stack.enter_async_context(Transport(options))

    async def _pool(self, transport: Transport, shelf: DiskShelf, plan: Plan, already: int) -> None:
        manifest, selection = self.manifest, self.options.selection
        rules = rules_of(manifest, self.keys, self.gate, already, selection.on_unknown)
        world = World(
            caller=transport, journal=self.ledger, shelf=shelf, observer=self, gate=self.gate, random=random.Random()
        )
        pool = Pool(Steps(world, rules, styles()), world, rules.breaker, selection.on_unknown)
        self.tally = pool.tally
        jobs = iter(expand(manifest, capabilities(), self._late_fault, redos=self.redos))
        feeder = Feeder(jobs, self.ledger, selection, exists_in(manifest))
        if self.options.watcher is not None:
            self.options.watcher.started(plan, Progress(pool.tally, rules.limits, rules.budget))
        workers = min(workers_for(manifest.limits.concurrency), max(1, plan.counts["todo"]))
        with contextlib.ExitStack() as stack:
            reload = self.options.reload
            if self.options.signals and reload is not None:
                stack.enter_context(on_hangup(lambda: self._read_limits(rules, pool, reload)))
            await pool.run(feeder, workers)

    def _read_limits(self, rules: Rules, pool: Pool, reload: Callable[[], Manifest]) -> None:
        """Let the limits of the manifest as it stands now hold from here on."""
        try:
            manifest = reload()
        except BatchfluxError as error:
            self.event("limits_kept", message=f"The manifest has faults, so the limits stay: {error}")
            return
        retune(rules, manifest)
        pool.grow(workers_for(manifest.limits.concurrency))
        self.manifest = replace(self.manifest, limits=manifest.limits)
        self.event("limits_changed", message=f"The limits of {manifest.display} hold from now on.")

    def _disk_full(self, error: StorageError) -> None:
        """Start no more requests; called in any thread."""
        self.loop.call_soon_threadsafe(self.gate.close, error)

    def _late_fault(self, fault: Fault) -> None:
        """A table or the manifest's files changed after they were checked; called in the feeder's thread."""
        reason = StopRun("manifest", f"The manifest changed while it ran: {fault}")
        self.loop.call_soon_threadsafe(self.gate.close, reason)

    def _finish(self, survey: Survey, already: int) -> Summary:
        database = self.ledger.database
        reach("run.closing")
        if self.signals.cut_off:
            database.now(lambda connection: give_up_in_flight(connection, kept_pictures(self.folder)))
        ended = self.tally.done + self.tally.failed + self.tally.unknown
        if survey.todo or database.now(is_stale):
            database.now(self._rewrite)
        state = database.now(state_of)
        reason, message, code = verdict(state, self.gate, self.signals, left=survey.todo - ended)
        if self.options.selection.redo and survey.todo == 0:
            reason, message, code = NO_REDO
        seconds = time.monotonic() - self.started
        summary = Summary(
            name=self.manifest.name,
            folder=str(self.folder),
            exit_code=code,
            reason=reason,
            message=message,
            started_at=self.began,
            finished_at=time.time(),
            seconds=seconds,
            jobs=survey.as_counts() | {name: getattr(state, name) for name in ("done", "failed", "unknown", "pending")},
            this_run={"done": self.tally.done, "failed": self.tally.failed, "unknown": self.tally.unknown},
            failures=state.failures,
            attempts=state.attempts,
            possibly_billed=state.possibly_billed,
            spent=state.spent,
            spent_possibly=state.spent_possibly,
            spent_this_run=state.spent - currency(already),
            currency=self.manifest.provider.currency,
            budget=self.manifest.limits.budget,
            images_per_minute=60.0 * self.tally.done / max(seconds, 1e-3),
        )
        write_whole(self.folder / "summary.json", summary.to_json())
        self.event("run_ended", exit_code=code, reason=reason, message=message, **summary.this_run)
        database.now(lambda connection: set_meta(connection, "clean", "1"))
        reach("run.closed")
        return summary


def _take_back(manifest: Manifest) -> None:
    """Remove the folder that was made for a manifest that turned out to have faults."""
    folder = manifest.output.dir
    for name in (LEDGER, f"{LEDGER}-journal", f"{LEDGER}-wal", f"{LEDGER}-shm", ".lock"):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody put a file there meanwhile: then the folder stays
        folder.rmdir()
