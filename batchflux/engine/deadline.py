"""The deadline: no attempt is started that would, by the run's own latencies, end after it."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchflux.errors import StopRun

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchflux.engine.shutdown import Gate

REMEMBERED = 256
QUANTILE = 0.95


class Deadline:
    """Stops attempts that would, by the run's own latencies, end after `at` (seconds of the loop's clock)."""

    def __init__(self, at: float | None, label: str, gate: Gate) -> None:
        self._at = at
        self._label = label
        self._gate = gate
        self._watched = False
        self._timer: asyncio.TimerHandle | None = None
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)

    def took(self, seconds: float) -> None:
        """Learn from one attempt, from its start to its picture in place."""
        self._seconds.append(seconds)

    def check(self, now: float) -> None:
        """Close the gate when an attempt that starts now would probably end too late."""
        if self._at is not None and now + self.expected() > self._at:
            self._close()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Close the gate at the deadline itself, so that no wait outlasts it."""
        self._watched = True
        self._set_timer()
        try:
            yield
        finally:
            self._watched = False
            self._set_timer()

    def retune(self, at: float | None, label: str) -> None:
        """Let another deadline hold from now on."""
        self._at, self._label = at, label
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._watched and self._at is not None:
            self._timer = asyncio.get_running_loop().call_at(self._at, self._close)

    def expected(self) -> float:
        """Return the 95th percentile of what the last attempts took, in seconds; 0 before the first."""
        if not self._seconds:
            return 0.0
        ordered = sorted(self._seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * QUANTILE))]

    def _close(self) -> None:
        self._gate.close(
            StopRun(
                "deadline",
                f"The deadline ({self._label}) leaves no time for another request: run again to continue.",
            )
        )
