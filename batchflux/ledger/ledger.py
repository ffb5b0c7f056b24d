"""The run's durable state: one row a job that was ever attempted, in `ledger.db`.

The rules (CONTRACT 6), each kept by one verb:

- `intend` is committed before the request leaves: from then on the attempt counts as spent (`in_flight`).
- `answered` is committed before the picture is fetched or written: from then on the job is never sent again.
- `settle` ends an attempt that gave no picture: free, or possibly billed.
- `finish` ends the job for this invocation.
- An attempt found in flight when the ledger is opened belongs to a process that died: it is possibly billed, and
  its job is `unknown`; unless its picture lies in the spool: then it was answered, and is recorded so.

Money is kept in whole nanounits of the currency (1e-9), so that sums are exact. The tables, and what is looked up in
them, are in rows.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.errors import Code, JobError, StorageError
from batchflux.ledger.connection import Database
from batchflux.ledger.tables import (
    COLUMNS,
    Known,
    currency,
    empty_ledger,
    get_meta,
    last_activity,
    nanos,
    prepare,
    rows_by_key,
    set_meta,
    spec_text,
    spent,
    spooled,
    tags_text,
)
from batchflux.models import Link, Status
from batchflux.redaction import redacted

if TYPE_CHECKING:
    import asyncio
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from batchflux.models import Job, Outcome

__all__ = [
    "COLUMNS",
    "Known",
    "Ledger",
    "currency",
    "empty_ledger",
    "get_meta",
    "give_up_in_flight",
    "last_activity",
    "nanos",
    "rows_by_key",
    "set_meta",
    "spec_text",
    "spent",
    "spooled",
    "tags_text",
]

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
_FINISH = f"""
UPDATE jobs SET status = ?, file_name = ?, width = ?, height = ?, bytes = ?, sha256 = ?, error_code = ?, error = ?,
    link = COALESCE(?, link), finished_at = ?, download_seconds = ?, spool = NULL WHERE key = ? RETURNING {COLUMNS}
"""  # noqa: S608  COLUMNS is a constant


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
            self.recovered = self.database.now(lambda connection: _open(connection, kept or {}))
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


def give_up_in_flight(connection: sqlite3.Connection, kept: Mapping[bytes, str]) -> int:
    """Make jobs unknown whose request is out and will not be waited for, but for `kept` pictures; return how many."""
    connection.executemany(_FOUND, [(name, key) for key, name in kept.items()])
    return connection.execute(_RECOVER).rowcount


def _open(connection: sqlite3.Connection, kept: Mapping[bytes, str]) -> int:
    prepare(connection)
    return give_up_in_flight(connection, kept)
