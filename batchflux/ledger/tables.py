"""The ledger's tables and views, a job's row as the program sees it, and what is looked up in them.

Three tables hold what was asked for (`jobs`), what was sent (`submissions`) and what became of it (`attempts`). Money
stands in `attempts` alone; sums are views: `known` per job, `totals` of the folder. Amounts are whole nanounits of the
currency (1e-9), so that sums are exact.

Format 1 had one table, with sums in it. A run migrates it in the transaction that opens the ledger; who only reads
sees it through temporary views of the same names, so that nothing changes under the program that wrote it.
"""

from __future__ import annotations

import json
import sqlite3
from decimal import ROUND_CEILING, Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from batchflux.errors import RULES, StorageError
from batchflux.ledger.books import balances, calls, further, mirrored, receipts, runs
from batchflux.manifest.identity import KnownAs
from batchflux.manifest.job_fields import asked
from batchflux.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from batchflux.manifest.identity import KnownBefore
    from batchflux.models import Job

NANOS, FORMAT = 10**9, 2
KEYS = "4"  # the rules that all keys and ids of a ledger follow which notes it; in others some may be of before
ENDED = "listed AND status IN ('done', 'failed', 'unknown')"  # a condition: the rows that results.csv shows
_AT_ONCE = 500  # rows read at once beside a run
_json = json.JSONEncoder(ensure_ascii=False).encode

_JOB_FIELDS = (
    "number, key, id, position, listed, planned, tags, spec, status, file_name, width, height, bytes, sha256, "
    "error_code, error, started_at, finished_at, api_seconds, download_seconds"
)
_SCHEMA = """
DROP VIEW IF EXISTS known; DROP VIEW IF EXISTS totals;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    id TEXT NOT NULL,
    position INTEGER NOT NULL, listed INTEGER NOT NULL DEFAULT 1,
    planned TEXT NOT NULL,          -- file name the manifest asks for
    tags TEXT NOT NULL,             -- JSON object, '' when there are none
    spec TEXT NOT NULL,             -- JSON object of what else the row says about the job
    status TEXT NOT NULL DEFAULT 'pending',
    file_name TEXT, width INTEGER, height INTEGER, bytes INTEGER, sha256 TEXT,
    error_code TEXT, error TEXT,
    started_at REAL, finished_at REAL, api_seconds REAL, download_seconds REAL,
    remarks TEXT,
    differs TEXT,                   -- DIFFERENCES of its picture from the order, with blanks between
    seed_used INTEGER, revised_prompt TEXT
);
CREATE INDEX IF NOT EXISTS jobs_by_id ON jobs (id); CREATE INDEX IF NOT EXISTS jobs_by_planned ON jobs (planned);
CREATE INDEX IF NOT EXISTS jobs_open ON jobs (status) WHERE status != 'done';
CREATE TABLE IF NOT EXISTS submissions (
    number INTEGER PRIMARY KEY,
    provider TEXT NOT NULL,
    key_name TEXT NOT NULL,
    handle TEXT,                    -- of the task that the API accepted
    sent_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS attempts (
    number INTEGER PRIMARY KEY,
    job INTEGER NOT NULL,
    submission INTEGER,
    model TEXT NOT NULL,
    state TEXT NOT NULL,            -- see TRANSITIONS in ledger.py
    price INTEGER NOT NULL,         -- most that it may cost
    cost INTEGER,                   -- what an answer says that it costs, in place of the price
    billed TEXT,                    -- no, maybe, yes, and NULL while the attempt is out
    counts INTEGER NOT NULL,        -- whether it is one of the job's attempts
    ended_at REAL, code TEXT, error TEXT,
    link TEXT,                      -- the received picture, when it came as a link
    spool TEXT,                     -- the received picture, when its bytes came: a file in the output folder
    answer TEXT                     -- a file that keeps what the API answered
);
CREATE INDEX IF NOT EXISTS attempts_by_job ON attempts (job, number, billed, counts, cost, price);
CREATE INDEX IF NOT EXISTS attempts_out ON attempts (job) WHERE billed IS NULL;
CREATE TABLE IF NOT EXISTS aliases (
    alias BLOB PRIMARY KEY,         -- key by today's rules
    key BLOB NOT NULL               -- of the job, by those of the version that recorded it
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS uploads (
    provider TEXT NOT NULL, sha256 TEXT NOT NULL, url TEXT NOT NULL,
    expires REAL,                   -- epoch seconds, NULL for good
    PRIMARY KEY (provider, sha256)
) WITHOUT ROWID;
"""


