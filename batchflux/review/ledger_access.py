"""All of the review that reads or writes the ledger: one thread, one thing at a time, so no locks.

Methods block, and are called by way of `do`, but for a few that say otherwise. A ledger that is not there (yet) is an
empty one. What SQLite refuses is a StorageError, and the next call tries anew.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from batchflux.errors import StorageError
from batchflux.ledger.connection import beside
from batchflux.ledger.reviews import Asked, Decision, decide
from batchflux.ledger.tables import COLUMNS, Known, empty_ledger, ended_numbers
from batchflux.output.base import LEDGER
from batchflux.output.folder import FolderLock
from batchflux.report.header import page_header
from batchflux.report.page import Live, build_page
from batchflux.report.rows import base_of, page_rows
from batchflux.report.thumbs import THUMB_NAME, PictureUrls, thumb_name
from batchflux.review.changes import LedgerChanges, rows_where

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from batchflux.review.changes import News

P = ParamSpec("P")
T = TypeVar("T")

_AT_ONCE = 500
_SHARE = 20  # a header is not counted again for this many times as long as it took
_LONG = 0.02  # seconds of work in one go


class NoLedgerError(LookupError):
    """Nothing has been run in this folder yet."""


class LedgerAccess:
    """One output folder, for the pages that look at it.

    After what took long its thread rests `rest` times as long, for whom it shares a process with. `news` counts the
    looks that found something to tell.
    """

    def __init__(self, folder: Path, rest: float = 0.0) -> None:
        self.folder = folder
        self.news = 0
        self._rest = rest
        self._path = folder / LEDGER
        self._thread = ThreadPoolExecutor(1, "batchflux-review")
        self._changes = LedgerChanges(self._path)
        self._base: Path | None = None
        self._urls = PictureUrls(folder, None, served=True)
        self._header: dict[str, Any] = {}
        self._held: bool | None = None
        self._next_header = 0.0
        self._header_due = True

    async def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do what touches the folder, in its thread; raises StorageError when the ledger cannot be read."""
        whole = partial(self._work, partial(work, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._thread, whole)

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
        self.news += self._header_due

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

    def page(self, token: str) -> Iterator[bytes]:
        """Return the whole page in pieces; each is made in the thread that asks for it."""
        self.look(exact=True)
        connection = self._changes.connection
        numbers = ended_numbers(connection) if connection is not None else []
        return build_page(self.rows(numbers), self.header(), live=Live(token=token, sequence=self._changes.sequence))

    def rows(self, numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Yield these rows as they are when they are come to, in the thread that asks for them."""
        for first in range(0, len(numbers), _AT_ONCE):
            # Asked for anew: the ledger may have been replaced while the answer was on its way.
            connection = self._changes.connection
            if connection is None:
                return
            base = base_of(connection)
            if base != self._base:
                self._base, self._urls = base, PictureUrls(self.folder, base, served=True)
            yield from page_rows(connection, numbers[first : first + _AT_ONCE], self._urls)

    def decide(self, decision: Decision) -> tuple[list[int], list[Asked]]:
        """Record a decision; return the numbers of its rows, and the redos it asked for. On the disk on return.

        Raises:
            NoLedgerError: nothing has been run here yet.
            NoSuchJobError: as UnlistedJobError and StorageError, see ledger.reviews.
        """
        if not self._path.is_file():
            raise NoLedgerError
        asked = decide(self._path, decision)
        self.look()
        if self._changes.connection is None:
            return [], asked
        found = rows_where(self._changes.connection, "position, number", "jobs WHERE key", decision.keys)
        return [number for _, number in sorted(found)], asked

    def picture_of(self, thumb: str) -> str | None:
        """Return the file, relative to the folder, that a thumbnail of this name is made of, if there is one."""
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
        return self._urls.source_of(name)
