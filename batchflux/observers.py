"""How a caller follows a run: what it is told, and the numbers it can ask for at any time."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol
from unicodedata import east_asian_width

from batchflux.engine.limits.rate_limiter import HELD
from batchflux.ledger.tables import currency

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable

    from batchflux.engine.budget import Budget
    from batchflux.engine.services import Services
    from batchflux.engine.shutdown import Gate
    from batchflux.engine.worker_pool import Tally
    from batchflux.ledger.summary import Summary
    from batchflux.models import Job, Outcome
    from batchflux.planner import Plan
    from batchflux.transport import CallTimes

LOOK_SECONDS = 0.5
_LONG = 120.0  # seconds from which on a time of day says more


class Watcher:
    """Follows a run; override what you want to know. Called in the event loop, so return at once."""

    def checking(self, jobs: Iterable[Job]) -> Iterable[Job]:
        """Pass on all jobs, which are checked before the run begins."""
        return jobs

    def started(self, plan: Plan, progress: Progress) -> None:
        """The run begins; `progress` can be asked at any time."""

    def ended(self, job: Job, outcome: Outcome) -> None:
        """A job ended."""

    def event(self, name: str, /, **fields: Any) -> None:
        """A line of run.log."""

    def finished(self, summary: Summary) -> None:
        """The run ended."""


class Limits(Protocol):
    """What holds requests back: of one provider, or of all."""

    @property
    def in_flight(self) -> int:
        """How many are out."""

    @property
    def concurrency(self) -> int:
        """How many may be out."""

    def waiting_for(self) -> tuple[str, float] | None:
        """Return what keeps requests back, for how many seconds; None when nothing does for long."""


class Progress:
    """The numbers of a run under way; `tally` counts the jobs that ended in this run, of `todo`.

    `batches` says what waits in some, if anything does; `mirror` what the run's end waits for.
    """

    def __init__(
        self,
        tally: Tally,
        limits: Limits,
        budget: Budget,
        gate: Gate,
        *,
        times: Collection[CallTimes] = (),
        todo: int = 0,
    ) -> None:
        self.tally = tally
        self._limits, self._budget, self._gate = limits, budget, gate
        self._times, self._todo = times, todo
        self.batches: Callable[[], str | None] = lambda: None
        self.mirror: Callable[[], str | None] = lambda: None

    @property
    def in_flight(self) -> int:
        """Requests that are out."""
        return self._limits.in_flight

    @property
    def spent(self) -> float:
        """Spent by the folder so far, in the manifest's currency, what is out included."""
        return float(currency(self._budget.spent + self._budget.reserved))

    def waiting(self, width: int = 200) -> str | None:
        """Return what the run waits for, and until when, in one line of at most so many columns.

        None while requests leave as they should.
        """
        if (what_for := self.mirror()) is not None:
            return _one_line(what_for, width)
        if self._gate.closed:
            return f"for what is under way ({self.in_flight} in flight); no new requests"
        found = self._limits.waiting_for()
        if found is None:
            return self._stragglers(width) or (None if self.in_flight else self.batches())
        what, seconds = found
        until = f", next try in {seconds:.0f} s" if seconds >= 1 else ", trying now"
        if seconds >= _LONG:
            until = f", next try at {datetime.fromtimestamp(time.time() + seconds).astimezone():%H:%M:%S}"
        return _one_line(what, width - len(until)) + until

    def _stragglers(self, width: int) -> str | None:
        """Return which calls the end of the run waits for: none is left to begin, and these take longer than most."""
        left = self._todo - self.tally.done - self.tally.failed - self.tally.unknown
        found = [times.slow() for times in self._times] if left <= self._limits.concurrency else []
        slow, usual = max(found, key=lambda pair: len(pair[0]), default=([], 0.0))
        if not slow:
            return None
        name, seconds = slow[0]
        more = f" and {len(slow) - 1:,} more" if len(slow) > 1 else ""
        how = f", {seconds:,.0f} s so far{more} (99 of 100 calls: {usual:,.0f} s)"
        return f"for {_one_line(name, width - len(how) - 4)}{how}"


class Waits:
    """Tells `event` when a limit begins to keep back requests to a provider (`waits`), and when it ends (`goes_on`).

    What is not there is told by events of its own. `why` is in the provider's words, where it has any.
    """

    def __init__(self, services: Services, event: Callable[..., None]) -> None:
        self._services, self._event = services, event
        self._waits: dict[str, str] = {}  # provider -> what keeps its requests back

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Look until it is left; then nothing is waited for any more."""
        looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.wait([looking])
            for name in list(self._waits):
                self._held(name, None)

    async def _look(self) -> None:
        while True:
            for service in self._services:
                self._held(service.name, service.limits.waiting_for())
            await asyncio.sleep(LOOK_SECONDS)

    def _held(self, name: str, found: tuple[str, float] | None) -> None:
        what = "" if found is None else found[0]
        reason = next((held for held in HELD if what.startswith(held)), None)
        before = self._waits.get(name)
        if reason == before:
            return
        if before is not None:
            del self._waits[name]
            self._event("goes_on", provider=name, reason=before)
        if reason is not None:
            self._waits[name] = reason
            self._event("waits", provider=name, reason=reason, why=what.removeprefix(reason).strip(" ()"))


def _one_line(text: str, width: int) -> str:
    """Return what may be a stranger's text without what a terminal would obey, in at most so many columns."""
    clean = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    ends = list(accumulate(1 + (east_asian_width(char) in "WF") for char in clean))  # wide characters take two
    fits = sum(end < width for end in ends)
    return clean if not ends or ends[-1] <= width else f"{clean[:fits]}…"
