"""How a run ends: the gate ends waits at once and its first reason stands; the deadline closes it."""

from __future__ import annotations

import asyncio

import pytest

from batchflux.engine.shutdown import Deadline, Gate, Halted
from batchflux.errors import StopRun

FIRST, SECOND = StopRun("signal", "Stopped by SIGTERM."), StopRun("budget", "The budget is used up.")


def test_the_first_reason_stands() -> None:
    gate = Gate()
    gate.check()
    assert not gate.closed
    gate.close(FIRST)
    gate.close(SECOND)
    assert gate.reason is FIRST
    with pytest.raises(Halted):
        gate.check()


def test_listeners_are_told_once() -> None:
    gate, told = Gate(), []
    gate.on_close(lambda: told.append(gate.closed))
    gate.close(FIRST)
    gate.close(SECOND)
    assert told == [True]


def test_a_wait_takes_its_time(virtual: asyncio.Runner) -> None:
    async def wait() -> float:
        gate = Gate()
        await gate.sleep(5000.0)
        await gate.sleep(0.0)
        await gate.sleep(-1.0)
        return asyncio.get_running_loop().time()

    assert virtual.run(wait()) == pytest.approx(5000)


def test_closing_ends_all_waits_at_once(virtual: asyncio.Runner) -> None:
    async def wait() -> tuple[list[object], float]:
        gate, loop = Gate(), asyncio.get_running_loop()
        loop.call_later(10, gate.close, FIRST)
        ended = await asyncio.gather(*(gate.sleep(seconds) for seconds in (5, 50, 5000)), return_exceptions=True)
        return list(ended), loop.time()

    ended, at = virtual.run(wait())
    assert [type(result) for result in ended] == [type(None), Halted, Halted]
    assert at == pytest.approx(10)


async def test_a_closed_gate_lets_nobody_wait() -> None:
    gate = Gate()
    gate.close(FIRST)
    for seconds in (0.0, 5.0):
        with pytest.raises(Halted):
            await gate.sleep(seconds)


def test_the_poll_of_a_task_goes_on_behind_a_closed_gate_until_a_signal(virtual: asyncio.Runner) -> None:
    async def wait() -> tuple[list[object], float]:
        gate, loop = Gate(), asyncio.get_running_loop()
        loop.call_later(10, gate.close, SECOND)
        loop.call_later(30, gate.close, FIRST)
        ended = await asyncio.gather(*(gate.sleep_polling(each) for each in (20, 50)), return_exceptions=True)
        with pytest.raises(Halted):
            await gate.sleep_polling(0)
        assert gate.reason is SECOND
        return list(ended), loop.time()

    ended, at = virtual.run(wait())
    assert [type(result) for result in ended] == [bool, Halted]
    assert at == pytest.approx(30)


def test_a_call_ends_the_wait_for_the_next_poll_and_a_signal_the_run(virtual: asyncio.Runner) -> None:
    async def wait() -> list[object]:
        gate, called, loop = Gate(), asyncio.Event(), asyncio.get_running_loop()
        loop.call_later(10, called.set)
        loop.call_later(100, gate.close, FIRST)
        woken = [await gate.sleep_polling(60, called), loop.time(), called.is_set()]
        woken += [await gate.sleep_polling(60, called), loop.time()]
        with pytest.raises(Halted):
            await gate.sleep_polling(60, called)
        return [*woken, loop.time()]

    assert virtual.run(wait()) == [True, 10, False, False, 70, 100]


def test_without_a_deadline_nothing_stops() -> None:
    gate = Gate()
    deadline = Deadline(None, "", gate)
    deadline.took(1e9)
    deadline.check(1e12)
    assert not gate.closed


def test_before_the_first_answer_only_the_clock_counts() -> None:
    gate = Gate()
    deadline = Deadline(100.0, "06:00", gate)
    assert deadline.expected() == 0.0
    deadline.check(99.9)
    assert not gate.closed
    deadline.check(100.1)
    assert gate.reason is not None
    assert (gate.reason.reason, gate.reason.exit_code) == ("deadline", 3)
    assert str(gate.reason) == "The deadline (06:00) leaves no time for another request: run again to continue."


