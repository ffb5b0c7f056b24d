"""What was made for a client, in pages."""

from __future__ import annotations

import json
import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from batchflux.gateway.answering.links import link_of
from batchflux.gateway.orders import RefusalError
from batchflux.ledger.tables import currency, select
from batchflux.models import Status

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from batchflux.gateway.answering.links import Names
    from batchflux.ledger.tables import Known

MOST_ROWS = 100  # of a page
_CURSOR = re.compile(r"([0-9]{1,15})-([0-9]{1,6})", re.ASCII)
_PAGE = """
SELECT calls.number, call_jobs.place, jobs.number FROM calls
CROSS JOIN call_jobs ON call_jobs.call = calls.number CROSS JOIN jobs ON jobs.key = call_jobs.job
WHERE +calls.client = ? AND (calls.number, call_jobs.place) < (?, ?)
ORDER BY calls.number DESC, call_jobs.place DESC LIMIT ?
"""
_NEWEST = (1 << 62, 0)


def results(
    connection: sqlite3.Connection, *, client: str, names: Names, base: str, query: Mapping[str, str]
) -> dict[str, Any]:
    """Return a page of what was made for a client, the newest first, as JSON; `next` is the `after` of the next page.

    `base` is what links begin with. RefusalError: `limit` or `after` is none.
    """
    limit, after = query.get("limit", ""), query.get("after", "")
    cursor = _CURSOR.fullmatch(after)
    if after and cursor is None:
        raise RefusalError(400, "invalid_value", "after is what an answer called next.", param="after")
    if limit and not (limit.isascii() and limit.isdigit() and len(limit) < len(str(_NEWEST[0]))):
        raise RefusalError(400, "invalid_value", f"limit is a number from 1 to {MOST_ROWS}.", param="limit")
    most = min(max(int(limit or MOST_ROWS), 1), MOST_ROWS)
    begin = (int(cursor[1]), int(cursor[2])) if cursor else _NEWEST
    page = connection.execute(_PAGE, (client, *begin, most + 1)).fetchall()
    known = {row.number: row for row in select(connection, "number", [number for *_, number in page[:most]])}
    data = [_row(known[number], names, base) for *_, number in page[:most] if number in known]
    call, place, _ = page[most - 1] if len(page) > most else (0, 0, 0)
    return {"data": data, "next": f"{call}-{place}" if len(page) > most else None}


def _row(row: Known, names: Names, base: str) -> dict[str, Any]:
    asked, url = json.loads(row.spec), None
    if row.status == Status.DONE.value and row.file_name is not None:
        url = link_of(base, names.name(row.key.hex(), PurePath(row.file_name).suffix.removeprefix(".")))
    return {
        "id": row.id,
        "status": row.status,
        "url": url,
        "prompt": asked.get("prompt"),
        "seed": asked.get("seed"),
        "width": row.width,
        "height": row.height,
        "cost": f"{currency(row.cost):f}",
    }
