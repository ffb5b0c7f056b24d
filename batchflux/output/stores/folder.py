"""Folders as buckets: `file:///folder/key` is a file, whole and durable, or it is not there."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from batchflux.errors import StorageError
from batchflux.output import durable
from batchflux.output.base import TEMPORARY
from batchflux.output.stores.base import Found, body_of, checked, parted, sound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

_ROOT = Path("/")
_WHOLE = 8 << 20  # bytes of a file that is read whole
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK})  # FAT and some network disks
_NONE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class Folder:
    """An ObjectStore of the files of this machine; keys are their paths without the first `/`."""

    def put(self, key: str, data: bytes | Path, sha256: str, *, over: bool = False) -> bool:
        """Store an object whole; False when one with the same bytes is there already."""
        target = _path(key)
        body = body_of(data, _WHOLE)
        checked(str(target), body, sha256)
        with durable.storing(target):
            try:
                _put(target, body, Path.replace if over else _link)
            except FileExistsError:
                _compare(target, sha256)
                return False
        return True

    def fetch(self, key: str, target: BinaryIO) -> bool:
        """Write an object's bytes to an open file; False when there is none."""
        path = _path(key)
        try:
            source = path.open("rb")
        except _NONE:
            return False
        except OSError as error:
            raise durable.unreadable(path, error) from error
        with source:
            shutil.copyfileobj(source, target)
        return True

    def find(self, prefix: str) -> Iterator[Found]:
        """Yield the objects whose keys begin so."""
        folder, begun = parted("file://", prefix)
        yield from _below(_ROOT / folder, f"{folder}/" if folder else "", begun)

    def sign(self, key: str, seconds: int) -> str:
        """Raise StorageError: nobody else reads this machine's files."""
        raise StorageError(f"{_path(key)}: folders sign no links; use a bucket in a cloud, or `url`")

    def copy(self, key: str, to: str) -> None:
        """Copy an object, over what is there."""
        with durable.storing(_path(to)):
            _put(_path(to), _path(key), Path.replace)

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        path = _path(key)
        with durable.storing(path):
            try:
                path.unlink()
            except _NONE:
                return
            durable.sync_folder(path.parent)


def open_folder(*_: object) -> Folder:
    """Return the files of this machine, of which nothing need be said."""
    return Folder()


def _path(key: str) -> Path:
    return _ROOT / sound("file://", key)


def _put(target: Path, data: bytes | Path, place: Callable[[Path, Path], object]) -> None:
    """Write a file beside its place, and put it there once it is whole."""
    durable.make_folders(_ROOT, target.parent)
    beside = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        if isinstance(data, bytes):
            durable.write_new(beside, data)
        else:
            shutil.copyfile(data, beside)
            durable.sync_file(beside)
        place(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    durable.sync_folder(target.parent)


def _link(source: Path, target: Path) -> None:
    """Give a file its name; FileExistsError where there is one of that name."""
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        source.replace(target)


def _compare(path: Path, sha256: str) -> None:
    """Raise StorageError where a file that is there has other bytes."""
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
            raise StorageError(f"{path} is there already, with other bytes; move it away, then run again")


def _below(folder: Path, key: str, begun: str) -> Iterator[Found]:
    """Yield the files of a folder in the order of their keys, which begin with `key`; names begin with `begun`."""
    try:
        begun_so = [one for one in os.scandir(folder) if one.name.startswith(begun)]
    except _NONE:
        return
    except OSError as error:
        raise durable.unreadable(folder, error) from error
    entries = [one for one in begun_so if not one.name.startswith(TEMPORARY)]
    for one in sorted(entries, key=lambda one: f"{one.name}/" if one.is_dir(follow_symlinks=False) else one.name):
        if one.is_dir(follow_symlinks=False):
            yield from _below(folder / one.name, f"{key}{one.name}/", "")
        elif one.is_file():
            yield Found(f"{key}{one.name}", one.stat().st_size)
