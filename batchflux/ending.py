"""How a run ends: early by a signal, and in which words and with which exit code."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

from batchflux.errors import StopRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchflux.engine.shutdown import Gate
    from batchflux.ledger.summary import State

SIGNAL_EXIT = 128
NO_REDO = "No redo is waiting: batchflux review asks for them, picture by picture."
CUT_OFF = "Stopped at once by a second signal: what was under way may have been billed; run again to continue."


def stranded(waiting: int) -> str:
    """Say that so many redos wait for jobs that the manifest does not list as they were."""
    what = "1 redo waits for a job that the manifest no longer lists as it was"
    if waiting != 1:
        what = f"{waiting:,} redos wait for jobs that the manifest no longer lists as they were"
    return f"{what}; undo the edit or judge anew."


class Signals:
    """SIGINT and SIGTERM: the first drains the run, the second ends it at once. `event` is told of both."""

    def __init__(self, gate: Gate, event: Callable[..., None]) -> None:
        self.number: signal.Signals | None = None
        self.cut_off = False
        self._gate = gate
        self._event = event

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle them while this is entered; a run that was cut off leaves it as if it had ended."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def stop(number: signal.Signals) -> None:
            if self.number is None:
                self.number = number
                self._event("signal", signal=number.name)
                self._gate.close(
                    StopRun("signal", f"Stopped by {number.name}: what was under way is kept; run again to continue.")
                )
            elif task is not None:
                task.cancel()

        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, stop, number)
        try:
            yield
        except asyncio.CancelledError:
            if self.number is None:
                raise
            self.cut_off = True
            self._event("cut_off", message="a second signal ended the run at once")
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


@contextlib.contextmanager
def on_hangup(action: Callable[[], None]) -> Iterator[None]:
    """Call `action` on SIGHUP while this is entered."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, action)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def nothing_to_redo(waiting: int) -> tuple[str, str, int]:
    """Return reason, message and exit code of a run that was to make redos and had none to make."""
    return "finished", stranded(waiting) if waiting else NO_REDO, 0


def verdict(state: State, gate: Gate, signals: Signals, left: int) -> tuple[str, str, int]:
    """Return reason, message and exit code; `left` counts the jobs that were to be done and have not ended."""
    if signals.number is not None and gate.reason is not None:
        message = CUT_OFF if signals.cut_off else str(gate.reason)
        return "signal", message, SIGNAL_EXIT + signals.number
    if gate.reason is not None and left > 0:
        return gate.reason.reason, str(gate.reason), gate.reason.exit_code
    text = f"{state.done} of {state.total} jobs done"
    if state.failed + state.unknown:
        if state.failed:
            text += f", {state.failed} failed (--retry-failed tries them again)"
        if state.unknown:
            text += f", {state.unknown} unknown, sent and never answered (--on-unknown retry sends them again)"
        return "finished", f"{text}.", 1
    if state.pending:
        return "finished", f"{text}; the others were not selected.", 0
    return "finished", "The job is done." if state.total == 1 else f"All {state.total} jobs are done.", 0
