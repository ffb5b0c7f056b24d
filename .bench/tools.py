"""What the parts share: children that are measured, figures, tables.

The rule of measuring: CPU is the child's own `rusage` from `wait4`, user and system, start-up included; time is the
monotonic clock, which all processes of one machine share; memory is the peak of the resident set (VmHWM).
"""

from __future__ import annotations

import os
import pty
import resource
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SHM = Path("/dev/shm")  # noqa: S108  a file system in memory, not a guessable file
OUT = ROOT / "out"
KEYS = ("BENCH_KEY_1", "BENCH_KEY_2", "BENCH_KEY_3")
POLL_SECONDS = 0.05
TAIL = 2000
MIB = 1024.0  # of KiB

Row = dict[str, Any]


class BenchError(Exception):
    """The benchmark cannot go on; its text is one sentence for the person who started it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for: `quick` makes every part small, `minutes` is the length of the soak."""

    quick: bool
    minutes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One child that ended: exit code, `started` on the monotonic clock, seconds of time and CPU, peak MiB."""

    code: int
    started: float
    wall: float
    cpu: float
    peak: float


class Child:
    """A process that is measured from its start to its end; its output goes to `log`.

    Args:
        command: what to start, from the repository's root.
        log: the file that takes stdout and stderr.
        terminal: stderr is a terminal, so that a progress bar is drawn.
    """

    def __init__(self, command: Sequence[str], log: Path, *, terminal: bool = False) -> None:
        self._log = log
        self._command = command
        self._screen = _Screen() if terminal else None
        with log.open("wb") as file:
            self.started = time.monotonic()
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file if self._screen is None else self._screen.slave,
            )
        self.pid = self._process.pid
        self._peak = 0.0
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens when the process has ended."""
        self._process.send_signal(number)

    def wait(self, allowed: Iterable[int] = (0,)) -> Measured:
        """Wait for the end.

        Raises:
            BenchError: the exit code is not an `allowed` one.
        """
        _, status, usage = os.wait4(self.pid, 0)
        ended = time.monotonic()
        code = self._process.returncode = os.waitstatus_to_exitcode(status)
        self._ended.set()
        self._watcher.join()
        if self._screen is not None:
            self._screen.close()
        if code not in allowed:
            tail = self._log.read_text(errors="replace")[-TAIL:]
            raise BenchError(f"{' '.join(self._command)} ended with {code}:\n{tail}")
        return Measured(
            code=code,
            started=self.started,
            wall=ended - self.started,
            cpu=usage.ru_utime + usage.ru_stime,
            peak=max(self._peak, _own_peak(usage.ru_maxrss)),
        )

    def _watch(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            self._peak = max(self._peak, status_of(self.pid).get("VmHWM", 0.0) / MIB)


class _Screen:
    """A terminal that nobody looks at."""

    def __init__(self) -> None:
        self._master, self.slave = pty.openpty()
        self._drain = threading.Thread(target=self._read, daemon=True)
        self._drain.start()

    def close(self) -> None:
        os.close(self.slave)
        self._drain.join()
        os.close(self._master)

    def _read(self) -> None:
        while True:
            try:
                if not os.read(self._master, 1 << 16):
                    return
            except OSError:  # how Linux says that the other side is closed
                return


def _own_peak(kilobytes: float) -> float:
    """Return a child's ru_maxrss in MiB when it tells anything: a child inherits its parent's peak across exec."""
    unit = 1.0 if sys.platform == "linux" else MIB
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / unit / MIB if kilobytes > ours else 0.0


def status_of(pid: int) -> dict[str, float]:
    """Return the numbers of /proc/PID/status (sizes in KiB); empty when the process is gone or there is no /proc."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    words = ((name, value.split()) for name, value in pairs)
    return {name: float(value[0]) for name, value in words if value and value[0].isdigit()}


def environment() -> dict[str, str]:
    """Return the environment of children: they find what this process found, and have keys to use."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    found = {**os.environ, "PYTHONPATH": path, **{name: f"sk-{name.lower()}" for name in KEYS}}
    found.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled once, not at each start
    return found


def ours(verb: str, manifest: Path, *arguments: str) -> list[str]:
    """Return the command line of batchflux."""
    return [sys.executable, "-m", "batchflux", verb, str(manifest), *arguments]


def script(name: str, *arguments: object) -> list[str]:
    """Return the command line of another module of this folder."""
    return [sys.executable, str(HERE / f"{name}.py"), *map(str, arguments)]


@contextmanager
def scratch(where: Path | None = None) -> Iterator[Path]:
    """Make a folder, in memory where the system has such a place, and remove it afterwards."""
    base = where or (SHM if SHM.is_dir() else Path(tempfile.gettempdir()))
    base.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="batchflux-bench-", dir=base))
    try:
        yield folder
    finally:
        rmtree(folder)


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(title: str, rows: Sequence[Row]) -> None:
    """Print rows under the names of the first one's cells."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = [names, *([_text(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[index]) for line in texts) for index in range(len(names))]
    say(f"\n{title}")
    for number, line in enumerate(texts):
        say("  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        if number == 0:
            say("  " + "  ".join("-" * width for width in widths))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def middle(rows: Sequence[Mapping[str, Any]]) -> Row:
    """Return the medians of the rows' numbers."""
    return {name: median(row[name] for row in rows) for name in rows[0]}


def each(title: str, items: Sequence[Any], work: Callable[[Any], list[Row]]) -> list[Row]:
    """Work through items, saying which is next; return all their rows."""
    rows: list[Row] = []
    for number, item in enumerate(items, 1):
        say(f"  {title} {number}/{len(items)}: {item}")
        rows += work(item)
    return rows