class Known(NamedTuple):
    """What the ledger knows of one job: a row of the view `known`. Money in nanounits, times in epoch seconds.

    `in_flight` is the price of the attempt that is out. `attempt` is the number of the last one (see LAST). Where
    something may still come from it (it is out, was submitted, was received and not put in its place, or is unknown),
    `handle`, `key_name` and `sent_at` are its submission's, and `reserved` is its price.
    `answers` names the files, with line ends between, that keep the answers of a job without a picture, the latest
    first; `again` counts its answers, while it has not ended, after which it is asked again at most once. `mirrored`
    is the name that its bytes have in the bucket that mirrors the folder. What has a default here came with format 2.
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
    remarks: str | None = None
    seed_used: int | None = None
    revised_prompt: str | None = None
    attempt: int | None = None
    handle: str | None = None
    key_name: str | None = None
    sent_at: float | None = None
    reserved: int | None = None
    differs: str | None = None
    answers: str | None = None
    again: int | None = None
    mirrored: str | None = None

    @classmethod
    def of(cls, row: Sequence[Any]) -> Known:
        """Make it from a row of COLUMNS."""
        return cls._make(row)


COLUMNS = ", ".join(Known._fields)
# What takes room in a row, or must be summed for it, and tells who only compares nothing, is left where it is.
# The attempts of a done job have ended, and tell nothing.
_UNUSED = {"spec": "''", "error": "NULL", "possibly_billed": "0", "cost": "0", "maybe_cost": "0"} | {
    name: f"CASE status WHEN 'done' THEN {nothing} ELSE {name} END"
    for name, nothing in (("attempts", "0"), ("in_flight", "NULL"))
}
LEAN = ", ".join(_UNUSED.get(name, name) for name in Known._fields)


def _sum(what: str, billed: str, none: str = "0") -> str:
    query = f"SELECT SUM({what}) FROM attempts WHERE job = jobs.number AND billed {billed}"  # noqa: S608  constants
    return f"COALESCE(({query}), {none})"


def _when_open(column: str) -> str:
    """Return the column of a last attempt that has something to come, or to be put in its place."""
    received = "last.state = 'captured' AND jobs.status = 'pending'"
    return f"CASE WHEN last.state IN ('authorized', 'submitted', 'unknown') OR {received} THEN {column} END"


_ONCE = ", ".join(f"'{code}'" for code, rule in RULES.items() if rule.retry == "once")
_LOOKED_UP = {  # the columns of `known` that are not the job's own
    "attempts": "(SELECT COALESCE(SUM(counts), 0) FROM attempts WHERE job = jobs.number)",
    "in_flight": _sum("COALESCE(cost, price)", "IS NULL", "NULL"),
    "possibly_billed": _sum("1", "= 'maybe'"),
    "cost": _sum("COALESCE(cost, price)", "= 'yes'"),
    "maybe_cost": _sum("COALESCE(cost, price)", "= 'maybe'"),
    "link": "last.link",
    "spool": "last.spool",
    "attempt": "last.number",
    "handle": _when_open("submissions.handle"),
    "key_name": _when_open("submissions.key_name"),
    "sent_at": _when_open("submissions.sent_at"),
    "reserved": _when_open("COALESCE(last.cost, last.price)"),
    "answers": (
        "CASE WHEN jobs.status IN ('failed', 'pending') THEN (SELECT GROUP_CONCAT(answer, char(10)) FROM (SELECT answer"
        " FROM attempts WHERE job = jobs.number AND answer IS NOT NULL ORDER BY number DESC)) END"
    ),
    "again": (
        "CASE WHEN jobs.status IN ('pending', 'unknown') THEN (SELECT COUNT(*) FROM attempts WHERE job = jobs.number"  # noqa: S608  constants
        f" AND state = 'failed' AND code IN ({_ONCE})) END"
    ),
    "mirrored": mirrored.NAME_THERE,
}
LAST = "(SELECT MAX(number) FROM attempts WHERE job = {job} AND billed IS NOT 'no')"
"""The attempt that says how a job stands: its last but those taken back or refused, which leave it as it was."""

_VIEWS = (  # of an older version they were dropped
    "CREATE VIEW known AS SELECT "  # noqa: S608  constants
    + ", ".join(f"{_LOOKED_UP.get(name, f'jobs.{name}')} AS {name}" for name in Known._fields)
    + f" FROM jobs LEFT JOIN attempts AS last ON last.number = {LAST.format(job='jobs.number')}"
    " LEFT JOIN submissions ON submissions.number = last.submission",
    (
        "CREATE VIEW totals AS SELECT COALESCE(SUM(billed IS NULL), 0) AS in_flight,"
        " COALESCE(SUM(state = 'authorized'), 0) AS unanswered,"
        " COALESCE(SUM(counts), 0) AS attempts, COALESCE(SUM(billed = 'maybe'), 0) AS possibly_billed,"
        " COALESCE(SUM(CASE WHEN billed = 'yes' THEN COALESCE(cost, price) END), 0) AS cost,"
        " COALESCE(SUM(CASE WHEN billed IN ('yes', 'no') THEN 0 ELSE COALESCE(cost, price) END), 0) AS maybe_cost"
        " FROM attempts"
    ),
)
_FORMAT_1_VIEWS = (
    "CREATE TEMP VIEW known AS SELECT "  # noqa: S608  constants
    + ", ".join(f"NULL AS {name}" if name in Known._field_defaults else name for name in Known._fields)
    + " FROM main.jobs",
    (
        "CREATE TEMP VIEW totals AS SELECT COALESCE(SUM(in_flight IS NOT NULL), 0) AS in_flight,"
        " COALESCE(SUM(in_flight IS NOT NULL), 0) AS unanswered, COALESCE(SUM(attempts), 0) AS attempts,"
        " COALESCE(SUM(possibly_billed), 0) AS possibly_billed, COALESCE(SUM(cost), 0) AS cost,"
        " COALESCE(SUM(maybe_cost + COALESCE(in_flight, 0)), 0) AS maybe_cost FROM main.jobs"
    ),
)


def tags_text(job: Job) -> str:
    """Return the job's tags as the ledger keeps them."""
    return _json(dict(job.tags)) if job.tags else ""


