"""Pictures that land in the memory they stay in: only plain answers do, and nobody can tell which way one came."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser
from hypothesis import given
from hypothesis import strategies as st

from batchflux.errors import Code, JobError
from batchflux.models import Inline, Request
from batchflux.transport import Transport, TransportOptions
from batchflux.transport.exchange import DIALS
from batchflux.transport.landing import HEAD_BYTES, Landing, plain_head
from tests.transport.conftest import kept_by

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OK = b"HTTP/1.1 200 OK\r\n"
BODY = bytes(range(256)) * 40
PLAIN = OK + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


class Wire(asyncio.Transport):
    """A connection that goes nowhere: it only knows whom it tells what comes."""

    def __init__(self) -> None:
        super().__init__()
        self._protocol: asyncio.BaseProtocol | None = None
        self.closed = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def close(self) -> None:
        self.closed = True


@dataclass
class Whole:
    """Reads an answer to its end."""

    status: int
    data: bytes = b""

    def feed(self, data: bytes) -> bool:
        self.data += data
        return False

    def finish(self, *, complete: bool) -> Inline:
        if self.status != 200 or not complete:
            raise JobError(Code.SERVER, "no picture")
        return Inline(data=self.data)


async def fetched(transport: Transport, url: str) -> bytes | None:
    return (await transport.fetch(url)).data


async def posted_to(transport: Transport, _: str) -> bytes:
    return await posted(transport)


async def posted(transport: Transport, prompt: str = "") -> bytes:
    request = Request(method="POST", path="/", body={"prompt": prompt}, reader=lambda status, _: Whole(status))
    picture = (await transport.call(request, key=None)).picture
    assert isinstance(picture, Inline)
    return picture.data


def head(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join((status, *lines))


def test_a_plain_head_is_read() -> None:
    data = head(
        b"Content-Length:\t12 ", b"X-A: 1: 2", b"x-a: 3", b"Empty:", "X-Ü: ü".encode().replace("Ü".encode(), b"u")
    )
    assert plain_head(data) == ({"content-length": "12", "x-a": "1: 2", "empty": "", "x-u": "ü"}, 12)
    assert plain_head(head(b"Content-Length: 0", b"Connection: Keep-Alive")) is not None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        head(),
        head(b"Content-Length: 1", status=b"HTTP/1.0 200 OK"),
        head(b"Content-Length: 1", status=b"HTTP/1.1 206 Partial"),
        head(b"Content-Length: 1", status=b"HTTP/1.1 302 Found"),
        head(b"Content-Length: 1", status=b"HTTP/1.1 2000 OK"),
        head(b"Content-Length: 1", b"Content-Length: 1"),
        head(b"Content-Length: 1, 1"),
        head(b"Content-Length: +1"),
        head(b"Content-Length: -1"),
        head(b"Content-Length: 0x1"),
        head(b"Content-Length: \xd9\xa1"),  # a digit, and not an ASCII one
        head(b"Content-Length: 9999999999999"),
        head(b"Content-Length : 1"),
        head(b"Content-Length: 1", b"Transfer-Encoding: chunked"),
        head(b"Content-Length: 1", b"Content-Encoding: gzip"),
        head(b"Content-Length: 1", b"Connection: close"),
        head(b"Content-Length: 1", b"Connection: keep-alive, x"),
        head(b"Content-Length: 1", b"Connection: keep-alive", b"Connection: close"),
        head(b"Content-Length: 1", b"Upgrade: h2c"),
        head(b"Content-Length: 1", b"no colon"),
        head(b"Content-Length: 1", b": no name"),
        head(b"Content-Length: 1", b" folded: x"),
        head(b"X: a", b" Content-Length: 1"),
        head(b"Content-Length: 1", b"X: a\nY: b"),
        head(b"Content-Length: 1", b"X: a\rY: b"),
        head(b"Content-Length: 1\n"),
        head(b"Content-Length: 1", b"X: a\0"),
    ],
)
def test_any_other_head_is_not_plain(data: bytes) -> None:
    assert plain_head(data) is None


WORDS = (
    [b"Content-Length", b"Connection", b"X", b"Transfer-Encoding", b"Content-Encoding"],
    [b": ", b":", b"1", b"12", b"close", b"keep-alive", b"chunked", b"gzip"],
    [b" ", b"\t", b"\r\n", b"\r", b"\n", b"\0", b"\x80", b",", b"\x7f"],
)
WILD = st.lists(st.one_of([st.sampled_from(words) for words in WORDS]), max_size=14).map(b"".join)


@given(tail=WILD)
def test_what_is_plain_is_what_aiohttp_reads_in_it(tail: bytes) -> None:
    data = head(b"Content-Length: 3", tail)
    found = plain_head(data)
    if found is None:
        return
    loop = asyncio.new_event_loop()
    try:
        parser = HttpResponseParser(BaseProtocol(loop), loop, 1 << 16, read_until_eof=True)
        messages, upgraded, rest = parser.feed_data(data + b"\r\n\r\nabc")
    except HttpProcessingError:
        pytest.fail(f"aiohttp takes no such head: {data!r}")
    finally:
        loop.close()
    message, content = messages[0]
    assert (len(messages), upgraded, rest, content.is_eof()) == (1, False, b"", True)
    assert (message.should_close, message.chunked, message.compression, content.total_bytes) == (False, False, None, 3)
    assert found == ({name.lower(): message.headers[name] for name in message.headers}, 3)


async def test_plain_answers_use_one_connection_again(serve: Any, connect: Any) -> None:
    server = await serve(["read", PLAIN, "read", PLAIN, "read", PLAIN])
    transport = await connect(server.url)
    for _ in range(3):
        assert (await transport.fetch(server.url)).data == BODY
    assert server.connections == 1


@pytest.mark.parametrize("cut", [1, 10, len(OK), len(PLAIN) - len(BODY) - 1, len(PLAIN) - len(BODY), len(PLAIN) - 1])
@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_answer_in_two_pieces_is_whole_on_either_loop(
    cut: int, factory: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(PLAIN[:cut])
        await asyncio.sleep(0.01)
        writer.write(PLAIN[cut:])
        await writer.drain()
        writer.close()

    async def main() -> bytes | None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        options = TransportOptions(base_url=url, timeout=9, connections=1, max_bytes=1 << 20, spool_dir=str(tmp_path))
        async with server, Transport(options) as transport:
            return (await transport.fetch(url)).data

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(main()) == BODY


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(BODY) + BODY,
        OK + b"\r\n" + BODY,
        b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
        OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n",
        OK + b"X-Long: " + b"x" * 50_000 + b"\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
        OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(gzip.compress(BODY)) + gzip.compress(BODY),
        b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n" + PLAIN,
        PLAIN + b"too many",
        PLAIN + PLAIN,
    ],
    ids=["close", "until the end", "1.0", "chunked", "long head", "gzip", "early hints", "too many", "two"],
)
async def test_other_answers_are_read_as_well(serve: Any, connect: Any, answer: bytes) -> None:
    server = await serve(["read", answer])
    transport = await connect(server.url, idle_timeout=5)
    assert (await transport.fetch(server.url)).data == BODY


async def test_bytes_too_many_are_not_the_next_answer(serve: Any, connect: Any) -> None:
    other = OK + b"Content-Length: 5\r\n\r\nother"
    server = await serve(["read", PLAIN + other, "hang"], ["read", other])
    transport = await connect(server.url)
    assert (await transport.fetch(server.url)).data == BODY
    assert (await transport.fetch(server.url)).data == b"other"
    assert server.connections == 2


@pytest.mark.parametrize("stray", [b"x", b"\r\n", b"HTTP/1.1 200 OK\r\n", OK + b"Content-Length: 5\r\n\r\nother"])
@pytest.mark.parametrize("ask", [fetched, posted_to], ids=["download", "paid"])
async def test_bytes_too_many_do_not_cost_the_answer_before_them(
    serve: Any, connect: Any, ask: Any, stray: bytes
) -> None:
    """aiohttp's parser drops an answer that came together with bytes it cannot read."""
    server = await serve(
        ["read", OK + b"Content-Length: 4\r\n\r\npaid" + stray, "hang"], ["read", OK + b"Content-Length: 4\r\n\r\nmore"]
    )
    transport = await connect(server.url)
    assert await ask(transport, server.url) == b"paid"
    assert await ask(transport, server.url) == b"more"
    assert server.connections == 2


