"""Decisions: what a person decides about pictures in one step, and undoing it in one.

`decide` and `undo` are brief transactions each, whole or nothing: SQLite's own lock is all that stands between a person
who judges and a run that writes. What somebody else decided since then on one of its pictures is not undone.
"""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from batchflux.errors import StorageError
from batchflux.ledger.connection import begin_beside, beside, remedy_for
from batchflux.ledger.reviews import (
    Again,
    Review,
    Verdict,
    ask_redo,
    last_revision,
    open_redo,
    prepare_reviews,
    record,
    take_back_redo,
    verdicts_on,
)
from batchflux.output.folder import FolderLock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a person decided: a verdict on these jobs; `note` None leaves the notes as they are.

    `again` goes with the verdict `redo`; without it a redo is asked for only of jobs that had another verdict, so that
    a note on a picture to redo changes nothing about the redo. `siblings` are rejected in the same step: those of the
    pictures that were picked. `reviewer` is the name of the person, '' when they gave none.
    """

    keys: tuple[bytes, ...]
    review: Review
    note: str | None = None
    again: Again | None = None
    siblings: tuple[bytes, ...] = ()
    reviewer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A redo that was asked for: the key of the job it tries again, and the id it will have."""

    key: bytes
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What a decision changed: what had been said of a job, and of the redo of it that waited, if one did.

    `revision` is the decision's own: while the job has it, nobody decided anything else about it. `former` is the one
    that the job had before, 0 when it had none.
    """

    key: bytes
    verdict: Verdict
    again: Again | None
    revision: int
    former: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What came of a decision: the redos it asked for, and what it takes to undo it.

    `already` are the jobs for which it asked for none, since they had the verdict `redo` before.
    """

    asked: list[Asked]
    before: list[Before]
    already: list[bytes] = field(default_factory=list)


class NoSuchJobError(LookupError):
    """A decision was about a job that the ledger does not have."""


class UnlistedJobError(LookupError):
    """A redo was asked for of a job that the manifest does not list any more."""


class BlankPromptError(ValueError):
    """What is to be replaced would leave a prompt blank."""


def decide(path: Path, decision: Decision) -> Decided:
    """Record a decision in the ledger at `path`, all of it or nothing.

    Raises NoSuchJobError: one of the jobs is not in the ledger; UnlistedJobError: a redo of a job that is no longer in
    the manifest; no run would make it; BlankPromptError; StorageError: the ledger cannot be written.
    """
    return _in_transaction(path, lambda connection, live: _decide(connection, decision, live=live))


def undo(path: Path, before: Sequence[Before]) -> dict[tuple[bytes, int], int]:
    """Take a decision back where nobody decided anything since; return by which revision the jobs are as they were.

    It goes by key and former revision: what was decided in that one can be undone by the new one. What a run has begun
    meanwhile stays asked for. StorageError: the ledger cannot be written.
    """
    return _in_transaction(path, lambda connection, live: _undo(connection, before, live=live))


def _in_transaction(path: Path, work: Callable[[sqlite3.Connection, bool], T]) -> T:
    with closing(beside(path)) as connection:  # which rolls back what was not committed
        try:
            begin_beside(connection)
            # Asked within the transaction: a run locks the folder first, and pins what it will make in one of its own.
            result = work(connection, FolderLock(path.parent).is_held())
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise StorageError(f"The ledger {path} cannot be written ({error}): {remedy_for(error)}.") from error
    return result


def _decide(connection: sqlite3.Connection, decision: Decision, *, live: bool) -> Decided:
    keys = (*decision.keys, *decision.siblings)
    query = "SELECT listed FROM jobs WHERE key = ?"
    listed = [connection.execute(query, (key,)).fetchone() for key in keys]
    if None in listed:
        raise NoSuchJobError
    if decision.review == "redo" and (0,) in listed:
        raise UnlistedJobError
    prepare_reviews(connection)
    at = time.time()
    had = verdicts_on(connection, keys)
    before = _before(connection, keys, had, live=live)
    said = Verdict(review=decision.review, note=decision.note or "", reviewed_at=at, reviewer=decision.reviewer)
    record(connection, decision.keys, said, keep_note=decision.note is None)
    record(connection, decision.siblings, replace(said, review="reject", note=""), keep_note=True)
    if decision.review != "redo":
        for key in keys:
            take_back_redo(connection, key, live=live)
        return Decided(asked=[], before=before)
    had_redo = {key for key in keys if key in had and had[key].review == "redo" and decision.again is None}
    again = decision.again or Again()
    asked = [
        Asked(key=key, id=ask_redo(connection, key, _edited(connection, key, again), at, live=live))
        for key in keys
        if key not in had_redo
    ]
    return Decided(asked=asked, before=before, already=[key for key in keys if key in had_redo])


def _before(
    connection: sqlite3.Connection, keys: Sequence[bytes], had: dict[bytes, Verdict], *, live: bool
) -> list[Before]:
    """Return what it takes to undo a decision on these jobs that is recorded next."""
    made: list[Before] = []
    for revision, key in enumerate(keys, last_revision(connection) + 1):
        verdict = had.get(key, Verdict(review=""))
        again = _waiting_again(connection, key, verdict, live=live)
        row = connection.execute("SELECT revision FROM reviews WHERE key = ?", (key,)).fetchone()
        former = 0 if row is None else row[0]
        made.append(Before(key=key, verdict=verdict, again=again, revision=revision, former=former))
    return made


def _waiting_again(connection: sqlite3.Connection, key: bytes, verdict: Verdict, *, live: bool) -> Again | None:
    """Return what the redo of a job asks for that may still be changed; only the verdict redo has one."""
    waiting = open_redo(connection, key, live=live) if verdict.review == "redo" else None
    if waiting is None:
        return None
    prompt, seed = connection.execute("SELECT prompt, seed FROM redos WHERE number = ?", waiting[:1]).fetchone()
    return Again(prompt=prompt, seed=seed)


def _edited(connection: sqlite3.Connection, key: bytes, again: Again) -> Again:
    """Return how to try this job again: its own prompt with what is to be replaced in it replaced."""
    if not again.find:
        return again
    was = json.loads(connection.execute("SELECT spec FROM jobs WHERE key = ?", (key,)).fetchone()[0])["prompt"]
    prompt = was.replace(again.find, again.replace)
    if not prompt.strip():
        raise BlankPromptError
    return Again(prompt=None if prompt == was else prompt, seed=again.seed)


def _undo(connection: sqlite3.Connection, before: Sequence[Before], *, live: bool) -> dict[tuple[bytes, int], int]:
    query = "SELECT review FROM reviews WHERE key = ? AND revision = ?"
    undone: dict[tuple[bytes, int], int] = {}
    for one in before:
        row = connection.execute(query, (one.key, one.revision)).fetchone()
        if row is None:
            continue
        record(connection, [one.key], one.verdict, keep_note=False)
        if one.again is None:
            take_back_redo(connection, one.key, live=live)
        elif row[0] != "redo" or open_redo(connection, one.key, live=live) is not None:  # else it was made meanwhile
            ask_redo(connection, one.key, one.again, time.time(), live=live)
        undone[one.key, one.former] = last_revision(connection)
    return undone
