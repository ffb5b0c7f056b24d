"""The virtual clock of rehearsals, with an end that comes as SIGKILL does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.night import virtual

if TYPE_CHECKING:
    from collections.abc import Callable


class VirtualLoop(virtual.VirtualLoop):
    """An event loop whose clock jumps to the next timer when nothing is ready.

    Args:
        lag: returns how late, in seconds, the next timer fires; never late by default.
        kill_after: stop dead after so many turns, as SIGKILL does.
    """

    def __init__(self, lag: Callable[[], float] = float, kill_after: int | None = None) -> None:
        self._turns_left = kill_after
        super().__init__(lag)

    def _run_once(self) -> None:
        if self._turns_left is not None:
            self._turns_left -= 1
            if self._turns_left < 0:
                self._turns_left = None
                self.stop()
        super()._run_once()  # type: ignore[misc]  # not in the stubs: it is asyncio's one turn
