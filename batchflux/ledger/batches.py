"""Batches in the ledger: one submission each, with an attempt a job, all recorded before anything leaves.

A batch has its handle before it leaves: its name, by which its API finds it. So its attempts are `submitted` from the
first, no kill leaves one of them unknown, and every run waits for them. What the API made of it is a state of its own:

| state        | what is known                                                                              |
|--------------|--------------------------------------------------------------------------------------------|
| `authorized` | the request that creates it has not left; a run that finds it so takes it back             |
| `leaving`    | it may have left, and its answer is not known: the API is asked for the name               |
| `open`       | the API has it, and is asked for it                                                        |
| `completed`, `expired`, `cancelled`, `failed` | the API closed it so, and no attempt of it is out         |
| `voided`     | it never came to be                                                                        |
| `lost`       | the API accepted it and does not know it any more                                          |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from batchflux.errors import RULES, Code
from batchflux.ledger.ledger import (
    FORGET_PICTURE,
    STANDS,
    STANDS_AS_BEFORE,
    UNANSWERED_BEFORE,
    authorized,
    columns_of,
    inserted,
)
from batchflux.ledger.reviews import note_stale
from batchflux.ledger.tables import LAST
from batchflux.models import Status

if TYPE_CHECKING:
    import asyncio
    import sqlite3
    from collections.abc import Callable, Collection, Mapping, Sequence

    from batchflux.errors import JobError
    from batchflux.ledger.connection import Database
    from batchflux.models import Job, Leaving

End = Literal["completed", "failed", "expired", "cancelled", "voided", "lost"]

BATCHES = """
CREATE TABLE IF NOT EXISTS batches (
    submission INTEGER PRIMARY KEY,
    name TEXT NOT NULL,             -- by which its API finds it, and the handle of its submission
    kind TEXT NOT NULL,             -- what all its jobs have in common
    state TEXT NOT NULL,
    handle TEXT,                    -- by which its API is asked for it
    closed_at REAL,
    again INTEGER NOT NULL DEFAULT 0  -- answers beyond the first of a job
)
"""
_SUBMISSION = "INSERT INTO submissions (provider, key_name, handle, sent_at) VALUES (?, ?, ?, ?)"
_BATCH = "INSERT INTO batches (submission, name, kind, state) VALUES (?, ?, ?, 'authorized')"
_SUBMITTED = "UPDATE attempts SET state = 'submitted' WHERE number = ?"
_OPEN = """
SELECT submission, name, kind, state, batches.handle, provider, key_name, sent_at,
    EXISTS (SELECT 1 FROM attempts WHERE billed IS NULL AND attempts.submission = batches.submission)
FROM batches JOIN submissions ON number = submission WHERE closed_at IS NULL ORDER BY submission
"""
_OUT = """
SELECT attempts.number, job, lower(hex(key)), COALESCE(cost, price) FROM attempts JOIN jobs ON jobs.number = job
WHERE billed IS NULL AND submission = ? AND state = 'submitted'
"""
_CLOSED = "UPDATE batches SET state = ?, closed_at = ?, again = ? WHERE submission = ? AND closed_at IS NULL"
_VOIDED = "UPDATE attempts SET state = 'voided', billed = 'no', counts = 0 WHERE number = ?"
_ENDED = "UPDATE attempts SET state = ?, billed = ?, counts = ?, ended_at = ?, code = ?, error = ? WHERE number = ?"
_STILL_UNKNOWN = f"""
UPDATE jobs SET status = ?2, error_code = ?3, error = ?4
WHERE number = ?1 AND (SELECT state FROM attempts WHERE number = {LAST.format(job="?1")}) = 'unknown'
"""  # noqa: S608  constants
_AGAIN = """
UPDATE attempts SET cost = CASE billed WHEN 'no' THEN 0 ELSE COALESCE(cost, price) END + ?3 * price,
    billed = CASE billed WHEN 'no' THEN 'maybe' ELSE billed END
