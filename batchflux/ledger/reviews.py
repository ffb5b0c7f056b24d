"""What people said of the pictures: verdicts, and redos, which are requests for another try at a job.

The rules:

- A verdict belongs to a job's key: it stays when ids, tags and the manifest's order change, and is gone from the page
  when the job's content changes, for that is another picture.
- A redo belongs to the key of the job it tries again (`origin`). All redos that began with one job of the manifest are
  its family: they are numbered together (`root`, `ordinal`), so that `mug`, `mug-redo1`, `mug-redo2` follow each other.
- A redo is waiting until the ledger has a job of its key. While it waits, asking again changes it, and another verdict
  takes it back: nothing is paid for by pressing a key twice. Once made, asking again is a further redo.
- A run pins a redo, in the transaction of its survey and before it pays: which seed or variant it is, and so its key.
  What a live run has pinned it may be making, so that is neither changed nor taken back.

The tables are made with the first verdict. `decide` records what a person decides in one brief transaction: SQLite's
own lock is all that stands between a person who judges and a run that writes.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from batchflux.errors import StorageError
from batchflux.ledger.connection import begin_beside, beside
from batchflux.ledger.tables import get_meta, set_meta
from batchflux.manifest.identity import redo_id
from batchflux.models import Redo
from batchflux.output.folder import FolderLock

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

Review = Literal["", "accept", "reject", "redo"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS reviews (
    key BLOB PRIMARY KEY,
    review TEXT NOT NULL,           -- accept, reject, redo; '' when a verdict was taken back
    note TEXT NOT NULL,
    reviewed_at REAL NOT NULL,
    revision INTEGER NOT NULL       -- grows with every change of any verdict
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS reviews_by_revision ON reviews (revision);
CREATE TABLE IF NOT EXISTS redos (
    number INTEGER PRIMARY KEY,
    root BLOB NOT NULL,
    ordinal INTEGER NOT NULL,
    origin BLOB NOT NULL,
    prompt TEXT,                    -- NULL: as in the origin
    seed INTEGER,                   -- asked for, until the redo is pinned: then what it is
    variant INTEGER, key BLOB,      -- NULL until pinned
    asked_at REAL NOT NULL,
    UNIQUE (root, ordinal)
);
CREATE INDEX IF NOT EXISTS redos_by_origin ON redos (origin);
CREATE INDEX IF NOT EXISTS redos_by_key ON redos (key)
"""
_WAITING = "NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.key = redos.key)"
_VERDICTS = "SELECT key, review, note, reviewed_at FROM reviews"
_STALE = "reviews_stale"  # results.csv does not show the latest verdicts yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a person said of one picture; `reviewed_at` in epoch seconds."""

    review: Review
    note: str = ""
    reviewed_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A redo that no run has made yet: what is asked for, and of which family it is."""

    redo: Redo
    root: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """How to try again: `prompt` None keeps the prompt, `seed` None leaves the seed to the run."""

    prompt: str | None = None
    seed: int | None = None


def has_reviews(connection: sqlite3.Connection) -> bool:
    """Whether the ledger has the tables: whether anybody ever judged."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'redos'"
    return connection.execute(query).fetchone() is not None


def prepare_reviews(connection: sqlite3.Connection) -> None:
    """Make the tables where they are missing, within the caller's transaction."""
    for statement in _SCHEMA.split(";\n"):
        connection.execute(statement)


def _select(connection: sqlite3.Connection, query: str, *values: object) -> list[Any]:
    """Return the rows of a query; none where nobody ever judged."""
    return connection.execute(query, values).fetchall() if has_reviews(connection) else []


def judge(connection: sqlite3.Connection, keys: Iterable[bytes], review: Review, note: str | None, at: float) -> None:
    """Record a verdict on these jobs; `note` None keeps what is there, `review` '' takes the verdict back."""
    revision = last_revision(connection)
    for key in keys:
        revision += 1
        connection.execute(
            "INSERT INTO reviews (key, review, note, reviewed_at, revision) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET review = excluded.review, note = COALESCE(?, note),"
            " reviewed_at = excluded.reviewed_at, revision = excluded.revision",
            (key, review, note or "", at, revision, note),
        )
    set_meta(connection, _STALE, "1")


def verdicts(connection: sqlite3.Connection) -> dict[bytes, Verdict]:
    """Return all verdicts and notes by key; those taken back without a note left are none."""
    rows = _select(connection, f"{_VERDICTS} WHERE review != '' OR note != ''")
    return {key: Verdict(review=review, note=note, reviewed_at=at) for key, review, note, at in rows}


