"""The numbers that `status` and summary.json tell."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.cli.lines import batch_lines
from batchflux.errors import Code, JobError, StorageError, UsageError
from batchflux.ledger.batches import BatchLedger, Closing
from batchflux.ledger.decisions import Decision, decide
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.summary import BatchUse, ProviderUse, Summary, batch_seconds, read_standing, read_state, state_of
from batchflux.ledger.tables import currency, set_meta
from batchflux.models import Leaving, Link, Received, Status
from batchflux.output.folder import FolderLock
from tests.attempts import fail, send

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from batchflux.models import Job
    from tests.conftest import MakeJob
    from tests.ledger.conftest import Finish


async def test_counts_money_and_failures(ledger: Ledger, make_job: MakeJob, finish: Finish) -> None:
    price = 140_000_000
    for number in range(3):
        finish(ledger, make_job(f"done-{number}"), price=price)
    for number in range(2):
        job = make_job(f"moderated-{number}")
        finish(ledger, job, price=price, status=Status.FAILED, error_code="moderated", error="no")
    lost = make_job("lost")
    await send(ledger, lost, price=price, at=1.0)
    await fail(ledger, lost, JobError(Code.UNKNOWN, "?", billed=True), counts=True)
    await send(ledger, make_job("out"), price=price, at=1.0)
    ledger.database.now(lambda connection: set_meta(connection, "total", "20"))
    ledger.database.now(lambda connection: set_meta(connection, "currency", "CNY"))
    state = ledger.database.now(state_of)
    assert (state.total, state.done, state.failed, state.unknown, state.pending) == (20, 3, 2, 1, 14)
    assert (state.in_flight, state.attempts, state.possibly_billed) == (1, 7, 1)
    assert state.failures == {"moderated": 2, "unknown": 1}
    assert list(state.failures) == ["moderated", "unknown"]
    assert (state.spent, state.spent_possibly, state.currency) == (Decimal("0.7"), Decimal("0.28"), "CNY")
    assert state.last_at == 1010.0


async def test_each_provider_has_its_part_of_pictures_money_and_refusals(
    ledger: Ledger, make_job: MakeJob, finish: Finish
) -> None:
    def by(name: str, provider: str) -> Job:
        return replace(make_job(name), provider=provider)

    finish(ledger, by("a1", "a"), price=10)
    finish(ledger, by("a2", "a"), price=10, status=Status.FAILED, error_code="moderated", error="no")
    alone = ledger.database.now(state_of).providers
    assert alone == {"a": ProviderUse(done=1, failed=1, attempts=2, spent=currency(10))}
    finish(ledger, by("b1", "b"), price=70)
    finish(ledger, by("b2", "b"), price=70, status=Status.UNKNOWN, error_code="unknown", error="?")
    await send(ledger, by("moved", "b"), price=70, at=1.0)
    await fail(ledger, by("moved", "b"), JobError(Code.QUOTA, "no money"), counts=False)
    finish(ledger, by("moved", "a"), price=10)
    state = ledger.database.now(state_of)
    assert state.providers == {
        "a": ProviderUse(done=2, failed=1, attempts=3, spent=currency(20)),
        "b": ProviderUse(done=1, unknown=1, attempts=2, spent=currency(140), refused=1),
    }
    assert sum((use.spent for use in state.providers.values()), Decimal(0)) == state.spent


def test_an_empty_ledger(ledger: Ledger) -> None:
    state = ledger.database.now(state_of)
    assert (state.total, state.done, state.pending, state.failures) == (0, 0, 0, {})
    assert (state.spent, state.images_per_minute, state.last_at) == (Decimal(0), 0.0, None)


async def test_jobs_no_longer_listed_count_as_money_and_not_as_jobs(
    ledger: Ledger, make_job: MakeJob, finish: Finish
) -> None:
    finish(ledger, make_job("a"), price=10**9)
    finish(ledger, make_job("b"), price=10**9)

    def unlist(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE jobs SET listed = 0 WHERE id = 'b'")

    ledger.database.now(unlist)
    state = ledger.database.now(state_of)
    assert (state.total, state.done, state.spent) == (1, 1, Decimal(2))


async def test_the_rate_is_that_of_the_last_minutes(ledger: Ledger, make_job: MakeJob, finish: Finish) -> None:
    """30 pictures in the last five minutes; ten of an hour ago, and one that was begun yesterday, do not dilute it."""
    for number in range(10):
        finish(ledger, make_job(f"old-{number}"), finished_at=100_000.0 - 3600)
    for number in range(30):
        job = make_job(f"new-{number}")
        finish(ledger, job, at=100_000.0 - 300 + number, finished_at=100_000.0 - 29 + number)
    assert ledger.database.now(state_of).images_per_minute == pytest.approx(6.0)
    job = make_job("resumed")
    finish(ledger, job, at=100_000.0 - 86_400, finished_at=100_000.0)
    assert ledger.database.now(state_of).images_per_minute == pytest.approx(3.1)


async def test_a_folder_can_be_asked_while_it_is_written(tmp_path: Path, make_job: MakeJob, finish: Finish) -> None:
    lock = FolderLock(tmp_path)
    lock.acquire()
    ledger = Ledger(tmp_path / "ledger.db")
    await send(ledger, make_job(), price=10**9, at=1.0)
    state = read_state(tmp_path)
    assert (state.in_flight, state.pending, state.spent_possibly) == (1, 1, Decimal(1))
    assert read_state(tmp_path).in_flight == 1, "asking must not recover"
    lock.release()
    state = read_state(tmp_path)
    assert (state.in_flight, state.unknown, state.pending) == (0, 1, 0), "nobody waits for the answer any more"
    ledger.close()


def test_a_folder_without_a_ledger_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_state(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} is no output folder: it has no ledger.db. Name the folder that a run wrote to."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"something else entirely, longer than a page header " * 90])
def test_a_ledger_that_is_none_is_told_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ledger.db").write_bytes(content)
    with pytest.raises((StorageError, UsageError), match=r"ledger\.db"):
        read_state(tmp_path)


async def test_a_ledger_that_is_damaged_inside_is_told_in_one_sentence(
    tmp_path: Path, make_job: MakeJob, finish: Finish
) -> None:
    ledger = Ledger(tmp_path / "ledger.db", durable=False, threaded=False)
    for number in range(300):
        finish(ledger, make_job(f"mug-{number}"))
    ledger.close()
    data = bytearray((tmp_path / "ledger.db").read_bytes())
    page = int.from_bytes(data[16:18], "big")
    data[page * 8 :] = b"\xff" * (len(data) - page * 8)
    (tmp_path / "ledger.db").write_bytes(data)
    with pytest.raises(StorageError, match="is damaged or no ledger of batchflux"):
        read_state(tmp_path)


def summary(**fields: object) -> Summary:
    values: dict[str, object] = {
        "name": "frühling",
        "folder": "out/f",
        "exit_code": 3,
        "reason": "budget",
        "message": "The budget is used up.",
        "started_at": 0.0,
        "finished_at": 90.5,
        "seconds": 90.5,
        "jobs": {"total": 3, "done": 2},
        "this_run": {"done": 2, "failed": 0, "unknown": 0},
        "failures": {},
        "attempts": 2,
        "possibly_billed": 0,
        "spent": Decimal("0.00000001"),
        "spent_possibly": Decimal(0),
        "spent_this_run": Decimal("25.10"),
        "currency": "CNY",
    }
    return Summary(**(values | fields))  # type: ignore[arg-type]  # as named above


def test_the_text_of_summary_json() -> None:
    text = summary(budget=Decimal("25.00"), images_per_minute=1.23456).to_json()
    assert text.endswith("}\n")
    assert "frühling" in text
    data = json.loads(text)
    assert (data["spent"], data["spent_possibly"], data["spent_this_run"], data["budget"]) == (
        "0.00000001",
        "0",
        "25.10",
        "25.00",
    )
    assert (data["started_at"], data["finished_at"], data["seconds"]) == (
        "1970-01-01T00:00:00.000Z",
        "1970-01-01T00:01:30.500Z",
        90.5,
    )
    assert (data["images_per_minute"], data["exit_code"], data["reason"]) == (1.23, 3, "budget")
    assert json.loads(summary().to_json())["budget"] is None


def set_meta_to(note: tuple[str, str], connection: sqlite3.Connection) -> None:
    set_meta(connection, *note)


async def test_how_a_folder_stands(tmp_path: Path, make_job: MakeJob, finish: Finish) -> None:
    """Why and when the last run stopped, what is left of budget and time, what each key spent, and the verdicts."""
    ledger = Ledger(tmp_path / "ledger.db", durable=False, threaded=False)
    for number in range(30):
        finish(ledger, make_job(f"mug-{number}"), at=4000.0, finished_at=4001.0 + number, price=140_000_000)
    job = make_job("refused")
    attempt = await send(ledger, job, price=140_000_000, at=4000.0)
    await ledger.failed(attempt, JobError(Code.RATE_LIMITED, "slow down"), counts=False)
    notes = {"total": "60", "began": "4000.0", "budget": "25.00", "deadline": "9000.0", "currency": "CNY"}
    for note in notes.items():
        ledger.database.now(partial(set_meta_to, note))
    ledger.close()
    decide(tmp_path / "ledger.db", Decision(keys=(bytes.fromhex(make_job("mug-1").key),), review="accept"))

    def told() -> dict[str, Any]:
        data: dict[str, Any] = json.loads(read_standing(tmp_path).to_json(now=5000.0))
        return data

    cut_off = told()
    assert (cut_off["running"], cut_off["reason"], cut_off["seconds_left"]) == (False, "cut_off", None)
    assert cut_off["message"] == "The last run was cut off; run it again to continue."
    (tmp_path / "summary.json").write_text(summary(started_at=4000.0).to_json(), encoding="utf-8")
    ended = told()
    names = ("state", "reason", "message", "exit_code", "started_at", "finished_at")
    assert [ended[name] for name in names] == [
        "ended",
        "budget",
        "The budget is used up.",
        3,
        "1970-01-01T01:06:40.000Z",
        "1970-01-01T00:01:30.500Z",
    ]
    lock = FolderLock(tmp_path)
    lock.acquire()
    running = told()
    lock.release()
    assert (running["running"], running["reason"], running["message"]) == (True, "", "")
    assert (running["budget"], running["budget_left"]) == ("25.00", "20.80")
    assert (running["deadline"], running["deadline_seconds_left"]) == ("1970-01-01T02:30:00.000Z", 4000)
    assert running["seconds_left"] == 30, "30 pictures were made in 30 s, 30 are left"
    assert (running["verdicts"], running["not_judged"]) == ({"accept": 1}, running["done"] - 1)
    (use,) = running["keys"].values()
    assert use == {"attempts": 30, "spent": "4.2", "refusals": {"rate_limited": 1}}
    assert {"total", "done", "failed", "pending", "spent", "redo", "last_at"} <= running.keys(), "names of before stay"


async def test_open_batches_are_shown_until_they_are_closed(tmp_path: Path, make_job: MakeJob) -> None:
    jobs, at = [make_job(f"j{number}") for number in range(3)], 1_700_000_000.0
    ledger = Ledger(tmp_path / "ledger.db")
    batches = BatchLedger(ledger.database, lambda: at + 3600)
    leaving = Leaving(provider="openai", key_name="KEY", at=at, model="m", price=70_000_000)
    number, first, *_ = await batches.authorize("night", "m", [(job, leaving) for job in jobs])
    await batches.leaves(number, at)
    await ledger.captured(first, Received(asset=Link(url="https://cdn.example/1.png")))
    state = ledger.database.now(state_of)
    assert state.batches == {"night": BatchUse(provider="openai", jobs=3, back=1, since="2023-11-14T22:13:20.000Z")}
    assert (state.in_flight, state.spent) == (2, Decimal("0.21"))
    (line,) = batch_lines(state.batches)
    assert line == "  batch      night of openai: 3 jobs, 1 back, since 2023-11-14T22:13:20.000Z"
    assert ledger.database.now(lambda connection: batch_seconds(connection, "openai")) == ()
    again = Closing(end="completed", answered={jobs[0].key}, again={jobs[0].key: 1})
    await batches.closed(number, again)
    state = ledger.database.now(state_of)
    assert (state.batches, state.answered_again, state.spent) == ({}, 1, Decimal("0.14"))
    assert batch_lines({}, state.answered_again)[0].startswith("  again              1  answers of batches")
    assert ledger.database.now(lambda connection: batch_seconds(connection, "openai")) == (3600.0,)
    assert ledger.database.now(lambda connection: batch_seconds(connection, "gemini")) == ()
    ledger.close()
