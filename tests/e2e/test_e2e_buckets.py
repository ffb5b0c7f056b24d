"""A manifest whose table and photos are in a bucket: planned, run on the simulator, shown, and tried again."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from batchflux import RunOptions, load_manifest, plan, run
from batchflux.exports.redo_manifest import redo_manifest
from batchflux.ledger.decisions import Decision, decide
from batchflux.ledger.reviews import Again
from batchflux.report.report import write_report

if TYPE_CHECKING:
    import pytest

    from tests.stores import Served

PHOTOS = Path(__file__).resolve().parents[2] / "jobs" / "photos"
MANIFEST = """
version: 1
provider: {options: {latency: 0, size: 64, fetch: true}}
jobs:
  - {id: "{{ sku }}", prompt: "{{ title }} by the sea", from: BUCKET/t.csv, images: ["BUCKET/p/{{ photo }}"]}
  - {id: "{{ image.stem }}-bare", prompt: no background, style: chat, matrix: {image: {glob: "BUCKET/p/*.jpg"}}}
"""


def test_a_table_and_photos_in_a_bucket(moto: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in moto.environ.items():
        monkeypatch.setenv(name, value)
    dahlia, cup = ((PHOTOS / name).read_bytes() for name in ("dahlia.jpg", "espresso-cup.jpg"))
    table = b"sku,title,photo\nD-1,A dahlia,dahlia.jpg\nC-1,A cup,a cup?.jpg\n"
    for key, data in {"t.csv": table, "p/dahlia.jpg": dahlia, "p/a cup?.jpg": cup}.items():
        moto.store().put(key, data, hashlib.sha256(data).hexdigest())
    Path("m.yaml").write_text(MANIFEST.replace("BUCKET", moto.bucket))
    manifest = load_manifest("m.yaml", out="out")
    planned = plan(manifest)
    assert planned.counts["todo"] == 4
    assert planned.photos["in_buckets"] == 2
    assert asyncio.run(run(manifest, RunOptions())).exit_code == 0
    with Path("out/results.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert {name: row["images"] for name, row in rows.items()} == {
        "D-1": f"{moto.bucket}/p/dahlia.jpg",
        "C-1": f"{moto.bucket}/p/a cup?.jpg",
        "dahlia-bare": f"{moto.bucket}/p/dahlia.jpg",
        "a cup?-bare": f"{moto.bucket}/p/a cup?.jpg",
    }
    assert plan(load_manifest("m.yaml", out="out")).counts["done"] == 4

    write_report(Path("out"))
    assert json.dumps(f"{moto.bucket}/p/a cup?.jpg")[1:-1] in Path("out/report.html").read_text()

    decide(Path("out/ledger.db"), Decision(keys=(bytes.fromhex(rows["C-1"]["key"]),), review="redo", again=Again()))
    Path("again.yaml").write_text(redo_manifest(Path("out"), Path()).text)
    again = load_manifest("again.yaml", out="again")
    assert plan(again).counts["todo"] == 1
    assert f"{moto.bucket}/p/a cup?.jpg" in Path("again.yaml").read_text()
    assert asyncio.run(run(again, RunOptions())).exit_code == 0
