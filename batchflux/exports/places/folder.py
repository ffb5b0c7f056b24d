"""A folder as the place of an export: empty, or holding an export of the same format, which is continued."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from batchflux.errors import FolderBusy, UsageError
from batchflux.exports.places.base import MARKER, THREADS, Pictures, marker, said
from batchflux.failpoints import reach
from batchflux.output.base import TEMPORARY
from batchflux.output.durable import remedy_of, storing, sync_file, sync_folder, unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import BinaryIO

SET_ASIDE = ".set-aside"  # what was there, and no export wrote
_NOBODYS = ("Thumbs.db", "desktop.ini")  # which Windows writes into folders
_CHUNK = 1 << 20


class Destination:
    """The folder, held by one process while it is entered; `kind` says what it holds: `pairs:musubi`, say.

    Entering it raises UsageError where it has other things or cannot be had, FolderBusy where another process has it.
    """

    def __init__(self, folder: Path, out: Path, kind: str) -> None:
        self.folder, self._out, self._kind = folder, out, kind
        self._descriptor: int | None = None

    def __enter__(self) -> Folder:
        self._check_place()
        try:
            self._check_contents()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._lock(self._descriptor)
            self._sweep()
        except OSError as error:
            self._leave()
            what = f"The folder {self.folder} cannot be had ({error.strerror})"
            raise UsageError(f"{what}: choose another, or {remedy_of(error)}.") from error
        except BaseException:
            self._leave()
            raise
        place = Folder(self.folder)
        place.put(MARKER, marker(self._kind))
        return place

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
        there = said((self.folder / MARKER).read_bytes())
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


class Folder:
    """A Place in a folder. A file that is written lies beside its place, and gets there by a rename."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._aside = _Aside(root)

    @property
    def set_aside(self) -> int:
        """How many files that no export wrote made way; they are in SET_ASIDE."""
        return self._aside.number

    @property
    def address(self) -> str:
        """The folder, as the user calls it."""
        return str(self._root)

    @property
    def spool(self) -> Path:
        """The folder itself: what is under way there is swept by the next export."""
        return self._root

    def path(self, name: str) -> str:
        """Return a file's absolute path."""
        return str(self._root.absolute() / name)

    def writing(self, name: str, made_of: str = "") -> AbstractContextManager[BinaryIO]:
        """Open a file that takes the place of `name` once it is whole and on the disk."""
        return writing(self._root / name)

    def put(self, name: str, data: bytes) -> None:
        """Write a small file, unless it is there already and the same."""
        with self.writing(name) as file:
            file.write(data)

    def pictures(self, *folders: str) -> _Files:
        """Return what writes files of single pictures into folders that match these patterns."""
        return _Files(self._root, self._aside, *folders)

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes; None when it is not there."""
        try:
            return (self._root / name).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(self._root / name, error) from error

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None when it is not there."""
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(self._root / name, error) from error

    def made_of(self, name: str, look: Callable[[Path], str | None]) -> str | None:
        """Return what `look` finds a file to be made of."""
        return look(self._root / name)

    def names(self, pattern: str) -> list[str]:
        """Return the names that match a pattern, in order."""
        found = (path for path in self._root.glob(pattern) if not path.name.startswith(TEMPORARY))
        return sorted(path.relative_to(self._root).as_posix() for path in found if path.is_file())

    def rename(self, names: Mapping[str, str]) -> None:
        """Give files other names."""
        paths = {self._root / name: self._root / other for name, other in names.items()}
        with storing(self._root):
            for path, other in paths.items():
                path.replace(other)
                reach("export.placed")
            for folder in {path.parent for path in paths.values()}:
                sync_folder(folder)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, and folders that are empty then."""
        for path in [self._root / name for name in names]:
            with storing(path):
                path.unlink(missing_ok=True)
            _remove_empty(path.parent, self._root)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` once it is whole and on the disk; StorageError.

    One that is there and has the same bytes stays.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if _same_bytes(temporary, path):
                temporary.unlink()
                return
            reach("export.written")
            temporary.replace(path)
            sync_folder(path.parent)
            reach("export.placed")
        except BaseException:
            with contextlib.suppress(OSError):  # what cannot be removed either is swept by the next export
                temporary.unlink(missing_ok=True)
            raise


class _Aside:
    """Takes files out of the way: those that an export wrote for good, a user's own into SET_ASIDE below `root`.

    An export gives its files times in milliseconds, which a whole second is by chance alone. Programs save files in
    finer ones, and archives unpack them in whole seconds.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.number = 0

    def keep(self, path: Path, data: bytes) -> None:
        """Keep a user's own file over which these bytes are about to be written, if it has others; OSError."""
        with contextlib.suppress(FileNotFoundError):
            if not _by_export(path) and path.read_bytes() != data:
                self._move(path)

    def remove(self, path: Path) -> None:
        """Remove a file that does not belong to the export, or keep it elsewhere; OSError."""
        if _by_export(path) or path.name.startswith(".") or path.name in _NOBODYS:
            path.unlink()
        else:
            self._move(path)

    def _move(self, path: Path) -> None:
        place = self._root / SET_ASIDE / path.parent.relative_to(self._root)
        place.mkdir(parents=True, exist_ok=True)
        names = (f"{path.stem}{end}{path.suffix}" for end in chain([""], map("_{}".format, count(2))))
        path.rename(next(place / name for name in names if not os.path.lexists(place / name)))
        self.number += 1