@pytest.mark.parametrize("coding", [b"", b"chunked"])
@pytest.mark.parametrize("total", range(HEAD_BYTES - 2, HEAD_BYTES + 2))
async def test_bytes_that_wait_behind_an_answer_unread_are_not_the_next(
    serve: Any, connect: Any, total: int, coding: bytes
) -> None:
    """The first read takes so many bytes; the next call is made before there is another."""
    start = OK + (b"Transfer-Encoding: chunked" if coding else b"Content-Length: 4") + b"\r\nX: "
    end = b"\r\n\r\n" + (b"4\r\npaid\r\n0\r\n\r\n" if coding else b"paid")
    answer = start + b"x" * (total - len(start) - len(end)) + end
    server = await serve(
        ["read", answer + OK + b"Content-Length: 5\r\n\r\nother", "hang"],
        ["read", OK + b"Content-Length: 4\r\n\r\nmore"],
    )
    transport = await connect(server.url)
    assert [await posted(transport), await posted(transport)] == [b"paid", b"more"]
    assert server.connections == 2


async def test_bytes_that_come_unasked_are_not_the_next_answer(serve: Any, connect: Any) -> None:
    other = OK + b"Content-Length: 5\r\n\r\nother"
    server = await serve(["read", PLAIN, "read", PLAIN, "hang"], ["read", other])
    transport = await connect(server.url)
    assert (await transport.fetch(server.url)).data == BODY
    (kept,) = kept_by(transport)
    kept.data_received(b"HTTP/1.1 200 OK\r\n")
    assert (await transport.fetch(server.url)).data == b"other"
    assert server.connections == 2


