"""When a request may leave, and with which key.

**Rate.** Each key has a GCRA (generic cell rate algorithm, ITU-T I.371, as a virtual schedule): a request may leave
at its theoretical arrival time `tat`, and the next one `interval` after that. There is no burst: a window of w seconds
holds at most w / interval + 1 requests. One that left late by no more than `slack`, the event loop's resolution, does
not move the schedule, which keeps the rate reached (and lets the window be `slack` longer); after a longer pause the
schedule begins anew, so idle time saves nothing up.

**Concurrency.** At most `concurrency` requests are out, over all keys.

**A pool of keys.** Work goes to the key that can take it first. A 429 cools the key it came for (Retry-After, else
doubling from half a second), not the worker that met it; a key that the provider refuses (`auth`, `quota`) leaves
the pool.

Waiters are served first come, first served, by timers and releases: nothing polls.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchflux.engine.gate import Halted
from batchflux.errors import Code, JobError, StopRun

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchflux.engine.gate import Gate

SLACK = 0.010
FIRST_COOLING = 0.5
LONGEST_COOLING = 60.0
PATIENCE = 900.0


class Gcra:
    """A virtual schedule of one request every `interval` seconds; `slack` seconds of lateness are made up for."""

    def __init__(self, interval: float, slack: float = SLACK) -> None:
        self.interval = interval
        self._slack = min(slack, interval)
        self._tat = float("-inf")

    def next_at(self, now: float) -> float:
        """Return the earliest time a request may leave."""
        return max(self._tat, now)

    def take(self, now: float) -> None:
        """Count a request that leaves now."""
        self._tat = (self._tat if now - self._tat <= self._slack else now) + self.interval


@dataclass(slots=True, kw_only=True, eq=False)
class Key:
    """One key of the pool: `name` as written in the manifest, `secret` never shown."""

    name: str
    secret: str | None = field(repr=False)
    schedule: Gcra | None = None
    cooling_until: float = float("-inf")
    cooling: float = FIRST_COOLING
    dead: JobError | None = None

    def next_at(self, now: float) -> float:
        """Return the earliest time this key may be used."""
        at = max(now, self.cooling_until)
        return at if self.schedule is None else max(at, self.schedule.next_at(now))


class Limits:
    """Hands out leases: the right to send one request now, with one key.

    Args:
        keys: the pool, at least one.
        concurrency: most requests out at once.
        gate: closed when all keys are dead; its closing ends all waits.
        clock: the monotonic clock in seconds; the running loop's when None.
    """

    def __init__(
        self, keys: Sequence[Key], *, concurrency: int, gate: Gate, clock: Callable[[], float] | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock or self._loop.time
        self.keys = list(keys)
        self.concurrency = concurrency
        self.in_flight = 0
        self._gate = gate
        self._waiting: deque[asyncio.Future[Key]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._answered_at = self._clock()
        gate.on_close(self._dispatch)

    async def acquire(self) -> Key:
        """Wait for the right to send one request; give it back with `release`.

        Raises:
            Halted: the run is stopping.
        """
        self._gate.check()
        future: asyncio.Future[Key] = self._loop.create_future()
        self._waiting.append(future)
        self._dispatch()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release(future.result())
            raise

    def release(self, key: Key) -> None:
        """Give the slot back."""
        self.in_flight -= 1
        self._dispatch()

    def answered(self, key: Key) -> None:
        """Note that a request with this key was served, well or badly, but not for its rate."""
        key.cooling = FIRST_COOLING
        self._answered_at = self._clock()

    def refused(self, key: Key, error: JobError) -> None:
        """Note a 429, or a refusal of the key itself."""
        now = self._clock()
        if error.code is Code.RATE_LIMITED:
            self._cool(key, error, now)
        else:
            key.dead = error
            self._answered_at = now
            if all(other.dead for other in self.keys):
                self._gate.close(StopRun(error.code.value, _all_dead(self.keys, error)))
        self._dispatch()

    def _cool(self, key: Key, error: JobError, now: float) -> None:
        wait = error.retry_after
        if wait is None:
            wait = key.cooling
            # Several 429s of requests that were out together are one piece of news.
            if now >= key.cooling_until:
                key.cooling = min(key.cooling * 2, LONGEST_COOLING)
        key.cooling_until = max(key.cooling_until, now + wait)
        if now - self._answered_at > PATIENCE:
            self._gate.close(
                StopRun(
                    "rate_limited",
                    f"The provider has answered nothing but 'too many requests' for {PATIENCE / 60:.0f} minutes "
                    f"({error.message}): lower limits.rate or wait, then run again to continue.",
                )
            )

    def _dispatch(self) -> None:
        if self._gate.closed:
            while self._waiting:
                future = self._waiting.popleft()
                if not future.done():
                    future.set_exception(Halted())
            return
        now = self._clock()
        while self._waiting and self.in_flight < self.concurrency:
            if self._waiting[0].done():
                self._waiting.popleft()
                continue
            key = min((key for key in self.keys if key.dead is None), key=lambda key: key.next_at(now))
            at = key.next_at(now)
            if at > now:
                self._wake_at(at)
                return
            if key.schedule is not None:
                key.schedule.take(now)
            self.in_flight += 1
            self._waiting.popleft().set_result(key)

    def _wake_at(self, at: float) -> None:
        if self._timer is not None:
            if not self._timer.cancelled() and self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._woken)

    def _woken(self) -> None:
        self._timer = None
        self._dispatch()


def _all_dead(keys: Sequence[Key], error: JobError) -> str:
    names = ", ".join(key.name for key in keys)
    what = "is out of balance" if error.code is Code.QUOTA else "was refused"
    remedy = "top up the account" if error.code is Code.QUOTA else "set a key that works"
    return f"The provider says that the key {what} ({names}: {error.message}): {remedy}, then run again to continue."