def _by_export(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISREG(found.st_mode) and not found.st_mtime_ns % 1_000_000 and found.st_mtime_ns % 1_000_000_000 > 0


class _Files(Pictures):
    """Files of single pictures, in folders. One of the right size and time is as it should be, and is not read again.

    Its time is when its picture was made; it gets it once its bytes are on the disk. What nobody put into a folder is
    removed from it when the folder is done, and so are the files of other folders below `root` that match `patterns`,
    which an earlier export left; what a user put or changed there is set `aside`.
    """

    def __init__(self, root: Path, aside: _Aside, *patterns: str) -> None:
        self._root, self._aside, self._patterns = root, aside, patterns
        self._folders: dict[Path, dict[str, int | None]] = {}  # by name the time that a new file is to get
        self._done: set[Path] = set()

    def has(self, name: str, made_at: float, mark: str, size: int | None = None) -> bool:
        """Whether a file is there, of this time and `size` (None: of any); StorageError."""
        path = self._root / name
        names = self._folders.setdefault(path.parent, {})
        with storing(path), contextlib.suppress(FileNotFoundError):
            found = path.stat()
            if found.st_mtime_ns == _time(made_at) and size in {None, found.st_size}:
                names[path.name] = None
                return True
        return False

    def write(self, name: str, made_at: float, mark: str, read: Callable[[], bytes], size: int = 0) -> None:
        """Write a file over what may be there; StorageError."""
        path = self._root / name
        with storing(path):
            temporary = path.parent / f"{TEMPORARY}{hashlib.sha256(path.name.encode()).hexdigest()[:16]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            data = read()
            temporary.write_bytes(data)
            reach("export.written")
            self._aside.keep(path, data)
            temporary.replace(path)
            reach("export.placed")
        self._folders.setdefault(path.parent, {})[path.name] = _time(made_at)

    def settle(self, folder: str) -> None:
        """Put what was written into a folder so far on the disk; StorageError."""
        path = self._root / folder
        names = self._folders.get(path, {})
        fresh = [(path / name, at) for name, at in list(names.items()) if at is not None]
        if not fresh:
            return
        with storing(path), ThreadPoolExecutor(THREADS, "batchflux-sync") as threads:
            for _ in threads.map(_settled, fresh):
                pass
            sync_folder(path)
        names.update((one.name, None) for one, _ in fresh)

    def done(self, folder: str) -> None:
        """Put what was written into a folder on the disk, and remove what does not belong to it; StorageError."""
        self.settle(folder)
        path = self._root / folder
        names = self._folders.pop(path, {})
        self._done.add(path)
        with storing(path):
            with os.scandir(path) as entries:
                strange = [entry.path for entry in entries if entry.name not in names and not entry.is_dir()]
            for one in strange:
                self._aside.remove(Path(one))
            sync_folder(path)

    def put_text(self, name: str, made_at: float, text: str) -> None:
        """Write a small text, unless it is there; StorageError."""
        path, data = self._root / name, text.encode(errors="replace")
        with storing(path), contextlib.suppress(FileNotFoundError):
            if path.stat().st_size == len(data) and path.read_bytes() != data:
                self._aside.remove(path)
        self.put(name, made_at, "", lambda: data, len(data))

    def close(self) -> None:
        """Be done with all folders that are left."""
        for folder in list(self._folders):
            self.done(folder.relative_to(self._root).as_posix())
        others = (path for pattern in self._patterns for path in self._root.glob(pattern))
        for folder in [path for path in others if path.is_dir() and path not in self._done]:
            with storing(folder):
                for path in [one for one in folder.iterdir() if not one.is_dir()]:
                    self._aside.remove(path)
            _remove_empty(folder, self._root)


def _time(made_at: float) -> int:
    """Return the time of a file, in nanoseconds, to the millisecond."""
    return int(made_at * 1000) * 1_000_000


def _settled(fresh: tuple[Path, int]) -> None:
    path, at = fresh
    sync_file(path)
    os.utime(path, ns=(at, at))


def _same_bytes(one: Path, other: Path) -> bool:
    """Whether both files are there and hold the same; OSError when one cannot be read."""
    try:
        with one.open("rb") as left, other.open("rb") as right:
            if os.fstat(left.fileno()).st_size != os.fstat(right.fileno()).st_size:
                return False
            while data := left.read(_CHUNK):
                if data != right.read(_CHUNK):
                    return False
            return True
    except FileNotFoundError:
        return False


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove a folder below `root`, and those that it is in, as far as they are empty; StorageError."""
    with storing(folder):
        while folder != root and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent
