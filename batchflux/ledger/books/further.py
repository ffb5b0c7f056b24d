"""Links of the further pictures that a paid answer had, until its job has ended: what a kill must not lose."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

SCHEMA = """
CREATE TABLE IF NOT EXISTS further (
    key BLOB NOT NULL, place INTEGER NOT NULL, link TEXT NOT NULL, -- a job's, in the order of its answers
    PRIMARY KEY (key, place)
) WITHOUT ROWID
"""


def note_further(connection: sqlite3.Connection, job: int, links: Sequence[str]) -> None:
    """Put the links of the job of this number in place of those that are on record."""
    (key,) = connection.execute("SELECT key FROM jobs WHERE number = ?", (job,)).fetchone()
    forget_further(connection, key)
    rows = [(key, place, link) for place, link in enumerate(links)]
    connection.executemany("INSERT INTO further VALUES (?, ?, ?)", rows)


def further_of(connection: sqlite3.Connection, key: bytes) -> list[str]:
    """Return a job's links, in the order of its answers."""
    return [link for (link,) in connection.execute("SELECT link FROM further WHERE key = ? ORDER BY place", (key,))]


def forget_further(connection: sqlite3.Connection, key: bytes) -> None:
    """Let go of a job's links: what could be had of them is there, and their signatures are secrets."""
    connection.execute("DELETE FROM further WHERE key = ?", (key,))
