"""A folder that is mirrored, edited at random and killed at random: nothing is lost, misplaced, or paid twice."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from batchflux.failpoints import POINTS, VARIABLE
from batchflux.testing.bank import picture_of
from tests.e2e.test_e2e_mirror import Mirrored, digest
from tests.stores import _moto_port, moto

if TYPE_CHECKING:
    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program
    from tests.stores import Served

__all__ = ["_moto_port", "moto"]

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
KINDS = ("mirror.", "moves.", "commit.", "picture", "csv.", "whole.", "run.")
KILLS = sorted(point for point in POINTS if point.startswith(KINDS))


def edited(prompts: dict[str, str], chance: random.Random, version: int) -> None:
    """Change a manifest in one way; `version` is new each time."""
    one, other = chance.sample(sorted(prompts), 2)
    match chance.choice(("edit", "swap", "drop", "add", "rename")):
        case "edit":
            prompts[one] = f"v{version}"
        case "swap":
            prompts[one], prompts[other] = prompts[other], prompts[one]
        case "drop" if len(prompts) > 3:
            del prompts[one]
        case "rename":
            prompts[f"r{version}"] = prompts.pop(one)
        case _:
            prompts[f"n{version}"] = f"v{version}"


@pytest.mark.parametrize("seed", range(4))
def test_random_edits_and_kills(program: Program, bank: Bank, moto: Served, seed: int) -> None:
    mirrored, chance = Mirrored(program, bank, moto), random.Random(seed)
    prompts, kills = {f"a{number}": f"a{number}" for number in range(5)}, 0
    for version in range(30):
        for more in range(chance.randrange(3)):
            edited(prompts, chance, 10 * version + more)
        jobs = (f"  - {{id: {job}, prompt: 'job {text} #url', output_format: png}}\n" for job, text in prompts.items())
        mirrored.write("".join(jobs))
        away = chance.random() < 0.7
        killed = chance.random() < 0.7 and version < 29
        environ = {VARIABLE: f"{chance.choice(KILLS)}:{chance.randrange(1, 5)}"} if killed else {}
        ended = mirrored.run(away=away, **environ)
        kills += ended.code == -9
        if ended.code == -9:
            continue
        assert ended.code == 0, ended.said
        made = {f"images/{job}.png": picture_of(text) for job, text in prompts.items()}
        there, recorded = mirrored.pictures(), mirrored.recorded()
        assert {name: there[name] for name in made} == made
        assert recorded == {name: digest(there[name]) for name in recorded}
        assert made.keys() & mirrored.here() == (set() if away else made.keys())
    kept = {*mirrored.objects().values(), *(path.read_bytes() for path in program.out.rglob("*.png"))}
    with closing(sqlite3.connect(f"file:{program.out}/ledger.db?mode=ro", uri=True)) as connection:
        done = {row[0] for row in connection.execute("SELECT sha256 FROM jobs WHERE status = 'done'")}
    assert kills
    assert done <= set(map(digest, kept))
    assert not bank.again
