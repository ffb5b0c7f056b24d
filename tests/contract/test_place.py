"""What every place of an export keeps to: files are there whole or not at all, and stay until they are to be others."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from batchflux.errors import FolderBusy, StorageError
from batchflux.exports.places import destination, opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from batchflux.exports.places import Place
    from tests.stores import Served

    Open = Callable[[], AbstractContextManager[Place]]

NAMES = ("a/b/c.txt", "a/b.txt", "a/[x]*%#? 猫.txt", "b.txt")


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path, moto: Served, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens the same place each time."""
    (tmp_path / "spool").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spool"))
    dest = tmp_path / "x" if request.param == "folder" else destination(f"{moto.bucket}/x")
    return partial(opened, dest, tmp_path / "out", "kind", moto.stores)


def test_what_was_put_is_there_whole_and_by_name(place: Open) -> None:
    with place() as one:
        for name in NAMES:
            assert (one.size(name), one.read(name)) == (None, None)
            one.put(name, name.encode())
            assert (one.size(name), one.read(name)) == (len(name.encode()), name.encode())
    with place() as one:
        assert [one.read(name) for name in NAMES] == [name.encode() for name in NAMES]
        one.put("b.txt", b"other")
        assert one.read("b.txt") == b"other"


def test_stars_stand_for_no_folders(place: Open) -> None:
    with place() as one:
        for name in NAMES:
            one.put(name, b"")
        assert one.names("*.txt") == ["b.txt"]
        assert one.names("a/*.txt") == ["a/[x]*%#? 猫.txt", "a/b.txt"]
        assert one.names("*/?/*") == ["a/b/c.txt"]
        assert one.names("c/*") == []


def test_files_get_other_names_and_are_removed(place: Open) -> None:
    with place() as one:
        for name in NAMES:
            one.put(name, name.encode())
        one.rename({"b.txt": "c.txt", "a/b.txt": "a/c.txt"})
        one.remove(["a/b/c.txt", "nowhere.txt"])
        assert one.read("c.txt") == b"b.txt"
    with place() as one:
        assert [name for pattern in ("*.txt", "*/*", "*/*/*") for name in one.names(pattern)] == [
            "c.txt",
            "a/[x]*%#? 猫.txt",
            "a/c.txt",
        ]


def test_a_file_that_is_not_whole_is_not_there(place: Open) -> None:
    def cut() -> None:
        with place() as one, one.writing("a.bin") as file:
            file.write(b"half")
            raise StorageError("the rest cannot be had")

    with pytest.raises(StorageError, match="the rest"):
        cut()
    with place() as one:
        assert one.read("a.bin") is None
        with one.writing("a.bin", "a recipe") as file:
            file.write(b"whole")
            assert one.read("a.bin") is None
        assert one.read("a.bin") == b"whole"
    with place() as one:
        assert one.made_of("a.bin", lambda path: "a recipe" if path.read_bytes() == b"whole" else None) == "a recipe"
        assert one.made_of("b.bin", lambda _: None) is None


def test_pictures_are_read_once_and_what_nobody_put_is_removed(place: Open) -> None:
    reads: list[bytes] = []

    def read(data: bytes) -> bytes:
        reads.append(data)
        return data

    for marks in ("123", "123", "124"):
        with place() as one:
            one.put("mine/keep.txt", b"")
            files = one.pictures("*/images")
            for number, mark in enumerate(marks):
                files.put(f"train/images/{number}.jpg", float(mark), mark, partial(read, mark.encode()), 1)
                files.put_text(f"train/images/{number}.txt", 1.0, f"of {mark}")
            files.settle("train/images")
            assert files.has("train/images/0.jpg", 1.0, "1", 1)
            assert not files.has("train/images/0.jpg", 2.0, "2", 1)
            assert not files.has("train/images/0.jpg", 1.0, "1", 2)
            files.done("train/images")
            files.close()
    assert sorted(reads) == [b"1", b"2", b"3", b"4"]
    with place() as one:
        assert [one.read(f"train/images/{number}.jpg") for number in range(3)] == [b"1", b"2", b"4"]
        assert one.read("train/images/2.txt") == b"of 4"
        files = one.pictures("*/images")
        files.put("test/images/0.jpg", 1.0, "1", lambda: b"1", 1)
        files.close()
        assert one.names("*/*/*") == ["test/images/0.jpg"]
        assert one.names("mine/*") == ["mine/keep.txt"]


def test_one_process_at_a_time(place: Open) -> None:
    with place(), pytest.raises(FolderBusy, match="Another process exports to"), place():
        pass
    with place() as one:
        assert one.names("*.txt") == []
