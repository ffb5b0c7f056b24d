"""Pictures on disk. The rule: under images/ a file is a verified picture, whole, or it is not there.

Whatever is unfinished lives in `.spool/` beside images/ and is renamed into its place once it is verified and on the
disk, so that a kill at any moment leaves nothing half-written among the pictures. Names in `.spool/`: `.tmp-...` is
being written and worthless after a crash; `<key>-<sha256>` holds the picture that came with the answer to the job of
that key, paid for, until it is stored.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from itertools import count
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from batchflux.errors import Code, JobError, StorageError
from batchflux.failpoints import reach
from batchflux.models import Stored, Verify
from batchflux.output import durable
from batchflux.output.verify import Expected, check

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from batchflux.output.base import Kind
    from batchflux.output.verify import Shape

__all__ = ["Expected", "ImageStore"]

IMAGES = "images"
SPOOL = ".spool"
TEMPORARY = ".tmp-"
_PRIVATE = 0o700
_EMPTY = frozenset({"", "."})  # parts of a name that it means the same without
_KEPT = re.compile("[0-9a-f]{64}-[0-9a-f]{64}")
_SUFFIXES: dict[Kind, tuple[str, ...]] = {"jpeg": (".jpg", ".jpeg"), "png": (".png",), "webp": (".webp",)}
_ALL_SUFFIXES = tuple(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)


class ImageStore:
    """Keeps a run's pictures in its output folder. Safe to use from several threads.

    The bytes of a stored picture are on the disk when `store` returns; its name lasts after `sync`.

    Args:
        root: the output folder, which must exist.

    Raises:
        StorageError: the folders for pictures cannot be made.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._spool = self._root / SPOOL
        self._below = f"{self._root}/".replace("//", "/")  # names are joined as text: a Path costs as much as a rename
        self._mark = uuid.uuid4().hex
        self._numbers = count()
        self._folders: set[str] = set()
        self._unsynced: set[str] = set()
        with durable.storing(self._root):
            durable.make_folders(self._root, self._root / IMAGES)
            durable.make_folders(self._root, self._spool, _PRIVATE)

    def spool(self, data: bytes, key: str) -> str:
        """Keep the picture that came with the answer to a job (`key`); it outlasts a crash from here on.

        The name says whose picture it is: a crash before the ledger knows of it loses nothing (see `kept_pictures`).

        Returns:
            A name relative to the output folder: `.spool/<key>-<sha256>`. `store` takes the file behind it and
            removes it.

        Raises:
            StorageError: the bytes cannot be kept.
        """
        reach("spool.begun")
        name = f"{key}-{hashlib.sha256(data).hexdigest()}"
        temporary, place = self._temporary(), f"{self._below}{SPOOL}/{name}"
        with durable.storing(place):
            self._in_folder(lambda: durable.write_new(temporary, data), self._spool, _PRIVATE)
            durable.move(temporary, place)
            durable.sync_folder(self._spool)
        reach("spool.kept")
        return f"{SPOOL}/{name}"

    def store(self, source: bytes | Path, *, file_name: str, expect: Expected, verify: Verify) -> Stored:
        """Verify a picture and put it in its place, durably.

        Args:
            source: the bytes, or the file that holds them (for a spooled picture the output folder / its name). A
                file in `.spool/` is moved, and is gone afterwards; any other is copied.
            file_name: the planned place, relative to the output folder (`images/x.jpg`). When the picture turns out
                to be of another kind, the suffix follows it.
            expect: what was asked for.
            verify: `decode` or `structure`.

        Raises:
            JobError: `bad_image` or `echoed_input` when it is not what was asked for, `download` when the
                source is gone (dead when it was an answer's own bytes: there is nothing to fetch again),
                `invalid_request` when there can be no such file.
            StorageError: the source cannot be read or the folder cannot take the picture.

        After an error nothing is stored; a temporary source (`.spool/.tmp-...`) is removed, any other is left.
        """
        target = self._target(file_name)
        if isinstance(source, bytes):
            return self._keep(source, None, target, check(source, expect, verify))
        path = source.absolute()
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return self._stored_before(path, target, expect, verify)
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror}; check the disk, then run again") from error
        try:
            return self._keep(data, path, target, check(data, expect, verify))
        except BaseException:
            if path.name.startswith(TEMPORARY):
                path.unlink(missing_ok=True)
            raise

    def sweep(self, recorded: Collection[str] | None = None) -> int:
        """Remove what a crash left behind; return the number of files. Only while nothing is being stored.

        Args:
            recorded: the names from `spool` that the ledger still needs. When given, spooled pictures that it has
                never heard of, or is done with, are removed too; otherwise only half-written files are.

        Raises:
            StorageError: a file cannot be removed.
        """
        images = self._root / IMAGES
        with durable.storing(self._spool):
            left = [path for path in self._spool.iterdir() if self._is_left(path, recorded)]
            if images.stat().st_dev != self._spool.stat().st_dev:  # see durable.move
                left += images.rglob(f"{TEMPORARY}*")
            for path in left:
                path.unlink(missing_ok=True)
        return len(left)

    def _temporary(self) -> str:
        return f"{self._below}{SPOOL}/{TEMPORARY}{self._mark}-{next(self._numbers)}"

    def _is_left(self, path: Path, recorded: Collection[str] | None) -> bool:
        if path.name.startswith(TEMPORARY):
            return True
        return recorded is not None and f"{SPOOL}/{path.name}" not in recorded

    def _target(self, file_name: str) -> str:
        parts = tuple(file_name.split("/"))
        if not _EMPTY.isdisjoint(parts):
            parts = PurePosixPath(file_name).parts
        if len(parts) < 2 or parts[0] != IMAGES or ".." in parts or "\0" in file_name:  # noqa: PLR2004  images/x
            raise JobError(Code.INVALID_REQUEST, f"{file_name!a} lies outside {IMAGES}/; change output.file_name")
        return self._below + "/".join(parts)

    def _keep(self, data: bytes, source: Path | None, target: str, proof: tuple[Shape, str]) -> Stored:
        """Bring verified bytes into their place: `source` itself when it lies in the spool, else a new file."""
        shape, digest = proof
        target = _with_suffix(target, shape.kind)
        with durable.storing(target, named_by_job=True):
            if source is not None and self._in_spool(source):
                durable.sync_file(source)
                self._move(str(source), target)
            else:
                temporary = self._temporary()
                self._in_folder(lambda: durable.write_new(temporary, data), self._spool, _PRIVATE)
                try:
                    self._move(temporary, target)
                except BaseException:
                    durable.remove(temporary)
                    raise
        return self._stored(target, shape, digest, len(data))

    def sync(self) -> None:
        """Make the names of all pictures stored so far last.

        Raises:
            StorageError: their folder is gone or cannot be synced.
        """
        while self._unsynced:
            folder = Path(self._unsynced.pop())
            with durable.storing(folder):
                durable.sync_folder(folder)
        reach("pictures.synced")

    def _move(self, source: str, target: str) -> None:
        folder = target.rpartition("/")[0]
        reach("picture.moving")
        if folder in self._folders:
            self._in_folder(lambda: durable.move(source, target), folder)
        else:
            durable.make_folders(self._root, Path(folder))
            self._folders.add(folder)
            durable.move(source, target)
        reach("picture.moved")
        self._unsynced.add(folder)

    def _in_folder(self, write: Callable[[], None], folder: Path | str, mode: int = 0o777) -> None:
        """Write in a folder that was there; make it again when somebody removed it and left the output folder."""
        try:
            write()
        except FileNotFoundError:
            durable.make_folders(self._root, Path(folder), mode)
            write()

    def _in_spool(self, path: Path) -> bool:
        return path.parent == self._spool or path.parent.samefile(self._spool)

    def _stored(self, target: str, shape: Shape, digest: str, size: int) -> Stored:
        name = target[len(self._below) :]
        return Stored(file_name=name, width=shape.width, height=shape.height, bytes=size, sha256=digest)

    def _stored_before(self, path: Path, target: str, expect: Expected, verify: Verify) -> Stored:
        """Find the picture of a spooled file that is gone: a kill can fall between its move and the ledger's entry."""
        if path.name.startswith(TEMPORARY):
            raise JobError(Code.DOWNLOAD, f"the downloaded file {path} is gone, so it has to be fetched again")
        digest = path.name.rpartition("-")[2]
        suffix = _suffix(target)
        others = _ALL_SUFFIXES if suffix.lower() in _ALL_SUFFIXES else ()
        for name in (target, *(target.removesuffix(suffix) + other for other in others)):
            place = Path(name)
            if place.is_file():
                data = place.read_bytes()
                if hashlib.sha256(data).hexdigest() == digest:
                    shape, _ = check(data, expect, verify)
                    return self._stored(name, shape, digest, len(data))
        message = f"the picture kept in {path} is gone, so it has to be made again"
        raise JobError(Code.DOWNLOAD, message, dead=True)


def kept_pictures(root: Path) -> dict[bytes, str]:
    """Return the pictures that came with answers and wait in the spool: their names by the key of their job.

    Raises:
        StorageError: the spool cannot be read.
    """
    with durable.storing(root / SPOOL):
        names = [path.name for path in (root / SPOOL).glob("*-*")]
    return {bytes.fromhex(name[:64]): f"{SPOOL}/{name}" for name in names if _KEPT.fullmatch(name)}


def _suffix(target: str) -> str:
    """Return what PurePath.suffix does."""
    name = target.rpartition("/")[2]
    dot = name.rfind(".")
    return name[dot:] if 0 < dot < len(name) - 1 else ""


def _with_suffix(target: str, kind: Kind) -> str:
    """Return `target` with a suffix that tells the truth; a name without a picture's suffix stays as it is."""
    suffix = _suffix(target)
    if suffix.lower() not in _ALL_SUFFIXES or suffix.lower() in _SUFFIXES[kind]:
        return target
    return target.removesuffix(suffix) + _SUFFIXES[kind][0]
