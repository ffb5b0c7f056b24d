"""The page's header: what the run is, how it stands, what it has cost.

The rule: counts and money are the folder's; `state`, times and images a minute are the last run's. That is the one the
ledger names with `began`: a summary that began at another moment is an earlier run's, and says nothing of this one.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from batchflux.ledger.summary import state_in
from batchflux.ledger.tables import get_meta
from batchflux.output.base import SUMMARY
from batchflux.output.folder import iso

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

CUT_OFF = "The last run was cut off; run it again to continue."


def page_header(folder: Path, connection: sqlite3.Connection) -> dict[str, Any]:
    """Return the header's JSON object.

    `state` is `running` while a process holds the folder, `ended` when the last run has left its summary, `stopped`
    when it was cut off before that, and `none` when nothing tells. Money is decimal text, times are UTC ISO 8601,
    `seconds` is how long the last run took (up to now while it runs, up to its last picture when it was cut off; None
    when nothing tells), and `images_per_minute` are those of that time.
    """
    state, running = state_in(folder, connection)
    begun = get_meta(connection, "began")
    began = None if begun is None else float(begun)
    last = {} if running else _summary(folder, began)
    cut_off = began is not None and not running and not last
    counts = {name: getattr(state, name) for name in ("total", "done", "failed", "unknown", "pending", "in_flight")}
    return {
        "name": last.get("name") or get_meta(connection, "name") or folder.resolve().name,
        "folder": folder.resolve().name,
        "state": "running" if running else "ended" if last else "stopped" if cut_off else "none",
        "message": CUT_OFF if cut_off else last.get("message", ""),
        "counts": counts,
        "failures": state.failures,
        "attempts": state.attempts,
        "possibly_billed": state.possibly_billed,
        "spent": format(state.spent, "f"),
        "spent_possibly": format(state.spent_possibly, "f"),
        "budget": last.get("budget") if last else get_meta(connection, "budget") or None,
        "currency": state.currency,
        "started_at": last.get("started_at") or iso(began) or None,
        "finished_at": last.get("finished_at"),
        **_pace(connection, last, began, running=running),
        "made_at": iso(time.time()),
    }


def _summary(folder: Path, began: float | None) -> dict[str, Any]:
    """Return the summary of the run that began then, {} when there is none that can be read."""
    try:
        data = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    same_run = isinstance(data, dict) and (began is None or data.get("started_at") == iso(began))
    return data if same_run else {}


def _pace(
    connection: sqlite3.Connection, last: dict[str, Any], began: float | None, *, running: bool
) -> dict[str, float | None]:
    """Return how long the run took and its pictures a minute, both of the same time."""
    if last or began is None:
        return {"seconds": last.get("seconds"), "images_per_minute": last.get("images_per_minute", 0.0)}
    query = "SELECT COUNT(*), MAX(finished_at) FROM jobs WHERE status = 'done' AND finished_at >= ?"
    made, until = connection.execute(query, (began,)).fetchone()
    until = time.time() if running else until
    if until is None:
        return {"seconds": None, "images_per_minute": 0.0}
    seconds = max(until - began, 1e-3)
    return {"seconds": round(seconds, 1), "images_per_minute": round(60.0 * made / seconds, 1)}
