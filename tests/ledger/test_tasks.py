"""Tasks that an API accepted: they are polled by every run that follows, and never submitted again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from batchflux.errors import Code, JobError
from batchflux.ledger.ledger import Ledger, TransitionError
from batchflux.ledger.reconcile import Selection, work_for
from batchflux.ledger.summary import state_of
from batchflux.ledger.tables import Known, spent
from batchflux.models import Link, Outcome, Received, Status
from tests.attempts import send

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeJob

LINK = "https://cdn.example/mug.png"
Row = Callable[[Ledger], Known]


@pytest.fixture
def row(rows: Callable[[Ledger], dict[str, Known]]) -> Row:
    return lambda ledger: rows(ledger)["mug"]


def reopened(ledger: Ledger) -> Ledger:
    ledger.close()
    return Ledger(ledger.database.path, durable=False, threaded=False)


async def submitted(ledger: Ledger, make_job: MakeJob, cost: int | None = None) -> int:
    attempt = await send(ledger, make_job(), price=140, at=1000.0)
    await ledger.submitted(attempt, "task-7", cost)
    return attempt


async def test_an_accepted_task_is_in_flight_and_has_its_handle(ledger: Ledger, make_job: MakeJob, row: Row) -> None:
    attempt = await submitted(ledger, make_job)
    found = row(ledger)
    assert (found.status, found.attempts, found.in_flight, found.cost) == ("pending", 1, 140, 0)
    assert (found.attempt, found.handle, found.key_name, found.sent_at) == (attempt, "task-7", "KEY", 1000.0)
    assert ledger.database.now(spent) == 140


async def test_an_accepted_task_outlives_its_process_and_is_not_possibly_billed(
    ledger: Ledger, make_job: MakeJob, row: Row
) -> None:
    attempt = await submitted(ledger, make_job)
    again = reopened(ledger)
    assert again.recovered == 0
    found = row(again)
    assert (found.status, found.possibly_billed, found.in_flight) == ("pending", 0, 140)
    for on_unknown in ("retry", "hold", "fail"):
        work = work_for(make_job(), found, Selection(on_unknown=on_unknown), lambda _: False)
        assert work is not None
        assert (work.attempt, work.handle, work.key_name, work.sent_at) == (attempt, "task-7", "KEY", 1000.0)
        assert not work.costs
    with pytest.raises(TransitionError):
        await send(again, make_job(), price=140, at=2000.0)
    await again.captured(attempt, Received(asset=Link(url=LINK), api_seconds=9.0))
    found = row(again)
    assert (found.status, found.cost, found.in_flight, found.link) == ("pending", 140, None, LINK)
    assert (found.attempt, found.handle) == (attempt, "task-7"), "its link may be asked for once more"
    again.close()


async def test_a_task_past_its_time_is_unknown_and_keeps_its_handle(
    ledger: Ledger, make_job: MakeJob, row: Row
) -> None:
    attempt = await submitted(ledger, make_job)
    await ledger.failed(attempt, JobError(Code.UNKNOWN, "no end in 600 s"), counts=True)
    await ledger.finish(make_job(), Outcome(status=Status.UNKNOWN, error_code="unknown", finished_at=2.0))
    found = row(ledger)
    assert (found.status, found.possibly_billed, found.maybe_cost, found.cost) == ("unknown", 1, 140, 0)
    for selection in (Selection(), Selection(on_unknown="hold"), Selection(on_unknown="fail")):
        work = work_for(make_job(), found, selection, lambda _: False)
        assert work is not None
        assert (work.attempt, work.handle, work.costs, work.verdict) == (attempt, "task-7", False, None)
    with pytest.raises(TransitionError):
        await send(ledger, make_job(), price=140, at=2000.0)


@pytest.mark.parametrize("told", [None, 90])
async def test_a_picture_makes_what_was_possibly_billed_certain(
    ledger: Ledger, make_job: MakeJob, row: Row, told: int | None
) -> None:
    attempt = await submitted(ledger, make_job)
    await ledger.failed(attempt, JobError(Code.UNKNOWN, "no end"), counts=True)
    await ledger.captured(attempt, Received(asset=".spool/x", cost=told, seed_used=5, revised_prompt="a better mug"))
    found = row(ledger)
    assert (found.status, found.error_code, found.error, found.spool) == ("pending", None, None, ".spool/x")
    assert (found.possibly_billed, found.maybe_cost, found.cost, found.attempts) == (0, 0, told or 140, 1)
    assert (found.seed_used, found.revised_prompt) == (5, "a better mug")


async def test_an_unknown_task_that_was_refused_was_free(ledger: Ledger, make_job: MakeJob, row: Row) -> None:
    attempt = await submitted(ledger, make_job)
    await ledger.failed(attempt, JobError(Code.UNKNOWN, "no end"), counts=True)
    await ledger.failed(attempt, JobError(Code.MODERATED, "no"), counts=True)
    found = row(ledger)
    assert (found.status, found.possibly_billed, found.maybe_cost, found.cost) == ("pending", 0, 0, 0)
    assert (found.attempt, found.handle) == (None, None)
    await send(ledger, make_job(), price=140, at=2000.0)


async def test_a_task_that_the_api_does_not_have_is_as_unknown_as_any_request(
    ledger: Ledger, make_job: MakeJob, row: Row
) -> None:
    attempt = await submitted(ledger, make_job)
    await ledger.failed(attempt, JobError(Code.UNKNOWN, "no such task", dead=True), counts=True)
    found = row(ledger)
    assert (found.status, found.possibly_billed, found.attempt, found.handle) == ("unknown", 1, attempt, None)
    assert work_for(make_job(), found, Selection(on_unknown="hold"), lambda _: False) is None
    await send(ledger, make_job(), price=140, at=2000.0)


async def test_what_an_answer_says_it_costs_replaces_the_price(ledger: Ledger, make_job: MakeJob, row: Row) -> None:
    attempt = await submitted(ledger, make_job, cost=100)
    assert (row(ledger).in_flight, ledger.database.now(spent)) == (100, 100)
    await ledger.captured(attempt, Received(asset=Link(url=LINK)))
    assert row(ledger).cost == 100
    await ledger.captured(attempt, Received(asset=Link(url=LINK), cost=80))
    assert (row(ledger).cost, ledger.database.now(spent)) == (80, 80)


async def test_a_failed_job_with_a_handle_is_polled_by_every_run(ledger: Ledger, make_job: MakeJob, row: Row) -> None:
    attempt = await submitted(ledger, make_job)
    await ledger.failed(attempt, JobError(Code.UNKNOWN, "no end"), counts=True)
    await ledger.finish(make_job(), Outcome(status=Status.FAILED, error_code="unknown", finished_at=2.0))
    for selection in (Selection(), Selection(retry_failed=True), Selection(on_unknown="fail")):
        work = work_for(make_job(), row(ledger), selection, lambda _: False)
        assert work is not None
        assert (work.handle, work.attempt, work.costs) == ("task-7", attempt, False)


async def test_a_spooled_picture_of_a_task_is_received(
    ledger: Ledger, make_job: MakeJob, row: Row, tmp_path: Path
) -> None:
    await submitted(ledger, make_job)
    ledger.close()
    kept = {bytes.fromhex(make_job().key): ".spool/x"}
    again = Ledger(tmp_path / "ledger.db", durable=False, threaded=False, kept=kept)
    found = row(again)
    again.close()
    assert (found.status, found.spool, found.cost, found.in_flight) == ("pending", ".spool/x", 140, None)


async def test_status_counts_an_accepted_task_as_pending(ledger: Ledger, make_job: MakeJob) -> None:
    await submitted(ledger, make_job)
    again = reopened(ledger)
    state = again.database.now(state_of)
    again.close()
    assert (state.pending, state.unknown, state.in_flight, state.possibly_billed) == (1, 0, 1, 0)


@pytest.mark.parametrize("verb", ["submitted", "captured", "voided", "failed"])
async def test_a_verb_that_the_state_does_not_allow_is_refused(
    ledger: Ledger, make_job: MakeJob, row: Row, verb: str
) -> None:
    attempt = await send(ledger, make_job(), price=140, at=1000.0)
    await ledger.failed(attempt, JobError(Code.SERVER, "no"), counts=True)
    before = row(ledger)
    verbs: dict[str, Callable[[int], object]] = {
        "submitted": lambda number: ledger.submitted(number, "task", None),
        "captured": lambda number: ledger.captured(number, Received(asset=Link(url=LINK))),
        "voided": lambda number: ledger.voided(number, unanswered=False),
        "failed": lambda number: ledger.failed(number, JobError(Code.SERVER, "no"), counts=True),
    }
    for number in (attempt, attempt + 1):
        with pytest.raises(TransitionError):
            verbs[verb](number)
    assert row(ledger) == before


async def test_uploads_are_found_until_they_expire(ledger: Ledger) -> None:
    await ledger.uploaded("fal", "a" * 64, "https://up.example/a", 100.0)
    await ledger.uploaded("fal", "b" * 64, "https://up.example/b", None)
    assert await ledger.upload_of("fal", "a" * 64, 99.0) == "https://up.example/a"
    assert await ledger.upload_of("fal", "a" * 64, 100.0) is None
    assert await ledger.upload_of("fal", "b" * 64, 10.0**10) == "https://up.example/b"
    assert await ledger.upload_of("other", "b" * 64, 1.0) is None
    await ledger.uploaded("fal", "a" * 64, "https://up.example/a2", 200.0)
    assert await ledger.upload_of("fal", "a" * 64, 150.0) == "https://up.example/a2"