def spec_text(job: Job) -> str:
    """Return what a row says about a job beyond id, place and tags. No secrets."""
    images = [image.source if image.url is None else redacted(image.source) for image in job.images]
    spec = {"prompt": job.prompt, "images": images, "model": job.model, "provider": job.provider, "style": job.style}
    return _json(spec | asked(job) | ({"dropped": list(job.dropped)} if job.dropped else {}))


def nanos(amount: Decimal) -> int:
    """Return an amount of currency in nanounits, rounded up."""
    return int((amount * NANOS).to_integral_value(ROUND_CEILING))


def currency(amount: int) -> Decimal:
    """Return nanounits as an amount of currency, without trailing zeros."""
    return (Decimal(amount) / NANOS).normalize() or Decimal(0)


def select(connection: sqlite3.Connection, what: str, values: Sequence[Any], columns: str = COLUMNS) -> list[Known]:
    """Return the jobs of which `what` (a column, say) is one of the values, in no order. `columns` may be LEAN."""
    marks = ",".join("?" * len(values))
    query = f"SELECT {columns} FROM known WHERE {what} IN ({marks})"  # noqa: S608  constants and marks
    return [Known.of(row) for row in connection.execute(query, values)]


def known_by_key(connection: sqlite3.Connection, keys: Sequence[str], columns: str = COLUMNS) -> dict[str, Known]:
    """Return what is known of the jobs with these keys (hex), by key."""
    return {known.key.hex(): known for known in select(connection, "key", list(map(bytes.fromhex, keys)), columns)}


