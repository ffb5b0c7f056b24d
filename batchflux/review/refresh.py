"""Keeps results.csv up to the verdicts, in the background: one rewrite at a time, and rest between them.

A verdict does not wait for it. While a run holds the folder nothing is written (the run's end does it); so as not to
miss a run that was killed, it is tried again from time to time until the file is fresh.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

from batchflux.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Protocol

    from batchflux.review.store import Store

    T = TypeVar("T")

    class Do(Protocol):
        """Does work in the store's thread."""

        def __call__(self, work: Callable[[], T]) -> Awaitable[T]: ...  # noqa: D102  see the class


_REST = 4  # times as long as the last rewrite took
_HELD = 2.0  # seconds until a folder that a run holds is looked at again


class Refresh:
    """Rewrites results.csv when it is wanted; `tell` is told when that does not work."""

    def __init__(self, store: Store, do: Do, tell: Callable[[str], None]) -> None:
        self._store = store
        self._do = do
        self._tell = tell
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def wanted(self) -> None:
        """Take notice that there is a verdict which the file does not show."""
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """End, with one last try if a verdict is not shown yet."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._once()

    async def _work(self) -> None:
        while self._again:
            self._again = False
            began = time.monotonic()
            outcome = await self._once()
            rest = _REST * (time.monotonic() - began)
            if outcome in {"held", "overtaken"}:
                self._again = True
                rest = max(rest, _HELD if outcome == "held" else 0.0)
            await asyncio.sleep(rest)

    async def _once(self) -> str:
        try:
            return await self._do(self._store.show_verdicts)
        except StorageError as error:
            self._tell(f"{error} The verdicts are kept; results.csv shows them after the next run.")
            return "failed"
