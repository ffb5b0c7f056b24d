"""How a run ends: what closes the gate before its end, and in which words and with which exit code it ends.

Everything that would start an attempt asks the gate first. Closing it ends every wait for a slot, for money or for a
retry at once (they raise Halted, and the job stays pending); what is already out at the provider finishes and is kept.
The deadline closes it, and the first SIGINT or SIGTERM; the second ends the run at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from batchflux.errors import StopRun

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from batchflux.ledger.summary import State

SIGNAL, STORAGE, BUDGET, DEADLINE, CANARY = "signal", "storage", "budget", "deadline", "canary"
SIGNAL_EXIT = 128
NO_REDO = "No redo is waiting: batchflux review asks for them, picture by picture."
CUT_OFF = "Stopped at once by a second signal: what was under way may have been billed; run again to continue."
REMEMBERED = 256
_HANDLERS: dict[signal.Signals, Callable[[signal.Signals], None]] = {}  # those of the process
QUANTILE = 0.95
LOOKS = 60.0  # seconds between looks at the machine's clock


class Halted(Exception):  # noqa: N818  not an error: the job goes back to pending
    """The run is stopping; this job's next step belongs to the next run."""


class Gate:
    """Open while the run may start attempts; `reason` says why it closed.

    What is out at the provider goes on behind a closed gate, but for tasks after a signal or on a full disk: those are
    left to the next run, which finds them by their handle. `resumes` tells whether tasks that an earlier run left are
    still taken up: they cost nothing more, so neither a budget that is used up nor a deadline keeps them back. That of
    one provider closes with the gate of its `run`, too.
    """

    def __init__(self, run: Gate | None = None) -> None:
        self.reason: StopRun | None = None
        self.resumes = True
        self._closed = asyncio.Event()
        self._abandoned = asyncio.Event()
        self._listeners: list[Callable[[], object]] = []
        if run is not None:
            run.on_close(lambda: self._follow(run))

    @property
    def closed(self) -> bool:
        """Whether no attempt may start any more."""
        return self.reason is not None

    def close(self, reason: StopRun, *, resumes: bool = True) -> None:
        """Close it; the first reason stands, but what ends the polls of tasks does so also when it comes later.

        Tasks of earlier runs are taken up no more when the reason says so, or not `resumes`.
        """
        if reason.reason in (SIGNAL, STORAGE):
            self._abandoned.set()
        resumes = resumes and self.resumes and reason.reason in (BUDGET, DEADLINE, CANARY)
        news = not self.closed or resumes != self.resumes
        self.resumes = resumes
        self.reason = self.reason or reason
        self._closed.set()
        for listener in self._listeners if news else ():
            listener()

    def _follow(self, run: Gate) -> None:
        if run.reason is not None:
            self.close(run.reason, resumes=run.resumes)

    def on_close(self, listener: Callable[[], object]) -> None:
        """Call `listener` when the gate closes, and when `resumes` ends after that."""
        self._listeners.append(listener)

    def check(self) -> None:
        """Raise Halted when the gate is closed."""
        if self.closed:
            raise Halted

    async def sleep(self, seconds: float) -> None:
        """Wait; raise Halted when the gate is closed, or closes meanwhile."""
        await _sleep_unless(self._closed, seconds)

    async def sleep_polling(self, seconds: float, called: asyncio.Event | None = None) -> bool:
        """Wait for the next poll of a task, or until `called`; return whether it was, and clear it.

        Raises Halted when tasks are left to the next run (signal, full disk).
        """
        if called is None:
            await _sleep_unless(self._abandoned, seconds)
            return False
        waits = [asyncio.ensure_future(event.wait()) for event in (called, self._abandoned)]
        try:
            await asyncio.wait(waits, timeout=max(seconds, 0.0), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._abandoned.is_set():
            raise Halted
        was = called.is_set()
        called.clear()
        return was


async def _sleep_unless(event: asyncio.Event, seconds: float) -> None:
    if not event.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), max(seconds, 0.0))
    if event.is_set():
        raise Halted


