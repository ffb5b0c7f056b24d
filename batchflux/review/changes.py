"""What of a ledger changed since when: each row that is to be seen has a number that grows with every change of it.

A listener says up to which number it knows all, and gets the rows behind it: so a stream can break off and be taken up
again anywhere, a slow listener costs no memory, and a row that changed ten times meanwhile is sent once.

How changes are noticed: by looking. `PRAGMA data_version` tells in one small read whether another connection has
committed; that works on every file system and platform, where file notification does not, and many commits a second
cost one look. Then only what can have changed is read: rows that are new, that are under way or were, and what was
judged. Everything is compared again when a run begins or ends (edits, moved files), and now and then, so rarely that it
takes at most a twentieth of the time. Every read is brief, for a reader holds off the writer's commit.

The folder may be replaced, its ledger not be there yet or gone: then the counting begins anew.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from batchflux.ledger.connection import beside
from batchflux.ledger.reviews import judged_since, last_revision
from batchflux.ledger.tables import get_meta

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

Row = tuple[Any, ...]

_PAGE = 1000
_DIGITS = 18
_SHARE = 20  # a full look waits this many times as long as the last one took
_ENDED = frozenset({"done", "failed", "unknown"})
# What a page shows of a job that can change: enough to tell whether it did.
_COLUMNS = (
    "number, key, listed, status, position, id, tags, attempts, possibly_billed, cost, maybe_cost, in_flight, link,"
    " file_name, sha256, error_code, error, started_at, finished_at"
)
_PENDING = "status != 'done' AND status = 'pending'"  # the first half lets SQLite use the index jobs_open


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What a listener does not know yet: rows to read by number, keys no longer to be shown.

    `sequence` is up to where it knows all then, `more` whether there is more behind it. `reset` says that all it knew
    is of another ledger.
    """

    numbers: list[int]
    gone: list[str]
    sequence: int
    more: bool
    reset: bool


