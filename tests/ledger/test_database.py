"""Group commit: an answer means that the write is on the disk; what fails, fails whole."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import stat
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.errors import StorageError
from batchflux.ledger.connection import BATCH, Database, connect, explained, wal_is_safe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), False),
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 44, 9), True),
        ((3, 45, 0), False),
        ((3, 49, 2), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 0), False),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
        ((4, 0, 0), True),
    ],
)
def test_wal_is_used_only_where_it_is_safe(version: tuple[int, ...], safe: bool) -> None:  # noqa: FBT001  pytest's
    assert wal_is_safe(version) is safe


def test_a_durable_database_syncs_every_commit(tmp_path: Path) -> None:
    connection = connect(tmp_path / "l.db")
    (mode,), (level,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("journal_mode", "synchronous"))
    connection.close()
    assert (mode, level) == (("wal", 2) if wal_is_safe() else ("persist", 2))


def test_the_file_is_made_for_its_owner_only(tmp_path: Path) -> None:
    connect(tmp_path / "l.db").close()
    assert stat.S_IMODE((tmp_path / "l.db").stat().st_mode) == 0o600


def make_table(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)")


def add(number: int) -> Callable[[sqlite3.Connection], int]:
    def operation(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO t VALUES (?)", (number,))
        return number * 10

    return operation


def seen_by_another(path: Path) -> list[int]:
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute("SELECT n FROM t ORDER BY n")]
    finally:
        connection.close()


async def held_up(database: Database) -> tuple[asyncio.Future[None], threading.Event]:
    """Keep the database's thread busy until the event is set; return the operation that does."""
    entered, go_on = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        entered.set()
        go_on.wait(60)

    first = database.submit(slow)
    await asyncio.to_thread(entered.wait, 60)
    return first, go_on


async def test_an_answer_comes_after_the_commit_and_brings_the_result(tmp_path: Path) -> None:
    database = Database(tmp_path / "l.db")
    await database.submit(make_table)
    for number in range(5):
        assert await database.submit(add(number)) == number * 10
        assert number in seen_by_another(tmp_path / "l.db")
    database.close()


async def test_those_who_wait_share_a_commit(tmp_path: Path) -> None:
    commits: list[int] = []
    database = Database(tmp_path / "l.db", after_commit=lambda _: commits.append(1))
    await database.submit(make_table)
    first, go_on = await held_up(database)
    others = [database.submit(add(number)) for number in range(50)]
    go_on.set()
    await first
    assert await asyncio.gather(*others) == [number * 10 for number in range(50)]
    database.close()
    assert len(commits) == 3
    assert seen_by_another(tmp_path / "l.db") == list(range(50))


@pytest.mark.parametrize("fault", ["sqlite", "python"])
async def test_an_operation_that_fails_fails_alone(tmp_path: Path, fault: str) -> None:
    voided: list[int] = []
    database = Database(tmp_path / "l.db", after_rollback=lambda: voided.append(1))
    await database.submit(make_table)

    def bad(connection: sqlite3.Connection) -> None:
        if fault == "python":
            raise ZeroDivisionError
        connection.execute("INSERT INTO no_such_table VALUES (1)")

    first, go_on = await held_up(database)
    batch: list[asyncio.Future[Any]] = [database.submit(add(1)), database.submit(bad), database.submit(add(2))]
    go_on.set()
    await first
    ended = await asyncio.gather(*batch, return_exceptions=True)
    expected = ZeroDivisionError if fault == "python" else StorageError
    assert (ended[0], type(ended[1]), ended[2]) == (10, expected, 20)
    assert await database.submit(add(3)) == 30
    database.close()
    assert seen_by_another(tmp_path / "l.db") == [1, 2, 3]
    assert len(voided) == 2


