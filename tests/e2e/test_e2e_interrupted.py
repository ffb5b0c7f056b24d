"""A run that is killed, stopped or met by a second one: nothing is lost, nothing is paid twice."""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program

VARYING = {"attempts", "possibly_billed", "started_at", "finished_at", "api_seconds", "download_seconds"}
JOBS_200 = (
    "  - {prompt: 'scene {{ n }}', matrix: {n: {range: [1, 120]}, seed: [1]}}\n"
    "  - {prompt: 'photo {{ n }}', image: p/a.png, matrix: {n: {range: [1, 80]}}}\n"
)


def has_answered(bank: Bank, quota: int) -> bool:
    return bank.answered().total() >= quota


def stable(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name not in VARYING} for row in rows]


@pytest.mark.usefixtures("photo")
@pytest.mark.slow
def test_killed_half_way_and_run_again(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    bank.delay = (0.03, 0.03)
    name = manifest(JOBS_200)
    assert program("run", name, "--out", "whole", "--set", "limits.concurrency=16").code == 0
    undisturbed = program.rows("whole")
    assert len(undisturbed) == 200
    bank.seen.clear()
    for quota in (50, 110):
        bank.held = partial(has_answered, bank, quota)
        process = program.start("run", name, "--out", "out/m", "--set", "limits.concurrency=16")
        wait_until(bank.held)
        program.kill(process)
        program.rows(cut=True)
        bank.held = None
        wait_until(lambda: bank.open == 0)  # what was out is made all the same
    ended = program("run", name, "--set", "limits.concurrency=16")
    assert ended.code == 0, ended.out
    rows = program.rows()
    assert stable(rows) == stable(undisturbed)
    twice = {text for text, count in bank.answered().items() if count > 1}
    maybe = {row["prompt"] for row in rows if int(row["possibly_billed"]) > 0}
    assert twice <= maybe, "a job that was not in flight at a kill was answered twice"
    assert len(maybe) <= 2 * 16
    assert len(list((program.folder / "out/m/images").iterdir())) == 200


@pytest.mark.slow
def test_a_plan_after_a_kill_says_what_the_run_then_does(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    bank.held = lambda: True
    name = manifest("  - {prompt: 'scene {{ n }}', matrix: {n: {range: [1, 4]}}}\n")
    process = program.start("run", name)
    wait_until(lambda: len(bank.seen) == 4)
    program.kill(process)
    held, failed, again = (program("plan", name, "--on-unknown", what) for what in ("hold", "fail", "retry"))
    assert "0 paid calls" in held.out
    assert "0 paid calls" in failed.out
    assert "4 paid calls" in again.out
    assert all("unknown           4" in planned.out for planned in (held, failed, again))
    assert program("run", name, "--on-unknown", "hold").code == 1
    assert len(bank.seen) == 4
    bank.held = None
    assert program("run", name).code == 0
    assert len(bank.seen) == 8


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_drains(program: Program, bank: Bank, manifest: Callable[..., str], number: signal.Signals) -> None:
    name = manifest("  - {prompt: 'scene {{ n }}', matrix: {n: {range: [1, 40]}}}\n")
    bank.held = lambda: len(bank.seen) >= 6 and not program.noted("signal")
    process = program.start("run", name)
    wait_until(bank.held)
    process.send_signal(number)
    ended = program.finish(process)
    assert ended.code == 128 + number, ended.err
    sent = len(bank.seen)
    assert sent <= 5 + 4, "five may have been answered before the sixth came, and four were out"
    rows = program.rows()
    assert len(rows) == sent
    assert {row["status"] for row in rows} == {"done"}
    assert "run again to continue" in ended.out
    assert program("run", name).code == 0
    assert len(bank.seen) == 40
    assert {row["possibly_billed"] for row in program.rows()} == {"0"}


def test_a_second_signal_stops_at_once(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    name = manifest("  - {id: a, prompt: 'x #hang*1'}\n  - {id: b, prompt: fine}\n")
    process = program.start("run", name)
    wait_until(lambda: len(bank.seen) == 2 and program.noted("job_ended") == 1)
    process.send_signal(signal.SIGINT)
    wait_until(lambda: program.noted("signal") == 1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    ended = program.finish(process)
    assert ended.code == 130
    assert program.summary()["this_run"] == {"done": 1, "failed": 0, "unknown": 1}
    assert program("run", name).code == 0
    assert [(row["id"], row["possibly_billed"]) for row in program.rows()] == [("a", "1"), ("b", "0")]


def test_a_second_process_is_turned_away(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    bank.held = lambda: True
    name = manifest("  - {prompt: 'scene {{ n }}', matrix: {n: {range: [1, 4]}}}\n")
    process = program.start("run", name)
    wait_until(lambda: len(bank.seen) == 4)
    second = program("run", name)
    assert second.code == 4
    assert "Another process" in second.err
    assert "4" in program("status", "out/m").out
    bank.held = None
    assert program.finish(process).code == 0
    assert len(bank.seen) == 4


def test_a_terminal_is_asked_before_money_is_spent(
    bank: Bank, manifest: Callable[..., str], on_terminal: Callable[..., tuple[int, str]]
) -> None:
    name = manifest("  - {prompt: 'scene {{ n }}', matrix: {n: {range: [1, 4]}}}\n")
    code, text = on_terminal("run", name, answer=b"n\n")
    assert "Spend 0.56 CNY on 4 calls?" in text
    assert (code, len(bank.seen)) == (2, 0)
    code, text = on_terminal("run", name, answer=b"y\n")
    assert (code, len(bank.seen)) == (0, 4), text


@pytest.mark.slow
def test_sighup_reads_the_limits_again(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    jobs = "  - {prompt: 'scene {{ n }}', matrix: {n: {range: [1, 60]}}}\n"
    bank.held = lambda: not program.noted("limits_changed")
    process = program.start("run", manifest(jobs, limits=", rate: 60/min"))
    wait_until(lambda: len(bank.seen) >= 2)
    manifest(jobs, limits=", rate: broken")
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: program.noted("limits_kept") == 1)
    assert process.poll() is None
    manifest(jobs, limits=", rate: 100/s, budget: 1.00")
    process.send_signal(signal.SIGHUP)
    ended = program.finish(process)
    assert ended.code == 3
    assert "budget of 1.00 CNY" in ended.out
    assert len(bank.seen) == 7
    assert "limits of m.yaml hold from now on" in ended.err
