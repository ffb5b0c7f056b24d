"""All of the review that reads or writes the ledger: one thread, one thing at a time, so no locks.

Each row that is to be seen has a number that grows with every change of it. A listener says up to which number it knows
all, and gets the rows behind it: a slow one costs no memory, and a stream can be taken up again anywhere.

Changes are noticed by looking: `PRAGMA data_version` tells whether another connection has committed. Then only what can
have changed is read: rows that are new, that are under way or were, and what was judged. All is compared again when a
run begins or ends (edits, moved files), and rarely in between. Reads are brief: each holds off a commit.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

from batchflux.errors import StorageError
from batchflux.folders.pictures import FolderPictures, Whence
from batchflux.ledger.connection import beside
from batchflux.ledger.decisions import Before, Decided, Decision, decide, undo
from batchflux.ledger.reviews import judged_since, last_revision
from batchflux.ledger.tables import COLUMNS, Known, empty_ledger, ended_numbers, get_meta, select
from batchflux.monitoring.metrics import metrics_in
from batchflux.output.base import LEDGER, variants
from batchflux.output.folder import FolderLock
from batchflux.report.content import base_of, page_header, page_nights, page_rows
from batchflux.report.page import build_page
from batchflux.report.thumbs import THUMB_NAME, PictureUrls, thumb_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

P = ParamSpec("P")
T = TypeVar("T")

_AT_ONCE = 500
_DIGITS = 18
_SHARE = 20  # what took long is not done again for this many times as long: to compare all, to count for a header
_LONG = 0.02  # seconds of work in one go
_ENDED = frozenset({"done", "failed", "unknown"})
# What a page shows of a job that can change: enough to tell whether it did.
_COLUMNS = (
    "number, key, listed, status, position, id, tags, attempts, possibly_billed, cost, maybe_cost, in_flight, link,"
    " file_name, sha256, error_code, error, started_at, finished_at"
)
_PENDING = "status != 'done' AND status = 'pending'"  # the first half lets SQLite use the index jobs_open


class News(NamedTuple):
    """What a listener does not know yet: rows to read by number, and keys no longer to be shown.

    `sequence` is up to where it knows all then; with `reset` all that it knew is of another ledger.
    """

    numbers: list[int]
    gone: list[str]
    sequence: int
    more: bool
    reset: bool


class LedgerChanges:
    """Follows one ledger. Not for several threads at once. `clock` gives seconds."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._file: tuple[int, int] | None = None
        self.connection: sqlite3.Connection | None = None
        self.sequence = self._reset_at = 0
        self._forget()

    def _forget(self) -> None:
        self._at: dict[int, int] = {}  # number → its latest sequence, in which they grow
        self._marks: dict[int, int] = {}  # number → digest of what is shown; only of rows that are to be seen
        self._keys: dict[int, bytes] = {}
        self._under_way: set[int] = set()
        self._largest, self._version, self._revision = 0, -1, 0
        self._run: tuple[str | None, str | None] | None = None
        self._dirty, self._next_full = True, 0.0

    def look(self) -> bool:
        """Notice what changed; return whether anything did. Raises StorageError or sqlite3.Error."""
        before = self.sequence
        connection = self._open()
        if connection is None:
            return self.sequence != before
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        changed = version != self._version
        self._version = version
        self._dirty |= changed
        began = self._clock()
        run = get_meta(connection, "began"), get_meta(connection, "clean")
        if self._dirty and (began >= self._next_full or run != self._run):
            self._dirty, self._run = False, run
            self._compare(connection, "1", set())
            now = self._clock()
            self._next_full = now + _SHARE * (now - began)
        elif changed:
            self._compare(connection, f"number > {self._largest} OR ({_PENDING})", self._under_way)
        return changed or self.sequence != before

    def news(self, since: int, most: int) -> News:
        """Return what changed after `since`, at most so many rows."""
        if 0 < since < self._reset_at or since > self.sequence:
            return News(numbers=[], gone=[], sequence=self._reset_at, more=bool(self._at), reset=True)
        sequence = max(since, self._reset_at)
        first = bisect_right(list(self._at.values()), sequence)
        some = list(islice(self._at.items(), first, first + most))
        return News(
            numbers=[number for number, _ in some if number in self._marks],
            gone=[self._keys[number].hex() for number, _ in some if number not in self._marks],
            sequence=some[-1][1] if some else sequence,
            more=first + len(some) < len(self._at),
            reset=False,
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
                self._reset_at = self.sequence = self.sequence + 1
                self._forget()
            self._file = file
        if file is None:
            return None
        if self.connection is None:
            self._version = -1
            self.connection = beside(self._path)
        made = self.connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs_open'").fetchone()
        return self.connection if made else None

    def _compare(self, connection: sqlite3.Connection, condition: str, more: set[int]) -> None:
        """Read the rows of a condition, `more` and what was judged; number what changed, in the manifest's order."""
        query = f"SELECT number FROM jobs WHERE {condition}"  # noqa: S608  constants and a number
        numbers = more | {number for (number,) in connection.execute(query).fetchall()}
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
            (self._under_way.add if status == "pending" else self._under_way.discard)(number)
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
    for first in range(0, len(values), _AT_ONCE):
        some = values[first : first + _AT_ONCE]
        query = f"SELECT {columns} FROM {where} IN ({','.join('?' * len(some))})"  # noqa: S608  constants and marks
        yield from connection.execute(query, some).fetchall()


def sequence_of(text: str) -> int | None:
    """Return the sequence number that a client sent, None when the text is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None


class InMirror(NamedTuple):
    """A picture that the mirror has, by its digest in hex."""

    pictures: FolderPictures
    mirrored: str
    sha256: str

    def read(self) -> bytes | None:
        """Return its bytes, None when they are not there any more; blocks. UsageError, StorageError."""
        return self.pictures.in_mirror(self.mirrored, self.sha256)


class NoLedgerError(LookupError):
    """Nothing has been run in this folder yet."""


class LedgerAccess:
    """One output folder, for the pages that look at it. A ledger that is not there (yet) is an empty one.

    Methods block, and are called by way of `do`: what SQLite refuses is a StorageError, and the next call tries anew.
    After what took long its thread rests `rest` times as long, for whom it shares a process with.
    """

    def __init__(self, folder: Path, rest: float = 0.0) -> None:
        self.folder, self._path, self._rest = folder, folder / LEDGER, rest
        self._thread = ThreadPoolExecutor(1, "batchflux-review")
        self._changes = LedgerChanges(self._path)
        self._whence = Whence()  # of self._urls
        self._urls = PictureUrls(folder, None, served=True)
        self._header: dict[str, Any] = {}
        self._held: bool | None = None
        self._header_due, self._next_header = True, 0.0

    async def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do what touches the folder, in its thread."""
        job = partial(self._work, partial(work, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._thread, job)

    def _work(self, work: Callable[[], T]) -> T:
        began = time.monotonic()
        try:
            return work()
        except (sqlite3.Error, OSError) as error:
            self._changes.close()
            raise StorageError(f"The ledger {self._path} cannot be read ({error}): try again.") from error
        finally:
            took = time.monotonic() - began
            if self._rest and took > _LONG:
                time.sleep(self._rest * took)

    async def close(self) -> None:
        """Let go of the ledger, and end the thread."""
        await self.do(self._changes.close)
        self._thread.shutdown()

    def look(self, *, exact: bool = False) -> None:
        """Notice what changed in the ledger and about the run; `exact` has the header counted anew in any case."""
        changed = self._changes.look()
        before, self._held = self._held, FolderLock(self.folder).is_held()
        self._header_due |= exact or changed or before != self._held
        if exact:
            self._next_header = 0.0

    def changed(self, since: int) -> tuple[News, list[dict[str, Any]]]:
        """Return what changed after `since`, some of it at a time, with the rows in the order in which they did."""
        news = self._changes.news(since, _AT_ONCE)
        return news, list(self.rows(news.numbers))

    def header(self) -> dict[str, Any]:
        """Return the page's header, counted anew when something changed and the last count is not too fresh."""
        began = time.monotonic()
        if self._header_due and began >= self._next_header:
            self._header_due = False
            with closing(empty_ledger()) as empty:
                self._header = page_header(self.folder, self._changes.connection or empty)
            now = time.monotonic()
            self._next_header = now + _SHARE * (now - began)
        return self._header

    def metrics(self) -> str:
        """Return the folder's numbers as Prometheus reads them."""
        self.look()
        if self._changes.connection is None:
            raise NoLedgerError
        return metrics_in(self.folder, self._changes.connection)

    def page(self, token: str) -> Iterator[bytes]:
        """Return the whole page in pieces; each is made in the thread that asks for it."""
        self.look(exact=True)
        connection = self._changes.connection
        numbers = ended_numbers(connection) if connection is not None else []
        runs = [] if connection is None else page_nights(self.folder, connection)
        sequence = self._changes.sequence
        return build_page(self.rows(numbers), self.header(), token=token, sequence=sequence, nights=runs)

    def rows(self, numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Yield these rows as they are when they are come to, in the thread that asks for them."""
        for first in range(0, len(numbers), _AT_ONCE):
            # Asked for anew: the ledger may have been replaced while the answer was on its way.
            connection = self._changes.connection
            if connection is None:
                return
            self._place(connection)
            yield from page_rows(connection, numbers[first : first + _AT_ONCE], self._urls)

    def _place(self, connection: sqlite3.Connection) -> None:
        """Look where pictures and references are, as the ledger has it now."""
        whence = Whence.of(connection)
        if whence != self._whence:
            pictures = FolderPictures(self.folder, whence)
            self._urls = PictureUrls(self.folder, base_of(connection), served=True, pictures=pictures)
            self._whence = whence

    def decide(self, decision: Decision) -> tuple[list[int], Decided]:
        """Record a decision on the disk; return the numbers of its rows, and what came of it.

        Raises NoLedgerError, and what ledger.reviews.decide does.
        """
        if not self._path.is_file():
            raise NoLedgerError
        decided = decide(self._path, decision)
        return self._numbers((*decision.keys, *decision.siblings)), decided

    def undo(self, before: Sequence[Before]) -> tuple[list[int], dict[tuple[bytes, int], int]]:
        """Take a decision back on the disk; return the numbers of its rows, and what ledger.reviews.undo does."""
        undone = undo(self._path, before)
        return self._numbers([one.key for one in before]), undone

    def _numbers(self, keys: Sequence[bytes]) -> list[int]:
        """Return the numbers of the jobs with these keys, in the manifest's order, once what changed is noticed."""
        self.look()
        if self._changes.connection is None:
            return []
        found = rows_where(self._changes.connection, "position, number", "jobs WHERE key", keys)
        return [number for _, number in sorted(found)]

    def in_mirror(self, name: str) -> InMirror | None:
        """Return the picture of this name that the mirror has; None when it has none."""
        if not self._path.is_file():
            return None
        with closing(beside(self._path)) as connection:
            self._place(connection)
            if self._whence.mirror is None:  # of an older version's ledger, which has no such table
                return None
            names = variants(name.encode(errors="replace").decode())  # an address may hold what is no text
            found = [known for known in select(connection, "planned", names) if known.file_name == name]
        there = [InMirror(self._urls.pictures, one.mirrored, one.sha256 or "") for one in found if one.mirrored]
        return next(iter(there), None)

    def picture_of(self, thumb: str) -> str | None:
        """Return the name, relative to the folder, of what a thumbnail of this name is made of, if there is one."""
        match = THUMB_NAME.fullmatch(thumb)
        if match is None or not self._path.is_file():
            return None
        first = bytes.fromhex(match[1])
        query = f"SELECT {COLUMNS} FROM known WHERE key >= ? AND key < ?"  # noqa: S608  constants
        with closing(beside(self._path)) as connection:
            jobs = map(Known.of, connection.execute(query, (first, first + b"\xff" * 24)).fetchall())
        return next((known.file_name for known in jobs if thumb_name(known) == thumb), None)

    def reference_of(self, name: str) -> Path | None:
        """Return the file that a reference's copy of this name is made of, None when no row asked for it."""
        return self._urls.originals.get(name)
