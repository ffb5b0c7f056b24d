"""A ledger is seen to be there and whole before anything is spent on what it should know."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchflux.errors import StorageError, UsageError
from batchflux.ledger.connection import Database
from batchflux.ledger.health import check_ledger
from batchflux.ledger.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.models import Job
    from tests.ledger.conftest import Finish

    JobOf = Callable[..., Job]

PAID_FOR = {
    "images/a.png": "images/",
    "images/deep/b.png": "images/",
    "rejected/a-1.webp": "rejected/",
    "answers/a-1.json": "answers/",
    f".spool/{'0' * 64}-{'1' * 64}": ".spool/",
    "results.csv": "results.csv",
}


def without_a_ledger(folder: Path, how: str) -> None:
    if how == "empty":
        (folder / "ledger.db").touch()
    if how == "no tables":
        with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as connection:
            connection.execute("CREATE TABLE t (n)")
            connection.execute("DROP TABLE t")


@pytest.mark.parametrize("how", ["missing", "empty", "no tables"])
@pytest.mark.parametrize("name", PAID_FOR)
def test_what_was_paid_for_without_a_ledger_stops_the_run(tmp_path: Path, how: str, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("id,status\na,done\n")
    without_a_ledger(tmp_path, how)
    with pytest.raises(UsageError) as caught:
        check_ledger(tmp_path / "ledger.db")
    assert str(caught.value) == (
        f"{tmp_path} holds {PAID_FOR[name]} and no ledger that knows what was paid for them (ledger.db is "
        f"{'missing' if how == 'missing' else 'empty'}): bring it back from a copy, or choose another folder with "
        "--out."
    )


@pytest.mark.parametrize("how", ["missing", "empty", "no tables"])
def test_a_folder_that_a_kill_left_before_its_first_job_is_fine(tmp_path: Path, how: str) -> None:
    for name in ("images", ".spool"):
        (tmp_path / name).mkdir()
    (tmp_path / ".spool" / ".tmp-1").touch()
    (tmp_path / "results.csv").write_text("id,status\n")
    (tmp_path / "run.log").write_text("{}\n")
    without_a_ledger(tmp_path, how)
    check_ledger(tmp_path / "ledger.db")
    check_ledger(tmp_path / "gone" / "ledger.db")


@pytest.fixture
async def path(tmp_path: Path, job_number: JobOf, finish: Finish) -> Path:
    ledger = Ledger(tmp_path / "ledger.db", durable=False, threaded=False)
    for number in range(30):
        finish(ledger, job_number(number))
    ledger.close()
    return tmp_path / "ledger.db"


WRONG = [
    "UPDATE jobs SET status = 'dkne' WHERE number = 7",
    "UPDATE jobs SET error_code = 'servep' WHERE number = 7",
    "UPDATE jobs SET spec = replace(spec, '\"prompt\"', '\"prompu\"') WHERE number = 7",
    "UPDATE jobs SET spec = substr(spec, 2) WHERE number = 7",
    "UPDATE jobs SET tags = '{' WHERE number = 7",
    "UPDATE jobs SET key = x'00' WHERE number = 7",
    "UPDATE jobs SET id = CAST(x'61ff62' AS TEXT) WHERE number = 7",
    "UPDATE attempts SET state = 'captuped' WHERE number = 7",
    "UPDATE attempts SET billed = 'yer' WHERE number = 7",
    "UPDATE attempts SET link = CAST(x'61ff62' AS TEXT) WHERE number = 7",
]


@pytest.mark.parametrize("change", WRONG)
def test_a_text_that_no_version_writes_is_damage(path: Path, change: str) -> None:
    check_ledger(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(change)
    with pytest.raises(StorageError, match=r"is damaged or no ledger .*: restore it from a copy, or choose another"):
        check_ledger(path)


def test_no_flipped_bit_is_a_traceback(path: Path) -> None:
    whole = path.read_bytes()
    told = 0
    for at in range(0, len(whole), len(whole) // 150):
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        path.write_bytes(data)
        try:
            check_ledger(path)
        except (StorageError, UsageError) as error:
            told += "restore it from a copy" in str(error)
    assert told > 10


def test_a_key_that_no_longer_finds_its_job_is_damage(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        ((key,),) = connection.execute("SELECT key FROM jobs WHERE number = 7")
    whole = path.read_bytes()
    places = [found.start() for found in re.finditer(re.escape(key), whole)]
    assert len(places) > 1, "in its table, and where it is looked up"
    for at in places:
        data = bytearray(whole)
        data[at + 5] ^= 4
        path.write_bytes(data)
        with pytest.raises(StorageError, match="restore it from a copy"):
            check_ledger(path)


def test_a_held_ledger_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchflux.ledger.connection.BUSY_SECONDS", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match=r"is held by another program .*: close what has it open"):
            check_ledger(path)
        holder.execute("ROLLBACK")
        check_ledger(path)


def test_a_ledger_of_format_1_is_whole(tmp_path: Path) -> None:
    for path in (Path(__file__).parent / "fixtures" / "format1" / "out").glob("ledger.db*"):
        shutil.copy(path, tmp_path)
    check_ledger(tmp_path / "ledger.db")


def test_who_lost_the_folder_writes_no_more(tmp_path: Path) -> None:
    database = Database(tmp_path / "l.db")

    def lost() -> None:
        raise StorageError("the lock is gone")

    database.now(lambda connection: connection.execute("CREATE TABLE t (n)"))
    database.check = lost
    with pytest.raises(StorageError, match="the lock is gone"):
        database.now(lambda connection: connection.execute("INSERT INTO t VALUES (1)"))
    database.close()
