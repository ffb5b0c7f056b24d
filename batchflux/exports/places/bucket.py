"""A bucket as the place of an export: all below a prefix, which is empty, or holds an export of the same format."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import uuid
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO

from batchflux.errors import FolderBusy, StorageError, UsageError
from batchflux.exports.places.base import MARKER, Pictures, marker, said
from batchflux.exports.places.record import WRITTEN, Record, at_once
from batchflux.failpoints import reach
from batchflux.output.durable import storing
from batchflux.output.stores.base import PassingError, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from batchflux.output.stores.base import Address, ObjectStore

_WAITING, _WAITING_BYTES = 250, 64 << 20  # pictures that are sent together, and their bytes


class Bucket:
    """A Place in a bucket. Large files are made whole in the spool, one after the other, small ones are sent as bytes.

    What is there already, by the record, is not sent again.
    """

    set_aside = 0  # what no export wrote stays where it is

    def __init__(self, store: ObjectStore, place: Address, spool: Path, record: Record) -> None:
        self._store, self._place, self._spool, self._record = store, place, spool, record

    @property
    def address(self) -> str:
        """The prefix, with its bucket."""
        return str(self._place).rstrip("/")

    @property
    def spool(self) -> Path:
        """A folder of this machine for what is under way."""
        return self._spool

    def path(self, name: str) -> str:
        """Return the name: nothing but a copy of the bucket is read by paths."""
        return name

    @contextlib.contextmanager
    def writing(self, name: str, made_of: str = "") -> Iterator[BinaryIO]:
        """Open a file that is sent once it is whole; one that is there with the same bytes is not sent again."""
        path = self._spool / uuid.uuid4().hex
        try:
            with storing(path), path.open("wb") as file:
                yield file
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            reach("export.written")
            self._send(name, path, digest, made_of or digest)
            if made_of:
                self._record.flush()
        finally:
            path.unlink(missing_ok=True)

    def put(self, name: str, data: bytes) -> None:
        """Send a small file, unless it is there already and the same."""
        digest = hashlib.sha256(data).hexdigest()
        self._send(name, data, digest, digest)

    def pictures(self, *folders: str) -> _Pictures:
        """Return what sends files of single pictures, below folders that match these patterns."""
        return _Pictures(self, self._record, folders)

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes; None when it is not there."""
        return self._record.size(name)

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None when it is not there."""
        return None if self.size(name) is None else read(self._store, self._place.below(name))

    def made_of(self, name: str, look: Callable[[Path], str | None]) -> str | None:
        """Return what is on record of a file."""
        return self._record.made_of(name)

    def names(self, pattern: str) -> list[str]:
        """Return the names that match a pattern, in order."""
        return self._record.names(pattern)

    def rename(self, names: Mapping[str, str]) -> None:
        """Copy files to other names, then remove them under their own."""

        def copied(pair: tuple[str, str]) -> None:
            name, other = pair
            self._store.copy(self._place.below(name), self._place.below(other))
            reach("export.placed")
            self._record.claim(other, self._record.made_of(name) or "", self._record.size(name) or 0)

        self._record.withdraw(names.values())
        at_once(copied, names.items())
        self._record.flush()
        self.remove(names)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files."""

        def removed(name: str) -> None:
            self._store.delete(self._place.below(name))
            self._record.gone(name)

        at_once(removed, [name for name in names if self.size(name) is not None])

    def send(self, name: str, data: bytes, mark: str) -> None:
        """Send a file of whose name no claim is on record."""
        self._store.put(self._place.below(name), data, hashlib.sha256(data).hexdigest(), over=True)
        reach("export.placed")
        self._record.claim(name, mark, len(data))

    def _send(self, name: str, what: bytes | Path, digest: str, mark: str) -> None:
        self._record.keep(name)
        if self._record.made_of(name) == mark:
            return
        self._record.withdraw([name])
        self._store.put(self._place.below(name), what, digest, over=True)
        reach("export.placed")
        self._record.claim(name, mark, what.stat().st_size if isinstance(what, Path) else len(what))


