"""The output folder: its lock, and small files written whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from batchflux.errors import FolderBusy, StorageError, UsageError
from batchflux.failpoints import reach
from batchflux.output.base import ANSWERS, IMAGES, LEDGER, LOCK, REJECTED, REPLACED, RESULTS, SPOOL
from batchflux.output.durable import remedy_of, sync_file, sync_folder

if TYPE_CHECKING:
    from pathlib import Path

MENDED = 1 << 20  # bytes at the end of run.log: more than a system keeps unwritten of it
_PAID_FOR = (IMAGES, REJECTED, ANSWERS, SPOOL, REPLACED)
_json = json.JSONEncoder(ensure_ascii=False, default=str).encode
_PAUSES = (0.001, 0.01, 0.05)  # seconds


def iso(at: float | None) -> str:
    """Return epoch seconds as UTC ISO 8601 with milliseconds, '' for None."""
    if at is None:
        return ""
    return f"{datetime.fromtimestamp(at, UTC).isoformat(timespec='milliseconds').removesuffix('+00:00')}Z"


def zone(at: datetime) -> str:
    """Return the zone of a local time by its name and its distance: `CST (UTC+08:00)`, or `UTC`."""
    offset = at.strftime("%z")
    far = f"UTC{offset[:3]}:{offset[3:5]}"
    name = at.tzname() or far
    return name if name in {"UTC", far} else f"{name} ({far})"


def ledger_of(folder: Path) -> Path:
    """Return the ledger of an output folder; UsageError when there is none."""
    path = folder / LEDGER
    if not path.is_file() or path.stat().st_size == 0:  # empty: killed as it was made
        inside = min((below.parent for below in folder.glob(f"*/{LEDGER}")), default=None)
        likely = "" if inside is None else f", as {inside}"
        what = f"{folder} is no output folder: it has no {LEDGER}"
        raise UsageError(f"{what}. Name the folder that a run wrote to{likely}.")
    return path


def paid_for_in(folder: Path) -> str | None:
    """Name something in an output folder that an earlier run must have paid for; None when there is nothing."""
    for name in _PAID_FOR:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder / name) as entries:
            if any(not entry.name.startswith(".") for entry in entries):
                return f"{name}/"
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), (folder / RESULTS).open("rb") as file:
        if len(file.readlines(1 << 16)) > 1:  # a header alone is written before the first job ends
            return RESULTS
    return None


def check_place(folder: Path) -> None:
    """See that a folder is one that may be looked into, or that no file stands where it would be; UsageError."""
    remedy = "choose another with --out, or"
    for place in (folder.absolute(), *folder.absolute().parents):
        try:
            is_folder = stat.S_ISDIR(place.stat().st_mode)
            if is_folder and place == folder.absolute():
                os.listdir(place)  # noqa: PTH208  `iterdir` would wait until it is asked
                (place / LOCK).exists()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            what = f"The output folder {folder} cannot be used ({error.strerror})"
            raise UsageError(f"{what}: {remedy} see that you may read it.") from error
        if not is_folder:
            what = f"The output folder {folder} cannot be used ({place} is a file)"
            raise UsageError(f"{what}: {remedy} move that file away.")
        return


class FolderLock:
    """Holds the folder for one process: advisory locks (flock) that the system drops when the process dies.

    There are two: on `.lock`, and on the folder itself, which nobody can remove while its ledger stays. Some file
    systems have no locks on folders; then `check` sees to it that `.lock` is still the one that was locked.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._descriptors: list[int] = []
        self._guarded = False
        self.made: list[Path] = []  # by `acquire`, the innermost first: this folder and those that it is in

    def acquire(self) -> None:
        """Take the locks; FolderBusy when another process has one, UsageError when the folder cannot be had."""
        folder = self._path.parent
        try:
            self.made = _make_lasting(folder.absolute())
            self._descriptors = [os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)]
        except OSError as error:
            what = f"The output folder {folder} cannot be used ({error.strerror})"
            raise UsageError(f"{what}: choose another with --out, or {remedy_of(error)}.") from error
        try:
            _take(self._descriptors[0])
            self._guarded = self._take_folder(folder)
        except OSError as error:
            self.release()
            if error.errno in {errno.EAGAIN, errno.EACCES}:
                message = f"Another process is running {folder}: wait for it, or choose another folder with --out."
                raise FolderBusy(message) from error
            what = f"The file system of {folder} has no working locks ({error.strerror})"
            remedy = "two runs could pay for the same there; choose a folder on a local disk with --out"
            raise UsageError(f"{what}: {remedy}.") from error

    def check(self) -> None:
        """See that no other run can have taken the folder; StorageError when one can. Costs nothing on most systems."""
        if self._guarded or not self._descriptors:
            return
        ours = os.fstat(self._descriptors[0])
        with contextlib.suppress(FileNotFoundError):
            found = self._path.stat()
            if (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino):
                return
        what = f"{self._path} was removed while this run held the folder by it, so another run could start beside it"
        raise StorageError(f"{what}: see that none is running, then run again to continue.")

    def is_held(self) -> bool:
        """Whether a process runs the folder now; False also where its file system has no locks."""
        for path in (self._path, self._path.parent):
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
                finally:
                    os.close(descriptor)
        return False

    def release(self) -> None:
        """Give the locks back."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _take_folder(self, folder: Path) -> bool:
        """Lock the folder itself; False where it may not be read or its file system cannot. BlockingIOError."""
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._descriptors.append(descriptor)
            _take(descriptor)
        except BlockingIOError:
            raise
        except OSError:
            return False
        return True


def _take(descriptor: int) -> None:
    """Lock a file; a lock that somebody else has for a moment only, to look (`is_held`), is waited for."""
    for pause in _PAUSES:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(pause)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _make_lasting(folder: Path) -> list[Path]:
    """Make a folder whose name outlasts a power cut: what is paid for is recorded in it. Return what was missing."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        with contextlib.suppress(PermissionError):  # a folder that may be written and not read cannot be synced
            sync_folder(each.parent)
    return missing


