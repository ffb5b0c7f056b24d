"""What a folder holds, in numbers, and how its last run stands: `status` at any time, `summary.json` at the end."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from batchflux.errors import Code
from batchflux.ledger.books.mirrored import MirrorUse, use_of
from batchflux.ledger.connection import reading
from batchflux.ledger.lessons import noted
from batchflux.ledger.nights.night import last_night
from batchflux.ledger.reviews import judged_done, verdict_counts, waiting_redos
from batchflux.ledger.tables import currency, get_meta
from batchflux.output.base import SUMMARY
from batchflux.output.folder import FolderLock, iso, ledger_of

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from batchflux.ledger.nights.night import Night
    from batchflux.state import Lesson

RECENT = 600.0
LAST_BATCHES = 3  # of which is told how long they took
CUT_OFF = "The last run was cut off; run it again to continue."
_REFUSALS = tuple(code.value for code in (Code.RATE_LIMITED, Code.AUTH, Code.QUOTA))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderUse:
    """What one provider made of the listed jobs, and what all that was sent to it came to, possibly billed included.

    A job counts where it was sent last. `refused` are the attempts that it would not take: too many, its key, no money.
    """

    done: int = 0
    failed: int = 0
    unknown: int = 0
    attempts: int = 0
    spent: Decimal = Decimal(0)
    refused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchUse:
    """A batch that is not closed: of its `jobs` so many are `back`. It waits `since` then, UTC ISO 8601."""

    provider: str
    jobs: int
    back: int
    since: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Counts of listed jobs in a ledger, money in the manifest's currency, rate in pictures a minute.

    `total` is the number of jobs of the manifest that was last run; `pending` those that have not ended; `redo` the
    redos that a review asked for and no run has begun; `dropped` counts the jobs of which a field was dropped, by name.
    `providers` has who was asked so far, or made jobs, by name; `batches` those that are not closed, by theirs.
    `answered_again` counts answers of batches beyond the first for a job, which are counted as spent. `mirror` is the
    bucket that the folder was mirrored in last.
    """

    total: int
    done: int
    failed: int
    unknown: int
    pending: int
    in_flight: int
    attempts: int
    possibly_billed: int
    failures: dict[str, int]
    spent: Decimal
    spent_possibly: Decimal
    currency: str
    images_per_minute: float
    last_at: float | None
    redo: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    providers: dict[str, ProviderUse] = field(default_factory=dict)
    batches: dict[str, BatchUse] = field(default_factory=dict)
    answered_again: int = 0
    mirror: MirrorUse | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a run ended. `reason` is `finished`, or why it stopped; `message` says it in a sentence.

    `jobs` counts all jobs of the manifest, `this_run` those that ended in this run; `spent` is the folder's total with
    what was possibly billed (`spent_possibly`), `spent_this_run` this run's part. Times in epoch seconds;
    `seconds` is how long the run took, by a clock that nobody sets. `to_raise` is the limit, by its key under `limits`,
    that stopped it and would stop the next run at once, too; summary.json says it in `message` alone.
    """

    name: str
    folder: str
    exit_code: int
    reason: str
    message: str
    started_at: float
    finished_at: float
    seconds: float
    jobs: dict[str, int]
    this_run: dict[str, int]
    failures: dict[str, int]
    attempts: int
    possibly_billed: int
    spent: Decimal
    spent_possibly: Decimal
    spent_this_run: Decimal
    currency: str
    budget: Decimal | None = None
    budget_per_run: Decimal | None = None
    images_per_minute: float = 0.0
    dropped: dict[str, int] = field(default_factory=dict)
    providers: dict[str, ProviderUse] = field(default_factory=dict)
    batches: dict[str, BatchUse] = field(default_factory=dict)
    answered_again: int = 0
    mirror: MirrorUse | None = None
    to_raise: str | None = None

    def to_json(self) -> str:
        """Return the text of summary.json: money as decimal text, times as UTC ISO 8601."""
        data: dict[str, Any] = asdict(self)
        del data["to_raise"]
        data |= {"started_at": iso(self.started_at), "finished_at": iso(self.finished_at)}
        data |= {"seconds": round(self.seconds, 3), "images_per_minute": round(self.images_per_minute, 2)}
        for name in ("spent", "spent_possibly", "spent_this_run", "budget", "budget_per_run"):
            data[name] = None if data[name] is None else format(data[name], "f")
        return json.dumps(data, default="{:f}".format, ensure_ascii=False, indent=2) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRun:
    """The run that a folder had last, or has now.

    `state` is `running` while a process holds the folder, `ended` when it left its summary (`summary`, as parsed),
    `stopped` when it was cut off before that, and `none` when nothing tells. `reason` and `message` say why it ended;
    while it runs, `message` says what it waits for, if for anything. Times in epoch seconds.
    """

    state: Literal["running", "ended", "stopped", "none"]
    reason: str
    message: str
    began: float | None
    budget: Decimal | None
    budget_per_run: Decimal | None
    deadline: float | None
    summary: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """What was sent with one key: attempts, money (possibly billed included), and refusals by code."""

    attempts: int
    spent: Decimal
    refusals: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a folder stands: its counts, its last run, the verdicts on its pictures, and its keys by name.

    `not_judged` counts the pictures without a verdict, `learned` is what keys were found to allow lately,
    `seconds_left` is by the rate of a run that goes on, None when nothing tells. `night` is the last run, by the time.
    """

    state: State
    run: LastRun
    verdicts: dict[str, int]
    not_judged: int
    keys: dict[str, KeyUse]
    learned: dict[str, Lesson]
    seconds_left: float | None
    night: Night | None = None

    def to_json(self, now: float) -> str:
        """Return one JSON object, as of epoch second `now`: money as decimal text, times as UTC ISO 8601."""
        state, run = self.state, self.run
        budget, deadline = run.budget, run.deadline
        data: dict[str, Any] = asdict(state) | {
            "last_at": iso(state.last_at) or None,
            "running": run.state == "running",
            "state": run.state,
            "reason": run.reason,
            "message": run.message,
            "exit_code": run.summary.get("exit_code"),
            "started_at": iso(run.began) or None,
            "finished_at": run.summary.get("finished_at"),
            "seconds_left": self.seconds_left and round(self.seconds_left),
            "budget": budget,
            "budget_per_run": run.budget_per_run,
            "budget_left": None if budget is None else max(budget - state.spent, Decimal(0)),
            "deadline": iso(deadline) or None,
            "deadline_seconds_left": None if deadline is None else max(round(deadline - now), 0),
            "verdicts": self.verdicts,
            "not_judged": self.not_judged,
            "keys": {name: asdict(use) for name, use in self.keys.items()},
            "night": None if self.night is None else self.night.as_json(),
            "learned": {name: {"rate": key.rate, "active": key.active} for name, key in self.learned.items()},
        }
        return json.dumps(data, default="{:f}".format, ensure_ascii=False, indent=2)


