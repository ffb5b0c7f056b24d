"""The run's durable state, in `ledger.db`: each verb is committed before the engine goes on.

- `authorize` before a request leaves: from then on the attempt counts as spent. The picture of an attempt before it is
  forgotten only when this one has another, or may have been billed; refused or taken back, it leaves the job as it was.
- `submitted` when the API accepted a task: from then on it is polled, in this run or the next, and never sent again;
  also when that of an unknown attempt was found in the API's list.
- `captured` before a picture is fetched or written: from then on the attempt is paid, and never sent again.
- `voided` takes an attempt back whose request has not left.
- `failed` ends an attempt that gave no picture: free, possibly billed, or billed for certain.
- `found` makes a failed attempt a captured one: a later reader saw a picture in its answer, which had been kept.
- `finish` ends the job for this invocation.

An attempt found `authorized` when the ledger is opened belongs to a process that died: it is unknown and possibly
billed; unless its picture lies in the spool: then it was received, and is recorded so; or its answer is kept: then it
failed, as it was about to be recorded. One found `submitted` stays so.
"""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from batchflux.errors import RULES, Code, JobError, StorageError
from batchflux.ledger.books.further import forget_further, further_of, note_further
from batchflux.ledger.books.receipts import give_up_handle, note_receipt
from batchflux.ledger.connection import Database
from batchflux.ledger.tables import LAST, Known, known_by_key, prepare, select, spec_text, tags_text
from batchflux.models import Link, Status
from batchflux.output.base import REJECTED
from batchflux.redaction import redacted

if TYPE_CHECKING:
    import asyncio
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from batchflux.models import Job, Leaving, Outcome, Received

State = Literal["authorized", "submitted", "captured", "voided", "failed", "unknown"]

TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        "submitted": frozenset({"authorized", "unknown"}),
        "captured": frozenset({"authorized", "submitted", "captured", "unknown"}),  # captured: a fresh link to it
        "voided": frozenset({"authorized", "submitted", "unknown"}),  # submitted: in a batch, which has not made it
        "failed": frozenset({"authorized", "submitted", "unknown"}),
        "unknown": frozenset({"authorized", "submitted", "unknown"}),
    }
)
"""The states from which an attempt may come to each state; every attempt begins as `authorized`."""

_LAST = LAST.format(job="?1")
_JUDGED = frozenset({Code.DOWNLOAD, Code.BAD_IMAGE, Code.ECHOED_INPUT})  # the bytes of a picture, as nothing to store
_Stands = tuple[Status, str | None, str | None]  # a job's status, error code and error
UNANSWERED_BEFORE: _Stands = (
    Status.UNKNOWN,
    Code.UNKNOWN.value,
    "an earlier request of it was sent and never answered; it may have been billed",
)
_ANSWER_KEPT: frozenset[State] = frozenset({"failed"})