class Deadline:
    """Stops attempts that would, by the run's own latencies, end after `at` (seconds of the loop's clock).

    That clock stands still while the machine sleeps, and goes on evenly when its time is set. So a deadline that is a
    time of day, epoch second `ends`, is over when `now` says so, too.
    """

    def __init__(
        self,
        at: float | None,
        label: str,
        gate: Gate,
        *,
        ends: float | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._at = at
        self._label = label
        self._gate = gate
        self._ends = ends
        self._now = now
        self._watched = False
        self._timer: asyncio.TimerHandle | None = None
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)

    def took(self, seconds: float) -> None:
        """Learn from one attempt, from its start to its picture in place."""
        self._seconds.append(seconds)

    def check(self, now: float) -> None:
        """Close the gate when an attempt that starts now, by the loop's clock, would probably end too late."""
        if self._at is not None and self._left(now) < self.expected():
            self._close()

    def _left(self, now: float) -> float:
        left = (math.inf if self._at is None else self._at) - now
        return left if self._ends is None else min(left, self._ends - self._now())

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Close the gate at the deadline itself, so that no wait outlasts it."""
        self._watched = True
        self._set_timer()
        try:
            yield
        finally:
            self._watched = False
            self._set_timer()

    def retune(self, at: float | None, label: str, ends: float | None = None) -> None:
        """Let another deadline hold from now on."""
        self._at, self._label, self._ends = at, label, ends
        self._set_timer()

    def expected(self) -> float:
        """Return the 95th percentile of what the last attempts took, in seconds; 0 before the first."""
        ordered = sorted(self._seconds)
        return ordered[int(len(ordered) * QUANTILE)] if ordered else 0.0

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._watched and self._at is not None:
            self._wait(self._at)

    def _wait(self, at: float) -> None:
        """Look at the time at `at`, and each minute before where the machine's clock is one that ends the run."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(at if self._ends is None else min(at, loop.time() + LOOKS), self._look, at)

    def _look(self, at: float) -> None:
        if self._left(asyncio.get_running_loop().time()) <= 0:
            self._close()
        else:
            self._wait(at)

    def _close(self) -> None:
        message = f"The deadline ({self._label}) leaves no time for another request: run again to continue."
        self._gate.close(StopRun(DEADLINE, message))


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
        task = asyncio.current_task()

        def stop(number: signal.Signals) -> None:
            if self.number is None:
                self.number = number
                self._event("signal", signal=number.name)
                message = f"Stopped by {number.name}: what was under way is kept; run again to continue."
                self._gate.close(StopRun(SIGNAL, message))
            elif task is not None:
                task.cancel()

        try:
            with _handling(signal.SIGINT, stop), _handling(signal.SIGTERM, stop):
                yield
        except asyncio.CancelledError:
            if self.number is None:
                raise
            self.cut_off = True
            self._event("cut_off", message="a second signal ended the run at once")


@contextlib.contextmanager
def _handling(number: signal.Signals, action: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Handle a signal while this is entered; then as around this, and by what the system does where nobody did."""
    loop = asyncio.get_running_loop()
    around = _HANDLERS.get(number)
    _HANDLERS[number] = action
    loop.add_signal_handler(number, action, number)
    try:
        yield
    finally:
        if around is None:
            del _HANDLERS[number]
            loop.remove_signal_handler(number)
        else:
            _HANDLERS[number] = around
            loop.add_signal_handler(number, around, number)


@contextlib.contextmanager
def closing(hurry: Callable[[], object]) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM only `hurry` what is done within, once a run has ended, for how it ended stands.

    The second does what the system does.
    """
    came = False

    def stop(number: signal.Signals) -> None:
        nonlocal came
        if came:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        came = True
        hurry()

    with _handling(signal.SIGINT, stop), _handling(signal.SIGTERM, stop):
        yield


@contextlib.contextmanager
def on_hangup(action: Callable[[], Coroutine[Any, Any, None]]) -> Iterator[None]:
    """Begin `action` on SIGHUP while this is entered; what of it is under way at the end is cancelled."""
    under_way: set[asyncio.Task[None]] = set()

    def begin(_: signal.Signals) -> None:
        task = asyncio.ensure_future(action())
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    try:
        with _handling(signal.SIGHUP, begin):
            yield
    finally:
        for task in under_way:
            task.cancel()


@contextlib.contextmanager
def on_signals(action: Callable[[], None]) -> Iterator[None]:
    """Call `action` on SIGINT and SIGTERM while this is entered."""
    with _handling(signal.SIGINT, lambda _: action()), _handling(signal.SIGTERM, lambda _: action()):
        yield


def stranded(waiting: int) -> str:
    """Say that so many redos wait for jobs that the manifest does not list as they were."""
    what = "1 redo waits for a job that the manifest no longer lists as it was"
    if waiting != 1:
        what = f"{waiting:,} redos wait for jobs that the manifest no longer lists as they were"
    return f"{what}; undo the edit or judge anew."


class Ending(NamedTuple):
    """How a run ends; `to_raise` is the limit that must be raised, as a StopRun has it."""

    reason: str
    message: str
    exit_code: int
    to_raise: str | None = None


def nothing_to_redo(waiting: int) -> Ending:
    """Return how a run ends that was to make redos and had none to make."""
    return Ending("finished", stranded(waiting) if waiting else NO_REDO, 0)


def verdict(state: State, gate: Gate, signals: Signals, left: int) -> Ending:
    """Return how a run ends; `left` counts the jobs that were to be done and have not ended."""
    if signals.number is not None and gate.reason is not None:
        code = SIGNAL_EXIT + signals.number
        if signals.cut_off:
            return Ending(SIGNAL, CUT_OFF, code)
        return Ending(SIGNAL, str(gate.reason), code, gate.reason.to_raise)
    if gate.reason is not None and left > 0:
        return Ending(gate.reason.reason, str(gate.reason), gate.reason.exit_code, gate.reason.to_raise)
    text = f"{state.done} of {state.total} jobs done"
    if state.failed + state.unknown:
        if state.failed:
            text += f", {state.failed} failed (--retry-failed tries them again)"
        if state.unknown:
            again = "the next run asks an API that can tell; else --on-unknown retry sends them again"
            text += f", {state.unknown} unknown, sent and never answered ({again})"
        return Ending("finished", f"{text}.", 1)
    if state.pending:
        return Ending("finished", f"{text}; the others were not selected.", 0)
    return Ending("finished", "The job is done." if state.total == 1 else f"All {state.total} jobs are done.", 0)
