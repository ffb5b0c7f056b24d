"""Heavy work beside the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

T = TypeVar("T")


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
