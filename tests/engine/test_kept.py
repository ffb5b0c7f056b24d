"""The jobs of a survey are kept for the run while they are few; the run makes what was checked, either way."""

from __future__ import annotations

import asyncio
import csv
from typing import TYPE_CHECKING, Any

import pytest

from batchflux import RunOptions, Watcher, load_manifest, run
from batchflux.ledger import kept
from batchflux.ledger.kept import CHARACTERS, JOBS, Kept
from batchflux.models import Reference

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchflux.models import Job

TEXT = """version: 1
provider: {price: 1, options: {latency: 0, size: 64}}
jobs: [{from: rows.csv, id: "{{ id }}", prompt: "A {{ id }}"}]
"""


def test_few_jobs_are_kept_in_order(job_number: Callable[..., Job]) -> None:
    jobs = [job_number(k) for k in range(7)]
    found = Kept()
    found.add(jobs[:4])
    found.add(jobs[4:])
    assert found.jobs == jobs


def test_too_many_jobs_are_not(job_number: Callable[..., Job]) -> None:
    found = Kept()
    found.add([job_number(1)] * JOBS)
    assert found.jobs is not None
    found.add([job_number(1)])
    assert found.jobs is None
    found.add([job_number(1)])
    assert found.jobs is None


@pytest.mark.parametrize(
    "fields",
    [{"prompt": "x" * (CHARACTERS + 1)}, {"images": (Reference(source="y" * (CHARACTERS + 1), url="https://h/"),)}],
)
def test_nor_are_large_ones(job_number: Callable[..., Job], fields: dict[str, Any]) -> None:
    found = Kept()
    found.add([job_number(1, **fields)])
    assert found.jobs is None


class Edits(Watcher):
    """Edits the table once the jobs are checked."""

    def __init__(self, table: Path) -> None:
        self._table = table

    def started(self, *_: object) -> None:
        self._table.write_text("name\none\n", encoding="utf-8")


@pytest.mark.parametrize("few", [True, False], ids=["kept", "made again"])
def test_a_table_that_changes_behind_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: bool) -> None:  # noqa: FBT001
    if not few:
        monkeypatch.setattr(kept, "JOBS", 1)
    table = tmp_path / "rows.csv"
    table.write_text("id\none\ntwo\n", encoding="utf-8")
    (tmp_path / "jobs.yaml").write_text(TEXT, encoding="utf-8")
    manifest = load_manifest(tmp_path / "jobs.yaml", out=str(tmp_path / "out"))
    summary = asyncio.run(run(manifest, RunOptions(watcher=Edits(table))))
    with (tmp_path / "out/results.csv").open(encoding="utf-8", newline="") as file:
        made = [(row["id"], row["status"]) for row in csv.DictReader(file)]
    if few:
        assert (summary.exit_code, made) == (0, [("one", "done"), ("two", "done")])
    else:
        assert summary.reason == "manifest"
        assert summary.exit_code == 3
