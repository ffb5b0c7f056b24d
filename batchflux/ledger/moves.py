"""Files follow the manifest: renames after an edit, and old pictures that make way for new ones of the same name.

A picture that was paid for is never written over: when a changed job takes its file name, it moves to `.replaced/`, and
comes back without a new request when the edit is undone. Moves go through temporary names, so that two files can swap
theirs: all files are taken up, then the ledger learns the new names, then the files are put down. So after a kill at
any moment each file is where the ledger says, or under its temporary name, from where `settle_moves` brings it there.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from posixpath import splitext
from typing import TYPE_CHECKING

from batchflux.errors import StorageError
from batchflux.failpoints import reach
from batchflux.output.base import ALL_SUFFIXES, REPLACED, SPOOL, next_names
from batchflux.output.durable import remedy_of, sync_folder

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from batchflux.ledger.tables import Known

_OF_PICTURES = frozenset(ALL_SUFFIXES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A job's file goes from `source` to `target`, both relative to the output folder."""

    number: int
    key: str
    source: str
    target: str

    @classmethod
    def of(cls, known: Known, target: str) -> Move:
        """Make the move of a done job's file."""
        return cls(number=known.number, key=known.key.hex(), source=known.file_name or "", target=target)

    @property
    def transit(self) -> str:
        """The temporary name."""
        return f"{SPOOL}/move-{self.key}"


def move_files(root: Path, moves: Sequence[Move], record: Callable[[Sequence[Move]], None]) -> None:
    """Rename the files; one that is nowhere to be found is left out (its job counts as lost).

    `record` tells the ledger the new names, durably; it is called once, between taking up and putting down.
    StorageError: the folder does not allow it.
    """
    spool = root / SPOOL
    with _renaming(root):
        spool.mkdir(mode=0o700, exist_ok=True)
        under_way = [move for move in moves if _take_up(root / move.source, root / move.transit)]
        _sync({spool, *((root / move.source).parent for move in under_way)})
        reach("moves.taken_up")
        record(under_way)
        reach("moves.recorded")
        for move in under_way:
            _put_down(root / move.transit, root / move.target)
        reach("moves.put_down")
        _sync({spool, *((root / move.target).parent for move in under_way)})


def set_aside(key: str, file_name: str) -> str:
    """Return where the picture of a job that is no more in use is kept."""
    return f"{REPLACED}/{key[:32]}{splitext(file_name)[1]}"


def record_moves(connection: sqlite3.Connection, moved: Sequence[Move], wanted: Sequence[Move] = ()) -> None:
    """Tell the ledger the new names of files that were `moved`.

    Of others that were `wanted`, so of pictures that are in the bucket of output.mirror alone: it follows.
    """
    names = [(move.target, move.number) for move in moved]
    connection.executemany("UPDATE jobs SET file_name = ? WHERE number = ?", names)
    here = {move.number for move in moved}
    names = [(move.target, move.number) for move in wanted if move.number not in here]
    away = "sha256 IN (SELECT sha256 FROM mirrored)"
    connection.executemany(f"UPDATE jobs SET file_name = ? WHERE number = ? AND {away}", names)  # noqa: S608  a constant


def settle_moves(root: Path, connection: sqlite3.Connection) -> None:
    """Put files that a kill left under a temporary name where the ledger says they are; or raise StorageError."""
    with _renaming(root):
        for path in (root / SPOOL).glob("move-*"):
            key = bytes.fromhex(path.name.removeprefix("move-"))
            row = connection.execute("SELECT file_name FROM jobs WHERE key = ?", (key,)).fetchone()
            if row is not None and row[0] is not None:
                _put_down(path, root / row[0])


@contextmanager
def _renaming(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"Files in {root} cannot be renamed to follow the manifest ({error.strerror})"
        raise StorageError(f"{what}: {remedy_of(error)}, then run again.") from error


def _take_up(source: Path, transit: Path) -> bool:
    if transit.exists():
        return True
    if not source.is_file():
        return False
    source.rename(transit)
    return True


def _put_down(transit: Path, target: Path) -> None:
    """Put a file in its place; one that is there, of no job, makes way."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.rename(next(free for free in map(target.with_name, next_names(target.name)) if not free.exists()))
    transit.rename(target)


def _sync(folders: set[Path]) -> None:
    for folder in folders:
        sync_folder(folder)


def followed(planned: str, actual: str) -> str:
    """Return the planned file name with the suffix that the picture's bytes gave the actual one."""
    if planned == actual:
        return planned
    (stem, asked), (_, suffix) = splitext(planned), splitext(actual)
    return stem + suffix if {asked.lower(), suffix.lower()} <= _OF_PICTURES else planned
