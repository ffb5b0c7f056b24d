"""The keys of the pool, and the leases on them.

A lease is granted LEAD seconds before its request may leave, so that the attempt can be written to the ledger
meanwhile; see limits.py.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchflux.engine.pace import Pace
from batchflux.engine.window import Window
from batchflux.errors import Code, JobError, StopRun

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LEAD = 0.05
EARLY = 0.0025  # seconds; more than it takes to make a request ready and than a timer of the loop is late
SLICE = 0.0001  # seconds slept between two turns of the loop
NEVER = float("inf")
PATIENCE = 900.0  # seconds
SHORTEST_COOLING, FIRST_COOLING, LONGEST_COOLING = 0.02, 0.5, 60.0


@dataclass(slots=True, kw_only=True, eq=False)
class Key:
    """One key of the pool: `name` as written in the manifest, `secret` never shown."""

    name: str
    secret: str | None = field(repr=False)
    pace: Pace = field(default_factory=Pace)
    window: Window = field(default_factory=lambda: Window(1 << 30, known=True))
    cooling_until: float = float("-inf")
    refusals: int = 0
    dead: JobError | None = None
    leased: int = 0
    preparing: int = 0
    departing: deque[tuple[Lease, asyncio.Future[bool]]] = field(default_factory=deque)

    def next_at(self, now: float) -> float:
        """Return the earliest time that a request may leave with this key."""
        return max(self.cooling_until, self.pace.next_at(now))

    def grant_at(self, now: float) -> float:
        """Return the earliest time that a lease makes sense: NEVER while the window is full."""
        if self.leased >= self.window.size:
            return NEVER
        ahead = self.preparing / self.pace.rate if self.preparing else 0.0
        return self.next_at(now) + ahead - LEAD

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
        return now + min(base * 2.0 ** min(max(self.refusals - 1, 0), 30), LONGEST_COOLING)


@dataclass(slots=True, kw_only=True, eq=False)
class Lease:
    """The right to send one request with `key`; `departed_at` is set when it leaves, at most EARLY before that time."""

    key: Key
    clock: Callable[[], float]
    fine_sleep: Callable[[float], None] | None = None
    departed_at: float | None = None
    mark: list[float] | None = None

    def leaves(self, at: float) -> None:
        """Note that the request leaves: it is made ready now, and written at `at`."""
        self.departed_at = at
        self.key.preparing -= 1
        self.mark = self.key.pace.take(at)

    async def sent(self) -> None:
        """Wait for what is left of the request's time, and note that it is written to its connection then.

        It is slept out in slices, between which the loop has its turn: an answer or another key's request that came
        due meanwhile is not held up, and does not go out in a bunch behind this one.
        """
        if self.mark is None:
            return
        now = self.clock()
        while self.fine_sleep is not None and (left := self.mark[0] - now) > 0:
            self.fine_sleep(min(left, SLICE))
            if left > SLICE:
                await asyncio.sleep(0)
            now = self.clock()
        self.key.pace.sent(self.mark, now)


def all_dead(keys: Sequence[Key], error: JobError) -> StopRun:
    """Return why the run stops when no key is left; `error` is what the last one met."""
    names = ", ".join(key.name for key in keys)
    what = "is out of balance" if error.code is Code.QUOTA else "was refused"
    remedy = "top up the account" if error.code is Code.QUOTA else "set a key that works"
    message = f"The provider says that the key {what} ({names}: {error.message}): {remedy}, then run again to continue."
    return StopRun(error.code.value, message)


def nothing_but_refusals(error: JobError) -> StopRun:
    """Return why the run stops after PATIENCE seconds of 429s."""
    message = (
        f"The provider has answered nothing but 'too many requests' for {PATIENCE / 60:.0f} minutes "
        f"({error.message}): lower limits.rate or wait, then run again to continue."
    )
    return StopRun(Code.RATE_LIMITED.value, message)
