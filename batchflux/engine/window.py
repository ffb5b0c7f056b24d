"""How many requests of one key may be out at once: slow start, and less when answers take longer and longer.

- A key whose rate is not known begins with `FIRST` requests and adds one for each answer, up to the user's
  `concurrency` (TCP's slow start, RFC 5681, 3.1): so a limit nobody told us is met by a few requests, not by all.
  A 429 does not end it: from then on the Pace holds the rate, and slow answers need many requests out to reach it.
- When the median of the last `SAMPLE` latencies is `RISE` times what it usually is, the provider queues: the window
  shrinks by `SHRINK`, then grows by one a window again (AIMD). What is usual follows slowly, so that pictures which
  simply take longer are not taken for a queue for ever; and the window never shrinks below half of `concurrency`.
"""

from __future__ import annotations

from statistics import median

FIRST = 8.0
SAMPLE = 32
RISE = 2.0
SHRINK = 0.8
FOLLOW = 0.1


class Window:
    """The window of one key; `known` skips the slow start because the user set a rate."""

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
