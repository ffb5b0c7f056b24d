"""What a manifest names in buckets and is read as a whole: tables, files of lines, and the names that a glob finds.

Each is had once for one manifest, so that all that goes through its rows sees the same bytes, however often.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from batchflux.errors import ReadError, StorageError, UsageError
from batchflux.manifest.reading.objects import is_object, object_address
from batchflux.output.stores.base import Address
from batchflux.output.stores.opening import Stores
from batchflux.photos import matches, near

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batchflux.output.stores.base import StoreSettings

_PREFIX, _SECONDS_TO_LOCK = "batchflux-inputs-", 60  # from when a folder is made until it is held
_LOOKED_AT = 1000  # objects, for one whose name is near
_NOT_IN_NAMES, _LONGEST_NAME = re.compile(r"[^\w.-]", re.ASCII), 60

Key = TypeVar("Key")
Value = TypeVar("Value")


def _private_folder(owner: Fetched) -> Path:
    """Make a folder that lives as long as its owner; one that a killed program left behind goes now."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    held = os.open(folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    weakref.finalize(owner, _remove, folder, held)
    for other in folder.parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's, or one that is in use, or goes just now
            if other != folder and time.time() - other.stat().st_mtime > _SECONDS_TO_LOCK:
                left = os.open(other, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(other)
                finally:
                    os.close(left)
    return folder


def _remove(folder: Path, held: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(held)


def _anew(settings: Mapping[str, StoreSettings]) -> Fetched:
    return Fetched(Stores(look_up=os.environ.get, settings=settings))


class Fetched:
    """Files out of buckets, as files in a folder of their own, which is removed with this; and what globs found."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._files: dict[str, Path | ReadError] = {}
        self._matches: dict[tuple[str, ...], list[str] | ReadError] = {}
        self._one_at_a_time = threading.Lock()
        self._folder: Path | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what is said of buckets, and no secret: another process looks its own up, and reads anew."""
        return _anew, (dict(self._stores.settings),)

    def file(self, address: str) -> Path:
        """Return where the bytes of an object stand, under a name with its suffix; ReadError.

        Raises ValueError: the address names none.
        """
        place = Address.of(object_address(address))
        return self._once(self._files, address, lambda: self._fetch(place))

    def matches(self, patterns: Sequence[str], base: Path) -> list[str]:
        """Return the files that patterns mean, as `photos.matches` does; ValueError says why there are none."""
        if not any(map(is_object, patterns)):
            return matches(patterns, base, self._stores)
        try:
            return self._once(self._matches, tuple(patterns), lambda: self._found(patterns, base))
        except ReadError as error:
            raise ValueError(error.message) from None

    def _found(self, patterns: Sequence[str], base: Path) -> list[str]:
        try:
            return matches(patterns, base, self._stores)
        except (StorageError, UsageError) as error:
            raise ReadError(None, f"the bucket cannot be listed: {error}") from None
        except ValueError as error:
            raise ReadError(None, str(error)) from None

    def _once(self, known: dict[Key, Value | ReadError], key: Key, get: Callable[[], Value]) -> Value:
        """Return what is got by a key, or raise ReadError, as the first time."""
        with self._one_at_a_time:
            if key not in known:
                try:
                    known[key] = get()
                except ReadError as error:
                    known[key] = error
            found = known[key]
        if isinstance(found, ReadError):
            raise ReadError(found.line, found.message)
        return found

    def _fetch(self, place: Address) -> Path:
        try:
            if self._folder is None:
                self._folder = _private_folder(self)
            name = _NOT_IN_NAMES.sub("_", place.key.rpartition("/")[2])[-_LONGEST_NAME:]
            path = self._folder / f"{len(self._files)}-{name}"
            with path.open("xb") as target:
                is_there = self._stores.at(place).fetch(place.key, target)
        except OSError as error:
            where = f"cannot be kept in {tempfile.gettempdir()} while it is read"
            raise ReadError(None, f"{where}: {error.strerror}; free space, or name another folder by TMPDIR") from None
        except (StorageError, UsageError, ValueError) as error:
            raise ReadError(None, f"cannot be read: {str(error).removeprefix(f'{place}: ')}") from None
        if not is_there:
            raise ReadError(None, f"does not exist{self._hint(place)}")
        return path

    def _hint(self, place: Address) -> str:
        """Return which object beside a place is likely to be meant, as the end of a sentence."""
        folder, slash, name = place.key.rpartition("/")
        names: list[str] = []
        with suppress(StorageError):  # a key may be allowed to read, and not to list
            beside = islice(self._stores.at(place).find(f"{folder}{slash}"), _LOOKED_AT)
            names += [one.key.rpartition("/")[2] for one in beside if one.key.rpartition("/")[0] == folder]
        found = near(name, names)
        return "" if found is None else f"; did you mean {place._replace(key=f'{folder}{slash}{found}')}?"
