"""A kill at every named point of a job's life, and at several passes of each.

The telling points run with the fast tests, all of them with the slow ones, several passes of each with the long ones.
"""

from __future__ import annotations

import base64
import json
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.failpoints import POINTS, VARIABLE, armed
from batchflux.testing.bank import looking, picture_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.program import Scene

pytestmark = pytest.mark.timeout(900)  # real processes, also on a loaded machine

MOVES = {"moves.taken_up", "moves.recorded", "moves.put_down"}
FAILURES = {"attempt.failing", "attempt.settled"}
WITHDRAWN = "attempt.withdrawn"
TASKS = {"handle.recorded", "poll.leaving", "lost.asking", "lost.found"}  # killed at by the suite of every provider
# Where a run passes only once or twice.
SELDOM = {"run.surveyed", "run.closing", "run.closed", "csv.rewritten", "csv.replaced", "whole.written"} | {
    "whole.replaced"
}
TELLING = {"request.leaving", "answer.received", "answer.recorded", "pictures.synced", "csv.rewritten"}
KEPT = {"rejected.kept", "answer.kept"}
EXPORTS = {point for point in POINTS if point.startswith("export.")}  # killed at by the tests of exports
BATCHES = {point for point in POINTS if point.startswith("batch.")}  # killed at by the tests of batches
PUBLISHED = {point for point in POINTS if point.startswith("reference.")}  # killed at by test_published.py
MIRRORED = {point for point in POINTS if point.startswith("mirror.")}  # killed at by the tests of mirrors
ALL = POINTS - MOVES - FAILURES - TASKS - BATCHES - KEPT - EXPORTS - PUBLISHED - MIRRORED - {WITHDRAWN}


def sweep(telling: set[str], values: set[str]) -> list[Any]:
    """Mark the values that tell less as slow."""
    return [pytest.param(one, marks=[] if one in telling else [pytest.mark.slow]) for one in sorted(values)]


def test_every_point_is_in_the_code_and_in_the_list(points_in_code: set[str]) -> None:
    assert points_in_code == POINTS


def test_no_other_point_can_be_asked_for() -> None:
    with pytest.raises(ValueError, match=r"there is no point ledger\.commited"):
        armed("ledger.commited")


@pytest.mark.parametrize(
    ("points", "passes", "each"),
    [
        pytest.param(TELLING, (1,), 10, id="telling"),
        pytest.param(ALL, (1,), 60, id="all", marks=pytest.mark.slow),
        pytest.param(ALL, (1, 4), 75, id="again", marks=pytest.mark.long),
    ],
)
def test_a_kill_at_every_point(scene: Scene, points: set[str], passes: tuple[int, ...], each: int) -> None:
    """One folder, killed at each point in turn, so that each kill also meets what the ones before it left."""
    program, bank = scene.program, scene.bank
    bank.delay = (0.01, 0.04)
    program.manifest(bank.url, scene.jobs(each))
    kills = 0
    for point in sorted(points):
        for time in (1,) if point in SELDOM else passes:
            ended = program.run("--limit", "20", **{VARIABLE: f"{point}:{time}"})
            assert ended.code == -9, f"{point}:{time} was not passed: {ended.said}"
            kills += 1
            scene.after_kill()
    ended = program.run()
    assert ended.code == 0, ended.said
    scene.at_the_end(scene.names(each), kills)


@pytest.mark.parametrize("way", ["b64", "data"])
@pytest.mark.parametrize(
    "point",
    sweep(
        {"spool.kept", "picture.moving"},
        {"spool.kept", "answer.recorded", "picture.moving", "picture.moved", "pictures.synced"},
    ),
)
def test_a_picture_that_came_with_its_answer_is_paid_once(scene: Scene, way: str, point: str) -> None:
    """From the moment that its bytes are on the disk; also under --on-unknown hold, which may leave nothing behind."""
    program, bank = scene.program, scene.bank
    style = "chat" if way == "data" else "standard"
    program.manifest(bank.url, f"  - {{id: a, prompt: 'job a #{way}', style: {style}}}\n")
    assert program.run(**{VARIABLE: point}).code == -9
    assert bank.billed == {"a": 1}
    ended = program.run("--on-unknown", "hold")
    assert ended.code == 0, ended.said
    scene.at_the_end({"a"}, kills=0)
    assert program.rows()[0]["attempts"] == "1"


@pytest.mark.parametrize("point", sweep({"file.written"}, {"spool.begun", "file.written", "file.synced"}))
def test_a_picture_whose_bytes_are_not_kept_yet_is_unknown(scene: Scene, point: str) -> None:
    program, bank = scene.program, scene.bank
    program.manifest(bank.url, "  - {id: a, prompt: 'job a #b64'}\n")
    assert program.run(**{VARIABLE: point}).code == -9
    held = program.run("--on-unknown", "hold")
    assert held.code == 1, held.said
    assert [(row["status"], row["possibly_billed"]) for row in program.rows()] == [("unknown", "1")]
    assert program.leftovers() == [], "what is worthless is removed also when there is nothing to do"
    assert program.run().code == 0
    assert bank.billed == {"a": 2}
    scene.at_the_end({"a"}, kills=1)


