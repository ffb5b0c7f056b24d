"""The page's header: what the run is, how it stands, what it has cost."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from batchflux.storage.folder import FolderLock
from batchflux.storage.ledger import get_meta
from batchflux.storage.results import iso
from batchflux.storage.summary import state_of

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path


def page_header(folder: Path, connection: sqlite3.Connection) -> dict[str, Any]:
    """Return the header's JSON object.

    `state` is `running` while a process holds the folder, `ended` when the last run has left its summary, otherwise
    `none`. Money is decimal text, times are UTC ISO 8601, `seconds` is how long the last run took (up to now, while it
    runs; None when nothing tells).
    """
    state = state_of(connection)
    running = FolderLock(folder).is_held()
    last = {} if running else _summary(folder)
    counts = {name: getattr(state, name) for name in ("total", "done", "failed", "unknown", "pending", "in_flight")}
    return {
        "name": last.get("name") or get_meta(connection, "name") or folder.resolve().name,
        "folder": folder.resolve().name,
        "state": "running" if running else "ended" if last else "none",
        "message": last.get("message", ""),
        "counts": counts,
        "failures": state.failures,
        "attempts": state.attempts,
        "possibly_billed": state.possibly_billed,
        "spent": format(state.spent, "f"),
        "spent_possibly": format(state.spent_possibly, "f"),
        "budget": last.get("budget") if last else get_meta(connection, "budget") or None,
        "currency": state.currency,
        "images_per_minute": round(state.images_per_minute, 1),
        "started_at": last.get("started_at") or _meta_time(connection),
        "finished_at": last.get("finished_at"),
        "seconds": last.get("seconds") or _since(connection, running=running),
        "made_at": iso(time.time()),
    }


def _summary(folder: Path) -> dict[str, Any]:
    """Return the last run's summary, {} when there is none that can be read."""
    try:
        data = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _began(connection: sqlite3.Connection) -> float | None:
    text = get_meta(connection, "began")
    return None if text is None else float(text)


def _meta_time(connection: sqlite3.Connection) -> str | None:
    return iso(_began(connection)) or None


def _since(connection: sqlite3.Connection, *, running: bool) -> float | None:
    began = _began(connection)
    return round(time.time() - began, 1) if running and began is not None else None
