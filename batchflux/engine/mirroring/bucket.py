"""The bucket that mirrors a folder: objects by the names of its files. All of it blocks, and may run in any thread."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from posixpath import splitext
from typing import TYPE_CHECKING

from batchflux.errors import StorageError, UsageError
from batchflux.failpoints import reach
from batchflux.output import durable
from batchflux.output.base import CARD, IMAGES, MANIFEST, METADATA, REPLACED, RESULTS, SUMMARY
from batchflux.output.folder_store import FolderStore
from batchflux.output.stores.base import PassingError, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batchflux.ledger.books.mirrored import Picture
    from batchflux.output.stores.base import Address, ObjectStore

FOLLOWING = (RESULTS, METADATA, CARD, MANIFEST, SUMMARY)  # files that are put over those of the run before
MARKER = ".batchflux"  # an object that says whose mirror this is
_DIGITS = 32  # of a sha256, in the name of an object that made way
_TRIES = 2  # of a file that is written beside


class AwayError(Exception):
    """The bucket did not do what it was asked; the text says why, `passes` whether that may pass by itself."""

    def __init__(self, error: StorageError) -> None:
        super().__init__(str(error))
        self.passes = isinstance(error, PassingError)


class RefusedError(Exception):
    """A picture cannot be in the bucket until somebody sees to it; the text says why."""


class TakenError(RefusedError):
    """There is an object of a picture's name with other bytes, of which this is the digest."""

    def __init__(self, message: str, sha256: str) -> None:
        super().__init__(message)
        self.sha256 = sha256