def state_of(connection: sqlite3.Connection) -> State:
    """Count what the ledger holds."""
    by_status = dict(connection.execute("SELECT status, COUNT(*) FROM jobs WHERE listed GROUP BY status"))
    failures = connection.execute(
        "SELECT error_code, COUNT(*) FROM jobs"
        " WHERE listed AND status IN ('failed', 'unknown') AND error_code IS NOT NULL"
        " GROUP BY error_code ORDER BY 2 DESC, 1"
    )
    in_flight, attempts, possibly_billed, cost, maybe_cost = connection.execute(
        "SELECT in_flight, attempts, possibly_billed, cost, maybe_cost FROM totals"
    ).fetchone()
    last_at = connection.execute("SELECT MAX(finished_at) FROM jobs").fetchone()[0]
    batches, again = batches_of(connection)
    ended = {name: by_status.get(name, 0) for name in ("done", "failed", "unknown")}
    total = int(get_meta(connection, "total") or sum(by_status.values()))
    return State(
        total=total,
        **ended,
        pending=total - sum(ended.values()),
        in_flight=in_flight,
        attempts=attempts,
        possibly_billed=possibly_billed,
        failures=dict(failures.fetchall()),
        spent=currency(cost + maybe_cost),
        spent_possibly=currency(maybe_cost),
        currency=get_meta(connection, "currency") or "",
        images_per_minute=_rate(connection, last_at),
        last_at=last_at,
        redo=len(waiting_redos(connection)),
        dropped=json.loads(get_meta(connection, "dropped") or "{}"),
        providers=_providers(connection, ended["done"], attempts, cost + maybe_cost),
        batches=batches,
        answered_again=again,
        mirror=use_of(connection),
    )


def read_state(folder: Path) -> State:
    """Count what an output folder holds, also while a run goes on; UsageError without a ledger in it."""
    with reading(ledger_of(folder)) as connection:
        return state_in(folder, connection)[0]


