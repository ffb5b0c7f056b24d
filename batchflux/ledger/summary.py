"""What a folder holds, in numbers: `status` while a run goes on, `summary.json` when it has ended."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from batchflux.ledger.connection import reading
from batchflux.ledger.reviews import waiting_redos
from batchflux.ledger.tables import currency, get_meta
from batchflux.output.folder import FolderLock, iso, ledger_of

if TYPE_CHECKING:
    import sqlite3
    from decimal import Decimal
    from pathlib import Path

RECENT = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Counts of listed jobs in a ledger, money in the manifest's currency, rate in pictures a minute.

    `total` is the number of jobs of the manifest that was last run; `pending` those that have not ended; `redo` the
    redos that a review asked for and no run has begun; `dropped` counts the jobs of which a field was dropped, by name.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a run ended. `reason` is `finished`, or why it stopped; `message` says it in a sentence.

    `jobs` counts all jobs of the manifest, `this_run` those that ended in this run; `spent` is the folder's total with
    what was possibly billed (`spent_possibly`), `spent_this_run` this run's part. Times in epoch seconds;
    `seconds` is how long the run took, by a clock that nobody sets.
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
    images_per_minute: float = 0.0
    dropped: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text of summary.json: money as decimal text, times as UTC ISO 8601."""
        data: dict[str, Any] = asdict(self)
        data |= {"started_at": iso(self.started_at), "finished_at": iso(self.finished_at)}
        data |= {"seconds": round(self.seconds, 3), "images_per_minute": round(self.images_per_minute, 2)}
        for name in ("spent", "spent_possibly", "spent_this_run", "budget"):
            data[name] = None if data[name] is None else format(data[name], "f")
        return json.dumps(data, ensure_ascii=False, indent=2) + "\n"


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
    )


def read_state(folder: Path) -> State:
    """Count what an output folder holds, also while a run goes on; UsageError without a ledger in it."""
    with reading(ledger_of(folder)) as connection:
        return state_in(folder, connection)[0]


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
