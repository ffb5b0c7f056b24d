"""The pool of keys: their schedules, the leases on them, and what is told when one dies.

A lease is granted LEAD seconds before its request may leave, so that the attempt can be written to the ledger
meanwhile; see rate_limiter.py. It is held from the submit of a task to its final status.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchflux.engine.outages import NEVER, Place
from batchflux.engine.pace import Learned, Pace, Window
from batchflux.engine.retry import MAX_DOUBLINGS
from batchflux.errors import Code, JobError, StopRun

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from batchflux.engine.pace import Departure
    from batchflux.engine.ports import Observer
    from batchflux.models import Job, Outcome

LEAD = 0.05
PATIENCE = 900.0  # seconds
SHORTEST_COOLING, FIRST_COOLING, LONGEST_COOLING = 0.02, 0.5, 60.0


@dataclass(slots=True, kw_only=True, eq=False)
class Key:
    """One key of the pool: `name` as written in the manifest, `secret` never shown; `place` is what it reaches.

    `learned` is what an earlier run found it to allow, from which it begins; `found` what this run knows.
    """

    name: str
    secret: str | None = field(repr=False)
    learned: Learned | None = None
    pace: Pace = field(default_factory=Pace)
    window: Window = field(default_factory=lambda: Window(1 << 30, known=True))
    place: Place = field(default_factory=Place)
    cooling_until: float = float("-inf")
    refusals: int = 0
    dead: JobError | None = None
    leased: int = 0
    preparing: int = 0
    departing: deque[tuple[Lease, asyncio.Future[bool]]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        if self.learned is not None:
            self.pace.begin_from(self.learned.rate)
            self.window.begin_from(self.learned.active)

    @property
    def found(self) -> Learned:
        """What it is known to allow now, for a later run to begin from."""
        return Learned(rate=self.pace.learned)

    def next_at(self, now: float) -> float:
        """Return the earliest time that a request may leave with this key."""
        return max(self.cooling_until, self.pace.next_at(now))

    def grant_at(self, now: float) -> float:
        """Return the earliest time that a lease makes sense: NEVER while the window is full, or a probe is out."""
        if self.leased >= self.window.size:
            return NEVER
        ahead = self.preparing / self.pace.rate if self.preparing else 0.0
        return max(self.next_at(now) + ahead - LEAD, self.place.next_at(now) if self.place.down else 0.0)

    def refuse(self, sent_at: float, now: float, retry_after: float | None) -> float:
        """Take note of a 429 for a request of `sent_at`; return until when the key is to cool."""
        # 429s of requests that were out together are one piece of news.
        if sent_at >= self.cooling_until:
            self.refusals += 1
        self.pace.refused(sent_at, now, retry_after)
        if retry_after is not None:
            return now + retry_after
        interval = 1 / self.pace.rate or FIRST_COOLING  # 0 while no rate is known
        base = min(max(interval, SHORTEST_COOLING), FIRST_COOLING)
        return now + min(base * 2.0 ** min(max(self.refusals - 1, 0), MAX_DOUBLINGS), LONGEST_COOLING)


@dataclass(slots=True, kw_only=True, eq=False)
class Lease:
    """The right to have one request, or the task that it gave, out with `key`; as a `probe` while its place is down.

    `preparing` while its request is still to leave (never of a task that an earlier run submitted); `departure` is when
    it left; `clock` gives the seconds of the rate limiter.
    """

    key: Key
    clock: Callable[[], float]
    preparing: bool = True
    probe: bool = False
    departure: Departure | None = None

    @property
    def departed_at(self) -> float | None:
        """When its request left, in seconds of the clock; None when none did."""
        return None if self.departure is None else self.departure.left

    def leave(self, at: float) -> None:
        """Count the request as one that leaves at `at`."""
        self.preparing = False
        self.key.preparing -= 1
        self.departure = self.key.pace.take(at)

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


def nothing_but_refusals(error: JobError) -> StopRun:
    """Return why the run stops after PATIENCE seconds of 429s."""
    what = f"The provider has answered nothing but 'too many requests' for {PATIENCE / 60:.0f} minutes"
    remedy = "lower limits.rate or wait, then run again to continue."
    return StopRun(Code.RATE_LIMITED.value, f"{what} ({error.message}): {remedy}")


def _state(code: Code) -> str:
    return "is out of balance" if code is Code.QUOTA else "was refused"
