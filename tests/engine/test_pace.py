"""The schedule of a key: the limit that is set holds and is reached; one that nobody told us is found.

The first part drives a Pace by itself. In the second the real RateLimiter sends to a server on a virtual clock:
a request takes a while to its connection and to the server, timers fire late, answers take their time.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.engine.circuit_breaker import CircuitBreaker
from batchflux.engine.key_pool import Key, Lease
from batchflux.engine.pace import AIM, DOUBT, FIRST, HOLD, LATENESS, LONGEST_DOUBT, SAMPLE, TOLD, TRIALS, Pace, Window
from batchflux.engine.rate_limiter import RateLimiter
from batchflux.engine.shutdown import Gate
from batchflux.errors import Code, JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.engine.conftest import VirtualLoop

UNKNOWN = (float("inf"), 1.0)


def most_in_a_window(times: Sequence[float], seconds: float) -> int:
    """The most of `times` in any half-open window of so many seconds, as a server counts them."""
    most, first = 0, 0
    for last, time in enumerate(times):
        while time - times[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


LATE = st.floats(0, LATENESS)
GAP = st.one_of(st.just(0.0), st.floats(0, 0.05), st.floats(0, 5))


@settings(deadline=None, max_examples=50)
@given(
    count=st.integers(1, 60),
    seconds=st.sampled_from([0.1, 1.0, 2.0, 60.0]),
    steps=st.lists(st.tuples(GAP, LATE, LATE), min_size=1, max_size=200),
)
def test_no_window_holds_more_than_its_limit(
    count: int, seconds: float, steps: list[tuple[float, float, float]]
) -> None:
    """However long work was missing, however late a timer fired and a connection took the request."""
    pace, now, written = Pace(count, seconds), 0.0, []
    for gap, late, wire in steps:
        now = pace.next_at(now + gap) + late
        departure = pace.take(now)
        now += wire
        departure.written = now
        written.append(now)
    assert most_in_a_window(written, seconds) <= count


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 200), seed=st.integers(0, 1000))
def test_the_rate_is_reached_although_timers_are_late(count: int, seed: int) -> None:
    random, pace, now = Random(seed), Pace(count, 1.0), 0.0
    for _ in range(20 * count):
        now = pace.next_at(now) + random.uniform(0, 0.002)
        pace.take(now)
    assert 20 * count >= 0.985 * count * now


def test_idle_time_saves_nothing_up() -> None:
    pace = Pace(10, 1.0)
    pace.take(0.0)
    pace.take(3600.0)
    assert pace.next_at(3600.0) == pytest.approx(3600.0 + pace._window / 10)


def test_before_the_first_429_an_unknown_limit_holds_nothing_back() -> None:
    pace = Pace()
    for _ in range(1000):
        pace.take(5.0)
    assert pace.next_at(5.0) == 5.0


def test_429s_of_requests_that_left_before_the_last_change_are_old_news() -> None:
    pace = Pace()
    for number in range(10):
        pace.take(number / 10)
    pace.refused(0.5, 1.0)
    learned = pace.learned
    for number in range(5, 10):
        pace.refused(number / 10, 1.1)
    assert learned is not None
    assert pace.learned == learned


def test_one_burst_at_most_halves_the_rate_though_all_of_it_is_refused() -> None:
    pace, now, rates = Pace(100, 1.0), 0.0, [100.0]
    while len(rates) < 5:
        now = pace.next_at(now)
        pace.take(now)
        pace.refused(now, now)
        if pace.learned is not None and pace.learned != rates[-1]:
            rates.append(pace.learned)
    assert rates[1:] == pytest.approx([pace.ceiling / 2**number for number in (1, 2, 3, 4)])


class Server(Protocol):
    """Lets a request through (None), or refuses it and says how many seconds to wait (0: it does not say)."""

    def refuses(self, now: float) -> float | None: ...


def told(seconds: float, *, tells: bool) -> float:
    """What a refusal says: whole seconds, as the header is."""
    return float(math.ceil(seconds)) if tells else 0.0


@dataclass(slots=True)
class Bucket:
    """`rate` tokens a second, at most `size` of them."""

    rate: float
    size: float
    tells: bool = False
    tokens: float = -1.0
    at: float = 0.0

    def set(self, rate: float) -> None:
        self.rate = self.size = rate

    def refuses(self, now: float) -> float | None:
        if self.tokens < 0:
            self.tokens = self.size
        self.tokens = min(self.size, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1 - 1e-9:
            return told((1 - self.tokens) / self.rate if self.rate else 1.0, tells=self.tells)
        self.tokens -= 1
        return None


@dataclass(slots=True)
class Sliding:
    """At most `count` in any `seconds`."""

    count: int
    seconds: float
    tells: bool = False
    times: deque[float] = field(default_factory=deque)

    def refuses(self, now: float) -> float | None:
        while self.times and now - self.times[0] >= self.seconds:
            self.times.popleft()
        if len(self.times) >= self.count:
            return told(self.times[0] + self.seconds - now, tells=self.tells)
        self.times.append(now)
        return None


@dataclass(slots=True)
class Calendar:
    """At most `count` in each of the clock's spans of `seconds`."""

    count: int
    seconds: float
    tells: bool = False
    span: float = -1.0
    used: int = 0

    def refuses(self, now: float) -> float | None:
        if now // self.seconds != self.span:
            self.span, self.used = now // self.seconds, 0
        self.used += 1
        return None if self.used <= self.count else told((self.span + 1) * self.seconds - now, tells=self.tells)


