"""The pool of keys: their schedules, the leases on them, and what is told when one dies.

A lease is granted LEAD seconds before its request may leave, so that the attempt can be written to the ledger
meanwhile; see rate_limiter.py. It is held from the submit of a task to its final status.
"""

from __future__ import annotations

from collections import deque
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any

from batchflux.engine.limits.gcra import Gcra
from batchflux.engine.limits.limit_finder import LimitFinder
from batchflux.engine.outages import NEVER, Place
from batchflux.errors import Code, JobError, StopRun

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from batchflux.engine.limits.gcra import Departure
    from batchflux.engine.limits.limit_finder import Learned
    from batchflux.engine.ports import Observer
    from batchflux.models import Job, Outcome

AT = " at "  # between the name of a key and the address of a fleet
LEAD = 0.05
PATIENCE = 900.0  # seconds of nothing but 429s, after which the run stops
SHORT_PATIENCE = 90.0  # seconds of them at least, where an outage is waited out for less: limits are often of a minute


@dataclass(slots=True, kw_only=True, eq=False)
class Allowance:
    """The user's limit for one key that several addresses are asked with: it holds for all of them together."""

    schedule: Gcra = field(default_factory=Gcra)
    keys: list[Key] = field(default_factory=list)

    @property
    def ahead(self) -> float:
        """How many seconds those take, at the limit, that are still to leave."""
        return sum(key.preparing for key in self.keys) / self.schedule.ceiling


@dataclass(slots=True, kw_only=True, eq=False)
class Key:
    """One key of the pool: `name` as written in the manifest, `secret` never shown; `place` is what it reaches.

    Of a fleet there is one for each address, and `shared` is what these have in common; `address` is "" where its
    provider has one only. `schedule` keeps the rate that was found, and the user's limit where that is not shared.

    `rate` is that limit, requests in seconds; `learned` is what an earlier run found it to allow, from which it
    begins, and `found` what this run knows. It rests until `resting_until`, seconds of the clock, as the server said.
    """

    name: str
    secret: str | None = field(repr=False)
    address: str = ""
    shared: Allowance | None = None
    rate: InitVar[tuple[float, float] | None] = None
    learned: InitVar[Learned | None] = None
    schedule: Gcra = field(init=False)
    finder: LimitFinder = field(init=False)
    place: Place = field(default_factory=Place)
    resting_until: float = float("-inf")
    dead: JobError | None = None
    leased: int = 0
    preparing: int = 0
    departing: deque[tuple[Lease, asyncio.Future[bool]]] = field(default_factory=deque)

    def __post_init__(self, rate: tuple[float, float] | None, learned: Learned | None) -> None:
        self.schedule, self.finder = Gcra(), LimitFinder(learned)
        self._limited.retune(*(rate or (None,)))
        if self.shared is not None:
            self.shared.keys.append(self)

    @property
    def found(self) -> Learned:
        """What it is known to allow now, for a later run to begin from."""
        return self.finder.learned

    def retune(self, rate: tuple[float, float] | None) -> None:
        """Let another limit of the user's hold from now on. What was learned is forgotten."""
        self._limited.retune(*(rate or (None,)))
        self.finder.forget()

    @property
    def _limited(self) -> Gcra:
        """The schedule of the user's limit."""
        return self.schedule if self.shared is None else self.shared.schedule

    def take(self, at: float) -> Departure:
        """Count a request that leaves at `at`."""
        departure = self.schedule.take(at, self.finder.rate(at))
        if self.shared is not None:
            self.shared.schedule.count(departure)
        return departure

    def departed(self, at: float) -> None:
        """Count a request of an earlier run's, which left at `at`."""
        self._limited.departed(at)

    def refused(self) -> None:
        """Note a 429: what the limits that were told leave open is not taken up any more."""
        self._limited.refused()

    def paced_at(self, now: float) -> float:
        """Return the earliest time that the limits which were told let a request leave with this key."""
        return max(self.resting_until, self.schedule.next_at(now), self._limited.next_at(now))

    def next_at(self, now: float) -> float:
        """Return the earliest time that a request may leave with this key; NEVER: with the next answer."""
        at = self.paced_at(now)
        return at if self.place.down else max(at, self.finder.next_at(now))  # then one leaves at a time anyway

    def grant_at(self, now: float) -> float:
        """Return the earliest time that a lease makes sense: NEVER while a probe is out, or as many as may be."""
        if self.place.down:
            return max(self.next_at(now) - LEAD, self.place.next_at(now))
        room = self.finder.room(now) - len(self.finder.out)
        rate = min(self.finder.rate(now), self._limited.ceiling)
        if 0 < room <= self.preparing:
            return NEVER
        ahead = 0.0 if self.shared is None else self.shared.ahead
        return self.next_at(now) + max(self.preparing / rate, ahead) - LEAD