class RunLog:
    """run.log: one JSON object a line, appended whole; made 0600. Raises StorageError when it cannot be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            _mend(self._descriptor)
        except OSError as error:
            raise unwritable(path, error) from error

    def write(self, event: str, /, **fields: Any) -> None:
        """Add a line. `fields` must not hold secrets."""
        line = _json({"at": iso(time.time()), "event": event, **fields})
        data = line.encode(errors="backslashreplace") + b"\n"
        try:
            written = os.write(self._descriptor, data)
            if written < len(data):
                os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
        except OSError as error:
            raise unwritable(self._path, error) from error
        if written < len(data):
            raise unwritable(self._path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _mend(descriptor: int) -> None:
    """Take out what a power cut left at the end of a log: half a line, or zeros where a line was to come."""
    start = max(0, os.fstat(descriptor).st_size - MENDED)
    tail = os.pread(descriptor, MENDED, start)
    if (tail.endswith(b"\n") and b"\0" not in tail) or not tail:
        return
    whole = tail[: tail.rfind(b"\n") + 1].splitlines(keepends=True)
    os.ftruncate(descriptor, start)
    os.write(descriptor, b"".join(line for line in whole if b"\0" not in line))


def write_whole(path: Path, text: str) -> None:
    """Write a small text file, whole or not at all; StorageError when the folder cannot take it."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        sync_file(temporary)
        reach("whole.written")
        temporary.replace(path)
        sync_folder(path.parent)
        reach("whole.replaced")
    except OSError as error:
        with contextlib.suppress(OSError):  # what cannot be removed either is written over by the next run
            temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError, more: str = ".") -> StorageError:
    """Return what to raise where one of the run's own files cannot be written; `more` ends the sentence."""
    return StorageError(f"{path} cannot be written ({error.strerror}): {remedy_of(error)}, then run again{more}")
