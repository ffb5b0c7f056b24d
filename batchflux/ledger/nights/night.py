"""What became of each run of a folder: what it made and cost, what it waited for, how it stood to its deadline.

The ledger says what was to be done, what it came to and how it ended (`runs`), and of each attempt when and how that
ended; run.log says what was waited for, and why. A run of before there were `runs` has what the log tells.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from batchflux.errors import Code
from batchflux.ledger.books.runs import Run, recorded
from batchflux.ledger.nights.log import Logged, logged
from batchflux.ledger.tables import currency, get_meta, spent
from batchflux.output.base import RUN_LOG
from batchflux.output.folder import iso

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from batchflux.ledger.nights.log import Note, Stretch

REFUSALS = (Code.RATE_LIMITED.value, Code.AUTH.value, Code.QUOTA.value)
MOST_BINS = 120
_WIDTHS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400, 604800)
_AT_ONCE = 20_000  # attempts, or jobs, read at once beside a run
_ATTEMPTS = """
SELECT at, state, code, billed, money FROM (
    SELECT COALESCE(ended_at, (SELECT sent_at FROM submissions WHERE number = submission)) AS at, state, code, billed,
        CASE WHEN billed IS NOT 'no' THEN COALESCE(cost, price) ELSE 0 END AS money
    FROM attempts WHERE number > ? AND number <= ? AND state != 'voided'
) WHERE at >= ?
"""
_VAIN = frozenset({"failed", "unknown"})  # states of attempts that gave no picture
_ROUNDED = 0.001  # seconds: the log's times are whole milliseconds
_PICTURES = "SELECT finished_at, status FROM jobs WHERE number > ? AND number <= ? AND finished_at >= ?"


@dataclass(slots=True, kw_only=True)
class Bins:
    """A run in `width` seconds each from `start` on: pictures, 429s and other failures, and nanounits spent."""

    start: float
    width: float
    images: list[int] = field(default_factory=list)
    limited: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    spent: list[int] = field(default_factory=list)

    @classmethod
    def over(cls, since: float, until: float) -> Bins:
        """Return empty ones of the shortest whole width that gives at most MOST_BINS."""
        width = next((one for one in _WIDTHS if (until - since) / one < MOST_BINS), _WIDTHS[-1])
        start = math.floor(since / width) * width
        count = max(1, math.floor((until - start) / width) + 1)
        return cls(start=start, width=width, **{name: [0] * count for name in ("images", "limited", "failed", "spent")})

    def add(self, name: str, at: float, much: int = 1) -> None:
        """Count something at a time; what is beyond the last bin is of it."""
        bins = getattr(self, name)
        bins[min(max(int((at - self.start) // self.width), 0), len(bins) - 1)] += much


@dataclass(slots=True, kw_only=True)
class Night:
    """One run of a folder. Times in epoch seconds, money in `currency`.

    `state` is `running`, `ended`, or `stopped` when it was cut off; `until` is when it ended or gave its last sign,
    `seconds` how long it took until then. `todo` is None where nothing tells. `refused` counts the attempts that a
    provider would not take and `failures` all others that gave no picture, by code. `waited` has the seconds of what
    was waited for, by kind and what it was, and `stretches` when that was.
    """

    name: str
    state: str
    began: float
    until: float
    seconds: float
    currency: str
    todo: int | None = None
    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    done: int = 0
    failed: int = 0
    unknown: int = 0
    spent: Decimal = Decimal(0)
    spent_possibly: Decimal = Decimal(0)
    possibly_billed: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    budget: Decimal | None = None
    budget_per_run: Decimal | None = None
    deadline: float | None = None
    waited: dict[tuple[str, str], float] = field(default_factory=dict)
    stretches: list[Stretch] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    more_notes: int = 0
    bins: Bins | None = None

    @property
    def images_per_minute(self) -> float:
        """Pictures a minute, over the whole run."""
        return 60.0 * self.done / max(self.seconds, 1e-3)

    @property
    def price(self) -> Decimal | None:
        """What a picture of it cost, with all that was paid for in vain; None without any."""
        return self.spent / self.done if self.done else None

    @property
    def spare(self) -> float | None:
        """Seconds that it ended before its deadline, below 0 after it; None without one."""
        return None if self.deadline is None else self.deadline - self.until

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values: money as decimal text, times as UTC ISO 8601."""
        alike = ("name", "state", "todo", "exit_code", "reason", "message", "done", "failed", "unknown", "currency")
        amounts = ("spent", "spent_possibly", "budget", "budget_per_run", "price")
        money = {name: getattr(self, name) for name in amounts}
        return {
            **{name: getattr(self, name) for name in alike},
            "started_at": iso(self.began),
            "finished_at": iso(self.until) if self.state == "ended" else None,
            "last_sign_at": iso(self.until),
            "seconds": round(self.seconds, 1),
            "images_per_minute": round(self.images_per_minute, 2),
            **{name: None if amount is None else format(amount, "f") for name, amount in money.items()},
            **{name: getattr(self, name) for name in ("possibly_billed", "refused", "failures")},
            "deadline": iso(self.deadline) or None,
            "deadline_seconds_to_spare": None if self.spare is None else round(self.spare),
            "waits": [
                {"kind": kind, "what": what, "seconds": round(seconds, 1)}
                for (kind, what), seconds in self.waited.items()
            ],
            "stretches": [
                {"kind": one.kind, "what": one.what, "why": one.why, "since": iso(one.since), "until": iso(one.until)}
                for one in self.stretches
            ],
            "notes": [{"at": iso(note.at), "event": note.event, "text": note.text} for note in self.notes],
            "more_notes": self.more_notes,
        }


