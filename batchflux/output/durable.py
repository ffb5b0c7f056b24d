"""Writing that lasts: bytes and names are on the disk when these return, or StorageError says what to do.

A new name lasts only once its folder is synced too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from batchflux.errors import Code, JobError, StorageError
from batchflux.failpoints import reach
from batchflux.output.base import SPOOL, TEMPORARY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PRIVATE = 0o700
_CAUSES = {
    errno.ENOSPC: ("the disk is full", "free space"),
    errno.EDQUOT: ("the disk quota is used up", "free space or raise the quota"),
    errno.EFBIG: ("the file would be larger than the limit for files", "raise the limit"),
    errno.EROFS: ("the file system is read-only", "mount it writable"),
    errno.EACCES: ("permission denied", "make the folder writable"),
    errno.EPERM: ("permission denied", "make the folder writable"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n) or lower limits.concurrency"),
    errno.ENFILE: ("too many files are open on this system", "raise its limit or close other programs"),
    errno.ENOENT: ("the folder is gone", "put it back"),
    errno.ENOTDIR: ("a file is where a folder should be", "move that file away"),
    errno.EISDIR: ("a folder is where a file should be", "move that folder away"),
    errno.EEXIST: ("something else lies there", "move it away"),
}
_UNNAMED = "check the disk"
_TAKEN = frozenset({errno.ENOTDIR, errno.EISDIR, errno.EEXIST})  # it says what is to be moved away
NAME_FAULTS = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ})
_FULLFSYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)  # macOS, whose fsync ends in the disk's own cache
_NO_DIR_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP})  # some network file systems; their renames last without


@contextmanager
def storing(place: Path | str, *, named_by_job: bool = False) -> Iterator[None]:
    """Turn what the operating system refuses while `place` is written into the error that says what follows.

    StorageError stops the run; where the job chose the name and it cannot be, JobError `invalid_request` ends the job.
    """
    try:
        yield
    except OSError as error:
        if named_by_job and error.errno in NAME_FAULTS:
            message = f"{place} cannot be a file ({error.strerror}); change output.file_name or the job's id"
            raise JobError(Code.INVALID_REQUEST, message) from error
        if error.errno in _TAKEN:
            place = error.filename2 or error.filename or place
        cause, remedy = _CAUSES.get(error.errno or 0, (error.strerror or "input/output error", _UNNAMED))
        raise StorageError(f"cannot write {place}: {cause}; {remedy}, then run again") from error


def remedy_of(error: OSError) -> str:
    """Return what to do about what the operating system refused to write, as an order."""
    return _CAUSES.get(error.errno or 0, ("", _UNNAMED))[1]


def unreadable(path: Path, error: OSError) -> StorageError:
    """Return what to raise where a file is there and cannot be read."""
    remedy = "see that you may read it" if isinstance(error, PermissionError) else "check the disk"
    return StorageError(f"{path} cannot be read: {error.strerror}; {remedy}, then run again")


def write_new(path: Path, data: bytes) -> None:
    """Create `path` with `data`; nothing is left of it when that fails (OSError: the path is taken, say)."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        reach("file.written")
        sync(descriptor)
        reach("file.synced")
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def write_temporary(root: Path, data: bytes) -> Path:
    """Write bytes to a new file in the spool of the output folder `root`, which is made again where it is gone."""
    temporary = root / f"{SPOOL}/{TEMPORARY}{uuid.uuid4().hex}"
    try:
        write_new(temporary, data)
    except FileNotFoundError:
        make_folders(root, temporary.parent, PRIVATE)
        write_new(temporary, data)
    return temporary


def move(source: Path, target: Path) -> None:
    """Rename a synced file to `target`, whole; over file systems through a copy beside the target."""
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            write_new(beside, source.read_bytes())
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
        source.unlink()


def sync_file(path: Path, flags: int = 0) -> None:
    """Put the bytes of an existing file on the disk."""
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> None:
    """Put the bytes of an open file on the disk: on macOS through the disk's own cache, where it can."""
    if _FULLFSYNC is not None:
        with suppress(OSError):  # a file system that knows no such sync
            fcntl.fcntl(descriptor, _FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_folder(path: Path) -> None:
    """Put the names in a folder on the disk."""
    try:
        sync_file(path, os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in _NO_DIR_SYNC:
            raise


def make_folders(root: Path, below: Path, mode: int = 0o777) -> None:
    """Create the folders from `root`, which must exist, down to `below`, durably."""
    missing = []
    while below != root and not below.is_dir():
        missing.append(below)
        below = below.parent
    if not missing and not root.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(root))
    for folder in reversed(missing):
        folder.mkdir(mode=mode, exist_ok=True)
        sync_folder(folder.parent)
