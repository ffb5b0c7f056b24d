"""Retries: the policy; the driver that all jobs share; the quota that keeps retries a small part of all calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.engine.retry import CAPACITY, FRACTION, TRICKLE, Retrying, RetryPolicy, RetryQuota, Tries
from batchflux.engine.shutdown import Gate, Halted
from batchflux.errors import Code, JobError, StopRun

if TYPE_CHECKING:
    from tests.engine.clock import VirtualLoop
    from tests.engine.conftest import Night

NightOf = Callable[[int], "Night"]
STOP = StopRun("signal", "Stopped by SIGTERM.")

RETRIED = {Code.SERVER, Code.NETWORK, Code.TIMEOUT, Code.BAD_ANSWER, Code.NO_IMAGE}
FREE = {Code.RATE_LIMITED, Code.AUTH, Code.QUOTA}


def error(code: Code, retry_after: float | None = None) -> JobError:
    return JobError(code, f"it says {code}", retry_after=retry_after)


@pytest.mark.parametrize("code", list(Code))
def test_which_codes_are_tried_again(code: Code) -> None:
    delay = RetryPolicy().api(Tries(used=1), error(code), Random(1))
    assert (delay is not None) is (code in RETRIED | FREE | {Code.UNKNOWN})
    spent = RetryPolicy(attempts=1).api(Tries(used=1), error(code), Random(1))
    assert (spent is not None) is (code in FREE)
    fetched = RetryPolicy().fetch(Tries(used=1), error(code), Random(1))
    assert (fetched is not None) is (code in {Code.DOWNLOAD, Code.BAD_IMAGE})
    assert RetryPolicy(attempts=1).fetch(Tries(used=1), error(code), Random(1)) is None


@pytest.mark.parametrize("code", sorted(FREE))
def test_a_rate_limit_costs_a_short_wait_and_a_dead_key_none(code: Code) -> None:
    for refused in range(1, 20):
        wait = RetryPolicy().api(Tries(used=1, refused=refused), error(code, 60.0), Random(refused))
        assert wait is not None
        assert 0.25 <= wait <= 4.0 if code is Code.RATE_LIMITED else wait == 0.0


@given(used=st.integers(1, 10_000), base=st.floats(0.01, 10), cap=st.floats(0.01, 600), seed=st.integers())
def test_backoff_is_jittered_doubles_and_is_capped(used: int, base: float, cap: float, seed: int) -> None:
    policy = RetryPolicy(attempts=10**6, base=base, cap=cap)
    delay = policy.api(Tries(used=used), error(Code.SERVER), Random(seed))
    assert delay is not None
    assert 0.0 <= delay <= min(cap, base * 2 ** min(used - 1, 40))


def test_backoff_uses_all_of_its_range() -> None:
    random, policy = Random(7), RetryPolicy(base=1.0, cap=60.0)
    delays = [policy.api(Tries(used=3), error(Code.SERVER), random) or 0.0 for _ in range(1000)]
    assert 0.0 <= min(delays) < 0.2
    assert 3.8 < max(delays) <= 4.0


@pytest.mark.parametrize("code", [Code.SERVER, Code.UNKNOWN])
def test_retry_after_is_the_least_wait(code: Code) -> None:
    assert RetryPolicy().api(Tries(used=1), error(code, 77.0), Random(1)) == 77.0
    later = RetryPolicy(base=1000.0, cap=1000.0).api(Tries(used=1), error(code, 0.001), Random(1))
    assert later is not None
    assert later > 1


def test_retry_after_holds_for_downloads_too() -> None:
    assert RetryPolicy().fetch(Tries(used=1), error(Code.DOWNLOAD, 77.0), Random(1)) == 77.0


@pytest.mark.parametrize("on_unknown", ["hold", "fail"])
def test_an_unknown_outcome_is_sent_again_only_when_asked(on_unknown: str) -> None:
    policy = RetryPolicy(on_unknown="hold" if on_unknown == "hold" else "fail")
    assert policy.api(Tries(used=1), error(Code.UNKNOWN), Random(1)) is None


def test_an_unknown_outcome_is_sent_again_once() -> None:
    tries = Tries(used=1)
    assert RetryPolicy().api(tries, error(Code.UNKNOWN), Random(1)) is not None
    assert tries.resent == 1
    assert RetryPolicy().api(tries, error(Code.UNKNOWN), Random(1)) is None


async def no_sleep(_: float) -> None:
    await asyncio.sleep(0)


async def test_many_jobs_share_one_adapter() -> None:
    """Each job's own tries decide, although all go through one AsyncRetrying."""
    retrying = Retrying(lambda tries, _: 0.0 if tries.used < 5 else None, no_sleep)
    seen: dict[int, int] = {}

    async def job(number: int) -> int:
        tries = Tries()

        async def step() -> int:
            await asyncio.sleep(0)
            tries.used += 1
            seen[number] = tries.used
            if tries.used <= number % 7:
                raise error(Code.SERVER)
            return number

        return await retrying(step, tries)

    ended = await asyncio.gather(*map(job, range(200)), return_exceptions=True)
    for number, result in enumerate(ended):
        if number % 7 < 5:
            assert result == number
            assert seen[number] == number % 7 + 1
        else:
            assert isinstance(result, JobError)
            assert seen[number] == 5


