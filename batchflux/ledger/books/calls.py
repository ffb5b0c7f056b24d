"""What clients of a gateway called for: each call, what it asked, and the jobs that it came to.

A call is on record before any of its jobs leaves, so that whoever asks again finds it, also after a crash. A job is of
one call only; of the same content each has a `variant` of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from batchflux.ledger.books.mirrored import NAME_THERE

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from batchflux.models import Job

SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    number INTEGER PRIMARY KEY,
    client TEXT NOT NULL,           -- whose call
    content BLOB NOT NULL,          -- digest of what it asks for, as often as it does
    mark TEXT,                      -- what the client calls it itself (Idempotency-Key)
    asked TEXT NOT NULL,            -- JSON, from which its jobs are made again
    variant INTEGER NOT NULL,       -- of the first of its jobs, which the others follow
    at REAL NOT NULL                -- epoch seconds
);
CREATE INDEX IF NOT EXISTS calls_by_content ON calls (client, content);
CREATE UNIQUE INDEX IF NOT EXISTS calls_by_mark ON calls (client, mark) WHERE mark IS NOT NULL;
CREATE TABLE IF NOT EXISTS call_jobs (
    job BLOB PRIMARY KEY,           -- its key
    call INTEGER NOT NULL, place INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS call_jobs_by_call ON call_jobs (call, place);
CREATE TABLE IF NOT EXISTS takes (
    content BLOB PRIMARY KEY,       -- key of the job's first variant
    variant INTEGER NOT NULL        -- of its latest
) WITHOUT ROWID
"""
FIRST_POSITION = 1 << 40  # of jobs of calls: behind those that any manifest lists
MOST_JOBS = 1 << 10  # of one call
_ADD_TO_TOTAL = "UPDATE meta SET value = value + ? WHERE name = 'total'"
_CALL = "SELECT * FROM calls"
_LATEST = """
SELECT * FROM (SELECT * FROM calls ORDER BY number DESC LIMIT 100)
WHERE client = ? AND asked = ? AND mark IS NULL AND at >= ? ORDER BY number DESC LIMIT 1
"""
_IS_CALLED = "EXISTS (SELECT 1 FROM call_jobs WHERE job = ?1)"
_ANY_REDOS = "SELECT 1 FROM sqlite_master WHERE name = 'redos'"
_HAS_REDOS = "EXISTS (SELECT 1 FROM redos WHERE key = ?1)"
_JOIN_CALLS = """
INSERT INTO main.calls SELECT number + ?, client, content, CASE WHEN NOT EXISTS (
    SELECT 1 FROM main.calls AS our WHERE our.client = their.client AND our.mark = their.mark
) THEN mark END, asked, variant, at FROM other.calls AS their
"""
_JOIN_TAKES = """
INSERT INTO main.takes SELECT * FROM other.takes WHERE 1
ON CONFLICT (content) DO UPDATE SET variant = MAX(variant, excluded.variant)
"""
_OPEN = f"""
{_CALL} WHERE number IN (
    SELECT call FROM call_jobs JOIN jobs ON jobs.key = call_jobs.job WHERE jobs.status IN ('pending', 'unknown')
) ORDER BY number
"""  # noqa: S608  a constant
_SPENT = """
SELECT client, SUM(COALESCE(cost, price)) FROM attempts JOIN jobs ON jobs.number = attempts.job
JOIN call_jobs ON call_jobs.job = jobs.key JOIN calls ON calls.number = call_jobs.call
WHERE billed IS NOT 'no' GROUP BY client
"""


class Call(NamedTuple):
    """A row of the table."""

    number: int
    client: str
    content: bytes
    mark: str | None
    asked: str
    variant: int
    at: float
    place: int = 0  # of the job by which it was found


def uncalled(connection: sqlite3.Connection) -> str:
    """Return a condition on jobs: no client called for it. A ledger of before has no calls."""
    there = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'call_jobs'").fetchone()
    return "(key NOT IN (SELECT job FROM call_jobs))" if there else "1"


def begin_call(
    connection: sqlite3.Connection, call: Call, first: Job, count: int, made: Callable[[int, int], Job]
) -> tuple[Call, list[Job]]:
    """Record a call and so many jobs, each `made` of its variant and its position; return both as they are on record.

    `first` is the first variant of what is called for. `number` and `variant` of `call` are given here. The variants of
    a content follow each other, whoever calls for it.
    """
    number: int = connection.execute("SELECT COALESCE(MAX(number), 0) + 1 FROM calls").fetchone()[0]
    base = bytes.fromhex(first.key)
    row = connection.execute("SELECT variant FROM takes WHERE content = ?", (base,)).fetchone()
    variant = (row[0] if row else 0) + 1
    while _is_taken(connection, jobs := jobs_of(number, variant, count, made)):  # by a job of the manifest, or a redo
        variant += 1
    connection.execute("INSERT OR REPLACE INTO takes VALUES (?, ?)", (base, variant + count - 1))
    call = call._replace(number=number, variant=variant)
    connection.execute("INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?)", call[:-1])
    rows = ((bytes.fromhex(job.key), number, place) for place, job in enumerate(jobs))
    connection.executemany("INSERT INTO call_jobs VALUES (?, ?, ?)", rows)
    connection.execute(_ADD_TO_TOTAL, (count,))
    return call, jobs


def jobs_of(number: int, first: int, count: int, made: Callable[[int, int], Job]) -> list[Job]:
    """Return the jobs of a call, each `made` of its variant, from `first` on, and its position."""
    start = FIRST_POSITION + number * MOST_JOBS
    return [made(first + place, start + place) for place in range(count)]


