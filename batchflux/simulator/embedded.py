"""Runs a simulator in a daemon thread with an event loop of its own, so that it does not disturb the runner's."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Self

from batchflux.simulator.server import Simulator

if TYPE_CHECKING:
    from types import TracebackType

    from batchflux.simulator.journal import Journal
    from batchflux.simulator.options import SimulatorOptions


class EmbeddedSimulator:
    """A simulator on a free loopback port, from `start` to `stop`, or for the length of a `with` block."""

    def __init__(self, options: SimulatorOptions) -> None:
        self.simulator = Simulator(options)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    @property
    def requests(self) -> Journal:
        """The counters."""
        return self.simulator.requests

    @property
    def base_url(self) -> str:
        """Where it listens."""
        return f"http://{self.simulator.host}:{self.simulator.port}"

    def start(self) -> tuple[str, int]:
        """Start the thread, wait until it listens, and return host and port.

        Raises:
            UsageError: it cannot listen, or the cache folder cannot be used.
        """
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(ready)), name="batchflux-simulator", daemon=True
        )
        self._thread.start()
        ready.result()
        return self.simulator.host, self.simulator.port

    def stop(self) -> None:
        """Close all connections and wait for the thread's end. Safe to call twice, and before `start`."""
        if self._thread is None:
            return
        if self._loop is not None and self._stopping is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def _serve(self, ready: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        try:
            await self.simulator.start()
        except BaseException as error:  # noqa: BLE001  it is raised again, in the thread that called start
            ready.set_exception(error)
            return
        ready.set_result(None)
        await self._stopping.wait()
        await self.simulator.stop()
