"""Calls of clients on record, in a folder that has many."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from batchflux.ledger.books.calls import (
    Call,
    begin_call,
    call_of_job,
    call_of_mark,
    last_call,
    pictures_by_prefix,
)
from batchflux.ledger.ledger import Ledger

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batchflux.models import Job
    from tests.conftest import MakeJob

JOB = "INSERT INTO jobs (key, id, position, planned, tags, spec, status, file_name) VALUES (?, ?, ?, '', '', '', ?, ?)"


def key_of(number: int, variant: int = 1) -> str:
    return sha256(f"{number} {variant}".encode()).hexdigest()


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    ledger = Ledger(tmp_path / "ledger.db", durable=False, threaded=False)
    yield ledger.database.now(lambda connection: connection)
    ledger.close()


def call(connection: sqlite3.Connection, make_job: MakeJob, number: int) -> str:
    """Put a call of one job on record, whose picture is there; return the job's key."""

    def made(variant: int, position: int) -> Job:
        return replace(make_job("mug"), key=key_of(number, variant), position=position)

    asked = Call(0, "studio", str(number).encode(), f"mark {number}", "{}", 1, 1000.0 + number)
    _, (job,) = begin_call(connection, asked, made(1, 0), 1, made)
    connection.execute(JOB, (bytes.fromhex(job.key), f"a{number}", job.position, "done", f"images/{number}.png"))
    return job.key


def test_a_picture_of_a_call_is_found_by_the_beginning_of_its_job_s_key(
    connection: sqlite3.Connection, make_job: MakeJob
) -> None:
    keys = [call(connection, make_job, number) for number in range(3)]
    connection.execute(JOB, (bytes.fromhex(key_of(7)), "no call", 1, "done", "images/7.png"))
    (found,) = pictures_by_prefix(connection, keys[1][:16])
    assert (found.key, found.file_name) == (keys[1], "images/1.png")
    assert pictures_by_prefix(connection, key_of(7)[:16]) == []


def test_what_a_call_looks_up_takes_no_longer_in_a_folder_of_many(
    connection: sqlite3.Connection, make_job: MakeJob
) -> None:
    def steps(look: Callable[[], object]) -> int:
        """Count SQLite's own steps, by tens."""
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        connection.set_progress_handler(count, 10)
        look()
        connection.set_progress_handler(None, 10)
        return counted

    def all_steps() -> list[int]:
        return [
            steps(lambda: pictures_by_prefix(connection, key_of(0)[:16])),
            steps(lambda: call_of_mark(connection, "studio", "mark 0")),
            steps(lambda: call_of_job(connection, key_of(0))),
            steps(lambda: last_call(connection, Call(0, "studio", b"0", None, "", 1, 0.0), 0.0)),
            steps(lambda: call(connection, make_job, -len(taken))),
        ]

    taken = [call(connection, make_job, number) for number in range(200)]
    few = all_steps()
    taken += [call(connection, make_job, number) for number in range(200, 1200)]
    assert all(many <= 2 * one + 10 for many, one in zip(all_steps(), few, strict=True))
