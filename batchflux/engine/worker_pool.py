"""The worker pool: each worker takes a job from the source and sees it through; one job never touches another.

A job passes two stages, each with its own slots: submit (a lease from the rate limiter) and collect. A worker that
downloads holds no lease, and there are more workers than leases, so slow downloads leave the API busy. Workers are
bounded, so the source is read no faster than its jobs are done. Behind a gate that money or time closed, they read on
for what costs nothing: tasks and pictures that earlier runs left.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from batchflux.engine.batching import AT_HAND
from batchflux.engine.pictures import joined
from batchflux.engine.shutdown import Halted
from batchflux.errors import Code, JobError, StopRun
from batchflux.models import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from batchflux.engine.job_runner import JobRunner
    from batchflux.engine.ports import Source, World
    from batchflux.engine.task_polls import JobRun
    from batchflux.ledger.reconcile import OnUnknown, Work
    from batchflux.models import Stored

EXTRA_WORKERS = 64
WORKERS_PER_SLOT = 4
MOST_EXTRA_WORKERS = 1024
MOST_PARKED = 4096  # workers that wait for pictures, at about 10 kB each


def workers_for(concurrency: int) -> int:
    """Return how many jobs may be under way at once, in any stage."""
    return concurrency + min(WORKERS_PER_SLOT * concurrency + EXTRA_WORKERS, MOST_EXTRA_WORKERS)


@dataclass(slots=True, kw_only=True)
class Tally:
    """How many jobs of this run ended, by status, and why."""

    done: int = 0
    failed: int = 0
    unknown: int = 0
    codes: dict[str, int] = field(default_factory=dict)

    @property
    def ended(self) -> int:
        """How many, whatever came of them."""
        return self.done + self.failed + self.unknown

    def add(self, outcome: Outcome) -> None:
        """Count one."""
        name = outcome.status.value
        setattr(self, name, getattr(self, name) + 1)
        if outcome.error_code is not None:
            self.codes[outcome.error_code] = self.codes.get(outcome.error_code, 0) + 1


class WorkerPool:
    """Works through a source of jobs; `run` returns when it is empty, or when the gate closed and all is in."""

    def __init__(self, runner: JobRunner, world: World, on_unknown: OnUnknown) -> None:
        self.tally = Tally()
        self._runner, self._on_unknown = runner, on_unknown
        self._executor, self._ledger, self._observer, self._gate = (
            world.executor,
            world.ledger,
            world.observer,
            world.gate,
        )
        self._now = world.now
        self._clock = asyncio.get_running_loop().time
        self._source: Source | None = None
        self._free = math.inf
        self._over: Callable[[Work], object] = lambda _: None
        self._most = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._apart = 0  # of them, those that take the answers of batches only
        self._crash: BaseException | None = None

    async def run(
        self, source: Source, workers: int, free: float = math.inf, over: Callable[[Work], object] = lambda _: None
    ) -> None:
        """Work until there is no more to do. `free` is the most jobs of the source that need no paid request.

        `over` is told of each job that was taken when it is let go, ended or not.

        A failure that is nobody's job's (the ledger cannot be written, a bug) closes the gate: what is out finishes,
        then it is raised.
        """
        source = await self._runner.batches.along(source)
        self._source, self._free, self._over = source, free, over
        self._most = workers + MOST_PARKED
        self._runner.pictures.parked = self._runner.pictures.slots.grown = self._one_more
        self.grow(workers)
        if source is self._runner.batches:
            self._apart = AT_HAND
            for _ in range(AT_HAND):
                self._begin(self._runner.batches.answer)
        try:
            with self._runner.on_time():
                while self._tasks:
                    await asyncio.wait(self._tasks)  # and for those that were added meanwhile
                await self._runner.batches.ended()
                self._runner.conclude()
        finally:
            tasks = [*self._tasks, *self._runner.batches.stop()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._crash is not None:
            raise self._crash

    def _one_more(self) -> None:
        """Let one worker more take the place of one that waits for a picture: the API is not to wait for it too."""
        self.grow(min(len(self._tasks) - self._apart + 1, self._most))

    def grow(self, workers: int) -> None:
        """Have at least so many workers from now on."""
        if self._source is None:
            return
        for _ in range(workers + self._apart - len(self._tasks)):
            self._begin(self._source.take)

    def _begin(self, take: Callable[[], Awaitable[Work | None]]) -> None:
        task = asyncio.create_task(self._work(take))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, take: Callable[[], Awaitable[Work | None]]) -> None:
        while not self._gate.closed or (self._gate.resumes and self._free > 0):
            try:
                work = await take()
                if work is None:
                    return
                self._free -= not (work.costs or work.batched)  # a batch's was counted when it was read
                if not (work.costs and self._gate.closed):
                    await self._job(work)
            except Halted:
                continue  # behind the gate there may be work in the source that costs nothing
            except StopRun as reason:
                self._gate.close(reason)
            except Exception as error:  # noqa: BLE001  kept, and raised when what is out has come in
                self._crash = self._crash or error
                self._gate.close(StopRun("bug", f"batchflux failed: {error!r}"))

    async def _job(self, work: Work) -> None:
        try:
            await self._worked(work)
        finally:
            self._runner.batches.over(work)
            self._over(work)

    async def _worked(self, work: Work) -> None:
        run = self._runner.begin(work, self._now())
        stored, failure = None, None
        try:
            stored = await self._runner.see_through(run)
            if stored.refused is not None:
                failure = JobError(*stored.refused)
        except JobError as error:
            failure = error
        said = await self._runner.pictures.beside(run, stored)
        outcome = self._outcome(run, stored, failure, said)
        await self._ledger.finish(work.job, outcome)
        self.tally.add(outcome)
        asked = work.costs or work.handle is not None or run.attempt != (work.attempt or 0)
        if asked or outcome.status is Status.DONE:
            run.service.breaker.ended(outcome, self._clock())
        self._runner.pictures.relieve(run)
        self._observer.ended(work.job, outcome)

    def _outcome(self, run: JobRun, stored: Stored | None, failure: JobError | None, said: str) -> Outcome:
        status = Status.DONE if failure is None else Status.FAILED
        if failure is not None and failure.code is Code.UNKNOWN and self._on_unknown != "fail":
            status = Status.UNKNOWN
        if stored is not None and said:
            stored = replace(stored, remarks=joined(stored.remarks, said))
        told = "" if failure is None else joined(failure.message, said if stored is None else None)
        return Outcome(
            status=status,
            attempts=run.tries.used,
            stored=stored,
            error_code=None if failure is None else failure.code.value,
            error=told or None,
            started_at=run.began,
            finished_at=self._now(),
            api_seconds=run.api_seconds,
            download_seconds=run.download_seconds,
            result_url=run.link,
        )
