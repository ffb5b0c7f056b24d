"""What is on record of the files in a bucket: which are there, and of what each was made, so that none is sent again.

A listing tells names and sizes. What files were made of is recorded in `.batchflux-written/` of the place: a claim once
a file is there, and a withdrawal before a file that has a claim is written over, so that a claim is true whenever the
export is killed. The record is written in parts of rising numbers, each created and never written over: who finds that
another process wrote the next part has lost the place to it. A whole export leaves one part, number 0, which follows
from the files alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import uuid
from concurrent.futures import ThreadPoolExecutor
from threading import RLock
from typing import TYPE_CHECKING, Any

from batchflux.errors import FolderBusy, StorageError
from batchflux.exports.places.base import MARKER
from batchflux.failpoints import reach
from batchflux.output.stores.base import read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from batchflux.output.stores.base import Address, ObjectStore

WRITTEN = ".batchflux-written"
AT_ONCE = 16  # objects that are sent, copied or removed at the same time
_PART = 500  # lines of a part: of so many files at most it is forgotten, by a kill, that they are there
_DIGITS = 6
_WHOLE = f"{WRITTEN}/000000"
_TABLE = "CREATE TABLE files (name PRIMARY KEY, size INTEGER, mark, claimed INTEGER, kept INTEGER) WITHOUT ROWID"
_UPSERT = "INSERT INTO files (name, {0}) VALUES (?, {1}) ON CONFLICT DO UPDATE SET {2}"


class Record:
    """The files of a place in a bucket; `spool` is for what is under way. It may be used in any thread."""

    def __init__(self, store: ObjectStore, place: Address, spool: Path) -> None:
        self._store, self._place, self._spool = store, place, spool
        self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._connection.execute(_TABLE)
        self._connection.execute("BEGIN")
        self._lock = RLock()
        self._lines: list[Sequence[Any]] = []
        self._owner, self._first, self._next, self._changed = uuid.uuid4().hex, 1, 1, False

    def begin(self) -> None:
        """Take the place, then read what is there; FolderBusy where another process takes it now, StorageError."""
        numbers = self._numbers()
        self._first = self._next = max(numbers, default=0) + 1
        self._changed = numbers != {0}
        self.flush(anyway=True)
        parts = []
        for found in self._store.find(self._place.below("")):
            name = found.key.removeprefix(self._place.below(""))
            if name.startswith(f"{WRITTEN}/"):
                parts.append(name)
            elif name != MARKER:
                self._set(name, size=found.size)
        for part in sorted(parts):
            self._replay(part)

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes; None when it is not there."""
        return self._of(name)[0]

    def made_of(self, name: str) -> str | None:
        """Return what a file was made of; None when that is not known."""
        size, mark, claimed = self._of(name)
        return mark if size is not None and size == claimed else None

    def names(self, pattern: str, *, left: bool = False) -> list[str]:
        """Return the names that match a pattern, in order; with `left` those that were not kept."""
        kept = " AND kept IS NULL" if left else ""
        statement = f"SELECT name FROM files WHERE size IS NOT NULL AND name GLOB ?{kept} ORDER BY name"  # noqa: S608
        exact = re.compile("".join({"*": "[^/]*", "?": "[^/]"}.get(sign, re.escape(sign)) for sign in pattern))
        with self._lock:
            return [name for (name,) in self._connection.execute(statement, (pattern,)) if exact.fullmatch(name)]

    def keep(self, name: str) -> None:
        """Note that a file belongs to this export."""
        self._set(name, kept=1)

    def withdraw(self, names: Iterable[str]) -> None:
        """Record that files are about to be written over, as far as that is needed; FolderBusy, StorageError."""
        with self._lock:
            claimed = [name for name in names if self._of(name)[1] is not None]
            for name in claimed:
                self._set(name, mark=None, claimed=None)
                self._lines.append([name])
            if claimed:
                self.flush()

    def claim(self, name: str, mark: str, size: int) -> None:
        """Note that a file is there; on record with the next `flush`."""
        with self._lock:
            self._set(name, size=size, mark=mark, claimed=size, kept=1)
            self._lines.append([name, mark, size])
            self._changed = True
            if len(self._lines) >= _PART:
                self.flush()

    def gone(self, name: str) -> None:
        """Note that a file is not there any more."""
        with self._lock:
            self._set(name, size=None)
            self._changed = True

    def flush(self, *, anyway: bool = False) -> None:
        """Put on record what was noted; FolderBusy where another process took the place, StorageError."""
        with self._lock:
            if not self._lines and not anyway:
                return
            self._write(b"".join(_line(line) for line in [{"owner": self._owner}, *self._lines]))
            reach("export.recorded")
            self._lines.clear()
            self._next += 1

    def finish(self) -> None:
        """Leave one part, which says what is there; FolderBusy, StorageError."""
        self.flush(anyway=True)
        if self._changed:
            path = self._spool / "record"
            with path.open("wb") as file:
                file.writelines(_line(row) for row in self._whole())
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            self._store.put(self._place.below(_WHOLE), path, digest, over=True)
            path.unlink()
            reach("export.recorded")
        *others, last = [self._place.below(f"{WRITTEN}/{number:0{_DIGITS}}") for number in range(1, self._next)]
        at_once(self._store.delete, others)
        self._store.delete(last)  # who begins meanwhile finds it taken, until all is done

    def close(self) -> None:
        """Forget it."""
        self._connection.close()

    def _write(self, data: bytes) -> None:
        """Create the next part; FolderBusy where it is there, or the one before is gone: who ends removes all."""
        key = self._place.below(f"{WRITTEN}/{self._next:0{_DIGITS}}")
        try:
            self._store.put(key, data, hashlib.sha256(data).hexdigest())
        except StorageError:
            if read(self._store, key) in {None, data}:
                raise
            raise self._busy() from None
        if self._next > self._first and self._next - 1 not in self._numbers():
            self._store.delete(key)
            raise self._busy()

    def _numbers(self) -> set[int]:
        return {int(found.key[-_DIGITS:]) for found in self._store.find(self._place.below(f"{WRITTEN}/"))}

    def _whole(self) -> Iterator[Sequence[Any]]:
        yield from self._connection.execute("SELECT name, mark, size FROM files WHERE claimed = size ORDER BY name")

    def _replay(self, part: str) -> None:
        path = self._spool / "record"
        with path.open("wb") as file:
            if not self._store.fetch(self._place.below(part), file):
                raise self._busy()  # it ends just now
        with path.open("rb") as lines:
            for line in lines:
                said = json.loads(line)
                if isinstance(said, list):
                    name, mark, size = said if len(said) > 1 else (*said, None, None)
                    self._set(name, mark=mark, claimed=size)
        path.unlink()

    def _busy(self) -> FolderBusy:
        what = f"Another process exports to {self._place}"
        return FolderBusy(f"{what}: wait for it, then export again, or choose another place.")

    def _of(self, name: str) -> tuple[int | None, str | None, int | None]:
        statement = "SELECT size, mark, claimed FROM files WHERE name = ?"
        with self._lock:
            row: tuple[int | None, str | None, int | None] | None = self._connection.execute(
                statement, (name,)
            ).fetchone()
        return row or (None, None, None)

    def _set(self, name: str, **values: Any) -> None:
        columns = (
            ", ".join(values),
            ", ".join("?" * len(values)),
            ", ".join(f"{one} = excluded.{one}" for one in values),
        )
        with self._lock:
            self._connection.execute(_UPSERT.format(*columns), (name, *values.values()))


def at_once(work: Callable[[Any], object], things: Iterable[Any]) -> None:
    """Do the same with several things at a time; the first error is raised once what was begun has ended."""
    with ThreadPoolExecutor(AT_ONCE, "batchflux-bucket") as threads:
        try:
            for _ in threads.map(work, things):
                pass
        finally:
            threads.shutdown(cancel_futures=True)


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass") + b"\n"
