"""Verdicts over HTTP: kept before the answer leaves, shown in rows and results.csv, refused with a sentence."""

from __future__ import annotations

import csv
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.exports import projection
from batchflux.exports.results_csv import Results
from batchflux.ledger.reviews import verdicts, waiting_redos
from batchflux.ledger.tables import ended_rows, get_meta
from batchflux.output.folder import FolderLock
from batchflux.review import decisions
from batchflux.review.listen import serve
from tests.review.conftest import Folder, Page, opened
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def table(folder: Folder) -> list[dict[str, str]]:
    with (folder.root / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read(folder: Folder, what: Callable[[sqlite3.Connection], Any]) -> Any:
    with closing(sqlite3.connect(folder.root / "ledger.db")) as connection:
        return what(connection)


async def refused(page: Page, body: Any) -> tuple[int, str]:
    async with page.post(body) as response:
        answer = await response.json()
        assert set(answer) == {"error"}
        return response.status, answer["error"]


async def test_a_verdict_is_kept_when_the_answer_leaves(page: Page, folder: Folder) -> None:
    mug, cup = await folder.add("mug"), await folder.add("cup")
    answer = await page.judge([mug, cup], "accept", note="gut 🦊")
    assert [(row["id"], row["review"], row["note"]) for row in answer["rows"]] == [
        ("mug", "accept", "gut 🦊"),
        ("cup", "accept", "gut 🦊"),
    ]
    assert answer["redo"] == []
    said = read(folder, verdicts)
    assert {key.hex(): verdict.review for key, verdict in said.items()} == {mug.key: "accept", cup.key: "accept"}
    answer = await page.judge([mug], "reject")
    assert answer["rows"][0]["note"] == "gut 🦊"
    answer = await page.judge([mug], "", note="")
    assert (answer["rows"][0]["review"], answer["rows"][0]["note"]) == ("", "")
    assert list(read(folder, verdicts)) == [bytes.fromhex(cup.key)]


async def test_a_redo_is_asked_for_changed_and_taken_back(page: Page, folder: Folder) -> None:
    mug = await folder.add("mug")
    asked = {"prompt": "a red mug", "seed": 7}
    answer = await page.judge([mug], "redo", redo=asked)
    assert answer["redo"] == [{"key": mug.key, "id": "mug-redo1"}]
    assert answer["rows"][0]["review"] == "redo"
    answer = await page.judge([mug], "redo", note="only a note")
    assert (answer["redo"], answer["already"]) == ([], [mug.key])
    waiting = read(folder, waiting_redos)
    assert [(one.redo.prompt, one.redo.seed) for one in waiting] == [("a red mug", 7)]
    answer = await page.judge([mug], "redo", redo={"prompt": None, "seed": None})
    assert answer["redo"] == [{"key": mug.key, "id": "mug-redo1"}]
    assert [(one.redo.prompt, one.redo.seed) for one in read(folder, waiting_redos)] == [(None, None)]
    await page.judge([mug], "accept")
    assert read(folder, waiting_redos) == []


async def test_all_of_a_selection_or_nothing(page: Page, folder: Folder) -> None:
    mug = await folder.add("mug")
    code, error = await refused(page, {"keys": [mug.key, "0" * 64], "review": "reject"})
    assert (code, "no such picture" in error) == (404, True)
    assert read(folder, lambda connection: connection.execute("PRAGMA table_info(reviews)").fetchall()) == []


async def test_a_redo_of_what_the_manifest_lists_no_more(page: Page, folder: Folder) -> None:
    mug = await folder.add("mug")
    folder.ledger.database.now(lambda connection: connection.execute("UPDATE jobs SET listed = 0"))
    code, error = await refused(page, {"keys": [mug.key], "review": "redo"})
    assert (code, "does not list this job" in error) == (409, True)
    assert read(folder, verdicts) == {}


async def test_before_anything_was_run(page: Page, folder: Folder) -> None:
    code, error = await refused(page, {"keys": ["0" * 64], "review": "accept"})
    assert (code, "Nothing has been run" in error) == (409, True)
    assert not folder.root.exists()


async def test_what_is_no_verdict(page: Page, folder: Folder) -> None:
    mug = await folder.add("mug")
    code, error = await refused(page, b"{}")
    assert (code, error) == (400, '"review" must be accept, reject, redo or empty.')
    assert (await refused(page, {"keys": [mug.key], "review": "accept", "x": 1}))[0] == 400
    async with page.get("/api/rows?since=x") as response:
        assert (response.status, await response.json()) == (400, {"error": "since must be a whole number."})
    async with page.get("/api/nowhere") as response:
        assert response.status == 404
        assert set(await response.json()) == {"error"}


async def test_a_ledger_that_takes_nothing(page: Page, folder: Folder) -> None:
    mug = await folder.add("mug")
    folder.close()
    (folder.root / "ledger.db").write_bytes(b"this is no ledger" * 100)
    code, error = await refused(page, {"keys": [mug.key], "review": "accept"})
    assert code == 503
    assert "ledger.db" in error


async def test_results_show_verdicts_at_once(page: Page, folder: Folder) -> None:
    mug, cup = await folder.add("mug", tags=(("sku", "M-1"),)), await folder.add("cup", fails=True)
    results = Results(folder.root / "results.csv", ["sku", "empty"])
    folder.ledger.database.now(lambda connection: results.rewrite(ended_rows(connection)))
    before = table(folder)
    await page.judge([cup], "reject", note="=HYPERLINK(1)")
    await until(lambda: "review" in table(folder)[0])
    await page.judge([mug], "accept")
    await until(lambda: table(folder)[0]["review"] == "accept")
    rows = table(folder)
    assert list(rows[0]) == [*before[0], "review", "note"]
    assert [{name: row[name] for name in before[0]} for row in rows] == before
    assert [(row["review"], row["note"]) for row in rows] == [("accept", ""), ("reject", "'=HYPERLINK(1)")]


async def test_results_are_left_to_a_run_that_holds_the_folder(page: Page, folder: Folder) -> None:
    mug = await folder.add("mug")
    lock = FolderLock(folder.root)
    lock.acquire()
    await page.judge([mug], "accept")
    assert not (folder.root / "results.csv").exists()
    lock.release()  # killed, say: it wrote nothing
    await until((folder.root / "results.csv").exists)
    assert table(folder)[0]["review"] == "accept"


async def test_the_end_of_a_review_shows_what_is_left_to_show(
    folder: Folder, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: list[str] = []

    def recorded(root: Path) -> projection.Outcome:
        outcome = projection.show_verdicts(root)
        outcomes.append(outcome)
        return outcome

    monkeypatch.setattr(decisions, "show_verdicts", recorded)
    monkeypatch.setattr(decisions, "_HELD", 3600.0)
    mug = await folder.add("mug")
    lock = FolderLock(folder.root)
    lock.acquire()
    site = await serve(folder.root, "127.0.0.1", 0, told.append)
    async with opened(site) as page:
        await page.judge([mug], "reject", note="gone")
        await until(lambda: "held" in outcomes)
    lock.release()
    await site.stop()
    assert table(folder)[0]["note"] == "gone"
    assert read(folder, lambda connection: get_meta(connection, "reviews_stale")) == "0"
    assert told == []


async def test_a_folder_that_takes_no_results_is_told_of_once_a_verdict(
    page: Page, folder: Folder, told: list[str]
) -> None:
    mug = await folder.add("mug")
    (folder.root / "results.csv").mkdir()
    await page.judge([mug], "accept")
    await until(lambda: bool(told))
    assert "The verdicts are kept" in told[0]
    assert len(read(folder, verdicts)) == 1
    assert [path.name for path in folder.root.glob(".results*")] == []


@pytest.mark.parametrize("count", [1200])
async def test_a_verdict_on_many(page: Page, folder: Folder, count: int) -> None:
    jobs = [await folder.add(f"job{number}", fails=True) for number in range(count)]
    answer = await page.judge(jobs, "redo", note="all")
    assert [row["id"] for row in answer["rows"]] == [job.id for job in jobs]
    assert [redo["id"] for redo in answer["redo"]] == [f"{job.id}-redo1" for job in jobs]
    assert len(read(folder, waiting_redos)) == count


async def test_one_verdict_on_more_than_a_page_sends_is_one_transaction(
    filled: Callable[..., Path], tmp_path: Path, told: list[str]
) -> None:
    root = filled(tmp_path / "out", count=6000)
    with closing(sqlite3.connect(root / "ledger.db")) as connection:
        keys = [key.hex() for (key,) in connection.execute("SELECT key FROM jobs ORDER BY position")]
    site = await serve(root, "127.0.0.1", 0, told.append)
    try:
        async with opened(site) as page:
            assert (await refused(page, {"keys": [*keys, "0" * 64], "review": "reject"}))[0] == 404
            async with page.post({"keys": keys[::-1], "review": "accept"}) as response:
                assert response.status == 200
                rows = (await response.json())["rows"]
            assert [row["key"] for row in rows] == keys
            assert {row["review"] for row in rows} == {"accept"}
    finally:
        await site.stop()
    with closing(sqlite3.connect(root / "ledger.db")) as connection:
        assert len(verdicts(connection)) == 6000


async def test_a_pick_is_one_step_with_a_name_and_can_be_undone_in_one(page: Page, folder: Folder) -> None:
    takes = [await folder.add(f"mug-{number}") for number in range(3)]
    await page.judge([takes[1]], "redo", redo={"prompt": "a red mug", "seed": 7})
    asked = {"siblings": [take.key for take in takes[1:]], "reviewer": " Ann ", "note": "this one"}
    answer = await page.judge(takes[:1], "accept", **asked)
    said = {row["id"]: (row["review"], row["note"], row["reviewer"]) for row in answer["rows"]}
    assert said == {
        "mug-0": ("accept", "this one", "Ann"),
        "mug-1": ("reject", "", "Ann"),
        "mug-2": ("reject", "", "Ann"),
    }
    assert read(folder, waiting_redos) == []
    await page.judge([takes[2]], "accept", reviewer="Ben")  # meanwhile: it stands
    async with page.post({"undo": answer["undo"]}, path="/api/undo") as response:
        undone = await response.json()
    said = {row["id"]: (row["review"], row["note"], row["reviewer"]) for row in undone["rows"]}
    assert said == {"mug-0": ("", "", ""), "mug-1": ("redo", "", ""), "mug-2": ("accept", "", "Ben")}
    assert [(one.redo.prompt, one.redo.seed) for one in read(folder, waiting_redos)] == [("a red mug", 7)]
    async with page.post({"undo": answer["undo"]}, path="/api/undo") as response:
        assert (response.status, await response.json()) == (
            409,
            {"error": "That verdict cannot be undone any more."},
        )
    written = folder.root / "results.csv"  # a moment later, and not once for each verdict
    await until(lambda: written.exists() and [row.get("reviewer") for row in table(folder)] == ["", "", "Ben"])


async def test_a_redo_of_several_replaces_text_in_the_prompt_of_each(page: Page, folder: Folder) -> None:
    takes = [await folder.add(f"mug-{number}", prompt=f"mug {number} on oak") for number in range(2)]
    answer = await page.judge(takes, "redo", redo={"find": "0 on oak", "replace": "0 on marble"})
    assert [redo["id"] for redo in answer["redo"]] == ["mug-0-redo1", "mug-1-redo1"]
    assert [one.redo.prompt for one in read(folder, waiting_redos)] == ["mug 0 on marble", None]
    code, error = await refused(page, {"keys": [takes[0].key], "review": "redo", "redo": {"find": "mug 0 on oak"}})
    assert (code, "blank" in error) == (409, True)
    assert [one.redo.prompt for one in read(folder, waiting_redos)] == ["mug 0 on marble", None]