@dataclass(slots=True, kw_only=True, eq=False)
class Lease:
    """The right to have one request, or the task that it gave, out with `key`; as a `probe` while its place is down.

    `preparing` while its request is still to leave (never of a task that an earlier run submitted); `departure` is when
    it left; `held` until it is given back; `clock` gives the seconds of the rate limiter.
    """

    key: Key
    clock: Callable[[], float]
    preparing: bool = True
    probe: bool = False
    held: bool = True
    departure: Departure | None = None

    @property
    def departed_at(self) -> float | None:
        """When its request left, in seconds of the clock; None when none did."""
        return None if self.departure is None else self.departure.left

    def leave(self, at: float) -> None:
        """Count the request as one that leaves at `at`."""
        self.preparing = False
        self.key.preparing -= 1
        self.departure = self.key.take(at)
        self.key.finder.left(self.departure, at)

    def again(self) -> float:
        """Book the turn of one more request, after one that was refused for its form; return the seconds until it."""
        now, key = self.clock(), self.key
        if self.departure is not None:
            key.finder.passed(self.departure, now)
            key.finder.gone(self.departure)
        at = key.paced_at(now)
        self.departure = key.take(at)
        key.finder.left(self.departure, at)
        return at - now

    def sent(self) -> None:
        """Note that the request is written to its connection now."""
        if self.departure is not None:
            self.departure.written = self.clock()


class KeyWatch:
    """An Observer that passes all on to `observer`, and tells it `key_refused` once for each key that died.

    Of several keys the others hide the death of one, and it may need replacing. The event names the key's environment
    variable, never the key. Of a pool of one nothing is told: its end is the run's, which says why.
    """

    def __init__(self, observer: Observer, keys: Sequence[Key]) -> None:
        self._observer = observer
        self._living = list(keys) if len(keys) > 1 else []

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Pass it on."""
        self._observer.ended(job, outcome)

    def event(self, name: str, /, **fields: Any) -> None:
        """Pass it on, and tell which keys have died since."""
        self._observer.event(name, **fields)
        dead, self._living = self._living, [key for key in self._living if key.dead is None]
        for key in dead:
            if (error := key.dead) is not None:
                what = f"The key in {key.name} {_state(error.code)} ({error.message})"
                text = f"{what}: this run goes on without it."
                self._observer.event("key_refused", key=key.name, code=error.code.value, message=text)


def all_dead(keys: Sequence[Key], error: JobError) -> StopRun:
    """Return why the run stops when no key is left; `error` is what the last one met."""
    names = ", ".join(key.name for key in keys)
    remedy = "top up the account" if error.code is Code.QUOTA else "set a key that works"
    what = f"The provider says that the key {_state(error.code)} ({names}: {error.message})"
    return StopRun(error.code.value, f"{what}: {remedy}, then run again to continue.")


def nothing_but_refusals(error: JobError, seconds: float, patience: float) -> StopRun | None:
    """Return why the run stops after so many seconds of 429s, None where it goes on; `patience` is that of outages."""
    if seconds <= min(PATIENCE, max(patience, SHORT_PATIENCE)):
        return None
    what = f"The provider has answered nothing but 'too many requests' for {seconds / 60:.3g} minutes"
    remedy = "lower limits.rate or wait, then run again to continue."
    return StopRun(Code.RATE_LIMITED.value, f"{what} ({error.message}): {remedy}")


def _state(code: Code) -> str:
    return "is out of balance" if code is Code.QUOTA else "was refused"
