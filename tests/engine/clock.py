"""A clock that jumps: an event loop on which a night passes in a second."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class DeadlockError(AssertionError):
    """Nothing is ready and no timer is set: the program would wait for ever."""


class _Skipper(selectors.DefaultSelector):
    """Never waits: the time that the loop wants to wait is what its clock jumps by."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.lag: Callable[[], float] = float

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Look at real files, such as the loop's own pipe, only when no timer is set: a system call a turn adds up."""
        if timeout is None:
            ready = super().select(0)
            if not ready:
                raise DeadlockError(f"at {self.now:.3f} s nothing is ready and no timer is set: it would hang here")
            return ready
        if timeout > 0:
            self.now += timeout + self.lag()
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when nothing is ready.

    Args:
        lag: returns how late, in seconds, the next timer fires; never late by default.
        kill_after: stop dead after so many turns, as SIGKILL does.
    """

    def __init__(self, lag: Callable[[], float] = float, kill_after: int | None = None) -> None:
        self._skipper = _Skipper()
        self._skipper.lag = lag
        self._turns_left = kill_after
        super().__init__(self._skipper)

    def time(self) -> float:
        return self._skipper.now

    def _run_once(self) -> None:
        if self._turns_left is not None:
            self._turns_left -= 1
            if self._turns_left < 0:
                self._turns_left = None
                self.stop()
        super()._run_once()  # type: ignore[misc]  # not in the stubs: it is asyncio's one turn

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Do the work at once: on virtual time, a thread takes none."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  it belongs to whoever awaits
            future.set_exception(error)
        return future
