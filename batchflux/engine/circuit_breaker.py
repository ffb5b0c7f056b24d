"""The circuit breaker (M. Nygard, "Release It!", 2007): when the provider is failing, pause, probe, and stop the run.

- **down**: `limit` requests in a row met a provider that is not there (refused, 5xx, cut off, timed out), over at least
  `DOWN_SECONDS`, or `limit` of them may have been billed. It probes after 2, 4, 8, ... and then every 60 seconds, for a
  minute, or for ten when a deadline says that the run has all night. The first answer, also to a poll, closes it.
- **jobs**: `limit` jobs in a row ended failed for a cause on the provider's side. Each may have cost money, so it
  probes briefly: up to three requests, one at a time, after 1, 2 and 4 seconds. A job that is done closes it.

Before that, it holds requests back while the pictures of `limit` jobs in a row could not be fetched at first: they are
paid, and until their second tries have shown whether the host is there, no more should be. While it is open nothing
else leaves; tasks that are out are polled on, and a probe waits for them. When the probes fail, the gate closes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from batchflux.errors import RULES, Code, JobError, StopRun
from batchflux.models import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.engine.shutdown import Gate

DOWN_SECONDS = 3.0
DOWN_PAUSE, LONGEST_PAUSE, PATIENCE, LONG_PATIENCE = 2.0, 60.0, 60.0, 600.0
JOBS_PAUSE, JOBS_PROBES = 1.0, 3
NEVER = float("inf")

Mode = Literal["closed", "down", "jobs"]


class CircuitBreaker:
    """Tells when a request may leave, and learns from how requests and jobs end. Times are the loop's clock."""

    def __init__(self, limit: int, gate: Gate, patience: float = PATIENCE) -> None:
        self.mode: Mode = "closed"
        self.limit = limit
        self._gate = gate
        self._patience = patience
        self._requests_in_a_row = self._billed_in_a_row = self._jobs_in_a_row = 0
        self._first_at = 0.0
        self._troubled_in_a_row = self._in_trouble = 0
        self._opened_at = self._probe_at = 0.0
        self._probes = 0
        self._probing = False
        self._listeners: list[Callable[[], object]] = []

    def on_change(self, listener: Callable[[], object]) -> None:
        """Call `listener` when what `next_at` says may have changed for a cause that the rate limiter does not see."""
        self._listeners.append(listener)

    def next_at(self, now: float, in_flight: int) -> float:
        """Return the earliest time that a request may leave; NEVER while a probe, or what left before it, is out."""
        if self.mode == "closed":
            return NEVER if self._in_trouble and self._troubled_in_a_row >= self.limit else now
        return NEVER if self._probing or in_flight else max(now, self._probe_at)

    def leaves(self) -> None:
        """Count a request that leaves: while the breaker is open, it is the probe."""
        self._probing = self.mode != "closed"

    def answered(self) -> None:
        """Note an answer of a provider that is there: a picture, a task, the state of a task, or a refusal."""
        self._requests_in_a_row = self._billed_in_a_row = 0
        if self.mode == "down":
            self._close()

    def troubled(self) -> None:
        """Count a job whose picture could not be fetched at first, until `relieved`: it ends or submits again."""
        self._in_trouble += 1
        self._troubled_in_a_row += 1

    def relieved(self) -> None:
        """Count a troubled job no longer."""
        self._in_trouble -= 1
        self._tell()

    def failed(self, error: JobError, now: float) -> None:
        """Note a request that failed; codes that say that the provider is there count as answered."""
        text = f"{error.code.value}: {error.message}"
        if RULES[error.code].fault != "away":
            self.answered()
            self._probe_failed(text, now, only="jobs")
            return
        if self._requests_in_a_row == 0:
            self._first_at = now
        self._requests_in_a_row += 1
        self._billed_in_a_row += error.billed
        if self.mode != "closed":
            self._probe_failed(text, now)
        elif self._billed_in_a_row >= self.limit or (
            self._requests_in_a_row >= self.limit and now - self._first_at >= DOWN_SECONDS
        ):
            self._open("down", DOWN_PAUSE, now)

    def ended(self, outcome: Outcome, now: float) -> None:
        """Note how a job ended."""
        if outcome.status is Status.DONE:
            self._jobs_in_a_row = self._troubled_in_a_row = 0
            if self.mode == "jobs":
                self._close()
        elif outcome.error_code is None or RULES[Code(outcome.error_code)].fault != "job":
            self._jobs_in_a_row += 1
            if self.mode == "closed" and self._jobs_in_a_row >= self.limit:
                self._open("jobs", JOBS_PAUSE, now)
            else:
                self._probe_failed(f"{outcome.error_code}: {outcome.error}", now, only="jobs")
        elif self.mode == "jobs":
            self._probing = False  # it said nothing about the provider: the next one is the probe
            self._tell()

    def gave_back(self) -> None:
        """Note a lease that came back without a request having left."""
        self._probing = False

    def _open(self, mode: Mode, pause: float, now: float) -> None:
        self.mode = mode
        self._opened_at = now
        self._probe_at = now + pause
        self._probes, self._probing = 0, False

    def _close(self) -> None:
        self.mode, self._probing = "closed", False
        self._requests_in_a_row = self._billed_in_a_row = self._jobs_in_a_row = self._troubled_in_a_row = 0
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    def _probe_failed(self, why: str, now: float, only: Mode | None = None) -> None:
        if not self._probing or (only is not None and self.mode != only):
            return
        self._probing = False
        self._probes += 1
        if self.mode == "jobs":
            self._probe_at = now + JOBS_PAUSE * 2**self._probes
            if self._probes >= JOBS_PROBES:
                count = self._jobs_in_a_row
                self._stop(f"{count} jobs in a row failed, and {self._probes} probes after a pause did too ({why})")
        else:
            self._probe_at = now + min(DOWN_PAUSE * 2**self._probes, LONGEST_PAUSE)
            if self._probe_at - self._opened_at > self._patience:
                self._stop(f"The provider has not been there for {(now - self._first_at) / 60:.0f} minutes ({why})")
        self._tell()

    def _stop(self, what: str) -> None:
        remedy = "see to the provider, then run again to continue (--retry-failed for jobs that failed)."
        self._gate.close(StopRun("failures", f"{what}: {remedy}"))
