"""The schedule of a key: how fast it may be used, and how many of its requests may be out at once.

**The schedule** is a GCRA (generic cell rate algorithm, ITU-T I.371) without a burst. Lateness of no more than
`LATENESS` is made up for, so the rate is reached; idle time saves nothing up. The interval of N requests in W seconds
is (W + a) / N, with an allowance a so that N + 1 requests span more than W; and the last N are remembered by the moment
they were on the wire. The first 429 makes the schedule strict: no lateness is made up for, and `AIM` leaves room.

**Adaptation.** Where more than `HEAVY` of a burst's requests are refused, the rate falls to what was accepted, less a
twentieth, and at most halves (a decrease that aims, as in TCP Westwood: Mascolo et al., MobiCom 2001). It holds for
`HOLD` seconds and then grows as the square of the time (the convex part of CUBIC, RFC 9438, 4.2), more slowly below
`SLOW` requests a second, up to the user's limit. A burst ends with `QUIET` seconds, or `QUIET_REQUESTS`, without a 429.
A request that left before the last change says nothing about the rate after it.

**Told to wait.** Retry-After is obeyed each time. What is let through over `TOLD` such refusals is taken for the limit.
But a server that refuses by chance lets through ever less the slower we go: so a lowering is a trial. When `TRIALS` in
a row have ended no refusals, the rate from before is taken back, and the next `DOUBT` pauses teach nothing, later twice
as many, unless most are refused.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

LATENESS, LONGEST_LATENESS = 0.007, 0.05
HEAVY, HEAVY_COUNT = 0.1, 3
EVIDENCE = 0.2
AIM = 0.95
HOLD, LONGEST_HOLD = 6.0, 60.0
GROWTH, SLOW = 0.015, 3.0
FIRST_RATE, SLOWEST = 1.0, 1 / 60.0
SPAN, SPAN_REQUESTS = 4.0, 40
MOST_REMEMBERED = 10_000
QUIET, QUIET_REQUESTS = 1.0, 10
ENOUGH = 0.8
TOLD, TRIALS = 3, 2
GROWN = 1.25
DOUBT, LONGEST_DOUBT = 16, 64
FIRST, SAMPLE = 8.0, 32
RISE, SHRINK, FOLLOW = 2.0, 0.8, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What a key was found to allow, none of which anybody told: `rate` in requests a second, `active` at once.

    None: no limit was met. It is what a later run may begin from, so it is plain data.
    """

    rate: float | None = None
    active: int | None = None


@dataclass(slots=True, kw_only=True)
class Departure:
    """When a request left, and when it was written to its connection, in seconds of the clock."""

    left: float
    written: float