async def test_a_kept_connection_that_was_dropped_is_replaced(serve: Any, connect: Any) -> None:
    server = await serve(["read", PLAIN, "read"], ["read", PLAIN])
    transport = await connect(server.url)
    for _ in range(2):
        assert (await transport.fetch(server.url)).data == BODY
    assert (server.connections, len(server.requests)) == (2, 3)


@pytest.mark.parametrize(
    ("script", "words", "connections"),
    [
        (["read", PLAIN[:-1]], "cut off", 1),
        (["read", PLAIN[:-1], "reset"], "cut off", 1),
        (["read", PLAIN[:-1], "hang"], "nothing came", 1),
        (["read", PLAIN[:20], "hang"], "nothing came", 1),
        (["read", PLAIN[:20]], "connection was closed", 2),
        (["read", PLAIN[:20], "reset"], "reset", 2),
    ],
    ids=["short", "reset", "stalled", "head stalled", "head cut", "head reset"],
)
async def test_a_plain_answer_that_ends_early_is_a_failed_download(
    serve: Any, connect: Any, script: list[Any], words: str, connections: int
) -> None:
    server = await serve(script)
    with pytest.raises(JobError, match=words) as caught:
        await (await connect(server.url, idle_timeout=0.2)).fetch(server.url)
    assert caught.value.code is Code.DOWNLOAD
    assert server.connections == connections


async def test_a_slow_but_steady_answer_is_taken(serve: Any, connect: Any) -> None:
    pieces = [PLAIN[:30], *(PLAIN[at : at + 2000] for at in range(30, len(PLAIN), 2000))]
    server = await serve(["read", *(step for piece in pieces for step in ("pause", piece))])
    assert (await (await connect(server.url, idle_timeout=0.2)).fetch(server.url)).data == BODY