_JOB = "INSERT INTO jobs (key, id, position, planned, tags, spec, started_at) VALUES (?, ?, ?, ?, ?, ?, ?)"
_AUTHORIZE_JOB = f"""
{_JOB} ON CONFLICT (key) DO UPDATE SET status = 'pending', started_at = COALESCE(started_at, excluded.started_at),
    error_code = NULL, error = NULL, spec = excluded.spec
RETURNING number
"""
_SUBMISSION = "INSERT INTO submissions (provider, key_name, sent_at) VALUES (?, ?, ?)"
_AUTHORIZE = """
INSERT INTO attempts (job, submission, model, state, price, counts) VALUES (?, ?, ?, 'authorized', ?, 1)
"""
FORGET_PICTURE = """
UPDATE attempts SET link = NULL, spool = NULL WHERE job = ? AND number != ? AND COALESCE(link, spool) IS NOT NULL
"""
_HANDLE = "UPDATE submissions SET handle = ? WHERE number = (SELECT submission FROM attempts WHERE number = ?)"
STANDS = "UPDATE jobs SET status = ?, error_code = ?, error = ? WHERE number = ?"
_HANDLES_NEAR = """
SELECT other.handle FROM submissions AS own JOIN submissions AS other ON other.number != own.number
WHERE own.number = (SELECT submission FROM attempts WHERE number = ?1) AND other.handle IS NOT NULL
    AND other.sent_at BETWEEN own.sent_at - ?2 AND own.sent_at + ?2
"""
STANDS_AS_BEFORE = f"""
UPDATE jobs SET status = 'failed', (error_code, error) = (SELECT code, error FROM attempts WHERE number = {_LAST})
WHERE number = ?1 AND EXISTS (
    SELECT 1 FROM attempts WHERE number = {_LAST} AND state = 'captured' AND code IS NOT NULL
        AND (COALESCE(link, spool) IS NOT NULL OR jobs.file_name LIKE '{REJECTED}/%')
)
"""  # noqa: S608  constants
_CAPTURED_JOB = """
UPDATE jobs SET api_seconds = COALESCE(?, api_seconds), seed_used = ?, revised_prompt = ?,
    error_code = CASE status WHEN 'done' THEN error_code END, error = CASE status WHEN 'done' THEN error END,
    status = CASE status WHEN 'done' THEN 'done' ELSE 'pending' END
WHERE number = ?
"""
_FINISH = """
UPDATE jobs SET status = ?, file_name = ?, width = ?, height = ?, bytes = ?, sha256 = ?, error_code = ?, error = ?,
    remarks = ?, differs = ?, finished_at = ?, download_seconds = ? WHERE key = ? RETURNING number
"""
_FINISH_AS_REJECTED = f"""
UPDATE jobs SET error_code = ?2, error = ?3, status = 'failed', finished_at = ?4
WHERE key = ?1 AND file_name LIKE '{REJECTED}/%'
    AND (SELECT billed FROM attempts WHERE job = jobs.number ORDER BY attempts.number DESC LIMIT 1) = 'no'
RETURNING number
"""  # noqa: S608  constants
_LEAVE_PICTURE = f"""
UPDATE attempts SET link = COALESCE(?2, link), spool = CASE WHEN ?3 THEN NULL ELSE spool END,
    code = CASE state WHEN 'captured' THEN ?4 ELSE code END, error = CASE state WHEN 'captured' THEN ?5 ELSE error END
WHERE number = {_LAST}
"""  # noqa: S608  constants
_FOUND = """
UPDATE attempts SET state = 'captured', billed = 'yes', spool = ?
WHERE billed IS NULL AND job = (SELECT number FROM jobs WHERE key = ?)
"""
_LAST_NOW = """
UPDATE attempts SET number = (SELECT MAX(number) + 1 FROM attempts)
WHERE number = ? AND number < (SELECT MAX(number) FROM attempts WHERE job = ?) RETURNING number
"""
_ANSWERED = """
UPDATE attempts SET state = 'failed', billed = 'maybe', code = 'bad_answer', answer = ?
WHERE number = ? AND billed IS NULL AND state = 'authorized'
"""
_UNANSWERED_JOBS = """
UPDATE jobs SET status = 'unknown', error_code = 'unknown', finished_at = NULL,
    error = 'the process ended while this request was out; it may have been billed'
WHERE number IN (SELECT job FROM attempts WHERE billed IS NULL AND state = 'authorized')
"""
_UNANSWERED = """
UPDATE attempts SET state = 'unknown', billed = 'maybe', code = 'unknown'
WHERE billed IS NULL AND state = 'authorized'
"""


class TransitionError(RuntimeError):
    """A verb met an attempt in a state that does not allow it: a bug of the caller."""


