"""Where a review is served, beside a run too, and what becomes of an answer when the folder fails under it."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from contextlib import suppress
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientError

from batchflux.errors import StorageError, UsageError
from batchflux.review import listen, server
from batchflux.review.ledger_access import LedgerAccess
from batchflux.review.listen import ServedReview, WatchServer, serve
from tests.review.conftest import Folder, Page, opened
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("host", ["192.0.2.7", "no.such.host.invalid", "a" * 300])
async def test_an_address_of_somebody_else(tmp_path: Path, host: str) -> None:
    with pytest.raises(UsageError, match="--"):
        await serve(tmp_path, host, 0, print)


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="name another --port"):
            await serve(tmp_path, "127.0.0.1", taken.getsockname()[1], print)


@pytest.mark.parametrize("host", ["localhost", "::1"])
async def test_a_name_is_one_address_with_one_port(folder: Folder, host: str) -> None:
    await folder.add("mug")
    site = await serve(folder.root, host, 0, print)
    async with opened(site) as page:
        assert len((await page.rows())["rows"]) == 1
    await site.stop()
    assert site.opens is None


async def test_beside_a_run_it_has_a_thread_of_its_own(folder: Folder, told: list[str]) -> None:
    page = WatchServer(folder.root, told.append)
    await asyncio.to_thread(page.start)
    assert "batchflux-watch" in [thread.name for thread in threading.enumerate()]
    found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", told[0])
    assert found is not None
    await folder.add("mug")  # the ledger comes after the page
    async with opened(ServedReview(None, found[0], None, None)) as browser, browser.events() as events:  # type: ignore[arg-type]  # an address
        await events.until("rows")
        stopping = asyncio.create_task(asyncio.to_thread(page.stop))
        while (await events.next())[0] != "end":
            pass
        await stopping
    assert "batchflux-watch" not in [thread.name for thread in threading.enumerate()]
    assert len(told) == 1


def test_a_run_goes_on_without_a_page(tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any, **__: Any) -> ServedReview:
        raise UsageError("no port is free")

    monkeypatch.setattr(listen, "serve", refuse)
    page = WatchServer(tmp_path, told.append)
    page.start()
    page.stop()
    assert told == ["The run goes on without a page to watch it: no port is free"]


async def test_half_an_answer_does_not_look_whole(page: Page, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(600):
        await folder.add(f"job{number}", fails=True)
    real = LedgerAccess.changed

    def changed(store: LedgerAccess, since: int) -> Any:
        if since:
            raise StorageError("The disk has gone.")
        return real(store, since)

    monkeypatch.setattr(LedgerAccess, "changed", changed)
    with pytest.raises(ClientError):
        await page.rows()
    monkeypatch.undo()
    assert len((await page.rows())["rows"]) == 600


async def test_a_picture_that_is_cut_while_it_is_sent(page: Page, folder: Folder) -> None:
    """What was promised cannot be kept; the browser must see that, and not half a picture."""
    (folder.root / "images").mkdir(parents=True)
    path = folder.root / "images/a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50_000_000))

    async def read() -> None:
        async with page.get("/images/a.png") as response:
            with path.open("r+b") as file:
                file.truncate(1000)
            await response.read()

    with pytest.raises(ClientError):
        await read()


async def test_a_name_that_is_no_unicode_is_still_json(tmp_path: Path) -> None:
    folder = tmp_path / "a\udcffb ü\u2028🦊"
    served = await serve(folder, "127.0.0.1", 0, print)
    async with opened(served) as page:
        assert (await page.rows())["header"]["folder"] == folder.name
    await served.stop()


async def _closed(site: ServedReview, *pieces: bytes) -> bool:
    """Send pieces without end to a review; return whether it closes the connection on us."""
    where = urlsplit(site.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    with suppress(ConnectionError):
        for piece in chain(pieces, repeat(b"X-Slow: 1\r\n")):
            writer.write(piece)
            await writer.drain()
            with suppress(TimeoutError):
                answer = await asyncio.wait_for(reader.read(1 << 16), 0.05)
                if b"408" in answer or not answer:
                    break
    writer.close()
    return True


@pytest.mark.timeout(60)
async def test_a_request_that_never_ends_is_given_up(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends a head or a body drop by drop holds no connection for ever, with or without the token."""
    monkeypatch.setattr(listen, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(server, "BODY_SECONDS", 0.2)
    await folder.add("mug")
    site = await serve(folder.root, "127.0.0.1", 0, print)
    head = f"POST /api/verdicts HTTP/1.1\r\nHost: {urlsplit(site.url).netloc}\r\n"
    token = site.url.partition("=")[2]
    whole = f"{head}X-Batchflux-Token: {token}\r\nOrigin: http://{urlsplit(site.url).netloc}\r\n"
    body = f"{whole}Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    for pieces in ([b""], [b"GET / HT"], [head.encode()], [body.encode()]):
        assert await _closed(site, *pieces)
    await site.stop()


@pytest.mark.timeout(60)
async def test_so_many_connections_and_no_more(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "MOST_CONNECTIONS", 5)
    await folder.add("mug")
    site = await serve(folder.root, "127.0.0.1", 0, print)
    where = urlsplit(site.url)
    held = [await asyncio.open_connection(where.hostname, where.port) for _ in range(5)]
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    with suppress(ConnectionError):
        assert await reader.read() == b""
    for one in (writer, *(writer for _, writer in held)):
        one.close()
    await until(lambda: not (site.runner.server and site.runner.server.connections))
    async with opened(site) as page:
        assert len((await page.rows())["rows"]) == 1
    await site.stop()