@pytest.mark.parametrize("point", sweep({"attempt.settled"}, FAILURES))
def test_a_kill_around_a_failed_attempt(scene: Scene, point: str) -> None:
    program, bank = scene.program, scene.bank
    program.manifest(bank.url, "  - {id: a, prompt: 'job a #500*1'}\n  - {id: b, prompt: 'job b #url'}\n")
    assert program.run(**{VARIABLE: point}).code == -9
    ended = program.run()
    assert ended.code == 0, ended.said
    assert bank.billed["a"] == 1
    scene.at_the_end({"a", "b"}, kills=1)


def test_a_kill_as_an_attempt_is_withdrawn(scene: Scene) -> None:
    """It was written down and had not left when the signal came: it cost nothing and is no attempt.

    For three seconds there is always one, or two, of which the kill leaves the other as one that may have left.
    """
    program, bank = scene.program, scene.bank
    names = {f"a{number}" for number in range(90)}
    jobs = "".join(f"  - {{id: {name}, prompt: 'job {name} #url'}}\n" for name in sorted(names))
    program.manifest(bank.url, jobs, limits=", rate: 30/s, canary: 0")
    process = program.start("run", "m.yaml", "--set", "limits.concurrency=90", **{VARIABLE: WITHDRAWN})
    wait_until(lambda: bank.posts.total() >= 3)
    assert program.kill(process, signal.SIGTERM).code == -9
    scene.after_kill()
    tried = {name: row for name, row in program.ledger().items() if row["attempts"]}
    assert set(bank.posts) <= set(tried)
    assert all(tried[name]["in_flight"] is not None for name in set(tried) - set(bank.posts))
    ended = program.run("--set", "limits.rate=1000/s")
    assert ended.code == 0, ended.said
    scene.at_the_end(names, kills=1, at_once=90)


@pytest.mark.parametrize(
    ("way", "point"),
    [
        ("url", "rejected.kept"),
        ("b64", "rejected.kept"),
        pytest.param("url", "answer.recorded", marks=pytest.mark.slow),
        pytest.param("b64", "answer.recorded", marks=pytest.mark.slow),
        pytest.param("url", "picture.moving", marks=pytest.mark.slow),
        pytest.param("b64", "picture.moved", marks=pytest.mark.slow),
        pytest.param("b64", "picture.moving", marks=pytest.mark.long),
        pytest.param("url", "picture.moved", marks=pytest.mark.long),
        *(pytest.param(way, "pictures.synced", marks=pytest.mark.long) for way in ("url", "b64")),
        *(pytest.param(way, "csv.appending", marks=pytest.mark.long) for way in ("url", "b64")),
    ],
)
def test_a_kill_around_a_picture_that_differs(scene: Scene, way: str, point: str) -> None:
    """It is paid once, and not fetched again once it lies in rejected/; a kill as it is accepted loses nothing."""
    program, bank = scene.program, scene.bank
    jobs = f"  - {{id: a, prompt: 'job a #{way} #gif', output_format: png}}\n"
    program.manifest(bank.url, jobs)
    assert program.run(**{VARIABLE: point}).code == -9
    fetched = bank.fetched["a"]
    kept = list((program.out / "rejected").glob("*"))
    ended = program.run()
    assert ended.code == 1, ended.said
    assert bank.fetched["a"] == fetched + (way == "url" and not kept)
    (row,) = program.rows()
    assert (row["error_code"], row["attempts"], row["possibly_billed"]) == ("differs", "1", "0")
    gif = (program.out / row["file_name"]).read_bytes()
    assert gif == looking("gif", picture_of("a"))
    assert program.run(
        "--set", "output.accept=any", **{VARIABLE: "commit.begun" if point == "answer.recorded" else point}
    ).code in {-9, 0}
    ended = program.run("--set", "output.accept=any")
    assert ended.code == 0, ended.said
    (row,) = program.rows()
    assert (row["status"], row["file_name"]) == ("done", "images/a.gif")
    assert (program.out / "images" / "a.gif").read_bytes() == gif
    assert list((program.out / "rejected").iterdir()) == []
    assert bank.billed == {"a": 1}


@pytest.mark.parametrize("point", sweep({"answer.kept"}, {"attempt.failing", "answer.kept", "attempt.settled"}))
def test_a_kill_around_an_answer_without_a_picture(scene: Scene, point: str) -> None:
    """Once it is kept it was answered: it is neither unknown nor asked for again beyond what an unkilled run would."""
    program, bank = scene.program, scene.bank
    program.manifest(bank.url, "  - {id: a, prompt: 'job a #empty*1'}\n", limits=", attempts: 2")
    assert program.run(**{VARIABLE: point}).code == -9
    held = program.run("--on-unknown", "hold")
    kept = [path.name for path in (program.out / "answers").glob("*")]
    if point == "attempt.failing":
        assert (held.code, kept) == (1, []), "only what is on the disk was answered"
        held = program.run()
    assert held.code == 0, held.said
    (row,) = program.rows()
    assert (row["status"], row["attempts"], row["possibly_billed"]) == ("done", "2", "1")
    assert bank.posts == {"a": 2}


