"""What a manifest names in buckets and is read as a whole: tables, files of lines, and the names that a glob finds.

Each is had once for one manifest, so that all that goes through its rows sees the same bytes, however often.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from batchflux.errors import ReadError, StorageError, UsageError
from batchflux.manifest.reading.objects import is_object, object_address
from batchflux.output.stores.base import Address
from batchflux.output.stores.opening import Stores
from batchflux.photos import matches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batchflux.output.stores.base import StoreSettings

_NOT_IN_NAMES, _LONGEST_NAME = re.compile(r"[^\w.-]", re.ASCII), 60

Key = TypeVar("Key")
Value = TypeVar("Value")


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
                self._folder = Path(tempfile.mkdtemp(prefix="batchflux-"))
                weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
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
            path.unlink()
            raise ReadError(None, "does not exist")
        return path