class LedgerChanges:
    """Follows one ledger. Not for several threads at once. `clock` gives seconds."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._file: tuple[int, int] | None = None
        self.connection: sqlite3.Connection | None = None
        self.sequence = 0
        self._reset_at = 0
        self._forget()

    def _forget(self) -> None:
        self._log: list[tuple[int, int]] = []  # (sequence, number), growing
        self._at: dict[int, int] = {}  # number → its latest sequence
        self._marks: dict[int, int] = {}  # number → digest of what is shown; only of rows that are to be seen
        self._keys: dict[int, bytes] = {}
        self._under_way: set[int] = set()
        self._largest = 0
        self._version = -1
        self._revision = 0
        self._run: tuple[str | None, str | None] | None = None
        self._dirty = True
        self._next_full = 0.0

    def look(self) -> bool:
        """Notice what changed; return whether anything did.

        Raises:
            StorageError: the ledger cannot be opened.
            sqlite3.Error: it cannot be read; it is opened again with the next look.
        """
        before = self.sequence
        connection = self._open()
        if connection is None:
            return self.sequence != before
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        changed = version != self._version
        self._version = version
        self._dirty |= changed
        if self._dirty and (self._clock() >= self._next_full or (changed and self._run_changed(connection))):
            self._compare_all(connection)
        elif changed:
            self._compare_some(connection)
        return changed or self.sequence != before

    def news(self, since: int, most: int) -> News:
        """Return what changed after `since`, at most so many rows."""
        reset = 0 < since < self._reset_at or since > self.sequence
        sequence = self._reset_at if reset else max(since, self._reset_at)
        first = bisect_right(self._log, (sequence, 1 << 62))
        numbers: list[int] = []
        gone: list[str] = []
        for at, number in islice(self._log, first, None):
            if self._at[number] == at:
                if len(numbers) + len(gone) == most:
                    break
                if number in self._marks:
                    numbers.append(number)
                else:
                    gone.append(self._keys[number].hex())
            sequence = at
        return News(numbers=numbers, gone=gone, sequence=sequence, more=sequence < self.sequence, reset=reset)

    def close(self) -> None:
        """Let go of the ledger; the next look opens it again."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _open(self) -> sqlite3.Connection | None:
        """Return a connection to the ledger that is there now, None when there is none."""
        try:
            found = self._path.stat()
        except OSError:
            found = None
        file = None if found is None or found.st_size == 0 else (found.st_dev, found.st_ino)
        if file != self._file:
            self.close()
            if self._file is not None:
                self.sequence += 1
                self._reset_at = self.sequence
                self._forget()
            self._file = file
        if file is not None and self.connection is None:
            self._version = -1
            self.connection = beside(self._path)
        if self.connection is None or not _is_ledger(self.connection):
            return None
        return self.connection

    def _run_changed(self, connection: sqlite3.Connection) -> bool:
        run = get_meta(connection, "began"), get_meta(connection, "clean")
        changed, self._run = run != self._run, run
        return changed

    def _compare_all(self, connection: sqlite3.Connection) -> None:
        began = self._clock()
        self._dirty = False
        self._run_changed(connection)
        changed: list[tuple[int, int]] = []
        last = 0
        while rows := _select(connection, "number > ? ORDER BY number LIMIT ?", [last, _PAGE]):
            changed += self._compare(rows)
            last = rows[-1][0]
        self._tell(connection, changed)
        now = self._clock()
        self._next_full = now + _SHARE * (now - began)

    def _compare_some(self, connection: sqlite3.Connection) -> None:
        changed: list[tuple[int, int]] = []
        before = list(self._under_way)
        changed += self._compare(_select(connection, f"number > ? OR ({_PENDING})", [self._largest]))
        for first in range(0, len(before), _PAGE):
            some = before[first : first + _PAGE]
            changed += self._compare(_select(connection, f"number IN ({','.join('?' * len(some))})", some))
        self._tell(connection, changed)

    def _compare(self, rows: Iterable[Row]) -> list[tuple[int, int]]:
        """Take notice of rows; return place and number of those that are to be told."""
        changed: list[tuple[int, int]] = []
        for row in rows:
            number, key, listed, status, position = row[:5]
            self._largest = max(self._largest, number)
            if status == "pending":
                self._under_way.add(number)
            else:
                self._under_way.discard(number)
            mark = hash(row) if listed and status in _ENDED else None
            if mark == self._marks.get(number):
                continue
            changed.append((position, number))
            if mark is None:
                del self._marks[number]
            else:
                self._marks[number] = mark
                self._keys[number] = key
        return changed

    def _tell(self, connection: sqlite3.Connection, changed: list[tuple[int, int]]) -> None:
        """Give numbers to what changed, and to what was judged, in the manifest's order."""
        revision = last_revision(connection)
        told = set(changed)
        if revision != self._revision:
            keys = judged_since(connection, self._revision)
            self._revision = revision
            for first in range(0, len(keys), _PAGE):
                some = keys[first : first + _PAGE]
                rows = _select(connection, f"key IN ({','.join('?' * len(some))})", some)
                told |= set(self._compare(rows)) | {(row[4], row[0]) for row in rows if row[0] in self._marks}
        for _, number in sorted(told):
            self.sequence += 1
            self._at[number] = self.sequence
            self._log.append((self.sequence, number))
        if len(self._log) > 2 * len(self._at) + _PAGE:
            self._log = sorted((at, number) for number, at in self._at.items())


def sequence_of(text: str) -> int | None:
    """Return the sequence number that a client sent, None when the text is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None


def _is_ledger(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs_open'").fetchone() is not None


def _select(connection: sqlite3.Connection, condition: str, values: Sequence[object]) -> list[Row]:
    return connection.execute(f"SELECT {_COLUMNS} FROM known WHERE {condition}", values).fetchall()  # noqa: S608  constants and marks