def read_standing(folder: Path) -> Standing:
    """Tell how an output folder stands, also while a run goes on; UsageError without a ledger in it."""
    with reading(ledger_of(folder)) as connection:
        state, running = state_in(folder, connection)
        rate = state.images_per_minute
        return Standing(
            state=state,
            run=last_run(folder, connection, running=running),
            verdicts=verdict_counts(connection),
            not_judged=max(0, state.done - judged_done(connection)),
            keys=_keys(connection),
            learned=noted(connection),
            seconds_left=60 * state.pending / rate if running and rate else None,
            night=last_night(folder, connection, time.time(), running=running),
        )


def last_run(folder: Path, connection: sqlite3.Connection, *, running: bool) -> LastRun:
    """Tell how the last run of a folder stands; a summary of another one than the ledger names says nothing of it."""
    names = ("began", "budget", "budget_per_run", "deadline", "waiting")
    notes = {name: get_meta(connection, name) or None for name in names}
    began, deadline = (None if notes[name] is None else float(notes[name] or 0) for name in ("began", "deadline"))
    summary = {} if running else _summary(folder, began)
    cut_off = not running and not summary and began is not None
    budget, a_run = ((summary or notes).get(name) for name in ("budget", "budget_per_run"))
    return LastRun(
        state="running" if running else "ended" if summary else "stopped" if cut_off else "none",
        reason="cut_off" if cut_off else summary.get("reason", ""),
        message=CUT_OFF if cut_off else summary.get("message") or (notes["waiting"] if running else None) or "",
        began=began,
        budget=None if budget is None else Decimal(budget),
        budget_per_run=None if a_run is None else Decimal(a_run),
        deadline=deadline,
        summary=summary,
    )


def _summary(folder: Path, began: float | None) -> dict[str, Any]:
    """Return the summary of the run that began then, {} when there is none that can be read."""
    try:
        data = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    same_run = isinstance(data, dict) and (began is None or data.get("started_at") == iso(began))
    return data if same_run else {}


def _keys(connection: sqlite3.Connection) -> dict[str, KeyUse]:
    """Return the use of each key; a ledger of format 1 tells of none."""
    return {
        name: KeyUse(attempts=sent, spent=cost, refusals=no) for name, sent, cost, no in _sent(connection, "key_name")
    }


def _providers(connection: sqlite3.Connection, done: int, attempts: int, spent: int) -> dict[str, ProviderUse]:
    """Return what each provider made, and what was sent to it; the rest are the folder's own sums.

    They are its only provider's: a row's provider is in its `spec`, and to read a million takes a second.
    """
    if not _has_submissions(connection):
        return {}
    names = [row[0] for row in connection.execute("SELECT DISTINCT provider FROM submissions").fetchall()]
    by_status = "SELECT json_extract(spec, '$.provider'), COUNT(*) FROM jobs WHERE listed AND status = ? GROUP BY 1"
    counts = {status: dict(connection.execute(by_status, (status,)).fetchall()) for status in ("failed", "unknown")}
    if len(names) == 1:
        refused = "SELECT COUNT(*) FROM attempts WHERE code IN (?, ?, ?)"
        counts |= {"done": {names[0]: done}, "attempts": {names[0]: attempts}, "spent": {names[0]: currency(spent)}}
        counts["refused"] = {names[0]: connection.execute(refused, _REFUSALS).fetchone()[0]}
    else:
        sent = _sent(connection, "provider")
        counts["done"] = dict(connection.execute(by_status, ("done",)).fetchall())
        counts["attempts"] = {name: number for name, number, _, _ in sent}
        counts["spent"] = {name: money for name, _, money, _ in sent}
        counts["refused"] = {name: sum(refusals.values()) for name, _, _, refusals in sent}
    found = sorted({name for by_name in counts.values() for name in by_name})
    return {
        name: ProviderUse(**{what: by_name[name] for what, by_name in counts.items() if name in by_name})
        for name in found
    }


