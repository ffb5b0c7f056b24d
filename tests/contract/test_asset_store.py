"""What every asset store keeps to; the real ones and the one in memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from batchflux.output.folder_store import FolderStore
from tests.memory_store import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from batchflux.output.base import AssetStore


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> AssetStore:
    if request.param == "memory":
        return MemoryStore()
    (tmp_path / "out").mkdir()
    return FolderStore(tmp_path / "out")


@pytest.mark.parametrize("data", [b"", b"picture", b"x" * 3_000_000])
def test_what_is_put_is_there(store: AssetStore, data: bytes) -> None:
    store.put("images/a/b/größe.png", data)
    assert store.get("images/a/b/größe.png") == data
    assert store.present(["images/a/b/größe.png", "images/b.png"]) == {"images/a/b/größe.png"}


def test_a_file_that_is_put_is_gone(store: AssetStore, tmp_path: Path) -> None:
    source = tmp_path / "download"
    source.write_bytes(b"picture")
    store.put("images/a.png", source)
    assert store.get("images/a.png") == b"picture"
    assert not source.exists()


def test_what_is_put_takes_the_place_of_what_was_there(store: AssetStore) -> None:
    for data in (b"old and long", b"new"):
        store.put("images/a.png", data)
    assert store.get("images/a.png") == b"new"


def test_what_is_not_there_is_none(store: AssetStore) -> None:
    assert store.get("images/a.png") is None
    assert store.present(["images/a.png", "images"]) == set()
    assert store.present([]) == set()
    store.put("images/a/b.png", b"x")
    assert store.get("images/a") is None, "a folder is no asset"
    assert store.get("images/a/b.png/c.png") is None


def test_a_move_keeps_the_bytes_and_frees_the_name(store: AssetStore) -> None:
    store.put("images/a.png", b"a")
    store.put("images/b.png", b"b")
    assert store.move("images/a.png", ".replaced/x/a.png")
    assert store.move("images/b.png", "images/a.png")
    assert store.get(".replaced/x/a.png") == b"a"
    assert store.get("images/a.png") == b"b"
    assert store.present(["images/b.png"]) == set()
    assert not store.move("images/b.png", "images/c.png")
    assert store.present(["images/c.png"]) == set()


def test_a_move_takes_the_place_of_what_was_there(store: AssetStore) -> None:
    store.put("images/a.png", b"a")
    store.put("images/b.png", b"b")
    assert store.move("images/a.png", "images/b.png")
    assert store.get("images/b.png") == b"a"


def test_what_is_deleted_is_gone_and_may_be_deleted_again(store: AssetStore) -> None:
    store.put("images/a.png", b"a")
    for _ in range(2):
        store.delete("images/a.png")
    assert store.get("images/a.png") is None


def test_many_threads_put_at_once(store: AssetStore) -> None:
    names = [f"images/{number % 5}/{number}.png" for number in range(60)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: store.put(name, name.encode()), names))
    assert store.present(names) == set(names)
    assert all(store.get(name) == name.encode() for name in names)
