"""Batches in the ledger: an attempt a job before anything leaves, and after its end what each job stands at."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from batchflux.errors import Code, JobError
from batchflux.ledger.batches import BatchLedger, Closing
from batchflux.ledger.ledger import Ledger, TransitionError
from batchflux.ledger.reconcile import Selection, work_for
from batchflux.ledger.tables import Known, spent
from batchflux.models import Leaving, Link, Received
from tests.attempts import fail, send

if TYPE_CHECKING:
    from batchflux.models import Job
    from tests.conftest import MakeJob

Rows = Callable[[Ledger], dict[str, Known]]


@pytest.fixture
def jobs(make_job: MakeJob) -> list[Job]:
    return [make_job(id=name, key=f"{number:064x}") for number, name in enumerate(("cup", "mug", "jar"), 1)]


def batches_of(ledger: Ledger) -> BatchLedger:
    return BatchLedger(ledger.database, lambda: 5000.0)


async def sent(batches: BatchLedger, jobs: list[Job], name: str = "b1") -> list[int]:
    leaving = Leaving(provider="openai", key_name="KEY", model="m", price=70, at=1000.0)
    return await batches.authorize(name, "images", [(job, leaving) for job in jobs])


async def test_its_jobs_are_in_flight_and_wait_for_it_by_its_name(ledger: Ledger, jobs: list[Job], rows: Rows) -> None:
    batches = batches_of(ledger)
    number, *attempts = await sent(batches, jobs)
    await batches.leaves(number, 1001.0)
    await batches.recorded(number, "batch-of-theirs")
    found = rows(ledger)
    assert {known.status for known in found.values()} == {"pending"}
    assert [(known.in_flight, known.handle, known.sent_at) for known in found.values()] == [(70, "b1", 1001.0)] * 3
    assert ledger.database.now(spent) == 210
    for job in jobs:
        work = work_for(job, found[job.id], Selection(on_unknown="fail"), lambda _: False)
        assert work is not None
        assert (work.handle, work.attempt in attempts, work.costs) == ("b1", True, False)
        with pytest.raises(TransitionError):
            await sent(batches, [job], "b2")
    [batch] = await batches.open()
    assert (batch.name, batch.state, batch.handle, batch.out) == ("b1", "open", "batch-of-theirs", True)
    assert [await batches.has(attempt) for attempt in (*attempts, 99)] == [True, True, True, False]


async def test_what_had_not_left_is_taken_back_by_the_next_run(ledger: Ledger, jobs: list[Job], rows: Rows) -> None:
    await sent(batches_of(ledger), jobs)
    again = batches_of(ledger)
    assert await again.open() == []
    assert [(known.in_flight, known.attempts, known.handle) for known in rows(ledger).values()] == [(None, 0, None)] * 3
    assert ledger.database.now(spent) == 0
    await sent(again, jobs, "b2")
    assert ledger.database.now(spent) == 210


async def test_what_was_not_made_leaves_a_job_as_it_was(ledger: Ledger, jobs: list[Job], rows: Rows) -> None:
    cup, mug, jar = jobs
    await send(ledger, cup, price=140, at=1.0)
    await fail(ledger, cup, JobError(Code.UNKNOWN, "no answer"), counts=True)
    batches = batches_of(ledger)
    number, _, attempt, _ = await sent(batches, jobs)
    await ledger.captured(attempt, Received(asset=Link(url="https://cdn.example/mug.png")))
    freed = await batches.closed(number, Closing(end="expired", answered={mug.key}))
    assert (freed.ended, freed.whole) == ({cup.key: 70, jar.key: 70}, True)
    found = rows(ledger)
    assert (found["cup"].status, found["cup"].attempts, found["cup"].maybe_cost) == ("unknown", 1, 140)
    assert (found["jar"].status, found["jar"].attempts, found["jar"].in_flight) == ("pending", 0, None)
    assert (found["mug"].link, found["mug"].cost) == ("https://cdn.example/mug.png", 70)
    assert ledger.database.now(spent) == 210


async def test_what_came_again_is_counted_once_when_all_is_taken(ledger: Ledger, jobs: list[Job], rows: Rows) -> None:
    cup, mug, jar = jobs
    batches = batches_of(ledger)
    number, *attempts = await sent(batches, jobs)
    closing = Closing(end="completed", answered={job.key for job in jobs}, again={cup.key: 1, mug.key: 2, "ab" * 32: 1})
    freed = await batches.closed(number, closing)
    assert (freed.whole, freed.again, ledger.database.now(spent)) == (False, 0, 210)
    await ledger.captured(attempts[0], Received(asset=Link(url="https://cdn.example/cup.png"), cost=50))
    await ledger.failed(attempts[1], JobError(Code.MODERATED, "no"), counts=True)
    await ledger.captured(attempts[2], Received(asset=Link(url="https://cdn.example/jar.png")))
    for _ in range(2):  # a kill may come between, so it may be closed once more
        freed = await batches.closed(number, closing)
        assert freed.whole
        assert ledger.database.now(spent) == (50 + 70) + 2 * 70 + 70
    assert await batches.open() == []
    found = rows(ledger)
    assert found["cup"].remarks == "its batch gave another answer, counted as spent"
    assert (found["mug"].possibly_billed, found["mug"].maybe_cost, jar.id) == (1, 140, "jar")


async def test_a_batch_that_was_refused_or_lost_says_so_of_each_job(
    ledger: Ledger, jobs: list[Job], rows: Rows
) -> None:
    batches = batches_of(ledger)
    number, *_ = await sent(batches, jobs[:1])
    error = JobError(Code.INVALID_REQUEST, "no such model")
    assert (await batches.closed(number, Closing(end="failed", error=error))).ended == {jobs[0].key: 70}
    number, *_ = await sent(batches, jobs[1:], "b2")
    await batches.closed(number, Closing(end="lost", error=JobError(Code.UNKNOWN, "forgotten")))
    found = rows(ledger)
    assert (found["cup"].status, found["cup"].attempts, found["cup"].in_flight) == ("pending", 1, None)
    assert [(found[name].status, found[name].error, found[name].handle) for name in ("mug", "jar")] == [
        ("unknown", "forgotten", None)
    ] * 2
    assert ledger.database.now(spent) == 140
