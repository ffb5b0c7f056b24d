"""The ledger's tables: their columns, a row as the program sees it, and what is looked up in them.

The verbs that write rows, and their rules, are in ledger.py, which passes on the names that go with them.
"""

from __future__ import annotations

import json
import sqlite3
from decimal import ROUND_CEILING, Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from batchflux.errors import StorageError
from batchflux.manifest.job_fields import asked
from batchflux.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from batchflux.models import Job

NANOS = 10**9
FORMAT = 1
ENDED = "listed AND status IN ('done', 'failed', 'unknown')"  # a condition: the rows that results.csv shows
_AT_ONCE = 500  # rows read at once beside a run
_json = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps makes an encoder a call

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    id TEXT NOT NULL,
    position INTEGER NOT NULL,
    listed INTEGER NOT NULL DEFAULT 1,
    planned TEXT NOT NULL,          -- file name the manifest asks for
    tags TEXT NOT NULL,             -- JSON object, '' when there are none
    spec TEXT NOT NULL,             -- JSON object of what else the row says about the job
    status TEXT NOT NULL DEFAULT 'pending',
    attempts INTEGER NOT NULL DEFAULT 0,
    in_flight INTEGER,              -- price of the attempt that is out, in nanounits
    possibly_billed INTEGER NOT NULL DEFAULT 0,
    cost INTEGER NOT NULL DEFAULT 0,        -- nanounits, certain
    maybe_cost INTEGER NOT NULL DEFAULT 0,  -- nanounits, of the possibly billed attempts
    link TEXT,                      -- the received picture, when it came as a link
    spool TEXT,                     -- the received picture, when its bytes came: a file in the output folder
    file_name TEXT, width INTEGER, height INTEGER, bytes INTEGER, sha256 TEXT,
    error_code TEXT, error TEXT,
    started_at REAL, finished_at REAL, api_seconds REAL, download_seconds REAL
);
CREATE INDEX IF NOT EXISTS jobs_by_id ON jobs (id);
CREATE INDEX IF NOT EXISTS jobs_by_planned ON jobs (planned);
CREATE INDEX IF NOT EXISTS jobs_open ON jobs (status) WHERE status != 'done';
"""

COLUMNS = (
    "number, key, id, position, listed, planned, tags, spec, status, attempts, in_flight, possibly_billed, cost, "
    "maybe_cost, link, spool, file_name, width, height, bytes, sha256, error_code, error, started_at, finished_at, "
    "api_seconds, download_seconds"
)


class Known(NamedTuple):
    """What the ledger knows of one job: the columns of its row. Money in nanounits, times in epoch seconds.

    A tuple, because a run that continues makes one a job: it costs a tenth of a frozen dataclass.
    """

    number: int
    key: bytes
    id: str
    position: int
    listed: int
    planned: str
    tags: str
    spec: str
    status: str
    attempts: int
    in_flight: int | None
    possibly_billed: int
    cost: int
    maybe_cost: int
    link: str | None
    spool: str | None
    file_name: str | None
    width: int | None
    height: int | None
    bytes: int | None
    sha256: str | None
    error_code: str | None
    error: str | None
    started_at: float | None
    finished_at: float | None
    api_seconds: float | None
    download_seconds: float | None

    @classmethod
    def of(cls, row: Sequence[Any]) -> Known:
        """Make it from a row of COLUMNS."""
        return cls._make(row)


def tags_text(job: Job) -> str:
    """Return the job's tags as the ledger keeps them."""
    return _json(dict(job.tags)) if job.tags else ""


def spec_text(job: Job) -> str:
    """Return what a row says about a job beyond id, place and tags. No secrets."""
    spec: dict[str, Any] = {
        "prompt": job.prompt,
        "images": [image.source if image.url is None else redacted(image.source) for image in job.images],
        "model": job.model,
        "provider": job.provider,
        "style": job.style,
    }
    spec.update(asked(job))
    if job.dropped:
        spec["dropped"] = list(job.dropped)
    return _json(spec)


def nanos(amount: Decimal) -> int:
    """Return an amount of currency in nanounits, rounded up."""
    return int((amount * NANOS).to_integral_value(ROUND_CEILING))


def currency(amount: int) -> Decimal:
    """Return nanounits as an amount of currency, without trailing zeros."""
    value = (Decimal(amount) / NANOS).normalize()
    return value or Decimal(0)


def rows_by_key(connection: sqlite3.Connection, keys: Sequence[str], columns: str = COLUMNS) -> list[Any]:
    """Return rows (`columns`) of the jobs with these keys (hex), in no order."""
    marks = ",".join("?" * len(keys))
    sql = f"SELECT {columns} FROM jobs WHERE key IN ({marks})"  # noqa: S608  only marks are put in
    return connection.execute(sql, [bytes.fromhex(key) for key in keys]).fetchall()


def ended_numbers(connection: sqlite3.Connection) -> list[int]:
    """Return the numbers of the listed jobs that ended, in manifest order."""
    query = f"SELECT number FROM jobs WHERE {ENDED} ORDER BY position, number"  # noqa: S608  a constant
    return [row[0] for row in connection.execute(query).fetchall()]


def jobs_by_number(connection: sqlite3.Connection, numbers: Iterable[int]) -> Iterator[Known]:
    """Yield the jobs with these numbers in this order, as they stand when they are come to; without any now gone.

    Never read for long at once: with a rollback journal a reader holds off the writer's commit, and a run must not wait
    for somebody who looks at it.
    """
    stream = iter(numbers)
    while batch := list(islice(stream, _AT_ONCE)):
        marks = ",".join("?" * len(batch))
        query = f"SELECT {COLUMNS} FROM jobs WHERE number IN ({marks}) AND {ENDED}"  # noqa: S608  constants and marks
        found = {row[0]: row for row in connection.execute(query, batch).fetchall()}
        yield from (Known.of(found[number]) for number in batch if number in found)


def spent(connection: sqlite3.Connection) -> int:
    """Return what the folder's jobs have cost so far in nanounits, possibly billed and in-flight attempts included."""
    row = connection.execute("SELECT SUM(cost + maybe_cost + COALESCE(in_flight, 0)) FROM jobs").fetchone()
    return int(row[0] or 0)


def last_activity(connection: sqlite3.Connection) -> float | None:
    """Return when the folder's jobs last sent a request or ended, in epoch seconds, as far as it is on record."""
    query = "SELECT MAX(MAX(started_at), COALESCE(MAX(finished_at), 0)) FROM jobs WHERE attempts > 0"
    found = connection.execute(query).fetchone()[0]
    return None if found is None else float(found)


def spooled(connection: sqlite3.Connection) -> set[str]:
    """Return the names of the spooled pictures that jobs still wait for."""
    return {row[0] for row in connection.execute("SELECT spool FROM jobs WHERE spool IS NOT NULL")}


def get_meta(connection: sqlite3.Connection, name: str) -> str | None:
    """Return a note about the folder, or None."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def set_meta(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Keep a note about the folder."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables that are missing.

    Raises:
        StorageError: another version of batchflux wrote them in a format of its own.
    """
    for statement in _SCHEMA.split(";"):
        if statement.strip():
            connection.execute(statement)
    found = get_meta(connection, "format")
    if found is None:
        set_meta(connection, "format", str(FORMAT))
    elif found != str(FORMAT):
        raise StorageError(
            f"The ledger is of format {found}, and this batchflux reads format {FORMAT}: "
            "use the version that wrote it, or another output folder."
        )


def empty_ledger() -> sqlite3.Connection:
    """Return a ledger in memory that holds nothing, for who looks at a folder before there is one."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    prepare(connection)
    return connection
