"""A kill at every named point of a job's life, and at several passes of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchflux.points import POINTS, VARIABLE, armed

if TYPE_CHECKING:
    from tests.chaos.kills.conftest import Scene

EACH = 75
MOVES = {"moves.taken_up", "moves.recorded", "moves.put_down"}
FAILURES = {"attempt.failing", "attempt.settled"}
WITHDRAWN = "attempt.withdrawn"
# Where a run passes only once or twice.
SELDOM = {"run.surveyed", "run.closing", "run.closed", "csv.rewritten", "csv.replaced", "whole.written"} | {
    "whole.replaced"
}


def test_every_point_is_in_the_code_and_in_the_list(points_in_code: set[str]) -> None:
    assert points_in_code == POINTS


def test_no_other_point_can_be_asked_for() -> None:
    with pytest.raises(ValueError, match=r"there is no point ledger\.commited"):
        armed("ledger.commited")


@pytest.mark.timeout(300)
def test_a_kill_at_every_point(scene: Scene) -> None:
    """One folder, killed at each point in turn, so that each kill also meets what the ones before it left."""
    program, bank = scene.program, scene.bank
    bank.delay = (0.01, 0.04)
    program.manifest(bank.url, scene.jobs(EACH))
    kills = 0
    for point in sorted(POINTS - MOVES - FAILURES - {WITHDRAWN}):
        for time in (1,) if point in SELDOM else (1, 4):
            ended = program.run("--limit", "10", **{VARIABLE: f"{point}:{time}"})
            assert ended.code == -9, f"{point}:{time} was not passed: {ended.said}"
            kills += 1
            scene.after_kill()
    ended = program.run()
    assert ended.code == 0, ended.said
    scene.at_the_end(scene.names(EACH), kills)
