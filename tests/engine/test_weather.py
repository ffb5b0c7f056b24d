"""A provider with limits it does not tell and bad hours: found, respected, sat out; no run hangs or crawls."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.errors import Code

if TYPE_CHECKING:
    from tests.engine.conftest import Night, NightFactory

NightOf = Callable[[int], "Night"]
PRICE = 140_000_000


class Weather:
    """A sliding window of `count` requests in `seconds`, and hours in which every request fails with a code."""

    def __init__(self, scene: Night, count: int, seconds: float) -> None:
        self.scene = scene
        self.count = count
        self.seconds = seconds
        self.outages: list[tuple[float, float, Code]] = []
        self.refused = 0
        self._times: deque[float] = deque()
        scene.server.by_key = self.reply

    def clear(self) -> None:
        """Good weather from now on; each run's clock begins at 0."""
        self.outages = []
        self._times.clear()

    def reply(self, _: str | None, __: int) -> Any:
        now = asyncio.get_running_loop().time()
        for begin, end, code in self.outages:
            if begin <= now < end:
                return self.scene.error(code, 0.2)
        while self._times and now - self._times[0] >= self.seconds:
            self._times.popleft()
        if len(self._times) >= self.count:
            self.refused += 1
            return self.scene.error(Code.RATE_LIMITED, 0.05)
        self._times.append(now)
        return None


SLOW = pytest.param(10, 2.0, marks=pytest.mark.slow)


@pytest.mark.parametrize(("count", "seconds"), [SLOW, (5, 1.0), (60, 60.0)])
def test_a_limit_nobody_told_us_is_found(night: NightOf, count: int, seconds: float) -> None:
    jobs = 600
    scene = night(jobs)
    weather = Weather(scene, count, seconds)
    ended = scene.run(concurrency=32)
    assert ended.reason is None
    assert all((row.status, row.attempts) == ("done", 1) for row in scene.rows().values())
    assert scene.spent() == jobs * PRICE
    assert ended.seconds < 2.5 * jobs * seconds / count
    assert weather.refused < 0.2 * jobs


@pytest.mark.parametrize("code", [Code.SERVER, Code.NETWORK, Code.TIMEOUT])
def test_an_outage_is_sat_out(night: NightOf, code: Code) -> None:
    scene = night(300)
    weather = Weather(scene, 10**6, 1.0)
    weather.outages = [(20.0, 200.0, code)]
    ended = scene.run(concurrency=8, max_consecutive_failures=20)
    assert ended.reason is None
    assert ended.tally.done >= 290
    assert ended.tally.done + ended.tally.failed == 300
    during = [call for call in scene.server.calls if 60 <= call.at < 200]
    assert len(during) <= 20


def test_a_provider_that_stays_down_ends_the_run_and_the_next_one_finishes_it(night: NightOf) -> None:
    scene = night(300)
    weather = Weather(scene, 10**6, 1.0)
    weather.outages = [(20.0, float("inf"), Code.SERVER)]
    ended = scene.run(concurrency=8, max_consecutive_failures=20)
    assert ended.reason is not None
    assert (ended.reason.reason, ended.reason.exit_code) == ("failures", 3)
    assert ended.seconds < 3600
    assert all(row.in_flight is None for row in scene.rows().values())
    weather.clear()
    assert scene.run(concurrency=8, retry_failed=True).reason is None
    assert {row.status for row in scene.rows().values()} == {"done"}
    assert scene.spent() == 300 * PRICE


CODES = st.sampled_from([Code.SERVER, Code.NETWORK, Code.UNKNOWN, Code.MODERATED, Code.BAD_ANSWER, Code.RATE_LIMITED])
OUTAGES = st.lists(st.tuples(st.floats(0, 300), st.floats(0, 900), CODES), max_size=3)


def test_the_last_job_to_end_wakes_those_that_wait_for_the_breaker(night: NightOf) -> None:
    """It was its probe; nothing else happens any more that could."""
    scene = night(5)
    weather = Weather(scene, 1, 1.0)
    weather.outages = [(0.0, 8.0, Code.SERVER)]
    scene.server.api = lambda *_: scene.picture(0.0)
    ended = scene.run(concurrency=1, max_consecutive_failures=1)
    assert ended.reason is None
    assert ended.tally.done + ended.tally.failed == 5


