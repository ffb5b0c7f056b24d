"""What follows a failed step: one pure table (CONTRACT 5), and the tenacity adapter that drives it.

Backoff is exponential with full jitter, uniform in [0, min(cap, base * 2**(n-1))] before retry n
(M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015); a server that says when to come back
(Retry-After) is obeyed when that is later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from tenacity import AsyncRetrying, RetryCallState

from batchflux.engine.shutdown import Halted
from batchflux.errors import Code, JobError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from batchflux.engine.shutdown import Gate
    from batchflux.ledger.reconcile import OnUnknown

T = TypeVar("T")

AGAIN = frozenset({Code.SERVER, Code.NETWORK, Code.TIMEOUT, Code.BAD_ANSWER, Code.NO_IMAGE})
FETCH_AGAIN = frozenset({Code.DOWNLOAD, Code.BAD_IMAGE})
KEY_IS_DEAD = frozenset({Code.AUTH, Code.QUOTA})
MAX_DOUBLINGS = 30
CAPACITY, FRACTION, TRICKLE = 500.0, 0.1, 0.5


@dataclass(slots=True, kw_only=True)
class Tries:
    """How often one step was tried: `used` of the allowed attempts, `resent` after an unknown outcome."""

    used: int = 0
    resent: int = 0
    delay: float = 0.0


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

        A rate limit, or a key that died while others live, costs the job no attempt and no wait of its own: the
        limits hold the next try back.
        """
        if error.code is Code.RATE_LIMITED or error.code in KEY_IS_DEAD:
            return 0.0
        if tries.used >= self.attempts:
            return None
        if error.code is Code.UNKNOWN:
            if self.on_unknown != "retry" or tries.resent >= 1:
                return None
            tries.resent += 1
            return self._backoff(tries, error, random)
        return self._backoff(tries, error, random) if error.code in AGAIN else None

    def fetch(self, tries: Tries, error: JobError, random: Random) -> float | None:
        """Return the seconds to wait before a picture is fetched again, None to give up."""
        if error.code not in FETCH_AGAIN or tries.used >= self.attempts:
            return None
        if error.code is Code.BAD_IMAGE:
            return self._backoff(tries, error, random)
        # The picture is paid for and its host may only be restarting: half of each wait is certain.
        longest = min(self.cap, self.patient * 2 ** min(max(tries.used - 1, 0), MAX_DOUBLINGS))
        return max(random.uniform(longest / 2, longest), error.retry_after or 0.0)

    def _backoff(self, tries: Tries, error: JobError, random: Random) -> float:
        doublings = min(max(tries.used - 1, 0), MAX_DOUBLINGS)
        wait = random.uniform(0.0, min(self.cap, self.base * 2**doublings))
        return max(wait, error.retry_after or 0.0)


class RetryQuota:
    """Keeps retries a small part of all calls, so that an outage is not made worse.

    A purse of `CAPACITY` retries: each retry takes one and gets it back when it succeeds; each first try that succeeds
    adds `FRACTION`; and one comes every `TRICKLE` seconds, so that nothing waits for ever. While it is empty, retries
    wait in line and fresh jobs go on. (Google's SRE book, "Handling Overload": a per-client retry budget of a tenth;
    botocore's standard retry mode: a quota that retries drain and successes refill.)
    """

    def __init__(self, gate: Gate) -> None:
        self._left = CAPACITY
        self._gate = gate
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        gate.on_close(self._serve)

    async def take(self) -> None:
        """Take one retry out of the purse; wait while there is none.

        Raises:
            Halted: the run is stopping.
        """
        self._gate.check()
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(future)
        self._serve()
        await future

    def succeeded(self, *, retried: bool) -> None:
        """Pay in for a call that succeeded."""
        self._left = min(CAPACITY, self._left + (1.0 if retried else FRACTION))
        if self._waiting:
            self._serve()

    def _serve(self) -> None:
        now = self._loop.time()
        self._left = min(CAPACITY, self._left + (now - self._since) / TRICKLE)
        self._since = now
        while self._waiting and (self._gate.closed or self._left >= 1.0):
            future = self._waiting.popleft()
            if future.done():
                continue
            if self._gate.closed:
                future.set_exception(Halted())
            else:
                self._left -= 1.0
                future.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            self._timer = self._loop.call_later((1.0 - self._left) * TRICKLE + 1e-3, self._serve)


class Retrying:
    """Runs a step until it succeeds or `decide` gives up; one instance serves all jobs.

    One AsyncRetrying is shared: its state between two awaits is touched without suspension only, and what belongs
    to a job travels in the call's own arguments.
    """

    def __init__(
        self,
        decide: Callable[[Tries, JobError], float | None],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._decide = decide
        self._retrying = AsyncRetrying(retry=self._again, wait=_waiting, sleep=sleep)

    async def __call__(self, step: Callable[[], Awaitable[T]], tries: Tries) -> T:
        """Await `step()` until it succeeds or is given up; return its value.

        Raises:
            JobError: of the last try, when it is given up.
            Halted: the run is stopping.
        """
        try:
            return await step()
        except JobError as error:
            # Most steps succeed at once and need no driver; the others hand it their first failure.
            first: list[JobError] = [error]
        return await self._retrying(_perform, step, tries, first)

    def _again(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome is not None else None
        if not isinstance(error, JobError):
            return False
        tries: Tries = state.args[1]
        delay = self._decide(tries, error)
        tries.delay = delay or 0.0
        return delay is not None


async def _perform(step: Callable[[], Awaitable[T]], tries: Tries, first: list[JobError]) -> T:  # noqa: ARG001  _again's
    if first:
        raise first.pop()
    return await step()


def _waiting(state: RetryCallState) -> float:
    tries: Tries = state.args[1]
    return tries.delay