async def test_a_cancelled_download_closes_its_connection(serve: Any, connect: Any) -> None:
    server = await serve(["read", PLAIN[:-1], "hang"])
    transport = await connect(server.url)
    task = asyncio.create_task(transport.fetch(server.url))
    await server.asked.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.gone.wait()


async def test_closing_the_transport_ends_a_download_under_way(serve: Any, tmp_path: Path) -> None:
    server = await serve(["read", PLAIN[:-1], "hang"])
    options = TransportOptions(
        base_url=server.url, timeout=9, connections=1, max_bytes=1 << 20, spool_dir=str(tmp_path)
    )
    async with Transport(options) as transport:
        task = asyncio.create_task(transport.fetch(server.url))
        await server.asked.wait()
        await asyncio.sleep(0.05)
    with pytest.raises(JobError, match="cut off"):
        await task


async def test_the_bound_on_memory_counts_before_a_byte_is_taken(serve: Any, connect: Any) -> None:
    server = await serve(["read", OK + b"Content-Length: 999999999999\r\n\r\n", "hang"])
    with pytest.raises(JobError, match="larger than"):
        await (await connect(server.url)).fetch(server.url)


@pytest.mark.parametrize(
    "start",
    [b"HTTP/1.1 200 OK\nContent-Length: 5\n\nother", b"ICY 200 OK\r\n", b"HTTP/1.1 404", b"<html>", b"\r\n\r\n"],
    ids=["line feeds", "icy", "404", "no http", "blank lines"],
)
async def test_what_can_no_longer_be_plain_is_handed_on_at_once(start: bytes) -> None:
    handler = ResponseHandler(asyncio.get_running_loop())
    handler.connection_made(Wire())
    prepared: list[ResponseHandler] = []

    def prepare(given: ResponseHandler) -> None:
        prepared.append(given)
        given.set_response_params(read_until_eof=True)

    landing = Landing(handler, prepare, most=100, idle=None)
    landing.get_buffer(-1)[: len(start)] = start
    landing.buffer_updated(len(start))
    assert await landing.done is None
    assert prepared == [handler]
    assert landing.transport.get_protocol() is handler


async def test_a_server_that_speaks_first_is_not_dialled_without_end(serve: Any, connect: Any) -> None:
    server = await serve([b"220 ready\r\n", "hang"])
    transport = await connect(server.url)
    made = transport._session.connector._create_connection

    async def late(*arguments: Any) -> Any:
        protocol = await made(*arguments)
        await asyncio.sleep(0.05)  # so what the server says first is there before the request
        return protocol

    transport._session.connector._create_connection = late
    with pytest.raises(JobError) as caught:
        await transport.fetch(server.url)
    assert caught.value.code is Code.DOWNLOAD
    assert 1 <= server.connections <= 2 * DIALS


@pytest.mark.parametrize("ask", [fetched, posted_to], ids=["download", "paid"])
async def test_a_connection_whose_reading_is_held_up_is_not_used_again(serve: Any, connect: Any, ask: Any) -> None:
    server = await serve(["read", PLAIN, "hang"], ["read", PLAIN])
    transport = await connect(server.url)
    assert (await transport.fetch(server.url)).data == BODY
    (kept,) = kept_by(transport)
    kept.transport.pause_reading()
    assert await ask(transport, server.url) == BODY
    assert server.connections == 2


async def until_stray(transport: Any, count: int) -> None:
    async with asyncio.timeout(30):
        while sum(handler.should_close for handler in kept_by(transport)) < count:  # noqa: ASYNC110  aiohttp has no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("stray", [b"x", b"\r\n", b"HTTP/1.1 200 OK\r\n", OK + b"Content-Length: 5\r\n\r\nother"])
async def test_bytes_behind_a_picture_are_no_answer_to_a_paid_call(serve: Any, connect: Any, stray: bytes) -> None:
    server = await serve(["read", PLAIN, "pause", stray, "hang"], ["read", OK + b"Content-Length: 4\r\n\r\npaid"])
    transport = await connect(server.url)
    assert (await transport.fetch(server.url)).data == BODY
    await until_stray(transport, 1)
    assert await posted(transport) == b"paid"
    assert server.connections == 2


