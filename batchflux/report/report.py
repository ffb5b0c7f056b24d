"""Writes `report.html`: the page of an output folder, beside its pictures, whole or not at all.

A picture that is in the mirror alone has its thumbnail in the page, and the address of the picture. Who has a signed
link sees the picture without any key, so links are put in only on the user's wish, and end.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from batchflux.errors import StorageError
from batchflux.exports.dataset import has_dataset, write_dataset
from batchflux.folders.pictures import pictures_of
from batchflux.ledger.connection import reading
from batchflux.ledger.tables import ENDED, ended_numbers, jobs_by_number
from batchflux.output.base import IMAGES, REPORT
from batchflux.output.durable import remedy_of
from batchflux.output.folder import iso, ledger_of
from batchflux.report.content import base_of, page_header, page_nights, page_rows
from batchflux.report.page import build_page
from batchflux.report.thumbs import PictureUrls, make_thumbs

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator
    from pathlib import Path

MOST_LINKS = 24_000_000  # characters of links in one report; 100,000 rows without them are about 13 MB
_SHORT_LINK = 120


class Report(NamedTuple):
    """A written report: its file, its rows, how many thumbnails were made, and the jobs whose picture is not there.

    `unread` says why of pictures that the mirror alone has, and did not give, by the ids of their jobs; links to the
    others there are signed until `signed_until`, in epoch seconds.
    """

    path: Path
    rows: int
    thumbs: int
    missing: tuple[str, ...]
    unread: dict[str, str]
    signed_until: float | None


def write_report(
    folder: Path, started: Callable[[int], Callable[[], object]] = lambda _: lambda: None, sign: int | None = None
) -> Report:
    """Write the report of an output folder, and its card where it has none; works while a run goes on, too.

    `started` is told how many jobs there are and returns what to call after each thumbnail. `sign` puts links into it
    that let anyone see the pictures of the mirror for so many seconds. Raises UsageError: there is no ledger in it, or
    links cannot be signed; StorageError: the ledger cannot be read or the folder cannot take the report.
    """
    with reading(ledger_of(folder)) as connection:
        numbers, pictures = ended_numbers(connection), pictures_of(folder, connection)
        signs = sign and pictures.mirror and not pictures.file_url(IMAGES)
        elsewhere = _origin(pictures.link(IMAGES, sign)) if sign and signs else ""
        until = time.time() + sign if sign and elsewhere else None
        urls = PictureUrls(folder, base_of(connection), pictures=pictures, sign=sign)
        small = make_thumbs(jobs_by_number(connection, numbers), urls, started(len(numbers)))
        rows = _rows(connection, numbers, urls)
        header = page_header(folder, connection) | {"links_until": iso(until) or None, "carries": small.carries}
        runs = page_nights(folder, connection)
        path = folder / REPORT
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with temporary.open("wb") as file:
                if until is not None:
                    temporary.chmod(0o600)
                file.writelines(build_page(rows, header, elsewhere=elsewhere, nights=runs))
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):  # what cannot be removed either is written over by the next report
                temporary.unlink(missing_ok=True)
            what = f"{path} cannot be written ({error.strerror})"
            raise StorageError(f"{what}: {remedy_of(error)}, then try again.") from error
        if not has_dataset(folder):
            write_dataset(folder, connection)
    return Report(path, len(numbers), small.made, tuple(small.missing), small.unread, until)


def _origin(link: str) -> str:
    """Return where a link leads, without the rest of it."""
    parts = urlsplit(link)
    return f"{parts.scheme}://{parts.netloc}"


def _rows(connection: sqlite3.Connection, numbers: list[int], urls: PictureUrls) -> Iterator[dict[str, Any]]:
    query = f"SELECT COALESCE(SUM(LENGTH(link)), 0) FROM known WHERE {ENDED}"  # noqa: S608  a constant
    short_links = connection.execute(query).fetchone()[0] > MOST_LINKS
    for row in page_rows(connection, numbers, urls):
        link = row["result_url"]
        if short_links and row["full"] and link is not None and len(link) > _SHORT_LINK:
            # The picture is here, and links would be most of the file. results.csv has them whole.
            row["result_url"] = f"{link[:_SHORT_LINK]}…"
        yield row