async def test_a_commit_takes_no_more_than_a_batch_and_leaves_the_rest_to_the_next(tmp_path: Path) -> None:
    commits: list[int] = []
    database = Database(tmp_path / "l.db", after_commit=lambda _: commits.append(1))
    await database.submit(make_table)
    first, go_on = await held_up(database)
    turns = []
    for turn in range(3):
        turns += [database.submit(add(number)) for number in range(turn * BATCH, (turn + 1) * BATCH)]
        await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(first, *turns)
    assert len(commits) == 2 + 3
    database.close()
    assert seen_by_another(tmp_path / "l.db") == list(range(3 * BATCH))


async def test_closing_from_within_a_batch_writes_what_waits_and_what_was_only_submitted(tmp_path: Path) -> None:
    database = Database(tmp_path / "l.db")
    await database.submit(make_table)
    waits = [database.submit(add(number)) for number in range(5)]
    await asyncio.sleep(0)
    submitted = database.submit(add(5))
    database.close()
    assert seen_by_another(tmp_path / "l.db") == [0, 1, 2, 3, 4, 5]
    assert await submitted == 50
    assert await asyncio.gather(*waits) == [0, 10, 20, 30, 40]


async def test_what_follows_the_commit_fails_the_callers_too(tmp_path: Path) -> None:
    def full(_: sqlite3.Connection) -> None:
        raise StorageError("results.csv cannot be written")

    database = Database(tmp_path / "l.db", after_commit=full)
    with pytest.raises(StorageError, match=r"results\.csv"):
        await database.submit(make_table)
    database.close()


async def test_closing_finishes_what_was_submitted(tmp_path: Path) -> None:
    database = Database(tmp_path / "l.db")
    await database.submit(make_table)
    left = [database.submit(add(number)) for number in range(200)]
    database.close()
    assert seen_by_another(tmp_path / "l.db") == list(range(200))
    await asyncio.gather(*left)


async def test_a_caller_that_is_gone_takes_no_one_with_it(tmp_path: Path) -> None:
    database = Database(tmp_path / "l.db")
    await database.submit(make_table)
    leaves, stays = database.submit(add(1)), database.submit(add(2))
    leaves.cancel()
    assert await stays == 20
    database.close()
    assert seen_by_another(tmp_path / "l.db") == [1, 2]


def test_a_loop_that_is_gone_loses_no_write(tmp_path: Path) -> None:
    database = Database(tmp_path / "l.db")
    entered, go_on = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        make_table(connection)
        entered.set()
        go_on.wait(60)

    async def hurried() -> None:
        database.submit(slow)
        await asyncio.to_thread(entered.wait, 60)
        database.submit(add(7))

    asyncio.run(hurried())
    go_on.set()
    database.close()
    assert seen_by_another(tmp_path / "l.db") == [7]


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("content", [b"not a database, but a longer text than a header\n" * 40, b"\x00" * 4096])
def test_a_foreign_file_is_refused_in_one_sentence(tmp_path: Path, content: bytes, durable: bool) -> None:  # noqa: FBT001  pytest's
    path = tmp_path / "ledger.db"
    path.write_bytes(content)

    def use() -> None:
        database = Database(path, durable=durable)
        try:
            database.now(make_table)
        finally:
            database.close()

    with pytest.raises(StorageError) as caught:
        use()
    message = str(caught.value)
    assert message == (
        f"{path} is damaged or no ledger of batchflux (file is not a database): restore it from a copy, or choose "
        "another folder with --out."
    )
    assert path.read_bytes() == content


def test_a_damaged_ledger_is_told_from_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    database = Database(path, durable=False)
    database.now(make_table)
    for number in range(3000):
        database.now(add(number))
    database.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    database = Database(path, durable=False)
    with pytest.raises(StorageError, match="is damaged or no ledger of batchflux"):
        database.now(lambda connection: connection.execute("SELECT SUM(n) FROM t WHERE n > 5").fetchone())
    database.close()


def test_a_folder_as_the_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").mkdir()
    with pytest.raises(StorageError, match=r"ledger\.db cannot be written \(.*Is a directory.*\): move that folder"):
        connect(tmp_path / "ledger.db")


def test_a_missing_folder_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"No such file or directory"):
        connect(tmp_path / "gone" / "ledger.db")


