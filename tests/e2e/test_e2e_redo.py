"""From a verdict to the new picture: made once, paid for once, and beside the picture that it tries again."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import TYPE_CHECKING, Any

import pytest

from batchflux import RunOptions, Selection, load_manifest, plan, run
from batchflux.ledger.decisions import Asked, Decision, NoSuchJobError, UnlistedJobError, decide
from batchflux.ledger.reviews import Again

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program

OUT = "out/m"


def judge(program: Program, name: str, review: Any, **more: Any) -> list[Asked]:
    """Decide about the job of this id, as the review page does."""
    key = next(row["key"] for row in program.rows() if row["id"] == name)
    path = program.folder / OUT / "ledger.db"
    return decide(path, Decision(keys=(bytes.fromhex(key),), review=review, **more)).asked


def by_id(program: Program) -> dict[str, dict[str, str]]:
    return {row["id"]: row for row in program.rows()}


def test_a_redo_is_made_once_and_stands_behind_its_picture(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    name = manifest("  - {id: mug, prompt: a mug, seed: 7}\n  - {id: cup, prompt: a cup}\n")
    assert program("run", name).code == 0
    header = list(program.rows()[0])
    assert header[-1] == "revised_prompt"
    before = by_id(program)["mug"]
    picture = (program.folder / OUT / before["file_name"]).read_bytes()
    assert [asked.id for asked in judge(program, "mug", "redo", note="=too dark")] == ["mug-redo1"]
    bank.seen.clear()
    assert json.loads(program("status", OUT, "--json").out)["redo"] == 1
    assert "asked for in a review" in program("status", OUT).out
    planned = program("plan", name)
    assert "redo" in planned.out
    assert "1 paid call" in planned.out
    assert program("run", name, "--redo").code == 0
    assert [seen.body["seed"] != 7 and seen.body["prompt"] == "a mug" for seen in bank.seen] == [True]
    assert json.loads(program("status", OUT, "--json").out)["redo"] == 0
    rows = program.rows()
    assert [row["id"] for row in rows] == ["mug", "mug-redo1", "cup"]
    assert list(rows[0]) == [*header, "review", "note"]
    assert [(row["review"], row["note"]) for row in rows] == [("redo", "'=too dark"), ("", ""), ("", "")]
    made = rows[1]
    assert made["file_name"] == "images/mug-redo1.jpg"
    assert (program.folder / OUT / made["file_name"]).read_bytes() != picture
    assert (program.folder / OUT / before["file_name"]).read_bytes() == picture
    assert {name: rows[0][name] for name in before} == before
    for again in (("--redo",), ()):
        ended = program("run", name, *again)
        assert ended.code == 0
    assert len(bank.seen) == 1
    assert program.rows() == rows


@pytest.mark.slow
def test_redo_with_nothing_asked_for(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    name = manifest("  - {id: mug, prompt: a mug}\n  - {id: bad, prompt: 'x #moderated'}\n")
    ended = program("run", name, "--redo")
    assert (ended.code, len(bank.seen)) == (0, 0)
    assert "No redo is waiting" in ended.out
    assert program("run", name).code == 1
    ended = program("run", name, "--redo")
    assert ended.code == 0
    assert "No redo is waiting" in ended.out


@pytest.mark.slow
def test_a_plain_run_makes_redos_too_and_they_are_numbered_as_a_family(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    name = manifest("  - {id: mug, prompt: a mug}\n  - {id: cup, prompt: a cup}\n")
    assert program("run", name).code == 0
    for origin, expected in (("mug", "mug-redo1"), ("mug", "mug-redo2"), ("mug-redo1", "mug-redo3")):
        assert [asked.id for asked in judge(program, origin, "redo", again=Again())] == [expected]
        assert program("run", name).code == 0
    assert [row["id"] for row in program.rows()] == ["mug", "mug-redo1", "mug-redo2", "mug-redo3", "cup"]
    assert len({row["key"] for row in program.rows()}) == 5
    assert sorted(bank.answered().items()) == [("a cup", 1), ("a mug", 4)]


@pytest.mark.slow
def test_an_edited_prompt_and_a_seed_of_ones_own(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    name = manifest("  - {id: mug, prompt: a mug, seed: 7, tags: {sku: M-1}}\n")
    assert program("run", name).code == 0
    judge(program, "mug", "redo", again=Again(prompt="a red mug", seed=7))
    assert program("run", name, "--redo").code == 0
    assert bank.seen[-1].body == {**bank.seen[0].body, "prompt": "a red mug"}
    row = by_id(program)["mug-redo1"]
    assert (row["prompt"], row["seed"], row["tags.sku"]) == ("a red mug", "7", "M-1")


@pytest.mark.slow
@pytest.mark.usefixtures("photo")
def test_a_style_that_carries_no_seed_makes_a_variant(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    name = manifest("  - {id: mug, prompt: make it red, image: p/a.png}\n")
    assert program("run", name).code == 0
    judge(program, "mug", "redo", again=Again(seed=5))
    assert program("run", name, "--redo").code == 0
    row = by_id(program)["mug-redo1"]
    assert (row["style"], row["seed"], row["status"]) == ("chat", "", "done")
    assert bank.seen[0].body == bank.seen[1].body
    with sqlite3.connect(program.folder / OUT / "ledger.db") as connection:
        specs = [json.loads(spec) for (spec,) in connection.execute("SELECT spec FROM jobs ORDER BY number")]
    connection.close()
    assert [spec.get("variant") for spec in specs] == [None, 2]


@pytest.mark.slow
def test_a_redo_makes_way_for_what_the_manifest_lists(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    """The next free variant is free in the whole manifest, also behind the job, and ids are the manifest's first."""
    jobs = (
        "  - {id: mug, prompt: a mug}\n  - {id: other, prompt: a mug, variant: 2}\n"
        "  - {id: mug-redo1, prompt: something else}\n"
    )
    name = manifest(jobs)
    assert program("run", name, "--only", "mug").code == 0
    judge(program, "mug", "redo")
    assert program("run", name).code == 0
    rows = program.rows()
    redo = rows[1]
    assert [row["id"] for row in rows] == ["mug", redo["id"], "other", "mug-redo1"]
    assert redo["id"] == f"mug-redo1-{redo['key'][:8]}"
    assert bank.answered() == {"a mug": 3, "something else": 1}
    # What the manifest lists later under the redo's own content is the redo's picture, not a second one.
    name = manifest(jobs + "  - {id: third, prompt: a mug, variant: 3}\n")
    assert program("run", name).code == 0
    assert [row["id"] for row in program.rows()] == ["mug", "other", "mug-redo1", "third"]
    assert by_id(program)["third"]["sha256"] == redo["sha256"]
    assert bank.answered() == {"a mug": 3, "something else": 1}


