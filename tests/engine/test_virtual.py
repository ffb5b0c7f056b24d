"""The virtual clock itself: it jumps, it never sleeps, and a program that would hang is told so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from batchflux.night.virtual import DeadlockError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.engine.conftest import Night


def test_a_night_passes_at_once(virtual: asyncio.Runner) -> None:
    async def sleeper() -> float:
        await asyncio.gather(*(asyncio.sleep(hours * 3600) for hours in range(9)))
        return asyncio.get_running_loop().time()

    assert virtual.run(sleeper()) == pytest.approx(8 * 3600)


def test_a_program_that_would_hang_fails_with_the_time_it_hangs_at(virtual: asyncio.Runner) -> None:
    async def hangs() -> None:
        await asyncio.sleep(5)
        await asyncio.get_running_loop().create_future()

    with pytest.raises(DeadlockError, match=r"at 5\.000 s nothing is ready and no timer is set"):
        virtual.run(hangs())


def test_a_run_that_waits_for_a_silent_server_is_a_deadlock(night: Callable[[int], Night]) -> None:
    scene = night(1)
    scene.server.api = {"j0": [scene.silence()]}
    with pytest.raises(DeadlockError, match="it would hang here"):
        scene.run()


def test_timers_can_be_late(night: Callable[[int], Night]) -> None:
    assert night(3).run(lag=lambda: 0.5).seconds > night(3).run().seconds


def test_a_second_run_of_a_folder_finds_everything_done(night: Callable[[int], Night]) -> None:
    scene = night(3)
    assert scene.run().tally.done == 3
    assert scene.run().seconds == 0
    assert len(scene.server.calls) == 3
