"""A folder in numbers for Prometheus, read from its ledger, so that counters go on over all runs of the folder.

A counter counts attempts that have ended. One whose outcome was unknown and that is found again is taken out until it
ends; Prometheus takes that for a restart.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from batchflux.errors import Code
from batchflux.ledger.connection import reading
from batchflux.ledger.summary import last_run, state_in
from batchflux.ledger.tables import currency, get_meta
from batchflux.monitoring.exposition import Family, text_of
from batchflux.output.base import SUMMARY
from batchflux.output.folder import ledger_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping
    from decimal import Decimal
    from pathlib import Path

    from batchflux.ledger.summary import LastRun, State

_ENDED = (
    "SELECT provider, code, COUNT(*), SUM(counts), SUM(billed = 'maybe'),"
    " SUM(CASE WHEN billed IS NOT 'no' THEN COALESCE(cost, price) END),"
    " SUM(CASE WHEN state = 'captured' THEN ended_at - sent_at END), SUM(state = 'captured')"
    " FROM attempts JOIN submissions ON submissions.number = attempts.submission"
    " WHERE billed IS NOT NULL AND state != 'voided' GROUP BY provider, code ORDER BY provider, code"
)
_STATUSES = ("done", "failed", "unknown", "pending")


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What only a run under way knows: whether it waits, which of its `providers` are away, how it ended if it did."""

    waiting: bool = False
    providers: tuple[str, ...] = ()
    away: frozenset[str] = frozenset()
    exit_code: int | None = None
    ended_at: float | None = None


@dataclass(slots=True, kw_only=True)
class _Ended:
    """A provider's ended attempts: `seconds` from request to answer of those that gave a picture (`answered`)."""

    attempts: int = 0
    maybe: int = 0
    spent: int = 0
    seconds: float = 0.0
    answered: int = 0
    codes: dict[str, int] = field(default_factory=dict)


def metrics_of(folder: Path, live: Live | None = None) -> str:
    """Return a folder's metrics as text, with what a run tells of itself. UsageError: no ledger; StorageError."""
    with reading(ledger_of(folder)) as connection:
        return metrics_in(folder, connection, live)


def metrics_in(folder: Path, connection: sqlite3.Connection, live: Live | None = None) -> str:
    """Return the metrics of a folder whose ledger is open."""
    state, running = state_in(folder, connection)
    run = last_run(folder, connection, running=running)
    name = {"name": get_meta(connection, "name") or folder.name}
    ended = _ended(connection)
    for provider in live.providers if live is not None else ():
        ended.setdefault(provider, _Ended())  # a counter begins at 0, not with its first event
    families = [*_jobs(state, name), *_attempts(ended, name, state.currency), *_money(state, run, name)]
    return text_of([*families, *_now(state, run, name, live, running=running), *_last(folder, run, name, live)])


