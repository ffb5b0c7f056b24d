"""Exports as those read them who train: `datasets`, also streaming, `webdataset`, pandas; 3,000 pictures of each."""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.exports.export import Wish, export
from batchflux.exports.selection import Split
from tests.exports.folders import folder, job, local, picture

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

JOBS = 3000


def client(name: str) -> Any:
    """Return a package that only these tests use."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError:
        pytest.fail(f"There is no {name}: pip install -e '.[clients]' brings it.")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,000 pictures, every second made from a photo; only from the seventh on do they have a seed; some are PNG."""
    place = tmp_path_factory.mktemp("consumers")
    (place / "a.png").write_bytes(picture(-1, "png"))
    photo = local(place, "a.png")
    return folder(
        place / "out",
        (
            job(
                number,
                variant=number,
                seed=number if number > 6 else None,
                images=(photo,) if number % 2 else (),
                file_name=f"images/test {number % 7}/v1.{number}.{'png' if number % 50 == 3 else 'jpg'}",
            )
            for number in range(JOBS)
        ),
    )


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["imagefolder", "webdataset", "parquet", "pairs"])
def test_datasets_reads_it(
    kind: str,
    streaming: bool,  # noqa: FBT001  what a case says
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets, dest = client("datasets"), tmp_path / "dest"
    done = export(out, dest, Wish(kind=kind, split=Split.of("train=0.9,test=0.1", "prompt")))
    read: dict[str, list[Any]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own
        for split in ("train", "test"):
            ways: dict[str, Any] = {"split": split, "streaming": streaming, "cache_dir": str(tmp_path / "cache")}
            read[split] = list(datasets.load_dataset(str(dest), **ways))
    assert {split: len(rows) for split, rows in read.items()} == done.splits
    rows = [row for rows in read.values() for row in rows]
    assert len(rows) == (JOBS // 2 if kind == "pairs" else JOBS)
    image = {"webdataset": "jpg", "pairs": "edited_image"}.get(kind, "image")
    assert {row[image].size for row in rows} == {(32, 32)}
    told = [row["json"] if kind == "webdataset" else row for row in rows]
    by_id = {row["id"]: row for row in told}
    assert by_id["j123"]["tags.sku"] == "00123"
    assert by_id["j123"]["seed"] == ("123" if kind == "webdataset" else 123)
    assert by_id["j5"]["seed"] in {None, ""}
    assert not {row["prompt"] for row in read["train"] if "prompt" in row} & {
        row["prompt"] for row in read["test"] if "prompt" in row
    }
    if kind == "pairs":
        assert {row["input_image"].size for row in rows} == {(32, 32)}


def test_webdataset_reads_it(out: Path, tmp_path: Path) -> None:
    webdataset = client("webdataset")
    export(out, tmp_path / "dest", Wish(kind="webdataset"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own
        rows = list(webdataset.WebDataset(str(tmp_path / "dest/00000.tar"), shardshuffle=False).decode("pil"))
    assert [row["__key__"] for row in rows] == [f"{number:09}" for number in range(JOBS)]
    assert [row["json"]["id"] for row in rows] == [f"j{number}" for number in range(JOBS)]
    assert {row["jpg"].size for row in rows} == {(32, 32)}
    assert rows[5]["txt"] == "a mug, 1"


def test_pandas_reads_it(out: Path, tmp_path: Path) -> None:
    pandas = client("pandas")
    export(out, tmp_path / "dest", Wish(kind="imagefolder"))
    table = pandas.read_parquet(tmp_path / "dest/train/metadata.parquet")
    assert list(table["tags.sku"]) == [f"{number:05}" for number in range(JOBS)]
    assert all((tmp_path / "dest/train" / name).is_file() for name in table["file_name"])
    assert table["seed"].isna().sum() == 7
