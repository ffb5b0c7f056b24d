"""How a caller follows a run: what it is told, and the numbers it can ask for at any time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchflux.ledger.tables import currency

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchflux.engine.budget import Budget
    from batchflux.engine.rate_limiter import RateLimiter
    from batchflux.engine.worker_pool import Tally
    from batchflux.ledger.summary import Summary
    from batchflux.models import Job, Outcome
    from batchflux.planner import Plan


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


class Progress:
    """The numbers of a run under way; `tally` counts the jobs that ended in this run."""

    def __init__(self, tally: Tally, limits: RateLimiter, budget: Budget) -> None:
        self.tally = tally
        self._limits = limits
        self._budget = budget

    @property
    def in_flight(self) -> int:
        """Requests that are out."""
        return self._limits.in_flight

    @property
    def spent(self) -> float:
        """Spent by the folder so far, in the manifest's currency, what is out included."""
        return float(currency(self._budget.spent + self._budget.reserved))
