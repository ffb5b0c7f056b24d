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

The tables are made with the first verdict; a ledger without them has none. Writers are brief: SQLite's own lock is all
that stands between a person who judges and a run that writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from batchflux.ledger.ledger import get_meta, set_meta
from batchflux.models import Redo

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

Review = Literal["", "accept", "reject", "redo"]

_SCHEMA = (
    """
    CREATE TABLE IF NOT EXISTS reviews (
        key BLOB PRIMARY KEY,
        review TEXT NOT NULL,           -- accept, reject, redo; '' when a verdict was taken back
        note TEXT NOT NULL,
        reviewed_at REAL NOT NULL,
        revision INTEGER NOT NULL       -- grows with every change of any verdict
    ) WITHOUT ROWID
    """,
    "CREATE INDEX IF NOT EXISTS reviews_by_revision ON reviews (revision)",
    """
    CREATE TABLE IF NOT EXISTS redos (
        number INTEGER PRIMARY KEY,
        root BLOB NOT NULL,
        ordinal INTEGER NOT NULL,
        origin BLOB NOT NULL,
        prompt TEXT,                    -- NULL: as in the origin
        seed INTEGER,                   -- asked for; once pinned, what it is
        variant INTEGER,                -- NULL until pinned
        key BLOB,                       -- NULL until pinned
        asked_at REAL NOT NULL,
        UNIQUE (root, ordinal)
    )
    """,
    "CREATE INDEX IF NOT EXISTS redos_by_origin ON redos (origin)",
    "CREATE INDEX IF NOT EXISTS redos_by_key ON redos (key)",
)
_WAITING = "NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.key = redos.key)"
_AT_ONCE = 500
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


def has_reviews(connection: sqlite3.Connection) -> bool:
    """Whether the ledger has the tables: whether anybody ever judged."""
    row = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'redos'").fetchone()
    return row is not None


def prepare_reviews(connection: sqlite3.Connection) -> None:
    """Make the tables where they are missing, within the caller's transaction."""
    if not has_reviews(connection):
        for statement in _SCHEMA:
            connection.execute(statement)


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
    if not has_reviews(connection):
        return {}
    rows = connection.execute(
        "SELECT key, review, note, reviewed_at FROM reviews WHERE review != '' OR note != ''"
    ).fetchall()
    return {key: Verdict(review=review, note=note, reviewed_at=at) for key, review, note, at in rows}


def verdicts_on(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Verdict]:
    """Return the verdicts on these jobs."""
    found: dict[bytes, Verdict] = {}
    if not has_reviews(connection):
        return found
    for first in range(0, len(keys), _AT_ONCE):
        some = keys[first : first + _AT_ONCE]
        marks = ",".join("?" * len(some))
        query = f"SELECT key, review, note, reviewed_at FROM reviews WHERE key IN ({marks})"  # noqa: S608  only marks
        for key, review, note, at in connection.execute(query, some).fetchall():
            found[key] = Verdict(review=review, note=note, reviewed_at=at)
    return found


def last_revision(connection: sqlite3.Connection) -> int:
    """Return the number of the latest change of a verdict, 0 when there is none."""
    if not has_reviews(connection):
        return 0
    return int(connection.execute("SELECT COALESCE(MAX(revision), 0) FROM reviews").fetchone()[0])


def judged_since(connection: sqlite3.Connection, revision: int) -> list[bytes]:
    """Return the keys whose verdict changed after this revision."""
    if not has_reviews(connection):
        return []
    rows = connection.execute("SELECT key FROM reviews WHERE revision > ? ORDER BY revision", (revision,))
    return [row[0] for row in rows.fetchall()]


