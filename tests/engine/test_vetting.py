"""A run of a large new table begins without making its jobs first, and its counts come out as if it had."""

from __future__ import annotations

import asyncio
import csv
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from batchflux import load_manifest, run
from batchflux.errors import ManifestError
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.selection import Selection
from batchflux.ledger.unchanged import unchanged
from batchflux.manifest import vet
from batchflux.planner import plan, survey_jobs
from batchflux.providers import capabilities
from batchflux.runner import RunOptions
from batchflux.vetting import LARGE, vetted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchflux.ledger.survey import Survey
    from batchflux.manifest import Manifest

CLOCK = 0.2  # seconds
TEXT = """version: 1
provider: {price: 1, options: {latency: 0, size: 64}}
jobs:
  - {from: rows.csv, id: "{{ id }}", prompt: "A {{ title }}", seed: "{{ seed }}"}
"""
ROWS = [("a", "mug", "1"), ("b", "cup", "2"), ("c", "mug", "1"), ("d", "vase", ""), ("e", "mug", "1")]


@dataclass(slots=True)
class Table:
    """A manifest of one table, and its output folder."""

    root: Path

    def write(self, rows: list[tuple[str, str, str]], text: str = TEXT) -> None:
        (self.root / "jobs.yaml").write_text(text, encoding="utf-8")
        lines = "".join(f"{','.join(row)}\n" for row in rows)
        (self.root / "rows.csv").write_text(f"id,title,seed\n{lines}", encoding="utf-8")

    def manifest(self) -> Manifest:
        return load_manifest(self.root / "jobs.yaml", out=str(self.root / "out"))

    def run(self, **selection: Any) -> Any:
        return asyncio.run(run(self.manifest(), RunOptions(selection=Selection(**selection))))

    def listed(self) -> list[tuple[str, str]]:
        with (self.root / "out/results.csv").open(encoding="utf-8", newline="") as file:
            return [(row["id"], row["status"]) for row in csv.DictReader(file)]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    made = Table(tmp_path)
    made.write(ROWS)
    return made


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A ledger that knows no job."""
    (tmp_path / "out").mkdir()
    Ledger(tmp_path / "out/ledger.db").close()
    connection = sqlite3.connect(tmp_path / "out/ledger.db")
    yield connection
    connection.close()


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds for large tables, for those of these tests."""
    monkeypatch.setattr("batchflux.vetting.LARGE", 1)


def look(table: Table, connection: sqlite3.Connection, **selection: Any) -> Survey | None:
    return vetted(table.manifest(), connection, Selection(**selection))


@pytest.mark.usefixtures("any_size")
def test_the_whole_survey_says_the_same(table: Table, empty: sqlite3.Connection) -> None:
    quick = look(table, empty)
    assert quick is not None
    assert quick.vetted
    whole = survey_jobs(table.manifest(), empty, Selection(), apply=False)
    quick.settle(whole.total, whole.merged)
    assert quick.as_counts() == whole.as_counts()
    assert (quick.calls, quick.styles) == (whole.calls, whole.styles)
    assert [job.id for job in quick.samples] == ["a", "b", "d"]


@pytest.mark.usefixtures("any_size")
def test_only_a_new_folder_and_all_of_a_table(table: Table, empty: sqlite3.Connection) -> None:
    assert look(table, empty, retry_failed=True) is not None
    for selection in ({"only": "a*"}, {"limit": 2}, {"redo": True}):
        assert look(table, empty, **selection) is None
    assert table.run(limit=1).jobs["total"] == 3
    assert look(table, empty) is None


