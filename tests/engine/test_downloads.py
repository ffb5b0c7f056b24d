"""Slots for downloads: slow links hold nothing up, and a slow line is not shared by more than can be here in time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from batchflux.transport import DownloadSlots
from batchflux.transport.slots import HELD, LEAST_HELD

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.engine.conftest import Night

TICK = 0.5  # seconds


class Line:
    """Our line: `speed` bytes a second for all who are on it, of which a server sends each at most `each`."""

    def __init__(self, slots: DownloadSlots, *, speed: float, each: float, size: int) -> None:
        self.slots, self.size = slots, size
        self._speed, self._each = speed, each
        self.took: list[float] = []
        self.most = self._on = 0

    async def fetch(self) -> None:
        clock = asyncio.get_running_loop().time
        async with self.slots:
            began, left = clock(), float(self.size)
            self._on += 1
            self.most = max(self.most, self._on)
            self.slots.sized(self.size)
            while left > 0:
                await asyncio.sleep(TICK)
                came = min(self._each, self._speed / self._on, left / TICK) * TICK
                left -= came
                self.slots.came(int(came))
            self._on -= 1
            self.slots.ended(turned_away=False)
            self.took.append(clock() - began)

    async def fetch_all(self, count: int) -> float:
        await asyncio.gather(*(self.fetch() for _ in range(count)))
        return asyncio.get_running_loop().time()


def test_links_that_are_slow_at_their_servers_end_are_fetched_all_at_once(virtual: asyncio.Runner) -> None:
    line = Line(DownloadSlots(56, 1000), speed=1e9, each=1e5, size=10**6)
    assert virtual.run(line.fetch_all(300)) < 20.0


def test_a_slow_line_is_not_shared_by_more_than_can_be_here_in_time(virtual: asyncio.Runner) -> None:
    line = Line(DownloadSlots(8, 1000), speed=1e6, each=1e9, size=2 * 10**6)
    assert virtual.run(line.fetch_all(150)) < 1.01 * 300 + 5
    assert max(line.took) < 120.0


def test_downloads_never_exceed_the_most(virtual: asyncio.Runner) -> None:
    line = Line(DownloadSlots(8, 50), speed=1e9, each=1e5, size=10**6)
    virtual.run(line.fetch_all(200))
    assert line.most == 50


@pytest.mark.parametrize("by_chance", [False, True])
def test_a_host_that_turns_away_gets_fewer_and_chance_holds_nothing_back(
    *, by_chance: bool, virtual: asyncio.Runner
) -> None:
    """It takes 40 connections, or any number and fails one link in ten; both for all that there are to fetch."""
    slots = DownloadSlots(8, 200)
    seen: list[int] = []

    async def fetch(number: int) -> None:
        turned_away = True
        while turned_away:
            async with slots:
                seen.append(slots.in_use)
                turned_away = slots.in_use > 40 and not by_chance
                await asyncio.sleep(0.1 if turned_away else 10.0)
                slots.ended(turned_away=turned_away or (by_chance and number % 10 == 0))
            await asyncio.sleep(1.0 if turned_away else 0.0)

    async def all_of_them() -> None:
        await asyncio.gather(*(fetch(number) for number in range(2000)))

    virtual.run(all_of_them())
    late = seen[1000:]
    assert max(late) > 190 if by_chance else max(late) < 60


def test_who_waits_no_more_holds_no_slot(virtual: asyncio.Runner) -> None:
    slots = DownloadSlots(1, 1)

    async def held(seconds: float) -> None:
        async with slots:
            await asyncio.sleep(seconds)

    async def scene() -> None:
        tasks = [asyncio.create_task(held(10.0)) for _ in range(3)]
        await asyncio.sleep(1.0)
        tasks[1].cancel()
        tasks[0].cancel()
        await asyncio.wait(tasks)
        assert slots.in_use == 0
        await held(0.0)

    virtual.run(scene())
    assert slots.in_use == 0


def test_what_downloads_hold_in_memory_together_is_bounded() -> None:
    slots = DownloadSlots(8, 2000)
    for slots.in_use in (0, 1, 56, 2000):
        assert slots.share == max(HELD // max(slots.in_use, 1), LEAST_HELD)


def test_slow_links_do_not_bound_a_run(night: Callable[[int], Night]) -> None:
    scene = night(600)
    scene.server.api = lambda name, number: scene.picture(1.5)  # noqa: ARG005
    scene.server.files = lambda name, number: scene.picture(10.0)  # noqa: ARG005
    ended = scene.run(concurrency=24, rate=(10_000, 1.0))
    assert ended.tally.done == 600
    assert ended.seconds < 1.1 * (600 / 24 * 1.5 + 10.0)
