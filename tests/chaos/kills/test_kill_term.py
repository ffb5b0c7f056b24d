"""SIGTERM at random moments drains and loses nothing; a second one stops at once; the clock may jump meanwhile."""

from __future__ import annotations

import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.program import Scene

pytestmark = pytest.mark.timeout(900)  # real processes, also on a loaded machine

# Loaded by the child's interpreter before anything else: its wall clock jumps when the file CLOCK changes.
SHIFTED_CLOCK = """
import os, time
_real, _file = time.time, os.environ["CLOCK"]
def _shifted():
    try:
        with open(_file) as file:
            return _real() + float(file.read() or 0)
    except OSError:
        return _real()
time.time = _shifted
"""


@pytest.mark.parametrize(("rounds", "each"), [(1, 5), pytest.param(6, 30, marks=pytest.mark.slow)])
def test_sigterm_drains_at_any_moment(scene: Scene, seed: int, rounds: int, each: int) -> None:
    program, bank, chance = scene.program, scene.bank, random.Random(seed)
    bank.delay = (0.05, 0.15)
    program.manifest(bank.url, scene.jobs(each))
    for number in range(rounds):
        wanted = bank.posts.total() + chance.randint(1, 10)
        scene.hold_from(wanted + 6)  # so that it cannot have ended before the signal comes
        process = program.start("run", "m.yaml")
        wait_until(lambda wanted=wanted: bank.posts.total() >= wanted)  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.1))
        process.send_signal(signal.SIGTERM)
        wait_until(lambda number=number: program.noted("signal") > number)  # type: ignore[misc]
        bank.held = None
        ended = program.finish(process)
        assert ended.code == 143, f"{ended.said} (seed {seed})"
        assert "Stopped by SIGTERM" in ended.out
        scene.after_kill()
        state = program.status()
        assert (state["unknown"], state["in_flight"], state["possibly_billed"]) == (0, 0, 0)
        assert state["done"] == bank.billed.total() == bank.posts.total(), "what had left was not waited for"
        assert program.summary()["reason"] == "signal"
        assert program.leftovers() == []
    ended = program.run()
    assert ended.code == 0, ended.said
    scene.at_the_end(scene.names(each), kills=0)


@pytest.mark.parametrize(
    ("rounds", "each"), [pytest.param(1, 8, marks=pytest.mark.slow), pytest.param(3, 30, marks=pytest.mark.long)]
)
def test_a_second_sigterm_stops_at_once(scene: Scene, seed: int, rounds: int, each: int) -> None:
    program, bank, chance = scene.program, scene.bank, random.Random(seed)
    bank.delay = (0.1, 0.6)
    program.manifest(bank.url, scene.jobs(each))
    for _ in range(rounds):
        wanted = bank.posts.total() + chance.randint(6, 12)
        scene.hold_from(wanted + 6)
        process = program.start("run", "m.yaml")
        wait_until(lambda wanted=wanted: bank.posts.total() >= wanted)  # type: ignore[misc]
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: program.noted("signal") > 0)
        time.sleep(chance.uniform(0, 0.1))
        ended = program.kill(process, signal.SIGTERM)
        bank.held = None
        assert ended.code == 143, ended.said
        (program.out / "run.log").unlink()
        scene.after_kill()
        state = program.status()
        assert state["in_flight"] == 0
        assert state["unknown"] <= 6
        rows = {row["status"] for row in program.rows()}
        assert rows <= {"done", "unknown"}
    ended = program.run()
    assert ended.code == 0, ended.said
    scene.at_the_end(scene.names(each), kills=rounds)


@pytest.mark.parametrize(
    "jumps",
    [
        (86_400.0, 172_800.0),
        pytest.param((-86_400.0, -172_800.0), marks=pytest.mark.slow),
        pytest.param((4e9, -1.7e9), marks=pytest.mark.slow),
    ],
)
def test_a_clock_that_jumps(scene: Scene, tmp_path: Path, jumps: tuple[float, float]) -> None:
    """Waits, limits and the budget go by the steady clock: only the times in the table show that the clock was set."""
    program, bank = scene.program, scene.bank
    site, clock = tmp_path / "site", tmp_path / "clock"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SHIFTED_CLOCK, encoding="utf-8")
    clock.write_text("0", encoding="utf-8")
    program.environ |= {"PYTHONPATH": f"{site}:{program.environ['PYTHONPATH']}", "CLOCK": str(clock)}
    bank.delay = (0.05, 0.15)
    left = [(15, jumps[0]), (70, jumps[1])]  # in the first run, and in the second

    def hook(_name: str) -> None:
        if left and bank.posts.total() >= left[0][0]:
            clock.write_text(str(left.pop(0)[1]), encoding="utf-8")

    bank.hook = hook
    count = 80
    jobs = "".join(f"  - {{id: a{n}, prompt: 'job a{n} #{'500*1' if n % 9 == 0 else 'url'}'}}\n" for n in range(count))
    program.manifest(bank.url, jobs, limits=", rate: 60/s, deadline: 1h, budget: 100")
    scene.hold_from(50)
    process = program.start("run", "m.yaml")
    wait_until(lambda: bank.posts.total() >= 40)
    program.kill(process)
    bank.held = None
    scene.after_kill()
    assert program.status()["done"] > 0
    ended = program.run()
    assert ended.code == 0, ended.said
    assert not left, "the clock did not jump"
    scene.at_the_end({f"a{n}" for n in range(count)}, kills=1)
    summary = program.summary()
    assert 0 <= summary["seconds"] < 6000
    assert 0 <= summary["images_per_minute"] < 60 * 60
    clock.write_text("0", encoding="utf-8")
    assert program.run().code == 0