async def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    database = Database(tmp_path / "l.db")
    await database.submit(make_table)
    await database.submit(lambda connection: connection.execute("PRAGMA max_page_count = 3").fetchone())
    with pytest.raises(StorageError, match=r"database or disk is full\): free space, then run again to continue"):
        await database.submit(lambda connection: [add(number)(connection) for number in range(5000)])
    await database.submit(lambda connection: connection.execute("PRAGMA max_page_count = 100000").fetchone())
    assert await database.submit(add(9999)) == 99990
    database.close()


async def test_what_runs_at_once_waits_for_what_was_submitted(tmp_path: Path) -> None:
    """A second signal cancels those who wait, not the writes: what follows must not meet them in their midst."""
    database = Database(tmp_path / "l.db")
    database.now(make_table)
    entered = threading.Event()

    def slowly(connection: sqlite3.Connection) -> None:
        entered.set()
        add(1)(connection)
        time.sleep(0.05)

    slow = database.submit(slowly)
    await asyncio.sleep(0)  # handed to the thread
    assert entered.wait(60)
    late = database.submit(add(2))
    slow.cancel()
    rows = database.now(lambda connection: connection.execute("SELECT n FROM t ORDER BY n").fetchall())
    assert rows == [(1,), (2,)]
    assert await late == 20
    assert await database.submit(add(3)) == 30
    database.close()
    assert seen_by_another(tmp_path / "l.db") == [1, 2, 3]


async def test_nothing_is_run_again_when_the_commit_itself_fails(tmp_path: Path) -> None:
    """A disk that fails in the last sync of a commit may hold it, and an operation would meet itself."""

    def no_commit(action: int, argument: str | None, *_: str | None) -> int:
        return (
            sqlite3.SQLITE_DENY if (action, argument) == (sqlite3.SQLITE_TRANSACTION, "COMMIT") else sqlite3.SQLITE_OK
        )

    ran: list[int] = []

    def noted(number: int) -> Callable[[sqlite3.Connection], None]:
        def operation(connection: sqlite3.Connection) -> None:
            ran.append(number)
            connection.set_authorizer(no_commit)

        return operation

    database = Database(tmp_path / "l.db")
    await database.submit(make_table)
    first, go_on = await held_up(database)
    others = [database.submit(noted(number)) for number in range(3)]
    go_on.set()
    await first
    ends = await asyncio.gather(*others, return_exceptions=True)
    assert [type(end) for end in ends] == [StorageError] * 3
    assert ran == [0, 1, 2]
    database.close()


@pytest.mark.parametrize("target", ["the folder", "nothing"])
async def test_a_folder_that_goes_in_the_midst_of_a_write_is_told_from_a_broken_disk(
    tmp_path: Path, target: str
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    database = Database(folder / "l.db")

    def removed_then_broken(_connection: sqlite3.Connection) -> None:
        if target == "the folder":
            shutil.rmtree(folder)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSTAT
        raise error

    says = "was removed or replaced" if target == "the folder" else r"cannot be written \(disk I/O error\)"
    with pytest.raises(StorageError, match=says):
        await database.submit(removed_then_broken)
    database.close()


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (sqlite3.SQLITE_FULL, "free space"),
        (sqlite3.SQLITE_CANTOPEN, "see that you may read it, and that its folder is there and can be written to"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, "make the folder writable"),
        (sqlite3.SQLITE_IOERR_WRITE, "free space or check the disk"),
        (sqlite3.SQLITE_IOERR_READ, "check the disk"),
    ],
)
def test_what_sqlite_cannot_do_is_said_with_its_remedy(tmp_path: Path, code: int, remedy: str) -> None:
    error = sqlite3.OperationalError("it says so")
    error.sqlite_errorcode = code
    failed = "opened" if code == sqlite3.SQLITE_CANTOPEN else "written"
    says = f"The ledger {tmp_path} cannot be {failed} (it says so): {remedy}, then run again to continue."
    assert str(explained(tmp_path, error)) == says