@pytest.mark.slow
def test_two_redos_that_could_be_the_same_picture_are_two(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    """What a run has pinned is taken, also when it has not come to it."""
    name = manifest("  - {id: mug, prompt: a mug}\n  - {id: cup, prompt: a cup}\n")
    assert program("run", name).code == 0
    judge(program, "cup", "redo", again=Again(prompt="a mug"))
    assert program("run", name, "--only", "nothing").code == 0
    judge(program, "mug", "redo")
    assert program("run", name).code == 0
    assert [row["id"] for row in program.rows()] == ["mug", "mug-redo1", "cup", "cup-redo1"]
    assert bank.answered() == {"a mug": 3, "a cup": 1}


@pytest.mark.slow
def test_a_run_with_nothing_to_do_shows_the_verdicts_that_nobody_has_shown(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    name = manifest("  - {id: mug, prompt: a mug}\n")
    assert program("run", name).code == 0
    for review in ("accept", "reject"):
        judge(program, "mug", review)
        assert program("run", name).code == 0
        assert program.rows()[0]["review"] == review
    assert len(bank.seen) == 1


@pytest.mark.slow
def test_a_redo_is_changed_or_taken_back_while_it_waits(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    name = manifest("  - {id: mug, prompt: a mug}\n  - {id: cup, prompt: a cup}\n")
    assert program("run", name).code == 0
    for prompt in ("a red mug", "a blue mug"):
        assert [asked.id for asked in judge(program, "mug", "redo", again=Again(prompt=prompt))] == ["mug-redo1"]
    assert judge(program, "mug", "redo", note="only a note") == []
    judge(program, "cup", "redo")
    judge(program, "cup", "accept")
    bank.seen.clear()
    assert program("run", name).code == 0
    assert [seen.text for seen in bank.seen] == ["a blue mug"]


@pytest.mark.slow
def test_a_redo_of_a_job_that_is_gone_from_the_manifest_is_not_made(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    name = manifest("  - {id: mug, prompt: a mug}\n  - {id: cup, prompt: a cup}\n")
    assert program("run", name).code == 0
    gone = bytes.fromhex(by_id(program)["mug"]["key"])
    judge(program, "mug", "redo")
    bank.seen.clear()
    assert program("run", manifest("  - {id: cup, prompt: a cup}\n")).code == 0
    assert bank.seen == []
    path = program.folder / OUT / "ledger.db"
    with pytest.raises(UnlistedJobError):
        decide(path, Decision(keys=(gone,), review="redo"))
    assert decide(path, Decision(keys=(gone,), review="reject")).asked == []
    with pytest.raises(NoSuchJobError):
        decide(path, Decision(keys=(gone, bytes(32)), review="accept"))


@pytest.mark.slow
def test_redos_that_wait_for_a_job_that_was_edited_are_not_forgotten_in_silence(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    jobs = "  - {id: mug, prompt: a mug}\n  - {id: cup, prompt: a cup}\n  - {id: bowl, prompt: a bowl}\n"
    name = manifest(jobs)
    assert program("run", name).code == 0
    for origin in ("mug", "cup", "bowl"):
        judge(program, origin, "redo")
    one = "1 redo waits for a job that the manifest no longer lists as it was; undo the edit or judge anew."
    two = "2 redos wait for jobs that the manifest no longer lists as they were; undo the edit or judge anew."
    assert "no longer lists as" not in program("plan", name).out
    manifest(jobs.replace("a mug", "a red mug").replace("  - {id: bowl, prompt: a bowl}\n", ""))
    planned = program("plan", name)
    assert [line.strip() for line in planned.out.splitlines() if "no longer lists as" in line] == [two]
    assert json.loads(program("plan", name, "--json").out)["counts"]["waiting"] == 2
    ended = program("run", name)
    assert [line.strip() for line in ended.out.splitlines() if "no longer lists as" in line] == [two]
    log = [json.loads(line) for line in (program.folder / OUT / "run.log").read_text(encoding="utf-8").splitlines()]
    assert [one["jobs"].get("waiting") for one in log if one["event"] == "run_started"] == [None, 2]
    assert program.summary()["jobs"]["waiting"] == 2
    manifest(jobs.replace("a mug", "a red mug"))
    assert program("run", name).code == 0
    ended = program("run", name, "--redo")
    assert (ended.code, [line for line in ended.out.splitlines() if "no longer lists as" in line]) == (0, [one])
    bank.seen.clear()
    assert program("run", manifest(jobs)).code == 0
    assert bank.answered() == {"a mug": 1}
    assert "waiting" not in program.summary()["jobs"]


async def test_from_python(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    name = manifest("  - {id: mug, prompt: a mug, seed: 1}\n")
    loaded = load_manifest(program.folder / name, out=str(program.folder / OUT))
    options = RunOptions(environ=program.environ)
    assert (await run(loaded, options)).exit_code == 0
    judge(program, "mug", "redo")
    selection = Selection(redo=True)
    assert plan(loaded, selection).counts["redo"] == 1
    assert plan(loaded, selection).calls == 1
    summary = await run(loaded, RunOptions(environ=program.environ, selection=selection))
    assert (summary.exit_code, summary.this_run["done"], len(bank.seen)) == (0, 1, 2)
    assert "redo" not in plan(loaded, selection).counts


@pytest.mark.slow
def test_a_killed_redo_is_not_made_anew_with_another_choice(
    program: Program, bank: Bank, manifest: Callable[..., str], tmp_path: Path
) -> None:
    """A run pins the redo before it pays: what a kill leaves in flight keeps its key, and is counted as such."""
    name = manifest("  - {id: mug, prompt: 'a mug #b64*1#hang*1', seed: 3}\n")
    assert program("run", name).code == 0
    judge(program, "mug", "redo")
    process = program.start("run", name, "--redo")
    while len(bank.seen) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    program.kill(process)
    assert program("run", name, "--redo").code == 0
    row = by_id(program)["mug-redo1"]
    assert (row["status"], row["possibly_billed"], row["attempts"]) == ("done", "1", "2")
    assert bank.seen[1].body == bank.seen[2].body
