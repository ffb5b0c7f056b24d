"""A pause that the server orders is kept; what it says about the rate is learned from several, and only if it is so.

A server that refuses by chance and a limit both say Retry-After. The real RateLimiter send to both on a virtual clock.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Protocol

import pytest

from batchflux.engine.circuit_breaker import CircuitBreaker
from batchflux.engine.key_pool import Key, Lease
from batchflux.engine.pace import AIM, DOUBT, HOLD, LONGEST_DOUBT, TOLD, TRIALS, Pace, Window
from batchflux.engine.rate_limiter import RateLimiter
from batchflux.engine.shutdown import Gate
from batchflux.errors import Code, JobError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.engine.conftest import VirtualLoop


class Server(Protocol):
    """Lets a request through, or says how many seconds to wait."""

    def wait(self, now: float) -> float: ...


@dataclass(slots=True)
class Chance:
    """Refuses each request by chance, or every n-th, whatever the rate."""

    share: float
    random: Random | None
    calls: int = 0

    def wait(self, now: float) -> float:
        self.calls += 1
        unlucky = self.random.random() < self.share if self.random else self.calls % round(1 / self.share) == 0
        return 1.0 if unlucky else 0.0


@dataclass(slots=True)
class Bucket:
    """`rate` tokens a second, at most `size` of them; the wait is told in whole seconds, as the header is."""

    rate: float
    size: float
    tokens: float = 0.0
    at: float = 0.0

    def set(self, rate: float) -> None:
        self.rate = self.size = rate

    def wait(self, now: float) -> float:
        self.tokens = min(self.size, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1 - 1e-9:
            return math.ceil((1 - self.tokens) / self.rate)
        self.tokens -= 1
        return 0.0


@dataclass(slots=True)
class Fixed:
    """At most `count` in each of the clock's spans of `seconds`."""

    count: int
    seconds: float
    span: float = -1.0
    used: int = 0

    def wait(self, now: float) -> float:
        if now // self.seconds != self.span:
            self.span, self.used = now // self.seconds, 0
        self.used += 1
        return math.ceil((self.span + 1) * self.seconds - now) if self.used > self.count else 0.0


@dataclass(slots=True)
class Sliding:
    """At most `count` in any `seconds`."""

    count: int
    seconds: float
    times: deque[float] = field(default_factory=deque)

    def wait(self, now: float) -> float:
        while self.times and now - self.times[0] >= self.seconds:
            self.times.popleft()
        if len(self.times) >= self.count:
            return math.ceil(self.times[0] + self.seconds - now)
        self.times.append(now)
        return 0.0


@dataclass(slots=True, kw_only=True)
class Client:
    """Workers that always have work; `calls` is when each request came and how long it was told to wait."""

    loop: type[VirtualLoop]
    limit: tuple[float, float] | None
    concurrency: int = 16
    later: tuple[float, Callable[[], None]] | None = None
    calls: list[tuple[float, float]] = field(default_factory=list)

    def run(self, server: Server, seconds: float) -> None:
        random = Random(1)
        with asyncio.Runner(loop_factory=lambda: self.loop(lambda: random.uniform(0, 0.001))) as runner:
            runner.run(self._run(server, seconds, random))

    async def _run(self, server: Server, seconds: float, random: Random) -> None:
        loop, gate = asyncio.get_running_loop(), Gate()
        pace = Pace(*self.limit) if self.limit else Pace()
        window = Window(self.concurrency, known=self.limit is not None)
        key = Key(name="A", secret=None, pace=pace, window=window)
        limits = RateLimiter([key], concurrency=self.concurrency, gate=gate, breaker=CircuitBreaker(20, gate))
        if self.later is not None:
            loop.call_at(*self.later)

        async def worker() -> None:
            while loop.time() < seconds:
                lease = await limits.acquire()
                await asyncio.sleep(0.002)
                if await limits.depart(lease):
                    await self._call(limits, lease, server, random)
                limits.release(lease)

        await asyncio.gather(*(worker() for _ in range(self.concurrency)))

    async def _call(self, limits: RateLimiter, lease: Lease, server: Server, random: Random) -> None:
        await asyncio.sleep(random.uniform(0, 0.004))
        lease.sent()
        now = asyncio.get_running_loop().time()
        wait = server.wait(now)
        self.calls.append((now, wait))
        await asyncio.sleep(0.2)
        if wait:
            limits.refused(lease, JobError(Code.RATE_LIMITED, "too many requests", retry_after=wait))
        else:
            limits.answered(lease)

    def passed(self, begin: float, end: float) -> float:
        """Requests a second that were let through."""
        return sum(not wait for at, wait in self.calls if begin <= at < end) / (end - begin)

    def refused(self, begin: float, end: float) -> float:
        """The share of requests that were refused."""
        waits = [wait for at, wait in self.calls if begin <= at < end]
        return sum(wait > 0 for wait in waits) / max(len(waits), 1)


@pytest.mark.parametrize("share", [0.1, 0.125])
@pytest.mark.parametrize("seed", [None, 1, 2, 3])
@pytest.mark.parametrize("limit", [(10.0, 1.0), (50.0, 1.0), (120.0, 60.0), None])
def test_refusals_by_chance_cost_their_pauses_and_little_more(
    virtual_loop: type[VirtualLoop], share: float, seed: int | None, limit: tuple[float, float] | None
) -> None:
    """Of what is to be had: 1/share - 1 pictures for each second's pause and the time to send them at the rate set."""
    client = Client(loop=virtual_loop, limit=limit, concurrency=8)
    client.run(Chance(share, None if seed is None else Random(seed)), 600)
    interval = limit[1] / limit[0] if limit else 0.0
    to_be_had = (1 - share) / (share * 1.0 + interval)
    assert client.passed(0, 600) >= 0.5 * to_be_had
    assert client.passed(300, 600) >= 0.4 * to_be_had, "it gets no slower with time, but for luck"


