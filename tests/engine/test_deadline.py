"""The deadline by the run's own latencies."""

from __future__ import annotations

import asyncio

import pytest

from batchflux.engine.shutdown import Deadline, Gate


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


def test_what_is_over_is_watched_no_longer(virtual: asyncio.Runner) -> None:
    async def wait() -> bool:
        gate = Gate()
        with Deadline(50.0, "06:00", gate).watch():
            await asyncio.sleep(1)
        await asyncio.sleep(100)
        return gate.closed

    assert virtual.run(wait()) is False
