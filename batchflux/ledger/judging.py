"""Records what a person decides about pictures, in one brief transaction that is on the disk when `decide` returns."""

from __future__ import annotations

import sqlite3
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchflux.errors import StorageError
from batchflux.ledger.connection import beside
from batchflux.ledger.reviews import Review, ask_redo, judge, prepare_reviews, take_back_redo, verdicts_on
from batchflux.manifest.identity import redo_id
from batchflux.models import Redo
from batchflux.output.folder import FolderLock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """How to try again: `prompt` None keeps the prompt, `seed` None leaves the seed to the run."""

    prompt: str | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a person decided: a verdict on these jobs; `note` None leaves the notes as they are.

    `again` goes with the verdict `redo`; without it a redo is asked for only of jobs that had another verdict, so that
    a note on a picture to redo changes nothing about the redo.
    """

    keys: tuple[bytes, ...]
    review: Review
    note: str | None = None
    again: Again | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A redo that was asked for: the key of the job it tries again, and the id it will have."""

    key: bytes
    id: str


class NoSuchJobError(LookupError):
    """A decision was about a job that the ledger does not have."""


class UnlistedJobError(LookupError):
    """A redo was asked for of a job that the manifest does not list any more."""


def decide(path: Path, decision: Decision) -> list[Asked]:
    """Record a decision in the ledger at `path`, all of it or nothing; return the redos it asked for.

    Raises:
        NoSuchJobError: one of the jobs is not in the ledger.
        UnlistedJobError: a redo of a job that is no longer in the manifest; no run would make it.
        StorageError: the ledger cannot be written.
    """
    with _writing(path) as connection:
        # Asked within the transaction: a run locks the folder first, and pins what it will make in one of its own.
        live = FolderLock(path.parent).is_held()
        _check(connection, decision)
        prepare_reviews(connection)
        at = time.time()
        had = verdicts_on(connection, decision.keys)
        judge(connection, decision.keys, decision.review, decision.note, at)
        if decision.review != "redo":
            for key in decision.keys:
                take_back_redo(connection, key, live=live)
            return []
        again = decision.again or Again()
        keys = [key for key in decision.keys if decision.again or key not in had or had[key].review != "redo"]
        return [_asked(connection, key, again, at, live=live) for key in keys]


def _check(connection: sqlite3.Connection, decision: Decision) -> None:
    listed = dict(_columns(connection, "listed", decision.keys))
    if len(listed) < len(set(decision.keys)):
        raise NoSuchJobError
    if decision.review == "redo" and not all(listed.values()):
        raise UnlistedJobError


def _asked(connection: sqlite3.Connection, key: bytes, again: Again, at: float, *, live: bool) -> Asked:
    redo = Redo(number=0, origin=key.hex(), ordinal=0, prompt=again.prompt, seed=again.seed)
    ordinal = ask_redo(connection, key, redo, at, live=live)
    root = connection.execute("SELECT root FROM redos WHERE origin = ? AND ordinal = ?", (key, ordinal)).fetchone()[0]
    return Asked(key=key, id=redo_id(dict(_columns(connection, "id", [root]))[root], ordinal))


def _columns(connection: sqlite3.Connection, column: str, keys: Sequence[bytes]) -> Iterator[tuple[bytes, Any]]:
    for first in range(0, len(keys), _AT_ONCE):
        some = keys[first : first + _AT_ONCE]
        marks = ",".join("?" * len(some))
        yield from connection.execute(f"SELECT key, {column} FROM jobs WHERE key IN ({marks})", some).fetchall()  # noqa: S608  constants and marks


@contextmanager
def _writing(path: Path) -> Iterator[sqlite3.Connection]:
    connection = beside(path)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise StorageError(
            f"The ledger {path} cannot be written ({error}): free space or repair the folder's permissions."
        ) from error
    finally:
        connection.close()  # rolls back what was not committed
