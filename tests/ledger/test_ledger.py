"""What each verb of the ledger leaves behind, and what a process finds that comes after a dead one."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import stat
import threading
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.errors import Code, JobError, StorageError
from batchflux.ledger.ledger import Ledger, give_up_in_flight
from batchflux.ledger.tables import (
    Known,
    currency,
    empty_ledger,
    get_meta,
    nanos,
    set_meta,
    spec_text,
    spent,
    spooled,
    tags_text,
)
from batchflux.models import Link, Outcome, Reference, Status
from tests.attempts import fail, receive, send, take_back

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchflux.models import Job, Stored
    from tests.conftest import MakeJob
    from tests.ledger.conftest import Finish

LINK = "https://cdn.example/mug.png?X-Amz-Signature=0123456789abcdef0123456789abcdef"


def failed(code: Code, *, billed: bool = False) -> JobError:
    return JobError(code, f"it says {code}", billed=billed)


@pytest.fixture
def row(rows: Callable[[Ledger], dict[str, Known]]) -> Callable[[Ledger], Known]:
    return lambda ledger: rows(ledger)["mug"]


@pytest.mark.parametrize("code", [Code.QUOTA, Code.RATE_LIMITED, Code.MODERATED, Code.SERVER, Code.NETWORK])
async def test_what_was_never_answered_stays_unknown_when_the_resend_is_refused(
    ledger: Ledger, make_job: MakeJob, row: Callable[[Ledger], Known], code: Code
) -> None:
    """Or `--on-unknown hold` would let it be bought a second time."""
    await send(ledger, make_job(), price=140, at=1000.0)
    await fail(ledger, make_job(), failed(Code.UNKNOWN, billed=True), counts=True)
    resend = await send(ledger, make_job(), price=140, at=1001.0)
    await ledger.failed(resend, failed(code), counts=True, unanswered=True)
    found = row(ledger)
    assert (found.status, found.error_code, found.possibly_billed, found.cost) == ("unknown", "unknown", 1, 0)
    resend = await send(ledger, make_job(), price=140, at=1002.0)
    await ledger.failed(resend, failed(Code.BAD_ANSWER, billed=True), counts=True, unanswered=True)
    assert row(ledger).status == "pending", "an answer came"


async def test_an_intent_is_an_attempt_in_flight_and_spent(
    ledger: Ledger, make_job: MakeJob, row: Callable[[Ledger], Known]
) -> None:
    await send(ledger, make_job(tags=(("sku", "M-1"),), seed=7), price=140, at=1000.0)
    found = row(ledger)
    assert (found.status, found.attempts, found.in_flight, found.cost, found.started_at) == ("pending", 1, 140, 0, 1000)
    assert (found.planned, found.position, found.listed, found.tags) == ("images/mug.png", 0, 1, '{"sku": "M-1"}')
    assert json.loads(found.spec)["seed"] == 7
    assert ledger.database.now(spent) == 140


async def test_an_answer_is_paid_and_keeps_its_link(
    ledger: Ledger, make_job: MakeJob, row: Callable[[Ledger], Known]
) -> None:
    await send(ledger, make_job(), price=140, at=1000.0)
    await receive(ledger, make_job(), Link(url=LINK), api_seconds=2.5)
    found = row(ledger)
    assert (found.in_flight, found.cost, found.maybe_cost, found.link, found.spool) == (None, 140, 0, LINK, None)
    assert (found.status, found.api_seconds, ledger.database.now(spent)) == ("pending", 2.5, 140)


async def test_an_answer_with_bytes_keeps_the_name_of_their_file(
    ledger: Ledger, make_job: MakeJob, row: Callable[[Ledger], Known]
) -> None:
    await send(ledger, make_job(), price=140, at=1000.0)
    await receive(ledger, make_job(), ".spool/abc", api_seconds=2.5)
    assert (row(ledger).link, row(ledger).spool) == (None, ".spool/abc")


@pytest.mark.parametrize(
    ("code", "billed", "counts", "status", "attempts", "maybe"),
    [
        (Code.SERVER, False, True, "pending", 1, 0),
        (Code.RATE_LIMITED, False, False, "pending", 0, 0),
        (Code.AUTH, False, False, "pending", 0, 0),
        (Code.NO_IMAGE, True, True, "pending", 1, 140),
        (Code.UNKNOWN, True, True, "unknown", 1, 140),
    ],
)
async def test_an_attempt_without_a_picture_is_free_or_possibly_billed(  # noqa: PLR0913  a table's columns
    ledger: Ledger,
    make_job: MakeJob,
    row: Callable[[Ledger], Known],
    *,
    code: Code,
    billed: bool,
    counts: bool,
    status: str,
    attempts: int,
    maybe: int,
) -> None:
    await send(ledger, make_job(), price=140, at=1000.0)
    await fail(ledger, make_job(), failed(code, billed=billed), counts=counts)
    found = row(ledger)
    assert (found.status, found.attempts, found.in_flight) == (status, attempts, None)
    assert (found.maybe_cost, found.possibly_billed, found.cost) == (maybe, 1 if billed else 0, 0)
    assert ledger.database.now(spent) == maybe


async def test_an_input_that_came_back_was_answered_and_is_paid_for(
    ledger: Ledger, make_job: MakeJob, row: Callable[[Ledger], Known]
) -> None:
    await send(ledger, make_job(), price=140, at=1000.0)
    await fail(ledger, make_job(), failed(Code.ECHOED_INPUT, billed=True), counts=True)
    found = row(ledger)
    assert (found.status, found.attempts, found.in_flight) == ("pending", 1, None)
    assert (found.cost, found.maybe_cost, found.possibly_billed) == (140, 0, 0)
    assert (found.link, found.spool, found.api_seconds) == (None, None, None)


async def test_an_intention_that_is_withdrawn_cost_nothing(
    ledger: Ledger, make_job: MakeJob, row: Callable[[Ledger], Known]
) -> None:
    await send(ledger, make_job(), price=140, at=1000.0)
    await take_back(ledger, make_job(), unknown=False)
    found = row(ledger)
    assert (found.status, found.attempts, found.in_flight, found.error_code) == ("pending", 0, None, None)
    assert (found.possibly_billed, ledger.database.now(spent)) == (0, 0)


async def test_a_withdrawn_resend_leaves_the_job_as_unknown_as_it_was(
    ledger: Ledger, make_job: MakeJob, row: Callable[[Ledger], Known]
) -> None:
    await send(ledger, make_job(), price=140, at=1000.0)
    await fail(ledger, make_job(), failed(Code.UNKNOWN, billed=True), counts=True)
    await send(ledger, make_job(), price=140, at=2000.0)
    await take_back(ledger, make_job(), unknown=True)
    found = row(ledger)
    assert (found.status, found.error_code, found.attempts, found.in_flight) == ("unknown", "unknown", 1, None)
    assert found.error == "an earlier request of it was sent and never answered; it may have been billed"
    assert (found.possibly_billed, ledger.database.now(spent)) == (1, 140)


async def test_a_second_intent_clears_the_error_and_keeps_the_first_start(
    ledger: Ledger, make_job: MakeJob, row: Callable[[Ledger], Known]
) -> None:
    await send(ledger, make_job(), price=140, at=1000.0)
    await fail(ledger, make_job(), failed(Code.UNKNOWN, billed=True), counts=True)
    await send(ledger, make_job(), price=200, at=2000.0)
    found = row(ledger)
    assert (found.status, found.attempts, found.error_code, found.error) == ("pending", 2, None, None)
    assert (found.started_at, found.in_flight, found.maybe_cost) == (1000.0, 200, 140)


async def test_a_finished_job_keeps_no_signature_and_no_spool(
    ledger: Ledger, make_job: MakeJob, row: Callable[[Ledger], Known], stored: Callable[..., Stored]
) -> None:
    job = make_job()
    await send(ledger, job, price=140, at=1000.0)
    await receive(ledger, job, Link(url=LINK), api_seconds=2.5)
    outcome = Outcome(status=Status.DONE, stored=stored(), finished_at=1010.0, download_seconds=0.5, result_url=LINK)
    await ledger.finish(job, outcome)
    found = row(ledger)
    assert (found.status, found.file_name, found.width, found.height) == ("done", "images/mug.png", 64, 48)
    assert (found.bytes, found.sha256) == (7, stored().sha256)
    assert found.link == "https://cdn.example/mug.png"
    assert (found.finished_at, found.download_seconds, found.spool, found.error_code) == (1010.0, 0.5, None, None)
    assert b"X-Amz" not in (ledger.database.path).read_bytes()


async def test_a_failed_download_keeps_the_whole_link_for_the_next_run(
    ledger: Ledger, make_job: MakeJob, row: Callable[[Ledger], Known]
) -> None:
    job = make_job()
    await send(ledger, job, price=140, at=1000.0)
    await receive(ledger, job, Link(url=LINK), api_seconds=2.5)
    await ledger.finish(
        job, Outcome(status=Status.FAILED, error_code="download", error="slow", finished_at=1.0, result_url=LINK)
    )
    found = row(ledger)
    assert (found.status, found.link, found.error_code, found.error) == ("failed", LINK, "download", "slow")


async def test_a_job_that_ends_without_saying_where_its_picture_was_keeps_its_link(
    ledger: Ledger, make_job: MakeJob, row: Callable[[Ledger], Known]
) -> None:
    job = make_job()
    await send(ledger, job, price=140, at=1000.0)
    await receive(ledger, job, Link(url=LINK), api_seconds=2.5)
    await ledger.finish(job, Outcome(status=Status.FAILED, error_code="download", error="slow", finished_at=1.0))
    assert (row(ledger).link, row(ledger).cost, row(ledger).attempts) == (LINK, 140, 1)


async def test_a_job_that_was_never_sent_can_end(
    ledger: Ledger, make_job: MakeJob, row: Callable[[Ledger], Known]
) -> None:
    outcome = Outcome(status=Status.FAILED, error_code="reference", error="gone", started_at=5.0, finished_at=6.0)
    await ledger.finish(make_job(), outcome)
    found = row(ledger)
    assert (found.status, found.attempts, found.cost, found.in_flight) == ("failed", 0, 0, None)
    assert (found.started_at, found.finished_at, found.error) == (5.0, 6.0, "gone")


async def test_what_attempts_cost_adds_up(ledger: Ledger, make_job: MakeJob, row: Callable[[Ledger], Known]) -> None:
    job = make_job()
    for price in (100, 30):
        await send(ledger, job, price=price, at=1000.0)
        await receive(ledger, job, ".spool/abc", api_seconds=2.5)
    for price in (5, 7):
        await send(ledger, job, price=price, at=1000.0)
        await fail(ledger, job, failed(Code.NO_IMAGE, billed=True), counts=True)
    found = row(ledger)
    assert (found.cost, found.maybe_cost, found.possibly_billed, found.attempts) == (130, 12, 2, 4)
    assert ledger.database.now(spent) == 142
    told = await send(ledger, job, price=50, at=1000.0)
    await ledger.failed(told, failed(Code.NO_IMAGE, billed=True), counts=True, cost=3)
    assert ledger.database.now(spent) == 145


async def test_what_a_crash_adds_to_what_was_spent_before(
    ledger: Ledger, make_job: MakeJob, rows: Callable[[Ledger], dict[str, Known]], tmp_path: Path
) -> None:
    for name in ("kept", "out"):
        job = make_job(name)
        await send(ledger, job, price=100, at=1000.0)
        await fail(ledger, job, failed(Code.UNKNOWN, billed=True), counts=True)
        await send(ledger, job, price=40, at=1000.0)
        await receive(ledger, job, ".spool/old", api_seconds=1.0)
        await ledger.finish(job, Outcome(status=Status.UNKNOWN, error_code="unknown", finished_at=1010.0))
        await send(ledger, job, price=7, at=2000.0)
    ledger.close()
    kept = {bytes.fromhex(make_job("kept").key): ".spool/kept"}
    again = Ledger(tmp_path / "ledger.db", durable=False, threaded=False, kept=kept)
    found = rows(again)
    again.close()
    assert (found["kept"].cost, found["kept"].maybe_cost, found["kept"].possibly_billed) == (47, 100, 1)
    assert (found["out"].cost, found["out"].maybe_cost, found["out"].possibly_billed) == (40, 107, 2)
    assert found["out"].finished_at is None, "it has not ended: it is sent again, or left unknown"


async def test_each_verb_is_about_its_own_job_only(
    ledger: Ledger, make_job: MakeJob, rows: Callable[[Ledger], dict[str, Known]], stored: Callable[..., Stored]
) -> None:
    jobs = sorted((make_job(f"mug-{number}") for number in range(7)), key=lambda job: job.key)
    for job in jobs:
        await send(ledger, job, price=140, at=1000.0)
    before = rows(ledger)
    verbs: tuple[Callable[[Job], asyncio.Future[None]], ...] = (
        lambda job: receive(ledger, job, Link(url=LINK), api_seconds=1.0),
        lambda job: take_back(ledger, job, unknown=True),
        lambda job: fail(ledger, job, failed(Code.SERVER), counts=False),
        lambda job: fail(ledger, job, failed(Code.NO_IMAGE, billed=True), counts=True),
        lambda job: ledger.finish(job, Outcome(status=Status.DONE, stored=stored(), finished_at=2.0)),
    )
    for number, verb in enumerate(verbs, start=1):
        await verb(jobs[number])
        after = rows(ledger)
        assert {job.id for job in jobs if before[job.id] != after[job.id]} == {jobs[number].id}
        before = after


async def test_an_answer_that_comes_after_it_was_given_up_is_paid_once(
    ledger: Ledger, make_job: MakeJob, rows: Callable[[Ledger], dict[str, Known]]
) -> None:
    """As at a second signal: what was out is unknown, and an answer may still be on its way into the ledger."""
    for name in ("answered", "failed"):
        await send(ledger, make_job(name), price=140, at=1000.0)
    assert ledger.database.now(lambda connection: give_up_in_flight(connection, {})) == 2
    await receive(ledger, make_job("answered"), Link(url=LINK), api_seconds=1.0)
    await fail(ledger, make_job("failed"), failed(Code.NO_IMAGE, billed=True), counts=True)
    found = rows(ledger)
    assert (found["answered"].link, found["answered"].cost, found["answered"].maybe_cost) == (LINK, 140, 0)
    assert (found["answered"].status, found["answered"].error_code) == ("pending", None)
    assert (found["failed"].cost, found["failed"].maybe_cost) == (0, 140)
    assert ledger.database.now(spent) == 280


@pytest.mark.parametrize("picture", [Link(url=LINK), ".spool/abc"])
async def test_a_picture_is_forgotten_only_for_another_or_what_may_have_been_billed(
    ledger: Ledger, make_job: MakeJob, row: Callable[[Ledger], Known], picture: Link | str
) -> None:
    """A request that was refused, or has not left, leaves a failed job as it was: with its code and its picture."""
    kept = (LINK, None) if isinstance(picture, Link) else (None, picture)
    await send(ledger, make_job(), price=140, at=1000.0)
    await receive(ledger, make_job(), picture, api_seconds=2.5)
    await ledger.finish(make_job(), Outcome(status=Status.FAILED, error_code="internal", error="a bug"))
    for end in ("refused", "taken back", "finished"):
        await send(ledger, make_job(), price=140, at=2000.0)
        if end == "taken back":
            await take_back(ledger, make_job(), unknown=False)
        else:
            await fail(ledger, make_job(), failed(Code.QUOTA), counts=False)
        found = row(ledger)
        assert (found.status, found.error_code, found.error) == ("failed", "internal", "a bug")
        assert (found.link, found.spool) == kept
    await ledger.finish(make_job(), Outcome(status=Status.FAILED, error_code="moderated", error="no"))
    assert (row(ledger).error_code, row(ledger).link, row(ledger).spool) == ("moderated", *kept)
    await send(ledger, make_job(), price=140, at=3000.0)
    await fail(ledger, make_job(), failed(Code.BAD_ANSWER, billed=True), counts=True)
    assert (row(ledger).status, row(ledger).link, row(ledger).spool) == ("pending", None, None)
    assert ledger.database.now(spooled) == set()


async def test_a_rejected_picture_stays_its_jobs_when_another_is_refused(
    ledger: Ledger, make_job: MakeJob, row: Callable[[Ledger], Known], stored: Callable[..., Stored]
) -> None:
    await send(ledger, make_job(), price=140, at=1000.0)
    await receive(ledger, make_job(), ".spool/abc", api_seconds=2.5)
    rejected = replace(stored("rejected/mug-1.png"), differs=("ratio",), refused=(Code.DIFFERS, "it is wide"))
    await ledger.finish(
        make_job(), Outcome(status=Status.FAILED, stored=rejected, error_code="differs", error="it is wide")
    )
    for _ in range(2):
        await send(ledger, make_job(), price=140, at=2000.0)
        await fail(ledger, make_job(), failed(Code.QUOTA), counts=False)
        found = row(ledger)
        assert (found.status, found.error_code, found.file_name) == ("failed", "differs", "rejected/mug-1.png")
    await ledger.finish(make_job(), Outcome(status=Status.FAILED, error_code="moderated", error="no"))
    found = row(ledger)
    assert (found.error_code, found.file_name, found.differs) == ("moderated", "rejected/mug-1.png", "ratio")


async def test_a_stored_picture_waits_in_the_spool_no_more(
    ledger: Ledger, make_job: MakeJob, row: Callable[[Ledger], Known], stored: Callable[..., Stored]
) -> None:
    await send(ledger, make_job(), price=140, at=1000.0)
    await receive(ledger, make_job(), ".spool/abc", api_seconds=2.5)
    assert ledger.database.now(spooled) == {".spool/abc"}
    await ledger.finish(make_job(), Outcome(status=Status.DONE, stored=stored(), finished_at=2.0))
    assert row(ledger).spool is None
    assert ledger.database.now(spooled) == set()


async def test_a_job_that_ended_before_it_ever_started_starts_with_its_first_attempt(
    ledger: Ledger, make_job: MakeJob, row: Callable[[Ledger], Known]
) -> None:
    await ledger.finish(make_job(), Outcome(status=Status.FAILED, error_code="reference", error="gone"))
    assert row(ledger).started_at is None
    await send(ledger, make_job(), price=140, at=2000.0)
    assert row(ledger).started_at == 2000.0


def test_a_ledger_in_memory_is_a_ledger_that_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    connection = empty_ledger()
    assert (spent(connection), spooled(connection)) == (0, set())
    assert get_meta(connection, "format") == "2"
    assert not connection.in_transaction
    found: list[int] = []
    other = threading.Thread(target=lambda: found.append(spent(connection)))  # pages read it in threads of their own
    other.start()
    other.join()
    connection.close()
    assert found == [0]
    assert list(tmp_path.iterdir()) == [], "no file is made"


async def test_an_attempt_in_flight_belongs_to_a_dead_process(
    ledger: Ledger, make_job: MakeJob, rows: Callable[[Ledger], dict[str, Known]], tmp_path: Path
) -> None:
    await send(ledger, make_job("out"), price=140, at=1000.0)
    await send(ledger, make_job("paid"), price=140, at=1000.0)
    await receive(ledger, make_job("paid"), Link(url=LINK), api_seconds=1.0)
    assert ledger.recovered == 0
    ledger.close()
    again = Ledger(tmp_path / "ledger.db", durable=False, threaded=False)
    assert again.recovered == 1
    found = rows(again)
    out = found["out"]
    assert (out.status, out.error_code, out.in_flight, out.possibly_billed) == ("unknown", "unknown", None, 1)
    assert (out.maybe_cost, out.cost, out.attempts) == (140, 0, 1)
    assert out.error == "the process ended while this request was out; it may have been billed"
    assert (found["paid"].status, found["paid"].link, found["paid"].possibly_billed) == ("pending", LINK, 0)
    assert again.database.now(spent) == 280
    again.close()
    third = Ledger(tmp_path / "ledger.db", durable=False, threaded=False)
    assert third.recovered == 0
    assert third.database.now(spent) == 280
    third.close()


async def test_a_picture_in_the_spool_is_an_answer_although_the_ledger_never_heard_of_it(
    ledger: Ledger, make_job: MakeJob, rows: Callable[[Ledger], dict[str, Known]], tmp_path: Path
) -> None:
    for name in ("kept", "out"):
        await send(ledger, make_job(name), price=140, at=1000.0)
    await send(ledger, make_job("linked"), price=140, at=1000.0)
    await receive(ledger, make_job("linked"), Link(url=LINK), api_seconds=1.0)
    ledger.close()
    spool = {bytes.fromhex(make_job(name).key): f".spool/{name}" for name in ("kept", "linked", "stranger")}
    again = Ledger(tmp_path / "ledger.db", durable=False, threaded=False, kept=spool)
    assert again.recovered == 1
    found = rows(again)
    kept = found["kept"]
    assert (kept.status, kept.spool, kept.in_flight, kept.cost) == ("pending", ".spool/kept", None, 140)
    assert (kept.possibly_billed, kept.maybe_cost) == (0, 0)
    assert (found["out"].status, found["linked"].spool, found["linked"].link) == ("unknown", None, LINK)
    assert set(found) == {"kept", "out", "linked"}
    again.close()


def test_a_ledger_of_another_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(path, durable=False, threaded=False)
    ledger.database.now(lambda connection: set_meta(connection, "format", "7"))
    ledger.close()
    with pytest.raises(StorageError) as caught:
        Ledger(path, durable=False, threaded=False)
    assert str(caught.value) == (
        "The ledger is of format 7, and this batchflux reads formats 1 to 2: "
        "use the version that wrote it, or another output folder."
    )


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "ledger.db")
    connection.execute("CREATE TABLE jobs (name TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(StorageError, match=r"ledger\.db"):
        Ledger(tmp_path / "ledger.db", durable=False, threaded=False)


def test_the_ledger_is_for_its_owner_only(ledger: Ledger) -> None:
    assert stat.S_IMODE(ledger.database.path.stat().st_mode) == 0o600


def test_a_ledger_lasts_unless_told_otherwise(tmp_path: Path) -> None:
    def level(ledger: Ledger) -> int:
        found = ledger.database.now(lambda connection: connection.execute("PRAGMA synchronous").fetchone())
        ledger.close()
        return int(found[0])

    path = tmp_path / "ledger.db"
    assert level(Ledger(path)) == 2
    assert level(Ledger(path, durable=True)) == 2
    assert level(Ledger(path, durable=False)) == 0


async def test_rows_that_ended_are_told_after_their_commit(
    tmp_path: Path, make_job: MakeJob, stored: Callable[..., Stored]
) -> None:
    told: list[str] = []

    def on_finish(rows: list[Known]) -> None:
        other = sqlite3.connect(tmp_path / "ledger.db")
        committed = {row[0] for row in other.execute("SELECT id FROM jobs WHERE status = 'done'")}
        other.close()
        assert {known.id for known in rows} <= committed
        told.extend(known.id for known in rows)

    ledger = Ledger(tmp_path / "ledger.db", on_finish=on_finish)
    jobs = [make_job(f"mug-{number}") for number in range(30)]
    await asyncio.gather(*(send(ledger, job, price=1, at=1.0) for job in jobs))
    assert told == []
    done = Outcome(status=Status.DONE, stored=stored(), finished_at=2.0)
    await asyncio.gather(*(ledger.finish(job, done) for job in jobs))
    ledger.close()
    assert sorted(told) == sorted(job.id for job in jobs)


async def test_a_row_that_was_rolled_back_is_never_told(
    tmp_path: Path, make_job: MakeJob, stored: Callable[..., Stored]
) -> None:
    told: list[str] = []
    ledger = Ledger(tmp_path / "ledger.db", on_finish=lambda rows: told.extend(known.id for known in rows))
    await send(ledger, make_job("a"), price=1, at=1.0)
    done = Outcome(status=Status.DONE, stored=stored(), finished_at=2.0)

    def bad(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO no_such_table VALUES (1)")

    first, second = ledger.finish(make_job("a"), done), ledger.database.submit(bad)
    ended = await asyncio.gather(first, second, return_exceptions=True)
    committed = not isinstance(ended[0], BaseException)
    await ledger.finish(make_job("b"), done)
    ledger.close()
    assert told == (["a", "b"] if committed else ["b"])


def test_a_rolled_back_batch_is_never_told_even_when_it_is_one(
    tmp_path: Path, make_job: MakeJob, stored: Callable[..., Stored]
) -> None:
    told: list[str] = []
    ledger = Ledger(
        tmp_path / "ledger.db", on_finish=lambda rows: told.extend(known.id for known in rows), durable=False
    )
    done = Outcome(status=Status.DONE, stored=stored(), finished_at=2.0)

    async def write() -> None:
        await send(ledger, make_job("a"), price=1, at=1.0)
        trigger = "CREATE TRIGGER full BEFORE UPDATE ON jobs WHEN NEW.id = 'b' BEGIN SELECT RAISE(ABORT, 'full'); END"
        await ledger.database.submit(lambda connection: connection.execute(trigger).fetchone())
        await send(ledger, make_job("b"), price=1, at=1.0)
        batch = [ledger.finish(make_job("a"), done), ledger.finish(make_job("b"), done)]
        await asyncio.gather(*batch, return_exceptions=True)
        await ledger.finish(make_job("c"), done)

    asyncio.run(write())
    found = ledger.database.now(
        lambda connection: [row[0] for row in connection.execute("SELECT id FROM jobs WHERE status = 'done'")]
    )
    ledger.close()
    assert sorted(told) == sorted(found)


async def test_lookup_finds_what_is_known(ledger: Ledger, make_job: MakeJob, finish: Finish) -> None:
    jobs = [make_job(f"mug-{number}") for number in range(10)]
    for job in jobs[:4]:
        finish(ledger, job)
    found = await ledger.lookup([job.key for job in jobs])
    assert sorted(known.id for known in found.values()) == [f"mug-{number}" for number in range(4)]
    assert found[jobs[2].key].id == "mug-2"
    assert await ledger.lookup([]) == {}


def test_notes_about_the_folder(ledger: Ledger) -> None:
    assert ledger.database.now(lambda c: get_meta(c, "clean")) is None
    ledger.database.now(lambda c: set_meta(c, "clean", "1"))
    ledger.database.now(lambda c: set_meta(c, "clean", "0"))
    assert ledger.database.now(lambda c: get_meta(c, "clean")) == "0"


def test_a_row_keeps_what_the_csv_needs_and_no_secret(make_job: MakeJob) -> None:
    job = make_job(
        images=(Reference(source="photos/mug.jpg", path="/home/me/photos/mug.jpg"),),
        aspect_ratio="16:9",
        variant=2,
        webhook_secret="whsec-canary",
        webhook_url="https://hooks.example/?token=canary",
        dropped=("seed",),
        tags=(("größe", "ü"),),
    )
    text = spec_text(job)
    assert json.loads(text) == {
        "prompt": "a mug",
        "images": ["photos/mug.jpg"],
        "model": "flux-kontext-pro",
        "provider": "tuzi",
        "style": "standard",
        "aspect_ratio": "16:9",
        "variant": 2,
        "dropped": ["seed"],
    }
    assert "canary" not in text
    assert tags_text(job) == '{"größe": "ü"}'
    assert tags_text(make_job()) == ""


def test_a_row_keeps_no_signature_of_a_reference_and_shows_a_path_as_it_is(make_job: MakeJob) -> None:
    signed = Reference(source=LINK, url=LINK)
    local = Reference(source="photos/mug.jpg?X-Amz-Signature=1", path="/home/me/photos/mug.jpg?X-Amz-Signature=1")
    images = json.loads(spec_text(make_job(images=(signed, local))))["images"]
    assert images == ["https://cdn.example/mug.png", "photos/mug.jpg?X-Amz-Signature=1"]


def test_a_row_can_be_read_by_people_of_any_script(make_job: MakeJob) -> None:
    assert "größe 杯子" in spec_text(make_job(prompt="größe 杯子"))
    assert tags_text(make_job(tags=(("größe", "杯子"),))) == '{"größe": "杯子"}'


@given(st.decimals(min_value=0, max_value=10**6, places=9))
def test_money_goes_in_and_out_unchanged(amount: Decimal) -> None:
    assert currency(nanos(amount)) == amount


@pytest.mark.parametrize(
    ("amount", "expected"),
    [("0.14", 140_000_000), ("25.00", 25 * 10**9), ("0.0000000001", 1), ("0.0000000011", 2), ("0", 0)],
)
def test_money_is_rounded_up(amount: str, expected: int) -> None:
    assert nanos(Decimal(amount)) == expected


def test_money_reads_plainly() -> None:
    assert format(currency(140_000_000), "f") == "0.14"
    assert format(currency(100 * 10**9), "f") == "100"
    assert format(currency(0), "f") == "0"