def verdicts_on(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Verdict]:
    """Return the verdicts on these jobs."""
    rows = [row for key in keys for row in _select(connection, f"{_VERDICTS} WHERE key = ?", key)]
    return {key: Verdict(review=review, note=note, reviewed_at=at) for key, review, note, at in rows}


def verdict_counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Return how many pictures of the manifest were accepted, rejected and asked for again."""
    query = (
        "SELECT review, COUNT(*) FROM reviews JOIN jobs ON jobs.key = reviews.key"
        " WHERE review != '' AND listed GROUP BY review ORDER BY review"
    )
    return dict(_select(connection, query))


def last_revision(connection: sqlite3.Connection) -> int:
    """Return the number of the latest change of a verdict, 0 when there is none."""
    return sum(row[0] for row in _select(connection, "SELECT COALESCE(MAX(revision), 0) FROM reviews"))


def judged_since(connection: sqlite3.Connection, revision: int) -> list[bytes]:
    """Return the keys whose verdict changed after this revision."""
    rows = _select(connection, "SELECT key FROM reviews WHERE revision > ? ORDER BY revision", revision)
    return [key for (key,) in rows]


def ask_redo(connection: sqlite3.Connection, origin: bytes, again: Again, at: float, *, live: bool) -> str:
    """Ask for another try at a job, or change what was asked for while it waits; return the id that it will have.

    `live` tells that a run holds the folder.
    """
    waiting = _open_redo(connection, origin, live=live)
    if waiting is not None:
        number, root, ordinal = waiting
        connection.execute(
            "UPDATE redos SET prompt = ?, seed = ?, variant = NULL, key = NULL, asked_at = ? WHERE number = ?",
            (again.prompt, again.seed, at, number),
        )
    else:
        row = connection.execute("SELECT root FROM redos WHERE key = ?", (origin,)).fetchone()
        root = origin if row is None else row[0]
        query = "SELECT COALESCE(MAX(ordinal), 0) + 1 FROM redos WHERE root = ?"
        ordinal = connection.execute(query, (root,)).fetchone()[0]
        connection.execute(
            "INSERT INTO redos (root, ordinal, origin, prompt, seed, asked_at) VALUES (?, ?, ?, ?, ?, ?)",
            (root, ordinal, origin, again.prompt, again.seed, at),
        )
    return redo_id(connection.execute("SELECT id FROM jobs WHERE key = ?", (root,)).fetchone()[0], ordinal)


def take_back_redo(connection: sqlite3.Connection, origin: bytes, *, live: bool) -> bool:
    """Forget a redo of this job that still waits; return whether there was one."""
    waiting = _open_redo(connection, origin, live=live)
    if waiting is not None:
        connection.execute("DELETE FROM redos WHERE number = ?", (waiting[0],))
    return waiting is not None


def _open_redo(connection: sqlite3.Connection, origin: bytes, *, live: bool) -> tuple[int, bytes, int] | None:
    """Return number, root and ordinal of the last redo of a job that may still be changed."""
    free = "key IS NULL" if live else _WAITING
    query = f"SELECT number, root, ordinal FROM redos WHERE origin = ? AND {free} ORDER BY ordinal DESC"  # noqa: S608  constants
    row: tuple[int, bytes, int] | None = connection.execute(query, (origin,)).fetchone()
    return row


def redos(connection: sqlite3.Connection) -> dict[str, tuple[Redo, ...]]:
    """Return all redos, made or not, by the key (hex) of the job they try again, each family in its order."""
    found: dict[str, tuple[Redo, ...]] = {}
    for redo in (one.redo for one in _read(connection, "1")):
        found[redo.origin] = (*found.get(redo.origin, ()), redo)
    return found


def waiting_redos(connection: sqlite3.Connection) -> list[Waiting]:
    """Return the redos that no run has begun, in the order in which they were asked for."""
    return _read(connection, _WAITING)


def _read(connection: sqlite3.Connection, condition: str) -> list[Waiting]:
    query = "SELECT number, root, origin, ordinal, prompt, seed, variant, lower(hex(key)) FROM redos"
    return [
        Waiting(
            redo=Redo(
                number=number,
                origin=origin.hex(),
                ordinal=ordinal,
                prompt=prompt,
                seed=seed,
                variant=variant,
                key=key or None,
            ),
            root=root.hex(),
        )
        for number, root, origin, ordinal, prompt, seed, variant, key in _select(
            connection, f"{query} WHERE {condition} ORDER BY number"
        )
    ]


def pin(connection: sqlite3.Connection, redo: Redo, key: str) -> None:
    """Record which seed and variant a redo is, and its key (hex)."""
    connection.execute(
        "UPDATE redos SET seed = ?, variant = ?, key = ? WHERE number = ?",
        (redo.seed, redo.variant, bytes.fromhex(key), redo.number),
    )


def join_reviews(connection: sqlite3.Connection) -> None:
    """Add the verdicts and redos of the ledger that is attached as `other`; of two verdicts the later one counts."""
    if connection.execute("SELECT 1 FROM other.sqlite_master WHERE name = 'redos'").fetchone() is None:
        return
    prepare_reviews(connection)
    told = [row[1] for row in connection.execute("PRAGMA main.table_info(reviews)")]
    theirs = {row[1] for row in connection.execute("PRAGMA other.table_info(reviews)")}
    columns = [name for name in told if name in theirs]
    values = ", ".join("revision + ?" if name == "revision" else name for name in columns)
    connection.execute(
        f"INSERT OR REPLACE INTO main.reviews ({', '.join(columns)}) SELECT {values} FROM other.reviews AS their"  # noqa: S608  constants
        " WHERE NOT EXISTS (SELECT 1 FROM main.reviews WHERE key = their.key AND reviewed_at >= their.reviewed_at)",
        (last_revision(connection),),
    )
    # A redo that both asked for alike is one; another takes the next number of its family.
    connection.execute(
        "INSERT INTO main.redos (root, ordinal, origin, prompt, seed, variant, key, asked_at) SELECT root,"
        " ordinal + (SELECT COALESCE(MAX(ordinal), 0) FROM main.redos WHERE root = their.root), origin, prompt, seed,"
        " variant, key, asked_at FROM other.redos AS their WHERE NOT EXISTS (SELECT 1 FROM main.redos AS our WHERE"
        " our.root = their.root AND (our.key = their.key OR (our.origin, our.prompt, our.seed) IS"
        " (their.origin, their.prompt, their.seed))) ORDER BY number"
    )
    set_meta(connection, _STALE, "1")


def is_pinned(connection: sqlite3.Connection, key: str) -> bool:
    """Whether a redo was pinned to this key (hex), made or not."""
    return connection.execute("SELECT 1 FROM redos WHERE key = ?", (bytes.fromhex(key),)).fetchone() is not None


def is_stale(connection: sqlite3.Connection) -> bool:
    """Whether results.csv does not show the latest verdicts."""
    return get_meta(connection, _STALE) == "1"


def shown(connection: sqlite3.Connection) -> None:
    """Note that results.csv shows all verdicts there are; in the transaction that read them."""
    set_meta(connection, _STALE, "0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a person decided: a verdict on these jobs; `note` None leaves the notes as they are.

    `again` goes with the verdict `redo`; without it a redo is asked for only of jobs that had another verdict, so that
    a note on a picture to redo changes nothing about the redo.
    """

    keys: tuple[bytes, ...]
    review: Review
    note: str | None = None
    again: Again | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A redo that was asked for: the key of the job it tries again, and the id it will have."""

    key: bytes
    id: str


class NoSuchJobError(LookupError):
    """A decision was about a job that the ledger does not have."""


class UnlistedJobError(LookupError):
    """A redo was asked for of a job that the manifest does not list any more."""


def decide(path: Path, decision: Decision) -> list[Asked]:
    """Record a decision in the ledger at `path`, all of it or nothing; return the redos it asked for.

    Raises NoSuchJobError: one of the jobs is not in the ledger; UnlistedJobError: a redo of a job that is no longer in
    the manifest; no run would make it; StorageError: the ledger cannot be written.
    """
    with closing(beside(path)) as connection:  # which rolls back what was not committed
        try:
            begin_beside(connection)
            # Asked within the transaction: a run locks the folder first, and pins what it will make in one of its own.
            asked = _decide(connection, decision, live=FolderLock(path.parent).is_held())
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise StorageError(
                f"The ledger {path} cannot be written ({error}): free space or repair the folder's permissions."
            ) from error
    return asked


def _decide(connection: sqlite3.Connection, decision: Decision, *, live: bool) -> list[Asked]:
    query = "SELECT listed FROM jobs WHERE key = ?"
    listed = [connection.execute(query, (key,)).fetchone() for key in decision.keys]
    if None in listed:
        raise NoSuchJobError
    if decision.review == "redo" and (0,) in listed:
        raise UnlistedJobError
    prepare_reviews(connection)
    at = time.time()
    had = verdicts_on(connection, decision.keys)
    judge(connection, decision.keys, decision.review, decision.note, at)
    if decision.review != "redo":
        for key in decision.keys:
            take_back_redo(connection, key, live=live)
        return []
    keys = [key for key in decision.keys if decision.again or key not in had or had[key].review != "redo"]
    again = decision.again or Again()
    return [Asked(key=key, id=ask_redo(connection, key, again, at, live=live)) for key in keys]
