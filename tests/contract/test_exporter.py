"""What every exporter keeps to: whatever the text, each job that was written comes back, whole and in its order."""

from __future__ import annotations

import csv
import hashlib
import json
import tarfile
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from pyarrow import parquet

from batchflux.errors import StorageError
from batchflux.exports.base import Export, Photo, Sample
from batchflux.exports.formats import formats
from batchflux.exports.places import Folder
from batchflux.exports.results_csv import Results
from batchflux.exports.shop.options import ShopOptions
from batchflux.ledger.tables import Known
from tests.exports.folders import picture as drawn
from tests.exports.folders import tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PICTURE = b"\x89PNG picture"
TEXTS = ("a mug", 'two\nlines, "quoted"', "größe 杯", "a\rb", "'", "\u2028", "x" * 100_000)


class Writes(Protocol):
    """What a test sees of an exporter: `add` writes a job of this number and prompt."""

    def add(self, number: int, prompt: str) -> None: ...
    def close(self) -> None: ...


def row(number: int, prompt: str) -> Known:
    spec = {"prompt": prompt, "images": [], "model": "m", "provider": "p", "style": "standard"}
    fields: dict[str, Any] = dict.fromkeys(Known._fields)
    fields |= {"number": number, "key": number.to_bytes(32, "big"), "id": f"j{number}", "position": number}
    fields |= {"spec": json.dumps(spec), "tags": "", "status": "done", "attempts": 1, "possibly_billed": 0}
    return Known(**(fields | {"cost": 0, "maybe_cost": 0, "file_name": f"images/j{number}.png"}))


def picture() -> bytes | None:
    return PICTURE


class Rows:
    """Jobs written into results.csv."""

    def __init__(self, path: Path) -> None:
        self.exporter = Results(path, [])

    def add(self, number: int, prompt: str) -> None:
        self.exporter.write(row(number, prompt), picture)

    def close(self) -> None:
        self.exporter.close()


def sample(number: int, prompt: str, split: str = "train") -> Sample:
    data = drawn(number)
    photo = Photo(source="a.png", mark="0", suffix=".png", size=100, read=lambda: drawn(-1, "png"))
    return Sample(
        id=f"j{number}",
        split=split,
        name=f"j{number}",
        suffix=".jpg",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        made_at=1.7e9 + number + 0.25,
        caption=prompt,
        columns={"id": f"j{number}", "sku": f"{number:05}", "seed": number or None, "cost": 0.02},
        references=(photo,),
    )


class Samples:
    """Jobs written in a format of `export`."""

    def __init__(self, path: Path, kind: str, layout: str, splits: tuple[str, ...] = ("train",)) -> None:
        columns = {"id": "string", "sku": "string", "seed": "int64", "cost": "float64"}
        more: dict[str, Any] = {"references": 1, "layout": layout}
        if kind == "shop":
            more["options"] = ShopOptions.of({"sheet": ["csv"], "before": True})
        self.export = Export(place=Folder(path), name="mugs", columns=columns, splits=splits, suffix=".jpg", **more)
        self.exporter = formats()[kind].make(self.export)
        self.reads = 0

    def add(self, number: int, prompt: str, split: str = "train") -> None:
        def read() -> bytes:
            self.reads += 1
            return drawn(number)

        self.exporter.write(sample(number, prompt, split), read)

    def close(self) -> None:
        self.exporter.close()


@dataclass(frozen=True)
class Format:
    """An exporter, and how its file is read: the id and the prompt of each job."""

    make: Callable[[Path], Writes]
    read: Callable[[Path], list[tuple[str, str]]]


