"""What is special to one format: how large its files are, what they are called, and formats of other packages."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from batchflux.errors import UsageError
from batchflux.exports.base import Sample
from batchflux.exports.export import Wish, export, format_of
from batchflux.exports.formats import formats
from batchflux.exports.formats import imagefolder as folders
from batchflux.exports.formats import parquet as files
from batchflux.exports.formats import webdataset as tars
from batchflux.exports.shards import Shards
from tests.exports.folders import folder, job, tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from batchflux.exports.shards import Placed


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return folder(tmp_path / "out", (job(number) for number in range(40)))


def test_files_and_row_groups_hold_so_many_bytes(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FILE_BYTES", 15_000)
    monkeypatch.setattr(files, "GROUP_BYTES", 4_000)
    export(out, tmp_path / "dest", Wish(kind="parquet"))
    names = sorted(path.name for path in (tmp_path / "dest/data").iterdir())
    assert names == [f"train-{number:05}-of-{len(names):05}.parquet" for number in range(len(names))]
    assert len(names) > 2
    for name in names:
        found = parquet.ParquetFile(tmp_path / "dest/data" / name)
        groups = [found.metadata.row_group(one) for one in range(found.num_row_groups)]
        assert all(group.column(0).compression == "UNCOMPRESSED" for group in groups)
        sizes = [sum(found.read_row_group(one)["bytes"].to_pylist()) for one in range(len(groups))]
        assert max(sizes) <= 4_000
        assert sum(sizes) <= 15_000


def test_more_pictures_write_only_what_is_new(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files whose number of all has changed are renamed."""
    monkeypatch.setattr(files, "FILE_BYTES", 15_000)
    monkeypatch.setattr(tars, "SAMPLES", 10)
    monkeypatch.setattr(folders, "FOLDER_FILES", 10)
    for kind in ("parquet", "webdataset", "imagefolder"):
        dest = tmp_path / kind
        export(out, dest, Wish(kind=kind))
        before = {path.stat().st_ino for path in dest.rglob("*") if path.is_file()}
        folder(out, (job(number) for number in range(100 + 40, 160))) if kind == "parquet" else None
        export(out, dest, Wish(kind=kind))
        after = {path.stat().st_ino for path in dest.rglob("*") if path.is_file()}
        assert len(before & after) >= len(before) - 4
        export(out, tmp_path / "fresh", Wish(kind=kind))
        assert tree(dest) == tree(tmp_path / "fresh")
        for path in sorted((tmp_path / "fresh").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 12)), max_size=60))
def test_shards_keep_to_their_bounds_and_lose_nothing(given_samples: list[tuple[str, int]]) -> None:
    made: dict[tuple[str, int], list[tuple[str, int]]] = {}

    def make(split: str, number: int, placed: Sequence[Placed]) -> None:
        assert (split, number) not in made
        made[split, number] = [(one.sample.id, one.sample.size) for one in placed]

    shards = Shards(4, 20, make)
    for number, (split, size) in enumerate(given_samples):
        fields: dict[str, Any] = {"name": "", "suffix": "", "sha256": "", "made_at": 0.0, "caption": "", "columns": {}}
        shards.add(Sample(id=str(number), split=split, size=size, **fields), bytes, size)
    shards.close()
    assert all(1 <= len(shard) <= 4 and sum(size for _, size in shard) <= 20 for shard in made.values())
    for split in "ab":
        numbers = [number for place, number in made if place == split]
        assert numbers == list(range(shards.made.get(split, 0)))
        found = [int(name) for number in numbers for name, _ in made[split, number]]
        assert found == [number for number, (place, _) in enumerate(given_samples) if place == split]


OTHER = """
from batchflux.exports.base import Format, Loading

class Names:
    loading = Loading(use="A name a line.")
    def __init__(self, export):
        self.place, self.names = export.place, []
    def write(self, sample, image):
        self.names.append(f"{sample.name} {len(image())}")
    def close(self):
        self.place.put("names/all.txt", "\\n".join(self.names).encode())

NAMES = Format(make=Names)
"""


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    place = tmp_path / "site"
    told = place / "batchflux_names-1.dist-info"
    told.mkdir(parents=True)
    (place / "batchflux_names.py").write_text(OTHER, encoding="utf-8")
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: batchflux-names\nVersion: 1\n", encoding="utf-8")
    (told / "entry_points.txt").write_text("[batchflux.exporters]\nnames = batchflux_names:NAMES\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(place))
    formats.cache_clear()
    yield
    formats.cache_clear()
    sys.modules.pop("batchflux_names", None)


def test_another_package_brings_a_format(out: Path, tmp_path: Path, other_package: None) -> None:
    assert export(out, tmp_path / "dest", Wish(kind="names")).pictures == 40
    assert (tmp_path / "dest/names/all.txt").read_text(encoding="utf-8").startswith("j0 ")
    assert "A name a line." in (tmp_path / "dest/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("zip", 'There is no format "zip"; there are imagefolder, pairs, parquet, shop, webdataset.'),
        ("pairs:x", 'The format pairs has no layout "x"; there are instructpix2pix, musubi, ai-toolkit.'),
        ("parquet:x", 'The format parquet has no layout "x"; there are none.'),
    ],
)
def test_a_format_that_is_none_is_said(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        format_of(text)
    assert str(caught.value) == says


def test_without_pyarrow_the_extra_is_named(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for kind in ("parquet", "webdataset", "imagefolder"):
        with pytest.raises(UsageError, match=r"pip install 'batchflux\[parquet\]'"):
            export(out, tmp_path / kind, Wish(kind=kind))
