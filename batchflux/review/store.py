"""All of the review that touches the folder: one thread, one thing at a time, so no locks; every call here blocks.

A ledger that is not there (yet) is an empty one. What SQLite refuses is a StorageError, and the next call tries anew.
"""

from __future__ import annotations

import functools
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from batchflux.errors import StorageError
from batchflux.exports.projection import show_verdicts
from batchflux.ledger.connection import beside
from batchflux.ledger.judging import Asked, Decision, decide
from batchflux.ledger.ledger import COLUMNS, Known, empty_ledger
from batchflux.ledger.reviews import verdicts_on
from batchflux.ledger.tables import ended_numbers, jobs_by_number
from batchflux.output.base import LEDGER
from batchflux.output.folder import FolderLock
from batchflux.report.header import page_header
from batchflux.report.ledgers import base_of
from batchflux.report.page import Live, build_page
from batchflux.report.places import THUMB_NAME, Places, thumb_name
from batchflux.report.rows import page_row
from batchflux.review.board import Board

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from batchflux.exports.projection import Outcome

P = ParamSpec("P")
T = TypeVar("T")

_AT_ONCE = 500
_SHARE = 20  # a header is not counted again for this many times as long as it took
_PASSING = ("made_at", "seconds")  # what a header says of the moment only


class NoLedgerError(LookupError):
    """Nothing has been run in this folder yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows for the page, keys no longer to be shown, and up to which number the page knows all then."""

    rows: list[dict[str, Any]]
    gone: list[str]
    sequence: int
    more: bool
    reset: bool


def _reading(method: Callable[Concatenate[Store, P], T]) -> Callable[Concatenate[Store, P], T]:
    @functools.wraps(method)
    def wrapper(self: Store, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise StorageError(f"The ledger {self.path} cannot be read ({error}): try again.") from error

    return wrapper


class Store:
    """One output folder, for the pages that look at it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / LEDGER
        self._board = Board(self.path)
        self._base: Path | None = None
        self._places = Places(folder, None)
        self._header: dict[str, Any] = {}
        self._held: bool | None = None
        self._next_header = 0.0
        self._header_due = True
        self.news = 0  # looks that found something to tell

    @_reading
    def look(self, *, exact: bool = False) -> None:
        """Notice what changed in the ledger and about the run; `news` grows when there is something to tell.

        `exact` has the header counted anew, however fresh it is.
        """
        changed = self._board.look()
        held = FolderLock(self.folder).is_held()
        self._header_due |= exact or changed or held != self._held
        self._held = held
        if exact:
            self._next_header = 0.0
        self.news += self._header_due

    @_reading
    def batch(self, since: int) -> Batch:
        """Return rows that changed after `since`, in the order in which they did."""
        news = self._board.news(since, _AT_ONCE)
        rows = self._rows(self._board.connection, news.numbers)
        return Batch(rows=rows, gone=news.gone, sequence=news.sequence, more=news.more, reset=news.reset)

    @_reading
    def header(self) -> dict[str, Any]:
        """Return the page's header, counted anew when something changed and the last count is not too fresh."""
        began = time.monotonic()
        if self._header_due and began >= self._next_header:
            self._header_due = False
            connection = self._board.connection
            if connection is None:
                with closing(empty_ledger()) as empty:
                    self._header = page_header(self.folder, empty)
            else:
                self._header = page_header(self.folder, connection)
            now = time.monotonic()
            self._next_header = now + _SHARE * (now - began)
        return self._header

    @_reading
    def page(self, token: str) -> Iterator[bytes]:
        """Yield the whole page in pieces; each is made in the thread that asks for it."""
        self.look(exact=True)
        header, live = self.header(), Live(token=token, sequence=self._board.sequence)
        connection = self._board.connection
        numbers = ended_numbers(connection) if connection is not None else []
        return build_page(chain.from_iterable(self.pages_of(numbers)), header, live=live)

    def decide(self, decision: Decision) -> tuple[list[int], list[Asked]]:
        """Record a decision; return the numbers of its rows, and the redos it asked for. On the disk on return.

        Raises:
            NoLedgerError: nothing has been run here yet.
            NoSuchJobError: see storage.judging, as for UnlistedJobError and StorageError.
        """
        if not self.path.is_file():
            raise NoLedgerError
        asked = decide(self.path, decision)
        return self._numbers_of(decision.keys), asked

    @_reading
    def _numbers_of(self, keys: Sequence[bytes]) -> list[int]:
        self.look()
        connection = self._board.connection
        if connection is None:
            return []
        found: list[tuple[int, int]] = []
        for first in range(0, len(keys), _AT_ONCE):
            some = keys[first : first + _AT_ONCE]
            query = f"SELECT position, number FROM jobs WHERE key IN ({','.join('?' * len(some))})"  # noqa: S608  only marks
            found += connection.execute(query, some).fetchall()
        return [number for _, number in sorted(found)]

    def pages_of(self, numbers: Sequence[int]) -> Iterator[list[dict[str, Any]]]:
        """Yield these rows as they are when they are come to, some at a time, in the thread that asks for them."""
        for first in range(0, len(numbers), _AT_ONCE):
            # Asked for anew: the ledger may have been replaced while the answer was on its way.
            yield self._rows(self._board.connection, numbers[first : first + _AT_ONCE])

    @_reading
    def _rows(self, connection: sqlite3.Connection | None, numbers: Iterable[int]) -> list[dict[str, Any]]:
        if connection is None:
            return []
        base = base_of(connection)
        if base != self._base:
            self._base, self._places = base, Places(self.folder, base)
        jobs = list(jobs_by_number(connection, numbers))
        said = verdicts_on(connection, [known.key for known in jobs])
        rows = []
        for known in jobs:
            verdict = said.get(known.key)
            review, note = ("", "") if verdict is None else (verdict.review, verdict.note)
            rows.append(page_row(known, self._places, review, note))
        return rows

    @_reading
    def picture_of(self, thumb: str) -> str | None:
        """Return the file, relative to the folder, that a thumbnail of this name is made of, if there is one."""
        match = THUMB_NAME.fullmatch(thumb)
        if match is None or not self.path.is_file():
            return None
        first = bytes.fromhex(match[1])
        query = f"SELECT {COLUMNS} FROM jobs WHERE key >= ? AND key < ?"  # noqa: S608  constants
        with closing(beside(self.path)) as connection:
            rows = connection.execute(query, (first, first + b"\xff" * 24)).fetchall()
        jobs = map(Known.of, rows)
        return next((known.file_name for known in jobs if thumb_name(known) == thumb), None)

    def reference_of(self, name: str) -> Path | None:
        """Return the file that a reference's copy of this name is made of, None when no row asked for it."""
        return self._places.source_of(name)

    def show_verdicts(self) -> Outcome:
        """Bring results.csv up to the latest verdicts, unless a run holds the folder; see storage.projection."""
        try:
            return show_verdicts(self.folder)
        except sqlite3.Error as error:
            raise StorageError(f"The ledger {self.path} cannot be read ({error}): try again.") from error

    def close(self) -> None:
        """Let go of the ledger; the next call opens it again."""
        self._board.close()


def lasting(header: dict[str, Any]) -> dict[str, Any]:
    """Return a header without what is true of the moment only, to compare."""
    return {name: value for name, value in header.items() if name not in _PASSING}
