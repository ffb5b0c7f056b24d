"""A folder that stands as its manifest wants it is known without making the jobs again, and never mistaken."""

from __future__ import annotations

import asyncio
import csv
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchflux import load_manifest, run
from batchflux.engine.selection import Selection
from batchflux.engine.unchanged import digest_of, unchanged
from batchflux.planner import exists_in, plan
from batchflux.runner import RunOptions

if TYPE_CHECKING:
    from batchflux.engine.survey import Survey

ROOT = Path(__file__).resolve().parents[2]
PHOTO = ROOT / "jobs" / "photos" / "cat-cushion.jpg"
CLOCK = 0.2  # seconds
TEXT = """version: 1
provider: {options: {latency: 0}}
jobs:
  - {from: rows.csv, id: "{{ id }}", prompt: "{{ title }}", webhook_secret: "${SECRET}"}
"""


@dataclass(slots=True)
class Shop:
    """A manifest with a table, and its output folder."""

    root: Path
    secret: str = "canary-1"

    def write(self, text: str = TEXT, rows: str = "a,Red mug\nb,Blue mug\n") -> None:
        (self.root / "jobs.yaml").write_text(text, encoding="utf-8")
        (self.root / "rows.csv").write_text(f"id,title\n{rows}", encoding="utf-8")

    def manifest(self) -> Any:
        return load_manifest(self.root / "jobs.yaml", out=str(self.root / "out"), environ={"SECRET": self.secret})

    def run(self, **selection: Any) -> dict[str, int]:
        summary = asyncio.run(run(self.manifest(), RunOptions(selection=Selection(**selection))))
        return dict(summary.jobs)

    def look(self, **selection: Any) -> Survey | None:
        manifest = self.manifest()
        connection = sqlite3.connect(self.root / "out" / "ledger.db")
        try:
            return unchanged(connection, manifest, Selection(**selection), exists_in(manifest))
        finally:
            connection.close()

    def settle(self) -> None:
        """Let the tables be older than what the clock can tell apart."""
        time.sleep(1.5 * CLOCK)


@pytest.fixture(autouse=True)
def fine_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests need not wait for the coarsest clock there is."""
    monkeypatch.setattr("batchflux.engine.unchanged.RACY", CLOCK)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    made = Shop(root=tmp_path)
    made.write()
    made.settle()
    assert made.run()["done"] == 2
    return made


def test_a_finished_run_is_known_without_its_rows(shop: Shop) -> None:
    found = shop.look()
    assert found is not None
    assert (found.total, found.done, found.todo, found.calls) == (2, 2, 0, 0)
    (shop.root / "rows.csv").chmod(0o600)  # a change of its ctime: no longer sure
    assert shop.look() is None


def test_the_whole_survey_says_the_same(shop: Shop) -> None:
    quick = plan(shop.manifest()).counts
    os.utime(shop.root / "rows.csv")
    assert shop.look() is None
    assert plan(shop.manifest()).counts == quick


def test_a_row_changed_behind_the_same_size_and_time_is_seen(shop: Shop) -> None:
    table = shop.root / "rows.csv"
    before = table.stat()
    table.write_text(table.read_text(encoding="utf-8").replace("Red", "Wed"), encoding="utf-8")
    os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert shop.look() is None
    assert plan(shop.manifest()).counts["changed"] == 1


def test_an_edited_prompt_or_model_is_seen(shop: Shop) -> None:
    for text in (TEXT.replace("{{ title }}", "{{ title }}!"), TEXT.replace("{options", "{model: other, options")):
        shop.write(text)
        assert shop.look() is None
        assert plan(shop.manifest()).counts["todo"] == 2


def test_a_removed_picture_is_seen(shop: Shop) -> None:
    next((shop.root / "out" / "images").iterdir()).unlink()
    assert shop.look() is None
    assert shop.run()["done"] == 2
    assert len(list((shop.root / "out" / "images").iterdir())) == 2


def test_a_selection_is_gone_through(shop: Shop) -> None:
    assert shop.look(only="a") is None
    assert shop.look(limit=1) is None
    assert shop.look(retry_failed=True) is not None  # nothing failed


def test_jobs_that_have_not_ended_are_gone_through(tmp_path: Path) -> None:
    shop = Shop(root=tmp_path)
    shop.write()
    shop.settle()
    shop.run(limit=1)
    assert shop.look() is None
    assert shop.run()["done"] == 2
    assert shop.look() is not None


def test_failed_and_unknown_jobs_count_as_the_user_asks(shop: Shop) -> None:
    connection = sqlite3.connect(shop.root / "out" / "ledger.db")
    with connection:
        connection.execute("UPDATE jobs SET status = 'failed', file_name = NULL WHERE id = 'a'")
    found = shop.look()
    assert found is not None
    assert (found.done, found.failed) == (1, 1)
    assert shop.look(retry_failed=True) is None
    with connection:
        connection.execute("UPDATE jobs SET status = 'unknown' WHERE id = 'a'")
    connection.close()
    assert shop.look() is None
    assert shop.look(on_unknown="fail") is None
    assert shop.look(on_unknown="hold") is not None


def test_a_table_just_written_leaves_no_mark(tmp_path: Path) -> None:
    shop = Shop(root=tmp_path)
    shop.write()
    shop.run()
    assert shop.look() is None


def test_local_references_and_globs_leave_no_mark(tmp_path: Path) -> None:
    shutil.copy(PHOTO, tmp_path / "photo.jpg")
    for job in ("{prompt: x, images: [photo.jpg]}", "{prompt: x, matrix: {image: {glob: '*.jpg'}}}"):
        shop = Shop(root=tmp_path)
        shop.write(f"version: 1\nprovider: {{options: {{latency: 0}}}}\njobs: [{job}]\n")
        shop.settle()
        assert shop.run()["done"] == 1
        assert shop.look() is None
        shutil.rmtree(tmp_path / "out")


def test_a_file_of_lines_counts(tmp_path: Path) -> None:
    shop = Shop(root=tmp_path)
    (tmp_path / "moods.txt").write_text("calm\nwild\n", encoding="utf-8")
    job = "{prompt: '{{ mood }}', matrix: {mood: {lines: moods.txt}}}"
    shop.write(f"version: 1\nprovider: {{options: {{latency: 0}}}}\njobs: [{job}]\n")
    shop.settle()
    assert shop.run()["done"] == 2
    assert shop.look() is not None
    (tmp_path / "moods.txt").write_text("calm\nmild\n", encoding="utf-8")
    assert shop.look() is None


def test_a_webhook_secret_is_in_no_digest(shop: Shop) -> None:
    first = digest_of(shop.manifest())
    shop.secret = "canary-2"
    assert first is not None
    assert digest_of(shop.manifest()) == first


def test_an_edit_that_a_kill_cut_short_and_that_is_taken_back_is_an_edit(shop: Shop) -> None:
    (shop.root / "jobs.yaml").write_text(TEXT.replace('id: "{{ id }}"', 'id: "new-{{ id }}"'), encoding="utf-8")
    command = [sys.executable, "-m", "batchflux", "run", "jobs.yaml", "--out", "out", "--quiet"]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "SECRET": shop.secret, "BATCHFLUX_KILL_AT": "run.surveyed"}
    killed = subprocess.run(command, cwd=shop.root, env=environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    (shop.root / "jobs.yaml").write_text(TEXT, encoding="utf-8")
    shop.run()
    with (shop.root / "out/results.csv").open(encoding="utf-8", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["a", "b"]
