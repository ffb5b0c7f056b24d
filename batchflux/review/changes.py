"""What of a ledger changed since when: each row that is to be seen has a number that grows with every change of it.

A listener says up to which number it knows all, and gets the rows behind it: so a stream can break off and be taken up
again anywhere, a slow listener costs no memory, and a row that changed ten times meanwhile is sent once.

Changes are noticed by looking, which works on every file system. `PRAGMA data_version` tells in one small read whether
another connection has committed. Then only what can have changed is read: rows that are new, that are under way or
were, and what was judged. Everything is compared again when a run begins or ends (edits, moved files), and now and
then, so rarely that it takes at most a twentieth of the time. Reads are brief: each holds off a commit.

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
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

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
        self._at: dict[int, int] = {}  # number → its latest sequence, in which they grow
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
        began = self._clock()
        if self._dirty and (began >= self._next_full or (changed and self._run_changed(connection))):
            self._dirty = False
            self._run_changed(connection)
            self._compare(connection, "1", set())
            now = self._clock()
            self._next_full = now + _SHARE * (now - began)
        elif changed:
            self._compare(connection, f"number > {self._largest} OR ({_PENDING})", self._under_way)
        return changed or self.sequence != before

    def news(self, since: int, most: int) -> News:
        """Return what changed after `since`, at most so many rows."""
        reset = 0 < since < self._reset_at or since > self.sequence
        sequence = self._reset_at if reset else max(since, self._reset_at)
        first = bisect_right(list(self._at.values()), sequence)
        some = list(islice(self._at.items(), first, first + most))
        more = first + len(some) < len(self._at)
        return News(
            numbers=[number for number, _ in some if number in self._marks],
            gone=[self._keys[number].hex() for number, _ in some if number not in self._marks],
            sequence=some[-1][1] if some else sequence,
            more=more,
            reset=reset,
        )

    def close(self) -> None:
        """Let go of the ledger; the next look opens it again."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _open(self) -> sqlite3.Connection | None:
        """Return a connection to the ledger that is there now, None when there is none."""
        try:
            found = self._path.stat()
            file = (found.st_dev, found.st_ino) if found.st_size else None
        except OSError:
            file = None
        if file != self._file:
            self.close()
            if self._file is not None:
                self.sequence += 1
                self._reset_at = self.sequence
                self._forget()
            self._file = file
        if file is None:
            return None
        if self.connection is None:
            self._version = -1
            self.connection = beside(self._path)
        made = self.connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs_open'").fetchone()
        return self.connection if made else None

    def _run_changed(self, connection: sqlite3.Connection) -> bool:
        run = get_meta(connection, "began"), get_meta(connection, "clean")
        changed, self._run = run != self._run, run
        return changed

    def _compare(self, connection: sqlite3.Connection, condition: str, more: set[int]) -> None:
        """Read the rows of a condition, `more` and what was judged; number what changed, in the manifest's order."""
        query = f"SELECT number FROM jobs WHERE {condition}"  # noqa: S608  constants and a number
        numbers = more | {row[0] for row in connection.execute(query).fetchall()}
        judged: set[int] = set()
        revision = last_revision(connection)
        if revision != self._revision:
            keys = judged_since(connection, self._revision)
            judged = {row[0] for row in rows_where(connection, "number", "jobs WHERE key", keys)}
            self._revision = revision
        changed: list[tuple[int, int]] = []
        for row in rows_where(connection, _COLUMNS, "known WHERE number", [*(numbers | judged)]):
            number, key, listed, status, position = row[:5]
            self._largest = max(self._largest, number)
            if status == "pending":
                self._under_way.add(number)
            else:
                self._under_way.discard(number)
            mark = hash(row) if listed and status in _ENDED else None
            if mark == self._marks.get(number) and (mark is None or number not in judged):
                continue
            changed.append((position, number))
            self._keys[number] = key
            self._marks.pop(number, None)
            if mark is not None:
                self._marks[number] = mark
        for _, number in sorted(changed):
            self.sequence += 1
            self._at.pop(number, None)  # to the end
            self._at[number] = self.sequence


def rows_where(connection: sqlite3.Connection, columns: str, where: str, values: Sequence[object]) -> Iterator[Any]:
    """Yield columns of the rows whose value is one of these; `where` is a table and, behind WHERE, a column."""
    for first in range(0, len(values), _PAGE):
        some = values[first : first + _PAGE]
        query = f"SELECT {columns} FROM {where} IN ({','.join('?' * len(some))})"  # noqa: S608  constants and marks
        yield from connection.execute(query, some).fetchall()


def sequence_of(text: str) -> int | None:
    """Return the sequence number that a client sent, None when the text is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None
