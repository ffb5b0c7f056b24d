"""How the providers' books name the requests of a folder: a receipt is of a submission, whose number never changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

SCHEMA = """
CREATE TABLE IF NOT EXISTS receipts (
    submission INTEGER PRIMARY KEY,
    name TEXT NOT NULL              -- of the request in the provider's books, or the handle of its task
)
"""
_NOTE = "INSERT OR REPLACE INTO receipts SELECT submission, ? FROM attempts WHERE number = ? AND submission IS NOT NULL"
_KEEP_HANDLE = """
INSERT OR IGNORE INTO receipts SELECT number, handle FROM submissions
WHERE handle IS NOT NULL AND number = (SELECT submission FROM attempts WHERE number = ?)
"""
_NO_HANDLE = "UPDATE submissions SET handle = NULL WHERE number = (SELECT submission FROM attempts WHERE number = ?)"
_LONGEST = 200  # characters of a name


def note_receipt(connection: sqlite3.Connection, attempt: int, name: str | None) -> None:
    """Note how the provider's books name an attempt's request, where its answer told."""
    if name is not None and len(name) <= _LONGEST:
        connection.execute(_NOTE, (name, attempt))


def give_up_handle(connection: sqlite3.Connection, attempt: int) -> None:
    """Let a task not be asked for any more; its handle is kept here, for it names the request in the books."""
    connection.execute(_KEEP_HANDLE, (attempt,))
    connection.execute(_NO_HANDLE, (attempt,))


def has_receipts(connection: sqlite3.Connection) -> bool:
    """Whether the ledger has these tables: one that no run of today has opened has not."""
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'receipts'").fetchone() is not None
