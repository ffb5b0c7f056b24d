"""Pictures that are none, that grow, or that somebody else's name leads to; and what uploads leave on the disk."""

from __future__ import annotations

import asyncio
import base64
import errno
import io
import json
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import FormData

from batchflux.output.base import UPLOADS
from tests.gateway.hostile.conftest import CHAT, EDITS, IMAGES, Caller, House, picture, together
from tests.waiting import until

pytestmark = pytest.mark.slow


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """Return a PNG of so many pixels a side, in few bytes."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(side * 3 + 1) * min(side, 200), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


WHOLE = picture("green", size=(200, 200))
BROKEN = {
    "nothing": b"",
    "text": b"hello" * 100,
    "html": b"<html><script>alert(1)</script></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "a half": WHOLE[: len(WHOLE) // 2],
    "a head": WHOLE[:40],
    "a magic number": b"\x89PNG\r\n\x1a\n" + b"x" * 1000,
    "a bomb": bomb(60_000),
    "a text bomb": b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0))
    + chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(100 << 20), 9))
    + chunk(b"IDAT", zlib.compress(bytes(52)))
    + chunk(b"IEND", b""),
    "a GIF of no size": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x70, 0, 0) + b";",
    "zeros": bytes(1 << 20),
    "a JPEG's head": b"\xff\xd8\xff\xe0" + bytes(500),
    "a WEBP's head": b"RIFF\xff\xff\xff\x7fWEBPVP8 " + bytes(100),
}


def form(data: bytes, prompt: str = "job a") -> FormData:
    made = FormData()
    made.add_field("prompt", prompt)
    made.add_field("image", data, filename="a.png")
    return made


def uploads(house: House) -> list[Path]:
    folder = house.out / UPLOADS
    return sorted(folder.iterdir()) if folder.is_dir() else []


def as_json(data: bytes, **more: str) -> io.BytesIO:
    link = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return io.BytesIO(json.dumps({"prompt": "job a", "image": link, **more}).encode())


JSON = {"Content-Type": "application/json"}


async def test_what_is_no_whole_picture_is_refused_and_nothing_is_bought_or_kept(house: House) -> None:
    async with house.caller() as caller:
        for name, data in BROKEN.items():
            for sent in ({"data": form(data)}, {"data": as_json(data), "headers": JSON}):
                status, said, _ = await caller.ask(EDITS, **sent)
                assert status == 400, name
                assert said["error"]["param"] == "image", name
                assert str(house.base) not in str(said)
                assert UPLOADS not in str(said)
        assert uploads(house) == []
        assert house.bank.posts.total() == 0
        assert (await caller.ask(EDITS, data=form(WHOLE)))[0] == 200
        assert [path.read_bytes() for path in uploads(house)] == [WHOLE]


async def test_orders_that_are_refused_leave_no_uploads(house: House) -> None:
    """Or who may buy nothing could fill the disk."""
    house.client("a", budget="0")
    house.client("b")
    async with house.callers() as callers:
        poor, rich = callers.values()
        for more in ({}, {"model": "none"}, {"seed": "x"}, {"mask": "https://10.0.0.1/"}, {"size": "9x9000"}):
            for caller in (poor, rich) if more else (poor,):
                status, _, _ = await caller.ask(EDITS, data=as_json(WHOLE, **more), headers=JSON)
                assert status in {400, 404, 429}, more
        assert uploads(house) == []
        assert (await rich.ask(EDITS, data=as_json(WHOLE), headers=JSON))[0] == 200
        assert (await poor.ask(EDITS, data=as_json(WHOLE), headers=JSON))[0] == 429
        assert len(uploads(house)) == 1, "it is of a call on record"
    (house.out / UPLOADS / ".tmp-0123").write_bytes(b"a half")
    async with house.callers() as callers:
        assert (await callers["a"].ask(EDITS, data=as_json(WHOLE), headers=JSON))[0] == 429
        assert len(uploads(house)) == 1, "in the next run, too"


async def test_the_same_picture_in_orders_that_race(house: House) -> None:
    """Refused ones must not take the file away from under those that are carried out."""
    house.client("a", budget="0")
    house.client("b")
    async with house.callers() as callers:
        for number in range(4):
            data = picture("red", size=(50 + number, 50))
            calls = [callers["ab"[n % 2]].ask(EDITS, data=form(data, f"job {number} {n}")) for n in range(12)]
            ends = [status for status, _, _ in await together(*calls)]
            assert ends == [429, 200] * 6
    assert len(uploads(house)) == 4


async def test_a_client_that_leaves_while_its_picture_is_read(house: House) -> None:
    house.client("a", budget="0")
    async with house.caller() as caller:
        for number in range(12):
            data = picture("red", size=(1500 + number, 1500))
            with suppress(TimeoutError):
                async with asyncio.timeout(0.002 * number):
                    await caller.ask(EDITS, data=form(data))
        assert (await caller.ask(EDITS, data=form(WHOLE)))[0] == 429
        await until(lambda: not uploads(house), pause=0.05)


async def test_links_that_are_none_of_ours(house: House) -> None:
    """No name leads to another file, and none is found by trying."""
    (house.base / "outside.png").write_bytes(picture("blue"))
    async with house.caller() as caller:
        _, said, _ = await caller.ask(IMAGES, {"prompt": "job a", "response_format": "url"})
        link = said["data"][0]["url"]
        name = link.rpartition("/")[2]
        status, data, headers = await caller.ask(link.removeprefix(caller.url))
        assert (status, headers["Content-Type"]) == (200, "image/png" if data[:4] == b"\x89PNG" else "image/jpeg")
        assert headers["Cache-Control"].startswith("private")
        assert "sandbox" in headers["Content-Security-Policy"]
        prefix, _, rest = name.partition("-")
        for wrong in (
            *("", ".", "..", "ledger.db", "run.log", "..%2fledger.db", "..%5c..%5cledger.db", "%2e%2e/ledger.db"),
            *("../../outside.png", "..%2f..%2foutside.png", "%00", f"{name}%00.png", f"{name}/", f"{name}.png"),
            *(
                f"./{name}",
                f"{prefix}-{'a' * 32}.jpg",
                f"{'0' * 16}-{rest}",
                f"{prefix[:-1]}-{rest}",
                prefix,
                f"-{rest}",
            ),
            *(
                name.upper(),
                quote("/etc/passwd", safe=""),
                "%ff%fe",
                "x" * 3000,
                f"{prefix}%-{rest}",
            ),
        ):
            answer = await raw(caller, f"GET /images/{wrong} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert answer.split(b" ", 2)[1] in {b"404", b"400"}, (wrong, answer[:99])
            assert b"SQLite" not in answer
            assert picture("blue") not in answer


async def raw(caller: Caller, request: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(caller.url.rpartition(":")[2]))
    writer.write(request.encode())
    answer = await asyncio.wait_for(reader.read(), 90)
    writer.close()
    return answer


async def test_our_own_links_as_references_lead_to_our_pictures_alone(house: House) -> None:
    async with house.caller() as caller:
        _, said, _ = await caller.ask(IMAGES, {"prompt": "job a", "response_format": "url"})
        link = said["data"][0]["url"]
        _, data, _ = await caller.ask(link.removeprefix(caller.url))
        assert (await caller.ask(EDITS, {"prompt": "job b", "image": link}))[0] == 200
        assert base64.b64encode(data).decode() in str(house.bank.seen[-1].body)
        for wrong in ("../../ledger.db", "x", "%2e%2e/x", link.rpartition("/")[2].replace("-", "-a", 1), "", "?x", "#"):
            status, said, _ = await caller.ask(EDITS, {"prompt": "job c", "image": f"{caller.url}/images/{wrong}"})
            assert (status, said["error"]["code"]) == (404, "no_such_picture"), wrong


async def test_requests_with_nothing_in_them(house: House) -> None:
    async with house.caller() as caller:
        for path in (IMAGES, EDITS, CHAT, "/v1/batchflux/expand"):
            for headers in ({}, {"Content-Type": "application/json"}, {"Content-Type": "multipart/form-data"}):
                request = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                host = caller.url.removeprefix("http://")
                answer = await raw(
                    caller,
                    f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{request}Content-Length: 0\r\nConnection: close\r\n\r\n",
                )
                no_json = path in {IMAGES, CHAT} and "application/json" not in headers.values()
                assert answer.startswith(b"HTTP/1.1 415 " if no_json else b"HTTP/1.1 400 "), answer
                assert b"unknown_outcome" not in answer


async def test_a_disk_that_takes_no_upload(house: House, caplog: pytest.LogCaptureFixture) -> None:
    async with house.caller() as caller:
        (house.out / UPLOADS).write_text("a file where the folder would be", encoding="utf-8")
        status, said, _ = await caller.ask(EDITS, data=form(WHOLE))
        assert (status, said["error"]["code"]) == (503, "storage_full")
        assert str(house.base) not in str(said)
        assert str(house.out / UPLOADS) in caplog.text
        (house.out / UPLOADS).unlink()
        assert (await caller.ask(EDITS, data=form(WHOLE)))[0] == 200
        assert len(uploads(house)) == 1


async def test_an_upload_that_cannot_be_read_is_told_without_its_place(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is no fault of the client's, so it is to ask again; nor is where its pictures lie any of its business."""
    opens = Path.open

    def fails(self: Path, *arguments: Any, **more: Any) -> Any:
        if self.parent.name == UPLOADS:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opens(self, *arguments, **more)

    house.base = house.base / "a place with blanks"
    house.base.mkdir()
    async with house.caller() as caller:
        status, said, _ = await caller.ask(EDITS, data=form(BROKEN["a half"]))
        assert (status, said["error"]["code"]) == (400, "invalid_image")
        assert "blanks" not in str(said)
        with monkeypatch.context() as broken:
            broken.setattr(Path, "open", fails)
            status, said, _ = await caller.ask(EDITS, data=form(WHOLE))
        assert (status, said["error"]["code"]) == (503, "storage_full")
        assert "blanks" not in str(said)
        assert f"{os.strerror(errno.EMFILE)}; looked at {house.out / UPLOADS}" in caplog.text
        assert (await caller.ask(EDITS, data=form(WHOLE)))[0] == 200