def nights(folder: Path, connection: sqlite3.Connection, now: float, *, running: bool, most: int = 0) -> list[Night]:
    """Return the runs of an output folder, as time went: all, or the last `most`; one that runs goes on until `now`.

    Raises OSError: run.log cannot be read.
    """
    rows, logs = recorded(connection), logged(folder / RUN_LOG)
    if logs and logs[-1].ended is None:
        logs[-1].close(now if running else logs[-1].last_at)
    found = [_night(row, log) for row, log in _paired(rows, logs)]
    if running and found and found[-1].state == "stopped":
        found[-1].state, found[-1].until = "running", now
    found = found[-most:]
    exact = _spent(connection, rows)
    for night, counted in zip(found, _counted(connection, found), strict=True):
        night.spent = exact.get(night.began, counted)
        night.currency = night.currency or get_meta(connection, "currency") or ""
        if night.state != "ended":
            night.seconds = night.until - night.began
    return found


def last_night(folder: Path, connection: sqlite3.Connection, now: float, *, running: bool) -> Night | None:
    """Return the last run of an output folder, None when nothing tells of one."""
    return next(iter(nights(folder, connection, now, running=running, most=1)), None)


def fill_bins(connection: sqlite3.Connection, found: Sequence[Night]) -> None:
    """Say of each of these runs what came when."""
    at_night = _Finder(found)
    for night in found:
        night.bins = Bins.over(night.began, night.until)
    for at, status in _windows(connection, "jobs", _PICTURES, at_night.since):
        if status == "done" and (bins := at_night(at).bins) is not None:
            bins.add("images", at)
    for at, state, code, _, money in _windows(connection, "attempts", _ATTEMPTS, at_night.since):
        if (bins := at_night(at).bins) is not None:
            bins.add("spent", at, money)
            if state in _VAIN:
                bins.add("limited" if code == REFUSALS[0] else "failed", at)


class _Finder:
    """Finds the run that a time lies in: the last that began before it."""

    def __init__(self, found: Sequence[Night]) -> None:
        self._found, self._begans = found, [night.began for night in found]
        self.since = self._begans[0] if found else math.inf

    def __call__(self, at: float) -> Night:
        return self._found[bisect_right(self._begans, at) - 1]


