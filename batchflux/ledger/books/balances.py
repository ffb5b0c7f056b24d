"""What the accounts behind a folder's keys had, as its runs began and as they ended."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from batchflux.charges.books import Balance
from batchflux.ledger.books.receipts import has_receipts

if TYPE_CHECKING:
    import sqlite3

SCHEMA = """
CREATE TABLE IF NOT EXISTS balances (
    provider TEXT NOT NULL,
    key_name TEXT NOT NULL,
    began REAL NOT NULL,            -- the run, in epoch seconds
    at REAL NOT NULL,
    used TEXT, remaining TEXT,      -- decimal text
    currency TEXT NOT NULL
)
"""
_BALANCE = "INSERT INTO balances VALUES (?, ?, ?, ?, ?, ?, ?)"


class Noted(NamedTuple):
    """A balance of one key of a provider, as it was at epoch second `at` of the run that began at `began`."""

    provider: str
    key_name: str
    began: float
    at: float
    balance: Balance


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


def _amount(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
