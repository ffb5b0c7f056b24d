"""How long calls take in this run, and by that how long one may take: `limits.timeout`, a fixed time or `auto`.

A call that is given up may have been paid for, so `auto` gives up none before there is proof that it is the call that
hangs and not the provider that is slow: it takes `GENEROUS` times as long as 99 of 100 calls for its model, `ENOUGH` of
which were seen, and meanwhile, when half of them would have been over, `WITNESSES` other calls were answered. Until
then, and while a model under way has too few, `longest` holds. A call that was given up counts as one that took as
long, so that a bound which is too low gives way by itself.
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

GENEROUS, ENOUGH, WITNESSES = 4.0, 100, 8
TELLING = 20  # calls of a model from which on one of them can be called slow
REMEMBERED = 300
QUANTILE = 0.99
LOOK = 1.0  # seconds, at least, between two looks for a proof


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

    def quantile(self, part: float, least: int) -> float | None:
        """Return what that part of them took at most; None while there are fewer than `least`."""
        if len(self._ordered) < least:
            return None
        return self._ordered[int(part * len(self._ordered))]


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

    def due(self, began: float) -> float:
        """Return until when a call may go on that began then, as things stand; ask again when that time has come."""
        now, last = self._clock(), began + self.longest
        typical = self._typical()
        if self._floor is None or typical is None:
            return last
        half, most = typical
        first = began + max(self._floor, GENEROUS * most)
        proven = sum(at >= began + half for at in self._answered) >= WITNESSES
        if now < first or proven:
            return first
        return max(first, min(last, now + max(most, LOOK)))

    def slow(self) -> tuple[list[tuple[str, float]], float]:
        """Return which calls take longer than 99 of 100 for their model, and how long so far; and what those take."""
        now, found, most = self._clock(), [], 0.0
        for name, (began, model) in self._under_way.items():
            usual = self._of[model].quantile(QUANTILE, TELLING) if model is not None else None
            if usual is not None and now - began > usual:
                found.append((name, now - began))
                most = max(most, usual)
        return sorted(found, key=lambda each: -each[1]), most

    def _typical(self) -> tuple[float, float] | None:
        """Return what half and 99 of 100 calls take for the slowest model under way; None while one had too few."""
        models = {model for _, model in self._under_way.values() if model is not None}
        halves = [self._of[model].quantile(0.5, ENOUGH) for model in models]
        mosts = [self._of[model].quantile(QUANTILE, ENOUGH) for model in models]
        if not halves or None in halves or None in mosts:
            return None
        return max(filter(None, halves), default=0.0), max(filter(None, mosts), default=0.0)
