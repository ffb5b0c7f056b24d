"""What the page says: its header, and one flat JSON object a job.

A row has the columns of results.csv and what a page needs beside them: URLs are relative to the folder, '' when there
is none, and `spent` includes possibly billed attempts. Text is as it was written: the page shows it and never runs it.

In the header counts and money are the folder's; `state`, times, images a minute, `this_run` and `spent_this_run` are
the last run's.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchflux.exports.base import HEADER, remarks_of
from batchflux.ledger.nights.night import fill_bins, nights
from batchflux.ledger.reviews import Verdict, judged_done, verdict_counts, verdicts_on
from batchflux.ledger.summary import last_run, state_in
from batchflux.ledger.tables import currency, get_meta, jobs_by_number
from batchflux.output.folder import FolderLock, iso
from batchflux.redaction import redacted
from batchflux.report.thumbs import is_url, thumb_name

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from batchflux.ledger.nights.night import Night
    from batchflux.ledger.tables import Known
    from batchflux.report.thumbs import PictureUrls

MOST_NIGHTS, MOST_STRETCHES = 20, 200  # that a page has; of each run
_AT_ONCE = 500
_NO_VERDICT = Verdict(review="")


def base_of(connection: sqlite3.Connection) -> Path | None:
    """Return the manifest's folder, which local references are relative to; None when the ledger does not tell."""
    base = get_meta(connection, "base")
    return Path(base) if base else None


def page_rows(connection: sqlite3.Connection, numbers: Sequence[int], urls: PictureUrls) -> Iterator[dict[str, Any]]:
    """Yield the page's rows of the jobs with these numbers, as they stand when they are come to."""
    for first in range(0, len(numbers), _AT_ONCE):
        jobs = list(jobs_by_number(connection, numbers[first : first + _AT_ONCE]))
        said = verdicts_on(connection, [known.key for known in jobs])
        for known in jobs:
            yield page_row(known, urls, said.get(known.key, _NO_VERDICT))


def page_row(known: Known, urls: PictureUrls, verdict: Verdict = _NO_VERDICT) -> dict[str, Any]:
    """Return the page's row of one ended job."""
    spec = json.loads(known.spec)
    spent = known.cost + known.maybe_cost + (known.in_flight or 0)
    seconds = {"api_seconds": known.api_seconds, "download_seconds": known.download_seconds}
    return {
        **{name: getattr(known, name, spec.get(name)) for name in HEADER},
        **{name: spec.get(name) for name in ("safety_tolerance", "prompt_upsampling")},
        "images": " ".join(redacted(source) if is_url(source) else source for source in spec["images"]),
        "variant": spec.get("variant", 1),
        "remarks": remarks_of(known, spec) or None,
        "cost": format(currency(known.cost), "f"),
        "spent": format(currency(spent), "f"),
        **{name: iso(getattr(known, name)) for name in ("started_at", "finished_at")},
        **{name: value and round(value, 3) for name, value in seconds.items()},
        "result_url": redacted(known.link) if known.link else None,
        "key": known.key.hex(),
        "tags": json.loads(known.tags) if known.tags else {},
        "references": [urls.reference(source) for source in spec["images"]],
        "thumb": urls.thumb(known),
        "full": urls.full(known),
        "mirror": urls.apart(known),
        "carries": " ".join(urls.carries(thumb_name(known))) or None,
        "review": verdict.review,
        "note": verdict.note,
        "reviewer": verdict.reviewer,
        "position": known.position,
    }


def page_header(folder: Path, connection: sqlite3.Connection) -> dict[str, Any]:
    """Return the header's JSON object; money is decimal text, times are UTC ISO 8601.

    `state` is as of LastRun. `seconds` is how long the last run took: up to now while it runs, up to its last picture
    when it was cut off; `this_run` counts the jobs that ended in it, `not_judged` the pictures
    without a verdict.
    """
    state, running = state_in(folder, connection)
    run = last_run(folder, connection, running=running)
    last, budget = run.summary, run.budget
    counts = {name: getattr(state, name) for name in ("total", "done", "failed", "unknown", "pending", "in_flight")}
    return {
        "name": last.get("name") or get_meta(connection, "name") or folder.resolve().name,
        "folder": folder.resolve().name,
        "state": run.state,
        "reason": run.reason,
        "message": run.message,
        "counts": counts,
        "verdicts": verdict_counts(connection),
        "not_judged": max(0, state.done - judged_done(connection)),
        **{name: getattr(state, name) for name in ("failures", "attempts", "possibly_billed", "currency")},
        **{name: format(getattr(state, name), "f") for name in ("spent", "spent_possibly")},
        "providers": {name: {**asdict(use), "spent": format(use.spent, "f")} for name, use in state.providers.items()},
        "batches": {name: asdict(use) for name, use in state.batches.items()},
        "answered_again": state.answered_again,
        "budget": None if budget is None else format(budget, "f"),
        "started_at": last.get("started_at") or iso(run.began) or None,
        "finished_at": last.get("finished_at"),
        "this_run": last.get("this_run") or _ended_since(connection, run.began),
        "spent_this_run": last.get("spent_this_run"),
        **_pace(connection, last, run.began, running=running),
        "made_at": iso(time.time()),
    }


def page_nights(folder: Path, connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """Return the last runs of a folder as JSON objects, each with its time in bins, as `nights` has them."""
    found = nights(folder, connection, time.time(), running=FolderLock(folder).is_held(), most=MOST_NIGHTS)
    fill_bins(connection, found)
    return [_page_night(night) for night in found]


def _page_night(night: Night) -> dict[str, Any]:
    said, bins = night.as_json(), night.bins
    longest = sorted(said["stretches"], key=lambda one: one["since"])[:MOST_STRETCHES]
    spent = [] if bins is None else list(accumulate(bins.spent))
    return said | {
        "stretches": longest,
        "notes": said["notes"][:MOST_STRETCHES],
        "bins": None
        if bins is None
        else {
            "start": bins.start,
            "width": bins.width,
            "images": bins.images,
            "limited": bins.limited,
            "failed": bins.failed,
            "spent": [float(currency(amount)) for amount in spent],
        },
    }


def _ended_since(connection: sqlite3.Connection, began: float | None) -> dict[str, int] | None:
    """Return how many jobs ended since then, by status; None when nothing tells since when."""
    if began is None:
        return None
    query = "SELECT status, COUNT(*) FROM jobs WHERE finished_at >= ? GROUP BY status"
    ended = dict(connection.execute(query, (began,)).fetchall())
    return {name: ended.get(name, 0) for name in ("done", "failed", "unknown")}


def _pace(
    connection: sqlite3.Connection, last: dict[str, Any], began: float | None, *, running: bool
) -> dict[str, Any]:
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
