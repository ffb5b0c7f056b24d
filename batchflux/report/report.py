"""Writes `report.html`: the page of an output folder, beside its pictures, whole or not at all."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchflux.errors import StorageError
from batchflux.ledger.connection import reading
from batchflux.ledger.reviews import verdicts
from batchflux.ledger.tables import ENDED, ended_numbers, jobs_by_number
from batchflux.output.folder import ledger_of
from batchflux.report.header import page_header
from batchflux.report.page import build_page
from batchflux.report.rows import base_of, page_row
from batchflux.report.thumbs import PictureUrls, Thumbs

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batchflux.ledger.tables import Known

REPORT = "report.html"
MOST_LINKS = 24_000_000  # characters of links in one report; 100,000 rows without them are about 13 MB
_SHORT_LINK = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A written report: its file, its rows, how many thumbnails were made, and the jobs whose picture is not there."""

    path: Path
    rows: int
    thumbs: int
    missing: tuple[str, ...]


def write_report(folder: Path, started: Callable[[int], Callable[[], None]] | None = None) -> Report:
    """Write the report of an output folder; works while a run goes on, too.

    `started` is told how many jobs there are and returns what to call after each thumbnail.

    Raises:
        UsageError: there is no ledger in it.
        StorageError: the ledger cannot be read or the folder cannot take the report.
    """
    with reading(ledger_of(folder)) as connection:
        numbers = ended_numbers(connection)
        base = base_of(connection)
        thumbs = Thumbs(folder, PictureUrls(folder, base))
        step = started(len(numbers)) if started is not None else lambda: None
        thumbs.make(_with_sources(jobs_by_number(connection, numbers)), step)
        rows = _rows(connection, numbers, PictureUrls(folder, base, thumbs.there))
        path = folder / REPORT
        _write(path, build_page(rows, page_header(folder, connection)))
    return Report(path=path, rows=len(numbers), thumbs=thumbs.made, missing=tuple(thumbs.missing))


def _with_sources(jobs: Iterator[Known]) -> Iterator[tuple[Known, list[str]]]:
    for known in jobs:
        yield known, json.loads(known.spec)["images"]


def _rows(connection: sqlite3.Connection, numbers: list[int], urls: PictureUrls) -> Iterator[dict[str, Any]]:
    short_links = _links_length(connection) > MOST_LINKS
    said = verdicts(connection)
    for known in jobs_by_number(connection, numbers):
        verdict = said.get(known.key)
        row = page_row(known, urls) if verdict is None else page_row(known, urls, verdict.review, verdict.note)
        link = row["result_url"]
        if short_links and row["full"] and link is not None and len(link) > _SHORT_LINK:
            # The picture is here, and links would be most of the file. results.csv has them whole.
            row["result_url"] = f"{link[:_SHORT_LINK]}…"
        yield row


def _links_length(connection: sqlite3.Connection) -> int:
    """Return how many characters the links of the listed jobs have together."""
    query = f"SELECT COALESCE(SUM(LENGTH(link)), 0) FROM known WHERE {ENDED}"  # noqa: S608  a constant
    return int(connection.execute(query).fetchone()[0])


def _write(path: Path, pieces: Iterator[bytes]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.writelines(pieces)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # what cannot be removed either is written over by the next report
            temporary.unlink(missing_ok=True)
        raise StorageError(
            f"{path} cannot be written ({error.strerror}): free space or repair its permissions, then try again."
        ) from error
