"""Reads the jobs of a ledger that another process may be writing.

The rule: never read for long at once. With a rollback journal a reader holds off the writer's commit, and a run must
not wait for somebody who looks at it. So the order is read first, then the rows a few hundred at a time.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from batchflux.errors import UsageError
from batchflux.storage.ledger import COLUMNS, Known, get_meta

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

_AT_ONCE = 500
_ENDED = "listed AND status IN ('done', 'failed', 'unknown')"


def ledger_of(folder: Path) -> Path:
    """Return the ledger of an output folder.

    Raises:
        UsageError: there is none.
    """
    path = folder / "ledger.db"
    if not path.is_file() or path.stat().st_size == 0:  # empty: killed as it was made
        raise UsageError(f"{folder} is no output folder: it has no ledger.db. Name the folder that a run wrote to.")
    return path


def base_of(connection: sqlite3.Connection) -> Path | None:
    """Return the manifest's folder, which local references are relative to; None when the ledger does not tell."""
    base = get_meta(connection, "base")
    return Path(base) if base else None


def ended_numbers(connection: sqlite3.Connection) -> list[int]:
    """Return the numbers of the listed jobs that ended, in manifest order."""
    query = f"SELECT number FROM jobs WHERE {_ENDED} ORDER BY position"  # noqa: S608  a constant
    return [row[0] for row in connection.execute(query).fetchall()]


def jobs_by_number(connection: sqlite3.Connection, numbers: Iterable[int]) -> Iterator[Known]:
    """Yield the jobs with these numbers in this order, as they stand when they are come to; without any now gone."""
    stream = iter(numbers)
    while batch := list(islice(stream, _AT_ONCE)):
        marks = ",".join("?" * len(batch))
        query = f"SELECT {COLUMNS} FROM jobs WHERE number IN ({marks}) AND {_ENDED}"  # noqa: S608  constants and marks
        found = {row[0]: row for row in connection.execute(query, batch).fetchall()}
        yield from (Known.of(found[number]) for number in batch if number in found)


def links_length(connection: sqlite3.Connection) -> int:
    """Return how many characters the links of the listed jobs have together."""
    query = f"SELECT COALESCE(SUM(LENGTH(link)), 0) FROM jobs WHERE {_ENDED}"  # noqa: S608  a constant
    return int(connection.execute(query).fetchone()[0])
