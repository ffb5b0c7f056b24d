"""A review beside a run, in one process: a thread with a loop and connections of its own.

Nothing of it reaches the run: what fails here is one sentence for the person, and the run goes on. It looks at the
folder as another process would, through the ledger.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from batchflux.errors import UsageError
from batchflux.review.site import serve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_REST = 1.0  # half of the time the interpreter is the run's alone, however large a page is being built


class Beside:
    """Serves the review of `folder` on loopback from `start` until `stop`; `tell` takes sentences for the person."""

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._tell = tell
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batchflux-watch", daemon=True)

    def start(self) -> None:
        """Begin, and tell the address; returns once it is served, or cannot be."""
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Tell the pages how the run ended, and end."""
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        try:
            site = await serve(self._folder, "127.0.0.1", 0, self._tell, rest=_REST)
        except (UsageError, OSError) as error:
            self._tell(f"The run goes on without a page to watch it: {error}")
            self._ready.set()
            await self._ending.wait()
            return
        self._tell(f"Watch and judge the pictures at {site.url}")
        self._ready.set()
        await self._ending.wait()
        await site.stop()
