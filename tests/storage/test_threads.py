"""Work in threads: it comes back to its own caller, fails for its own caller, and is waited for at the end."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from batchflux.output.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT = 3


@pytest.fixture
def threads() -> Iterator[Threads]:
    """Threads, closed at the end."""
    made = Threads(COUNT, "worker")
    yield made
    made.close()


async def test_each_caller_has_what_its_own_work_gave(threads: Threads) -> None:
    def work(number: int) -> tuple[int, str]:
        if number % 3 == 0:
            raise KeyError(number)
        return number, threading.current_thread().name

    futures = [threads.run(partial(work, number)) for number in range(50)]
    ended = await asyncio.gather(*futures, return_exceptions=True)
    for number, result in enumerate(ended):
        if number % 3 == 0:
            assert isinstance(result, KeyError)
            assert result.args == (number,)
        else:
            assert isinstance(result, tuple)
            assert result[0] == number
            assert result[1].startswith("worker-")


async def test_work_is_done_side_by_side(threads: Threads) -> None:
    together = threading.Barrier(COUNT)
    await asyncio.gather(*(threads.run(lambda: together.wait(30)) for _ in range(COUNT)))
    assert not together.broken


async def test_a_fault_that_is_no_exception_is_raised_where_it_is_awaited(threads: Threads) -> None:
    class Stop(BaseException):
        pass

    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        await threads.run(stop)
    assert await threads.run(lambda: 5) == 5, "the thread goes on"


async def test_a_caller_that_is_gone_takes_no_one_with_it(threads: Threads) -> None:
    go_on = threading.Event()
    leaves, stays = threads.run(lambda: go_on.wait(30)), threads.run(lambda: go_on.wait(30))
    leaves.cancel()
    go_on.set()
    assert await stays is True
    assert leaves.cancelled()


def test_closing_waits_for_what_is_under_way_although_the_loop_is_gone() -> None:
    threads = Threads(1, "worker")
    go_on, done = threading.Event(), list[int]()

    def work() -> None:
        go_on.wait(30)
        done.append(1)

    async def hurried() -> None:
        threads.run(work)
        threads.run(work)

    asyncio.run(hurried())
    assert done == []
    go_on.set()
    threads.close()
    assert done == [1, 1]
