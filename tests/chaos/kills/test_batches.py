"""Kills while a batch is out at the simulator: each picture once, paid once, at the batch's price, and nothing lost."""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.failpoints import VARIABLE
from batchflux.simulator import EmbeddedSimulator, parse_options
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchflux.simulator.journal import Journal
    from batchflux.testing.program import Program

LIVE, IN_BATCH = Decimal("0.04"), Decimal("0.02")
FIRST = ("batch.written", "batch.authorized", "batch.uploaded", "batch.leaving", "batch.created", "batch.recorded")
READING = ("batch.answered", "answer.recorded", "spool.kept", "picture.moving", "commit.begun", "csv.appending")


@contextmanager
def simulator(folder: Path, seconds: float, fault: str = "", times: int = 1) -> Iterator[tuple[str, Journal]]:
    """Serve OpenAI's API with batches that take so long, the first with a fault; give its address and its journal."""
    options: dict[str, Any] = {"size": 40, "batch_seconds": seconds, "cache_dir": str(folder / "uploads")}
    options |= {"faults": {fault: {"rate": 1, "times": times}}} if fault else {}
    made = EmbeddedSimulator(parse_options(options), "openai")
    host, port = made.start()
    try:
        yield f"http://{host}:{port}", made.simulator.requests
    finally:
        made.stop()


def write(program: Program, url: str, jobs: int, *, more: str = "", budget: Decimal | None = None) -> None:
    """Write a manifest of so many jobs in batches, whose budget is exact."""
    (program.folder / "m.yaml").write_text(
        "version: 1\nname: m\n"
        f"provider: {{name: openai, base_url: '{url}', keys: [TEST_KEY], model: gpt-image-1.5, price: {LIVE}, "
        f"mode: batch{more}}}\n"
        f"limits: {{concurrency: 8, canary: 0, budget: {budget or jobs * IN_BATCH}}}\noutput: {{dir: {program.out}}}\n"
        f"jobs: [{{id: 'j{{{{ n }}}}', prompt: 'cup {{{{ n }}}}', matrix: {{n: {{range: [1, {jobs}]}}}}}}]\n",
        encoding="utf-8",
    )


def settled(program: Program, journal: Journal, jobs: int, *, again: int = 0) -> None:
    """Run to the end, and judge: all there, each made and billed once, but for those that a batch made `again`."""
    ended = program.run("--quiet")
    assert ended.code == 0, ended.said
    rows = program.rows()
    assert Counter(row["status"] for row in rows) == {"done": jobs}
    for row in rows:
        assert row["sha256"] == hashlib.sha256((program.out / row["file_name"]).read_bytes()).hexdigest()
    assert (journal.billed, len(journal.bills), max(journal.bills.values())) == (jobs + again, jobs, 1 + bool(again))
    assert sum(Decimal(row["cost"]) for row in rows) == (jobs + again) * IN_BATCH
    summary = program.summary()
    assert (Decimal(summary["spent"]), summary["possibly_billed"]) == ((jobs + again) * IN_BATCH, 0)
    assert summary["answered_again"] == again
    assert {row["attempts"] for row in rows} == {"1"}
    assert (program.status()["batches"], program.leftovers()) == ({}, [])


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    ["batch.uploaded", "batch.created", "batch.recorded", "half back", "batch.answered:25"],
)
def test_a_batch_of_fifty_is_killed(program: Program, tmp_path: Path, moment: str) -> None:
    half = moment == "half back"
    with simulator(tmp_path, 4 if half else 0.5) as (url, journal):  # it is not to end before it is half back
        write(program, url, 50)
        if half:
            process = program.start("run", "m.yaml", "--quiet")
            wait_until(lambda: journal.billed >= 25 or process.poll() is not None)
            assert process.poll() is None
            assert program.kill(process).code == -9
        else:
            assert program.run("--quiet", **{VARIABLE: moment}).code == -9
        settled(program, journal, 50)
        assert journal.batches["created"] == 1


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_batch_of_thousands_is_killed_at_thirty_moments(program: Program, tmp_path: Path, seed: int) -> None:
    """Six while it comes to be, some while it is out, the others while its answers are taken."""
    chance, jobs = random.Random(seed), 5_000
    with simulator(tmp_path, 60) as (url, journal):
        write(program, url, jobs)
        for point in FIRST:
            assert program.run("--quiet", **{VARIABLE: point}).code == -9, point
        for _ in range(6):
            process = program.start("run", "m.yaml", "--quiet")
            until = journal.billed + chance.randint(1, 400)
            while journal.billed < min(until, jobs - 1):
                assert process.poll() is None
                time.sleep(0.01)
            assert program.kill(process).code == -9
        for number in range(18):
            point = f"{chance.choice(READING)}:{chance.randint(1, 250)}"
            ended = program.run("--quiet", **{VARIABLE: point})
            assert ended.code == -9, f"kill {number} at {point} (seed {seed}): {ended.said}"
            program.rows(cut=True)
        settled(program, journal, jobs)
        assert journal.batches["created"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["batch_expired", "batch_cancelled", "batch_half", "batch_cut", "batch_lost"])