def ask_redo(connection: sqlite3.Connection, origin: bytes, redo: Redo, at: float, *, live: bool) -> int:
    """Ask for another try at a job, or change what was asked for while it waits; return the redo's ordinal.

    Of `redo` only prompt and seed count. `live` tells that a run holds the folder.
    """
    waiting = _open_redo(connection, origin, live=live)
    if waiting is not None:
        number, ordinal = waiting
        connection.execute(
            "UPDATE redos SET prompt = ?, seed = ?, variant = NULL, key = NULL, asked_at = ? WHERE number = ?",
            (redo.prompt, redo.seed, at, number),
        )
        return ordinal
    row = connection.execute("SELECT root FROM redos WHERE key = ?", (origin,)).fetchone()
    root = origin if row is None else row[0]
    last = connection.execute("SELECT COALESCE(MAX(ordinal), 0) FROM redos WHERE root = ?", (root,)).fetchone()[0]
    connection.execute(
        "INSERT INTO redos (root, ordinal, origin, prompt, seed, asked_at) VALUES (?, ?, ?, ?, ?, ?)",
        (root, last + 1, origin, redo.prompt, redo.seed, at),
    )
    return int(last) + 1


def take_back_redo(connection: sqlite3.Connection, origin: bytes, *, live: bool) -> bool:
    """Forget a redo of this job that still waits; return whether there was one."""
    waiting = _open_redo(connection, origin, live=live)
    if waiting is None:
        return False
    connection.execute("DELETE FROM redos WHERE number = ?", (waiting[0],))
    return True


def _open_redo(connection: sqlite3.Connection, origin: bytes, *, live: bool) -> tuple[int, int] | None:
    free = "key IS NULL" if live else _WAITING
    query = f"SELECT number, ordinal FROM redos WHERE origin = ? AND {free} ORDER BY ordinal DESC"  # noqa: S608  constants
    row = connection.execute(query, (origin,)).fetchone()
    return None if row is None else (row[0], row[1])


def redos(connection: sqlite3.Connection) -> dict[str, tuple[Redo, ...]]:
    """Return all redos, made or not, by the key (hex) of the job they try again, each family in its order."""
    found: dict[str, tuple[Redo, ...]] = {}
    for waiting in _read(connection, "1"):
        redo = waiting.redo
        found[redo.origin] = (*found.get(redo.origin, ()), redo)
    return found


def waiting_redos(connection: sqlite3.Connection) -> list[Waiting]:
    """Return the redos that no run has begun, in the order in which they were asked for."""
    return list(_read(connection, _WAITING))


def _read(connection: sqlite3.Connection, condition: str) -> Iterator[Waiting]:
    if not has_reviews(connection):
        return
    query = (
        "SELECT number, root, origin, ordinal, prompt, seed, variant FROM redos"  # noqa: S608  constants
        f" WHERE {condition} ORDER BY number"
    )
    for number, root, origin, ordinal, prompt, seed, variant in connection.execute(query).fetchall():
        redo = Redo(number=number, origin=origin.hex(), ordinal=ordinal, prompt=prompt, seed=seed, variant=variant)
        yield Waiting(redo=redo, root=root.hex())


def pin(connection: sqlite3.Connection, redo: Redo, key: str) -> None:
    """Record which seed and variant a redo is, and its key (hex)."""
    connection.execute(
        "UPDATE redos SET seed = ?, variant = ?, key = ? WHERE number = ?",
        (redo.seed, redo.variant, bytes.fromhex(key), redo.number),
    )


def is_pinned(connection: sqlite3.Connection, key: str) -> bool:
    """Whether a redo was pinned to this key (hex), made or not."""
    return connection.execute("SELECT 1 FROM redos WHERE key = ?", (bytes.fromhex(key),)).fetchone() is not None


def is_stale(connection: sqlite3.Connection) -> bool:
    """Whether results.csv does not show the latest verdicts."""
    return get_meta(connection, _STALE) == "1"


def shown(connection: sqlite3.Connection) -> None:
    """Note that results.csv shows all verdicts there are; in the transaction that read them."""
    set_meta(connection, _STALE, "0")
