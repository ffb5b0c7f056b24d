"""What a run needs of the system before it spends: open files, and room on the disk for what is under way."""

from __future__ import annotations

import os
import resource
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from batchflux.errors import StorageError, UsageError
from batchflux.output.base import SPOOL, TEMPORARY
from batchflux.output.durable import storing

if TYPE_CHECKING:
    from pathlib import Path

_AT_REST = 64 + 8  # open files: the program, ledger, log, tables, a thread's or two; and a few downloads
_A_REQUEST = 5  # open files: its connection, up to two downloads and their files, a reference being read
_A_DOWNLOAD = 3  # open files: its connection and its file, and a connection that may be of use again
MORE_DOWNLOADS = 1024  # each may hold 200 kB in buffers
MB = 1 << 20
RESERVE = 64 * MB  # bytes that stay free for the ledger, the log and what other programs write meanwhile
GUESS = 8 * MB  # bytes of a picture, until one came


def raise_open_files(most: int) -> None:
    """Let so many files be open at once, or as many as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    may = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft != resource.RLIM_INFINITY and soft < may:
        with suppress(ValueError, OSError):  # macOS says that there is no bound, and has one
            resource.setrlimit(resource.RLIMIT_NOFILE, (may, hard))


def ensure_open_files(at_once: int) -> int:
    """See that `at_once` requests, and two downloads for each, can be open at once, or UsageError.

    The soft limit may rise. Return how many downloads more can be open then, at most MORE_DOWNLOADS.
    """
    needed = _AT_REST + _A_REQUEST * at_once
    wanted = needed + _A_DOWNLOAD * MORE_DOWNLOADS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    may = wanted if resource.RLIM_INFINITY in {soft, hard} else min(wanted, max(soft, hard))
    if may >= needed:
        if soft != resource.RLIM_INFINITY and soft < may:
            resource.setrlimit(resource.RLIMIT_NOFILE, (may, hard))
        return (may - needed) // _A_DOWNLOAD
    fits = (hard - _AT_REST) // _A_REQUEST
    lower = f", or lower limits.concurrency to {fits}" if fits > 0 else ""
    raise UsageError(
        f"The system allows {hard} open files, and {at_once} requests at once need {needed}: "
        f"raise the limit (ulimit -n {needed}){lower}. Nothing was spent."
    )


def check_writable(folder: Path) -> None:
    """See that pictures can be kept in an output folder before any is paid for; StorageError when they cannot."""
    probe = folder / SPOOL / f"{TEMPORARY}probe"
    with storing(probe.parent):
        probe.touch()
        probe.unlink(missing_ok=True)  # somebody else may have looked just then


class LowWaterMark:
    """How much of a disk stays free while requests are out: a full one could not keep the answers, which are paid for.

    That is RESERVE and a picture for each request in flight, as large as the largest that came. Safe in threads.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._largest = 0
        self._lock = threading.Lock()

    def came(self, size: int) -> None:
        """Learn the size of a picture, in bytes: others may be as large."""
        with self._lock:
            self._largest = max(self._largest, size)

    def check(self, in_flight: int) -> StorageError | None:
        """Return why a request may not leave; None when there is room for `in_flight` answers, its own included."""
        try:
            with storing(self._folder):
                disk = os.statvfs(self._folder)
        except StorageError as error:
            return error
        free, needed = disk.f_bavail * disk.f_frsize, RESERVE + in_flight * (self._largest or GUESS)
        if free >= needed or not disk.f_blocks:  # some network file systems do not tell
            return None
        return StorageError(
            f"The disk of {self._folder} is almost full: {free // MB:,} MB are free, and what is under way may need "
            f"{-(-needed // MB):,} MB. What was paid for is kept; free space, then run again to continue."
        )