def test_the_deadline_itself_ends_every_wait_and_another_one_takes_its_place(virtual: asyncio.Runner) -> None:
    async def scene() -> None:
        gate = Gate()
        deadline = Deadline(100.0, "06:00", gate)
        deadline.retune(10.0, "00:10")
        await asyncio.sleep(20)
        assert not gate.closed, "nobody is working yet"
        deadline.retune(100.0, "06:00")
        with deadline.watch():
            deadline.retune(50.0, "05:00")
            await asyncio.sleep(29)
            assert not gate.closed
            deadline.retune(None, "")
            await asyncio.sleep(100)
            assert not gate.closed
            deadline.retune(200.0, "07:00")
            await asyncio.sleep(52)
            assert str(gate.reason) == (
                "The deadline (07:00) leaves no time for another request: run again to continue."
            )

    virtual.run(scene())


def test_nothing_rings_after_the_work_is_done(virtual: asyncio.Runner) -> None:
    async def scene() -> bool:
        gate = Gate()
        deadline = Deadline(10.0, "06:00", gate)
        with deadline.watch():
            await asyncio.sleep(5)
        await asyncio.sleep(10)
        return gate.closed

    assert not virtual.run(scene())


def test_what_is_expected_is_what_nearly_all_took() -> None:
    deadline = Deadline(100.0, "06:00", Gate())
    for seconds in range(1, 101):
        deadline.took(float(seconds))
    assert deadline.expected() == pytest.approx(95, abs=1)
    for _ in range(300):
        deadline.took(2.0)
    assert deadline.expected() == 2.0


def test_a_request_that_would_end_too_late_is_not_begun() -> None:
    gate = Gate()
    deadline = Deadline(100.0, "06:00", gate)
    deadline.took(40.0)
    deadline.check(59.0)
    assert not gate.closed
    deadline.check(61.0)
    assert gate.closed


@pytest.mark.parametrize("at", [50.0, -1.0])
def test_the_gate_closes_at_the_deadline_itself(virtual: asyncio.Runner, at: float) -> None:
    async def wait() -> tuple[bool, bool]:
        gate = Gate()
        with Deadline(at, "06:00", gate).watch():
            await asyncio.sleep(max(at, 0) - 1)
            before = gate.closed
            await asyncio.sleep(2)
        return before, gate.closed

    assert virtual.run(wait()) == (False, True)


def test_a_time_of_day_is_over_when_the_machines_clock_says_so(virtual: asyncio.Runner) -> None:
    """The loop's clock stands still while a machine sleeps, and does not follow when its time is set."""

    async def wait(slept: float) -> tuple[StopRun | None, float, bool]:
        gate, loop = Gate(), asyncio.get_running_loop()
        began = loop.time()
        ahead = [0.0]
        deadline = Deadline(began + 3600, "06:00", gate, ends=8600.0, now=lambda: 5000 + loop.time() - began + ahead[0])
        deadline.took(30.0)
        with deadline.watch():
            loop.call_later(100, lambda: ahead.append(ahead.pop() + slept))
            await asyncio.sleep(101)
            deadline.check(loop.time())
            late = gate.closed
            with pytest.raises(Halted):
                await gate.sleep(1e6)
        return gate.reason, loop.time() - began, late

    (reason, after, late) = virtual.run(wait(0.0))
    assert (reason is not None and reason.reason, round(after), late) == ("deadline", 3600, False)
    assert virtual.run(wait(3480.0))[2], "a request takes 30 s, and 20 are left"
    (_, after, late) = virtual.run(wait(3440.0))
    assert (round(after), late) == (180, False), "looked at each minute"
    (_, after, late) = virtual.run(wait(-7200.0))
    assert (round(after), late) == (3600, False), "a clock that was set back makes no night longer"
