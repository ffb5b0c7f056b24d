"""How an export writes: files whole or not at all and never twice the same, pictures read ahead, samples in shards."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from batchflux.failpoints import reach
from batchflux.output.base import TEMPORARY
from batchflux.output.durable import storing, sync_file, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from typing import BinaryIO

    from batchflux.exports.base import Sample

THREADS, AHEAD = 4, 8  # that read pictures; pictures that are read before their turn
_CHUNK = 1 << 20
_json = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode


class Placed(NamedTuple):
    """A sample and what reads its picture."""

    sample: Sample
    image: Callable[[], bytes]


class Shards:
    """Puts samples into shards of at most so many samples and bytes, each given to `make` with its split and number.

    A shard of one picture may have more bytes. Where a shard ends follows from the samples alone.
    """

    def __init__(self, samples: int, size: int, make: Callable[[str, int, Sequence[Placed]], None]) -> None:
        self._samples, self._size, self._make = samples, size, make
        self._waiting: dict[str, list[Placed]] = {}
        self._bytes: dict[str, int] = {}
        self.made: dict[str, int] = {}

    def add(self, sample: Sample, image: Callable[[], bytes], size: int) -> None:
        """Add a sample that takes `size` bytes; one that no longer fits begins the next shard."""
        waiting = self._waiting.setdefault(sample.split, [])
        if waiting and (len(waiting) == self._samples or self._bytes[sample.split] + size > self._size):
            self._flush(sample.split)
        self._waiting[sample.split].append(Placed(sample, image))
        self._bytes[sample.split] = self._bytes.get(sample.split, 0) + size

    def close(self) -> None:
        """Make the last shards."""
        for split, waiting in self._waiting.items():
            if waiting:
                self._flush(split)

    def _flush(self, split: str) -> None:
        number = self.made.get(split, 0)
        self._make(split, number, self._waiting[split])
        self.made[split] = number + 1
        self._waiting[split], self._bytes[split] = [], 0


def recipe(rules: str, placed: Iterable[Placed]) -> str:
    """Return what a shard is known by: the digest of all that its bytes follow from, `rules` of writing among it."""
    digest = hashlib.sha256(rules.encode())
    for sample, _ in placed:
        photos = [[photo.source, photo.mark, photo.suffix] for photo in sample.references]
        of = [sample.name, sample.suffix, sample.size, sample.sha256, sample.caption, list(sample.columns.items())]
        digest.update(_json([*of, photos]).encode(errors="surrogatepass") + b"\n")
    return digest.hexdigest()


def read_ahead(placed: Iterable[Placed]) -> Iterator[tuple[Sample, bytes]]:
    """Yield each sample with its picture, in order; some of the next are read meanwhile."""
    waiting: deque[tuple[Sample, Future[bytes]]] = deque()
    with ThreadPoolExecutor(THREADS, "batchflux-export") as threads:
        try:
            for sample, image in placed:
                waiting.append((sample, threads.submit(image)))
                if len(waiting) > AHEAD:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            threads.shutdown(cancel_futures=True)


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
            if same_bytes(temporary, path):
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


def put(path: Path, data: bytes) -> None:
    """Write a small file, unless it is there already and the same; StorageError."""
    with writing(path) as file:
        file.write(data)


class Files:
    """Files of single pictures, in folders. One of the right size and time is as it should be, and is not read again.

    Its time is when its picture was made; it gets it once its bytes are on the disk. What nobody put into a folder is
    removed from it when the folder is done, and so are the files of other folders below `root` that match `patterns`,
    which an earlier export left.
    """

    def __init__(self, root: Path, *patterns: str) -> None:
        self._root, self._patterns = root, patterns
        self._folders: dict[Path, dict[str, int | None]] = {}  # by name the time that a new file is to get
        self._done: set[Path] = set()

    def put(self, path: Path, made_at: float, read: Callable[[], bytes], size: int | None = None) -> None:
        """Write a file, unless it is there, of this time and `size` (None: of any); StorageError."""
        at = int(made_at * 1000) * 1_000_000
        names = self._folders.setdefault(path.parent, {})
        with storing(path):
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                if found.st_mtime_ns == at and size in {None, found.st_size}:
                    names[path.name] = None
                    return
            temporary = path.parent / f"{TEMPORARY}{hashlib.sha256(path.name.encode()).hexdigest()[:16]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(read())
            reach("export.written")
            temporary.replace(path)
            reach("export.placed")
            names[path.name] = at

    def settle(self, folder: Path) -> None:
        """Put what was written into a folder so far on the disk, while more is; StorageError."""
        names = self._folders.get(folder, {})
        fresh = [(folder / name, at) for name, at in list(names.items()) if at is not None]
        if not fresh:
            return
        with storing(folder), ThreadPoolExecutor(THREADS, "batchflux-sync") as threads:
            for _ in threads.map(_settle, fresh):
                pass
            sync_folder(folder)
        names.update((path.name, None) for path, _ in fresh)

    def done(self, folder: Path) -> None:
        """Put what was written into a folder on the disk, and remove what does not belong to it; StorageError."""
        self.settle(folder)
        names = self._folders.pop(folder, {})
        self._done.add(folder)
        with storing(folder):
            with os.scandir(folder) as entries:
                strange = [entry.path for entry in entries if entry.name not in names and not entry.is_dir()]
            for path in strange:
                Path(path).unlink()
            sync_folder(folder)

    def put_text(self, path: Path, made_at: float, text: str) -> None:
        """Write a small text, unless it is there; StorageError."""
        data = text.encode(errors="replace")
        with storing(path), contextlib.suppress(FileNotFoundError):
            if path.stat().st_size == len(data) and path.read_bytes() != data:
                path.unlink()
        self.put(path, made_at, lambda: data, len(data))

    def close(self) -> None:
        """Be done with all folders that are left."""
        for folder in list(self._folders):
            self.done(folder)
        others = (path for pattern in self._patterns for path in self._root.glob(pattern))
        remove_folders([path for path in others if path.is_dir() and path not in self._done], self._root)


def _settle(fresh: tuple[Path, int]) -> None:
    path, at = fresh
    sync_file(path)
    os.utime(path, ns=(at, at))


def same_bytes(one: Path, other: Path) -> bool:
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


def remove(paths: Iterable[Path]) -> None:
    """Remove files of an earlier export that this one has not; StorageError."""
    for path in paths:
        with storing(path):
            path.unlink(missing_ok=True)


def remove_folders(folders: Iterable[Path], root: Path) -> None:
    """Remove the files of folders, and the folders below `root` that are empty then; StorageError."""
    for folder in folders:
        with storing(folder):
            for path in list(folder.iterdir()):
                if not path.is_dir():
                    path.unlink()
        remove_empty(folder, root)


def remove_empty(folder: Path, root: Path) -> None:
    """Remove a folder below `root`, and those that it is in, as far as they are empty; StorageError."""
    with storing(folder):
        while folder != root and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent


def line(value: Any) -> bytes:
    """Return a value as a line of JSON."""
    return (json.dumps(value, ensure_ascii=False) + "\n").encode(errors="replace")