@pytest.mark.parametrize("fault", [Halted(), KeyError("bug"), asyncio.CancelledError()])
async def test_what_is_no_jobs_failure_is_not_tried_again(fault: BaseException) -> None:
    calls = 0

    async def step() -> None:
        nonlocal calls
        calls += 1
        raise fault

    with pytest.raises(type(fault)):
        await Retrying(lambda *_: 0.0, no_sleep)(step, Tries())
    assert calls == 1


async def test_the_last_error_is_raised_as_it_was() -> None:
    last = error(Code.SERVER)

    async def step() -> None:
        raise last

    with pytest.raises(JobError) as caught:
        await Retrying(lambda *_: None, no_sleep)(step, Tries())
    assert caught.value is last


@pytest.mark.parametrize("allowed", [0, 1, 4])
async def test_a_step_is_tried_no_more_often_than_was_decided(allowed: int) -> None:
    """Each try may cost money: the first failure is judged before the step is performed again."""
    calls, judged = 0, list[int]()

    async def step() -> None:
        nonlocal calls
        calls += 1
        raise error(Code.SERVER)

    def decide(*_: object) -> float | None:
        judged.append(calls)
        return 0.0 if len(judged) <= allowed else None

    with pytest.raises(JobError):
        await Retrying(decide, no_sleep)(step, Tries())
    assert calls == 1 + allowed
    assert judged == list(range(1, 2 + allowed))


async def test_the_wait_is_what_was_decided() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    delays = iter([3.5, 0.0, None])

    async def step() -> None:
        raise error(Code.SERVER)

    with pytest.raises(JobError):
        await Retrying(lambda *_: next(delays), sleep)(step, Tries())
    assert waits == [3.5, 0.0]


async def emptied(gate: Gate | None = None) -> RetryQuota:
    quota = RetryQuota(gate or Gate())
    for _ in range(int(CAPACITY)):
        await quota.take()
    return quota


def test_a_full_quota_lets_a_burst_go_at_once_then_one_every_few_seconds(virtual: asyncio.Runner) -> None:
    async def scene() -> list[float]:
        loop, quota = asyncio.get_running_loop(), await emptied()
        assert loop.time() == 0
        times = []
        for _ in range(3):
            await quota.take()
            times.append(loop.time())
        return times

    assert virtual.run(scene()) == pytest.approx([TRICKLE, 2 * TRICKLE, 3 * TRICKLE], abs=0.01)


def test_first_tries_that_succeed_pay_for_a_tenth_as_many_retries(virtual: asyncio.Runner) -> None:
    async def scene() -> int:
        quota, taken = await emptied(), 0

        async def retry() -> None:
            nonlocal taken
            await quota.take()
            taken += 1

        tasks = [asyncio.create_task(retry()) for _ in range(50)]
        await asyncio.sleep(0)
        for _ in range(205):
            quota.succeeded(retried=False)
        await asyncio.sleep(TRICKLE / 2)
        for task in tasks:
            task.cancel()
        return taken

    assert virtual.run(scene()) == int(205 * FRACTION)


def test_a_retry_that_succeeds_gives_back_what_it_took(virtual: asyncio.Runner) -> None:
    async def scene() -> float:
        quota = await emptied()
        quota.succeeded(retried=True)
        await quota.take()
        return asyncio.get_running_loop().time()

    assert virtual.run(scene()) == 0


def test_the_quota_holds_no_more_than_its_capacity(virtual: asyncio.Runner) -> None:
    async def scene() -> float:
        loop, quota = asyncio.get_running_loop(), RetryQuota(Gate())
        await asyncio.sleep(100 * CAPACITY * TRICKLE)
        for _ in range(10_000):
            quota.succeeded(retried=True)
        begin = loop.time()
        for _ in range(int(CAPACITY)):
            await quota.take()
        assert loop.time() == begin
        await quota.take()
        return loop.time() - begin

    assert virtual.run(scene()) == pytest.approx(TRICKLE, abs=0.01)


