"""The reserve on the disk: held, grown with what comes, and given up once."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

import pytest

from batchflux.errors import StorageError
from batchflux.output import ballast as module
from batchflux.output.ballast import LEAST_ROOM, LEDGER_ROOM, NAME, Ballast

if TYPE_CHECKING:
    from pathlib import Path


class SmallDisk(NamedTuple):
    f_bavail: int
    f_frsize: int


@pytest.fixture
def told() -> list[StorageError]:
    return []


@pytest.fixture
def reserve(tmp_path: Path, told: list[StorageError]) -> Ballast:
    (tmp_path / ".spool").mkdir()
    return Ballast(tmp_path, 3, told.append)


def test_it_takes_up_room_and_gives_it_back(reserve: Ballast, tmp_path: Path, told: list[StorageError]) -> None:
    reserve.hold()
    found = (tmp_path / NAME).stat()
    assert found.st_size == LEDGER_ROOM
    assert found.st_blocks * 512 >= LEDGER_ROOM, "a file of holes holds no room"
    reserve.drop()
    reserve.drop()
    assert not (tmp_path / NAME).exists()
    assert not reserve.release()
    assert told == []


def test_it_grows_with_the_pictures_that_come(reserve: Ballast, tmp_path: Path) -> None:
    reserve.hold()
    for size, largest in ((1000, 1000), (500, 1000), (5000, 5000)):
        reserve.came(size)
        assert (tmp_path / NAME).stat().st_size == LEDGER_ROOM + 3 * largest


def test_it_is_given_up_once_and_says_so(reserve: Ballast, tmp_path: Path, told: list[StorageError]) -> None:
    reserve.hold()
    assert reserve.release()
    assert reserve.release(), "another thread was refused in the same moment: its write too is worth another try"
    assert not (tmp_path / NAME).exists()
    reserve.came(10**6)
    assert not (tmp_path / NAME).exists(), "what was given up is not taken again"
    assert [str(error) for error in told] == [
        f"The disk of {tmp_path} is full: what was paid for is kept; free space, then run again to continue."
    ]


def test_a_folder_that_is_gone_can_hold_nothing(reserve: Ballast, tmp_path: Path) -> None:
    (tmp_path / ".spool").rmdir()
    with pytest.raises(StorageError, match="the output folder is gone"):
        reserve.hold()
    reserve.drop()


def test_room_that_cannot_grow_stops_the_run(reserve: Ballast, tmp_path: Path, told: list[StorageError]) -> None:
    reserve.hold()
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).mkdir()  # what refuses the write here is not a full disk, but it refuses
    reserve.came(2_000_000)
    (error,) = told
    assert str(error).startswith(f"The disk of {tmp_path} is almost full, and the pictures under way need 6 MB: free ")


def test_where_room_cannot_be_reserved_it_is_written(
    reserve: Ballast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    reserve.hold()
    reserve.came(1000)
    found = (tmp_path / NAME).stat()
    assert found.st_size == LEDGER_ROOM + 3000
    assert found.st_blocks * 512 >= LEDGER_ROOM


@pytest.mark.parametrize(
    ("cause", "helps"),
    [(OSError(errno.ENOSPC, "full"), True), (OSError(errno.EDQUOT, "quota"), True), (OSError(errno.EIO, "io"), False)],
)
def test_it_helps_where_room_is_wanting(cause: OSError, helps: bool) -> None:  # noqa: FBT001  pytest's
    error = StorageError("it failed")
    error.__cause__ = cause
    assert module.Ballast.helps(error) is helps
    assert not Ballast.helps(StorageError("without a cause"))


def test_on_a_small_disk_it_is_small(reserve: Ballast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tmp_path)
    for free, size in ((8 << 20, 1 << 20), (100_000, LEAST_ROOM)):
        blocks = free // real.f_frsize
        monkeypatch.setattr(os, "statvfs", lambda _, blocks=blocks: SmallDisk(blocks, real.f_frsize))
        reserve.hold()
        assert abs((tmp_path / NAME).stat().st_size - size) < real.f_frsize
        reserve.drop()
