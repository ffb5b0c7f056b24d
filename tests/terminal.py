"""A terminal of 80 columns with a program in it, as a person sees it: what is on the screen, and what was typed."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from codecs import getincrementaldecoder
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
COLUMNS, ROWS = 80, 24
_BEGUN = re.compile(r"\x1b(\[[0-9;?]*)?\Z")  # what is read may end within a sequence
_CONTROL = re.compile(r"\x1b\[(\d*)A|\x1b\[[0-9;?]*[a-zA-Z]|\r|\n|\x07|[^\x1b\r\n\x07]")


class Screen:
    """The lines that a terminal shows; it knows what tqdm and click send.

    `wrapped` holds lines that did not fit, `past` those that were written over.
    """

    def __init__(self) -> None:
        self.lines: list[str] = [""]
        self.past: list[str] = []
        self.wrapped: list[str] = []
        self._row = self._column = 0
        self._begun = ""

    def feed(self, text: str) -> None:
        """Take what the program printed."""
        text = self._begun + text
        begun = _BEGUN.search(text)
        self._begun = "" if begun is None else begun[0]
        for found in _CONTROL.finditer(text.removesuffix(self._begun)):
            piece = found[0]
            if piece == "\r":
                self.past.append(self.lines[self._row])
                self._column = 0
            elif piece == "\n":
                self._down()
            elif piece.endswith("A") and piece.startswith("\x1b"):
                self._row = max(0, self._row - int(found[1] or 1))
            elif not piece.startswith(("\x1b", "\x07")):
                self._write(piece)

    def shown(self) -> list[str]:
        """Return the lines that are not empty."""
        return [line.rstrip() for line in self.lines if line.strip()]

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self.lines):
            self.lines.append("")

    def _write(self, char: str) -> None:
        if self._column == COLUMNS:
            self.wrapped.append(self.lines[self._row])
            self._down()
            self._column = 0
        line = self.lines[self._row].ljust(self._column)
        self.lines[self._row] = line[: self._column] + char + line[self._column + 1 :]
        self._column += 1


class Terminal:
    """Runs the program with a terminal as its standard streams; leave it to end the program."""

    def __init__(self, folder: Path, *arguments: str, sized: bool = True) -> None:
        self.screen = Screen()
        self._lock = threading.Lock()
        self._here, there = pty.openpty()
        if sized:  # else 0 by 0, as under many a program that starts others
            fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "batchflux", *arguments],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "TEST_KEY": "k",
                "XDG_STATE_HOME": str(folder / "state"),
                "XDG_CACHE_HOME": str(folder / "state"),
            },
            stdin=there,
            stdout=there,
            stderr=there,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  so that Ctrl-C reaches it
        )
        os.close(there)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._thread.join()
        os.close(self._here)

    def _read(self) -> None:
        decoder = getincrementaldecoder("utf-8")("replace")
        while True:
            try:
                data = os.read(self._here, 1 << 16)
            except OSError:  # the program has gone
                return
            with self._lock:
                self.screen.feed(decoder.decode(data))

    def type(self, text: str) -> None:
        """Type this."""
        os.write(self._here, text.encode())

    def shown(self) -> list[str]:
        """Return the lines on the screen that are not empty."""
        with self._lock:
            return self.screen.shown()

    def until(self, condition: Callable[[list[str]], object]) -> list[str]:
        """Wait until the screen is so; return its lines."""
        last = time.monotonic() + 60
        while not condition(lines := self.shown()):
            assert time.monotonic() < last, "\n".join(lines)
            assert self.process.poll() is None or condition(self.shown()), "\n".join(lines)
            time.sleep(0.02)
        return lines

    def end(self) -> tuple[int, list[str]]:
        """Wait for the program's end; return its exit code and the last screen."""
        code = self.process.wait(60)
        self._thread.join()
        return code, self.screen.shown()