WHERE submission = ?1 AND job = (SELECT number FROM jobs WHERE key = ?2) RETURNING job, ?3 * price
"""
_REMARK = "UPDATE jobs SET remarks = COALESCE(remarks || '; ', '') || ? WHERE number = ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch that is not closed: `handle` is the API's, once it is known; `key_name` is whose it is.

    `number` is its submission's, `sent_at` in epoch seconds; `out`: an attempt of it has not ended.
    """

    number: int
    name: str
    kind: str
    state: str
    handle: str | None
    provider: str
    key_name: str
    sent_at: float
    out: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """How a batch ended: `end`, and what its answers are.

    `answered` are the keys of the jobs that its answers name, `again` how often those came that came more than once,
    beyond the first. The other jobs were not made, which is free, unless `error` says what became of them.
    """

    end: End
    answered: Collection[str] = frozenset()
    again: Mapping[str, int] = field(default_factory=dict)
    error: JobError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """What the ledger made of a closing: the reserved prices of the attempts that ended with it, by their job's key.

    `again` is what answers beyond the first cost. Not `whole`: answers wait that nobody took, so it stays open, a
    lost one with all its attempts.
    """

    ended: dict[str, int]
    again: int
    whole: bool


class BatchLedger:
    """The verbs of batches, on a ledger's `database`; `clock` returns the time in epoch seconds.

    What had not left when a process died is taken back as this is made. Each verb is committed when its future is done.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database, self._clock = database, clock
        database.now(self._begin)

    def unread(self) -> bool:
        """Whether a batch is not closed although all its answers are taken; for before the jobs."""
        return any(not row[-1] for row in self._database.now(lambda connection: connection.execute(_OPEN).fetchall()))

    def open(self) -> asyncio.Future[list[Batch]]:
        """Return the batches that are not closed, the oldest first."""

        def read(connection: sqlite3.Connection) -> list[Batch]:
            names = ("number", "name", "kind", "state", "handle", "provider", "key_name", "sent_at", "out")
            rows = connection.execute(_OPEN).fetchall()
            return [Batch(**dict(zip(names, (*row[:-1], bool(row[-1])), strict=True))) for row in rows]

        return self._database.submit(read)

    def jobs(self, number: int) -> asyncio.Future[frozenset[str]]:
        """Return the keys of all jobs of a batch."""
        query = "SELECT lower(hex(key)) FROM attempts JOIN jobs ON jobs.number = job WHERE submission = ?"
        return self._database.submit(
            lambda connection: frozenset(key for (key,) in connection.execute(query, (number,)))
        )

    def has(self, attempt: int) -> asyncio.Future[bool]:
        """Whether an attempt is one of a batch."""
        query = "SELECT 1 FROM attempts JOIN batches ON batches.submission = attempts.submission WHERE number = ?"
        return self._database.submit(lambda connection: connection.execute(query, (attempt,)).fetchone() is not None)

    def authorize(self, name: str, kind: str, sent: Sequence[tuple[Job, Leaving]]) -> asyncio.Future[list[int]]:
        """Record a batch that is about to leave, with an attempt a job; return the batch's number and then theirs.

        TransitionError: an attempt of a job is out.
        """

        def write(connection: sqlite3.Connection) -> list[int]:
            first = sent[0][1]
            of_batch = (first.provider, first.key_name, name, first.at)
            number = inserted(connection, _SUBMISSION, of_batch)
            connection.execute(_BATCH, (number, name, kind))
            return [number, *(_authorized(connection, number, job, leaving) for job, leaving in sent)]

        return self._database.submit(write)

    def leaves(self, number: int, at: float) -> asyncio.Future[None]:
        """Record that the request that creates a batch may leave from epoch second `at` on."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE batches SET state = 'leaving' WHERE submission = ?", (number,))
            connection.execute("UPDATE submissions SET sent_at = ? WHERE number = ?", (at, number))

        return self._database.submit(write)

    def recorded(self, number: int, handle: str) -> asyncio.Future[None]:
        """Record by which handle the API knows a batch, before it is asked for it."""
        query = "UPDATE batches SET state = 'open', handle = ? WHERE submission = ?"

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(query, (handle, number))

        return self._database.submit(write)

    def closed(self, number: int, closing: Closing) -> asyncio.Future[Freed]:
        """Record how a batch ended: what it has no answer for ends with it.

        What came again counts as spent, once, when all its answers are taken.
        """
        return self._database.submit(lambda connection: _close(connection, number, closing, self._clock()))

    def _begin(self, connection: sqlite3.Connection) -> None:
        connection.execute(BATCHES)
        for (number,) in connection.execute("SELECT submission FROM batches WHERE state = 'authorized'").fetchall():
            _close(connection, number, Closing(end="voided"), self._clock())


