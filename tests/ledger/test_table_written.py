"""A table that is written while a run reads it: nothing is made of rows that nobody checked."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from batchflux.errors import ManifestError
from batchflux.exports.results_csv import Results
from batchflux.ledger.bookkeeping import BATCH, Books
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.reconcile import Selection
from batchflux.manifest import load_manifest
from batchflux.providers import capabilities

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from batchflux.models import Job

ROWS = 2 * BATCH


def table(name: str) -> str:
    return "sku,title\n" + "".join(f"{name}{number},{name} {number}\n" for number in range(ROWS))


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Books]:
    """What a run has on record of a manifest whose jobs are too many to be kept."""
    monkeypatch.setattr("batchflux.ledger.survey.KEPT_JOBS", 1)
    (tmp_path / "t.csv").write_text(table("cup"))
    (tmp_path / "m.yaml").write_text('version: 1\njobs:\n  - {id: "{{ sku }}", prompt: "{{ title }}", from: t.csv}\n')
    manifest = load_manifest(tmp_path / "m.yaml", out=str(tmp_path / "out"), environ={}, offers=capabilities())
    (tmp_path / "out").mkdir()
    results = Results(tmp_path / "out/results.csv", ())
    with closing(Ledger(tmp_path / "out/ledger.db", durable=False, threaded=False)) as ledger, closing(results):
        yield Books(manifest, ledger, results, 1.0)


def write_over(path: Path) -> None:
    path.write_text(table("plate"))


def take_its_name(path: Path) -> None:
    path.with_name("new").write_text(table("plate"))
    path.with_name("new").replace(path)


@pytest.mark.parametrize("write", [write_over, take_its_name])
def test_a_run_makes_what_was_checked_or_stops(books: Books, tmp_path: Path, write: Callable[[Path], None]) -> None:
    said: list[str] = []
    assert books.survey(Selection()).total == ROWS
    jobs = books.jobs(lambda fault: said.append(str(fault)))
    made = [next(jobs).id]
    write(tmp_path / "t.csv")
    made += [job.id for job in jobs]
    if write is take_its_name:  # the file that is open is the one that was checked
        assert (said, made) == ([], [f"cup{number}" for number in range(ROWS)])
        assert list(books.jobs(lambda fault: said.append(str(fault)))) == []
    else:
        assert made == [f"cup{number}" for number in range(BATCH)]
    assert len(said) == 1
    assert said[0].endswith(
        "m.yaml:3: jobs[0].from: the table t.csv was written while the run read it; run again once it is whole"
    )


def test_what_is_written_while_it_is_checked_is_not_begun(books: Books, tmp_path: Path) -> None:
    def through(jobs: Iterable[Job]) -> Iterator[Job]:
        for number, job in enumerate(jobs):
            if number == 1:
                write_over(tmp_path / "t.csv")
            yield job

    with pytest.raises(ManifestError, match=r"the table t\.csv was written while the run read it"):
        books.survey(Selection(), through)