@settings(deadline=None, max_examples=10)
@given(
    outages=OUTAGES,
    count=st.integers(1, 20),
    seconds=st.floats(0.1, 10),
    concurrency=st.integers(1, 12),
    failures=st.integers(1, 8),
    jobs=st.integers(1, 60),
    latency=st.floats(0, 20),
    interval=st.one_of(st.none(), st.floats(0.05, 3)),
    stop=st.one_of(st.none(), st.floats(0, 400)),
    keys=st.sampled_from([("A",), ("A", "B")]),
)
def test_in_any_weather_the_run_ends_and_the_books_are_right(  # noqa: PLR0913  pytest hands each in by name
    nights: NightFactory,
    *,
    outages: list[tuple[float, float, Code]],
    count: int,
    seconds: float,
    concurrency: int,
    failures: int,
    jobs: int,
    latency: float,
    interval: float | None,
    stop: float | None,
    keys: tuple[str, ...],
) -> None:
    with nights(jobs) as scene:
        weather = Weather(scene, count, seconds)
        weather.outages = [(begin, begin + length, code) for begin, length, code in outages]
        scene.server.api = lambda *_: scene.picture(latency)
        ended = scene.run(
            concurrency=concurrency, max_consecutive_failures=failures, interval=interval, stop_at=stop, keys=keys
        )
        rows = scene.rows()
        assert all(row.in_flight is None for row in rows.values())
        assert scene.spent() == scene.server.charged * PRICE
        assert scene.server.peak <= concurrency
        for name, row in rows.items():
            assert row.attempts <= 5
            assert (row.error_code is not None) == (row.status in {"failed", "unknown"}), name
        if ended.reason is None:
            assert len(rows) == jobs
            assert {row.status for row in rows.values()} <= {"done", "failed", "unknown"}
        else:
            assert ended.reason.reason in {"failures", "rate_limited", "signal"}
        for _ in range(3):
            weather.clear()
            scene.run(concurrency=concurrency, retry_failed=True)
        assert {row.status for row in scene.rows().values()} == {"done"}
        assert scene.spent() == scene.server.charged * PRICE


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_jobs_that_all_fail_a_few_times_first_are_not_held_back(night: NightOf, bad: int) -> None:
    scene = night(120)
    scene.server.api = lambda name, number: (  # noqa: ARG005
        scene.error(Code.SERVER, 0.1) if number < bad else scene.picture(0.1)
    )
    ended = scene.run(concurrency=24, attempts=5)
    assert (ended.reason, ended.tally.done) == (None, 120)
    assert ended.seconds < 60


def test_a_few_refusals_by_chance_do_not_take_the_rate_to_nothing(night: NightOf) -> None:
    scene = night(300)
    chance = Random(5)
    scene.server.by_key = lambda key, number: (  # noqa: ARG005
        scene.error(Code.RATE_LIMITED, 0.01) if chance.random() < 0.1 else None
    )
    scene.server.api = lambda name, number: scene.picture(0.1)  # noqa: ARG005
    ended = scene.run(concurrency=10)
    assert (ended.reason, ended.tally.done) == (None, 300)
    assert ended.seconds < 300


def test_a_limit_is_learned_also_from_a_server_that_says_how_long_to_wait(night: NightOf) -> None:
    scene = night(300)
    tokens, last = 5.0, 0.0

    def bucket(key: str | None, number: int) -> object:
        nonlocal tokens, last
        now = scene.server.calls[-1].at if scene.server.calls else 0.0
        tokens, last = min(5.0, tokens + 5.0 * (now - last)), now
        if tokens >= 1:
            tokens -= 1
            return None
        return scene.error(Code.RATE_LIMITED, 0.01, retry_after=1.0)

    scene.server.by_key = bucket  # type: ignore[assignment]  # a Reply or None
    scene.server.api = lambda name, number: scene.picture(0.1)  # noqa: ARG005
    ended = scene.run(concurrency=24)
    assert ended.tally.done == 300
    assert ended.seconds < 200, "at 5 a second it takes 60"
    assert len(scene.server.calls) - 300 < 100
