"""On the simulator a redo is another picture, also where a request says nothing of the job's variant."""

from __future__ import annotations

import asyncio
import csv
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from batchflux import RunOptions, Selection, load_manifest, run
from batchflux.ledger.decisions import Decision, decide
from batchflux.ledger.reviews import Again

if TYPE_CHECKING:
    from batchflux.manifest import Manifest

PHOTO = Path(__file__).resolve().parents[2] / "jobs" / "photos" / "dahlia.jpg"


def make(manifest: Manifest, *, redo: bool = False) -> list[dict[str, str]]:
    summary = asyncio.run(run(manifest, RunOptions(selection=Selection(redo=redo))))
    assert summary.exit_code == 0
    with (manifest.output.dir / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_redos_of_jobs_without_a_seed_differ(tmp_path: Path) -> None:
    shutil.copy(PHOTO, tmp_path / "photo.jpg")
    (tmp_path / "m.yaml").write_text(
        "version: 1\nprovider: {options: {latency: 0, size: 64}}\njobs:\n"
        "  - {id: edit, prompt: make it blue, image: photo.jpg}\n  - {id: scene, prompt: a lake}\n",
        encoding="utf-8",
    )
    manifest = load_manifest(tmp_path / "m.yaml", out=str(tmp_path / "out"))
    first = make(manifest)
    keys = tuple(bytes.fromhex(row["key"]) for row in first)
    for _ in range(2):
        decide(tmp_path / "out" / "ledger.db", Decision(keys=keys, review="redo", again=Again()))
        rows = make(manifest, redo=True)
    assert [row["id"] for row in rows] == ["edit", "edit-redo1", "edit-redo2", "scene", "scene-redo1", "scene-redo2"]
    assert len({row["sha256"] for row in rows}) == 6
    other = load_manifest(tmp_path / "m.yaml", out=str(tmp_path / "other"))
    assert [row["sha256"] for row in make(other)] == [row["sha256"] for row in first]
