"""Refuses what comes too fast or too much at once, as a relay does: 429 with Retry-After and x-ratelimit headers.

The rate is a token bucket: it holds `burst` requests and refills at `rate` a second. A refused request takes nothing.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchflux.simulator.replies import Refusal, Reply, error_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class Throttle:
    """Counts what is let in. `clock` gives seconds that never go back."""

    def __init__(
        self, *, rate: float | None, burst: int | None, concurrency: int | None, clock: Callable[[], float]
    ) -> None:
        self._rate = rate
        self._size = float(burst) if burst is not None else max(1.0, rate or 1.0)
        self._concurrency = concurrency
        self._clock = clock
        self._tokens = self._size
        self._at = clock()
        self.in_flight = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Hold a place while a request is answered.

        Raises:
            Refusal: 429, too many at once or too fast.
        """
        if self._concurrency is not None and self.in_flight >= self._concurrency:
            message = f"At most {self._concurrency} requests at once are allowed for this token."
            reply = error_reply(429, message, "new_api_error", code="token_concurrency_limit_reached")
            raise Refusal(reply)
        self._take()
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def headers(self) -> dict[str, str]:
        """Return the x-ratelimit headers as things stand; none without a rate."""
        if self._rate is None:
            return {}
        self._refill()
        return {
            "x-ratelimit-limit-requests": str(math.floor(self._size)),
            "x-ratelimit-remaining-requests": str(math.floor(self._tokens)),
            "x-ratelimit-reset-requests": f"{math.ceil((self._size - self._tokens) / self._rate * 1000)}ms",
        }

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(self._size, self._tokens + (now - self._at) * (self._rate or 0))
        self._at = now

    def _take(self) -> None:
        if self._rate is None:
            return
        self._refill()
        if self._tokens >= 1:
            self._tokens -= 1
            return
        raise Refusal(rate_limited((1 - self._tokens) / self._rate, self.headers()))


def rate_limited(wait: float, headers: Mapping[str, str]) -> Reply:
    """Return the 429 that asks to come back after `wait` seconds; Retry-After is whole seconds, rounded up."""
    told = {"Retry-After": str(max(1, math.ceil(wait))), "retry-after-ms": str(math.ceil(wait * 1000)), **headers}
    message = f"Rate limit reached for requests. Try again in {wait:.2f}s."
    return error_reply(429, message, "requests", code="rate_limit_exceeded", headers=told)