def test_a_small_table_is_surveyed(table: Table, empty: sqlite3.Connection) -> None:
    assert look(table, empty) is None
    table.write([(f"job-{number}", "mug " * 500, "1") for number in range(LARGE // 2000)])
    assert look(table, empty) is not None
    (table.root / "rows.csv").unlink()
    with pytest.raises(ManifestError):
        table.manifest()


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("rows", [ROWS, [row for row in ROWS if row[0] not in {"c", "e"}]])
def test_a_vetted_run_ends_with_exact_counts(
    table: Table, rows: list[tuple[str, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchflux.ledger.unchanged.RACY", CLOCK)
    table.write(rows)
    time.sleep(1.5 * CLOCK)
    assert vet(table.manifest(), capabilities()) is not None
    summary = table.run()
    assert (summary.exit_code, summary.message) == (0, "All 3 jobs are done.")
    counts = {"total": 3, "new": 3, "todo": 3, "merged": len(rows) - 3}
    assert {name: summary.jobs[name] for name in counts} == counts
    assert summary.this_run["done"] == summary.jobs["done"] == 3
    assert table.listed() == [("a", "done"), ("b", "done"), ("d", "done")]
    again = table.run()
    assert (again.exit_code, again.jobs["todo"], again.jobs["merged"]) == (0, 0, len(rows) - 3)
    assert plan(table.manifest()).counts == again.jobs


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("settled", [True, False])
def test_a_vetted_run_that_stops_early_is_continued(
    table: Table, monkeypatch: pytest.MonkeyPatch, *, settled: bool
) -> None:
    """At once where the table is known to be the same, else all of it is gone through."""
    monkeypatch.setattr("batchflux.ledger.unchanged.RACY", CLOCK)
    rows = [*ROWS, *((f"bowl-{number}", "bowl", str(number)) for number in range(700)), ("f", "mug", "1")]
    table.write(rows, TEXT + "limits: {budget: 2, concurrency: 1}\n")
    assert vet(table.manifest(), capabilities()) is not None
    if settled:
        time.sleep(1.5 * CLOCK)
    summary = table.run()
    assert summary.exit_code == 3
    assert summary.this_run["done"] == 2
    (table.root / "jobs.yaml").write_text(TEXT, encoding="utf-8")
    with closing(sqlite3.connect(table.root / "out/ledger.db")) as connection:
        left = unchanged(connection, table.manifest(), Selection(), bool, unfinished=True)
    assert (left is not None and left.vetted and left.total == len(rows)) is settled
    summary = table.run()
    assert (summary.exit_code, summary.this_run["done"]) == (0, 701)
    assert (summary.jobs["total"], summary.jobs["merged"]) == (703, 3)
    assert [name for name, _ in table.listed()][:4] == ["a", "b", "d", "bowl-0"]
    again = table.run()
    assert (again.jobs["total"], again.jobs["todo"], again.jobs["merged"]) == (703, 0, 3)


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("more", [[("x", "mug", "1")] * 20, [("x", "bowl", "1"), ("y", "mug", "1")]])
def test_a_table_that_grows_during_its_run_is_counted_as_it_was_met(
    table: Table, monkeypatch: pytest.MonkeyPatch, more: list[tuple[str, str, str]]
) -> None:
    def grow(*given: Any) -> Any:
        found = vetted(*given)
        assert found is not None
        rows = [(f"{name}-{number}", *rest) for number, (name, *rest) in enumerate([*ROWS, *more])]
        table.write([(name, title, seed) for name, title, seed in rows])
        return found

    monkeypatch.setattr("batchflux.planner.vetted", grow)
    summary = table.run()
    distinct = len({(title, seed) for _, title, seed in [*ROWS, *more]})
    assert (summary.exit_code, summary.jobs["total"], summary.jobs["pending"]) == (0, distinct, 0)
    assert summary.this_run["done"] == summary.jobs["done"] == distinct
    assert summary.jobs["merged"] == len(ROWS) + len(more) - distinct


@pytest.mark.usefixtures("any_size")
def test_a_fault_in_the_last_row_spends_nothing(table: Table) -> None:
    table.write([*ROWS, ("f", "bowl", "seven")])
    with pytest.raises(ManifestError, match=r"rows\.csv:7: jobs\[0\]\.seed: found \"seven\""):
        table.run()
    assert not (table.root / "out").exists()


@pytest.mark.usefixtures("any_size")
def test_a_table_that_changes_behind_the_vetting_is_expanded(
    table: Table, empty: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = table.manifest()

    def change(*_: Any) -> Any:
        table.write([("f", "bowl", "seven")])
        return found

    found = vet(manifest, capabilities())
    monkeypatch.setattr("batchflux.vetting.vet", change)
    assert vetted(manifest, empty, Selection()) is None
