"""Bring results.csv up to the latest verdicts while no run holds the folder.

The file is written beside the old one without any lock and takes its place in one write transaction of the ledger, if
nobody has begun a run or judged since. A run that starts takes the folder's lock first and then needs that same
transaction, so either it waits a moment, or we see its lock: the end of a run shows all verdicts.
"""

from __future__ import annotations

import csv
import json
import os
from contextlib import closing
from typing import TYPE_CHECKING, Literal

from batchflux.exports.results_csv import TAGS, Results
from batchflux.ledger.connection import beside
from batchflux.ledger.reviews import has_reviews, is_stale, last_revision, shown, verdicts
from batchflux.ledger.tables import ended_numbers, ended_rows, get_meta, jobs_by_number
from batchflux.output.base import LEDGER, RESULTS
from batchflux.output.folder import FolderLock

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

Outcome = Literal["fresh", "written", "held", "overtaken"]


def show_verdicts(folder: Path) -> Outcome:
    """Rewrite results.csv if it does not show the latest verdicts.

    Returns `fresh` (it did), `written` (it does now), `held` (a run will do it) or `overtaken` (try again). Raises
    StorageError when ledger or folder cannot be used, sqlite3.Error when the ledger went away while it was read.
    """
    ledger = folder / LEDGER
    if not ledger.is_file():
        return "fresh"
    with closing(beside(ledger)) as connection:
        if not has_reviews(connection) or not is_stale(connection):
            return "fresh"
        if FolderLock(folder).is_held():
            return "held"
        results = Results(folder / RESULTS, tag_names(folder, connection))
        results.verdicts = verdicts(connection)
        before = _moment(connection)
        rows = jobs_by_number(connection, ended_numbers(connection))
        temporary = results.write_beside(rows, f".{RESULTS}.{os.getpid()}.tmp")
        try:
            return _swap(folder, connection, results, temporary, before)
        finally:
            temporary.unlink(missing_ok=True)


def write_results(folder: Path, connection: sqlite3.Connection) -> None:
    """Write results.csv anew, with all verdicts, for a folder that nobody else has; StorageError."""
    results = Results(folder / RESULTS, tag_names(folder, connection))
    results.verdicts = verdicts(connection)
    results.rewrite(ended_rows(connection))
    shown(connection)


def _swap(
    folder: Path, connection: sqlite3.Connection, results: Results, temporary: Path, before: tuple[object, ...]
) -> Outcome:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if FolderLock(folder).is_held():
            return "held"
        if _moment(connection) != before:
            return "overtaken"
        results.swap(temporary)
        shown(connection)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return "written"


def _moment(connection: sqlite3.Connection) -> tuple[object, ...]:
    return get_meta(connection, "began"), last_revision(connection)


def tag_names(folder: Path, connection: sqlite3.Connection) -> list[str]:
    """Return the tags that have a column: those the file has now, else all that jobs have."""
    try:
        with (folder / RESULTS).open(encoding="utf-8", newline="") as file:
            header = next(csv.reader(file), [])
        return [name.removeprefix(TAGS) for name in header if name.startswith(TAGS)]
    except OSError:  # there is none to take after; what cannot be replaced either will say so
        texts = connection.execute("SELECT DISTINCT tags FROM jobs WHERE listed AND tags != ''").fetchall()
        return list(dict.fromkeys(name for (text,) in texts for name in json.loads(text)))
