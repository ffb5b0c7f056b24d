"""Files follow the manifest; no picture is ever written over or lost on the way."""

from __future__ import annotations

import hashlib
from itertools import permutations
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.errors import StorageError
from batchflux.storage.moves import REPLACED, Move, move_files, record_moves

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchflux.storage.ledger import Known, Ledger
    from tests.storage.conftest import Finish, MakeJob


def put(root: Path, name: str, data: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data)


def move(data: str, source: str, target: str) -> Move:
    digest = hashlib.sha256(data.encode()).hexdigest()
    return Move(number=1, key=digest, source=source, target=target, sha256=digest)


def files(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_a_rename_also_into_a_new_folder(tmp_path: Path) -> None:
    put(tmp_path, "images/a.png", "A")
    move_files(tmp_path, [move("A", "images/a.png", "images/new/deep/b.png")])
    assert files(tmp_path) == {"images/new/deep/b.png": "A"}


def test_two_files_swap_their_names(tmp_path: Path) -> None:
    put(tmp_path, "images/a.png", "A")
    put(tmp_path, "images/b.png", "B")
    move_files(tmp_path, [move("A", "images/a.png", "images/b.png"), move("B", "images/b.png", "images/a.png")])
    assert files(tmp_path) == {"images/a.png": "B", "images/b.png": "A"}


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_ring_of_renames_in_any_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    for name in "abc":
        put(tmp_path, f"images/{name}.png", name.upper())
    ring = [move(a.upper(), f"images/{a}.png", f"images/{b}.png") for a, b in ("ab", "bc", "ca")]
    move_files(tmp_path, [ring[index] for index in order])
    assert files(tmp_path) == {"images/a.png": "C", "images/b.png": "A", "images/c.png": "B"}


def test_an_old_picture_makes_way_and_comes_back(tmp_path: Path) -> None:
    put(tmp_path, "images/a.png", "old")
    away = move("old", "images/a.png", f"{REPLACED}k.png")
    move_files(tmp_path, [away])
    put(tmp_path, "images/a.png", "new")
    assert files(tmp_path) == {f"{REPLACED}k.png": "old", "images/a.png": "new"}
    back = move("old", f"{REPLACED}k.png", "images/a.png")
    move_files(tmp_path, [move("new", "images/a.png", f"{REPLACED}n.png"), back])
    assert files(tmp_path) == {f"{REPLACED}n.png": "new", "images/a.png": "old"}


def test_a_file_that_is_gone_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, "images/b.png", "B")
    move_files(tmp_path, [move("A", "images/a.png", "images/x.png"), move("B", "images/b.png", "images/y.png")])
    assert files(tmp_path) == {"images/y.png": "B"}


def test_a_file_that_is_another_one_is_left_alone(tmp_path: Path) -> None:
    put(tmp_path, "images/a.png", "edited by the user")
    move_files(tmp_path, [move("A", "images/a.png", "images/b.png")])
    assert files(tmp_path) == {"images/a.png": "edited by the user"}


def test_moving_again_changes_nothing(tmp_path: Path) -> None:
    put(tmp_path, "images/a.png", "A")
    moves = [move("A", "images/a.png", "images/b.png")]
    move_files(tmp_path, moves)
    move_files(tmp_path, moves)
    assert files(tmp_path) == {"images/b.png": "A"}


@given(data=st.data(), count=st.integers(2, 5))
def test_killed_between_any_two_renames(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, count: int
) -> None:
    """A kill leaves each file at its source, in transit or at its target; the next run ends the move."""
    root = tmp_path_factory.mktemp("folder")
    names = [f"images/{number}.png" for number in range(count)]
    targets = data.draw(st.permutations(names))
    moves = [move(f"picture {n}", names[n], targets[n]) for n in range(count) if names[n] != targets[n]]
    for number, name in enumerate(names):
        put(root, name, f"picture {number}")
    (root / ".spool").mkdir()
    first_phase = data.draw(st.integers(0, len(moves)))
    second_phase = data.draw(st.integers(0, len(moves))) if first_phase == len(moves) else 0
    for done in moves[:first_phase]:
        (root / done.source).rename(root / done.transit)
    for done in moves[:second_phase]:
        (root / done.transit).rename(root / done.target)
    move_files(root, moves)
    assert files(root) == {target: f"picture {number}" for number, target in enumerate(targets)}


def test_a_folder_that_does_not_allow_it_is_told_in_one_sentence(tmp_path: Path) -> None:
    put(tmp_path, "images/a.png", "A")
    put(tmp_path, "images/b", "a file where a folder has to be")
    with pytest.raises(StorageError) as caught:
        move_files(tmp_path, [move("A", "images/a.png", "images/b/c.png")])
    assert str(caught.value) == (
        f"Files in {tmp_path} cannot be renamed to follow the manifest (Not a directory): "
        "repair the folder's permissions, then run again."
    ) or "File exists" in str(caught.value)
    (tmp_path / "images/b").unlink()
    move_files(tmp_path, [move("A", "images/a.png", "images/b/c.png")])
    assert files(tmp_path) == {"images/b/c.png": "A"}


async def test_the_ledger_learns_the_new_names(
    ledger: Ledger, make_job: MakeJob, finish: Finish, rows: Callable[[Ledger], dict[str, Known]]
) -> None:
    finish(ledger, make_job("a"))
    finish(ledger, make_job("b"))
    known = rows(ledger)["a"]
    step = Move.of(known, "images/z.png")
    assert (step.source, step.sha256, step.key) == ("images/a.png", known.sha256, make_job("a").key)
    ledger.database.now(lambda connection: record_moves(connection, [step]))
    assert {name: row.file_name for name, row in rows(ledger).items()} == {"a": "images/z.png", "b": "images/b.png"}