@dataclass(slots=True)
class Chance:
    """Refuses each request by chance, or every n-th, whatever the rate, and says to wait a second."""

    share: float
    random: Random | None
    calls: int = 0

    def refuses(self, now: float) -> float | None:
        self.calls += 1
        unlucky = self.random.random() < self.share if self.random else self.calls % round(1 / self.share) == 0
        return 1.0 if unlucky else None


@dataclass(slots=True)
class Grumpy:
    """Refuses the first `count`, then does as `behind` does."""

    count: int
    behind: Server

    def refuses(self, now: float) -> float | None:
        if self.count:
            self.count -= 1
            return 0.0
        return self.behind.refuses(now)


@dataclass(slots=True)
class Seen:
    """What the server saw: when each request came, and whether it let it through."""

    calls: list[tuple[float, bool]] = field(default_factory=list)

    def used(self, rate: float, begin: float, end: float) -> float:
        """The share of `rate` that was let through."""
        return sum(ok for at, ok in self.calls if begin <= at < end) / (rate * (end - begin))

    def passed(self, begin: float, end: float) -> float:
        """Requests a second that were let through."""
        return self.used(1.0, begin, end)

    def refused(self, begin: float, end: float) -> float:
        """The share of requests that were not let through."""
        oks = [ok for at, ok in self.calls if begin <= at < end]
        return oks.count(False) / max(len(oks), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A RateLimiter with workers that always have work. `jitter` is of the way to the wire, and of that beyond."""

    loop: type[VirtualLoop]
    limit: tuple[float, float] = UNKNOWN
    concurrency: int = 64
    latency: float = 0.2
    refusal: float = 0.01
    jitter: float = 0.002
    lag: float = 0.001
    seed: int = 1
    later: tuple[tuple[float, Callable[[], None]], ...] = ()

    def run(self, servers: Sequence[Server], seconds: float) -> Seen:
        random, seen = Random(self.seed), Seen()
        with asyncio.Runner(loop_factory=lambda: self.loop(lambda: random.uniform(0, self.lag))) as runner:
            runner.run(self._run(servers, seconds, random, seen))
        return seen

    def _key(self, number: int) -> Key:
        known = self.limit != UNKNOWN
        pace = Pace(*self.limit) if known else Pace()
        return Key(name=str(number), secret=None, pace=pace, window=Window(self.concurrency, known=known))

    async def _run(self, servers: Sequence[Server], seconds: float, random: Random, seen: Seen) -> None:
        loop, gate = asyncio.get_running_loop(), Gate()
        keys = [self._key(number) for number in range(len(servers))]
        limits = RateLimiter(keys, concurrency=self.concurrency, gate=gate, breaker=CircuitBreaker(20, gate))
        for at, change in self.later:
            loop.call_at(at, change)

        async def worker() -> None:
            while loop.time() < seconds:
                lease = await limits.acquire()
                await asyncio.sleep(0.002)  # the ledger's commit
                if await limits.depart(lease):
                    await self._call(limits, lease, servers[int(lease.key.name)], random, seen)
                limits.release(lease)

        await asyncio.gather(*(worker() for _ in range(self.concurrency)))

    async def _call(self, limits: RateLimiter, lease: Lease, server: Server, random: Random, seen: Seen) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(random.uniform(0, self.jitter))
        lease.sent()
        await asyncio.sleep(random.uniform(0, self.jitter))
        wait = server.refuses(loop.time())
        seen.calls.append((loop.time(), wait is None))
        if wait is None:
            await asyncio.sleep(self.latency)
            limits.answered(lease)
        else:
            await asyncio.sleep(self.refusal)
            limits.refused(lease, JobError(Code.RATE_LIMITED, "too many requests", retry_after=wait or None))


SEEDS = pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])


@pytest.mark.parametrize(
    ("limit", "size", "latency"), [((50.0, 1.0), 50, 5.0), ((600.0, 60.0), 10, 0.2), ((600.0, 60.0), 10, 5.0)]
)
def test_a_set_rate_is_used_and_a_bucket_of_a_second_never_refuses(
    virtual_loop: type[VirtualLoop], limit: tuple[float, float], size: int, latency: float
) -> None:
    rate = limit[0] / limit[1]
    client = Client(loop=virtual_loop, limit=limit, latency=latency, concurrency=400)
    seen = client.run([Bucket(rate, size)], 60)
    assert seen.refused(0, 60) == 0
    assert seen.used(rate, 0, 60) >= 0.985


@SEEDS
@pytest.mark.parametrize("limit", [(50.0, 1.0), (600.0, 60.0)])
def test_a_bucket_of_one_token_refuses_few_and_is_used(
    virtual_loop: type[VirtualLoop], limit: tuple[float, float], seed: int
) -> None:
    rate = limit[0] / limit[1]
    seen = Client(loop=virtual_loop, limit=limit, jitter=0.0005, seed=seed).run([Bucket(rate, 1)], 1500 / rate)
    assert seen.used(rate, 0, 1500 / rate) >= 0.9
    assert seen.refused(0, 1500 / rate) <= 0.01


@SEEDS
def test_an_unknown_limit_is_found(virtual_loop: type[VirtualLoop], seed: int) -> None:
    seen = Client(loop=virtual_loop, seed=seed).run([Bucket(50, 50)], 80)
    assert seen.used(50, 20, 80) >= 0.9
    assert seen.refused(0, 80) <= 0.025
    assert seen.refused(20, 80) <= 0.02


def test_an_unknown_limit_is_found_where_answers_are_slow(virtual_loop: type[VirtualLoop]) -> None:
    """The first 429 must not leave the window as small as it was then."""
    seen = Client(loop=virtual_loop, latency=5.0, concurrency=400).run([Bucket(50, 50)], 90)
    assert seen.used(50, 40, 90) >= 0.9
    assert seen.refused(40, 90) <= 0.02


def test_each_key_finds_its_own_limit(virtual_loop: type[VirtualLoop]) -> None:
    seen = Client(loop=virtual_loop).run([Bucket(20, 20), Bucket(10, 10)], 80)
    assert seen.used(30, 20, 80) >= 0.9
    assert seen.refused(20, 80) <= 0.025


def test_a_server_that_allows_less_than_was_set_is_found(virtual_loop: type[VirtualLoop]) -> None:
    seen = Client(loop=virtual_loop, limit=(100.0, 1.0)).run([Bucket(50, 50)], 80)
    assert seen.used(50, 20, 80) >= 0.9
    assert seen.refused(0, 80) <= 0.025


@SEEDS
def test_a_limit_that_halves_and_doubles_is_followed(virtual_loop: type[VirtualLoop], seed: int) -> None:
    server = Bucket(50, 50)
    later = ((40.0, lambda: server.set(25)), (100.0, lambda: server.set(50)))
    seen = Client(loop=virtual_loop, seed=seed, later=later).run([server], 150)
    assert seen.used(25, 60, 100) == pytest.approx(1.0, abs=0.15)
    assert seen.refused(60, 100) <= 0.025
    assert seen.used(50, 120, 150) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(
    ("server", "refused"),
    [
        pytest.param(Sliding(200, 10.0), 0.05, marks=pytest.mark.slow),
        pytest.param(Calendar(200, 10.0), 0.05, marks=pytest.mark.slow),
        (Sliding(60, 60.0), 0.15),
        (Calendar(60, 60.0), 0.15),
        (Sliding(10, 60.0), 0.2),
        (Sliding(10, 2.0), 0.1),
        (Calendar(10, 2.0), 0.1),
        (Sliding(5, 1.0), 0.1),
        (Calendar(5, 1.0), 0.1),
    ],
    ids=str,
)
def test_servers_that_count_in_windows_are_found(
    virtual_loop: type[VirtualLoop], server: Sliding | Calendar, refused: float
) -> None:
    """From a minute and three windows after the start on; the first windows pay for learning."""
    rate, begin = server.count / server.seconds, 60 + 3 * server.seconds
    end = begin + max(120.0, 10 * server.seconds)
    seen = Client(loop=virtual_loop).run([server], end)
    assert seen.used(rate, begin, end) >= 0.7
    assert seen.refused(begin, end) <= refused


@pytest.mark.parametrize("latency", [0.2, 8.0])
@pytest.mark.parametrize(("rate", "size", "share"), [(1, 1, 0.6), (1, 60, 0.9), (2, 2, 0.9), (5, 5, 0.9)])
def test_small_limits_are_found_too(
    virtual_loop: type[VirtualLoop], rate: float, size: float, share: float, latency: float
) -> None:
    """With few requests to learn from, a burst of 429s must not be taken for lone ones."""
    seen = Client(loop=virtual_loop, latency=latency).run([Bucket(rate, size)], 900)
    assert seen.used(rate, 300, 900) >= share
    assert seen.refused(300, 900) <= 0.15


@pytest.mark.parametrize(("first", "share"), [(1, 0.75), (8, 0.75)])
def test_refused_first_requests_do_not_stop_the_key(virtual_loop: type[VirtualLoop], first: int, share: float) -> None:
    seen = Client(loop=virtual_loop).run([Grumpy(first, Bucket(50, 50))], 60)
    assert seen.used(50, 0, 60) >= share


def test_a_refused_first_request_of_a_lone_worker_costs_it_seconds(virtual_loop: type[VirtualLoop]) -> None:
    seen = Client(loop=virtual_loop, concurrency=1).run([Grumpy(1, Bucket(50, 50))], 60)
    assert seen.used(1 / 0.21, 20, 60) >= 0.9


def test_a_key_that_is_refused_for_a_minute_goes_on_after_it(virtual_loop: type[VirtualLoop]) -> None:
    server = Bucket(0.0, 0.0)
    seen = Client(loop=virtual_loop, later=((60.0, lambda: server.set(50)),)).run([server], 270)
    assert sum(at < 60 for at, _ in seen.calls) <= 60
    assert seen.used(50, 240, 270) >= 0.8


@pytest.mark.parametrize("share", [0.1, pytest.param(0.125, marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", [None, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("limit", [(10.0, 1.0), (50.0, 1.0), (120.0, 60.0), UNKNOWN])
def test_refusals_by_chance_cost_their_pauses_and_little_more(
    virtual_loop: type[VirtualLoop], share: float, seed: int | None, limit: tuple[float, float]
) -> None:
    """Of what is to be had: 1/share - 1 pictures for each second's pause and the time to send them at the rate set."""
    client = Client(loop=virtual_loop, limit=limit, concurrency=8, refusal=0.2)
    seen = client.run([Chance(share, None if seed is None else Random(seed))], 600)
    interval = limit[1] / limit[0]
    to_be_had = (1 - share) / (share * 1.0 + interval)
    assert seen.passed(0, 600) >= 0.5 * to_be_had
    assert seen.passed(300, 600) >= 0.4 * to_be_had, "it gets no slower with time, but for luck"


SLOW = pytest.mark.slow
LIMITS = [
    (Calendar, (5, 1.0)),
    pytest.param(Calendar, (10, 2.0), marks=SLOW),
    pytest.param(Calendar, (200, 10.0), marks=SLOW),
    (Calendar, (60, 60.0)),
    pytest.param(Calendar, (10, 60.0), marks=SLOW),
    (Sliding, (10, 2.0)),
    pytest.param(Sliding, (200, 10.0), marks=SLOW),
    pytest.param(Sliding, (60, 60.0), marks=SLOW),
    (Bucket, (5, 5)),
    pytest.param(Bucket, (50, 50), marks=SLOW),
    (Bucket, (2, 20)),
]


@pytest.mark.parametrize("limit", [UNKNOWN, (100.0, 1.0)])
@pytest.mark.parametrize(("kind", "size"), LIMITS)
def test_a_limit_that_says_how_long_to_wait_is_found_by_few_429s(
    virtual_loop: type[VirtualLoop],
    kind: type[Calendar | Sliding | Bucket],
    size: tuple[int, float],
    limit: tuple[float, float],
) -> None:
    """From a minute and three windows after the start on; the first windows pay for learning."""
    server = kind(*size, tells=True)
    rate, seconds = (
        (server.rate, 1.0) if isinstance(server, Bucket) else (server.count / server.seconds, server.seconds)
    )
    begin, end = 60 + 3 * seconds, 180 + 10 * seconds
    seen = Client(loop=virtual_loop, limit=limit, concurrency=16, refusal=0.2).run([server], end)
    assert seen.passed(begin, end) >= 0.6 * rate
    assert seen.refused(begin, end) <= 0.1


@pytest.mark.parametrize("limit", [UNKNOWN, (100.0, 1.0)])
@pytest.mark.parametrize(("before", "after"), [(10, 50), (50, 10)])
def test_a_limit_that_is_changed_and_says_how_long_to_wait_is_followed(
    virtual_loop: type[VirtualLoop], before: int, after: int, limit: tuple[float, float]
) -> None:
    server = Bucket(before, before, tells=True)
    later = ((100.0, lambda: server.set(after)),)
    seen = Client(loop=virtual_loop, limit=limit, concurrency=16, refusal=0.2, later=later).run([server], 200)
    assert seen.passed(140, 200) >= 0.75 * after
    assert seen.refused(140, 200) <= 0.25, "each step up is tried out"


def test_by_chance_no_window_holds_more_than_the_limit_that_is_set(virtual_loop: type[VirtualLoop]) -> None:
    seen = Client(loop=virtual_loop, limit=(10.0, 1.0), concurrency=16, refusal=0.2).run(
        [Chance(0.125, Random(1))], 240
    )
    times = [at for at, _ in seen.calls]
    assert all(later - first > 1.0 for first, later in zip(times, times[10:], strict=False))


@dataclass(slots=True)
class Pauses:
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
    pauses = Pauses(Pace(10, 1.0))
    pauses.refused(TOLD - 1, after=7)
    assert pauses.pace.learned is None
    pauses.refused(1, after=7)
    assert pauses.pace.learned == pytest.approx(AIM * TOLD * 7 / pauses.now, rel=0.02)


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
    pauses = Pauses(Pace(10, 1.0))
    doubt = DOUBT
    for _ in range(5):
        rates = []
        for _ in range(TRIALS):
            pauses.refused(TOLD, after=7)
            rates.append(pauses.pace.rate)
        assert rates == sorted(rates, reverse=True)
        assert rates[0] < pauses.pace.ceiling
        pauses.refused(TOLD, after=7)
        assert pauses.pace.learned is None
        pauses.refused(doubt - 1, after=7)
        assert pauses.pace.learned is None
        doubt = min(2 * doubt, LONGEST_DOUBT)


def test_a_lowered_rate_grows_when_the_pause_is_over_and_it_was_held() -> None:
    pauses = Pauses(Pace(10, 1.0))
    pauses.refused(TOLD, after=7)
    lowered = pauses.pace.rate
    pauses.pace.take(pauses.now + HOLD - 0.01)
    assert pauses.pace.rate == lowered
    pauses.pace.take(pauses.now + HOLD + 5)
    assert pauses.pace.rate > lowered


def test_where_most_are_refused_the_pauses_teach_again() -> None:
    pauses = Pauses(Pace(10, 1.0))
    pauses.refused(TOLD * (TRIALS + 1), after=7)
    assert pauses.pace.learned is None
    pauses.refused(2 * TOLD, after=0)
    assert 2 * TOLD < DOUBT
    assert pauses.pace.rate < 1.0


def answer(window: Window, seconds: float, times: int = SAMPLE) -> None:
    for _ in range(times):
        window.answered(seconds)


def test_a_known_rate_needs_no_slow_start() -> None:
    assert Window(100, known=True).size == 100


@pytest.mark.parametrize(("concurrency", "first"), [(1, 1), (5, 5), (100, 8)])
def test_an_unknown_one_begins_small(concurrency: int, first: int) -> None:
    assert Window(concurrency, known=False).size == first


def test_slow_start_doubles_with_each_window_of_answers_up_to_the_concurrency() -> None:
    window, sizes = Window(50, known=False), []
    for _ in range(4):
        sizes.append(window.size)
        answer(window, 1.0, window.size)
    assert sizes == [8, 16, 32, 50]
    assert window.size == 50


def test_rising_latency_shrinks_it_to_half_and_no_further() -> None:
    window, sizes = Window(100, known=True), []
    answer(window, 1.0)
    for second in range(40):
        answer(window, 3.0 * 1.2**second)
        sizes.append(window.size)
    assert sizes[0] == 80
    assert 50 <= min(sizes) <= 52


def test_it_recovers_by_one_a_window_when_latency_falls() -> None:
    window = Window(100, known=True)
    answer(window, 1.0)
    answer(window, 3.0)
    assert window.size == 80
    answer(window, 1.0, 80)
    assert window.size in (80, 81)
    answer(window, 1.0, 80 * 25)
    assert window.size == 100


def test_a_rise_ends_the_slow_start_and_opens_nothing() -> None:
    """Half of the concurrency is where shrinking stops; it is no size to jump to."""
    window = Window(1000, known=False)
    answer(window, 1.0)
    before = window.size
    answer(window, 10.0)
    assert before < window.size + 1
    assert window.size <= before + SAMPLE
    answer(window, 1.0, 10)
    assert window.size <= before + SAMPLE + 1


def test_pictures_that_simply_take_longer_become_usual() -> None:
    window = Window(100, known=True)
    answer(window, 1.0)
    answer(window, 5.0, 40 * SAMPLE)
    assert window.size > 50
    answer(window, 5.0, 100 * 60)
    assert window.size == 100


def test_a_few_slow_answers_say_nothing() -> None:
    window = Window(100, known=True)
    for _ in range(20):
        answer(window, 1.0, SAMPLE - 10)
        answer(window, 60.0, 10)
    assert window.size == 100


def test_another_concurrency_holds_at_once_or_is_grown_into() -> None:
    known, unknown = Window(100, known=True), Window(100, known=False)
    known.retune(10, known=True)
    unknown.retune(4, known=False)
    assert (known.size, unknown.size) == (10, 4)
    known.retune(200, known=True)
    unknown.retune(200, known=False)
    assert (known.size, unknown.size) == (200, 4)
    answer(unknown, 1.0, 6)
    assert unknown.size == 10


@given(
    concurrency=st.integers(1, 300),
    known=st.booleans(),
    latencies=st.lists(st.floats(0, 1e4), max_size=400),
)
def test_its_size_stays_between_one_and_the_concurrency(
    concurrency: int, latencies: list[float], *, known: bool
) -> None:
    window = Window(concurrency, known=known)
    for seconds in latencies:
        window.answered(seconds)
        assert min(FIRST, concurrency, max(concurrency / 2, 1)) - 1 < window.size <= concurrency
        assert window.size >= 1
