"""Pictures of the folder are given out, and nothing else that is in it or can be reached from it."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from io import FileIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from yarl import URL

from batchflux.review import files
from batchflux.review.files import open_picture
from batchflux.review.listen import serve
from tests.review.conftest import Folder, Page, opened, picture
from tests.waiting import until

PARTS = ["..", ".", "", "a.png", "sub", "link", "\0", "\udcff"]
SECRET = "canary-of-the-ledger"


async def fetch(page: Page, path: str) -> tuple[int, bytes]:
    async with page.session.get(URL(page.base + path, encoded=True), allow_redirects=False) as response:
        return response.status, await response.read()


@pytest.fixture
def outside(folder: Folder, tmp_path: Path) -> Path:
    """A picture that is none of the folder's, in a place where every way out would lead."""
    path = tmp_path / "outside.png"
    path.write_bytes(picture(SECRET))
    (folder.root / "images").mkdir(parents=True)
    return path


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")])
async def test_a_picture_comes_as_what_it_is(page: Page, folder: Folder, kind: str, suffix: str) -> None:
    """By its bytes; a name that says something else changes nothing."""
    (folder.root / "images/sub").mkdir(parents=True)
    data = picture("x", kind)
    for name in (f"a.{suffix}", "sub/b ü%.html"):
        (folder.root / "images" / name).write_bytes(data)
        async with page.get(f"/images/{name.replace('%', '%25')}") as response:
            assert response.status == 200
            assert response.content_type == f"image/{kind.lower()}"
            assert await response.read() == data
            assert "sandbox" in response.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/images/../ledger.db",
        "/images/..%2fledger.db",
        "/images/%2e%2e/ledger.db",
        "/images/%2e%2e%2fledger.db",
        "/images/..%5cledger.db",
        "/images/%252e%252e%252fledger.db",
        "/images/sub/../../ledger.db",
        "/images/sub/%2e%2e/%2e%2e/ledger.db",
        "/images//etc/passwd",
        "/images/%2fetc%2fpasswd",
        "/images/a.png%00.txt",
        "/images/",
        "/images/.",
        "/images/..",
        "/images/sub",
        "/images/../../outside.png",
        "/images/%2e%2e%2f%2e%2e%2foutside.png",
        "/thumbs/..%2f..%2foutside.png",
        "/thumbs/%2e%2e%2fledger.db",
        "/thumbs/references/..%2f..%2f..%2foutside.png",
        "/thumbs/references/%2e%2e",
        "/ledger.db",
        "/run.log",
        "/results.csv",
        "/manifest.yaml",
        "/images%2f..%2fledger.db",
        "/%69mages/..%2f../ledger.db",
    ],
)
async def test_no_way_leads_out(page: Page, folder: Folder, outside: Path, path: str) -> None:
    await folder.add("mug")
    (folder.root / "images/sub").mkdir()
    for name in ("run.log", "results.csv", "manifest.yaml"):
        (folder.root / name).write_text(SECRET, encoding="utf-8")
    code, body = await fetch(page, path)
    assert code in {404, 405}
    assert b"SQLite" not in body
    assert SECRET.encode() not in body
    assert picture(SECRET) != body


@pytest.mark.parametrize("where", ["file", "folder", "images", "thumbs", "loop", "to the ledger"])
async def test_no_link_leads_out(page: Page, folder: Folder, outside: Path, where: str) -> None:
    images = folder.root / "images"
    path = "/images/link.png"
    if where == "file":
        (images / "link.png").symlink_to(outside)
    elif where == "folder":
        (images / "sub").symlink_to(outside.parent)
        path = "/images/sub/outside.png"
    elif where == "images":
        images.rmdir()
        images.symlink_to(outside.parent)
        path = "/images/outside.png"
    elif where == "thumbs":
        (folder.root / "thumbs").symlink_to(outside.parent)
        path = "/thumbs/outside.png"
    elif where == "loop":
        (images / "link.png").symlink_to(images / "link.png")
    else:
        (images / "link.png").symlink_to(folder.root / "ledger.db")
    assert (await fetch(page, path))[0] == 404


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b"<html><script>alert(1)</script>",
        b"GIF88a" + bytes(20),
        b"%PDF-1.7",
        b"\x89PNG",
        b"RIFF0000WAVE",
    ],
)
async def test_what_is_no_picture_is_not_there(page: Page, folder: Folder, data: bytes) -> None:
    (folder.root / "images").mkdir(parents=True)
    (folder.root / "images/a.png").write_bytes(data)
    assert (await fetch(page, "/images/a.png"))[0] == 404