@pytest.mark.parametrize("point", sweep(set(), {"request.leaving:3", "answer.kept:2", "attempt.settled:4"}))
def test_a_kill_while_a_provider_is_on_trial(scene: Scene, point: str) -> None:
    """Each run buys a few until a picture is kept, killed or not; afterwards nothing stands in the way of the rest."""
    program, bank = scene.program, scene.bank
    jobs = "".join(f"  - {{id: a{number}, prompt: 'job a{number} #empty'}}\n" for number in range(20))
    program.manifest(bank.url, jobs)
    assert program.run(**{VARIABLE: point}).code == -9
    bought = bank.posts.total()
    assert bought <= 4
    ended = program.run()
    assert (ended.code, program.summary()["reason"]) == (3, "canary"), ended.said
    assert bank.posts.total() <= bought + 4
    program.manifest(bank.url, jobs.replace("#empty", "#url"))
    assert program.run(**{VARIABLE: "answer.recorded"}).code == -9
    ended = program.run()
    assert ended.code == 0, ended.said
    names = {f"a{number}" for number in range(20)}
    assert program.pictures() == names
    assert not bank.again


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("commit.begun", marks=pytest.mark.slow),
        pytest.param("answer.recorded", marks=pytest.mark.slow),
        pytest.param("commit.made", marks=pytest.mark.long),
        pytest.param("picture.moved", marks=pytest.mark.long),
    ],
)
def test_a_kill_as_a_kept_answer_is_read_again(scene: Scene, point: str) -> None:
    program, bank = scene.program, scene.bank
    program.manifest(bank.url, "  - {id: a, prompt: 'job a #empty', output_format: png}\n", limits=", attempts: 1")
    assert program.run().code == 1
    (answer,) = (program.out / "answers").iterdir()
    shown = base64.b64encode(picture_of("a")).decode()
    answer.write_text(json.dumps({"data": [{"b64_json": shown}]}))
    for number in range(1, 9):
        if program.run("--retry-failed", **{VARIABLE: f"{point}:{number}"}).code != -9:
            break
    ended = program.run("--retry-failed")
    assert ended.code == 0, ended.said
    assert program.pictures() == {"a"}
    (row,) = program.rows()
    assert (row["attempts"], row["cost"], row["possibly_billed"]) == ("1", "0.14", "0")
    assert bank.posts == {"a": 1}


@pytest.mark.parametrize(
    "step",
    [pytest.param(3, id="some", marks=pytest.mark.slow), pytest.param(1, id="all", marks=pytest.mark.long)],
)
def test_a_kill_at_the_commits_of_a_small_run(scene: Scene, step: int) -> None:
    program, bank = scene.program, scene.bank
    number, killed = 1 - step, True
    while killed:
        number += step
        bank.forget()
        shutil.rmtree(program.out, ignore_errors=True)
        program.manifest(bank.url, "  - {id: a, prompt: 'job a #url'}\n  - {id: b, prompt: 'job b #b64'}\n")
        killed = program.run(**{VARIABLE: f"commit.begun:{number}"}).code == -9
        scene.after_kill()
        kept = {path.name for path in (program.out / ".spool").glob("[0-9a-f]*-*")}
        ended = program.run()
        assert ended.code == 0, ended.said
        scene.at_the_end({"a", "b"}, kills=int(killed))
        assert not kept or bank.billed["b"] == 1, "its picture was on the disk"
    assert number > 8


@pytest.mark.parametrize(
    "point", sweep({"moves.recorded"}, MOVES | {"run.surveyed", "whole.replaced", "csv.rewritten"})
)
def test_a_kill_while_files_follow_the_manifest(scene: Scene, point: str) -> None:
    """Two jobs swap their names, a third is renamed: no picture is lost, none is asked for again."""
    program, bank = scene.program, scene.bank
    line = "  - {{id: {}, prompt: 'job {} #url', output_format: png}}\n"
    program.manifest(bank.url, line.format("a", "a") + line.format("b", "b") + line.format("c", "c"))
    assert program.run().code == 0
    program.manifest(bank.url, line.format("b", "a") + line.format("a", "b") + line.format("x", "c"))
    assert program.run(**{VARIABLE: point}).code == -9
    program.rows()
    ended = program.run()
    assert ended.code == 0, ended.said
    got = {path.stem: path.read_bytes() for path in (program.out / "images").iterdir()}
    assert got == {new: scene.picture(old) for new, old in (("b", "a"), ("a", "b"), ("x", "c"))}
    assert [row["id"] for row in program.rows()] == ["b", "a", "x"]
    assert bank.posts.total() == 3
    assert program.leftovers() == []
