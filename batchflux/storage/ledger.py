"""The run's durable state: one row a job that was ever attempted, in `ledger.db`.

The rules (CONTRACT 6), each kept by one verb:

- `intend` is committed before the request leaves: from then on the attempt counts as spent (`in_flight`).
- `answered` is committed before the picture is fetched or written: from then on the job is never sent again.
- `settle` ends an attempt that gave no picture: free, or possibly billed.
- `finish` ends the job for this invocation.
- An attempt found in flight when the ledger is opened belongs to a process that died: it is possibly billed, and
  its job is `unknown`; unless its picture lies in the spool: then it was answered, and is recorded so.

Money is kept in whole nanounits of the currency (1e-9), so that sums are exact.
"""

from __future__ import annotations

import json
import sqlite3
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from batchflux.errors import Code, JobError, StorageError
from batchflux.model import Job, Link, Outcome, Status
from batchflux.storage.database import Database
from batchflux.storage.redact import redacted

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

NANOS = 10**9
FORMAT = 1

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

_INSERT = """
INSERT INTO jobs (key, id, position, planned, tags, spec, status, attempts, in_flight, started_at)
VALUES (?, ?, ?, ?, ?, ?, 'pending', ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET status = 'pending', attempts = attempts + excluded.attempts,
    in_flight = excluded.in_flight, started_at = COALESCE(started_at, excluded.started_at),
    error_code = NULL, error = NULL, link = NULL, spool = NULL
"""
_ANSWERED = """
UPDATE jobs SET cost = cost + COALESCE(in_flight, 0), in_flight = NULL, link = ?, spool = ?, api_seconds = ?
WHERE key = ?
"""
_FREE = "UPDATE jobs SET in_flight = NULL, attempts = attempts - ? WHERE key = ?"
_WITHDRAW = """
UPDATE jobs SET in_flight = NULL, attempts = attempts - 1, status = ?, error_code = ?, error = ? WHERE key = ?
"""
_MAYBE = """
UPDATE jobs SET status = ?, error_code = ?, error = ?,
    maybe_cost = maybe_cost + COALESCE(in_flight, 0), in_flight = NULL,
    possibly_billed = possibly_billed + 1 WHERE key = ?
"""
_FOUND = """
UPDATE jobs SET cost = cost + in_flight, in_flight = NULL, link = NULL, spool = ?
WHERE key = ? AND in_flight IS NOT NULL
"""
_RECOVER = """
UPDATE jobs SET status = 'unknown', maybe_cost = maybe_cost + in_flight, possibly_billed = possibly_billed + 1,
    in_flight = NULL, error_code = 'unknown', finished_at = NULL,
    error = 'the process ended while this request was out; it may have been billed'
WHERE in_flight IS NOT NULL
"""
COLUMNS = (
    "number, key, id, position, listed, planned, tags, spec, status, attempts, in_flight, possibly_billed, cost, "
    "maybe_cost, link, spool, file_name, width, height, bytes, sha256, error_code, error, started_at, finished_at, "
    "api_seconds, download_seconds"
)


_FINISH = f"""
UPDATE jobs SET status = ?, file_name = ?, width = ?, height = ?, bytes = ?, sha256 = ?, error_code = ?, error = ?,
    link = COALESCE(?, link), finished_at = ?, download_seconds = ?, spool = NULL WHERE key = ? RETURNING {COLUMNS}
"""  # noqa: S608  COLUMNS is a constant


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
    return json.dumps(dict(job.tags), ensure_ascii=False) if job.tags else ""


def spec_text(job: Job) -> str:
    """Return what a row says about a job beyond id, place and tags. No secrets."""
    spec: dict[str, Any] = {
        "prompt": job.prompt,
        "images": [image.source for image in job.images],
        "model": job.model,
        "provider": job.provider,
        "style": job.style,
    }
    for name in ("seed", "aspect_ratio", "output_format", "safety_tolerance", "prompt_upsampling"):
        value = getattr(job, name)
        if value is not None:
            spec[name] = value
    if job.variant != 1:
        spec["variant"] = job.variant
    if job.dropped:
        spec["dropped"] = list(job.dropped)
    return json.dumps(spec, ensure_ascii=False)


def nanos(amount: Decimal) -> int:
    """Return an amount of currency in nanounits, rounded up."""
    return int((amount * NANOS).to_integral_value(ROUND_CEILING))


def currency(amount: int) -> Decimal:
    """Return nanounits as an amount of currency, without trailing zeros."""
    value = (Decimal(amount) / NANOS).normalize()
    return value or Decimal(0)


