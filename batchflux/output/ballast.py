"""Room kept on the disk for what has to be written when it is full: answers that were paid for.

A full disk refuses the ledger too, and an answer that cannot be recorded would be paid for again. So while requests may
be out, a file takes up the room that their answers need: some for the ledger, and a picture's size for each request
when pictures come inside the answers. When a write is refused the file is removed, the write is made again in its
place, and the run starts no more requests. On a file system that promises no room ahead (ZFS, Btrfs) it is a hint only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import TYPE_CHECKING

from batchflux.errors import StorageError
from batchflux.output.durable import storing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LEDGER_ROOM = 4 << 20  # bytes; a few pages of the ledger and its journal for each answer
LEAST_ROOM = 1 << 16  # on a small disk it is an eighth of what is free, and no less than this
NAME = ".spool/.tmp-reserve"  # swept after a crash, as all temporary files are
_BLOCK = 1 << 20


class Ballast:
    """The reserve of one output folder. Safe to use from several threads.

    Args:
        folder: the output folder, with its `.spool/`.
        at_once: how many requests may be out at once.
        full: told once why, when the reserve is given up or cannot grow: no request may start from then on.
    """

    def __init__(self, folder: Path, at_once: int, full: Callable[[StorageError], None]) -> None:
        self._path = folder / NAME
        self._folder = folder
        self._at_once = at_once
        self._full = full
        self._room = LEDGER_ROOM
        self._largest = 0
        self._held = False
        self._given = False
        self._lock = threading.Lock()

    def hold(self) -> None:
        """Take up the room.

        Raises:
            StorageError: there is not that much; nothing was spent.
        """
        with storing(self._folder):
            disk = os.statvfs(self._folder)
            self._room = min(LEDGER_ROOM, max(LEAST_ROOM, disk.f_bavail * disk.f_frsize // 8))
            self._take(self._room)
        self._held = True

    @staticmethod
    def helps(error: StorageError) -> bool:
        """Say whether it is room that is wanting."""
        cause = error.__cause__
        return isinstance(cause, OSError) and cause.errno in {errno.ENOSPC, errno.EDQUOT}

    def release(self) -> bool:
        """Give the room back to what is being refused; say whether there was any, also when another had it first."""
        with self._lock:
            held, self._held = self._held, False
            if held:
                self._path.unlink(missing_ok=True)
                self._given = True
        if held:
            self._full(
                StorageError(
                    f"The disk of {self._folder} is full: what was paid for is kept; free space, then run again to "
                    "continue."
                )
            )
        return self._given

    def came(self, size: int) -> None:
        """Learn that a picture of `size` bytes came inside an answer: the others under way may be as large."""
        if size <= self._largest:
            return
        with self._lock:
            self._largest = max(size, self._largest)
            if not self._held:
                return
            try:
                self._take(self._room + self._at_once * self._largest)
            except OSError:
                refused = True
            else:
                refused = False
        if refused:
            self._full(
                StorageError(
                    f"The disk of {self._folder} is almost full, and the pictures under way need "
                    f"{self._at_once * self._largest / 1e6:,.0f} MB: free space, then run again to continue."
                )
            )

    def drop(self) -> None:
        """Give the room back: no request is out any more."""
        with self._lock, contextlib.suppress(OSError):  # gone with its folder: there is nothing to give back
            self._held = False
            self._path.unlink(missing_ok=True)

    def _take(self, size: int) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            else:
                _fill(descriptor, size)
        except OSError:
            if not self._held:
                self._path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)


def _fill(descriptor: int, size: int) -> None:
    """Take up room by writing, where the system cannot reserve it (macOS)."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    while end < size:
        end += os.write(descriptor, bytes(min(_BLOCK, size - end)))