def _ended(connection: sqlite3.Connection) -> dict[str, _Ended]:
    """Return the attempts of each provider; of a ledger of format 1 none is known."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'submissions'").fetchone() is None:
        return {}
    made: dict[str, _Ended] = {}
    for provider, code, rows, counts, maybe, spent, seconds, answered in connection.execute(_ENDED).fetchall():
        one = made.setdefault(provider, _Ended())
        one.attempts += counts
        one.maybe += maybe
        one.spent += spent or 0
        one.seconds += max(seconds or 0.0, 0.0)  # the wall clock may have been set back
        one.answered += answered
        if code is not None:
            one.codes[code] = rows
    return made


def _jobs(state: State, name: Mapping[str, str]) -> Iterator[Family]:
    jobs = Family(name="batchflux_jobs", kind="gauge", says="Jobs of the manifest that was last run, by status.")
    for status in _STATUSES:
        jobs.add({**name, "status": status}, getattr(state, status))
    yield jobs
    says = "Jobs that are failed or unknown, by error code."
    failures = Family(name="batchflux_job_failures", kind="gauge", says=says)
    for code, number in state.failures.items():
        failures.add({**name, "code": code}, number)
    yield failures


def _attempts(ended: Mapping[str, _Ended], name: Mapping[str, str], money: str) -> Iterator[Family]:
    counters = {
        "batchflux_attempts_total": "Requests that could cost money and have ended, over all runs of the folder.",
        "batchflux_possibly_billed_total": "Of them those that were never answered, or may have been billed.",
        "batchflux_rate_limited_total": "Requests that the provider refused because there were too many (429).",
    }
    counted = [Family(name=each, kind="counter", says=says) for each, says in counters.items()]
    says = "Requests that ended without a picture, by error code."
    failed = Family(name="batchflux_attempts_failed_total", kind="counter", says=says)
    says = "Seconds from a request to its answer (a task's or a batch's end) of those that gave a picture."
    seconds = Family(name="batchflux_api_seconds", kind="summary", says=says)
    says = "Spent on a provider, possibly billed included."
    spent = Family(name="batchflux_provider_spent", kind="gauge", says=says)
    for provider, one in ended.items():
        labels = {**name, "provider": provider}
        refused = one.codes.get(Code.RATE_LIMITED.value, 0)
        for family, value in zip(counted, (one.attempts, one.maybe, refused), strict=True):
            family.add(labels, value)
        for code, number in one.codes.items():
            failed.add({**labels, "code": code}, number)
        seconds.add(labels, one.seconds, "_sum")
        seconds.add(labels, one.answered, "_count")
        spent.add({**labels, "currency": money}, currency(one.spent))
    return iter([*counted, failed, seconds, spent])


def _money(state: State, run: LastRun, name: Mapping[str, str]) -> Iterator[Family]:
    labels = {**name, "currency": state.currency}
    amounts = {
        "batchflux_spent": ("Spent by all runs of the folder, possibly billed and in flight included.", state.spent),
        "batchflux_budget": ("The most that all runs of the folder may spend.", run.budget),
        "batchflux_budget_per_run": ("The most that one run may spend.", run.budget_per_run),
    }
    for each, (says, amount) in amounts.items():
        yield _one(each, says, labels, amount)


def _now(state: State, run: LastRun, name: Mapping[str, str], live: Live | None, *, running: bool) -> Iterator[Family]:
    running = running and (live is None or live.exit_code is None)  # it may hold the folder yet
    waiting = running and (bool(run.message) or (live is not None and live.waiting))
    yield _one("batchflux_running", "Whether a run is under way (1) or not (0).", name, int(running))
    yield _one("batchflux_waiting", "Whether the run waits: for a rate, a provider, a budget.", name, int(waiting))
    yield _one("batchflux_in_flight", "Requests and tasks that are out.", name, state.in_flight)
    up = Family(name="batchflux_provider_up", kind="gauge", says="Whether a provider is there (1), or away (0).")
    for provider in live.providers if live is not None and running else ():
        up.add({**name, "provider": provider}, int(provider not in live.away if live is not None else 1))
    yield up
    says = "When the run has to end."
    yield _one("batchflux_deadline_timestamp_seconds", says, name, run.deadline if running else None)


def _last(folder: Path, run: LastRun, name: Mapping[str, str], live: Live | None) -> Iterator[Family]:
    """Yield when the last run began, and how the last one ended that did."""
    at, code = _how_it_ended(folder)
    if live is not None and live.exit_code is not None:
        at, code = live.ended_at, live.exit_code
    yield _one("batchflux_last_start_timestamp_seconds", "When the last run began.", name, run.began)
    yield _one("batchflux_last_end_timestamp_seconds", "When a run last ended.", name, at)
    yield _one("batchflux_exit_code", "The exit code of the run that ended last.", name, code)


def _one(name: str, says: str, labels: Mapping[str, str], value: float | Decimal | None) -> Family:
    made = Family(name=name, kind="gauge", says=says)
    made.add(labels, value)
    return made


def _how_it_ended(folder: Path) -> tuple[float | None, int | None]:
    """Return when the last run ended that left a summary, in epoch seconds, and its exit code."""
    try:
        data: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return datetime.fromisoformat(data["finished_at"]).timestamp(), int(data["exit_code"])
    except (OSError, ValueError, TypeError, KeyError):
        return None, None