def read_csv(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [(found["id"], found["prompt"]) for found in csv.DictReader(file, strict=True)]


def read_parquet(pattern: str, caption: str = "caption") -> Callable[[Path], list[tuple[str, str]]]:
    def read(path: Path) -> list[tuple[str, str]]:
        tables = [parquet.read_table(file).to_pylist() for file in sorted(path.glob(pattern))]
        return [(found["id"], found[caption]) for table in tables for found in table]

    return read


def read_tar(path: Path) -> list[tuple[str, str]]:
    found: dict[str, dict[str, bytes]] = defaultdict(dict)
    for file in sorted(path.glob("*.tar")):
        with tarfile.open(file) as tar:
            for member in tar.getmembers():
                stream = tar.extractfile(member)
                assert stream is not None
                key, _, suffix = member.name.partition(".")
                found[key][suffix] = stream.read()
    assert all(list(one) == ["jpg", "txt", "json"] for one in found.values())
    return [(json.loads(one["json"])["id"], one["txt"].decode()) for one in found.values()]


def read_jsonl(path: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in (path / "train.jsonl").read_text(encoding="utf-8").split("\n") if line]
    return [(found["image_path"].rpartition("/")[2].removesuffix(".jpg"), found["caption"]) for found in rows]


def read_texts(path: Path) -> list[tuple[str, str]]:
    return [(file.stem, file.read_bytes().decode()) for file in sorted((path / "train/targets").glob("*.txt"))]


def read_products(path: Path) -> list[tuple[str, str]]:
    """What is in products.csv, without the quote that keeps spreadsheets from running a cell."""
    with (path / "products.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert [row["file"] for row in rows] == [f"{row['id']}.jpg" for row in rows]
    assert {file.name for file in (path / "before").iterdir()} == {row["before"] for row in rows}
    return [(row["id"], row["caption"]) for row in rows]


DATASETS = {
    "imagefolder": read_parquet("train/metadata.parquet"),
    "webdataset": read_tar,
    "parquet": read_parquet("data/*.parquet"),
    "pairs:instructpix2pix": read_parquet("data/*.parquet", "edit_prompt"),
    "pairs:musubi": read_jsonl,
    "pairs:ai-toolkit": read_texts,
    "shop": read_products,
}


def samples(path: Path, name: str, splits: tuple[str, ...] = ("train",)) -> Samples:
    kind, _, layout = name.partition(":")
    return Samples(path, kind, layout, splits)


FORMATS = {"results.csv": Format(make=Rows, read=read_csv)}
FORMATS |= {name: Format(make=partial(samples, name=name), read=read) for name, read in DATASETS.items()}


@pytest.fixture(params=FORMATS)
def kind(request: pytest.FixtureRequest) -> Format:
    return FORMATS[request.param]


def test_all_formats_and_layouts_are_here() -> None:
    there = {f"{name}:{layout}" if layout else name for name, one in formats().items() for layout in one.layouts}
    assert there == set(DATASETS)


def test_what_was_written_comes_back_in_its_order(kind: Format, tmp_path: Path) -> None:
    path = tmp_path / "export"
    exporter = kind.make(path)
    for number, text in enumerate(TEXTS):
        exporter.add(number, text)
    exporter.close()
    assert kind.read(path) == [(f"j{number}", text) for number, text in enumerate(TEXTS)]


def test_it_may_be_closed_again(kind: Format, tmp_path: Path) -> None:
    path = tmp_path / "export"
    exporter = kind.make(path)
    exporter.add(1, "a mug")
    exporter.close()
    exporter.close()
    assert kind.read(path) == [("j1", "a mug")]


def test_a_place_that_takes_no_file_is_said_with_its_remedy(kind: Format, tmp_path: Path) -> None:
    path = tmp_path / "export"
    if kind.make is Rows:
        path.mkdir()
    else:
        path.write_text("a file", encoding="utf-8")

    def export() -> None:
        exporter = kind.make(path)
        exporter.add(1, "a mug")
        exporter.close()

    with pytest.raises(StorageError, match=r"export.*, then run again|export.* cannot be written .*run again"):
        export()


def test_a_job_without_a_picture_has_its_place_in_results_csv(tmp_path: Path) -> None:
    exporter = Results(tmp_path / "export", [])
    failed = row(1, "a mug")._replace(status="failed", file_name=None, error_code="server")
    exporter.write(failed, lambda: None)
    exporter.close()
    assert read_csv(tmp_path / "export") == [("j1", "a mug")]


@pytest.mark.parametrize("name", DATASETS)
def test_what_is_there_and_the_same_is_neither_read_nor_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / "export"
    reads, states = [], []
    for _ in range(2):
        exporter = samples(path, name)
        for number in range(20):
            exporter.add(number, "a mug")
        exporter.close()
        reads.append(exporter.reads)
        states.append({file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in path.rglob("*")})
    assert reads == [20, 0]
    assert {file: state for file, state in states[0].items() if file.is_file()}.items() <= states[1].items()


@pytest.mark.parametrize("name", DATASETS)
def test_an_export_over_another_is_as_one_from_nothing(name: str, tmp_path: Path) -> None:
    """Fewer pictures, in other splits, with other captions: nothing of before is left."""
    for numbers, splits in ((range(30), ("train", "test")), (range(5, 15), ("train",))):
        exporter = samples(tmp_path / "over", name, splits)
        for number in numbers:
            exporter.add(number, f"mug {len(splits)}", splits[number % len(splits)])
        exporter.close()
    fresh = samples(tmp_path / "fresh", name)
    for number in range(5, 15):
        fresh.add(number, "mug 1")
    fresh.close()
    over = {place: data.replace(b"/over/", b"/fresh/") for place, data in tree(tmp_path / "over").items()}
    assert over == tree(tmp_path / "fresh")


@pytest.mark.parametrize("name", DATASETS)
def test_a_picture_that_was_made_anew_is_exported_anew(name: str, tmp_path: Path) -> None:
    path = tmp_path / "export"
    exporter = samples(path, name)
    exporter.add(1, "a mug")
    exporter.close()
    before = tree(path)
    exporter = samples(path, name)
    other = drawn(2)
    again = replace(sample(1, "a mug"), size=len(other), sha256=hashlib.sha256(other).hexdigest(), made_at=1.8e9 + 0.25)
    exporter.exporter.write(again, lambda: other)
    exporter.close()
    assert tree(path) != before
    assert any(other in data for data in tree(path).values())
