"""A review of pictures that are in a bucket alone: they come by its server, and nothing else of the bucket does."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from tests.mirroring import PREFIX, mirror
from tests.review.conftest import Folder, Page, picture
from tests.stores import DENIED

if TYPE_CHECKING:
    import pytest

    from batchflux.models import Job
    from tests.stores import Faulty, Served


async def mirrored(folder: Folder, served: Served, monkeypatch: pytest.MonkeyPatch) -> Job:
    for name, value in served.environ.items():
        monkeypatch.setenv(name, value)
    made = await folder.add("mug")
    mirror(folder.root, served)
    return made


async def test_picture_and_thumbnail_come_from_the_bucket(
    page: Page, folder: Folder, moto: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    mug = await mirrored(folder, moto, monkeypatch)
    (row,) = (await page.rows())["rows"]
    assert (row["full"], row["mirror"]) == ("images/mug.png", f"{moto.bucket}/{PREFIX}/out/images/mug.png")
    async with page.get("/images/mug.png") as response:
        assert (response.status, response.content_type) == (200, "image/png")
        assert await response.read() == picture(mug.key)
        etag = response.headers["ETag"]
    async with page.get(f"/{row['thumb']}") as response:
        assert (response.status, response.content_type) == (200, "image/jpeg")
    assert (folder.root / row["thumb"]).is_file()
    moto.store().delete(f"{PREFIX}/out/images/mug.png")
    async with page.get("/images/mug.png", headers={"If-None-Match": etag}) as response:
        assert response.status == 304
    async with page.get("/images/mug.png") as response:
        assert response.status == 404
    async with page.get(f"/{row['thumb']}") as response:
        assert response.status == 200


async def test_one_that_is_not_the_ledgers_is_not_there(
    page: Page, folder: Folder, moto: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mirrored(folder, moto, monkeypatch)
    data = picture("a stranger's")
    for name in ("images/other.png", "ledger.db", "rejected/x.png"):
        moto.store().put(f"{PREFIX}/out/{name}", data, hashlib.sha256(data).hexdigest())
    paths = ("/images/other.png", "/rejected/x.png", "/images/..%2fledger.db", "/images/%ff.png", "/images/MUG.png")
    for path in (*paths, "/images/mug.jpg", "/thumbs/0123456789abcdef-0123456789ab.jpg"):
        async with page.get(path) as response:
            assert response.status == 404, path


async def test_what_is_no_picture_is_not_given_out(
    page: Page, folder: Folder, moto: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the ledger has its digest."""
    mug = await mirrored(folder, moto, monkeypatch)
    data = b"<script>alert(1)</script>"
    digest = hashlib.sha256(data).hexdigest()
    moto.store().put(f"{PREFIX}/out/images/mug.png", data, digest, over=True)
    folder.ledger.database.now(lambda connection: connection.execute("UPDATE mirrored SET sha256 = ?", (digest,)))
    change = "UPDATE jobs SET sha256 = ? WHERE key = ?"
    folder.ledger.database.now(lambda connection: connection.execute(change, (digest, bytes.fromhex(mug.key))))
    async with page.get("/images/mug.png") as response:
        assert response.status == 404


async def test_why_pictures_cannot_be_shown_is_said_once(
    page: Page, folder: Folder, faulty: Faulty, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await mirrored(folder, faulty, monkeypatch)
    faulty.front.methods, faulty.front.always = frozenset({"GET"}), DENIED
    (row,) = (await page.rows())["rows"]
    for path in ("/images/mug.png", f"/{row['thumb']}", "/images/mug.png"):
        async with page.get(path) as response:
            assert response.status == 503
            assert faulty.bucket in await response.text()
    (said,) = told
    assert said.startswith(f"Pictures of the mirror cannot be shown: {faulty.bucket}")