class Pace:
    """The schedule of one key, for the user's limit of `count` requests (None: no limit) in so many seconds."""

    def __init__(self, count: float | None = None, seconds: float = 1.0) -> None:
        self._wire: deque[Departure] = deque(maxlen=0)
        self._limit_to(count, seconds)
        self.learned: float | None = None
        self.strict = False
        self._tat = float("-inf")
        self._sent: deque[float] = deque()
        self._refused: deque[float] = deque()
        self._changed_at: float | None = None
        self._accepted = 0
        self._held_rate: float | None = None
        self._told, self._told_until = 0, float("-inf")
        self._lowered, self._taught = 0, 0.0
        self._before: float | None = None
        self._deaf, self._doubt, self._passed = 0, DOUBT, False
        self._left, self._shut = 0, 0
        self._hold_until = float("-inf")

    def begin_from(self, rate: float | None) -> None:
        """Begin with a rate that an earlier run learned; it grows as one that was learned now."""
        if rate is not None and rate < self.ceiling:
            self.learned = self._held_rate = rate

    def retune(self, rate: tuple[float, float] | None) -> None:
        """Let another limit of the user's hold from now on: requests, in seconds. What was learned is forgotten."""
        self.learned = None
        self._lowered, self._deaf, self._doubt = 0, 0, DOUBT
        self._limit_to(*(rate or (None, 1.0)))

    def _limit_to(self, count: float | None, seconds: float) -> None:
        self._window = seconds + min(LATENESS * max(seconds, 1.0), LONGEST_LATENESS)
        self.ceiling = float("inf") if count is None else count / self._window
        whole = count is not None and 1 <= count <= MOST_REMEMBERED
        self._wire = deque(self._wire, maxlen=int(count) if whole and count is not None else 0)

    @property
    def rate(self) -> float:
        """Requests a second that the schedule allows now; infinite while no limit is known."""
        return self.ceiling if self.learned is None else min(self.learned, self.ceiling)

    def next_at(self, now: float) -> float:
        """Return the earliest time a request may leave."""
        full = self._wire and len(self._wire) == self._wire.maxlen
        return max(self._tat, now, self._wire[0].written + self._window if full else now)

    def take(self, now: float) -> Departure:
        """Count a request that leaves now."""
        self._grow(now)
        if self.rate != float("inf"):
            on_time = now - self._tat <= LATENESS and not self.strict
            interval = 1 / (AIM * self.rate if self.strict and self.learned is None else self.rate)
            self._tat = (self._tat if on_time else now) + interval
        if self._changed_at is None:
            self._changed_at = now
        self._accepted += 1
        self._left += 1
        self._sent.append(now)
        while self._sent[0] < now - max(SPAN, SPAN_REQUESTS / self.rate):
            self._sent.popleft()
        departure = Departure(left=now, written=now)
        self._wire.append(departure)
        return departure

    def departed(self, at: float) -> None:
        """Count a request that left at `at` before this schedule began: the next one keeps its distance to it."""
        if self.rate != float("inf"):
            self._tat = max(self._tat, at + min(1 / self.rate, self._window))

    def refused(self, sent_at: float, now: float, wait: float | None = None) -> None:
        """Note a 429 for a request that left at `sent_at`; `wait` is how long the server asked us to wait."""
        self._shut += 1
        if self._shut >= TOLD and 2 * self._shut > self._left:
            self._deaf = 0
        if self._changed_at is None or sent_at < self._changed_at:
            return
        self._accepted -= 1
        if not self._refused or sent_at - self._refused[-1] > max(QUIET, QUIET_REQUESTS / self.rate):
            self._refused.clear()
        self._refused.append(sent_at)
        if wait is not None and wait >= EVIDENCE:
            self._told_to_wait(sent_at, now, wait)
            return
        if self.rate == float("inf"):
            if len(self._sent) >= HEAVY_COUNT:  # fewer say nothing about a rate
                seen = (len(self._sent) - 1) / max(now - self._sent[0], EVIDENCE)
                self._change(max(seen, FIRST_RATE), now)
            return
        refused, elapsed = len(self._refused), now - self._refused[0]
        self.strict = True
        sent = sum(at >= self._refused[0] for at in self._sent)
        if refused >= HEAVY_COUNT and elapsed >= EVIDENCE and refused > HEAVY * sent:
            self._change(max(AIM * (sent - refused) / elapsed, self.rate / 2), now)

    def _told_to_wait(self, sent_at: float, now: float, wait: float) -> None:
        """Count a pause that the server ordered, and judge the rate when `TOLD` refusals have come."""
        self.strict = True
        if sent_at >= self._told_until and self._deaf:
            self._deaf -= 1
        self._told_until = max(self._told_until, now + wait)
        if self._deaf:
            self._listen_from(self._told_until)
            return
        self._told += 1
        if self._told == 1:
            self._passed = self._lowered > 0 and self.rate >= GROWN * self._taught
        if self._told >= TOLD and self._changed_at is not None:
            self._judge(now - self._changed_at + wait)
            self._listen_from(self._told_until)

    def _judge(self, seconds: float) -> None:
        """Lower the rate to what was sustained for so many seconds, or take back what lowering it did not mend."""
        sustained = max(self._accepted, 1) / seconds
        if self._passed:
            self._lowered, self._doubt = 0, max(self._doubt // 2, DOUBT)
        if sustained >= ENOUGH * self.rate:
            return
        if self._lowered < TRIALS:
            if not self._lowered and not self._passed:
                self._before = sustained if self.rate == float("inf") else self.learned
            self._lowered += 1
            self._change(AIM * sustained, self._told_until)
            self._taught = self.rate
        else:
            self._lowered, self._deaf, self._doubt = 0, self._doubt, min(2 * self._doubt, LONGEST_DOUBT)
            self.learned = self._held_rate = self._before
            self._left, self._shut = 0, 0
            self._hold_until = self._told_until + HOLD

    def _listen_from(self, at: float) -> None:
        """Measure anew from `at` on: what leaves before is old news."""
        self._changed_at, self._accepted, self._told = at, 0, 0
        self._refused.clear()

    def hold(self, until: float) -> None:
        """Let the learned rate grow no sooner than `HOLD` after `until`: nothing at all is let through now."""
        if self.learned is not None and self._changed_at is not None:
            self._held_rate = self.learned
            self._hold_until = until + min(max(until - self._changed_at, HOLD), LONGEST_HOLD)

    def _change(self, rate: float, now: float) -> None:
        self.learned = max(min(rate, self.rate), SLOWEST)
        self._refused.clear()
        self._held_rate = self.learned
        self._changed_at = now
        self._accepted, self._told = 0, 0
        self._hold_until = now + HOLD
        self._tat = max(self._tat, now)

    def _grow(self, now: float) -> None:
        if self.learned is None or self._held_rate is None or now <= self._hold_until:
            return
        since = (now - self._hold_until) * min(1.0, self._held_rate / SLOW)
        grown = self._held_rate * (1 + GROWTH * since**2)
        self.learned = grown if grown < self.ceiling else None
        if self.learned is None:
            self._lowered = 0


class Window:
    """How many requests of one key may be out at once: slow start, and less when answers take longer and longer.

    A key whose rate is not known begins with `FIRST` requests and adds one for each answer, up to the user's
    `concurrency` (TCP's slow start, RFC 5681, 3.1): so a limit nobody told us is met by a few requests, not by all.
    A 429 does not end it: from then on the Pace holds the rate, and slow answers need many requests out to reach it.

    When the median of the last `SAMPLE` latencies is `RISE` times what it usually is, the provider queues: the window
    shrinks by `SHRINK`, then grows by one a window again (AIMD), never below half of `concurrency`. What is usual
    follows slowly, so that pictures which simply take longer are not taken for a queue for ever. A `known` rate, which
    the user set, skips the slow start.
    """

    def __init__(self, concurrency: int, *, known: bool) -> None:
        self._most = float(concurrency)
        self._slow_start = not known
        self._size = self._most if known else min(FIRST, self._most)
        self._latencies: list[float] = []
        self._usual: float | None = None

    @property
    def size(self) -> int:
        """How many requests may be out."""
        return int(self._size)

    def retune(self, concurrency: int, *, known: bool) -> None:
        """Let another `concurrency` hold from now on; it opens at once when the user knows the rate."""
        self._most = float(concurrency)
        self._size = self._most if known else min(self._size, self._most)

    def begin_from(self, active: int | None) -> None:
        """Begin where an earlier run left off: without a slow start, and with as many as were allowed."""
        self._slow_start = False
        self._size = self._most if active is None else min(float(max(active, 1)), self._most)

    def answered(self, seconds: float) -> None:
        """Learn from an answer that took so long."""
        if self._size < self._most:
            self._size = min(self._most, self._size + (1.0 if self._slow_start else 1.0 / self._size))
        self._latencies.append(seconds)
        if len(self._latencies) < SAMPLE:
            return
        now = median(self._latencies)
        self._latencies.clear()
        if self._usual is None or now < self._usual:
            self._usual = now
        elif now > RISE * self._usual:
            self._slow_start = False
            self._size = min(self._size, max(self._size * SHRINK, self._most / 2, 1.0))
        if self._usual is not None:
            self._usual += FOLLOW * (now - self._usual)
