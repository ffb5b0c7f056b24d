"""How long a call may take by what calls take: nothing paid is given up without proof, and a hang ends sooner."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING

import pytest

from batchflux.errors import Code, JobError
from batchflux.transport import CallTimes
from batchflux.transport.call_times import ENOUGH, GENEROUS, WITNESSES

if TYPE_CHECKING:
    from collections.abc import Callable


class Run:
    """A run of calls on a clock of its own, given up when they are due; each takes what `lasts` says of its start."""

    def __init__(self, times: CallTimes, lasts: Callable[[int, float], float], model: str = "m") -> None:
        self.times, self.lasts, self.model = times, lasts, model
        self.given_up: dict[int, float] = {}
        self.shown: list[str] = []
        self._next = 0

    async def call(self) -> None:
        number, clock = self._next, asyncio.get_running_loop().time
        self._next += 1
        began = clock()
        with contextlib.suppress(JobError), self.times.watch(f"{self.model}{number}", self.model):
            ends = began + self.lasts(number, began)
            while clock() < ends:
                due = self.times.due(began)
                if clock() >= due:
                    self.given_up[number] = clock() - began
                    raise JobError(Code.UNKNOWN, "given up")
                await asyncio.sleep(min(ends, due) - clock())

    async def work(self, calls: int) -> None:
        while self._next < calls:
            await self.call()

    async def go(self, calls: int, at_once: int = 8) -> dict[int, float]:
        await asyncio.gather(*(self.work(calls) for _ in range(at_once)))
        return self.given_up


def usual(number: int, _began: float) -> float:
    return random.Random(number).uniform(8.0, 12.0)


def hangs(*which: int) -> Callable[[int, float], float]:
    return lambda number, began: 1e6 if number in which else usual(number, began)


@pytest.fixture
def go(virtual: asyncio.Runner) -> Callable[..., dict[int, float]]:
    async def run(
        lasts: Callable[[int, float], float], calls: int, floor: float | None, longest: float
    ) -> dict[int, float]:
        return await Run(CallTimes(longest, floor), lasts).go(calls)

    return lambda lasts, calls=400, floor=60.0, longest=360.0: virtual.run(run(lasts, calls, floor, longest))


def test_a_call_that_hangs_while_others_are_answered_ends_sooner_and_never_under_the_floor(
    go: Callable[..., dict[int, float]],
) -> None:
    given_up = go(hangs(200))
    assert given_up == {200: pytest.approx(60.0)}
    given_up = go(hangs(200), floor=5.0)
    assert given_up == {200: pytest.approx(GENEROUS * 12.0, rel=0.05)}
    assert go(hangs(200), floor=500.0, longest=500.0) == {200: pytest.approx(500.0)}


def test_a_fixed_time_and_too_few_calls_keep_the_longest(go: Callable[..., dict[int, float]]) -> None:
    assert go(hangs(200), floor=None) == {200: pytest.approx(360.0)}
    assert go(hangs(50), calls=ENOUGH - 20) == {50: pytest.approx(360.0)}


def test_a_provider_that_is_slow_or_stands_still_is_waited_for(go: Callable[..., dict[int, float]]) -> None:
    def stands_still(number: int, began: float) -> float:
        """For 300 s nothing is answered."""
        ends = began + usual(number, began)
        return max(ends, 800.0) - began if ends > 500.0 else ends - began

    assert go(stands_still, calls=2000) == {}

    def slower(number: int, began: float) -> float:
        return usual(number, began) * (1.0 if began < 500.0 else 7.0)

    assert go(slower, calls=800) == {}


def test_calls_of_a_model_that_is_slow_are_not_measured_by_another(virtual: asyncio.Runner) -> None:
    async def both() -> dict[int, float]:
        times = CallTimes(360.0, 60.0)
        slow = Run(times, lambda number, began: 250.0, model="slow")  # noqa: ARG005
        await asyncio.gather(Run(times, usual).go(400), slow.go(4, at_once=1))
        return slow.given_up

    assert virtual.run(both()) == {}


def test_a_bound_that_is_too_low_gives_way(go: Callable[..., dict[int, float]]) -> None:
    """Three in a hundred take ten times as long, from some time on."""
    given_up = go(lambda number, began: usual(number, began) * (10 if number > 300 and number % 33 == 0 else 1), 2000)
    assert len(given_up) <= 3


def test_the_slow_ones_are_told_by_name(virtual: asyncio.Runner) -> None:
    async def scene() -> None:
        times = CallTimes(360.0)
        run = Run(times, hangs(150, 151))
        going = asyncio.create_task(run.go(200))
        await asyncio.sleep(10.0)
        assert times.slow() == ([], 0.0)
        await asyncio.sleep(250.0)
        (first, second), most = times.slow()
        assert {first[0], second[0]} == {"m150", "m151"}
        assert first[1] >= second[1] > most == pytest.approx(12.0, rel=0.1)
        going.cancel()

    virtual.run(scene())
    assert WITNESSES < ENOUGH
