"""Sets aside the pictures of jobs that the manifest lists no longer: into `.replaced/`, from where they come back.

They do so without being paid again, when their jobs are listed again: the ledger knows where they are. What was paid
for and is no job's picture (`rejected/`, `answers/`) stays. In the mirror nothing moves: a picture that is there alone
takes no room here, and its job finds it there when it is listed again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

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


class Unlisted(NamedTuple):
    """The moves that set unlisted pictures aside, and how many more of them are in the mirror alone."""

    moves: list[Move]
    apart: int


def listed_no_longer(folder: Path) -> Unlisted:
    """Return what would be set aside; UsageError: it is no output folder."""
    with reading(ledger_of(folder)) as connection:
        return _unlisted(folder, connection)


def set_unlisted_aside(folder: Path) -> Unlisted:
    """Set pictures aside; return which. UsageError, FolderBusy: a run holds it, StorageError."""
    lock = FolderLock(ledger_of(folder).parent)
    lock.acquire()
    try:
        check_ledger(folder / LEDGER)
        ledger = Ledger(folder / LEDGER, kept=kept_files(folder))
        try:
            now = ledger.database.now
            now(lambda connection: settle_moves(folder, connection))
            moves, apart = now(lambda connection: _unlisted(folder, connection))
            if moves:
                move_files(folder, moves, lambda moved: now(lambda connection: record_moves(connection, moved, moves)))
        finally:
            ledger.close()
    finally:
        lock.release()
    return Unlisted(moves, apart)


def _unlisted(folder: Path, connection: sqlite3.Connection) -> Unlisted:
    query = "SELECT number, lower(hex(key)), file_name, mirrored FROM known WHERE NOT listed AND file_name LIKE ?"
    rows = connection.execute(f"{query} ORDER BY file_name", (f"{IMAGES}/%",)).fetchall()
    here = [row for row in rows if row[3] is None or (folder / row[2]).is_file()]
    moves = [Move(number=number, key=key, source=name, target=set_aside(key, name)) for number, key, name, _ in here]
    return Unlisted(moves, len(rows) - len(moves))