@pytest.mark.parametrize(
    "answer", [b"Content-Length: 4\r\n\r\npaid", b"Transfer-Encoding: chunked\r\n\r\n4\r\npaid\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("stray", [b"x", b"\r\n", b"HTTP/1.1 200 OK\r\n", OK + b"Content-Length: 5\r\n\r\nother"])
async def test_bytes_behind_a_paid_answer_are_no_part_of_the_next(
    serve: Any, connect: Any, answer: bytes, stray: bytes
) -> None:
    server = await serve(
        ["read", OK + answer, "pause", stray, "read", b"Content-Length: 5\r\n\r\nother", "hang"],
        ["read", OK + b"Content-Length: 4\r\n\r\nmore"],
    )
    transport = await connect(server.url)
    assert await posted(transport) == b"paid"
    await until_stray(transport, 1)
    assert await posted(transport) == b"more"
    assert server.connections == 2


async def test_an_answer_in_pieces_keeps_its_connection(serve: Any, connect: Any) -> None:
    pieces: list[bytes | str] = [
        "read",
        OK + b"Content-Len",
        "pause",
        b"gth: 4\r\n\r\n",
        "pause",
        b"pa",
        "pause",
        b"id",
    ]
    server = await serve([*pieces, *pieces, "hang"])
    transport = await connect(server.url)
    assert [await posted(transport), await posted(transport)] == [b"paid", b"paid"]
    assert server.connections == 1


async def test_any_number_of_kept_connections_may_have_become_useless(serve: Any, connect: Any) -> None:
    count = DIALS + 2
    server = await serve(*[["read", PLAIN, "pause", b"\r\n", "hang"]] * count, ["read", PLAIN])
    transport = await connect(server.url, connections=count)
    await asyncio.gather(*(transport.fetch(server.url) for _ in range(count)))
    assert server.connections == count
    await until_stray(transport, count)
    assert (await transport.fetch(server.url)).data == BODY


async def test_a_connection_with_an_unfinished_upload_is_not_used_again(serve: Any, connect: Any) -> None:
    refused = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"
    server = await serve(["pause", refused, "stall"], ["read", OK + b"Content-Length: 4\r\n\r\npaid"])
    transport = await connect(server.url)
    with pytest.raises(JobError):
        await posted(transport, "x" * (30 << 20))
    assert await posted(transport) == b"paid"
    assert server.connections == 2


@pytest.mark.parametrize(
    "start",
    [PLAIN[:-1], PLAIN[:20], b"HTTP/1.1 404 Not", OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b""],
    ids=["plain", "in its head", "not plain", "chunked", "silent"],
)
async def test_closing_the_transport_ends_what_waits_with_a_failure_of_its_own(
    serve: Any, tmp_path: Path, start: bytes
) -> None:
    server = await serve(["read", start, "hang"])
    options = TransportOptions(
        base_url=server.url, timeout=600, connections=2, max_bytes=1 << 20, spool_dir=str(tmp_path)
    )
    async with asyncio.timeout(30):
        async with Transport(options) as transport:
            tasks = [asyncio.create_task(transport.fetch(server.url)), asyncio.create_task(posted(transport))]
            while len(server.requests) < 2:  # noqa: ASYNC110  two of them, and one event
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in ended] == [JobError, JobError]


async def test_a_connection_that_is_lost_is_given_no_other_protocol() -> None:
    """asyncio's TLS transport cannot take one any more, once it was closed twice."""
    handler = ResponseHandler(asyncio.get_running_loop())
    wire = Wire()
    handler.connection_made(wire)
    landing = Landing(handler, lambda given: given.set_response_params(), most=100, idle=None)
    landing.connection_lost(None)
    assert wire.get_protocol() is landing
    assert await landing.done is None
    assert not handler.is_connected()
