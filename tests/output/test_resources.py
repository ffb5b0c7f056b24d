"""What a run needs of the system: told before anything is spent."""

from __future__ import annotations

import os
import resource
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from batchflux.errors import StorageError, UsageError
from batchflux.output.resources import GUESS, MB, RESERVE, LowWaterMark, ensure_open_files, raise_open_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def say(size: int, blocks: int = 1 << 30) -> None:
        disk = SimpleNamespace(f_bavail=size // 512, f_frsize=512, f_blocks=blocks)
        monkeypatch.setattr(os, "statvfs", lambda _: disk)

    return say


def test_the_mark_is_a_reserve_and_a_picture_for_each_request(tmp_path: Path, free: Callable[[int], None]) -> None:
    mark = LowWaterMark(tmp_path)
    free(RESERVE + 3 * GUESS)
    assert mark.check(3) is None
    error = mark.check(4)
    assert isinstance(error, StorageError)
    assert error.exit_code == 3
    assert str(error) == (
        f"The disk of {tmp_path} is almost full: 88 MB are free, and what is under way may need 96 MB. "
        "What was paid for is kept; free space, then run again to continue."
    )
    mark.came(MB)
    mark.came(MB // 2)
    free(RESERVE + 9 * MB)
    assert mark.check(9) is None
    assert mark.check(10) is not None


def test_a_file_system_that_does_not_tell_is_no_full_one(tmp_path: Path, free: Callable[..., None]) -> None:
    free(0, blocks=0)
    assert LowWaterMark(tmp_path).check(1000) is None


def test_a_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    error = LowWaterMark(tmp_path / "gone").check(1)
    assert "the folder is gone; put it back" in str(error)


def test_a_run_that_needs_more_open_files_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (50, 400))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    assert ensure_open_files(10) == (400 - 122) // 3
    assert raised == [(400, 400)]
    with pytest.raises(UsageError, match=r"ulimit -n 572\), or lower limits.concurrency to 65. Nothing was spent"):
        ensure_open_files(100)


@pytest.mark.parametrize(
    ("limits", "most", "raised"),
    [
        ((50, 400), 300, [(300, 400)]),
        ((50, 400), 900, [(400, 400)]),
        ((350, 400), 300, []),
        ((50, resource.RLIM_INFINITY), 900, [(900, resource.RLIM_INFINITY)]),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 900, []),
    ],
)
def test_more_open_files_as_far_as_the_system_lets(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], most: int, raised: list[tuple[int, int]]
) -> None:
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, to: set_to.append(to))
    raise_open_files(most)
    assert set_to == raised
