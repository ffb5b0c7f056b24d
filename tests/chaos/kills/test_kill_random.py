"""Kills at random moments over hundreds of jobs: nothing lost, nothing paid twice but what was in flight."""

from __future__ import annotations

import random
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.program import Scene


def enough(scene: Scene, number: int, each: int) -> bool:
    """Whether so many requests have come, or all jobs were ordered: no run is to end before it is killed."""
    return scene.bank.posts.total() >= number or len(scene.bank.posts) == 4 * each


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kills", "each"),
    [pytest.param(15, 40, marks=pytest.mark.slow), pytest.param(55, 125, marks=pytest.mark.long)],
)
def test_kills_at_random_moments(scene: Scene, seed: int, kills: int, each: int) -> None:
    program, bank, chance = scene.program, scene.bank, random.Random(seed)
    bank.delay = (0.02, 0.12)
    program.manifest(bank.url, scene.jobs(each))
    for number in range(kills):
        # So many requests later, and a moment more: the kill finds jobs at every stage, in the start-up now and then.
        more = chance.randint(1, 14) if chance.random() < 0.9 else 0
        pause = chance.uniform(0, 0.1 if more else 0.6)
        wanted = bank.posts.total() + more
        bank.held = partial(enough, scene, wanted + 8, each)
        process = program.start("run", "m.yaml", "--quiet")
        while process.poll() is None and bank.posts.total() < wanted and not bank.held():
            time.sleep(0.002)
        time.sleep(pause)
        ended = program.kill(process)
        bank.held = None
        assert ended.code == -9, f"kill {number} (seed {seed}) came too late: the run had ended, {ended.said}"
        scene.after_kill()
    ended = program.run()
    assert ended.code == 0, ended.said
    scene.at_the_end(scene.names(each), kills)
    assert bank.billed.total() > 4 * each, f"no kill met a job in flight (seed {seed}), so nothing was shown"
