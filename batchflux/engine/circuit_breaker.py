"""The circuit breaker (M. Nygard, "Release It!", 2007): when jobs fail in a row, pause, probe, and stop the run.

When `limit` jobs in a row ended failed for a cause on the provider's side, each may have cost money: so it opens, and
probes briefly, with up to three requests, one at a time, after 1, 2 and 4 seconds. A job that is done closes it; when
the probes fail, the gate closes. While it is open nothing else leaves; tasks that are out are polled on, and a probe
waits for them. A provider that is not there is another matter: see outages.py.

Before that, it holds requests back while the pictures of `limit` jobs in a row could not be fetched at first: they are
paid, and until their second tries have shown whether the host is there, no more should be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.engine.outages import FAILURES, NEVER, PATIENCE, Outages
from batchflux.errors import RULES, Code, JobError, StopRun
from batchflux.models import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.engine.shutdown import Gate

PAUSE, PROBES = 1.0, 3


class CircuitBreaker:
    """Tells when a request may leave, and learns from how requests and jobs end. Times are the loop's clock.

    `outages` is the other half: it judges by requests without an answer, key by key and host by host.
    """

    def __init__(self, limit: int, gate: Gate, patience: float = PATIENCE) -> None:
        self.open = False
        self.limit = limit
        self.outages = Outages(limit, gate, patience)
        self._gate = gate
        self._jobs_in_a_row = 0
        self._troubled_in_a_row = self._in_trouble = 0
        self._probe_at = 0.0
        self._probes = 0
        self._probing = False
        self._listeners: list[Callable[[], object]] = []

    def retune(self, limit: int, patience: float) -> None:
        """Let another limit and another patience hold from now on."""
        self.limit = self.outages.limit = limit
        self.outages.patience = patience

    def on_change(self, listener: Callable[[], object]) -> None:
        """Call `listener` when what `next_at` says may have changed for a cause that the rate limiter does not see."""
        self._listeners.append(listener)
        self.outages.on_change(listener)

    def next_at(self, now: float, in_flight: int) -> float:
        """Return the earliest time that a request may leave; NEVER while a probe, or what left before it, is out."""
        if not self.open:
            return NEVER if self._in_trouble and self._troubled_in_a_row >= self.limit else now
        return NEVER if self._probing or in_flight else max(now, self._probe_at)

    @property
    def away(self) -> bool:
        """Whether it is open, and a probe has failed."""
        return self.open and self._probes > 0

    def leaves(self) -> None:
        """Count a request that leaves: while the breaker is open, it is the probe."""
        self._probing = self.open

    def troubled(self) -> None:
        """Count a job whose picture could not be fetched at first, until `relieved`: it ends or submits again."""
        self._in_trouble += 1
        self._troubled_in_a_row += 1

    def relieved(self) -> None:
        """Count a troubled job no longer."""
        self._in_trouble -= 1
        self._tell()

    def failed(self, error: JobError, now: float) -> None:
        """Note an attempt that failed although the provider is there."""
        self._probe_failed(f"{error.code.value}: {error.message}", now)

    def ended(self, outcome: Outcome, now: float) -> None:
        """Note how a job ended."""
        if outcome.status is Status.DONE:
            self._jobs_in_a_row = self._troubled_in_a_row = 0
            if self.open:
                self.open = self._probing = False
                self._tell()
        elif outcome.error_code is None or RULES[Code(outcome.error_code)].fault != "job":
            self._jobs_in_a_row += 1
            if not self.open and self._jobs_in_a_row >= self.limit:
                self.open = True
                self._probe_at = now + PAUSE
                self._probes, self._probing = 0, False
            else:
                self._probe_failed(f"{outcome.error_code}: {outcome.error}", now)
        elif self.open:
            self._probing = False  # it said nothing about the provider: the next one is the probe
            self._tell()

    def gave_back(self) -> None:
        """Note a lease that came back without a request having left, or one that left and found nobody."""
        self._probing = False

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    def _probe_failed(self, why: str, now: float) -> None:
        if not self._probing:
            return
        self._probing = False
        self._probes += 1
        self._probe_at = now + PAUSE * 2**self._probes
        if self._probes >= PROBES:
            what = (
                f"{self._jobs_in_a_row} jobs in a row failed, and {self._probes} probes after a pause did too ({why})"
            )
            remedy = "see to the provider, then run again to continue (--retry-failed for jobs that failed)."
            self._gate.close(StopRun(FAILURES, f"{what}: {remedy}"))
        self._tell()
