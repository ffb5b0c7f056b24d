"""A kill at every named point of a run with several providers, one of which hands what it refuses on to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchflux.failpoints import POINTS, VARIABLE
from batchflux.testing.bank import PRICE

if TYPE_CHECKING:
    from tests.program import Scene

pytestmark = pytest.mark.timeout(900)  # real processes, also on a loaded machine

TASKS = {"handle.recorded", "poll.leaving"}
TELLING = {"answer.received", "handle.recorded", "attempt.settled"}
NOT_HERE = {
    "attempt.withdrawn",
    "rejected.kept",
    "answer.kept",
    "lost.asking",
    "lost.found",
    "spool.begun",
    "spool.kept",
}
ELSEWHERE = ("batch.", "moves.", "export.", "reference.", "mirror.")
EVERY = {point for point in POINTS - NOT_HERE if not point.startswith(ELSEWHERE)}
WAYS = ("relay", "tasks", "last")


def write(scene: Scene, each: int) -> set[str]:
    """Write a manifest of three providers at one bank; some jobs of the first are refused there, for nothing."""
    url, program = scene.bank.url, scene.program
    shop = f"api: flux-relay, base_url: '{url}', keys: [TEST_KEY], price: {PRICE}"
    names = {f"{way[0]}{number}" for way in WAYS for number in range(1, each + 1)}
    jobs = "".join(
        f"  - {{id: {name}, provider: {way}, prompt: 'job {name}{' #moderated*1' if way == 'relay' else ''}'}}\n"
        for way in WAYS[:2]
        for name in sorted(names)
        if name[0] == way[0]
    )
    jobs = jobs.replace("provider: relay, ", "")  # who names nobody may be made by another
    jobs += "".join(
        f"  - {{id: {name}, provider: last, prompt: 'job {name}'}}\n" for name in sorted(names) if name[0] == "l"
    )
    program.write(
        "m.yaml",
        "version: 1\nname: m\nproviders:\n"
        f"  relay: {{{shop}, style: standard}}\n  tasks: {{{shop}, style: native}}\n  last: {{{shop}, style: chat}}\n"
        "provider: relay\nfallback: [tasks, last]\nfallback_on: [moderated]\n"
        f"limits: {{concurrency: 6, timeout: 20s}}\noutput: {{dir: {program.out}}}\njobs:\n{jobs}",
    )
    return names


@pytest.mark.parametrize(
    ("points", "each"),
    [
        pytest.param(TELLING, 24, id="telling", marks=pytest.mark.slow),  # more than three kills can cut off
        pytest.param(EVERY, 60, id="every", marks=pytest.mark.long),
    ],
)
def test_a_kill_at_every_point_of_several_providers(scene: Scene, points: set[str], each: int) -> None:
    """One folder, killed at each point in turn: nothing is lost, or paid again but what was out at a kill."""
    program, bank = scene.program, scene.bank
    bank.delay = (0.01, 0.04)
    names, kills = write(scene, each), 0
    for point in sorted(points):
        ended = program.run("--limit", "15", **{VARIABLE: point})
        assert ended.code == -9, f"{point} was not passed: {ended.said}"
        kills += 1
        scene.after_kill()
    ended = program.run()
    assert ended.code == 0, ended.said
    scene.at_the_end(names, kills)
    makers = {row["id"]: row["provider"] for row in program.rows()}
    assert {makers[name] for name in names if name[0] == "t"} == {"tasks"}
    assert {makers[name] for name in names if name[0] == "l"} == {"last"}
    assert {makers[name] for name in names if name[0] == "r"} <= {"relay", "tasks"}
    assert "tasks" in {makers[name] for name in names if name[0] == "r"}