def _paired(rows: Sequence[Run], logs: Sequence[Logged]) -> list[tuple[Run | None, Logged | None]]:
    """Return the runs as time went, each with what ledger and log have of it: the log begins a run a little later."""
    begans = [row.began for row in rows]
    of: dict[float, Logged] = {}
    found: list[tuple[float, Run | None, Logged | None]] = []
    for log in logs:
        place = bisect_right(begans, log.began + _ROUNDED) - 1
        if place < 0 or begans[place] in of:
            found.append((log.began, None, log))
        else:
            of[begans[place]] = log
    found += [(row.began, row, of.get(row.began)) for row in rows]
    return [(row, log) for _, row, log in sorted(found, key=lambda one: one[0])]


def _night(row: Run | None, log: Logged | None) -> Night:
    """Return a run as the ledger has it, with what the log tells of its waits, or as the log alone has it.

    What a log says may be of another version, or damaged.
    """
    if log is None:
        log = Logged(name="", began=0.0, last_at=0.0)
    told = {name: found if type(found := log.end.get(name)) is int else many for name, many in log.made.items()}
    made = told if row is None or row.done is None else _made(row)
    if row is None:
        code, reason, why = (log.end.get(name) for name in ("exit_code", "reason", "message"))
        row = Run(log.began, log.name, 0, 0, "", None, None, None, log.ended, None, code, _text(reason), _text(why))
    until = row.ended or max(log.ended or log.last_at, row.began)
    return Night(
        name=row.name,
        state="stopped" if row.ended is None else "ended",
        began=row.began,
        until=until,
        seconds=row.seconds or until - row.began,
        currency=row.currency,
        todo=row.todo or None,
        exit_code=row.exit_code if isinstance(row.exit_code, int) else None,
        reason=row.reason or "",
        message=row.message or "",
        done=made["done"],
        failed=made["failed"],
        unknown=0 if row.ended is None else made["unknown"],
        budget=_amount(row.budget),
        budget_per_run=_amount(row.budget_per_run),
        deadline=row.deadline,
        waited=dict(log.waited),
        stretches=log.stretches,
        notes=log.notes,
        more_notes=log.more_notes,
    )


def _made(row: Run) -> dict[str, int]:
    return {name: getattr(row, name) or 0 for name in ("done", "failed", "unknown")}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _amount(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _spent(connection: sqlite3.Connection, rows: Sequence[Run]) -> dict[float, Decimal]:
    """Return what each run on record has cost: one that was cut off, what had been spent until the next began."""
    after = [*(row.before for row in rows[1:]), spent(connection)] if rows else []
    return {
        row.began: currency(later - row.before if row.spent is None else row.spent)
        for row, later in zip(rows, after, strict=True)
    }


def _counted(connection: sqlite3.Connection, found: Sequence[Night]) -> list[Decimal]:
    """Add to these runs what the ledger knows of their attempts; return what those of each come to.

    One that was cut off has its last sign from them, where the log has none.
    """
    at_night = _Finder(found)
    sums = {night.began: 0 for night in found}
    for at, state, code, billed, money in _windows(connection, "attempts", _ATTEMPTS, at_night.since):
        night = at_night(at)
        sums[night.began] += money
        if night.state == "stopped":
            night.until = max(night.until, at)
        lost = state == "authorized" and night.state != "running"  # nobody waits for its answer any more
        if billed == "maybe" or lost:
            night.possibly_billed += 1
            night.spent_possibly += currency(money)
        if night.state == "stopped" and (lost or state == "unknown"):
            night.unknown += 1
        if state in _VAIN or lost:
            codes = night.refused if code in REFUSALS else night.failures
            why = code or "unknown"
            codes[why] = codes.get(why, 0) + 1
    return [currency(sums[night.began]) for night in found]


def _windows(connection: sqlite3.Connection, table: str, query: str, since: float) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a query from a time on, some at once: a run must not wait for somebody who looks at it."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone() is None:
        return
    last = connection.execute(f"SELECT COALESCE(MAX(number), 0) FROM {table}").fetchone()[0]  # noqa: S608  a constant
    for first in range(0, last, _AT_ONCE):
        yield from connection.execute(query, (first, first + _AT_ONCE, since)).fetchall()
