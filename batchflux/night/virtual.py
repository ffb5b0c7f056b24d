"""A clock that jumps: an event loop on which a night passes in a second."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class DeadlockError(RuntimeError):
    """Nothing is ready and no timer is set: the program would wait for ever."""


class _Skipper(selectors.DefaultSelector):
    """Never waits: the time that the loop wants to wait is what its clock jumps by."""

    def __init__(self, lag: Callable[[], float]) -> None:
        super().__init__()
        self.now = 0.0
        self._lag = lag

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Look at real files, such as the loop's own pipe, only when no timer is set: a system call a turn adds up."""
        if timeout is None:
            ready = super().select(0)
            if not ready:
                raise DeadlockError(f"at {self.now:.3f} s nothing is ready and no timer is set: it would hang here")
            return ready
        if timeout > 0:
            self.now += timeout + self._lag()
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock, in seconds from 0, jumps to the next timer when nothing is ready.

    `lag` returns how late, in seconds, the next timer fires; never late by default.
    """

    def __init__(self, lag: Callable[[], float] = float) -> None:
        self._skipper = _Skipper(lag)
        super().__init__(self._skipper)

    def time(self) -> float:
        """Return the seconds that have passed on this clock."""
        return self._skipper.now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Do the work at once: on virtual time, a thread takes none."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  it belongs to whoever awaits
            future.set_exception(error)
        return future
