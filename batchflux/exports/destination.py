"""The folder that an export is written to: empty, or holding an export of the same format, which is continued."""

from __future__ import annotations

import fcntl
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Self

from batchflux.errors import FolderBusy, UsageError, quoted
from batchflux.exports.shards import put
from batchflux.output.base import TEMPORARY

if TYPE_CHECKING:
    from types import TracebackType

MARKER = ".batchflux-export"  # says which format the folder holds
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:/")


def local(text: str) -> Path:
    """Return the path of a folder; UsageError for a bucket."""
    if _ADDRESS.match(text):
        what = f"{quoted(text)} is no folder, and an export is written to a local one"
        raise UsageError(f"{what}: export to a folder, then copy that to the bucket.")
    return Path(text)


class Destination:
    """The folder, held by one process while it is entered; `kind` says what it holds: `pairs:musubi`, say.

    Entering it raises UsageError where it has other things or cannot be had, FolderBusy where another process has it.
    """

    def __init__(self, folder: Path, out: Path, kind: str) -> None:
        self.folder, self._out, self._kind = folder, out, kind
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        self._check_place()
        try:
            self._check_contents()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._lock(self._descriptor)
            self._sweep()
        except OSError as error:
            self._leave()
            remedy = "choose another, or repair its permissions"
            raise UsageError(f"The folder {self.folder} cannot be had ({error.strerror}): {remedy}.") from error
        except BaseException:
            self._leave()
            raise
        put(self.folder / MARKER, (json.dumps({"format": self._kind}) + "\n").encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _check_place(self) -> None:
        out, folder = self._out.resolve(), self.folder.resolve()
        if out == folder or out in folder.parents or folder in out.parents:
            what = f"{self.folder} and the output folder {self._out} lie in each other"
            raise UsageError(f"{what}, and an export never changes what it is made from: choose a folder beside it.")

    def _check_contents(self) -> None:
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise UsageError(f"{self.folder} is a file: choose a folder.")
        names = [entry.name for entry in os.scandir(self.folder) if not entry.name.startswith(TEMPORARY)]
        others = [name for name in names if name != MARKER]
        if not others:
            return
        if MARKER not in names:
            what = f"{self.folder} has other things in it ({min(others)})"
            raise UsageError(f"{what}: choose a new folder, an empty one, or that of an earlier export.")
        there = _said(self.folder / MARKER)
        if there != self._kind:
            what = f"{self.folder} holds an export as {there or 'something else'}, and not as {self._kind}"
            raise UsageError(f"{what}: choose another folder, or remove that one.")

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderBusy(f"Another process exports to {self.folder}: wait for it, or choose another.") from None

    def _sweep(self) -> None:
        """Remove what a killed export was writing."""
        for place, _, names in os.walk(self.folder):
            for name in names:
                if name.startswith(TEMPORARY):
                    Path(place, name).unlink()


def _said(marker: Path) -> str:
    """Return what a marker says of the folder, '' where it cannot be read."""
    try:
        return str(json.loads(marker.read_bytes())["format"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
