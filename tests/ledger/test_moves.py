"""Files follow the manifest; no picture is ever written over or lost on the way."""

from __future__ import annotations

import asyncio
import hashlib
from itertools import permutations
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.errors import StorageError
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.moves import Move, move_files, record_moves, settle_moves

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from batchflux.ledger.tables import Known
    from tests.conftest import MakeJob
    from tests.ledger.conftest import Finish


def put(root: Path, name: str, data: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data)


def move(data: str, source: str, target: str) -> Move:
    return Move(number=1, key=hashlib.sha256(data.encode()).hexdigest(), source=source, target=target)


def unrecorded(moves: Sequence[Move]) -> None:
    """For tests of the files alone."""


def files(root: Path, below: str = ".") -> dict[str, str]:
    return {path.relative_to(root).as_posix(): path.read_text() for path in (root / below).rglob("*") if path.is_file()}


def test_a_rename_also_into_a_new_folder(tmp_path: Path) -> None:
    put(tmp_path, "images/a.png", "A")
    move_files(tmp_path, [move("A", "images/a.png", "images/new/deep/b.png")], unrecorded)
    assert files(tmp_path) == {"images/new/deep/b.png": "A"}


def test_a_file_of_no_job_makes_way(tmp_path: Path) -> None:
    for name, data in (("a", "A"), ("b_2", "of another's answer"), ("b_3", "another")):
        put(tmp_path, f"images/{name}.png", data)
    move_files(tmp_path, [move("A", "images/a.png", "images/b_2.png")], unrecorded)
    found = {"images/b_2.png": "A", "images/b_3.png": "another", "images/b_4.png": "of another's answer"}
    assert files(tmp_path) == found


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_ring_of_renames_in_any_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    for name in "abc":
        put(tmp_path, f"images/{name}.png", name.upper())
    ring = [move(a.upper(), f"images/{a}.png", f"images/{b}.png") for a, b in ("ab", "bc", "ca")]
    move_files(tmp_path, [ring[index] for index in order], unrecorded)
    assert files(tmp_path) == {"images/a.png": "C", "images/b.png": "A", "images/c.png": "B"}


def test_an_old_picture_makes_way_and_comes_back(tmp_path: Path) -> None:
    put(tmp_path, "images/a.png", "old")
    away = move("old", "images/a.png", ".replaced/k.png")
    move_files(tmp_path, [away], unrecorded)
    put(tmp_path, "images/a.png", "new")
    assert files(tmp_path) == {".replaced/k.png": "old", "images/a.png": "new"}
    back = move("old", ".replaced/k.png", "images/a.png")
    move_files(tmp_path, [move("new", "images/a.png", ".replaced/n.png"), back], unrecorded)
    assert files(tmp_path) == {".replaced/n.png": "new", "images/a.png": "old"}


def test_a_file_that_is_gone_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, "images/b.png", "B")
    move_files(
        tmp_path, [move("A", "images/a.png", "images/x.png"), move("B", "images/b.png", "images/y.png")], unrecorded
    )
    assert files(tmp_path) == {"images/y.png": "B"}


def test_moving_again_changes_nothing(tmp_path: Path) -> None:
    put(tmp_path, "images/a.png", "A")
    moves = [move("A", "images/a.png", "images/b.png")]
    move_files(tmp_path, moves, unrecorded)
    move_files(tmp_path, moves, unrecorded)
    assert files(tmp_path) == {"images/b.png": "A"}


class KilledError(Exception):
    """Stands for SIGKILL."""


