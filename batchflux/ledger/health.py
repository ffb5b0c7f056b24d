"""Whether the ledger of a folder can be trusted with money, seen to before a run spends any.

A missing or empty ledger beside pictures knows nothing of what was paid for them: all of it would be bought anew, and
written over. An index that disagrees with its table would not find a job that was paid for. What SQLite cannot see,
because the file is well-formed, is a text that is not what the program writes.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from batchflux.errors import Code, UsageError
from batchflux.ledger.connection import damaged, explaining, opened
from batchflux.ledger.ledger import TRANSITIONS
from batchflux.models import Status
from batchflux.output.folder import paid_for_in

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

CHEAP = 16 << 20  # bytes; a larger ledger is not read as a whole: this takes a quarter of a second


def _in(column: str, *allowed: str) -> str:
    quoted = ", ".join(f"'{each}'" for each in allowed)
    return f"{column} NOT IN ({quoted})"


_WRONG = {
    "jobs": (
        _in("status", *Status),
        _in("error_code", *Code),
        "NOT json_valid(spec)",
        "json_type(spec, '$.prompt') IS NOT 'text'",
        "json_type(spec, '$.images') IS NOT 'array'",
        "tags != '' AND NOT json_valid(tags)",
        "length(key) != 32",
    ),
    "attempts": (_in("state", "authorized", *TRANSITIONS), _in("billed", "no", "maybe", "yes"), _in("code", *Code)),
}


def check_ledger(path: Path) -> None:
    """See that there is a whole ledger where there are pictures; for who is about to spend, or to plan it.

    Raises UsageError: pictures lie there, and no ledger knows of them; StorageError: it is damaged, or held by another.
    """
    tables: set[str] = set()
    size = path.stat().st_size if path.is_file() else 0
    if size:
        with contextlib.closing(opened(path)) as connection, explaining(path):
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if size <= CHEAP:
                _check_whole(path, connection, tables)
    if "jobs" not in tables and (found := paid_for_in(path.parent)) is not None:
        what = f"{path.parent} holds {found} and no ledger that knows what was paid for them ({path.name} is "
        remedy = "bring it back from a copy, or choose another folder with --out"
        raise UsageError(f"{what}{'empty' if path.exists() else 'missing'}): {remedy}.")


def _check_whole(path: Path, connection: sqlite3.Connection, tables: set[str]) -> None:
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise damaged(path, found.partition("\n")[0])
    for table in tables.intersection(_WRONG):
        wrong = " OR ".join(_WRONG[table])
        row = connection.execute(f"SELECT number FROM {table} WHERE {wrong} LIMIT 1").fetchone()  # noqa: S608  constants
        if row is not None:
            raise damaged(path, f"row {row[0]} of its {table} does not say what any version writes")
    for name, kind in connection.execute("SELECT name, type FROM sqlite_master WHERE sql NOT NULL").fetchall():
        if kind in {"table", "view"}:
            most = -1 if kind == "table" else 1  # each text must be UTF-8, and each view must be one still
            for _ in connection.execute(f'SELECT * FROM "{name}" LIMIT {most}'):  # noqa: S608  the ledger's own names
                pass
