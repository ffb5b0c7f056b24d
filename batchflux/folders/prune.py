"""Sets aside the pictures of jobs that the manifest lists no longer: into `.replaced/`, from where they come back.

They do so without being paid again, when their jobs are listed again: the ledger knows where they are. What was paid
for and is no job's picture (`rejected/`, `answers/`) stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.ledger.connection import reading
from batchflux.ledger.health import check_ledger
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.moves import Move, move_files, record_moves, set_aside, settle_moves
from batchflux.output.base import IMAGES, LEDGER
from batchflux.output.folder import FolderLock, ledger_of
from batchflux.output.image_store import kept_files

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path


def listed_no_longer(folder: Path) -> list[Move]:
    """Return the moves that would set pictures aside; UsageError: it is no output folder."""
    with reading(ledger_of(folder)) as connection:
        return _moves(connection)


def set_unlisted_aside(folder: Path) -> list[Move]:
    """Set pictures aside; return the moves. UsageError, FolderBusy: a run holds it, StorageError."""
    lock = FolderLock(ledger_of(folder).parent)
    lock.acquire()
    try:
        check_ledger(folder / LEDGER)
        ledger = Ledger(folder / LEDGER, kept=kept_files(folder))
        try:
            now = ledger.database.now
            now(lambda connection: settle_moves(folder, connection))
            moves = now(_moves)
            if moves:
                move_files(folder, moves, lambda moved: now(lambda connection: record_moves(connection, moved, moves)))
        finally:
            ledger.close()
    finally:
        lock.release()
    return moves


def _moves(connection: sqlite3.Connection) -> list[Move]:
    rows = connection.execute(
        "SELECT number, lower(hex(key)), file_name FROM jobs WHERE NOT listed AND file_name LIKE ? ORDER BY file_name",
        (f"{IMAGES}/%",),
    )
    return [Move(number=number, key=key, source=name, target=set_aside(key, name)) for number, key, name in rows]
