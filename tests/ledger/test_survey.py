"""An edited manifest: what is counted, which files follow, and that no picture is ever written over."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.errors import Code, JobError
from batchflux.ledger import survey
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.moves import followed, move_files, record_moves, settle_moves
from batchflux.ledger.reconcile import Selection, work_for
from batchflux.ledger.survey import Survey, Surveyor
from batchflux.ledger.tables import COLUMNS, Known, empty_ledger
from batchflux.models import Job, Link, Outcome, Reference, Status, Stored
from tests.attempts import fail, receive, send

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

JobOf = Callable[..., Job]


@dataclass(slots=True)
class Folder:
    """An output folder with real files, brought in line with one manifest after the other, as a run does it."""

    root: Path
    ledger: Ledger

    def survey(self, jobs: list[Job], *, apply: bool = False, **selection: Any) -> Survey:
        def take(connection: Any) -> Survey:
            settle_moves(self.root, connection)
            surveyor = Surveyor(connection, Selection(**selection), self.exists, apply=apply)
            return surveyor.take(iter(jobs))

        return self.ledger.database.now(take)

    def run(self, jobs: list[Job], **selection: Any) -> Survey:
        survey = self.survey(jobs, apply=True, **selection)
        moves = list(survey.moves.values())
        move_files(self.root, moves, lambda moved: self.ledger.database.now(lambda c: record_moves(c, moved)))
        asyncio.run(self._make(jobs, Selection(**selection)))
        return survey

    def exists(self, name: str) -> bool:
        return (self.root / name).exists()

    async def _make(self, jobs: list[Job], selection: Selection) -> None:
        known = await self.ledger.lookup([job.key for job in jobs])
        for job in jobs:
            work = work_for(job, known.get(job.key), selection, self.exists)
            if work is None:
                continue
            await send(self.ledger, job, price=1, at=1.0)
            await receive(self.ledger, job, Link(url=f"https://cdn.example/{job.key[:8]}"), api_seconds=1.0)
            data = f"picture {job.key}".encode()
            path = self.root / job.file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            stored = Stored(file_name=job.file_name, width=1, height=1, bytes=len(data), sha256=digest)
            await self.ledger.finish(job, Outcome(status=Status.DONE, stored=stored, finished_at=2.0))

    def fail(self, job: Job) -> None:
        async def go() -> None:
            await send(self.ledger, job, price=1, at=1.0)
            await fail(self.ledger, job, JobError(Code.SERVER, "no"), counts=True)
            await self.ledger.finish(job, Outcome(status=Status.FAILED, error_code="server", finished_at=2.0))

        asyncio.run(go())

    def rows(self) -> list[Known]:
        def read(connection: Any) -> list[Known]:
            return [Known.of(row) for row in connection.execute(f"SELECT {COLUMNS} FROM known")]  # noqa: S608  constant

        return self.ledger.database.now(read)

    def check(self) -> None:
        """Every picture that was ever made is where the ledger says."""
        for row in self.rows():
            if row.status == "done":
                assert row.file_name is not None
                path = self.root / row.file_name
                assert path.exists(), f"{row.id}: {row.file_name} is gone"
                assert path.read_text() == f"picture {row.key.hex()}", f"{row.id}: {row.file_name} was written over"

    def files(self) -> list[str]:
        return sorted(
            path.relative_to(self.root).as_posix() for path in (self.root / "images").rglob("*") if path.is_file()
        )


@contextlib.contextmanager
def opened(root: Path) -> Iterator[Folder]:
    ledger = Ledger(root / "ledger.db", durable=False, threaded=False)
    try:
        yield Folder(root, ledger)
    finally:
        ledger.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with opened(tmp_path) as made:
        yield made


def counts(survey: Survey) -> dict[str, int]:
    return {name: count for name, count in survey.as_counts().items() if count}


@pytest.fixture
def empty() -> Iterator[sqlite3.Connection]:
    with contextlib.closing(empty_ledger()) as made:
        yield made


def test_a_folder_without_a_ledger_is_all_new(empty: sqlite3.Connection, job_number: JobOf) -> None:
    surveyor = Surveyor(empty, Selection(), lambda _: False, apply=False)
    survey = surveyor.take(job_number(n, style="chat" if n == 2 else "standard") for n in range(3))
    assert counts(survey) == {"total": 3, "new": 3, "todo": 3}
    assert (survey.calls, survey.made_by, [job.id for job in survey.samples]) == (
        3,
        {("tuzi", "standard"): 2, ("tuzi", "chat"): 1},
        ["j0", "j1", "j2"],
    )


def test_what_is_done_is_not_done_again(folder: Folder, job_number: JobOf) -> None:
    jobs = [job_number(n) for n in range(3)]
    folder.run(jobs)
    survey = folder.survey([*jobs, job_number(3)])
    assert counts(survey) == {"total": 4, "new": 1, "done": 3, "todo": 1}
    assert (survey.calls, survey.edited, survey.moves) == (1, False, {})


def test_a_changed_job_is_told_from_a_new_one(folder: Folder, job_number: JobOf) -> None:
    folder.run([job_number(0), job_number(1)])
    edited = [job_number(0), job_number(9, id="j1", file_name="images/j1.png"), job_number(2)]
    assert counts(folder.survey(edited)) == {"total": 3, "new": 1, "changed": 1, "done": 1, "todo": 2}
    folder.run(edited)
    folder.check()
    assert counts(folder.survey(edited)) == {"total": 3, "done": 3}


def test_jobs_no_longer_listed_are_reported_and_keep_their_files(folder: Folder, job_number: JobOf) -> None:
    jobs = [job_number(n) for n in range(4)]
    folder.run(jobs)
    survey = folder.run(jobs[:2])
    assert counts(survey) == {"total": 2, "done": 2, "unlisted": 2}
    assert len(folder.files()) == 4
    folder.check()
    assert {row.id: row.listed for row in folder.rows()} == {"j0": 1, "j1": 1, "j2": 0, "j3": 0}
    again = folder.run(jobs)
    assert counts(again) == {"total": 4, "done": 4}
    assert {row.listed for row in folder.rows()} == {1}


def test_files_follow_their_ids(folder: Folder, job_number: JobOf) -> None:
    folder.run([job_number(0), job_number(1)])
    swapped = [job_number(0, id="j1", file_name="images/j1.png"), job_number(1, id="j0", file_name="images/j0.png")]
    survey = folder.run(swapped)
    assert counts(survey) == {"total": 2, "done": 2}
    assert (survey.calls, survey.edited) == (0, True)
    folder.check()
    assert folder.files() == ["images/j0.png", "images/j1.png"]


def test_places_and_tags_follow_an_edit_without_a_request(folder: Folder, job_number: JobOf) -> None:
    folder.run([job_number(0), job_number(1)])
    survey = folder.run([job_number(1, position=0, tags=(("sku", "X"),)), job_number(0, position=1)])
    assert (survey.calls, survey.edited, survey.moves) == (0, True, {})
    assert {row.id: (row.position, row.tags) for row in folder.rows()} == {"j0": (1, ""), "j1": (0, '{"sku": "X"}')}


def test_a_plan_changes_nothing(folder: Folder, job_number: JobOf) -> None:
    folder.run([job_number(0), job_number(1)])
    before = folder.rows()
    survey = folder.survey([job_number(0, id="new-name", file_name="images/new-name.png")])
    assert (survey.edited, len(survey.moves)) == (True, 1)
    assert folder.rows() == before


def test_an_edit_that_is_undone_costs_nothing(folder: Folder, job_number: JobOf) -> None:
    first, second = job_number(0), job_number(1, id="j0", file_name="images/j0.png")
    folder.run([first])
    assert folder.run([second]).calls == 1
    folder.check()
    for job in (first, second, first):
        assert folder.run([job]).calls == 0
        folder.check()
        assert folder.files() == ["images/j0.png"]
        assert (folder.root / "images/j0.png").read_text() == f"picture {job.key}"


def test_a_done_job_that_takes_the_name_of_one_no_longer_listed_leaves_that_its_picture(
    folder: Folder, job_number: JobOf
) -> None:
    folder.run([job_number(0), job_number(1)])
    survey = folder.run([job_number(1, id="j0", file_name="images/j0.png")])
    assert survey.calls == 0
    folder.check()
    folder.run([job_number(0), job_number(1)])
    folder.check()
    assert folder.files() == ["images/j0.png", "images/j1.png"]


def test_a_failed_job_that_takes_the_name_of_one_no_longer_listed_leaves_that_its_picture(
    folder: Folder, job_number: JobOf
) -> None:
    folder.run([job_number(0)])
    folder.fail(job_number(1))
    folder.run([job_number(1, id="j0", file_name="images/j0.png")], retry_failed=True)
    folder.check()


def test_a_new_job_of_another_format_takes_no_picture_by_its_stem(folder: Folder, job_number: JobOf) -> None:
    folder.run([job_number(0)])
    folder.run([job_number(1, id="other", file_name="images/j0.jpg")])
    folder.check()
    assert folder.files() == ["images/j0.jpg"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_listed_job_whose_id_another_takes_keeps_its_file(folder: Folder, job_number: JobOf, order: int) -> None:
    """File names need not follow ids: a file that nobody claims stays."""
    folder.run([job_number(0, id="a", file_name="images/sku-0.png")])
    edited = [job_number(0, id="b", file_name="images/sku-0.png"), job_number(1, id="a", file_name="images/sku-1.png")]
    folder.run(edited[::order])
    folder.check()
    assert folder.files() == ["images/sku-0.png", "images/sku-1.png"]


def test_a_lost_file_is_work_again(folder: Folder, job_number: JobOf) -> None:
    folder.run([job_number(0)])
    (folder.root / "images/j0.png").unlink()
    survey = folder.survey([job_number(0)])
    assert (survey.todo, survey.calls) == (1, 0)
    number = folder.rows()[0].number
    assert survey.redone[number]


def test_limit_and_only_bound_the_work(folder: Folder, job_number: JobOf) -> None:
    jobs = [job_number(n) for n in range(12)]
    assert (folder.survey(jobs, limit=5).todo, folder.survey(jobs, limit=5).calls) == (5, 5)
    assert folder.survey(jobs, only="j1*").todo == 3
    assert folder.survey(jobs, limit=0).todo == 0


def test_only_takes_an_id_with_brackets_as_it_is(folder: Folder, job_number: JobOf) -> None:
    jobs = [replace(job_number(n), id=name) for n, name in enumerate(["cup[1]", "cup1", "mug[1]"])]
    survey = folder.survey(jobs, only="cup[1]")
    assert (survey.todo, survey.missed) == (2, None)
    assert folder.survey(jobs, only="cup*").todo == 2


def test_references_that_cannot_be_read_are_counted_and_cost_nothing(
    empty: sqlite3.Connection, job_number: JobOf
) -> None:
    broken = (Reference(source="a.jpg", path="/a.jpg", fault="a.jpg is not there"),)
    surveyor = Surveyor(empty, Selection(), lambda _: False, apply=False)
    survey = surveyor.take(job_number(n, images=broken if n < 5 else ()) for n in range(6))
    assert (survey.references, survey.todo, survey.calls) == (5, 6, 1)
    assert survey.reference_faults == {"a.jpg is not there": ("j0", 5)}


def test_more_jobs_than_a_batch(folder: Folder, job_number: JobOf) -> None:
    jobs = [job_number(n) for n in range(1203)]
    folder.run(jobs[:700])
    survey = folder.survey(jobs[100:])
    assert counts(survey) == {"total": 1103, "new": 503, "done": 600, "unlisted": 100, "todo": 503}


@pytest.mark.parametrize(
    ("planned", "actual", "target"),
    [
        ("images/b.png", "images/a.png", "images/b.png"),
        ("images/b.png", "images/a.jpg", "images/b.jpg"),
        ("images/b", "images/a", "images/b"),
        ("images/mug.v2", "images/mug.v1", "images/mug.v2"),
        ("images/mug.v2.png", "images/mug.v1.jpg", "images/mug.v2.jpg"),
        ("images/b.png", ".replaced/0123.jpg", "images/b.jpg"),
        ("images/b.png", "images/a.v1", "images/b.png"),
        ("images/b.JPG", "images/a.jpeg", "images/b.jpeg"),
    ],
)
def test_a_new_name_keeps_the_suffix_that_tells_the_truth(planned: str, actual: str, target: str) -> None:
    assert followed(planned, actual) == target


EDIT = st.tuples(st.permutations(range(5)), st.permutations(range(5)), st.permutations(range(5)), st.integers(0, 5))


@settings(deadline=None)
@given(edits=st.lists(EDIT, min_size=1, max_size=6))
def test_whatever_is_edited_no_picture_is_lost_and_none_is_made_twice(
    tmp_path_factory: pytest.TempPathFactory,
    job_number: JobOf,
    edits: list[tuple[list[int], list[int], list[int], int]],
) -> None:
    made: set[str] = set()
    with opened(tmp_path_factory.mktemp("folder")) as folder:
        for keys, ids, names, count in edits:
            jobs = [
                job_number(key, id=f"id-{ids[place]}", file_name=f"images/{names[place]}.png", position=place)
                for place, key in enumerate(keys[:count])
            ]
            fresh = {job.key for job in jobs} - made
            survey = folder.run(jobs)
            assert survey.calls == len(fresh)
            made |= fresh
            folder.check()
            assert len([row for row in folder.rows() if row.status == "done"]) == len(made)
            placed = {row.key.hex(): row.file_name for row in folder.rows()}
            assert all(placed[job.key] == job.file_name for job in jobs)
            again = folder.survey(jobs)
            assert (again.done, again.todo, again.edited, again.moves) == (count, 0, False, {})


def test_few_jobs_are_kept_for_the_run_and_many_are_made_again(
    empty: sqlite3.Connection, job_number: JobOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept(count: int, **fields: Any) -> list[Job] | None:
        surveyor = Surveyor(empty, Selection(), lambda _: False, apply=False)
        return surveyor.take(job_number(number, **fields) for number in range(count)).jobs

    monkeypatch.setattr(survey, "KEPT_JOBS", 600)
    monkeypatch.setattr(survey, "KEPT_CHARACTERS", 60_000)
    assert kept(600) == [job_number(number) for number in range(600)]
    assert kept(601) is None
    assert kept(60, prompt="x" * 1000) is not None
    assert kept(61, prompt="x" * 1000) is None
    assert kept(1, images=(Reference(source="x" * 60_000),)) is None


def test_calls_are_counted_by_whom_they_ask(folder: Folder, job_number: JobOf) -> None:
    jobs = [job_number(number, model=model) for number, model in enumerate(("pro", "max", "pro", "pro"))]
    folder.run(jobs[:1])
    survey = folder.survey(jobs)
    asked = {ways[0].model: calls for ways, calls in survey.asked.items()}
    assert (survey.calls, asked) == (3, {"max": 1, "pro": 2})