def known_as(connection: sqlite3.Connection, *, twins: bool = False) -> KnownBefore | None:
    """Return what finds the key and id by which an older version recorded a job, or (`twins`) another style did."""
    if (today := get_meta(connection, "keys") == KEYS) and not twins:
        return None
    by_key = "SELECT key, id FROM jobs WHERE key IN (?, ?, ?) ORDER BY status != 'done', key != ?"
    by_alias = "SELECT jobs.key, id FROM aliases JOIN jobs ON jobs.key = aliases.key WHERE alias = ?"
    has_aliases = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'aliases'").fetchone()

    def find(key: str, former: Callable[[], str], twin: str | None) -> KnownAs | None:
        keys = [bytes.fromhex(one) for one in (key, twin or key, key if today else former())]
        # A folder may have several, of which one may have the picture.
        row = connection.execute(by_key, (*keys, keys[0])).fetchone()
        if row is None and has_aliases:
            row = connection.execute(by_alias, keys[:1]).fetchone()
        return None if row is None else KnownAs(row[0].hex(), row[1])

    return find


def note_alias(connection: sqlite3.Connection, job: Job) -> None:
    """Record the key by today's rules of a job that is known by an older one, and what today's row says of it."""
    if job.alias is not None:
        pair = bytes.fromhex(job.alias), bytes.fromhex(job.key)
        if connection.execute("INSERT OR IGNORE INTO aliases VALUES (?, ?)", pair).rowcount:
            connection.execute("UPDATE jobs SET spec = ? WHERE key = ?", (spec_text(job), pair[1]))


def free_providers(connection: sqlite3.Connection, names: Iterable[str]) -> list[str]:
    """Return the names of providers that were paid nothing: simulator, and `names` if the last run was simulated."""
    return ["simulator", *(names if get_meta(connection, "simulated") == "1" else ())]


def paid_pictures(
    connection: sqlite3.Connection, free: Sequence[str] = ("simulator",), numbers: Iterable[int] | None = None
) -> int:
    """Return how many pictures, of all jobs or of those with these numbers, came from none of the `free` providers."""
    marks = ",".join("?" * len(free))
    count = f"SELECT COUNT(*) FROM jobs WHERE status = 'done' AND json_extract(spec, '$.provider') NOT IN ({marks})"  # noqa: S608  marks
    if numbers is None:
        return int(connection.execute(count, free).fetchone()[0])
    stream, found = iter(numbers), 0
    while batch := list(islice(stream, _AT_ONCE)):
        among = f"{count} AND number IN ({','.join('?' * len(batch))})"
        found += connection.execute(among, (*free, *batch)).fetchone()[0]
    return found


def ended_numbers(connection: sqlite3.Connection) -> list[int]:
    """Return the numbers of the listed jobs that ended, in manifest order."""
    query = f"SELECT number FROM jobs WHERE {ENDED} ORDER BY position, number"  # noqa: S608  a constant
    return [row[0] for row in connection.execute(query).fetchall()]


def ended_rows(connection: sqlite3.Connection, skip: Callable[[int], bool] | None = None) -> Iterator[Known]:
    """Return the listed jobs that ended, in manifest order, without those whose number `skip` holds."""
    query = f"SELECT {COLUMNS} FROM known WHERE {ENDED} ORDER BY position, number"  # noqa: S608  constants
    return (Known.of(row) for row in connection.execute(query) if skip is None or not skip(row[0]))


def jobs_by_number(connection: sqlite3.Connection, numbers: Iterable[int]) -> Iterator[Known]:
    """Yield the jobs with these numbers in this order, as they stand when they are come to; without any now gone.

    Never read for long at once: with a rollback journal a reader holds off the writer's commit, and a run must not wait
    for somebody who looks at it.
    """
    stream = iter(numbers)
    while batch := list(islice(stream, _AT_ONCE)):
        found = {known.number: known for known in select(connection, f"{ENDED} AND number", batch)}
        yield from (found[number] for number in batch if number in found)


def spent(connection: sqlite3.Connection) -> int:
    """Return what the folder's jobs have cost so far in nanounits, possibly billed and in-flight attempts included."""
    return int(connection.execute("SELECT cost + maybe_cost FROM totals").fetchone()[0])


def last_activity(connection: sqlite3.Connection) -> float | None:
    """Return when the folder's jobs last sent a request or ended, in epoch seconds, as far as it is on record."""
    query = (
        "SELECT MAX(started_at), MAX(finished_at), (SELECT MAX(sent_at) FROM submissions) FROM jobs"
        " WHERE EXISTS (SELECT 1 FROM attempts WHERE job = jobs.number AND counts)"
    )
    return max((at for at in connection.execute(query).fetchone() if at is not None), default=None)


