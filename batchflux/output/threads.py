"""A few threads for work that would hold the event loop: verifying, hashing, writing and syncing pictures.

Leaner than concurrent.futures: results go back to the loop in batches, with one wake-up for all that ended meanwhile,
where an executor makes a second future and wakes the loop for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_Done = tuple[asyncio.Future[Any], Any, BaseException | None]


class Threads:
    """`count` daemon threads that serve the loop of their callers."""

    def __init__(self, count: int, name: str) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._done: deque[_Done] = deque()
        self._lock = threading.Lock()
        self._woken = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True) for number in range(count)
        ]

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Do `work` in a thread; the future has what it returns or raises."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            for thread in self._threads:
                thread.start()
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((work, future))
        return future

    def close(self) -> None:
        """Wait for what is under way."""
        if self._loop is None:
            return
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (item := self._queue.get()) is not None:
            work, future = item
            result, failure = None, None
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001  raised again where it is awaited
                failure = error
            with self._lock:
                self._done.append((future, result, failure))
                wake, self._woken = not self._woken, True
            if wake and self._loop is not None:
                # The loop is gone when a second signal has ended the run; nobody waits for the result then.
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            done, self._done = self._done, deque()
            self._woken = False
        for future, result, failure in done:
            if future.done():
                continue
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)
