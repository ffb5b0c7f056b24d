"""The canary: few requests are bought from a provider until the first picture of it is kept; then all is free.

It is one for each provider, model and style. What a relay sends is known only once it was paid for, and what nobody can
use, or nobody may fetch, would be bought as often as there are jobs. So what is free is awaited first. Each request
that may be billed takes a place, also a second one for the same job; one whose end tells nothing of the provider's
answers (`untold` in RULES) gives it back. When all places are used, nothing under way could still bring a picture, and
none was kept, the trial has failed and nothing more is bought: jobs without a place stay pending, and the next run may
buy as many again.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchflux.engine.shutdown import CANARY, Halted
from batchflux.errors import RULES, Code, JobError, StopRun

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from batchflux.engine.shutdown import Gate
    from batchflux.models import Job

_SHAPE = "what was answered is in {folder}/answers: see whether provider.api, style and model are right"
_FETCH = "their links are kept in {folder}, and the next run fetches them again"
REMEDIES = {  # by what the requests came to: where what was paid for is, and what to set
    Code.BAD_ANSWER: _SHAPE,
    Code.NO_IMAGE: _SHAPE,
    Code.DIFFERS: "what was made is in {folder}/rejected: output.accept takes it, which costs nothing",
    Code.BAD_IMAGE: "what came inside answers is in {folder}/answers; links are kept in {folder}, and --retry-failed "
    "fetches them again, without paying",
    Code.DOWNLOAD: f"{_FETCH}; set provider.download_headers if their host wants any",
    Code.UNSAFE_URL: f"{_FETCH}, if provider.allow_hosts allows it",
    Code.UNKNOWN: "set limits.timeout higher if the provider needs longer",
}
OTHERWISE = "see {folder}/results.csv"


@dataclass(slots=True, eq=False)
class Trial:
    """One provider, model and style: places `taken`, and those of them from which a picture may still come (`busy`).

    `free` counts the jobs that may bring a picture without a new request.
    """

    passed: bool = False
    failed: bool = False
    looked_up: bool = False
    noted: bool = False
    taken: int = 0
    busy: int = 0
    free: int = 0
    waiting: int = 0
    ends: Counter[Code] = field(default_factory=Counter)
    said: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


async def _nothing(_job: Job) -> bool:
    return False


class Canary:
    """Says when a request that may be billed may be made.

    `places` is how many are bought of each kind until a picture is kept; 0: any number. `proven` tells of a job whether
    a picture of its kind was kept before, in this folder or lately elsewhere, `note` is told when one was kept now.
    `folder` is the output folder, for messages; `alone`: the run has one kind, so that its trial is the run's.
    """

    def __init__(self, places: int, gate: Gate, folder: str = "") -> None:
        self.places = places
        self.alone = True
        self.proven: Callable[[Job], Awaitable[bool]] = _nothing
        self.note: Callable[[Job], Awaitable[object]] = _nothing
        self._gate, self._folder = gate, folder
        self._trials: defaultdict[tuple[str, str, str], Trial] = defaultdict(Trial)
        self._reasons: list[StopRun] = []
        self._changed = asyncio.Event()
        gate.on_close(self._changed.set)

    def stops(self, job: Job) -> bool:
        """Whether the trial of a job's kind has failed, so that nothing more is bought of it."""
        return self._trial(job).failed

    async def take(self, job: Job) -> None:
        """Take a place for a request; wait for one. Raises Halted: the trial has failed, or the run stops."""
        await self.ready(job)
        self.place(job)

    async def ready(self, job: Job) -> None:
        """Wait for a free place, which `place` takes. Raises Halted, as `take`."""
        trial = self._trial(job)
        async with trial.lock:
            if self.places and not trial.passed and not trial.looked_up:
                trial.passed = await self.proven(job) or trial.passed
                trial.looked_up = True
        trial.waiting += 1
        try:
            while not self.room(job):
                if trial.failed:
                    raise Halted
                self._changed.clear()
                await self._changed.wait()
                self._gate.check()
        finally:
            trial.waiting -= 1

    def room(self, job: Job) -> float:
        """Return how many places are free for requests of a job's kind, infinity when they need none."""
        trial = self._trial(job)
        if not self.places or trial.passed:
            return math.inf
        return 0 if trial.free else max(0, self.places - trial.taken)

    def place(self, job: Job) -> None:
        """Take one of the places that are free."""
        trial = self._trial(job)
        trial.taken += 1
        trial.busy += 1

    def passed(self, job: Job) -> bool:
        """Whether a picture of a job's kind is known to have been kept."""
        return self._trial(job).passed

    def free_begun(self, job: Job) -> None:
        """Let requests of a job's kind wait for what it may get without one, until `free_over`."""
        self._trial(job).free += 1

    def free_over(self, job: Job) -> None:
        """Wait no more for a job: it has ended, needs a request, or the host of its picture is down."""
        self._trial(job).free -= 1
        self._changed.set()

    def ended(self, job: Job, error: JobError | None) -> None:
        """End a request with a place that gave no picture, or one that was not kept; None: it never left."""
        trial = self._trial(job)
        trial.busy -= 1
        if error is None or RULES[error.code].untold:
            trial.taken -= 1
        else:
            trial.ends[error.code] += 1
            trial.said = f"{error.code.value}: {error.message}"
        if trial.busy == 0 and trial.taken >= self.places > 0 and not (trial.passed or trial.failed):
            self._fail(job, trial)
        self._changed.set()

    async def kept(self, job: Job, *, placed: bool) -> None:
        """Take note of a picture that was kept; `placed`: by a request that took a place."""
        trial = self._trial(job)
        trial.busy -= placed
        trial.passed = True
        self._changed.set()
        if not trial.noted:
            trial.noted = True
            await self.note(job)

    def conclude(self) -> None:
        """When the run has no more to do: close the gate if a trial of several has failed."""
        for reason in self._reasons:
            self._gate.close(reason)

    def waiting_for(self) -> str | None:
        """Return whose first picture requests wait for, None when none do."""
        found = [kind for kind, trial in self._trials.items() if trial.waiting and not trial.failed]
        return f"the first picture of {', '.join(found[0])}" if found else None

    def _trial(self, job: Job) -> Trial:
        return self._trials[job.provider, job.model, job.style]

    def _fail(self, job: Job, trial: Trial) -> None:
        trial.failed = True
        ends = ", ".join(f"{code.value} {count}" for code, count in trial.ends.most_common())
        remedy = REMEDIES.get(trial.ends.most_common(1)[0][0], OTHERWISE).format(folder=self._folder)
        reason = StopRun(
            CANARY,
            f"No picture was kept of the first {trial.taken} requests to {job.provider} ({job.model}, {job.style}), so "
            f"no more were bought: {ends} ({trial.said}). {remedy[0].upper()}{remedy[1:]}; limits.canary: 0 buys "
            "without trying first. Then run again to continue.",
        )
        self._reasons.append(reason)
        if self.alone:
            self._gate.close(reason)