LIMITS = [
    (Fixed, (5, 1.0)),
    (Fixed, (10, 2.0)),
    (Fixed, (200, 10.0)),
    (Fixed, (60, 60.0)),
    (Fixed, (10, 60.0)),
    (Sliding, (10, 2.0)),
    (Sliding, (200, 10.0)),
    (Sliding, (60, 60.0)),
    (Bucket, (5, 5)),
    (Bucket, (50, 50)),
    (Bucket, (2, 20)),
]


@pytest.mark.parametrize("limit", [None, (100.0, 1.0)])
@pytest.mark.parametrize(("kind", "size"), LIMITS)
def test_a_limit_that_says_how_long_to_wait_is_found_by_few_429s(
    virtual_loop: type[VirtualLoop],
    kind: type[Fixed | Sliding | Bucket],
    size: tuple[int, float],
    limit: tuple[float, float] | None,
) -> None:
    """From a minute and three windows after the start on; the first windows pay for learning."""
    server = kind(*size)
    rate, seconds = (
        (server.rate, 1.0) if isinstance(server, Bucket) else (server.count / server.seconds, server.seconds)
    )
    begin, end = 60 + 3 * seconds, 180 + 10 * seconds
    client = Client(loop=virtual_loop, limit=limit)
    client.run(server, end)
    assert client.passed(begin, end) >= 0.6 * rate
    assert client.refused(begin, end) <= 0.1


@pytest.mark.parametrize("limit", [None, (100.0, 1.0)])
@pytest.mark.parametrize(("before", "after"), [(10, 50), (50, 10)])
def test_a_limit_that_is_changed_is_followed(
    virtual_loop: type[VirtualLoop], before: int, after: int, limit: tuple[float, float] | None
) -> None:
    server = Bucket(before, before)
    client = Client(loop=virtual_loop, limit=limit, later=(100.0, lambda: server.set(after)))
    client.run(server, 200)
    assert client.passed(140, 200) >= 0.75 * after
    assert client.refused(140, 200) <= 0.25, "each step up is tried out"


def test_by_chance_no_window_holds_more_than_the_limit_that_is_set(virtual_loop: type[VirtualLoop]) -> None:
    client = Client(loop=virtual_loop, limit=(10.0, 1.0))
    client.run(Chance(0.125, Random(1)), 240)
    times = [at for at, _ in client.calls]
    assert all(later - first > 1.0 for first, later in zip(times, times[10:], strict=False))


@dataclass(slots=True)
class Told:
    """A Pace by itself that is refused after every so many requests and told to wait a second."""

    pace: Pace
    now: float = 0.0

    def refused(self, times: int, after: int) -> None:
        for _ in range(times):
            for _ in range(after):
                self.now = self.pace.next_at(self.now)
                self.pace.take(self.now)
            self.now = self.pace.next_at(self.now)
            self.pace.take(self.now)
            self.pace.refused(self.now, self.now, 1.0)
            self.now += 1.0


def test_fewer_refusals_than_it_takes_teach_no_rate() -> None:
    told = Told(Pace(10, 1.0))
    told.refused(TOLD - 1, after=7)
    assert told.pace.learned is None
    told.refused(1, after=7)
    assert told.pace.learned == pytest.approx(AIM * TOLD * 7 / told.now, rel=0.02)


def test_requests_that_were_out_as_the_pause_was_ordered_are_old_news() -> None:
    pace = Pace()
    for number in range(20):
        pace.take(number / 10)
    for number in range(3):
        pace.refused(number / 10, 2.0, 2.0)
    learned = pace.learned
    for number in range(3, 20):
        pace.refused(number / 10, 2.0, 2.0)
    assert pace.learned == learned == pytest.approx(AIM * 17 / 4)


def test_a_rate_that_was_lowered_for_nothing_is_taken_back_and_the_next_pauses_teach_nothing() -> None:
    told = Told(Pace(10, 1.0))
    doubt = DOUBT
    for _ in range(5):
        rates = []
        for _ in range(TRIALS):
            told.refused(TOLD, after=7)
            rates.append(told.pace.rate)
        assert rates == sorted(rates, reverse=True)
        assert rates[0] < told.pace.ceiling
        told.refused(TOLD, after=7)
        assert told.pace.learned is None
        told.refused(doubt - 1, after=7)
        assert told.pace.learned is None
        doubt = min(2 * doubt, LONGEST_DOUBT)


def test_a_lowered_rate_grows_when_the_pause_is_over_and_it_was_held() -> None:
    told = Told(Pace(10, 1.0))
    told.refused(TOLD, after=7)
    lowered = told.pace.rate
    told.pace.take(told.now + HOLD - 0.01)
    assert told.pace.rate == lowered
    told.pace.take(told.now + HOLD + 5)
    assert told.pace.rate > lowered


def test_where_most_are_refused_the_pauses_teach_again() -> None:
    told = Told(Pace(10, 1.0))
    told.refused(TOLD * (TRIALS + 1), after=7)
    assert told.pace.learned is None
    told.refused(2 * TOLD, after=0)
    assert 2 * TOLD < DOUBT
    assert told.pace.rate < 1.0
