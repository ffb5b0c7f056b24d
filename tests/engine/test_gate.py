"""The gate ends waits at once, and the first reason stands."""

from __future__ import annotations

import asyncio

import pytest

from batchflux.engine.shutdown import Gate, Halted
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
