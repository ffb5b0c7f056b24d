"""The schedule of a rate that is told or was found: a GCRA (generic cell rate algorithm, ITU-T I.371).

The interval of N requests in W seconds is (W + a) / N, with an allowance a so that N + 1 requests span more than W; and
the last N are remembered by the moment they were on the wire: no window of W seconds holds more than N, whatever was
late. Lateness of no more than `LATENESS` is made up for, so the rate is reached; idle time saves nothing up. But where
more than `PAIRS` a second are told, once N are remembered, one interval is saved up: two may leave together, as slots
came free together. A server that refuses one counts more strictly than was told: from there on all keep their distance.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

LATENESS = 0.007
ALLOWANCE, LONGEST_ALLOWANCE = 0.02, 0.05  # by which requests may overtake each other on their way, on a busy machine
PAIRS = 2.0  # servers let a second's worth come at once, at the least
MOST_REMEMBERED = 10_000


class Cause(Enum):
    """What a refusal says of itself: too many requests, for what is out at once, or a 5xx."""

    RATE, SLOTS, SERVER = range(3)


@dataclass(slots=True, kw_only=True, eq=False)
class Departure:
    """A request that left: its number of the key's, when it left, and when it was written to its connection.

    `ahead` is how many were out before it that were let through; `fate` whether it was, None while that is not known.
    `wait` is what a refusal asked for, `cause` what it was. Times in seconds of the clock.
    """

    number: int
    left: float
    written: float
    ahead: int = 0
    fate: bool | None = None
    wait: float | None = None
    cause: Cause = Cause.RATE


class Gcra:
    """The schedule of one key, for the user's limit of `count` requests (None: no limit) in so many seconds."""

    def __init__(self, count: float | None = None, seconds: float = 1.0) -> None:
        self._tat = float("-inf")
        self._wire: deque[Departure] = deque(maxlen=0)
        self._strict = False
        self.sent = 0
        self.retune(count, seconds)

    def retune(self, count: float | None, seconds: float = 1.0) -> None:
        """Let another limit of the user's hold from now on."""
        self._window = seconds + min(ALLOWANCE * max(seconds, 1.0), LONGEST_ALLOWANCE)
        self.ceiling = float("inf") if count is None else count / self._window
        whole = count is not None and 1 <= count <= MOST_REMEMBERED
        self._wire = deque(self._wire, maxlen=int(count) if whole and count is not None else 0)

    def next_at(self, now: float) -> float:
        """Return the earliest time a request may leave."""
        return max(self._tat, now, self._wire[0].written + self._window if self._full else now)

    def take(self, now: float, rate: float) -> Departure:
        """Count a request that leaves now; the next one keeps its distance by `rate`, or by the limit if that is lower.

        `rate` is in requests a second, infinite for none.
        """
        self.sent += 1
        departure = Departure(number=self.sent, left=now, written=now)
        self.count(departure, rate)
        return departure

    def count(self, departure: Departure, rate: float = float("inf")) -> None:
        """Count a request that leaves as another schedule let it, too; `rate` as above."""
        rate, now = min(rate, self.ceiling), departure.left
        if rate != float("inf"):
            if self._full and rate == self.ceiling > PAIRS and not self._strict:
                self._tat = max(self._tat, now - 1 / rate)
            elif now - self._tat > LATENESS:
                self._tat = now
            self._tat += 1 / rate
        self._wire.append(departure)

    def refused(self) -> None:
        """Keep the distance from now on, whatever was late."""
        self._strict = True

    @property
    def _full(self) -> bool:
        """Whether the last N are remembered, so that no window can hold more."""
        return bool(self._wire) and len(self._wire) == self._wire.maxlen

    def departed(self, at: float) -> None:
        """Count a request that left at `at` before this schedule began, maybe with one saved up."""
        if self.ceiling != float("inf"):
            distances = 2 if self.ceiling > PAIRS else 1
            self._tat = max(self._tat, at + min(distances / self.ceiling, self._window))
