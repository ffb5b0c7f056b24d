"""The providers of a run as the engine knows them, and which of them makes a job now.

Each has limits, keys, an outage and a gate of its own; the budget, the deadline and the run's gate are of all. Its own
gate is closed when its keys are refused, or its patience ends: then it makes nothing more in this run. Its jobs are
made by others that can carry them, as they are while it is not there; the rest stay pending, and are why the run ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from batchflux.engine.circuit_breaker import CircuitBreaker
    from batchflux.engine.limits.key_pool import Key
    from batchflux.engine.limits.rate_limiter import RateLimiter
    from batchflux.engine.outages import Outages
    from batchflux.engine.retry import RetryPolicy
    from batchflux.engine.shutdown import Gate
    from batchflux.models import Cost, Job
    from batchflux.providers import Provider
    from batchflux.transport import CallTimes


@dataclass(slots=True, kw_only=True, eq=False)
class Batching:
    """How a provider's batches are paid; `on`: its jobs are to be sent in some.

    `price_of` and `cost_of` are those of a Service, as they are in a batch. `live_from` gives, for what is sent at an
    epoch second, that from which on it is sent live if it is not back (None: never). `seller` is asked for batches.
    """

    on: bool
    price_of: Callable[[Job], int]
    cost_of: Callable[[Job, Cost | None], int | None]
    seller: Provider
    live_from: Callable[[float], float] | None = None
    dearest: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True, eq=False)
class Service:
    """One provider: how it is asked, what holds its requests back, and what they cost.

    `wire` gives the wire format of a job, `price_of` the most that a job may cost (nanounits), `cost_of` what a told
    cost of a job's model is in nanounits of the run's currency (None: it is in another, or none was told). `times` is
    how long its calls and tasks may take. `left`: a job was left pending because its gate is closed.
    """

    name: str
    gate: Gate
    limits: RateLimiter
    breaker: CircuitBreaker
    policy: RetryPolicy
    times: CallTimes
    wire: Callable[[Job], Provider]
    price_of: Callable[[Job], int]
    cost_of: Callable[[Job, Cost | None], int | None]
    batching: Batching | None = None
    left: bool = False
    dearest: dict[str, int] = field(default_factory=dict)  # what answers told that a model cost, at most

    @property
    def outages(self) -> Outages:
        """Who of it is not there."""
        return self.breaker.outages

    @property
    def there(self) -> bool:
        """Whether it can be asked: its keys are taken, and it is not down, or has yet to be probed."""
        return not (self.gate.closed or self.limits.away)

    def paid(self, *, batched: bool) -> Service | Batching:
        """Return what has the prices of requests, in batches or by themselves."""
        return self.batching if batched and self.batching is not None else self

    def told(self, job: Job, told: Cost | None, *, batched: bool = False) -> int | None:
        """Return what an answer says that it cost, in nanounits; from then on as much is reserved for its model."""
        paid = self.paid(batched=batched)
        cost = paid.cost_of(job, told)
        paid.dearest[job.model] = max(paid.dearest.get(job.model, 0), cost or 0)
        return cost

    def most_of(self, job: Job, *, batched: bool = False) -> int:
        """Return the most that a job may cost, by its price and by what answers told."""
        paid = self.paid(batched=batched)
        return max(paid.price_of(job), paid.dearest.get(job.model, 0))


class Services:
    """All providers of a run by their names; `gate` is the run's."""

    def __init__(self, services: Mapping[str, Service], gate: Gate) -> None:
        self._all, self._gate = services, gate
        self._only = next(iter(services.values())) if len(services) == 1 else None
        for one in services.values():
            one.breaker.on_change(partial(self._wake_others, one))

    def __iter__(self) -> Iterator[Service]:
        """Go through all of them."""
        return iter(self._all.values())

    def of(self, job: Job) -> Service:
        """Return who makes a job."""
        return self._only or self._all[job.provider]

    @property
    def single(self) -> bool:
        """Whether there is one only; any name in a ledger is its own then, for it may have been renamed."""
        return self._only is not None

    def named(self, name: str) -> Service | None:
        """Return the provider of a name."""
        return self._all.get(name)

    def ways(self, job: Job, without: Collection[str] = ()) -> list[Job]:
        """Return a job as each provider makes it that can, its own first."""
        if not (job.fallbacks or without):
            return [job]
        made = [job, *(job.by(way) for way in job.fallbacks if way.provider in self._all)]
        return [one for one in made if one.provider not in without]

    @property
    def keys(self) -> list[Key]:
        """The keys of all."""
        return [key for one in self for key in one.limits.keys]

    @property
    def in_flight(self) -> int:
        """How many requests are out."""
        return sum(one.limits.in_flight for one in self)

    @property
    def concurrency(self) -> int:
        """How many requests may be out."""
        return sum(one.limits.concurrency for one in self)

    def waiting_for(self) -> tuple[str, float] | None:
        """Return what keeps requests back, for how many seconds; None when nothing does for long."""
        found = [(*told, one.name) for one in self if (told := one.limits.waiting_for()) is not None]
        if not found:
            return None
        what, seconds, name = min(found, key=lambda told: told[1])
        return (what if self.single else f"{name}: {what}"), seconds

    def leave(self, halted: Iterable[Service]) -> None:
        """Note that these left a job pending, of whom no other makes it: their gate is why, where it is closed."""
        for service in halted:
            service.left |= service.gate.closed

    def conclude(self) -> None:
        """When the run has no more to do: close its gate if jobs are left because a provider's is closed."""
        for one in self:
            if one.left and one.gate.reason is not None:
                self._gate.close(one.gate.reason)

    def _wake_others(self, changed: Service) -> None:
        for one in self:
            if one is not changed:  # which wakes itself
                one.limits.wake(others=True)
