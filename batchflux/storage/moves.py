"""Files follow the manifest: renames after an edit, and old pictures that make way for new ones of the same name.

A picture that was paid for is never written over: when a changed job takes its file name, it moves to `.replaced/`, and
comes back without a new request when the edit is undone. Moves go through temporary names, so that two files can swap
theirs; after a crash in between, each file is recognised by its digest.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchflux.errors import StorageError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from pathlib import Path

    from batchflux.storage.ledger import Known

REPLACED = ".replaced/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A job's file goes from `source` to `target`, both relative to the output folder."""

    number: int
    key: str
    source: str
    target: str
    sha256: str

    @classmethod
    def of(cls, known: Known, target: str) -> Move:
        """Make the move of a done job's file."""
        return cls(
            number=known.number,
            key=known.key.hex(),
            source=known.file_name or "",
            target=target,
            sha256=known.sha256 or "",
        )

    @property
    def transit(self) -> str:
        """The temporary name."""
        return f".spool/move-{self.key}"


def move_files(root: Path, moves: Sequence[Move]) -> None:
    """Rename the files; one that is nowhere to be found is left out (its job counts as lost).

    Raises:
        StorageError: the folder does not allow it.
    """
    try:
        (root / ".spool").mkdir(mode=0o700, exist_ok=True)
        under_way = [move for move in moves if _take_up(root, move)]
        for move in under_way:
            target = root / move.target
            target.parent.mkdir(parents=True, exist_ok=True)
            (root / move.transit).rename(target)
    except OSError as error:
        raise StorageError(
            f"Files in {root} cannot be renamed to follow the manifest ({error.strerror}): repair the folder's "
            "permissions, then run again."
        ) from error


def record_moves(connection: sqlite3.Connection, moves: Sequence[Move]) -> None:
    """Tell the ledger the new names."""
    connection.executemany(
        "UPDATE jobs SET file_name = ? WHERE number = ?", [(move.target, move.number) for move in moves]
    )


def undo_transit(root: Path, connection: sqlite3.Connection) -> None:
    """Put files back that a crash left under a temporary name, where the ledger says they are.

    Raises:
        StorageError: the folder does not allow it.
    """
    for path in (root / ".spool").glob("move-*"):
        key = bytes.fromhex(path.name.removeprefix("move-"))
        row = connection.execute("SELECT file_name FROM jobs WHERE key = ?", (key,)).fetchone()
        if row is None or row[0] is None or (root / row[0]).exists():
            continue
        try:
            path.rename(root / row[0])
        except OSError as error:
            raise StorageError(
                f"{path} cannot be renamed to {row[0]} ({error.strerror}): repair the folder."
            ) from error


def _take_up(root: Path, move: Move) -> bool:
    for name in (move.transit, move.source, move.target):
        path = root / name
        if path.is_file() and _digest(path) == move.sha256:
            if name != move.transit:
                path.replace(root / move.transit)
            return True
    return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
