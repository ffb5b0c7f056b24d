"""Retries stay a small part of all calls: what fills the purse, what empties it, and who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.engine.retry import CAPACITY, FRACTION, TRICKLE, RetryQuota
from batchflux.engine.shutdown import Gate, Halted
from batchflux.errors import Code, StopRun

if TYPE_CHECKING:
    from tests.engine.conftest import Night, VirtualLoop

NightOf = Callable[[int], "Night"]
STOP = StopRun("signal", "Stopped by SIGTERM.")


async def emptied(gate: Gate | None = None) -> RetryQuota:
    quota = RetryQuota(gate or Gate())
    for _ in range(int(CAPACITY)):
        await quota.take()
    return quota


def test_a_full_purse_lets_a_burst_go_at_once_then_one_every_few_seconds(virtual: asyncio.Runner) -> None:
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
        await asyncio.sleep(0)
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


def test_the_purse_holds_no_more_than_its_capacity(virtual: asyncio.Runner) -> None:
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


def test_part_of_a_retry_in_the_purse_shortens_the_wait(virtual: asyncio.Runner) -> None:
    async def scene() -> float:
        quota = await emptied()
        for _ in range(5):
            quota.succeeded(retried=False)
        await quota.take()
        return asyncio.get_running_loop().time()

    assert virtual.run(scene()) == pytest.approx(TRICKLE * (1 - 5 * FRACTION), abs=0.01)


STEPS = st.lists(st.one_of(st.sampled_from(["take", "first", "retried"]), st.floats(0, 60)), max_size=300)


@settings(deadline=None)
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


def test_fresh_jobs_go_on_while_retries_wait_for_the_purse(night: NightOf) -> None:
    """Two hundred jobs fail four times each, more than the purse has; those behind them do not wait for that."""
    scene = night(500)
    scene.server.api = lambda name, number: (
        scene.error(Code.SERVER, 0.1) if int(name[1:]) < 200 and number < 4 else scene.picture(0.1)
    )
    ended = scene.run(concurrency=40)
    assert (ended.reason, ended.tally.done) == (None, 500)
    firsts: dict[str, float] = {}
    for call in scene.server.calls:
        firsts.setdefault(call.id, call.at)
    last_sick = max(call.at for call in scene.server.calls if int(call.id[1:]) < 200)
    assert max(firsts.values()) < last_sick / 3


def test_an_outage_is_not_made_worse(night: NightOf) -> None:
    """Where nothing succeeds, calls beyond one a job are the purse and its trickle."""
    scene = night(400)
    scene.server.api = lambda *_: scene.error(Code.SERVER, 0.1)
    ended = scene.run(concurrency=40, stop_at=300.0)
    fresh = len(scene.server.per_job)
    assert ended.reason is not None
    assert len(scene.server.calls) - fresh <= CAPACITY + 300.0 / TRICKLE
