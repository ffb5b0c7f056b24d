"""Kills under a table so large that its run begins, and goes on, without making the jobs first."""

from __future__ import annotations

import random
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from batchflux.ledger.unchanged import RACY

if TYPE_CHECKING:
    from tests.chaos.kills.conftest import Program, Scene

JOBS = """
  - {from: rows.csv, id: "{{ id }}", prompt: "job {{ id }} #url"}
"""
ROWS = 1100
KILLS = 4


def starts(program: Program) -> list[dict[str, Any]]:
    return [line["jobs"] for line in program.log() if line["event"] == "run_started"]


@pytest.mark.timeout(200)
def test_kills_under_a_table_that_is_not_gone_through(scene: Scene, seed: int) -> None:
    program, bank, chance = scene.program, scene.bank, random.Random(seed)
    names = [f"a{number}" for number in range(ROWS)]
    lines = [f"{name},{'t' * 1990},{'b' * 1990}\n" for name in names]
    program.manifest(bank.url, JOBS)
    table = program.folder / "rows.csv"
    table.write_text(f"id,title,about\n{''.join(lines)}", encoding="utf-8")
    time.sleep(1.1 * RACY)  # until then nobody could tell whether the table has changed since
    for _ in range(KILLS):
        wanted = bank.posts.total() + chance.randint(20, 150)
        process = program.start("run", "m.yaml", "--quiet")
        while process.poll() is None and bank.posts.total() < wanted:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        assert program.kill(process).code == -9
        scene.after_kill()
    ended = program.run()
    assert ended.code == 0, ended.said
    begun = starts(program)
    assert [jobs["total"] for jobs in begun] == [ROWS] * (KILLS + 1)
    assert begun[0]["new"] == ROWS
    assert all(jobs["new"] < before["new"] for before, jobs in pairwise(begun))
    scene.at_the_end(set(names), KILLS)
    assert program.summary()["jobs"]["merged"] == 0