class Ledger:
    """The ledger of one output folder; see the module's head for the rules.

    Args:
        path: the database file; made when it is missing.
        on_finish: called in the writing thread with the rows of the jobs whose end was just committed.
        durable: see Database.
        threaded: see Database.
        kept: pictures in the spool, by the key of their job (storage.images.kept_pictures).

    `sync_pictures` may be set to what makes the names of stored pictures last: it is called once before each commit
    that ends jobs, so that a hundred pictures share one sync of their folder.

    Raises:
        StorageError: the file cannot be used, or a later write fails.
    """

    def __init__(
        self,
        path: Path,
        *,
        on_finish: Callable[[list[Known]], None] | None = None,
        durable: bool = True,
        threaded: bool = True,
        kept: Mapping[bytes, str] | None = None,
    ) -> None:
        self._finished: list[Known] = []
        self._on_finish = on_finish
        self.sync_pictures: Callable[[], None] = lambda: None
        self.database = Database(
            path,
            before_commit=self._sync,
            after_commit=self._project,
            after_rollback=self._finished.clear,
            durable=durable,
            threaded=threaded,
        )
        try:
            self.recovered = self.database.now(lambda connection: _prepare(connection, kept))
        except StorageError:
            self.database.close()
            raise

    def close(self) -> None:
        """Finish what was submitted, then close the file."""
        self.database.close()

    def intend(self, job: Job, *, price: int, at: float) -> asyncio.Future[None]:
        """Record an attempt of `price` nanounits that is about to leave, at epoch second `at`."""
        values = (bytes.fromhex(job.key), job.id, job.position, job.file_name, tags_text(job), spec_text(job))

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(_INSERT, (*values, 1, price, at))

        return self.database.submit(write)

    def answered(self, job: Job, picture: Link | str, *, api_seconds: float) -> asyncio.Future[None]:
        """Record the received picture: its link, or the name of the file in the folder that has its bytes."""
        link, spool = (picture.url, None) if isinstance(picture, Link) else (None, picture)
        key = bytes.fromhex(job.key)

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(_ANSWERED, (link, spool, api_seconds, key))

        return self.database.submit(write)

    def withdraw(self, job: Job, *, unknown: bool) -> asyncio.Future[None]:
        """Take back an intention: its request has not left. `unknown` when an earlier one is still unanswered."""
        state: tuple[str, str | None, str | None] = (Status.PENDING.value, None, None)
        if unknown:
            message = "an earlier request of it was sent and never answered; it may have been billed"
            state = (Status.UNKNOWN.value, Code.UNKNOWN.value, message)
        key = bytes.fromhex(job.key)

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(_WITHDRAW, (*state, key))

        return self.database.submit(write)

    def settle(self, job: Job, error: JobError, *, counts: bool) -> asyncio.Future[None]:
        """End the attempt without a picture: possibly billed, or free; `counts=False` takes it off `attempts`.

        An unknown attempt leaves the job `unknown` until it is sent again, whatever happens in between.
        """
        key = bytes.fromhex(job.key)
        status = Status.UNKNOWN if error.code is Code.UNKNOWN else Status.PENDING

        def write(connection: sqlite3.Connection) -> None:
            if error.billed and error.code is Code.ECHOED_INPUT:  # answered, with what we sent: billed for certain
                connection.execute(_ANSWERED, (None, None, None, key))
            elif error.billed:
                connection.execute(_MAYBE, (status.value, error.code.value, error.message, key))
            else:
                connection.execute(_FREE, (0 if counts else 1, key))

        return self.database.submit(write)

    def finish(self, job: Job, outcome: Outcome) -> asyncio.Future[None]:
        """End the job for this invocation; its row follows in results.csv."""
        key = bytes.fromhex(job.key)
        stored = outcome.stored
        picture = (
            (stored.file_name, stored.width, stored.height, stored.bytes, stored.sha256) if stored else (None,) * 5
        )
        # A link is needed again only while there is no picture; afterwards its signature would be a secret kept.
        link = redacted(outcome.result_url) if outcome.result_url and stored else outcome.result_url
        values = (outcome.status.value, *picture, outcome.error_code, outcome.error, link)
        times = (outcome.finished_at, outcome.download_seconds)

        def write(connection: sqlite3.Connection) -> None:
            row = connection.execute(_FINISH, (*values, *times, key)).fetchone()
            if row is None:
                first = (key, job.id, job.position, job.file_name, tags_text(job), spec_text(job))
                connection.execute(_INSERT, (*first, 0, None, outcome.started_at))
                row = connection.execute(_FINISH, (*values, *times, key)).fetchone()
            self._finished.append(Known.of(row))

        return self.database.submit(write)

    def lookup(self, keys: Sequence[str]) -> asyncio.Future[dict[str, Known]]:
        """Return what is known of these jobs, by key."""

        def read(connection: sqlite3.Connection) -> dict[str, Known]:
            return {row[1].hex(): Known.of(row) for row in rows_by_key(connection, keys)}

        return self.database.submit(read)

    def _sync(self) -> None:
        if self._finished:
            self.sync_pictures()

    def _project(self) -> None:
        rows = self._finished.copy()
        self._finished.clear()
        if rows and self._on_finish is not None:
            self._on_finish(rows)


def rows_by_key(connection: sqlite3.Connection, keys: Sequence[str], columns: str = COLUMNS) -> list[Any]:
    """Return rows (`columns`) of the jobs with these keys (hex), in no order."""
    marks = ",".join("?" * len(keys))
    sql = f"SELECT {columns} FROM jobs WHERE key IN ({marks})"  # noqa: S608  only marks are put in
    return connection.execute(sql, [bytes.fromhex(key) for key in keys]).fetchall()


def spent(connection: sqlite3.Connection) -> int:
    """Return what the folder's jobs have cost so far in nanounits, possibly billed and in-flight attempts included."""
    row = connection.execute("SELECT SUM(cost + maybe_cost + COALESCE(in_flight, 0)) FROM jobs").fetchone()
    return int(row[0] or 0)


def give_up_in_flight(connection: sqlite3.Connection, kept: Mapping[bytes, str]) -> int:
    """Make jobs unknown whose request is out and will not be waited for, but for `kept` pictures; return how many."""
    connection.executemany(_FOUND, [(name, key) for key, name in kept.items()])
    return connection.execute(_RECOVER).rowcount


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


def empty_ledger() -> sqlite3.Connection:
    """Return a ledger in memory that holds nothing, for who looks at a folder before there is one."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    _prepare(connection)
    return connection


def _prepare(connection: sqlite3.Connection, kept: Mapping[bytes, str] | None = None) -> int:
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
    return give_up_in_flight(connection, kept or {})