def spooled(connection: sqlite3.Connection) -> set[str]:
    """Return the names of the spooled pictures that jobs still wait for."""
    return {name for (name,) in connection.execute("SELECT spool FROM attempts WHERE spool IS NOT NULL")}


def get_meta(connection: sqlite3.Connection, name: str) -> str | None:
    """Return a note about the folder, or None."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def set_meta(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Keep a note about the folder."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables that are missing, within the caller's transaction; a ledger of format 1 becomes one of format 2.

    StorageError: another version of batchflux wrote them in a format of its own.
    """
    made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone()
    (_migrate if _format(connection) == 1 else _make_tables)(connection)
    if not made:
        set_meta(connection, "keys", KEYS)
    set_meta(connection, "format", str(FORMAT))


def prepare_reading(connection: sqlite3.Connection) -> None:
    """Let `known` and `totals` be there for who reads a ledger of any age, as `prepare` does; write nothing."""
    if _format(connection) == 1:
        for statement in _FORMAT_1_VIEWS:
            connection.execute(statement)
    elif (columns := connection.execute("PRAGMA table_info(known)").fetchall()) and len(columns) < len(Known._fields):
        connection.execute(_VIEWS[0].replace("CREATE", "CREATE TEMP", 1).replace(_LOOKED_UP["mirrored"], "NULL"))


def empty_ledger() -> sqlite3.Connection:
    """Return a ledger in memory that holds nothing, for who looks at a folder before there is one."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    prepare(connection)
    return connection


def _format(connection: sqlite3.Connection) -> int:
    """Return which format a ledger has; a file without tables will have the latest."""
    made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
    found = get_meta(connection, "format") if made else None
    if found not in {None, "1", str(FORMAT)}:
        remedy = "use the version that wrote it, or another output folder."
        raise StorageError(f"The ledger is of format {found}, and this batchflux reads formats 1 to {FORMAT}: {remedy}")
    return FORMAT if found is None else int(found)


def _make_tables(connection: sqlite3.Connection) -> None:
    books = (receipts.SCHEMA, balances.SCHEMA, mirrored.SCHEMA, runs.SCHEMA, calls.SCHEMA, further.SCHEMA)
    tables = (statement for schema in (_SCHEMA, *books) for statement in schema.split(";"))
    for statement in (*tables, *_VIEWS):
        if statement.strip():
            connection.execute(statement)


def _migrate(connection: sqlite3.Connection) -> None:
    for index in ("jobs_by_id", "jobs_by_planned", "jobs_open"):
        connection.execute(f"DROP INDEX IF EXISTS {index}")
    connection.execute("ALTER TABLE jobs RENAME TO jobs_1")
    _make_tables(connection)
    connection.execute(f"INSERT INTO jobs ({_JOB_FIELDS}) SELECT {_JOB_FIELDS} FROM jobs_1")  # noqa: S608  constants
    old = connection.execute(
        "SELECT number, spec, status, attempts, in_flight, possibly_billed, cost, maybe_cost, link, spool, finished_at,"
        " error_code FROM jobs_1 ORDER BY number"
    )
    connection.executemany(
        "INSERT INTO attempts (job, model, ended_at, counts, state, billed, price, link, spool, code)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (attempt for row in old for attempt in _attempts_of(row)),
    )
    connection.execute("DROP TABLE jobs_1")


def _attempts_of(row: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield attempts that come to the sums of a job's row of format 1, the one that says how it stands last."""
    number, spec, status, attempts, in_flight, possibly_billed, cost, maybe_cost, link, spool, ended_at, code = row
    unknown = status == "unknown"
    received = link is not None or spool is not None or status == "done"
    paid = [("captured" if received else "failed", "yes", cost, link, spool, None)] if received or cost else []
    share, rest = divmod(maybe_cost, possibly_billed or 1)
    maybe = [
        ("unknown" if unknown else "failed", "maybe", share + (rest if not index else 0), None, None, code)
        for index in range(possibly_billed)
    ]
    out = [] if in_flight is None else [("authorized", None, in_flight, None, None, None)]
    free = [("failed", "no", 0, None, None, None)] * (attempts - len(paid) - len(maybe) - len(out))
    model = json.loads(spec).get("model", "")
    for index, one in enumerate([*free, *(paid + maybe if unknown else maybe + paid), *out]):
        yield (number, model, ended_at, index < attempts, *one)
