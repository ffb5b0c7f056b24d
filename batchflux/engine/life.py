"""One job on its way through a run, and what holds all of them back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchflux.engine.retry import RetryPolicy, Tries

if TYPE_CHECKING:
    from batchflux.engine.budget import Budget
    from batchflux.engine.circuit_breaker import Breaker
    from batchflux.engine.deadline import Deadline
    from batchflux.engine.rate_limiter import Limits
    from batchflux.ledger.reconcile import Work


@dataclass(slots=True, kw_only=True)
class Life:
    """What has happened to one job in this run; `began` in epoch seconds, `troubled` see Breaker."""

    work: Work
    tries: Tries = field(default_factory=Tries)
    fetches: Tries = field(default_factory=Tries)
    began: float = 0.0
    api_seconds: float | None = None
    download_seconds: float | None = None
    link: str | None = None
    troubled: bool = False
    attempt: int = 0


@dataclass(slots=True, kw_only=True)
class Rules:
    """What holds the run back; changed while it runs when the limits are read again.

    `fetches` is the most pictures downloaded at once.
    """

    limits: Limits
    breaker: Breaker
    budget: Budget
    deadline: Deadline
    policy: RetryPolicy
    fetches: int