def test_those_who_wait_are_served_in_their_order_and_the_cancelled_cost_nothing(virtual: asyncio.Runner) -> None:
    async def scene() -> tuple[list[int], float]:
        quota, served = await emptied(), list[int]()

        async def retry(number: int) -> None:
            await quota.take()
            served.append(number)

        tasks = [asyncio.create_task(retry(number)) for number in range(6)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[3].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return served, asyncio.get_running_loop().time()

    served, seconds = virtual.run(scene())
    assert served == [1, 2, 4, 5]
    assert seconds == pytest.approx(4 * TRICKLE, abs=0.05)


def test_a_closing_gate_ends_the_wait(virtual: asyncio.Runner) -> None:
    async def scene() -> list[object]:
        gate = Gate()
        quota = await emptied(gate)
        tasks = [asyncio.create_task(quota.take()) for _ in range(3)]
        await asyncio.sleep(0)
        gate.close(STOP)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        with pytest.raises(Halted):
            await quota.take()
        assert asyncio.get_running_loop().time() == 0
        return [type(result) for result in ended]

    assert virtual.run(scene()) == [Halted] * 3


def test_one_who_gave_up_does_not_hold_up_those_behind_as_the_run_stops(virtual: asyncio.Runner) -> None:
    async def scene() -> tuple[list[object], float]:
        gate = Gate()
        quota = await emptied(gate)
        quitter, *others = [asyncio.create_task(quota.take()) for _ in range(3)]
        await asyncio.sleep(0)
        quitter.cancel()
        gate.close(STOP)
        ended = await asyncio.gather(*others, return_exceptions=True)
        return [type(result) for result in ended], asyncio.get_running_loop().time()

    assert virtual.run(scene()) == ([Halted] * 2, 0)


STEPS = st.lists(st.one_of(st.sampled_from(["take", "first", "retried"]), st.floats(0, 60)), max_size=300)


@settings(deadline=None, max_examples=40)
@given(steps=STEPS)
def test_no_more_is_taken_than_was_paid_in(virtual_loop: type[VirtualLoop], steps: list[str | float]) -> None:
    async def scene() -> None:
        loop, quota = asyncio.get_running_loop(), RetryQuota(Gate())
        taken, paid, tasks = 0, CAPACITY, []

        async def retry() -> None:
            nonlocal taken
            await quota.take()
            taken += 1

        for step in steps:
            if step == "take":
                tasks.append(asyncio.create_task(retry()))
                await asyncio.sleep(0)
            elif isinstance(step, str):
                quota.succeeded(retried=step == "retried")
                paid += 1.0 if step == "retried" else FRACTION
            else:
                await asyncio.sleep(step)
            assert taken <= paid + loop.time() / TRICKLE + 1e-6
        await asyncio.gather(*tasks)
        assert taken == steps.count("take")
        assert loop.time() <= sum(step for step in steps if isinstance(step, float)) + taken * (TRICKLE + 0.01)

    with asyncio.Runner(loop_factory=virtual_loop) as runner:
        runner.run(scene())


def test_fresh_jobs_go_on_while_retries_wait_for_the_quota(night: NightOf) -> None:
    """Two hundred jobs fail four times each, more than the quota has; those behind them do not wait for that."""
    scene = night(400)
    scene.server.api = lambda name, number: (
        scene.error(Code.SERVER, 0.1) if int(name[1:]) < 200 and number < 4 else scene.picture(0.1)
    )
    ended = scene.run(concurrency=40)
    assert (ended.reason, ended.tally.done) == (None, 400)
    firsts: dict[str, float] = {}
    for call in scene.server.calls:
        firsts.setdefault(call.id, call.at)
    last_sick = max(call.at for call in scene.server.calls if int(call.id[1:]) < 200)
    assert max(firsts.values()) < last_sick / 3


def test_an_outage_is_not_made_worse(night: NightOf) -> None:
    """Where nothing succeeds, calls beyond one a job are the quota and its trickle."""
    scene = night(400)
    scene.server.api = lambda *_: scene.error(Code.SERVER, 0.1)
    ended = scene.run(concurrency=40, stop_at=300.0)
    fresh = len(scene.server.per_job)
    assert ended.reason is not None
    assert len(scene.server.calls) - fresh <= CAPACITY + 300.0 / TRICKLE
