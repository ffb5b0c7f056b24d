"""Waiting for what nobody tells of: a file, a counter of another thread, what a process does."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BOUND = 90.0  # seconds; for what hangs alone


def wait_until(holds: Callable[[], object], pause: float = 0.005, seen: Callable[[], object] = lambda: "") -> None:
    """Wait until something holds; `seen` says what there is instead, where it does not come to hold."""
    end = time.monotonic() + BOUND
    while not holds():
        assert time.monotonic() < end, f"waited in vain {seen()}"
        time.sleep(pause)


async def until(holds: Callable[[], object], pause: float = 0.002) -> None:
    """Wait until something holds while the loop goes on; with a `pause` of 0 also where its time stands still."""
    async with asyncio.timeout(BOUND):
        while not holds():  # noqa: ASYNC110  it tells nobody
            await asyncio.sleep(pause)
