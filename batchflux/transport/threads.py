"""Heavy work beside the event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_Works = SimpleQueue[tuple[Future[Any], "Callable[[], Any]"] | None]


class Unawaited(Executor):
    """Threads, `most` at once, whose end nobody waits for, the program at its own end neither: a server may be silent.

    What they do has to be of the kind that may be cut off anywhere.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._threads = 0
        self._works = _Works()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have it done by a thread; called by one thread alone."""
        future = Future[T]()
        self._works.put((future, partial(fn, *args, **kwargs)))
        if self._threads < self._most:
            self._threads += 1
            Thread(target=_work, args=(self._works,), name=f"{self._name}-{self._threads}", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  as Executor
        """Let the threads end, each once it has done what it does, and drop the rest; what comes later has new ones."""
        while not self._works.empty():
            if (left := self._works.get()) is not None:
                left[0].cancel()
        for _ in range(self._threads):
            self._works.put(None)
        self._threads, self._works = 0, _Works()


def _work(works: _Works) -> None:
    while (taken := works.get()) is not None:
        future, work = taken
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001  whoever waits for it is to have it
                future.set_exception(error)
        del taken, future, work  # they hold megabytes


async def in_thread(work: Callable[[], T], threads: Executor | None = None) -> T:
    """Return what `work` returns, done in one of the `threads`, without them in the loop's own.

    As asyncio.to_thread, whose result lives on until the next collection of cycles: the futures of threads and of loops
    hold each other, and would hold megabytes.
    """
    results: list[T] = []

    def keep() -> None:
        results.append(work())

    await asyncio.get_running_loop().run_in_executor(threads, keep)
    return results.pop()