class MirrorBucket:
    """The objects of one output folder, below `address`."""

    def __init__(self, store: ObjectStore, address: Address, folder: Path) -> None:
        self._store, self._address, self._folder = store, address, folder
        self.to = str(address).rstrip("/")

    def claim(self, mark: str, *, proven: bool = False) -> None:
        """See that objects can be put, and note there whose mirror it is; `proven`: it is this folder's.

        AwayError: they cannot; UsageError: it is another folder's, or has others' files that would be written over.
        """
        data, key = f"{mark}\n".encode(), self._address.below(MARKER)
        if not proven and self._there(MARKER) is None:
            self._see_room()
        try:
            self._store.put(key, data, _digest(data))
        except StorageError as error:
            if self._there(MARKER, error) in {None, data}:
                raise AwayError(error) from error
            what = f"{self.to} is the mirror of another output folder, says its object {MARKER}"
            remedy = f"choose another output.mirror, or remove {MARKER} there if that folder is no more"
            raise UsageError(f"{what}: {remedy}. Nothing was spent.") from error

    def _see_room(self) -> None:
        for name in FOLLOWING:
            if self._there(name) is not None:
                what = f"{self.to} has a {name} that is not of this folder, and would get its own"
                raise UsageError(f"{what}: choose another output.mirror, or move that away. Nothing was spent.")

    def put(self, picture: Picture, data: bytes | None = None) -> bool:
        """Put the file of a picture, or these bytes; False when there is neither. AwayError, RefusedError, TakenError.

        Only over what is known to be `there` another object is written.
        """
        key, over = self._address.below(picture.name), picture.there is not None
        path = self._folder / picture.name
        if data is None and not path.is_file():
            return False
        try:
            self._store.put(key, path if data is None else data, picture.sha256, over=over)
        except StorageError as error:
            raise self._explained(picture, path, error) from error
        reach("mirror.put")
        return True

    def replaced(self, picture: Picture) -> bytes | None:
        """Return our object that a picture is about to be put over; None when there is nothing to lose.

        TakenError: it is another; AwayError.
        """
        there = self._there(picture.name)
        if there is None or _digest(there) == picture.sha256:
            return None
        if _digest(there) != picture.there:
            raise self._taken(picture, there)
        return there

    def set_aside(self, aside: Picture, data: bytes) -> None:
        """Put the bytes of an object that makes way under another name; AwayError."""
        try:
            self._store.put(self._address.below(aside.name), data, aside.sha256)
        except StorageError as error:
            raise AwayError(error) from error
        reach("mirror.set_aside")

    def fetch(self, picture: Picture, name: str) -> bytes:
        """Return the bytes of a picture out of the object of a name; AwayError, RefusedError: they are others now."""
        data = self._there(name)
        if data is None or _digest(data) != picture.sha256:
            what = "gone" if data is None else "another object"
            raise RefusedError(
                f"{picture.name} is not here, and {self.to}/{name}, which had it, is {what}: bring it back"
            )
        return data

    def bring_back(self, picture: Picture) -> None:
        """Put the file of a picture in its place again; AwayError, RefusedError; StorageError: the folder cannot."""
        data = self.fetch(picture, picture.name)
        if not self.has_file(picture.name):
            FolderStore(self._folder).put(picture.name, data)

    def put_file(self, name: str, known: str | None) -> str | None:
        """Put a file of the folder, over what is there; return its digest, None where there is none or it is `known`.

        AwayError.
        """
        path, why = self._folder / name, StorageError("")
        for _ in range(_TRIES):
            if not path.is_file():
                return None
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest == known:
                return None
            try:
                self._store.put(self._address.below(name), path, digest, over=True)
            except StorageError as error:  # a review may have written it meanwhile
                why = error
            else:
                reach("mirror.followed")
                return digest
        raise AwayError(why)

    def has_file(self, name: str) -> bool:
        """Whether the folder has a file of this name."""
        return (self._folder / name).is_file()

    def files(self) -> Iterator[str]:
        """Yield the names of the files that are below images/."""
        for folder, _, names in os.walk(self._folder / IMAGES):
            yield from (Path(folder, name).relative_to(self._folder).as_posix() for name in names)

    def remove(self, pictures: Iterable[Picture]) -> None:
        """Remove the files of pictures that have their bytes; StorageError."""
        for one in pictures:
            with durable.storing(path := self._folder / one.name):
                if path.is_file() and _digest(path.read_bytes()) == one.sha256:
                    path.unlink()
            reach("mirror.removed")

    def spare(self, picture: Picture) -> None:
        """Remove the file of a picture that was put once, if it has its bytes, and the bucket has it still or again.

        AwayError, RefusedError: it does not; StorageError.
        """
        path, key = self._folder / picture.name, self._address.below(picture.name)
        try:
            size = path.stat().st_size
            found = next(iter(self._store.find(key)), None)
        except FileNotFoundError:
            return
        except StorageError as error:
            raise AwayError(error) from error
        if found is None or found[:2] != (key, size):
            if _digest(path.read_bytes()) != picture.sha256:
                return
            self.put(picture._replace(there=None))
        self.remove([picture])

    def _there(self, name: str, cause: StorageError | None = None) -> bytes | None:
        """Return the bytes of an object, None when there is none; AwayError, which says the `cause` if there is one."""
        try:
            return read(self._store, self._address.below(name))
        except StorageError as error:
            raise AwayError(cause or error) from error

    def _explained(self, picture: Picture, path: Path, error: StorageError) -> Exception:
        """Return what a refusal means: whether the file was changed, or another object is in the way, or neither."""
        if isinstance(error, PassingError):
            return AwayError(error)
        try:
            here = path.read_bytes() if path.is_file() else None
        except OSError as unread:
            return RefusedError(f"{picture.name} cannot be read here ({unread.strerror}): see to it")
        if here is not None and _digest(here) != picture.sha256:
            return RefusedError(f"{picture.name} was changed here since it was made: put it back, or move it away")
        there = None if picture.there is not None else self._there(picture.name, error)
        if there is None or _digest(there) == picture.sha256:
            return AwayError(error)
        return self._taken(picture, there)

    def _taken(self, picture: Picture, there: bytes) -> TakenError:
        what = f"{self.to}/{picture.name} is another object, not of this folder: move it away"
        return TakenError(what, _digest(there))


def aside_name(picture: Picture) -> str:
    """Return where the object that has a picture's name lies, too, before the picture is put over it."""
    return f"{REPLACED}/{(picture.there or '')[:_DIGITS]}{splitext(picture.name)[1]}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
