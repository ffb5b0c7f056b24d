"""What pages ask of an output folder and its ledger beside the rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from batchflux.ledger.tables import ENDED, get_meta

if TYPE_CHECKING:
    import sqlite3


def base_of(connection: sqlite3.Connection) -> Path | None:
    """Return the manifest's folder, which local references are relative to; None when the ledger does not tell."""
    base = get_meta(connection, "base")
    return Path(base) if base else None


def links_length(connection: sqlite3.Connection) -> int:
    """Return how many characters the links of the listed jobs have together."""
    query = f"SELECT COALESCE(SUM(LENGTH(link)), 0) FROM known WHERE {ENDED}"  # noqa: S608  a constant
    return int(connection.execute(query).fetchone()[0])
