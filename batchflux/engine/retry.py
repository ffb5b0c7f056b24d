"""Retries: whether a failed step is tried again and when, by RULES, and the driver of the tries.

Backoff is exponential with full jitter, uniform in [0, min(cap, base * 2**(n-1))] before retry n
(M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015); a server that says when to come back
(Retry-After) is obeyed when that is later.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from tenacity import AsyncRetrying, retry_if_exception

from batchflux.errors import RULES, JobError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from batchflux.engine.shutdown import Gate
    from batchflux.ledger.reconcile import OnUnknown

T = TypeVar("T")

MAX_DOUBLINGS = 30
FREE_CAP = 4.0  # seconds; the outage itself holds back what finds nobody there
CAPACITY, FRACTION, TRICKLE = 500.0, 0.1, 0.5


@dataclass(slots=True, kw_only=True)
class Tries:
    """How often one step was tried: `used` of the allowed attempts, `resent` after an unknown outcome.

    `refused` counts the times that it was for its rate, `again` those it was asked again after an answer without a
    picture, `excused` the failures that are no
    attempts of the job, because the place it asked is not there: the last one was if `free`.
    """

    used: int = 0
    resent: int = 0
    refused: int = 0
    again: int = 0
    excused: int = 0
    free: bool = False

    def failed(self, *, charged: bool) -> None:
        """Take note of whether the failure of a try, which is counted as used, is held against the job."""
        self.free = not charged
        self.used -= self.free
        self.excused += self.free


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Decides whether a step is tried again, and after how many seconds.

    `attempts` is the most a job may use, `base` and `cap` bound the backoff in seconds; `patient` is the base for
    downloads, which cost nothing.
    """

    attempts: int = 5
    base: float = 0.5
    patient: float = 1.0
    cap: float = 60.0
    on_unknown: OnUnknown = "retry"

    def api(self, tries: Tries, error: JobError, random: Random) -> float | None:
        """Return the seconds to wait before an API step is tried again, None to give up.

        A rate limit, or a key that died while others live, costs the job no attempt. After the first it waits a little
        by itself; what else is held back, and what the server asked for, is for the limits to see to.
        """
        retry = RULES[error.code].retry
        if retry == "limits":
            if RULES[error.code].fault == "key":
                return 0.0
            longest = min(FREE_CAP, self.base * 2.0 ** min(max(tries.refused - 1, 0), MAX_DOUBLINGS))
            return random.uniform(longest / 2, longest)
        if error.final or retry == "never" or (tries.used >= self.attempts and not tries.free):
            return None
        if retry == "resend":
            if self.on_unknown != "retry" or tries.resent >= 1:
                return None
            tries.resent += 1
        if retry == "once" and not self.asks_again(tries):
            return None
        return self._backoff(self.base, 0.0, tries, error, random)

    def asks_again(self, tries: Tries) -> bool:
        """Whether a job may be asked for again whose answer had no picture in it, and count that it is."""
        tries.again += 1
        return tries.again == 1 and tries.used < self.attempts

    def fetch(self, tries: Tries, error: JobError, random: Random) -> float | None:
        """Return the seconds to wait before a picture is fetched again, None to give up."""
        out_of_tries = tries.used >= self.attempts and not tries.free
        if error.final or not RULES[error.code].fetch_again or out_of_tries:
            return None
        # The picture is paid for and its host may only be restarting: half of each wait is certain.
        return self._backoff(self.patient, 0.5, tries, error, random)

    def upload(self, tries: Tries, error: JobError, random: Random) -> float | None:
        """Return the seconds to wait before a reference is uploaded again, None to give up."""
        tries.used += 1
        if RULES[error.code].retry not in ("backoff", "limits") or tries.used >= self.attempts:
            return None
        return self._backoff(self.base, 0.0, tries, error, random)

    def _backoff(self, base: float, certain: float, tries: Tries, error: JobError, random: Random) -> float:
        cap = FREE_CAP if tries.free else self.cap
        longest = min(cap, base * 2.0 ** min(max(tries.used + tries.excused - 1, 0), MAX_DOUBLINGS))
        return max(random.uniform(certain * longest, longest), error.retry_after or 0.0)


class RetryQuota:
    """Keeps retries a small part of all calls, so that an outage is not made worse.

    Of `CAPACITY` retries each retry takes one and gets it back when it succeeds; each first try that succeeds adds
    `FRACTION`; and one comes every `TRICKLE` seconds. While it is empty, retries wait in line and fresh jobs go on.
    (Google's SRE book, "Handling Overload"; botocore's standard retry mode.)
    """

    def __init__(self, gate: Gate) -> None:
        self._left = CAPACITY
        self._gate = gate
        self._clock = asyncio.get_running_loop().time
        self._since = self._clock()
        self._line = asyncio.Lock()
        self._changed = asyncio.Event()
        gate.on_close(self._changed.set)

    async def take(self) -> None:
        """Take one retry out of the quota; wait while there is none. Raises Halted when the run is stopping."""
        async with self._line:
            self._gate.check()
            while self._refilled() < 1.0:
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), (1.0 - self._left) * TRICKLE + 1e-3)
                self._gate.check()
            self._left -= 1.0

    def succeeded(self, *, retried: bool) -> None:
        """Pay in for a call that succeeded."""
        self._left = min(CAPACITY, self._left + (1.0 if retried else FRACTION))
        self._changed.set()

    def _refilled(self) -> float:
        now = self._clock()
        self._left = min(CAPACITY, self._left + (now - self._since) / TRICKLE)
        self._since = now
        return self._left


class Retrying:
    """Runs a step until it succeeds or `decide` gives up; one instance serves all jobs.

    `decide` returns the seconds to wait before the step is tried again, None to give up; `sleep` waits.
    """

    def __init__(
        self, decide: Callable[[Tries, JobError], float | None], sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._decide = decide
        self._sleep = sleep

    async def __call__(self, step: Callable[[], Awaitable[T]], tries: Tries) -> T:
        """Await `step()` until it succeeds; raise the JobError of its last try when it is given up."""
        try:
            return await step()
        except JobError as error:  # from the second try on tenacity drives: to set it up costs as much as a request
            delay = self._decide(tries, error)
            if delay is None:
                raise

        def again(error: BaseException) -> bool:
            nonlocal delay
            delay = self._decide(tries, error) if isinstance(error, JobError) else None
            return delay is not None

        await self._sleep(delay)
        retrying = AsyncRetrying(retry=retry_if_exception(again), wait=lambda _: delay or 0.0, sleep=self._sleep)
        return await retrying(_perform, step)


async def _perform(step: Callable[[], Awaitable[T]]) -> T:
    """Await a step; tenacity awaits nothing but coroutine functions, which a lambda is not."""
    return await step()
