"""How a run ends before its end: everything that would start an attempt asks the gate first.

Closing the gate ends every wait for a slot, for money or for a retry at once (they raise Halted, and the job stays
pending); what is already out at the provider finishes and is kept.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.errors import StopRun


class Halted(Exception):  # noqa: N818  not an error: the job goes back to pending
    """The run is stopping; this job's next step belongs to the next run."""


class Gate:
    """Open while the run may start attempts; `reason` says why it closed."""

    def __init__(self) -> None:
        self.reason: StopRun | None = None
        self._closed = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    @property
    def closed(self) -> bool:
        """Whether no attempt may start any more."""
        return self.reason is not None

    def close(self, reason: StopRun) -> None:
        """Close it; the first reason stands."""
        if self.reason is None:
            self.reason = reason
            self._closed.set()
            for listener in self._listeners:
                listener()

    def on_close(self, listener: Callable[[], None]) -> None:
        """Call `listener` when the gate closes."""
        self._listeners.append(listener)

    def check(self) -> None:
        """Raise Halted when the gate is closed."""
        if self.reason is not None:
            raise Halted

    async def sleep(self, seconds: float) -> None:
        """Wait, unless the gate closes.

        Raises:
            Halted: it is closed, or closed meanwhile.
        """
        self.check()
        if seconds > 0:
            try:
                await asyncio.wait_for(self._closed.wait(), seconds)
            except TimeoutError:
                return
            raise Halted
