"""What each run of a folder was to do, and how it ended: a row is made before its first request, and filled in last.

A run that was killed leaves its row without an end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    began REAL PRIMARY KEY,         -- epoch seconds, as all times
    name TEXT NOT NULL,
    todo INTEGER NOT NULL,
    before INTEGER NOT NULL,        -- nanounits that the folder had cost when it began
    currency TEXT NOT NULL,
    budget TEXT, budget_per_run TEXT, -- decimal text
    deadline REAL,
    ended REAL, seconds REAL, exit_code INTEGER, reason TEXT, message TEXT,
    done INTEGER, failed INTEGER, unknown INTEGER,
    spent INTEGER                   -- nanounits, possibly billed attempts included
)
"""
_ROW = "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SPENT = "SELECT cost + maybe_cost FROM totals"


class Run(NamedTuple):
    """A row of the table; what has a default is known at the run's end. `budget` and `budget_per_run` are texts."""

    began: float
    name: str
    todo: int
    before: int
    currency: str
    budget: str | None
    budget_per_run: str | None
    deadline: float | None
    ended: float | None = None
    seconds: float | None = None
    exit_code: int | None = None
    reason: str | None = None
    message: str | None = None
    done: int | None = None
    failed: int | None = None
    unknown: int | None = None
    spent: int | None = None


def note_begun(connection: sqlite3.Connection, began: float, todo: int) -> None:
    """Note that the run begins which the folder's notes (`meta`) speak of."""
    notes = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    before = connection.execute(_SPENT).fetchone()[0]
    budget, a_run = (notes.get(name) or None for name in ("budget", "budget_per_run"))
    deadline = float(notes["deadline"]) if notes.get("deadline") else None
    run = Run(began, notes.get("name", ""), todo, before, notes.get("currency", ""), budget, a_run, deadline)
    connection.execute(_ROW, run)


def note_ended(connection: sqlite3.Connection, began: float, ended: Mapping[str, Any]) -> None:
    """Note how a run ended, by the names of Run that have a default."""
    names = ", ".join(f"{name} = :{name}" for name in Run._field_defaults)
    connection.execute(f"UPDATE runs SET {names} WHERE began = :began", {**ended, "began": began})  # noqa: S608  constants


def recorded(connection: sqlite3.Connection) -> list[Run]:
    """Return all runs on record, as time went; none of an older ledger."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone() is None:
        return []
    return list(map(Run._make, connection.execute("SELECT * FROM runs ORDER BY began").fetchall()))
