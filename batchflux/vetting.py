"""The survey of a large new table, without making its jobs: a run of a million rows starts at once.

The rule: only for a folder that knows no job yet, where a survey is a count of rows once the table is known to be
without fault (see manifest/vet.py). Jobs that are the same as an earlier one count as jobs until a run has gone through
the whole table. A small table is surveyed as ever, so that its counts are exact from the start; and so is any for
`plan`, which promises them.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from batchflux.ledger.survey import SAMPLES, Survey
from batchflux.manifest import expand, vet
from batchflux.providers import capabilities

if TYPE_CHECKING:
    import sqlite3

    from batchflux.errors import Fault
    from batchflux.ledger.selection import Selection
    from batchflux.manifest import Manifest

LARGE = 4 << 20  # bytes of a table; its jobs are made in about a second


def vetted(manifest: Manifest, connection: sqlite3.Connection, selection: Selection) -> Survey | None:
    """Return the survey of a large table whose jobs are all new and without fault; None when they must be made."""
    if selection.only is not None or selection.limit is not None or selection.redo or not _is_large(manifest):
        return None
    if connection.execute("SELECT 1 FROM jobs LIMIT 1").fetchone() is not None:
        return None
    table = vet(manifest, capabilities())
    if table is None:
        return None
    faults: list[Fault] = []
    samples = list(islice(expand(manifest, capabilities(), faults.append), SAMPLES))
    if faults:  # the table changed meanwhile
        return None
    rows = table.rows
    return Survey(total=rows, new=rows, todo=rows, calls=rows, styles={table.style: rows}, samples=samples, vetted=True)


def _is_large(manifest: Manifest) -> bool:
    try:
        return sum((manifest.base / entry.source).stat().st_size for entry in manifest.entries if entry.source) >= LARGE
    except OSError:
        return False