class Ledger:
    """The ledger of one output folder, made when it is missing; see the module's head for the rules.

    `on_finish` is called in the writing thread with the rows of the jobs whose end was just committed. `kept` are
    files: pictures in the spool by the key of their job, answers by the number of their attempt. `clock` returns the
    time in epoch seconds; for `durable` and `threaded` see Database. `recovered` counts the attempts that a dead
    process left without an answer. StorageError: the file cannot be used, or a later write fails.
    """

    def __init__(
        self,
        path: Path,
        *,
        on_finish: Callable[[list[Known]], None] = lambda _: None,
        durable: bool = True,
        threaded: bool = True,
        kept: Mapping[Any, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._finished: list[int] = []  # numbers of jobs
        self._on_finish = on_finish
        self._clock = clock
        self.database = Database(
            path, after_commit=self._project, after_rollback=self._finished.clear, durable=durable, threaded=threaded
        )

        def begin(connection: sqlite3.Connection) -> int:
            prepare(connection)
            return give_up_in_flight(connection, kept or {})

        try:
            self.recovered = self.database.now(begin)
        except StorageError:
            self.database.close()
            raise

    def close(self) -> None:
        """Finish what was submitted, then close the file."""
        self.database.close()

    def authorize(self, job: Job, leaving: Leaving) -> asyncio.Future[int]:
        """Record an attempt that is about to leave; return its number.

        TransitionError: an attempt of the job is out, or can still be asked for by its handle.
        """
        columns = columns_of(job)

        def write(connection: sqlite3.Connection) -> int:
            submission = inserted(connection, _SUBMISSION, (leaving.provider, leaving.key_name, leaving.at))
            return authorized(connection, (*columns, leaving.at), submission, leaving)

        return self.database.submit(write)

    def submitted(self, attempt: int, handle: str, cost: int | None) -> asyncio.Future[None]:
        """Record the handle of an accepted task, and what it costs in nanounits where the answer says so."""

        def write(connection: sqlite3.Connection) -> None:
            job = _pass(connection, attempt, "submitted", billed=None, cost=cost, code=None, error=None, ended_at=None)
            connection.execute(_HANDLE, (handle, attempt))
            connection.execute(STANDS, (Status.PENDING.value, None, None, job))

        return self.database.submit(write)

    def captured(self, attempt: int, received: Received) -> asyncio.Future[None]:
        """Record the received picture: its link, or the name of the file in the folder that has its bytes."""
        at = self._clock()

        def write(connection: sqlite3.Connection) -> None:
            job = _capture(connection, attempt, received, at)
            connection.execute(FORGET_PICTURE, (job, attempt))
            if received.handle is not None:
                connection.execute(_HANDLE, (received.handle, attempt))

        return self.database.submit(write)

    def further(self, job: Job) -> asyncio.Future[list[str]]:
        """Return the links of further pictures that an answer to a job had, which has not ended since."""
        return self.database.submit(lambda connection: further_of(connection, bytes.fromhex(job.key)))

    def handles_near(self, attempt: int, seconds: float) -> asyncio.Future[list[str]]:
        """Return the handles of the other attempts that were sent within so many seconds of this one."""

        def read(connection: sqlite3.Connection) -> list[str]:
            return [handle for (handle,) in connection.execute(_HANDLES_NEAR, (attempt, seconds))]

        return self.database.submit(read)

    def found(self, attempt: int, received: Received) -> asyncio.Future[int]:
        """Record a picture that was read out of a failed attempt's kept answer.

        It is its job's last attempt from now on: return its number, which is another when the job was sent since.
        """
        at = self._clock()

        def write(connection: sqlite3.Connection) -> int:
            job = _capture(connection, attempt, received, at, _ANSWER_KEPT)
            row = connection.execute(_LAST_NOW, (attempt, job)).fetchone()
            return attempt if row is None else int(row[0])

        return self.database.submit(write)

    def voided(self, attempt: int, *, unanswered: bool) -> asyncio.Future[None]:
        """Take an attempt back: its request has not left. `unanswered` when an earlier one still is."""
        stands: _Stands = UNANSWERED_BEFORE if unanswered else (Status.PENDING, None, None)

        def write(connection: sqlite3.Connection) -> None:
            job = _pass(connection, attempt, "voided", billed="no", counts=0)
            connection.execute(STANDS, (*stands, job))
            if not unanswered:
                connection.execute(STANDS_AS_BEFORE, (job,))

        return self.database.submit(write)

    def failed(
        self,
        attempt: int,
        error: JobError,
        *,
        counts: bool,
        cost: int | None = None,
        answer: str | None = None,
        unanswered: bool = False,
    ) -> asyncio.Future[None]:
        """End the attempt without a picture; `counts=False` takes it off the job's attempts, `cost` is what was told.

        `answer` is the name of the file that keeps what was answered. `unanswered`, as in `voided`: while nothing else
        may have been billed, the job stays `unknown`. An unknown attempt leaves the job so, and its handle stays,
        unless the error says that the API does not have the task (`dead`).
        """
        unknown = error.code is Code.UNKNOWN
        certain = RULES[error.code].billed == "yes"  # answered, with what we sent
        billed = "maybe" if unknown else "no" if not error.billed else "yes" if certain else "maybe"
        stands: _Stands = (Status.UNKNOWN if unknown else Status.PENDING, None, None)
        if billed == "maybe":
            stands = (stands[0], error.code.value, error.message)
        elif billed == "no" and unanswered:
            stands = UNANSWERED_BEFORE
        why: dict[str, Any] = {"ended_at": self._clock(), "code": error.code.value, "error": error.message}
        why |= {} if answer is None else {"answer": answer}

        def write(connection: sqlite3.Connection) -> None:
            state: State = "unknown" if unknown else "failed"
            job = _pass(connection, attempt, state, billed=billed, counts=counts, cost=cost, **why)
            note_receipt(connection, attempt, error.receipt)
            if unknown and error.dead:
                give_up_handle(connection, attempt)
            connection.execute(STANDS, (*stands, job))
            if billed != "no":
                connection.execute(FORGET_PICTURE, (job, attempt))
            elif not unanswered:
                connection.execute(STANDS_AS_BEFORE, (job,))

        return self.database.submit(write)

    def finish(self, job: Job, outcome: Outcome) -> asyncio.Future[None]:
        """End the job for this invocation; its row follows in results.csv."""
        key, stored = bytes.fromhex(job.key), outcome.stored
        names = ("file_name", "width", "height", "bytes", "sha256")
        picture = [getattr(stored, name) if stored else None for name in names]
        # A link is needed again only while there is no picture; afterwards its signature would be a secret kept.
        link = redacted(outcome.result_url) if outcome.result_url and stored else outcome.result_url
        values = (outcome.status.value, *picture, outcome.error_code, outcome.error)
        values = (*values, stored and stored.remarks, (stored and " ".join(stored.differs)) or None)
        values = (*values, outcome.finished_at, outcome.download_seconds, key)

        judged = stored is not None or outcome.error_code in _JUDGED

        def write(connection: sqlite3.Connection) -> None:
            row = None
            if not judged and outcome.status is Status.FAILED:
                ended = (key, outcome.error_code, outcome.error, outcome.finished_at)
                row = connection.execute(_FINISH_AS_REJECTED, ended).fetchone()
            row = row or connection.execute(_FINISH, values).fetchone()
            if row is None:  # it ended before anything was sent
                connection.execute(_JOB, (*columns_of(job), outcome.started_at))
                row = connection.execute(_FINISH, values).fetchone()
            number = row[0]
            connection.execute(_LEAVE_PICTURE, (number, link, judged, outcome.error_code, outcome.error))
            forget_further(connection, key)
            self._finished.append(number)

        return self.database.submit(write)

    def lookup(self, keys: Sequence[str]) -> asyncio.Future[dict[str, Known]]:
        """Return what is known of these jobs, by key."""
        return self.database.submit(lambda connection: known_by_key(connection, keys))

    def uploaded(self, provider: str, sha256: str, url: str, expires: float | None) -> asyncio.Future[None]:
        """Record where a reference of these bytes lies at a provider, until epoch second `expires` (None: for good)."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO uploads VALUES (?, ?, ?, ?)", (provider, sha256, url, expires))

        return self.database.submit(write)

    def upload_of(self, provider: str, sha256: str, now: float) -> asyncio.Future[str | None]:
        """Return where a reference of these bytes lies at a provider, None when it does not at epoch second `now`."""

        def read(connection: sqlite3.Connection) -> str | None:
            query = "SELECT url FROM uploads WHERE provider = ? AND sha256 = ? AND (expires IS NULL OR expires > ?)"
            row = connection.execute(query, (provider, sha256, now)).fetchone()
            return None if row is None else str(row[0])

        return self.database.submit(read)

    def _project(self, connection: sqlite3.Connection) -> None:
        numbers = self._finished.copy()
        self._finished.clear()
        if numbers:
            self._on_finish(select(connection, "number", numbers))


def give_up_in_flight(connection: sqlite3.Connection, kept: Mapping[Any, str]) -> int:
    """Make attempts unknown whose request is out and will not be waited for, and return how many.

    Those whose picture or whose answer is kept were answered: see Ledger. Tasks with a handle stay submitted: the next
    run polls them.
    """
    for key, name in kept.items():
        connection.execute(_FOUND if isinstance(key, bytes) else _ANSWERED, (name, key))
    connection.execute(_UNANSWERED_JOBS)
    return connection.execute(_UNANSWERED).rowcount


def columns_of(job: Job) -> tuple[bytes, str, int, str, str, str]:
    """Return what a row says of the job itself."""
    return bytes.fromhex(job.key), job.id, job.position, job.file_name, tags_text(job), spec_text(job)


def _capture(
    connection: sqlite3.Connection,
    attempt: int,
    received: Received,
    at: float,
    before: frozenset[State] = TRANSITIONS["captured"],
) -> int:
    """Record the picture of an attempt at epoch second `at`; return its job's number."""
    asset = received.asset
    link, spool = (asset.url, None) if isinstance(asset, Link) else (None, asset)
    ended: dict[str, Any] = {"link": link, "spool": spool, "ended_at": at, "code": None, "error": None}
    job = _pass(connection, attempt, "captured", before, billed="yes", cost=received.cost, **ended)
    note_receipt(connection, attempt, received.receipt)
    if received.more:
        note_further(connection, job, [link.url for link in received.more])
    connection.execute(_CAPTURED_JOB, (received.api_seconds, received.seed_used, received.revised_prompt, job))
    return job


def authorized(connection: sqlite3.Connection, job: Sequence[Any], submission: int, leaving: Leaving) -> int:
    """Record a job's attempt as it is about to leave, and return its number; `job` are `columns_of`, and when it began.

    TransitionError: its last attempt is out, or can still be asked for.
    """
    (number,) = connection.execute(_AUTHORIZE_JOB, job).fetchone()
    _check_free(connection, number)
    return inserted(connection, _AUTHORIZE, (number, submission, leaving.model, leaving.price))


def inserted(connection: sqlite3.Connection, statement: str, values: Sequence[Any]) -> int:
    """Insert a row of a table that numbers its rows; return its number."""
    return int(connection.execute(statement, values).lastrowid or 0)


def _check_free(connection: sqlite3.Connection, job: int) -> None:
    """Raise TransitionError when the job's last attempt is out, or can still be asked for."""
    query = (
        "SELECT attempts.number, state, state = 'unknown' AND handle IS NOT NULL FROM attempts LEFT JOIN submissions"
        " ON submissions.number = attempts.submission WHERE job = ? ORDER BY attempts.number DESC LIMIT 1"
    )
    row = connection.execute(query, (job,)).fetchone()
    if row is not None and (row[1] in {"authorized", "submitted"} or row[2]):
        raise TransitionError(f"attempt {row[0]} is {row[1]}: the job must not be sent again")


def _pass(
    connection: sqlite3.Connection,
    attempt: int,
    to: State,
    before: frozenset[State] | None = None,
    **columns: Any,
) -> int:
    """Let an attempt come to a state, with these columns; return its job's number, or raise TransitionError.

    It must be in one of the states `before`, else as TRANSITIONS says.
    """
    allowed = sorted(before or TRANSITIONS[to])
    changes = ", ".join("cost = COALESCE(?, cost)" if name == "cost" else f"{name} = ?" for name in columns)
    marks = ",".join("?" * len(allowed))
    query = f"UPDATE attempts SET state = ?, {changes} WHERE number = ? AND state IN ({marks}) RETURNING job"  # noqa: S608  marks
    row = connection.execute(query, (to, *columns.values(), attempt, *allowed)).fetchone()
    if row is None:
        found = connection.execute("SELECT state FROM attempts WHERE number = ?", (attempt,)).fetchone()
        raise TransitionError(f"attempt {attempt} is {found[0] if found else 'not on record'} and cannot be {to}")
    return int(row[0])
