"""How long calls take in this run, and by that how long one may take: `limits.timeout`, a fixed time or `auto`.

A call that is given up may have been paid for, so `auto` gives up none before there is proof that it is the call that
hangs and not the provider that is slow: it takes `GENEROUS` times as long as 99 of 100 calls for its model, `ENOUGH` of
which were seen, and `WITNESSES` other calls were answered at a time when those 99 would have been over. Until then, and
while a model under way has too few, `longest` holds. A call that was given up counts as one that took as long, so that
a bound which is too low gives way by itself.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchflux.errors import Code, JobError

if TYPE_CHECKING:
    from collections.abc import Iterator

GENEROUS, ENOUGH, WITNESSES = 4.0, 100, 4
TELLING = 20  # calls of a model from which on one of them can be called slow
REMEMBERED = 300
QUANTILE = 0.99
LOOK = 5.0  # seconds between two looks for a proof


class _Times:
    """The last calls for one model, in seconds."""

    def __init__(self) -> None:
        self._came: deque[float] = deque()
        self._ordered: list[float] = []

    def add(self, seconds: float) -> None:
        self._came.append(seconds)
        insort(self._ordered, seconds)
        if len(self._came) > REMEMBERED:
            del self._ordered[bisect_left(self._ordered, self._came.popleft())]

    def quickest(self) -> float:
        """Return what the quickest took; 0 while there are too few to tell."""
        return self._ordered[0] if len(self._ordered) >= TELLING else 0.0

    def most(self, least: int) -> float | None:
        """Return what 99 of 100 took at most; None while there are fewer than `least`."""
        return self._ordered[int(QUANTILE * len(self._ordered))] if len(self._ordered) >= least else None


class CallTimes:
    """Watches the calls of a run. `floor` is the least that `auto` allows, None for a fixed time: `longest`."""

    def __init__(self, longest: float, floor: float | None = None) -> None:
        self.longest = longest
        self._floor = floor
        self._clock = asyncio.get_running_loop().time
        self._of: dict[str, _Times] = {}
        self._under_way: dict[str, tuple[float, str | None]] = {}
        self._answered: deque[float] = deque(maxlen=REMEMBERED)

    @contextmanager
    def watch(self, name: str, model: str | None) -> Iterator[None]:
        """Watch a call by its job's name while this is entered; one without a model teaches nothing."""
        began = self._clock()
        self._under_way[name] = began, model
        times = None if model is None else self._of.setdefault(model, _Times())
        try:
            yield
        except JobError as error:
            if times is not None and error.code is Code.UNKNOWN:
                times.add(self._clock() - began)
            raise
        else:
            now = self._clock()
            self._answered.append(now)
            if times is not None:
                times.add(now - began)
        finally:
            self._under_way.pop(name, None)

    def quickest(self, model: str) -> float:
        """Return the seconds of the quickest of the last calls for a model; 0 while there are too few to tell."""
        return self._of[model].quickest() if model in self._of else 0.0

    def usual(self, model: str) -> float:
        """Return the seconds that 99 of 100 of the last calls for a model took at most; 0 before the first."""
        return (self._of[model].most(1) if model in self._of else None) or 0.0

    def due(self, began: float) -> float:
        """Return until when a call may go on that began then, as things stand; ask again when that time has come."""
        now, last = self._clock(), began + self.longest
        if self._floor is None:
            return last
        usual = self._usual()
        first = began + max(self._floor, GENEROUS * (usual or 0.0))
        if now < first:
            return first
        proven = usual is not None and sum(at >= began + usual for at in self._answered) >= WITNESSES
        return first if proven else max(first, min(last, now + LOOK))

    def slow(self) -> tuple[list[tuple[str, float]], float]:
        """Return which calls take longer than 99 of 100 for their model, and how long so far; and what those take."""
        now, found, most = self._clock(), [], 0.0
        for name, (began, model) in self._under_way.items():
            usual = self._of[model].most(TELLING) if model is not None else None
            if usual is not None and now - began > usual:
                found.append((name, now - began))
                most = max(most, usual)
        return sorted(found, key=lambda each: -each[1]), most

    def _usual(self) -> float | None:
        """Return what 99 of 100 calls take for the slowest model under way; None while one had too few."""
        models = {model for _, model in self._under_way.values() if model is not None}
        each = [self._of[model].most(ENOUGH) for model in models]
        known = [seconds for seconds in each if seconds is not None]
        return max(known) if known and len(known) == len(each) else None
