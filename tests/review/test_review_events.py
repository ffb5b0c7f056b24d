"""The stream of changes: what a page learns, whatever happens to the run, the folder and the connection meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.ledger.tables import set_meta
from batchflux.output.folder import FolderLock, write_whole
from batchflux.review import server as review_server
from batchflux.review.listen import serve
from tests.attempts import send
from tests.review.conftest import Events, Folder, Page, opened

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing come by the heartbeat that does not come by itself."""
    monkeypatch.setattr(review_server, "HEARTBEAT", 3600.0)


def ids(data: dict[str, Any]) -> list[str]:
    return [row["id"] for row in data["rows"]]


async def rows_until(events: Events, last: str) -> list[str]:
    """Return the ids of all rows up to the one called `last`."""
    seen: list[str] = []
    while last not in seen:
        seen += ids(await events.until("rows"))
    return seen


async def test_rows_come_as_jobs_end_and_are_judged(page: Page, folder: Folder) -> None:
    mug = await folder.add("mug")
    async with page.events() as events:
        data = await events.until("rows")
        assert ids(data) == ["mug"]
        assert data["sequence"] == events.last_id == 1
        await events.standing(done=1)
        under_way = await folder.intend("cup")
        await folder.end(under_way)
        data = await events.until("rows")
        assert (ids(data), data["gone"]) == (["cup"], [])
        await events.standing(done=2)
        await page.judge([mug], "accept", note="good")
        data = await events.until("rows")
        assert [(row["id"], row["review"], row["note"]) for row in data["rows"]] == [("mug", "accept", "good")]


async def test_a_stream_goes_on_where_it_broke_off(page: Page, folder: Folder) -> None:
    for name in ("a", "b", "c"):
        await folder.add(name)
    async with page.events() as events:
        await rows_until(events, "c")
        known = events.last_id
    await folder.add("d")
    async with page.events(0, **{"Last-Event-ID": str(known)}) as events:
        assert ids(await events.until("rows")) == ["d"]
    async with page.events(known) as events:
        assert ids(await events.until("rows")) == ["d"]
    answer = await page.rows(known)
    assert (ids(answer), answer["sequence"], answer["gone"]) == (["d"], 4, [])
    assert answer["header"]["counts"]["done"] == 4
    assert ids(await page.rows(answer["sequence"])) == []
    assert ids(await page.rows()) == ["a", "b", "c", "d"]


async def test_a_number_of_another_server_begins_anew(page: Page, folder: Folder) -> None:
    await folder.add("mug")
    async with page.events(999) as events:
        assert await events.until("reset") == {"sequence": 0}
        assert ids(await events.until("rows")) == ["mug"]


async def test_a_row_that_is_no_longer_listed_goes(page: Page, folder: Folder) -> None:
    mug, _ = await folder.add("mug"), await folder.add("cup")
    async with page.events() as events:
        await rows_until(events, "cup")

        def unlist(connection: Any) -> None:
            connection.execute("UPDATE jobs SET listed = 0 WHERE id = 'mug'")
            connection.execute("UPDATE jobs SET id = 'big cup' WHERE id = 'cup'")
            set_meta(connection, "began", "2.0")

        folder.ledger.database.now(unlist)
        data = await events.until("rows")
        assert (ids(data), data["gone"]) == (["big cup"], [mug.key])


async def test_a_failed_job_that_is_tried_again_goes_and_comes_back(page: Page, folder: Folder) -> None:
    mug = await folder.add("mug", fails=True)
    async with page.events() as events:
        assert (await events.until("rows"))["rows"][0]["status"] == "failed"
        await send(folder.ledger, mug, price=1, at=3.0)
        set_ = folder.ledger.database.now
        set_(lambda connection: set_meta(connection, "began", "3.0"))
        data = await events.until("rows")
        assert (data["rows"], data["gone"]) == ([], [mug.key])
        await folder.end(mug)
        assert (await events.until("rows"))["rows"][0]["status"] == "done"


async def test_the_run_begins_and_ends(page: Page, folder: Folder) -> None:
    await folder.add("mug")
    async with page.events() as events:
        await events.standing(state="none", done=1)
        lock = FolderLock(folder.root)
        lock.acquire()
        await events.standing(state="running")
        write_whole(folder.root / "summary.json", '{"message": "The job is done."}')
        lock.release()
        await events.standing(state="ended", message="The job is done.")


async def test_the_ledger_comes_later(page: Page, folder: Folder) -> None:
    """As with run --watch: the page is there before the run has made its folder."""
    assert not folder.root.exists()
    async with page.get("/") as response:
        assert response.status == 200
    async with page.events() as events:
        await events.standing(total=0)
        folder.root.mkdir()
        (folder.root / "ledger.db").write_bytes(b"")  # as it is for a moment while it is made
        await folder.add("mug")
        assert await rows_until(events, "mug") == ["mug"]


async def test_the_folder_is_replaced(page: Page, folder: Folder, tmp_path: Path) -> None:
    for name in ("a", "b"):
        await folder.add(name)
    async with page.events() as events:
        await rows_until(events, "b")
        known = events.last_id
        folder.close()
        folder.root.rename(tmp_path / "gone")  # at once: the page may be opening the ledger just now
        assert (await events.until("reset"))["sequence"] > known
        await folder.add("c")
        assert await rows_until(events, "c") == ["c"]
    # Who was away meanwhile learns it too.
    async with page.events(known) as events:
        await events.until("reset")
        assert await rows_until(events, "c") == ["c"]
    assert ids(await page.rows()) == ["c"]


async def test_many_rows_come_in_pieces(page: Page, folder: Folder) -> None:
    names = [f"job{number:04}" for number in range(1300)]
    for name in names:
        await folder.add(name, fails=True)
    async with page.events() as events:
        first = await events.until("rows")
        assert 0 < len(first["rows"]) < len(names)
        seen = ids(first) + await rows_until(events, names[-1])
        assert seen == names
    assert ids(await page.rows()) == names


async def test_the_end_of_the_review_is_the_end_of_its_streams(folder: Folder) -> None:
    await folder.add("mug")
    site = await serve(folder.root, "127.0.0.1", 0, print)
    async with opened(site) as page, page.events() as events:
        await events.standing(done=1)
        write_whole(folder.root / "summary.json", '{"message": "All is done."}')
        await site.stop()
        await events.standing(message="All is done.")
        assert (await events.next())[0] == "end"


async def test_streams_are_bounded_in_number(page: Page, folder: Folder) -> None:
    await folder.add("mug")
    streams = [page.events() for _ in range(32)]
    opened_streams = [await stream.__aenter__() for stream in streams]
    for events in opened_streams:
        await events.until("rows")
    async with page.get("/api/events") as response:
        assert response.status == 503
        assert "close some" in (await response.json())["error"]
    for stream in streams:
        await stream.__aexit__(None, None, None)


async def test_a_quiet_stream_gives_signs_of_life(page: Page, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what stands between, and the server itself, notice when the other end has gone."""
    await folder.add("mug")
    monkeypatch.setattr(review_server, "HEARTBEAT", 0.05)
    async with page.events() as events:
        await events.until("rows")
        while (line := await asyncio.wait_for(events.response.content.readline(), 60)) != b": still here\n":
            assert line, "the stream ended"