async def test_a_pipe_and_a_folder_are_not_waited_for(page: Page, folder: Folder) -> None:
    (folder.root / "images").mkdir(parents=True)
    os.mkfifo(folder.root / "images/a.png")
    (folder.root / "images/b.png").mkdir()
    assert [(await fetch(page, f"/images/{name}.png"))[0] for name in "ab"] == [404, 404]


async def test_a_picture_that_is_opened_for_nobody_any_more_is_closed(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Browsers call off what has been scrolled past, and a review ends while pictures are on their way."""
    asked, go, opened_ones = threading.Event(), threading.Event(), list[FileIO]()

    def late(root: Path, name: str) -> tuple[FileIO, str] | None:
        asked.set()
        go.wait(60)
        found = open_picture(root, name)
        assert found is not None
        opened_ones.append(found[0])
        return found

    monkeypatch.setattr(files, "open_picture", late)
    await folder.add("mug")
    site = await serve(folder.root, "127.0.0.1", 0, print)
    async with opened(site) as page:
        asking = asyncio.create_task(fetch(page, "/images/mug.png"))
        await asyncio.to_thread(asked.wait, 60)
        asking.cancel()
        await asyncio.wait([asking])
    await site.stop()
    go.set()
    await until(lambda: opened_ones and opened_ones[0].closed)  # by a thread of the review


async def test_a_picture_is_sent_again_only_when_it_changed(page: Page, folder: Folder) -> None:
    await folder.add("mug")
    async with page.get("/images/mug.png") as response:
        etag = response.headers["ETag"]
        assert response.headers["Cache-Control"] == "private, no-cache"
    async with page.get("/images/mug.png", headers={"If-None-Match": etag}) as response:
        assert (response.status, await response.read()) == (304, b"")
    (folder.root / "images/mug.png").write_bytes(picture("another"))
    async with page.get("/images/mug.png", headers={"If-None-Match": etag}) as response:
        assert response.status == 200
    async with page.session.head(f"{page.base}/images/mug.png") as response:
        assert (response.status, response.content_type) == (200, "image/png")


async def test_thumbnails_are_made_when_they_are_asked_for(page: Page, folder: Folder) -> None:
    job = await folder.add("mug", images=(folder.reference("photo.jpg"),))
    row = (await page.rows())["rows"][0]
    for url, side in ((row["thumb"], 320), (row["references"][0]["src"], 640)):
        assert not (folder.root / url).exists()
        code, body = await fetch(page, f"/{url}")
        assert code == 200
        with Image.open(io.BytesIO(body)) as image:
            assert (image.format, max(image.size)) == ("JPEG", side)
        assert (folder.root / url).read_bytes() == body
    name = Path(row["thumb"]).name
    assert name.startswith(job.key[:16])
    other = "0" * 16 + name[16:]
    wrong = name[:17] + "0" * 12 + ".jpg"
    for made_up in (other, wrong, "x.jpg", "0" * 24 + ".jpg"):
        assert (await fetch(page, f"/thumbs/{made_up}"))[0] == 404
        assert (await fetch(page, f"/thumbs/references/{made_up}"))[0] == 404
    assert [path.name for path in (folder.root / "thumbs").glob("*.jpg")] == [name]


async def test_a_thumbnail_is_not_made_of_what_a_link_leads_to(page: Page, folder: Folder, outside: Path) -> None:
    await folder.add("mug")
    row = (await page.rows())["rows"][0]
    (folder.root / "images/mug.png").unlink()
    (folder.root / "images/mug.png").symlink_to(outside)
    assert (await fetch(page, f"/{row['thumb']}"))[0] == 404
    assert not (folder.root / "thumbs").exists()


async def test_without_room_for_thumbnails_the_picture_comes_itself(page: Page, folder: Folder) -> None:
    await folder.add("mug")
    row = (await page.rows())["rows"][0]
    (folder.root / "thumbs").write_text("in the way", encoding="utf-8")
    code, body = await fetch(page, f"/{row['thumb']}")
    assert (code, body) == (200, (folder.root / "images/mug.png").read_bytes())


@settings(max_examples=100, deadline=None)
@given(
    name=st.text() | st.lists(st.sampled_from(["..", ".", "", "a.png", "sub", "link", "\0", "\udcff"])).map("/".join)
)
def test_no_name_at_all_leads_out(folder: Folder, tmp_path: Path, name: str) -> None:
    images = folder.root / "images"
    (images / "sub").mkdir(parents=True, exist_ok=True)
    for path in (images / "a.png", images / "sub/a.png"):
        path.write_bytes(picture("inside"))
    (tmp_path / "a.png").write_bytes(picture("outside, and longer" * 9))
    if not (images / "link").is_symlink():
        (images / "link").symlink_to(tmp_path)
    found = open_picture(folder.root, f"images/{name}")
    if found is not None:
        with found[0] as file:
            assert file.read() == picture("inside")
