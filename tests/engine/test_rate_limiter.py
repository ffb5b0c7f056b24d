"""What the provider sees of us: how many requests at once, how close together, with which key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.engine.circuit_breaker import CircuitBreaker
from batchflux.engine.limits.gcra import LATENESS
from batchflux.engine.limits.key_pool import Key, Lease
from batchflux.engine.limits.rate_limiter import RateLimiter
from batchflux.engine.shutdown import Gate, Halted
from batchflux.errors import Code, JobError, StopRun
from tests.engine.limit_clients import most_in_a_window

if TYPE_CHECKING:
    from tests.engine.conftest import Night, NightFactory

PLAIN = settings(deadline=None, max_examples=20)
NightOf = Callable[[int], "Night"]


def one_slot(gate: Gate) -> RateLimiter:
    return RateLimiter([Key(name="A", secret="s")], concurrency=1, gate=gate, breaker=CircuitBreaker(20, gate))


def crowded(times: list[float], interval: float, slack: float = 0.0) -> list[tuple[float, float, int]]:
    """Windows [from, to] with more requests in them than their length allows."""
    bad = []
    for first, start in enumerate(times):
        for last in range(first + 1, len(times)):
            width = times[last] - start
            if last - first + 1 > (width + slack) / interval + 1 + 1e-6:
                bad.append((start, times[last], last - first + 1))
    return bad


@PLAIN
@given(data=st.data(), interval=st.floats(0.02, 3.0), concurrency=st.integers(1, 8), count=st.integers(1, 40))
def test_a_run_keeps_its_rate_and_its_concurrency(
    nights: NightFactory, data: st.DataObject, *, interval: float, concurrency: int, count: int
) -> None:
    with nights(count) as scene:
        latency = data.draw(st.lists(st.floats(0, 20), min_size=1, max_size=10))
        scene.server.api = lambda name, _: scene.picture(latency[int(name[1:]) % len(latency)])
        scene.run(interval=interval, concurrency=concurrency, commit_seconds=0.0)
        times = [call.at for call in scene.server.calls]
        assert len(times) == count
        assert crowded(times, interval, interval + LATENESS) == [], "two together where one was late, and no more"
        assert most_in_a_window(times, 1.0) <= max(1 / interval, 1)
        assert scene.server.peak <= concurrency


def test_the_rate_is_reached_when_the_provider_is_fast(night: NightOf) -> None:
    scene = night(300)
    scene.run(interval=0.2, concurrency=8, lag=lambda: 0.001)
    assert scene.server.calls[-1].at == pytest.approx(299 * 0.2, rel=0.025)


def test_all_slots_are_used_and_no_more(night: NightOf) -> None:
    scene = night(100)
    scene.run(concurrency=7)
    assert scene.server.peak == 7


def test_each_key_has_its_own_rate(night: NightOf) -> None:
    scene = night(100)
    scene.run(keys=("A", "B"), interval=1.0, concurrency=8, commit_seconds=0.0)
    for key in ("A", "B"):
        times = [call.at for call in scene.server.calls if call.key == key]
        assert len(times) == 50
        assert crowded(times, 1.0, LATENESS) == []
    assert scene.server.calls[-1].at == pytest.approx(49, abs=1)


def test_a_key_that_refuses_from_the_start_rests_as_told_and_no_other(night: NightOf) -> None:
    scene = night(60)
    scene.server.by_key = lambda key, number: (
        scene.error(Code.RATE_LIMITED, 0.5, retry_after=30) if key == "A" and number == 0 else None
    )
    scene.run(keys=("A", "B"), concurrency=2, interval=1.0)
    used_a = [call.at for call in scene.server.calls if call.key == "A"]
    refused = used_a[0] + 0.5
    assert [at for at in used_a[1:] if at < refused + 30] == []
    assert any(at >= refused + 30 for at in used_a)
    assert any(refused < call.at < refused + 30 for call in scene.server.calls if call.key == "B")
    assert all(row.status == "done" and row.attempts == 1 for row in scene.rows().values())


@PLAIN
@given(retry_after=st.floats(0.06, 5000), begin=st.floats(0, 30_000), after=st.floats(0, 1))
def test_a_lease_that_is_granted_as_a_key_has_cooled_is_not_taken_for_too_early(
    nights: NightFactory, retry_after: float, begin: float, after: float
) -> None:
    """However the times round: else it is given back and granted again for ever, and this test times out."""
    with nights(2) as scene:
        refused = scene.error(Code.RATE_LIMITED, after, retry_after=retry_after)
        scene.server.api = {"j0": [scene.picture(begin)], "j1": [refused, scene.picture()]}
        ended = scene.run(concurrency=1, commit_seconds=0.0)
        assert ended.tally.done == 2


def test_where_everything_is_refused_all_workers_wait_as_told(night: NightOf) -> None:
    scene = night(40)
    scene.server.by_key = lambda _, number: scene.error(Code.RATE_LIMITED, 0.5, retry_after=60) if number < 8 else None
    scene.run(concurrency=8)
    assert len([call for call in scene.server.calls if call.at <= 0.6]) == 8
    assert [call.at for call in scene.server.calls if 0.6 < call.at < 60] == []
    assert len(scene.rows()) == 40


@pytest.mark.parametrize("keys", [("A",), ("A", "B")])
def test_a_lone_refusal_holds_its_job_as_told_and_nobody_else(night: NightOf, keys: tuple[str, ...]) -> None:
    scene = night(40)
    scene.server.by_key = lambda _, number: scene.error(Code.RATE_LIMITED, 0.5, retry_after=60) if number < 1 else None
    scene.run(concurrency=8, keys=keys)
    refused = [call for call in scene.server.calls if call.reply.code is Code.RATE_LIMITED]
    assert len(refused) == len(keys)
    for call in refused:
        assert all(
            other.at >= call.at + 60.5
            for other in scene.server.calls
            if other.id == call.id and other.key == call.key and other is not call
        )
    others = {call.id for call in refused}
    assert max(call.at for call in scene.server.calls if call.id not in others) < 20
    if len(keys) > 1:
        assert max(call.at for call in scene.server.calls) < 20, "another key serves it at once"


def test_a_rate_limit_without_a_time_is_waited_out_longer_and_longer(night: NightOf) -> None:
    scene = night(1)
    scene.server.api = {"j0": [*[scene.error(Code.RATE_LIMITED, 0.01)] * 6, scene.picture()]}
    scene.run()
    times = [call.at for call in scene.server.calls]
    pauses = [after - before for before, after in pairwise(times)]
    assert len(times) == 7
    assert all(pause >= 0.1 for pause in pauses)
    assert pauses[-1] > 2 * pauses[0]
    assert scene.rows()["j0"].attempts == 1


def test_a_provider_that_only_ever_says_no_ends_the_run(night: NightOf) -> None:
    scene = night(5)
    scene.server.api = lambda name, number: scene.error(Code.RATE_LIMITED, 0.1)  # noqa: ARG005
    ended = scene.run()
    assert ended.reason is not None
    assert (ended.reason.reason, ended.reason.exit_code) == ("rate_limited", 3)
    assert 600 < ended.seconds < 7200
    assert all((row.status, row.attempts) == ("pending", 0) for row in scene.rows().values())
    assert scene.spent() == 0


@pytest.mark.parametrize("code", [Code.AUTH, Code.QUOTA])
def test_a_dead_key_leaves_the_pool_and_its_jobs_go_on_with_the_others(night: NightOf, code: Code) -> None:
    scene = night(30)
    scene.server.by_key = lambda key, number: scene.error(code, 0.2) if key == "A" and number > 2 else None
    ended = scene.run(keys=("A", "B"), concurrency=4, interval=0.1)
    assert ended.reason is None
    died = next(call.at + 0.2 for call in scene.server.calls if call.key == "A" and call.reply.code is code)
    assert [call for call in scene.server.calls if call.key == "A" and call.at > died + 0.01] == []
    assert all((row.status, row.attempts) == ("done", 1) for row in scene.rows().values())


def test_when_all_keys_are_dead_the_run_stops_and_names_them(night: NightOf) -> None:
    scene = night(30)
    scene.server.by_key = lambda key, number: (
        scene.error(Code.QUOTA if key == "A" else Code.AUTH, 0.2) if number > (2 if key == "A" else 6) else None
    )
    ended = scene.run(keys=("A", "B"), concurrency=4, interval=0.1)
    assert ended.reason is not None
    assert ended.reason.exit_code == 3
    assert "A, B" in str(ended.reason)
    statuses = [row.status for row in scene.rows().values()]
    assert set(statuses) == {"done", "pending"}
    assert statuses.count("done") == 10
    assert all(row.in_flight is None for row in scene.rows().values())


async def test_a_closing_gate_ends_all_waits_for_a_slot() -> None:
    gate = Gate()
    limits = one_slot(gate)
    key = await limits.acquire()
    waiting = [asyncio.ensure_future(limits.acquire()) for _ in range(3)]
    await asyncio.sleep(0)
    gate.close(StopRun("signal", "Stopped by SIGTERM."))
    assert [type(result) for result in await asyncio.gather(*waiting, return_exceptions=True)] == [Halted] * 3
    with pytest.raises(Halted):
        await limits.acquire()
    limits.release(key)
    assert limits.in_flight == 0


async def test_a_waiter_that_is_cancelled_takes_no_slot_with_it() -> None:
    limits = one_slot(Gate())
    key = await limits.acquire()
    before_grant, after_grant = asyncio.ensure_future(limits.acquire()), asyncio.ensure_future(limits.acquire())
    await asyncio.sleep(0)
    before_grant.cancel()
    await asyncio.sleep(0)
    limits.release(key)
    after_grant.cancel()
    await asyncio.gather(before_grant, after_grant, return_exceptions=True)
    assert limits.in_flight == 0
    await asyncio.wait_for(limits.acquire(), 60)


async def test_waiters_are_served_first_come_first_served() -> None:
    limits = one_slot(Gate())
    served: list[int] = []

    async def worker(number: int) -> None:
        key = await limits.acquire()
        served.append(number)
        await asyncio.sleep(0)
        limits.release(key)

    await asyncio.gather(*map(worker, range(20)))
    assert served == list(range(20))


async def test_the_secret_of_a_key_is_not_in_its_text() -> None:
    gate = Gate()
    key = Key(name="TUZI", secret="sk-canary")
    limits = RateLimiter([key], concurrency=1, gate=gate, breaker=CircuitBreaker(20, gate))
    limits.refused(await limits.acquire(), JobError(Code.AUTH, "wrong key"))
    assert "sk-canary" not in repr(key) + str(gate.reason)
    assert "TUZI" in str(gate.reason)


def test_the_window_check_can_fail() -> None:
    assert crowded([0.0, 0.5], 1.0) == [(0.0, 0.5, 2)]


@pytest.mark.parametrize("dead", [True, False])
async def test_a_lease_of_a_key_that_rests_is_given_back_and_not_waited_for(*, dead: bool) -> None:
    gate = Gate()
    keys = [Key(name="A", secret="a"), Key(name="B", secret="b")]
    limits = RateLimiter(keys, concurrency=4, gate=gate, breaker=CircuitBreaker(20, gate))
    first = await limits.acquire()
    assert await limits.depart(first)
    if dead:
        limits.refused(first, JobError(Code.AUTH, "no"))
    else:
        limits.answered(first, 900.0)
    late = Lease(key=first.key, clock=asyncio.get_running_loop().time)
    assert not await asyncio.wait_for(limits.depart(late), 60)