def batches_of(connection: sqlite3.Connection) -> tuple[dict[str, BatchUse], int]:
    """Return the batches that are not closed, and how many answers of all came beyond the first for a job."""
    if not _has_table(connection, "batches"):
        return {}, 0
    again = connection.execute("SELECT COALESCE(SUM(again), 0) FROM batches").fetchone()[0]
    rows = connection.execute(
        "SELECT name, provider, sent_at, COUNT(*), SUM(attempts.billed IS NOT NULL) FROM attempts"
        " JOIN batches ON batches.submission = attempts.submission"
        " JOIN submissions ON submissions.number = batches.submission"
        " WHERE batches.closed_at IS NULL AND attempts.state != 'voided' GROUP BY batches.submission"
    )
    use = {
        name: BatchUse(provider=provider, jobs=jobs, back=back, since=iso(sent_at))
        for name, provider, sent_at, jobs, back in rows
    }
    return use, again


def batch_seconds(connection: sqlite3.Connection, provider: str) -> tuple[float, ...]:
    """Return how many seconds each of a provider's last batches took until it was closed, the latest first."""
    if not _has_table(connection, "batches"):
        return ()
    rows = connection.execute(
        "SELECT closed_at - sent_at FROM batches JOIN submissions ON submissions.number = batches.submission"
        " WHERE provider = ? AND state = 'completed' AND closed_at > sent_at ORDER BY closed_at DESC LIMIT ?",
        (provider, LAST_BATCHES),
    )
    return tuple(seconds for (seconds,) in rows)


def batch_sent_at(connection: sqlite3.Connection, provider: str) -> float | None:
    """Return the epoch second at which a provider's newest batch left that is not closed; None without any."""
    if not _has_table(connection, "batches"):
        return None
    newest = (
        "SELECT MAX(sent_at) FROM batches JOIN submissions ON submissions.number = batches.submission"
        " WHERE provider = ? AND closed_at IS NULL"
    )
    found: float | None = connection.execute(newest, (provider,)).fetchone()[0]
    return found


def _has_submissions(connection: sqlite3.Connection) -> bool:
    """Tell whether the ledger says what was sent where; one of format 1 does not."""
    return _has_table(connection, "submissions")


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is not None


def _sent(
    connection: sqlite3.Connection, by: Literal["key_name", "provider"]
) -> list[tuple[str, int, Decimal, dict[str, int]]]:
    """Return of each key or provider its name, attempts, spend and refusals by code; of a format 1 ledger nothing."""
    if not _has_submissions(connection):
        return []
    refusals = ", ".join(f"COALESCE(SUM(code = '{code}'), 0)" for code in _REFUSALS)
    rows = connection.execute(
        f"SELECT {by}, SUM(counts), COALESCE(SUM(CASE WHEN billed IS NOT 'no' THEN COALESCE(cost, price) END), 0),"  # noqa: S608  constants
        f" {refusals} FROM attempts JOIN submissions ON submissions.number = attempts.submission"
        f" WHERE state != 'voided' GROUP BY {by} ORDER BY {by}"
    )
    return [
        (
            name,
            attempts,
            currency(spent),
            {code: number for code, number in zip(_REFUSALS, refused, strict=True) if number},
        )
        for name, attempts, spent, *refused in rows.fetchall()
    ]


def state_in(folder: Path, connection: sqlite3.Connection) -> tuple[State, bool]:
    """Count what an output folder's ledger holds, and tell whether a run holds the folder.

    Where nobody runs it, nobody waits for the answer to a request that is out: it is unknown, as the next run will
    find. A task that the API accepted stays in flight: the next run polls it.
    """
    lock = FolderLock(folder)
    running = lock.is_held()
    lost = connection.execute("SELECT unanswered FROM totals").fetchone()[0]
    state = state_of(connection)
    running = running or (lost > 0 and lock.is_held())  # it may have begun meanwhile
    if running or not lost:
        return state, running
    settled = replace(
        state,
        in_flight=state.in_flight - lost,
        unknown=state.unknown + lost,
        pending=max(0, state.pending - lost),
        possibly_billed=state.possibly_billed + lost,
        failures={**state.failures, "unknown": state.failures.get("unknown", 0) + lost},
    )
    return settled, False


def _rate(connection: sqlite3.Connection, last_at: float | None) -> float:
    """Return pictures a minute over the last ten minutes in which any were made."""
    if last_at is None:
        return 0.0
    first, count = connection.execute(
        "SELECT MIN(started_at), COUNT(*) FROM jobs WHERE status = 'done' AND finished_at > ?", (last_at - RECENT,)
    ).fetchone()
    if not count:
        return 0.0
    # A job may have begun long before: in an earlier run, or in a queue of retries.
    since = last_at - RECENT if first is None else max(float(first), last_at - RECENT)
    return 60.0 * float(count) / max(last_at - since, 1e-3)
