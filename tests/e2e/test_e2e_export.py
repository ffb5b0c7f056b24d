"""From a manifest to a dataset, as a user does it: a run, a review, photos that are held against what was sent."""

from __future__ import annotations

import csv
import json
import os
from typing import TYPE_CHECKING

from PIL import Image
from pyarrow import parquet

from tests.exports.folders import judged

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchflux.testing.program import Program

JOBS = """
  - {id: plain, prompt: "a cup #url", output_format: png}
  - id: "CUP-{{ n }}"
    prompt: "a cup {{ n }} on marble #data"
    image: p/a.png
    matrix: {n: [1, 2, 3]}
    tags: {sku: "00{{ n }}"}
  - {id: masked, prompt: "a cup without #data", image: p/a.png, provider: tuzi}
  - {id: bad, prompt: "a cup #moderated"}
"""
MORE = 'references: {max_side: 64, strip_metadata: true}\noutput: {file_name: "{{ id }}/marble.{{ ext }}"}'


def test_a_run_becomes_pairs(program: Program, manifest: Callable[..., str], photo: Path) -> None:
    """The keys of a real run know the photo again, also where the manifest has photos prepared."""
    name = manifest(JOBS, more=MORE)
    assert program("run", name).code == 1
    os.utime(photo)  # touched since, and the same
    done = program("export", "out/m", "pairs", "--format", "pairs:musubi", "--json")
    assert done.code == 0, done.err + done.out
    told = json.loads(done.out)
    assert (told["pictures"], told["unfit"], told["left_out"]) == (4, {"made from no reference": 1}, [])
    names = sorted(path.stem for path in (program.folder / "pairs/train/images").glob("*.txt"))
    assert names == ["CUP-1__marble", "CUP-2__marble", "CUP-3__marble", "masked__marble"]
    for path in (program.folder / "pairs/train/control").iterdir():
        assert path.read_bytes() == photo.read_bytes()
    photo.write_bytes(photo.read_bytes() + b"\n")
    done = program("export", "out/m", "pairs", "--format", "pairs:musubi")
    assert done.code == 2
    assert "its reference p/a.png is not the file that was sent: put that back" in done.err


def test_what_a_review_accepted(program: Program, manifest: Callable[..., str], photo: Path) -> None:
    assert program("run", manifest(JOBS)).code == 1
    judged(program.out, {"CUP-1": "accept", "CUP-2": "reject", "plain": "accept"})
    line = ("export", "out/m", "set", "--format", "parquet", "--accepted", "--where", "tags.sku!=")
    done = program(*line, "--caption", "{{ tags.sku }}: {{ prompt }}")
    assert (done.code, done.out) == (0, "set\n")
    (row,) = parquet.read_table(program.folder / "set/data/train-00000-of-00001.parquet").to_pylist()
    assert (row["id"], row["tags.sku"], row["caption"]) == ("CUP-1", "001", "001: a cup 1 on marble #data")


def test_what_goes_to_a_shop(program: Program, manifest: Callable[..., str], photo: Path) -> None:
    assert program("run", manifest(JOBS)).code == 1
    line = ("export", "out/m", "shop", "--format", "shop", "--sheet", "csv", "--before", "--square", "pad", "--zip")
    refused = program(*line)
    assert (refused.code, "batchflux review out/m" in refused.err) == (2, True)
    judged(program.out, {"CUP-1": "accept", "CUP-2": "reject", "plain": "accept"})
    done = program(*line)
    assert (done.code, done.out) == (0, "shop\nshop.zip\n")
    rows = list(csv.DictReader((program.folder / "shop/products.csv").read_text("utf-8-sig").splitlines()))
    assert [(row["file"], row["before"]) for row in rows] == [
        ("plain_1.jpg", ""),
        ("001_1.jpg", "001_1_before.jpg"),
    ]
    for path in (program.folder / "shop/images").iterdir():
        with Image.open(path) as picture:
            assert (picture.format, picture.width) == ("JPEG", picture.height)