class _Pictures(Pictures):
    """Sends files of single pictures, many at a time."""

    def __init__(self, place: Bucket, record: Record, folders: Iterable[str]) -> None:
        self._place, self._record, self._folders = place, record, tuple(folders)
        self._waiting: dict[str, tuple[str, Callable[[], bytes]]] = {}
        self._bytes, self._lock = 0, Lock()

    def has(self, name: str, made_at: float, mark: str, size: int | None = None) -> bool:
        """Whether a file is there with this mark and `size` (None: of any)."""
        self._record.keep(name)
        return self._record.made_of(name) == mark and size in {None, self._record.size(name)}

    def write(self, name: str, made_at: float, mark: str, read: Callable[[], bytes], size: int = 0) -> None:
        """Send a file with the next ones, over what may be there."""
        with self._lock:
            self._waiting[name] = (mark, read)
            self._bytes += size
            if len(self._waiting) == _WAITING or self._bytes > _WAITING_BYTES:
                self._send()

    def put_text(self, name: str, made_at: float, text: str) -> None:
        """Send a small text, unless it is there."""
        data = text.encode(errors="replace")
        self.put(name, made_at, hashlib.sha256(data).hexdigest(), lambda: data, len(data))

    def settle(self, folder: str) -> None:
        """Send all that was put so far, and put it on record."""
        with self._lock:
            self._send()
        self._record.flush()

    def done(self, folder: str) -> None:
        """Nothing is special to a folder of a bucket."""

    def close(self) -> None:
        """Send what is left, and remove what an earlier export left."""
        with self._lock:
            self._send()
        self._place.remove(name for one in self._folders for name in self._record.names(f"{one}/*", left=True))

    def _send(self) -> None:
        def sent(name: str) -> None:
            mark, read_it = self._waiting[name]
            self._place.send(name, read_it(), mark)

        self._record.withdraw(self._waiting)
        at_once(sent, self._waiting)
        self._waiting.clear()
        self._bytes = 0


class BucketDestination:
    """A prefix of a bucket, for one export at a time; `kind` says what it holds.

    Entering it raises UsageError where it has other things or cannot be used (no such bucket, no access), FolderBusy
    where another process has it, StorageError where it cannot be reached for now. A
    process of this machine is kept out while one has it; of two on different machines, the one that began first
    stops, with FolderBusy, when it next puts something on record.
    """

    def __init__(self, store: ObjectStore, place: Address, kind: str) -> None:
        self._store, self._place, self._kind = store, place, kind
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Bucket:
        with contextlib.ExitStack() as stack:
            spool = stack.enter_context(_spool(str(self._place)))
            self._begin()
            self._record = Record(self._store, self._place, spool)
            stack.callback(self._record.close)
            self._record.begin()
            self._stack = stack.pop_all()
        return Bucket(self._store, self._place, spool, self._record)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            if kind is None:
                self._record.finish()

    def _begin(self) -> None:
        try:
            if not self._is_continued():
                data = marker(self._kind)
                self._store.put(self._place.below(MARKER), data, hashlib.sha256(data).hexdigest(), over=True)
        except PassingError:
            raise
        except StorageError as error:
            raise UsageError(f"Nothing can be exported there, and nothing was. {error}") from error

    def _is_continued(self) -> bool:
        there = read(self._store, self._place.below(MARKER))
        if there is not None and said(there) != self._kind:
            what = f"{self._place} holds an export as {said(there) or 'something else'}, and not as {self._kind}"
            raise UsageError(f"{what}: choose another place, or remove that one.")
        if there is None:
            root = self._place.below("")
            for found in self._store.find(root):
                if not found.key.removeprefix(root).startswith(f"{WRITTEN}/"):
                    what = f"{self._place} has other things in it ({found.key.removeprefix(root)})"
                    raise UsageError(f"{what}: choose a new prefix, an empty one, or that of an earlier export.")
        return there is not None


@contextlib.contextmanager
def _spool(address: str) -> Iterator[Path]:
    """Yield an empty folder of this machine and user, for one process at a time that exports to an address."""
    name = hashlib.sha256(address.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir(), f"batchflux-{os.getuid()}-{name}")
    with storing(path):
        path.mkdir(mode=0o700, exist_ok=True)
        state = path.lstat()
        if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
            raise UsageError(f"{path} is not a folder of this user's alone: remove it, or let TMPDIR name another.")
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    held = False
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = path.stat().st_ino == os.fstat(descriptor).st_ino  # and not one that its holder removed just now
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:
            raise FolderBusy(f"Another process exports to {address}: wait for it, or choose another.")
        with storing(path):
            for left in path.iterdir():  # of one that was killed
                left.unlink()
        yield path
    finally:
        if held:
            shutil.rmtree(path, ignore_errors=True)  # what stays is removed by the next export
        os.close(descriptor)
