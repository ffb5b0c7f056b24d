"""Writes `report.html`: the page of an output folder, beside its pictures, whole or not at all."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from batchflux.errors import StorageError
from batchflux.exports.dataset import has_dataset, write_dataset
from batchflux.ledger.connection import reading
from batchflux.ledger.tables import ENDED, ended_numbers, jobs_by_number
from batchflux.output.base import REPORT
from batchflux.output.folder import ledger_of
from batchflux.report.content import base_of, page_header, page_rows
from batchflux.report.page import build_page
from batchflux.report.thumbs import PictureUrls, make_thumbs

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator
    from pathlib import Path

MOST_LINKS = 24_000_000  # characters of links in one report; 100,000 rows without them are about 13 MB
_SHORT_LINK = 120


class Report(NamedTuple):
    """A written report: its file, its rows, how many thumbnails were made, and the jobs whose picture is not there."""

    path: Path
    rows: int
    thumbs: int
    missing: tuple[str, ...]


def write_report(folder: Path, started: Callable[[int], Callable[[], object]] = lambda _: lambda: None) -> Report:
    """Write the report of an output folder, and its card where it has none; works while a run goes on, too.

    `started` is told how many jobs there are and returns what to call after each thumbnail. Raises UsageError: there is
    no ledger in it; StorageError: the ledger cannot be read or the folder cannot take the report.
    """
    with reading(ledger_of(folder)) as connection:
        numbers = ended_numbers(connection)
        urls = PictureUrls(folder, base_of(connection))
        thumbs, missing = make_thumbs(jobs_by_number(connection, numbers), urls, started(len(numbers)))
        rows = _rows(connection, numbers, urls)
        path = folder / REPORT
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with temporary.open("wb") as file:
                file.writelines(build_page(rows, page_header(folder, connection)))
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):  # what cannot be removed either is written over by the next report
                temporary.unlink(missing_ok=True)
            remedy = "free space or repair its permissions, then try again."
            raise StorageError(f"{path} cannot be written ({error.strerror}): {remedy}") from error
        if not has_dataset(folder):
            write_dataset(folder, connection)
    return Report(path=path, rows=len(numbers), thumbs=thumbs, missing=tuple(missing))


def _rows(connection: sqlite3.Connection, numbers: list[int], urls: PictureUrls) -> Iterator[dict[str, Any]]:
    query = f"SELECT COALESCE(SUM(LENGTH(link)), 0) FROM known WHERE {ENDED}"  # noqa: S608  a constant
    short_links = connection.execute(query).fetchone()[0] > MOST_LINKS
    for row in page_rows(connection, numbers, urls):
        link = row["result_url"]
        if short_links and row["full"] and link is not None and len(link) > _SHORT_LINK:
            # The picture is here, and links would be most of the file. results.csv has them whole.
            row["result_url"] = f"{link[:_SHORT_LINK]}…"
        yield row