def jobs_on_record(
    connection: sqlite3.Connection, call: Call, made: Callable[[int, int], Job], least: int = 0
) -> list[Job]:
    """Return the jobs of a call, `made` anew, by the keys that they were given then: the manifest may have changed.

    `least` is how many there are at least: a merge leaves a job that both folders had to a call of the first.
    """
    query = "SELECT place, lower(hex(job)) FROM call_jobs WHERE call = ? AND place >= 0"
    keys: dict[int, str] = dict(connection.execute(query, (call.number,)).fetchall())
    jobs = jobs_of(call.number, call.variant, max(least, max(keys, default=-1) + 1), made)
    return [replace(job, key=keys.get(place, job.key)) for place, job in enumerate(jobs)]


def _is_taken(connection: sqlite3.Connection, jobs: Sequence[Job]) -> bool:
    """Whether one of the jobs is on record as another's, also where nothing of it was sent yet."""
    pinned = _HAS_REDOS if connection.execute(_ANY_REDOS).fetchone() else "0"
    query = f"SELECT EXISTS (SELECT 1 FROM jobs WHERE key = ?1) OR {pinned} OR {_IS_CALLED}"  # noqa: S608  constants
    return any(connection.execute(query, (bytes.fromhex(job.key),)).fetchone()[0] for job in jobs)


def is_called(connection: sqlite3.Connection, key: str) -> bool:
    """Whether a job of this key (hex) is of a call, made or not."""
    return bool(connection.execute(f"SELECT {_IS_CALLED}", (bytes.fromhex(key),)).fetchone()[0])


def call_of_mark(connection: sqlite3.Connection, client: str, mark: str) -> Call | None:
    """Return the call that a client gave this mark, None when it gave it to none."""
    return _first(connection.execute(f"{_CALL} WHERE client = ? AND mark = ?", (client, mark)))


def last_call(connection: sqlite3.Connection, call: Call, since: float) -> Call | None:
    """Return the client's last call of the same since an epoch second, None when there was none.

    The same words make another content where the manifest has changed: then it is one of the latest calls, or none.
    """
    query = f"{_CALL} WHERE client = ? AND content = ? AND mark IS NULL AND at >= ? ORDER BY number DESC LIMIT 1"
    found = _first(connection.execute(query, (call.client, call.content, since)))
    return found or _first(connection.execute(_LATEST, (call.client, call.asked, since)))


def _first(rows: sqlite3.Cursor) -> Call | None:
    row = rows.fetchone()
    return None if row is None else Call(*row)


def call_of_job(connection: sqlite3.Connection, key: str) -> Call | None:
    """Return the call that a job of this key (hex) is of, with its place there; None when it is of none."""
    query = "SELECT calls.*, place FROM call_jobs JOIN calls ON calls.number = call WHERE job = ?"
    return _first(connection.execute(query, (bytes.fromhex(key),)))


def note_redo(connection: sqlite3.Connection, job: Job, call: int, ordinal: int) -> None:
    """Record that a redo of a job of a call is that call's, too: its place is below 0."""
    noted = connection.execute(
        "INSERT OR IGNORE INTO call_jobs VALUES (?, ?, ?)", (bytes.fromhex(job.key), call, -ordinal)
    )
    connection.execute(_ADD_TO_TOTAL, (noted.rowcount,))


def unsent(connection: sqlite3.Connection) -> int:
    """Return how many jobs of calls are on record of which nothing was sent yet."""
    query = "SELECT COUNT(*) FROM call_jobs WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE key = call_jobs.job)"
    return int(connection.execute(query).fetchone()[0])


def join_calls(connection: sqlite3.Connection) -> None:
    """Add the calls of the ledger that is attached as `other`; a mark, or a job, that both have stays the first's."""
    last: int = connection.execute("SELECT COALESCE(MAX(number), 0) FROM main.calls").fetchone()[0]
    connection.execute(_JOIN_CALLS, (last,))
    connection.execute("INSERT OR IGNORE INTO main.call_jobs SELECT job, call + ?, place FROM other.call_jobs", (last,))
    connection.execute(_JOIN_TAKES)


def open_calls(connection: sqlite3.Connection) -> list[Call]:
    """Return the calls of which something is still to come, in order."""
    return [Call(*row) for row in connection.execute(_OPEN)]


def spent_by_client(connection: sqlite3.Connection) -> dict[str, int]:
    """Return what each client's calls have cost so far in nanounits, possibly billed and open attempts included."""
    return {client: int(amount) for client, amount in connection.execute(_SPENT)}


def begun_since(connection: sqlite3.Connection, at: float) -> dict[str, list[float]]:
    """Return when each client's calls began since an epoch second, in order."""
    begun: dict[str, list[float]] = {}
    for client, began in connection.execute("SELECT client, at FROM calls ORDER BY number DESC"):
        if began < at:
            break
        begun.setdefault(client, []).append(began)
    return {client: times[::-1] for client, times in begun.items()}


class Made(NamedTuple):
    """A picture of a call: the key of its job, its file and bytes, and the name that it has in the mirror, if any.

    `remarks` are the job's, which name further pictures of the same answer.
    """

    key: str
    file_name: str
    sha256: str
    mirrored: str | None
    remarks: str | None


def pictures_by_prefix(connection: sqlite3.Connection, prefix: str) -> list[Made]:
    """Return the pictures of calls whose job's key begins with these hex digits (an even number of them)."""
    first = bytes.fromhex(prefix)
    query = (
        f"SELECT lower(hex(key)), file_name, sha256, {NAME_THERE}, remarks FROM jobs WHERE key BETWEEN ? AND ?"  # noqa: S608  constants
        " AND status = 'done' AND file_name IS NOT NULL AND EXISTS (SELECT 1 FROM call_jobs WHERE job = key)"
    )
    return [Made._make(row) for row in connection.execute(query, (first, first.ljust(32, b"\xff")))]
