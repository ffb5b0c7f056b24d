"""Where the pictures of an output folder are: in its files, or in the bucket that mirrors it.

With `output.keep_local: false` a picture is in the bucket alone, below the mirror's address, under its name or, for a
while after a rename, under the one that it had: `Known.mirrored` says which. Whoever reads pictures asks here. What
opens the bucket is the folder's own: its address from the ledger, `stores` from its manifest.yaml, and secrets by name
from the environment or `.env` beside the manifest.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from batchflux.errors import StorageError
from batchflux.ledger.tables import get_meta
from batchflux.manifest.kept import stores_of_folder
from batchflux.output.durable import unreadable
from batchflux.output.folder_store import FolderStore
from batchflux.output.stores.base import Address, read

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from batchflux.output.stores.base import ObjectStore

_REST = 30.0  # seconds for which a bucket that failed is not asked again
_FAULTS = 3  # one after another, from which on that is the bucket's, and not a single picture's


class Whence(NamedTuple):
    """What a ledger says of where its pictures are: the mirror's address, and the folder of the manifest."""

    mirror: str | None = None
    base: str | None = None

    @classmethod
    def of(cls, connection: sqlite3.Connection) -> Whence:
        """Look it up."""
        return cls(get_meta(connection, "mirror"), get_meta(connection, "base"))


class FolderPictures:
    """The pictures of one output folder, by name: `images/x.png`. Methods block, and may run in any thread.

    `mirrored` is the name that a picture has in the mirror, None where it is not there. `whence` is what the ledger
    says. A bucket is opened when it is first needed: then UsageError where the extra `cloud` is not installed or
    `stores` is wrong, StorageError where the bucket cannot be read; then it rests a while.
    """

    def __init__(self, folder: Path, whence: Whence, environ: Mapping[str, str] = os.environ) -> None:
        self._folder, self._whence, self._environ = folder, whence, environ
        self._files = FolderStore(folder)
        self._fault, self._faults, self._rests_until = "", 0, 0.0

    @property
    def mirror(self) -> str | None:
        """The mirror's address; None: there is none."""
        return self._whence.mirror

    def path(self, name: str | None) -> Path | None:
        """Return a picture's file; None when there is none, or none that can be looked at."""
        with suppress(StorageError):
            return self._files.path(name) if name else None
        return None

    def address(self, mirrored: str) -> str:
        """Return where a picture in the mirror is, as s3://bucket/prefix/images/x.png."""
        place = self._place
        return str(place._replace(key=place.below(mirrored)))

    def read(self, name: str, sha256: str, mirrored: str | None) -> bytes:
        """Return a picture's bytes, here or in the mirror; StorageError: those of this digest are in neither."""
        path = self._files.path(name)
        try:
            data = None if path is None else path.read_bytes()
        except OSError as error:
            raise unreadable(self._folder / name, error) from error
        if data is not None and hashlib.sha256(data).hexdigest() == sha256:
            return data
        there = None if mirrored is None else self.in_mirror(mirrored, sha256)
        if there is None:
            raise changed(self._folder / name) if data is not None else self._lost(name, mirrored)
        return there

    def in_mirror(self, mirrored: str, sha256: str) -> bytes | None:
        """Return a picture's bytes out of the mirror; None when those of this digest are not there."""
        if time.monotonic() < self._rests_until:
            raise StorageError(self._fault)
        try:
            data = read(self._bucket, self._place.below(mirrored))
        except StorageError as error:
            self._faults += 1
            if self._faults >= _FAULTS:
                self._fault, self._rests_until = str(error), time.monotonic() + _REST
            raise
        self._faults = 0
        return None if data is None or hashlib.sha256(data).hexdigest() != sha256 else data

    def file_url(self, mirrored: str) -> str:
        """Return the URL of a picture in a mirror that is a folder of this machine; '' where the mirror is none."""
        place = self._place
        return f"file:///{quote(place.below(mirrored))}" if place.scheme == "file" else ""

    def link(self, mirrored: str, seconds: int) -> str:
        """Return a URL by which anyone sees a picture in the mirror for so long; its query is a secret."""
        return self._bucket.sign(self._place.below(mirrored), seconds)

    @property
    def _place(self) -> Address:
        return Address.of(str(self._whence.mirror))

    @cached_property
    def _bucket(self) -> ObjectStore:
        base = None if self._whence.base is None else Path(self._whence.base)
        return stores_of_folder(self._folder, base, self._environ).at(self._place)

    def _lost(self, name: str, mirrored: str | None) -> StorageError:
        also = "" if mirrored is None else f", nor are its bytes at {self.address(mirrored)}"
        return StorageError(f"{self._folder / name} is not there{also}: put it back, then try again")


def changed(path: Path) -> StorageError:
    """Return what to raise for a picture whose bytes are not those that are on record."""
    what = f"{path} is not the picture that is on record, although it has its size"
    return StorageError(f"{what}: put that back, or take the file away to leave it out, then export again")


def pictures_of(folder: Path, connection: sqlite3.Connection) -> FolderPictures:
    """Return the pictures of an output folder."""
    return FolderPictures(folder, Whence.of(connection))