def _authorized(connection: sqlite3.Connection, batch: int, job: Job, leaving: Leaving) -> int:
    attempt = authorized(connection, (*columns_of(job), leaving.at), batch, leaving)
    connection.execute(_SUBMITTED, (attempt,))
    return attempt


def _close(connection: sqlite3.Connection, number: int, closing: Closing, at: float) -> Freed:
    out = connection.execute(_OUT, (number,)).fetchall()
    left = any(key in closing.answered for _, _, key, _ in out)
    if left and closing.end == "lost":
        return Freed(ended={}, again=0, whole=False)
    ended = {}
    for attempt, job, key, price in out:
        if key in closing.answered:
            continue
        ended[key] = price
        if closing.error is None:
            connection.execute(_VOIDED, (attempt,))
            _stand_again(connection, job)
        else:
            _end(connection, attempt, job, closing.error, at)
    if left:
        return Freed(ended=ended, again=0, whole=False)
    now_closed = connection.execute(_CLOSED, (closing.end, at, sum(closing.again.values()), number)).rowcount
    if closing.end == "lost":
        connection.execute("UPDATE submissions SET handle = NULL WHERE number = ?", (number,))
    again = 0
    if closing.again and now_closed:
        note_stale(connection)  # their jobs may have ended, and stand in results.csv
        again = sum(_count_again(connection, number, key, times) for key, times in closing.again.items())
    return Freed(ended=ended, again=again, whole=True)


def _stand_again(connection: sqlite3.Connection, job: int) -> None:
    """Let a job stand as before an attempt that was free."""
    connection.execute(STANDS, (Status.PENDING.value, None, None, job))
    connection.execute(STANDS_AS_BEFORE, (job,))
    connection.execute(_STILL_UNKNOWN, (job, *UNANSWERED_BEFORE))


def _end(connection: sqlite3.Connection, attempt: int, job: int, error: JobError, at: float) -> None:
    """End an attempt with what became of its whole batch."""
    unknown = error.code is Code.UNKNOWN
    how = ("unknown" if unknown else "failed", "maybe" if error.billed else "no", RULES[error.code].attempt)
    connection.execute(_ENDED, (*how, at, error.code.value, error.message, attempt))
    if not error.billed:
        _stand_again(connection, job)
        return
    status = Status.UNKNOWN if unknown else Status.PENDING
    connection.execute(STANDS, (status.value, error.code.value, error.message, job))
    connection.execute(FORGET_PICTURE, (job, attempt))


def _count_again(connection: sqlite3.Connection, number: int, key: str, times: int) -> int:
    """Count what came for a job beyond its first answer; return what it costs."""
    row = connection.execute(_AGAIN, (number, bytes.fromhex(key), times)).fetchone()
    if row is None:  # a line of nobody's
        return 0
    answers = "another answer" if times == 1 else f"{times} further answers"
    connection.execute(_REMARK, (f"its batch gave {answers}, counted as spent", row[0]))
    return int(row[1])
