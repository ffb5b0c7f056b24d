"""Nights as users have them: real runs that end, stop, or are killed, told by status, history and the page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.cli.nights import night_lines
from batchflux.ledger.nights.log import OUTAGE, WAIT, Stretch
from batchflux.ledger.nights.night import Night
from batchflux.testing.bank import Bank
from batchflux.testing.program import program_in
from batchflux.testing.serving import serving
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchflux.testing.program import Program

BEGAN = 1_795_000_000.0


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    with program_in(tmp_path) as made:
        yield made


@pytest.fixture
def bank() -> Iterator[Bank]:
    made = Bank(delay=(0.01, 0.02))
    with serving(made.app()) as made.url:
        yield made


def jobs(count: int) -> str:
    return "".join(f"  - {{id: j{n}, prompt: 'job j{n} #url', output_format: png}}\n" for n in range(count))


def night_of(program: Program, out: str) -> dict[str, Any]:
    ended = program("status", out, "--json")
    assert ended.code == 0, ended.said
    found: dict[str, Any] = json.loads(ended.out)["night"]
    return found


@pytest.mark.slow
def test_a_folder_of_three_nights_is_compared(program: Program, bank: Bank) -> None:
    program.manifest(bank.url, jobs(6))
    assert program.run("--out", "nights/a").code == 0
    assert program.run("--out", "nights/b", "--set", "limits.budget_per_run=0.5").code == 3
    bank.delay = (30.0, 30.0)
    process = program.start("run", "m.yaml", "--out", "nights/c")
    wait_until(lambda: bank.open == 6)
    program.kill(process)

    a, b, c = (night_of(program, f"nights/{name}") for name in "abc")
    assert (a["state"], a["reason"], a["exit_code"], a["done"], a["spent"]) == ("ended", "finished", 0, 6, "0.84")
    assert (b["state"], b["reason"], b["exit_code"], b["done"]) == ("ended", "budget", 3, 3)
    assert (b["budget_per_run"], b["spent"], b["price"]) == ("0.5", "0.42", "0.14")
    assert (c["state"], c["finished_at"], c["unknown"], c["possibly_billed"]) == ("stopped", None, 6, 6)
    assert (c["spent"], c["spent_possibly"], c["failures"]) == ("0.84", "0.84", {"unknown": 6})

    said = program("status", "nights/c").out
    assert "(its last sign)" in said
    assert "6 attempts without an answer, possibly billed" in said
    assert "0.42 CNY of 0.50 CNY a run, 0.14 a picture" in program("status", "nights/b").out

    told = json.loads(program("history", "nights", "--json").out)["nights"]["m"]
    assert [{name: value for name, value in one.items() if name not in {"folder", "running"}} for one in told] == [
        a,
        b,
        c,
    ]
    table = program("history", "nights").out.splitlines()
    assert table[0].startswith("m: 3 runs (")
    assert [line.split()[3:6] for line in table[2:5]] == [["6", "0", "0"], ["3", "0", "0"], ["0", "0", "6"]]
    if table[1].endswith("folder"):  # it is left out where the others fill the line
        assert [line.split()[-1] for line in table[2:5]] == ["a", "b", "c"]
    assert [("finished" in table[2]), ("3 budget" in table[3]), ("cut off" in table[4])] == [True, True, True]
    assert max(map(len, table)) <= 80


def test_runs_of_one_folder_are_nights_of_their_own(program: Program, bank: Bank) -> None:
    program.manifest(bank.url, jobs(4), limits=", deadline: 2h")
    assert program.run("--set", "limits.budget_per_run=0.3").code == 3
    assert program.run().code == 0
    first, second = json.loads(program("history", str(program.out), "--json").out)["nights"]["m"]
    assert (first["done"], first["spent"], second["done"], second["spent"]) == (2, "0.28", 2, "0.28")
    assert second["started_at"] >= first["finished_at"]
    assert 7000 < second["deadline_seconds_to_spare"] <= 7200
    said = program("status", str(program.out)).out
    assert ": met, with " in said
    assert "0.28 CNY, 0.14 a picture" in said


def test_a_place_without_a_folder_of_ours_is_said(program: Program) -> None:
    ended = program("history", ".")
    assert (ended.code, "is no output folder and has none in it" in ended.err) == (2, True)


def test_what_a_limit_keeps_back_is_in_the_log_and_in_status(program: Program, bank: Bank) -> None:
    program.manifest(bank.url, jobs(2), limits=", rate: 24/min")
    assert program.run().code == 0
    night = night_of(program, str(program.out))
    assert [(wait["kind"], wait["what"]) for wait in night["waits"]] == [(WAIT, "limits.rate")]
    assert 0 < night["waits"][0]["seconds"] < night["seconds"]
    told = [(line["event"], line["provider"]) for line in program.log() if line["event"] in {"waits", "goes_on"}]
    assert told == [("waits", "tuzi"), ("goes_on", "tuzi")]
    assert "(limits.rate), " in program("status", str(program.out)).out


def made(**more: Any) -> Night:
    told = {
        "name": "n",
        "state": "ended",
        "began": BEGAN,
        "until": BEGAN + 20_000,
        "seconds": 20_000.0,
        "currency": "CNY",
    }
    return Night(**{**told, "exit_code": 0, "reason": "finished", "done": 1000, **more})


def test_a_morning_reader_sees_waits_outages_and_the_deadline_in_lines_that_fit() -> None:
    stretches = [
        Stretch(
            kind=OUTAGE, what="tuzi", why="connection refused by a host " * 9, since=BEGAN + 600, until=BEGAN + 2520
        ),
        *[
            Stretch(kind=WAIT, what="rate limited by the provider", why="", since=BEGAN + at, until=BEGAN + at + 240)
            for at in range(3000, 8000, 1000)
        ],
    ]
    waited = {(one.kind, one.what): 0.0 for one in stretches}
    for one in stretches:
        waited[one.kind, one.what] += (one.until or 0) - one.since
    lines = night_lines(made(stretches=stretches, waited=waited, refused={"rate_limited": 120, "auth": 1}), 0)
    text = "\n".join(lines)
    assert "outage     tuzi away 32 min, " in text
    assert "waited     20 min (429, rate limited by the provider), " in text
    assert " and 2 more" in text
    assert "refused    120 rate_limited, 1 auth" in text
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"deadline": BEGAN + 27_200}, ": met, with 2 h to spare"),
        ({"deadline": BEGAN + 19_820}, ": missed by 3 min"),
        ({"deadline": BEGAN + 20_060, "reason": "deadline", "exit_code": 3}, ": stopped for it, 7 jobs left"),
        ({"deadline": BEGAN + 23_600, "reason": "budget", "exit_code": 3}, ": stopped 1 h before it"),
        ({"deadline": BEGAN + 23_600, "reason": "", "state": "stopped"}, ": cut off 1 h before it"),
        ({"deadline": BEGAN + 23_600, "state": "running"}, ""),
    ],
)
def test_how_a_run_stands_to_its_deadline(more: dict[str, Any], said: str) -> None:
    lines = [line for line in night_lines(made(**more), 7) if line.startswith("  deadline")]
    assert [line.endswith(said) for line in lines] == [True] * bool(said)
