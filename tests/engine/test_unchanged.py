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
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchflux import load_manifest, run
from batchflux.ledger.selection import Selection
from batchflux.ledger.survey import Surveyor
from batchflux.ledger.unchanged import digest_of, unchanged
from batchflux.manifest import expand
from batchflux.planner import exists_in, plan
from batchflux.providers import capabilities
from batchflux.runner import RunOptions

if TYPE_CHECKING:
    from batchflux.ledger.survey import Survey

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

    def look(self, *, unfinished: bool = False, **selection: Any) -> Survey | None:
        manifest = self.manifest()
        with closing(sqlite3.connect(self.root / "out" / "ledger.db")) as connection:
            return unchanged(connection, manifest, Selection(**selection), exists_in(manifest), unfinished=unfinished)

    def go_through(self, **selection: Any) -> Survey:
        manifest = self.manifest()
        with closing(sqlite3.connect(self.root / "out" / "ledger.db")) as connection:
            jobs = expand(manifest, capabilities(), lambda fault: pytest.fail(str(fault)))
            return Surveyor(connection, Selection(**selection), exists_in(manifest), apply=False).take(jobs)

    def settle(self) -> None:
        """Let the tables be older than what the clock can tell apart."""
        time.sleep(1.5 * CLOCK)


@pytest.fixture(autouse=True)
def fine_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests need not wait for the coarsest clock there is."""
    monkeypatch.setattr("batchflux.ledger.unchanged.RACY", CLOCK)


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


STATES = {
    "done": "status = 'done'",
    "lost, with a link": "file_name = 'images/gone.jpg'",
    "lost, without": "file_name = 'images/gone.jpg', link = NULL",
    "failed": "status = 'failed', error_code = 'server', link = NULL, file_name = NULL",
    "failed with a link": "status = 'failed', error_code = 'download', file_name = NULL",
    "failed as unknown": "status = 'failed', error_code = 'unknown', link = NULL, file_name = NULL",
    "unknown": "status = 'unknown', link = NULL, file_name = NULL",
    "pending": "status = 'pending', link = NULL, file_name = NULL",
    "pending with a link": "status = 'pending', file_name = NULL",
    "pending with a picture": "status = 'pending', link = NULL, file_name = NULL, spool = '.spool/x'",
    "in flight": "status = 'pending', link = NULL, file_name = NULL, in_flight = 1000",
}
SELECTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"retry_failed": True},
    {"on_unknown": "hold"},
    {"on_unknown": "fail", "retry_failed": True},
)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_what_is_left_is_told_as_by_going_through(tmp_path: Path, selection: dict[str, Any]) -> None:
    shop = Shop(root=tmp_path)
    shop.write(rows="".join(f"job-{number},Mug {number}\n" for number in range(len(STATES) + 3)))
    shop.settle()
    shop.run(limit=len(STATES))
    with closing(sqlite3.connect(tmp_path / "out" / "ledger.db")) as connection, connection:
        for number, change in enumerate(STATES.values()):
            connection.execute(f"UPDATE jobs SET {change} WHERE id = 'job-{number}'")  # noqa: S608  a test's own
    quick, whole = shop.look(unfinished=True, **selection), shop.go_through(**selection)
    assert quick is not None
    assert quick.as_counts() == whole.as_counts()
    assert (quick.calls, quick.styles, quick.vetted) == (whole.calls, whole.styles, False)
    redone = [number in quick.redone for number in range(100)]
    assert redone == [number in whole.redone for number in range(100)]
    assert any(redone)
    assert shop.look(**selection) is None, "a plan shows samples of what is left"


def test_what_is_left_is_gone_through_after_an_edit(tmp_path: Path) -> None:
    shop = Shop(root=tmp_path)
    shop.write()
    shop.settle()
    shop.run(limit=1)
    assert shop.look(unfinished=True) is not None
    for selection in ({"only": "*"}, {"limit": 1}, {"redo": True}):
        assert shop.look(unfinished=True, **selection) is None
    shop.write(rows="a,Red mug\nb,Blue mug\nc,Green mug\n")
    shop.settle()
    assert shop.look(unfinished=True) is None
    assert shop.run()["done"] == 3


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
