"""When a provider is failing: the rule for `max_consecutive_failures`, and the run's own latencies.

A job that ends failed for a cause on the provider's side counts; one that succeeds starts the count again; one that the
provider rightly refused (moderated) or that was never sent (a missing reference) says nothing about the provider.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchflux.errors import Code, StopRun
from batchflux.model import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchflux.engine.gate import Gate

NOT_THE_PROVIDER = frozenset({Code.MODERATED, Code.REFERENCE, Code.UNSAFE_URL, Code.ECHOED_INPUT})
REMEMBERED = 256
QUANTILE = 0.95


class Health:
    """Counts failures in a row and closes the gate at `limit`."""

    def __init__(self, limit: int, gate: Gate) -> None:
        self._limit = limit
        self._gate = gate
        self.in_a_row = 0

    def ended(self, outcome: Outcome) -> None:
        """Count how a job ended."""
        if outcome.status is Status.DONE:
            self.in_a_row = 0
        elif outcome.error_code not in NOT_THE_PROVIDER:
            self.in_a_row += 1
            if self.in_a_row >= self._limit:
                self._gate.close(
                    StopRun(
                        "failures",
                        f"{self.in_a_row} jobs in a row failed, the last with {outcome.error_code} "
                        f"({outcome.error}): see to the provider, then run again to continue "
                        "(--retry-failed for those that failed).",
                    )
                )


class Deadline:
    """Stops attempts that would, by the run's own latencies, end after `at` (seconds of the loop's clock)."""

    def __init__(self, at: float | None, label: str, gate: Gate) -> None:
        self._at = at
        self._label = label
        self._gate = gate
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
        timer = None if self._at is None else asyncio.get_running_loop().call_at(self._at, self._close)
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()

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
