"""What a folder is compared with its provider's books by: how they name its requests, and what they said was left.

A receipt is of a submission, whose number never changes. Balances are noted as a run begins and as it ends.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from batchflux.charges.books import Balance

if TYPE_CHECKING:
    import sqlite3

SCHEMA = """
CREATE TABLE IF NOT EXISTS receipts (
    submission INTEGER PRIMARY KEY,
    name TEXT NOT NULL              -- of the request in the provider's books, or the handle of its task
);
CREATE TABLE IF NOT EXISTS balances (
    provider TEXT NOT NULL,
    key_name TEXT NOT NULL,
    began REAL NOT NULL,            -- the run, in epoch seconds
    at REAL NOT NULL,
    used TEXT, remaining TEXT,      -- decimal text
    currency TEXT NOT NULL
);
"""
_NOTE = "INSERT OR REPLACE INTO receipts SELECT submission, ? FROM attempts WHERE number = ? AND submission IS NOT NULL"
_KEEP_HANDLE = """
INSERT OR IGNORE INTO receipts SELECT number, handle FROM submissions
WHERE handle IS NOT NULL AND number = (SELECT submission FROM attempts WHERE number = ?)
"""
_NO_HANDLE = "UPDATE submissions SET handle = NULL WHERE number = (SELECT submission FROM attempts WHERE number = ?)"
_BALANCE = "INSERT INTO balances VALUES (?, ?, ?, ?, ?, ?, ?)"
_LONGEST = 200  # characters of a name


class Noted(NamedTuple):
    """A balance of one key of a provider, as it was at epoch second `at` of the run that began at `began`."""

    provider: str
    key_name: str
    began: float
    at: float
    balance: Balance


def note_receipt(connection: sqlite3.Connection, attempt: int, name: str | None) -> None:
    """Note how the provider's books name an attempt's request, where its answer told."""
    if name is not None and len(name) <= _LONGEST:
        connection.execute(_NOTE, (name, attempt))


def give_up_handle(connection: sqlite3.Connection, attempt: int) -> None:
    """Let a task not be asked for any more; its handle is kept here, for it names the request in the books."""
    connection.execute(_KEEP_HANDLE, (attempt,))
    connection.execute(_NO_HANDLE, (attempt,))


def note_balance(connection: sqlite3.Connection, noted: Noted) -> None:
    """Note a balance."""
    used, left = (None if one is None else format(one, "f") for one in (noted.balance.used, noted.balance.left))
    connection.execute(_BALANCE, (*noted[:4], used, left, noted.balance.currency))


def balances(connection: sqlite3.Connection) -> list[Noted]:
    """Return all balances that were noted, as time went; none of an older ledger."""
    if not has_receipts(connection):
        return []
    rows = connection.execute("SELECT * FROM balances ORDER BY at").fetchall()
    return [
        Noted(name, key, began, at, Balance(used=_amount(used), left=_amount(left), currency=currency))
        for name, key, began, at, used, left, currency in rows
    ]


def has_receipts(connection: sqlite3.Connection) -> bool:
    """Whether the ledger has these tables: one that no run of today has opened has not."""
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'receipts'").fetchone() is not None


def _amount(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