@given(data=st.data(), count=st.integers(2, 5), recorded=st.booleans())
def test_killed_between_any_two_renames(
    tmp_path_factory: pytest.TempPathFactory,
    make_job: MakeJob,
    finish: Finish,
    data: st.DataObject,
    *,
    count: int,
    recorded: bool,
) -> None:
    """A kill leaves each file at its source, in transit or at its target; the next run ends or undoes the move."""
    root = tmp_path_factory.mktemp("folder")
    names = [f"images/{number}.png" for number in range(count)]
    targets = data.draw(st.permutations([*names[1:], "images/new/x.png"]))
    jobs = [make_job(str(number)) for number in range(count)]
    ledger = Ledger(root / "ledger.db", durable=False, threaded=False)

    async def fill() -> None:
        for number, job in enumerate(jobs):
            finish(ledger, job)
            put(root, names[number], f"picture {number}")

    asyncio.run(fill())
    moves = [
        Move(number=number + 1, key=jobs[number].key, source=names[number], target=targets[number])
        for number in range(count)
        if names[number] != targets[number]
    ]
    renamed = data.draw(st.integers(0, len(moves)))
    (root / ".spool").mkdir()
    for done in moves[: len(moves) if recorded else renamed]:
        (root / done.source).rename(root / done.transit)
    if recorded:
        ledger.database.now(lambda connection: record_moves(connection, moves))
        for done in moves[:renamed]:
            (root / done.target).parent.mkdir(exist_ok=True)
            (root / done.transit).rename(root / done.target)
    ledger.database.now(lambda connection: settle_moves(root, connection))
    wanted = targets if recorded else names
    rows = ledger.database.now(lambda connection: connection.execute("SELECT id, file_name FROM jobs").fetchall())
    assert dict(rows) == {str(number): wanted[number] for number in range(count)}
    assert files(root, "images") == {wanted[number]: f"picture {number}" for number in range(count)}
    ledger.close()


def test_killed_as_the_ledger_learns_the_names(tmp_path: Path) -> None:
    def killed(moves: Sequence[Move]) -> None:
        assert [one.target for one in moves] == ["images/b.png"]
        raise KilledError

    put(tmp_path, "images/a.png", "A")
    moves = [move("A", "images/a.png", "images/b.png"), move("B", "images/none.png", "images/c.png")]
    with pytest.raises(KilledError):
        move_files(tmp_path, moves, killed)
    assert [path.read_text() for path in (tmp_path / ".spool").iterdir()] == ["A"]
    move_files(tmp_path, moves, unrecorded)
    assert files(tmp_path) == {"images/b.png": "A"}


def test_settling_writes_over_nothing_and_leaves_what_it_does_not_know(
    tmp_path: Path, ledger: Ledger, make_job: MakeJob
) -> None:
    stray = f".spool/move-{make_job('stranger').key}"
    put(tmp_path, stray, "?")
    ledger.database.now(lambda connection: settle_moves(tmp_path, connection))
    assert files(tmp_path, ".spool") == {stray: "?"}


def test_a_folder_that_does_not_allow_it_is_told_in_one_sentence(tmp_path: Path) -> None:
    put(tmp_path, "images/a.png", "A")
    put(tmp_path, "images/b", "a file where a folder has to be")
    with pytest.raises(StorageError) as caught:
        move_files(tmp_path, [move("A", "images/a.png", "images/b/c.png")], unrecorded)
    what = f"Files in {tmp_path} cannot be renamed to follow the manifest"
    assert str(caught.value) in {
        f"{what} (Not a directory): move that file away, then run again.",
        f"{what} (File exists): move it away, then run again.",
    }
    (tmp_path / "images/b").unlink()
    move_files(tmp_path, [move("A", "images/a.png", "images/b/c.png")], unrecorded)
    assert files(tmp_path) == {"images/b/c.png": "A"}


async def test_the_ledger_learns_the_new_names(
    ledger: Ledger, make_job: MakeJob, finish: Finish, rows: Callable[[Ledger], dict[str, Known]]
) -> None:
    finish(ledger, make_job("a"))
    finish(ledger, make_job("b"))
    known = rows(ledger)["a"]
    step = Move.of(known, "images/z.png")
    assert (step.source, step.number, step.key) == ("images/a.png", known.number, make_job("a").key)
    ledger.database.now(lambda connection: record_moves(connection, [step]))
    assert {name: row.file_name for name, row in rows(ledger).items()} == {"a": "images/z.png", "b": "images/b.png"}