def test_what_a_batch_did_not_make_the_next_one_does(program: Program, tmp_path: Path, fault: str) -> None:
    """What it made is taken, once; what it did not was free."""
    with simulator(tmp_path, 0.2, fault, times=2) as (url, journal):
        write(program, url, 9)
        settled(program, journal, 9)


@pytest.mark.slow
def test_answers_that_come_twice_are_counted_and_shown(program: Program, tmp_path: Path) -> None:
    """Some come twice, and are billed so; that is counted once, also when a kill has the answers read again."""
    with simulator(tmp_path, 0.2, "batch_twice") as (url, journal):
        write(program, url, 9, budget=18 * IN_BATCH)
        assert program.run("--quiet", **{VARIABLE: "batch.read"}).code == -9
        again = journal.billed - 9
        assert again >= 3
        settled(program, journal, 9, again=again)
        assert sum(bool(row["remarks"]) for row in program.rows()) == again


@pytest.mark.slow
def test_a_live_provider_takes_over_where_no_batch_can_be_sent(program: Program, tmp_path: Path) -> None:
    """When it stays away longer than it is waited for; none of its batches was there, so nothing is paid twice."""
    with simulator(tmp_path, 0.2) as (url, journal):
        (program.folder / "m.yaml").write_text(
            "version: 1\nname: m\nproviders:\n"
            f"  night: {{api: openai, base_url: 'http://127.0.0.1:9', keys: [TEST_KEY], price: {LIVE}, mode: batch}}\n"
            f"  day: {{api: openai, base_url: '{url}', keys: [TEST_KEY], price: {LIVE}}}\n"
            f"fallback: [day]\nlimits: {{patience: 2s, budget: 1}}\noutput: {{dir: {program.out}}}\n"
            "jobs: [{prompt: 'cup {{ n }}', matrix: {n: {range: [1, 6]}}}]\n",
            encoding="utf-8",
        )
        ended = program.run("--quiet")
        assert ended.code == 0, ended.said
        assert [(row["provider"], row["attempts"], row["possibly_billed"]) for row in program.rows()] == [
            ("day", "1", "0")
        ] * 6
        assert (journal.billed, Decimal(program.summary()["spent"])) == (6, 6 * LIVE)
        assert program.status()["batches"] == {}


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["batch.recorded", "batch.answered:2", "answer.recorded:9"])
def test_batches_beside_a_live_provider_share_one_budget(program: Program, tmp_path: Path, moment: str) -> None:
    """The same prompts at both, killed, under a budget that is exact; what was in flight live may be paid twice."""
    with simulator(tmp_path, 0.5) as (night, of_batches), simulator(tmp_path, 0.5) as (day, of_live):
        budget = 6 * IN_BATCH + 12 * LIVE
        (program.folder / "m.yaml").write_text(
            "version: 1\nname: m\nproviders:\n"
            f"  night: {{api: openai, base_url: '{night}', keys: [TEST_KEY], price: {LIVE}, mode: batch}}\n"
            f"  day: {{api: openai, base_url: '{day}', keys: [TEST_KEY], price: {LIVE}}}\n"
            f"limits: {{canary: 0, concurrency: 3, budget: {budget}}}\noutput: {{dir: {program.out}}}\n"
            "jobs: [{prompt: 'cup {{ n }}', matrix: {n: {range: [1, 6]}, provider: [night, day]}}]\n",
            encoding="utf-8",
        )
        assert program.run("--quiet", **{VARIABLE: moment}).code == -9
        ended = program.run("--quiet")
        assert ended.code == 0, ended.said
        rows = program.rows()
        assert Counter((row["provider"], row["status"]) for row in rows) == {("night", "done"): 6, ("day", "done"): 6}
        assert {Decimal(row["cost"]) for row in rows if row["provider"] == "night"} == {IN_BATCH}
        assert (of_batches.billed, of_batches.batches["created"]) == (6, 1)
        lost = sum(int(row["possibly_billed"]) for row in rows)
        assert of_live.billed <= 6 + lost <= 9
        assert Decimal(program.summary()["spent"]) == 6 * IN_BATCH + (6 + lost) * LIVE
