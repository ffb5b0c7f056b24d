"""Requests that left and were never answered: what --on-unknown makes of them, wherever it can be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchflux.failpoints import VARIABLE

if TYPE_CHECKING:
    from tests.program import Scene

pytestmark = pytest.mark.timeout(900)  # real processes, also on a loaded machine

CHOICES = ["retry", "hold", pytest.param("fail", marks=pytest.mark.slow)]


def seen(scene: Scene, name: str = "b") -> dict[str, object]:
    """Gather what ledger, table, summary and status say of a folder in which only the job `name` is not done."""
    program = scene.program
    row = next((row for row in program.rows() if row["id"] == name), None)
    kept, summary, state = program.ledger()[name], program.summary(), program.status()
    assert row is not None, "a job that ended has its row"
    for key in ("done", "failed", "unknown", "pending"):
        assert summary["jobs"][key] == state[key], f"summary and status disagree on {key}"
    assert summary["failures"] == state["failures"]
    assert (summary["spent"], summary["spent_possibly"]) == (state["spent"], state["spent_possibly"])
    assert row["status"] == kept["status"]
    assert int(row["attempts"]) == kept["attempts"]
    assert int(row["possibly_billed"]) == kept["possibly_billed"] == state["possibly_billed"]
    assert kept["in_flight"] is None
    return {
        "status": row["status"],
        "code": row["error_code"],
        "sent": scene.bank.posts[name],
        "attempts": int(row["attempts"]),
        "maybe": int(row["possibly_billed"]),
        "cost": row["cost"],
        "spent": state["spent"],
        "failures": state["failures"],
    }


def open_one(spent: str, maybe: int, status: str = "unknown") -> dict[str, object]:
    return {
        "status": status,
        "code": "unknown",
        "sent": maybe,
        "attempts": maybe,
        "maybe": maybe,
        "cost": "0",
        "spent": spent,
        "failures": {"unknown": 1},
    }


RESENT = {
    "status": "done",
    "code": "",
    "sent": 2,
    "attempts": 2,
    "maybe": 1,
    "cost": "0.14",
    "spent": "0.42",
    "failures": {},
}


def jobs(how: str) -> str:
    return f"  - {{id: a, prompt: 'job a #url'}}\n  - {{id: b, prompt: 'job b #{how}'}}\n"


@pytest.mark.parametrize("cause", ["killed", pytest.param("cut off", marks=pytest.mark.slow)])
@pytest.mark.parametrize("choice", CHOICES)
def test_each_choice(scene: Scene, cause: str, choice: str) -> None:
    program, bank = scene.program, scene.bank
    if cause == "killed":  # b is out when the process dies; the next one finds it
        program.manifest(bank.url, jobs("url"))
        assert program.run("--only", "a").code == 0
        assert program.run(**{VARIABLE: "answer.received"}).code == -9
        assert bank.billed["b"] == 1
        state = program.status()
        assert (state["unknown"], state["in_flight"], state["pending"], state["possibly_billed"]) == (1, 0, 0, 1)
        assert state["failures"] == {"unknown": 1}
    else:
        program.manifest(bank.url, jobs("lost*1"))
    ended = program.run("--on-unknown", choice)
    if choice == "retry":
        assert ended.code == 0, ended.said
        assert seen(scene) == RESENT
        return
    assert ended.code == 1, ended.said
    status = {"hold": "unknown", "fail": "failed"}[choice]
    assert seen(scene) == open_one("0.28", 1, status)
    assert f"1 of 2 jobs done, 1 {status}" in ended.out
    remedy = {"hold": "--on-unknown retry sends them again", "fail": "--retry-failed tries them again"}[choice]
    assert remedy in ended.out
    # What was decided stands, however often it is asked for.
    assert program.run("--on-unknown", choice).code == 1
    assert seen(scene) == open_one("0.28", 1, status)
    if choice == "fail":
        assert program.run().code == 1
        assert bank.posts["b"] == 1, "a failed job stays failed until --retry-failed"
    again = program.run(*(("--retry-failed",) if choice == "fail" else ()))
    assert again.code == 0, again.said
    assert seen(scene) == RESENT


def test_it_is_sent_again_at_most_once_in_a_run(scene: Scene) -> None:
    program, bank = scene.program, scene.bank
    program.manifest(bank.url, jobs("lost"))
    for number, spent in ((2, "0.42"), (3, "0.56")):
        assert program.run().code == 1
        assert bank.posts["b"] == number
        found = seen(scene)
        expected = open_one(spent, number)
        assert found | {"spent": float(str(found["spent"]))} == expected | {"spent": float(spent)}


def test_the_budget_holds_for_what_may_have_been_billed(scene: Scene) -> None:
    program, bank = scene.program, scene.bank
    program.manifest(bank.url, jobs("lost"), limits=", budget: 0.28")
    ended = program.run()
    assert bank.posts.total() == 2
    assert ended.code in {1, 3}, ended.said
    assert program.ledger()["b"]["status"] == "unknown"
    ended = program.run()
    assert ended.code == 3, ended.said
    assert "budget" in ended.out
    assert bank.posts.total() == 2, "the one that may have been billed is spent"


def test_status_says_what_unknown_means(scene: Scene) -> None:
    program, bank = scene.program, scene.bank
    program.manifest(bank.url, jobs("lost"))
    program.run("--on-unknown", "hold")
    text = program("status", str(program.out)).out
    assert "1 of 2 jobs done" in text
    assert "unknown" in text
    assert "sent and never answered" in text
    assert "--on-unknown" in text
    assert "of it 0.14 CNY possibly (1 attempt)" in text


def test_an_unknown_word_is_refused(scene: Scene) -> None:
    scene.program.manifest(scene.bank.url, jobs("url"))
    ended = scene.program.run("--on-unknown", "ask")
    assert ended.code == 2
    assert "retry" in ended.err
    assert scene.bank.posts.total() == 0
