"""What of a folder's pictures is in the bucket of output.mirror: a row for each name, with the bytes it has there.

What a row says was put there before the row was written. An object of ours is written over only when a row says that
its bytes lie in `.replaced/`, where none is written over: so all bytes that rows name are in the bucket, whenever the
process is killed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from batchflux.output.base import IMAGES, REPLACED

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

SCHEMA = """
CREATE TABLE IF NOT EXISTS mirrored (
    name TEXT PRIMARY KEY, sha256 TEXT NOT NULL, at REAL NOT NULL -- a file's, its bytes' in the bucket, epoch seconds
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS mirrored_by_sha256 ON mirrored (sha256)
"""
NAME_THERE = (
    "COALESCE((SELECT name FROM mirrored WHERE name = jobs.file_name AND mirrored.sha256 = jobs.sha256),"
    " (SELECT name FROM mirrored WHERE mirrored.sha256 = jobs.sha256 LIMIT 1))"
)
"""Looks up the name that a job's picture has in the bucket: its own, or until the bucket follows another."""
ADDRESS, MARK, AWAY = "mirror", "mirror_mark", "mirror_away"
"""Notes of a folder: the address that the rows speak of, what this folder's objects are known by, and whether pictures
were removed here."""
_WINDOW = 5000  # jobs looked through at once
_PICTURES = f"jobs.status = 'done' AND jobs.file_name LIKE '{IMAGES}/%'"
_JOINED = "FROM jobs LEFT JOIN mirrored ON mirrored.name = jobs.file_name"
_ROWS = (
    f"SELECT jobs.file_name, jobs.sha256, mirrored.sha256 {_JOINED} WHERE number > ? AND number <= ? AND {_PICTURES}"
)


class Picture(NamedTuple):
    """A picture of the folder by its name, the bytes that it must have, and those of the object of that name."""

    name: str
    sha256: str
    there: str | None = None

    @property
    def mirrored(self) -> bool:
        """Whether it is in the bucket."""
        return self.there == self.sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorUse:
    """How many of the pictures that are done are in the bucket `to`, under their names, and how many are left."""

    to: str
    mirrored: int
    left: int


def window(connection: sqlite3.Connection, after: int, *, every: bool = False) -> tuple[list[Picture], int | None]:
    """Return pictures that are not in the bucket, or `every` one, of some jobs whose number is above `after`.

    The number returned is for the next call; None: there are no more.
    """
    upto = after + _WINDOW
    more = "" if every else " AND jobs.sha256 IS NOT mirrored.sha256"
    rows = connection.execute(_ROWS + more, (after, upto))
    found = list(map(Picture._make, rows))
    last = connection.execute("SELECT MAX(number) FROM jobs").fetchone()[0] or 0
    return found, upto if upto < last else None


def with_objects(connection: sqlite3.Connection, pictures: Sequence[Picture]) -> list[Picture]:
    """Return pictures with what is on record now of the objects of their names."""
    query = "SELECT sha256 FROM mirrored WHERE name = ?"
    found = (connection.execute(query, (one.name,)).fetchone() for one in pictures)
    return [one._replace(there=None if row is None else row[0]) for one, row in zip(pictures, found, strict=True)]


def named_so(connection: sqlite3.Connection, sha256: str) -> str | None:
    """Return the name of an object with these bytes, one that is never written over first; None: there is none."""
    query = f"SELECT name FROM mirrored WHERE sha256 = ? ORDER BY name LIKE '{REPLACED}/%' DESC LIMIT 1"  # noqa: S608  a constant
    row = connection.execute(query, (sha256,)).fetchone()
    return None if row is None else str(row[0])


def is_known(connection: sqlite3.Connection, sha256: str) -> bool:
    """Whether some job of the folder had a picture of these bytes."""
    return connection.execute("SELECT 1 FROM jobs WHERE sha256 = ? LIMIT 1", (sha256,)).fetchone() is not None


def note_mirrored(connection: sqlite3.Connection, pictures: Iterable[Picture], at: float) -> None:
    """Record that the objects of these names have these bytes."""
    rows = ((one.name, one.sha256, at) for one in pictures)
    connection.executemany("INSERT OR REPLACE INTO mirrored VALUES (?, ?, ?)", rows)


def names_of_mirrored(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield the names that the folder has for pictures whose bytes are in the bucket."""
    query = (
        "SELECT file_name FROM jobs WHERE status = 'done' AND sha256 IN (SELECT sha256 FROM mirrored) ORDER BY number"
    )
    return (row[0] for row in connection.execute(query))


def use_of(connection: sqlite3.Connection, address: str | None = None) -> MirrorUse | None:
    """Count the pictures that are in the bucket of an address, or of the one noted; None where there is neither."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (ADDRESS,)).fetchone()
    noted = None if row is None else str(row[0])
    to = noted if address is None else address.rstrip("/")
    if to is None:
        return None
    if to == noted:
        query = f"SELECT COUNT(*), COALESCE(SUM(jobs.sha256 IS mirrored.sha256), 0) {_JOINED} WHERE {_PICTURES}"
    else:  # the rows, if there are any, are of another
        query = f"SELECT COUNT(*), 0 FROM jobs WHERE {_PICTURES}"  # noqa: S608  constants
    total, there = connection.execute(query).fetchone()
    return MirrorUse(to=to, mirrored=there, left=total - there)
