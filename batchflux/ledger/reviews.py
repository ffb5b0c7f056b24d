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

The tables are made with the first verdict; the column `reviewer` came later, and the next verdict adds it to tables
without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from batchflux.ledger.tables import get_meta, set_meta
from batchflux.manifest.identity import redo_id
from batchflux.manifest.redo import Redo

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

Review = Literal["", "accept", "reject", "redo"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS reviews (
    key BLOB PRIMARY KEY,
    review TEXT NOT NULL,           -- accept, reject, redo; '' when a verdict was taken back
    note TEXT NOT NULL,
    reviewed_at REAL NOT NULL,
    revision INTEGER NOT NULL,      -- grows with every change of any verdict
    reviewer TEXT NOT NULL DEFAULT '' -- who said it, as far as they gave a name
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
_NAMED = "SELECT 1 FROM pragma_table_info('reviews') WHERE name = 'reviewer'"
_ADD_NAMES = "ALTER TABLE reviews ADD COLUMN reviewer TEXT NOT NULL DEFAULT ''"
_STALE = "reviews_stale"  # results.csv does not show the latest verdicts, or costs, yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a person said of one picture; `reviewed_at` in epoch seconds, `reviewer` is their name or ''."""

    review: Review
    note: str = ""
    reviewed_at: float = 0.0
    reviewer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A redo that no run has made yet: what is asked for, and of which family it is."""

    redo: Redo
    root: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """How to try again: `prompt` None keeps the prompt, `seed` None leaves the seed to the run.

    `find` is replaced by `replace` wherever it stands in the prompt of the job; a prompt without it is kept.
    """

    prompt: str | None = None
    seed: int | None = None
    find: str = ""
    replace: str = ""


def has_reviews(connection: sqlite3.Connection) -> bool:
    """Whether the ledger has the tables: whether anybody ever judged."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'redos'"
    return connection.execute(query).fetchone() is not None


def prepare_reviews(connection: sqlite3.Connection) -> None:
    """Make the tables where they are missing, within the caller's transaction."""
    for statement in _SCHEMA.split(";\n"):
        connection.execute(statement)
    if not connection.execute(_NAMED).fetchone():
        connection.execute(_ADD_NAMES)


def _select(connection: sqlite3.Connection, query: str, *values: object) -> list[Any]:
    """Return the rows of a query; none where nobody ever judged."""
    return connection.execute(query, values).fetchall() if has_reviews(connection) else []


def judge(connection: sqlite3.Connection, keys: Iterable[bytes], review: Review, note: str | None, at: float) -> None:
    """Record a verdict on these jobs; `note` None keeps what is there, `review` '' takes the verdict back."""
    record(connection, keys, Verdict(review=review, note=note or "", reviewed_at=at), keep_note=note is None)


def record(connection: sqlite3.Connection, keys: Iterable[bytes], verdict: Verdict, *, keep_note: bool) -> None:
    """Record the same verdict on these jobs; `keep_note` leaves the notes that there are."""
    revision = last_revision(connection)
    said = verdict.review, verdict.note, verdict.reviewed_at, verdict.reviewer
    note = "reviews.note" if keep_note else "excluded.note"
    query = (
        "INSERT INTO reviews (key, review, note, reviewed_at, reviewer, revision) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608  constants
        f" ON CONFLICT (key) DO UPDATE SET review = excluded.review, note = {note},"
        " reviewed_at = excluded.reviewed_at, reviewer = excluded.reviewer, revision = excluded.revision"
    )
    connection.executemany(query, ((key, *said, number) for number, key in enumerate(keys, revision + 1)))
    set_meta(connection, _STALE, "1")


def verdicts(connection: sqlite3.Connection) -> dict[bytes, Verdict]:
    """Return all verdicts and notes by key; those taken back without a note left are none."""
    return _verdicts(connection, [("review != '' OR note != ''", ())])


def verdicts_on(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Verdict]:
    """Return the verdicts on these jobs."""
    return _verdicts(connection, [("key = ?", (key,)) for key in keys])


def _verdicts(connection: sqlite3.Connection, where: Iterable[tuple[str, tuple[bytes, ...]]]) -> dict[bytes, Verdict]:
    if not has_reviews(connection):
        return {}
    reviewer = "reviewer" if connection.execute(_NAMED).fetchone() else "''"
    query = f"SELECT key, review, note, reviewed_at, {reviewer} FROM reviews WHERE "  # noqa: S608  constants
    rows = [row for condition, values in where for row in connection.execute(query + condition, values).fetchall()]
    return {
        key: Verdict(review=review, note=note, reviewed_at=at, reviewer=name) for key, review, note, at, name in rows
    }


def verdict_counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Return how many pictures of the manifest were accepted, rejected and asked for again."""
    query = (
        "SELECT review, COUNT(*) FROM reviews JOIN jobs ON jobs.key = reviews.key"
        " WHERE review != '' AND listed GROUP BY review ORDER BY review"
    )
    return dict(_select(connection, query))


def judged_done(connection: sqlite3.Connection) -> int:
    """Return how many pictures of the manifest have a verdict."""
    query = (
        "SELECT COUNT(*) FROM reviews JOIN jobs ON jobs.key = reviews.key"
        " WHERE review != '' AND listed AND status = 'done'"
    )
    return sum(row[0] for row in _select(connection, query))


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
    waiting = open_redo(connection, origin, live=live)
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
    waiting = open_redo(connection, origin, live=live)
    if waiting is not None:
        connection.execute("DELETE FROM redos WHERE number = ?", (waiting[0],))
    return waiting is not None


def open_redo(connection: sqlite3.Connection, origin: bytes, *, live: bool) -> tuple[int, bytes, int] | None:
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


def redos_to_make(connection: sqlite3.Connection) -> list[str]:
    """Return the keys (hex) of the first jobs of all redos that have not ended, each once."""
    ended = "SELECT 1 FROM jobs WHERE jobs.key = redos.key AND status NOT IN ('pending', 'unknown')"
    query = f"SELECT DISTINCT lower(hex(root)) FROM redos WHERE NOT EXISTS ({ended})"  # noqa: S608  constants
    return [root for (root,) in _select(connection, query)]


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


def note_stale(connection: sqlite3.Connection) -> None:
    """Note that results.csv does not show all of jobs that ended; in the transaction that changes it."""
    set_meta(connection, _STALE, "1")


def is_stale(connection: sqlite3.Connection) -> bool:
    """Whether results.csv does not show the latest verdicts, or costs."""
    return get_meta(connection, _STALE) == "1"


def shown(connection: sqlite3.Connection) -> None:
    """Note that results.csv shows all verdicts there are; in the transaction that read them."""
    set_meta(connection, _STALE, "0")
