"""API calls: what counts as sent, what an answer becomes, and that nothing is ever sent twice."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import importlib
import json
import random
import socket
import sys
import threading
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from batchflux.errors import Code, JobError, UsageError
from batchflux.models import BASE, SECONDS, Content, Exchanged, Finished, HttpRequest, Inline, Json
from batchflux.testing.serving import serving
from batchflux.transport import Transport, TransportOptions
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.transport.conftest import Clock


KEY = "sk-canary-0123456789"
BEARER = {"Authorization": f"Bearer {KEY}"}
POLL = {"method": "GET", "content": None, "repeatable": True}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Thing: a\r\n\r\nhello"
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass
class Collect:
    """A Reader that keeps what it is fed, and says which status it was made for."""

    status: int
    headers: Mapping[str, str]
    until: bytes | None = None
    data: bytes = b""
    ends: list[bool] = field(default_factory=list)

    def feed(self, data: bytes) -> bool:
        self.data += data
        return self.until is not None and self.until in self.data

    def finish(self, *, complete: bool) -> Finished:
        self.ends.append(complete)
        if self.status != 200:
            raise JobError(Code.SERVER, f"status {self.status}: {self.data[:20]!r}")
        if not complete:
            raise JobError(Code.UNKNOWN, "cut off", billed=True)
        return Finished(asset=Inline(data=self.data))


class Asker:
    """Makes requests and keeps the readers that their answers got."""

    def __init__(self, until: bytes | None = None) -> None:
        self.readers: list[Collect] = []
        self._until = until

    def request(self, body: Mapping[str, Any] | None = None, **fields: Any) -> HttpRequest:
        content: Content = Json(value=body or {"model": "m"})
        known = {"method": "POST", "url": "/v1/images/generations", "content": content, **fields}
        return HttpRequest(reader=self._reader, **known)

    def _reader(self, status: int, headers: Mapping[str, str]) -> Collect:
        self.readers.append(Collect(status, headers, self._until))
        return self.readers[-1]

    async def ask(self, transport: Transport, **request: Any) -> Exchanged:
        return await transport.exchange(self.request(**request), headers=BEARER, secrets=(KEY,))

    async def fails(self, transport: Transport, **request: Any) -> JobError:
        with pytest.raises(JobError) as caught:
            await self.ask(transport, **request)
        assert "\n" not in caught.value.message
        assert KEY not in caught.value.message
        return caught.value


async def test_the_request_as_it_goes_over_the_wire(serve: Any, connect: Any) -> None:
    server = await serve(["read", OK])
    transport = await connect(server.url + "/base/")
    asker = Asker()
    answered = await asker.ask(transport, body={"prompt": "Größe ☕", "n": [1, {"a": None}]})
    told = dict(asker.readers[0].headers)
    assert (told.pop(BASE), float(told.pop(SECONDS)) >= 0) == (server.url + "/base", True)
    assert told == {"content-length": "5", "x-thing": "a"}
    head, body = server.requests[0]
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /base/v1/images/generations HTTP/1.1"
    assert f"Authorization: Bearer {KEY}" in lines
    assert "Content-Type: application/json" in lines
    assert "Accept: application/json, text/event-stream" in lines
    assert "User-Agent: batchflux/0.1.0" in lines
    assert not any(line.lower().startswith("cookie") for line in lines)
    assert body == '{"prompt":"Größe ☕","n":[1,{"a":null}]}'.encode()
    assert answered.reply == Finished(asset=Inline(data=b"hello"))
    assert answered.seconds >= 0
    assert answered.pause is None


async def test_without_a_key_there_is_no_authorization(serve: Any, connect: Any) -> None:
    server = await serve(["read", OK])
    await (await connect(server.url)).exchange(Asker().request())
    assert b"authorization" not in server.requests[0][0].lower()


@pytest.mark.parametrize("key", ["", "sk-1\r\nX-Evil: 1", "sk 1", "sk-ü"])
async def test_a_key_that_no_header_can_carry_is_refused_unsent(serve: Any, connect: Any, key: str) -> None:
    server = await serve(["read", OK])
    transport = await connect(server.url)
    with pytest.raises(JobError, match="API key") as caught:
        await transport.exchange(Asker().request(), headers={"Authorization": f"Bearer {key}"})
    assert (caught.value.code, caught.value.billed) == (Code.AUTH, False)
    assert server.connections == 0


OTHER = HEAD + b"Content-Length: 5\r\n\r\nother"


@pytest.mark.parametrize("stray", [b"", b"\r\n", HEAD, OTHER], ids=["nothing", "line", "head", "answer"])
@pytest.mark.parametrize("when", ["at once", "later"])
async def test_what_follows_an_answer_is_never_the_next_answer(
    serve: Any, connect: Any, stray: bytes, when: str
) -> None:
    """Every paid call has a connection of its own, which ends with its answer."""
    server = await serve(["read", OK, *(["pause"] if when == "later" else []), stray, "hang"])
    transport = await connect(server.url)
    for number in range(1, 4):
        answered = await Asker().ask(transport)
        assert answered.reply == Finished(asset=Inline(data=b"hello"))
        assert server.connections == number
        await server.gone.wait()
        server.gone.clear()
    assert all(b"connection: close" in head.lower() for head, _ in server.requests)


@pytest.mark.parametrize("more", [b"garbage", OTHER, HEAD, b"\r\n", OTHER + OTHER], ids=repr)
async def test_of_two_answers_to_one_request_the_first_counts_and_the_second_is_nobodys(
    serve: Any, connect: Any, more: bytes
) -> None:
    server = await serve(["read", OK + more], ["read", CHUNKED + b"5\r\nhello\r\n0\r\n\r\n" + more])
    transport = await connect(server.url)
    for _ in range(2):
        assert (await Asker().ask(transport)).reply == Finished(asset=Inline(data=b"hello"))
    assert server.connections == 2


CODED = gzip.compress(b"hello")
PACKED = HEAD + b"Content-Encoding: gzip\r\n\r\n"
ODD = {
    "length twice": HEAD + b"Content-Length: 5\r\ncontent-length:5 \r\n\r\nhello",
    "length as a list": HEAD + b"Content-Length: 5, 5\r\n\r\nhello",
    "length and chunks": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "extension": CHUNKED + b"5;a=b\r\nhello\r\n0\r\n\r\n",
    "blanks in an extension": CHUNKED + b'5 ; a = "b c" \r\nhello\r\n0 ; x\r\n\r\n',
    "blanks around a size": CHUNKED + b" 5  \r\nhello\r\n 0 \r\n\r\n",
    "line feeds": HEAD.replace(b"\r", b"") + b"Transfer-Encoding: chunked\n\n5\nhello\n0\n\n",
    "trailers": CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\nX-Sum: 1\r\n\r\n",
    "identity": HEAD + b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello",
    "blank before a colon": HEAD + b"Content-Length : 5\r\n\r\nhello",
    "control characters": HEAD + b"X-A: b\0c\x1b\r\nContent-Length: 5\r\n\r\nhello",
    "a folded header": HEAD + b"X-A: b\r\n  c\r\nContent-Length : 5\r\n\r\nhello",
    "lines that are no headers": HEAD + b"Warning: no such file\r\nnothing\r\n: x\r\nContent-Length: 5\r\n\r\nhello",
    "a length that is none": HEAD + b"Content-Length: -1\r\n\r\nhello",
    "an empty length beside chunks": HEAD
    + b"Content-Length:\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "many headers": HEAD + b"X-A: b\r\n" * 300 + b"Content-Length: 5\r\n\r\nhello",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\nhello",
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + HEAD + b"Content-Length: 5\r\n\r\nhello",
    "line ends before": b"\r\n\r\n" + OK,
    "gzip that is none": HEAD + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
    "gzip said twice": HEAD + b"Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n\r\n" + CODED,
    "gzip twice": HEAD + b"Content-Encoding: gzip, gzip\r\n\r\n" + gzip.compress(CODED),
    "gzip that nobody named": HEAD + b"\r\n" + CODED,
    "gzip twice, said once": PACKED + gzip.compress(CODED),
    "gzip by another name": HEAD + b"Content-Encoding: X-GZIP\r\n\r\n" + CODED,
    "gzip without its end": PACKED + CODED[:-4],
    "gzip with padding": PACKED + CODED + b"\0\0\0",
    "gzip of two members": PACKED + gzip.compress(b"hel") + gzip.compress(b"lo"),
    "deflate": HEAD + b"Content-Encoding: deflate\r\n\r\n" + zlib.compress(b"hello"),
    "deflate, raw": HEAD + b"Content-Encoding: deflate\r\n\r\n" + zlib.compress(b"hello")[2:-4],
    "a coding nobody knows": HEAD + b"Content-Encoding: utf-8, aws-chunked\r\nContent-Length: 5\r\n\r\nhello",
}


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
@pytest.mark.parametrize("pieces", ["whole", "bytes"])
async def test_an_odd_answer_with_one_meaning_is_taken(serve: Any, connect: Any, answer: bytes, pieces: str) -> None:
    steps = [answer] if pieces == "whole" else [bytes([byte]) for byte in answer]
    server = await serve(["read", *steps])
    transport = await connect(server.url)
    for fields in ({}, POLL):
        assert (await Asker().ask(transport, **fields)).reply == Finished(asset=Inline(data=b"hello"))
    assert (await transport.fetch(server.url)).data == b"hello"


BROTLI, ZSTD = base64.b64decode("CwKAaGVsbG8D"), base64.b64decode("KLUv/SAFKQAAaGVsbG8=")


ZSTD_LIBRARY = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"


class Refusing(Collect):
    """A Reader that understands nothing."""

    def finish(self, *, complete: bool) -> Finished:
        raise JobError(Code.BAD_ANSWER, "not understood")


@pytest.mark.parametrize(("name", "library", "data"), [("br", "brotli", BROTLI), ("zstd", ZSTD_LIBRARY, ZSTD)])
async def test_a_coding_that_was_not_asked_for_is_undone_or_its_answer_kept(
    serve: Any, connect: Any, name: str, library: str, data: bytes
) -> None:
    head = f"Content-Encoding: {name}\r\nContent-Length: {len(data)}\r\n\r\n"
    server = await serve(["read", HEAD + head.encode() + data])
    transport, seen = await connect(server.url), Refusing(200, {})
    request = HttpRequest(method="POST", url="/x", reader=lambda *_: seen, content=Json(value={}))
    with pytest.raises(JobError) as caught:
        await transport.exchange(request)
    there = False
    with contextlib.suppress(ImportError):
        there = bool(importlib.import_module(library))
    assert seen.data == (b"hello" if there else data)
    assert (caught.value.code, caught.value.final) == (Code.BAD_ANSWER, not there)
    assert there or f"only Python's {library} can undo" in caught.value.message


async def test_requests_that_may_be_repeated_use_one_connection_again(serve: Any, connect: Any) -> None:
    server = await serve(["read", OK] * 5)
    transport = await connect(server.url)
    for number in range(5):
        await Asker().ask(transport, **(POLL if number % 2 else {"repeatable": True}))
    assert server.connections == 1


async def test_a_reader_that_has_enough_does_not_wait_for_an_answer_without_end(serve: Any, connect: Any) -> None:
    server = await serve(["read", CHUNKED + b"6\r\n[DONE]\r\n", "hang"])
    transport = await connect(server.url)
    for number in (1, 2):
        asker = Asker(until=b"[DONE]")
        answered = await asker.ask(transport)
        assert answered.reply == Finished(asset=Inline(data=b"[DONE]"))
        assert asker.readers[0].ends == [True]
        assert server.connections == number


async def test_refused_is_network_and_nothing_was_sent(connect: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: refused for sure
        error = await Asker().fails(await connect(f"http://127.0.0.1:{taken.getsockname()[1]}"))
    assert (error.code, error.billed) == (Code.NETWORK, False)
    assert "nothing was sent" in error.message


async def test_a_name_that_does_not_resolve_is_network(connect: Any) -> None:
    error = await Asker().fails(await connect("http://nowhere.invalid"))
    assert (error.code, error.billed) == (Code.NETWORK, False)
    assert "the name does not resolve" in error.message


async def test_an_address_that_can_be_nobodys_is_no_outage(connect: Any) -> None:
    error = await Asker().fails(await connect(f"http://{'x' * 70}.com"))
    assert (error.code, error.billed) == (Code.INVALID_REQUEST, False)
    assert "mend provider.base_url" in error.message


async def test_a_failed_tls_handshake_is_network(serve: Any, connect: Any) -> None:
    server = await serve([b"this is no TLS\r\n\r\n", "hang"])
    error = await Asker().fails(await connect(server.url.replace("http", "https")))
    assert (error.code, error.billed) == (Code.NETWORK, False)
    assert "TLS" in error.message


async def test_a_connection_that_takes_too_long_is_timeout(serve: Any, connect: Any) -> None:
    server = await serve(["hang"])  # TLS needs an answer that never comes
    error = await Asker().fails(await connect(server.url.replace("http", "https"), connect_timeout=0.1))
    assert (error.code, error.billed) == (Code.TIMEOUT, False)


async def test_a_pool_without_a_free_place_is_timeout(serve: Any, connect: Any, clock: Clock) -> None:
    server = await serve(["read", "hang"])
    transport = await connect(server.url, connections=1, connect_timeout=1, timeout=600)
    first = asyncio.create_task(Asker().ask(transport))
    await server.asked.wait()
    error = await clock.over(asyncio.create_task(Asker().fails(transport)))
    assert (error.code, error.billed) == (Code.TIMEOUT, False)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first


NO_BASE = ["", "x", "ftp://h", "http://", "http://h:99999", "http://user:SECRET@h", "http://SECRET@h", "http://127.1:9"]


@pytest.mark.parametrize("url", [*NO_BASE, "http://2130706433", "http://[]@", "http://[é:]"])
def test_a_base_url_that_cannot_be_one_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match=r"provider\.base_url") as caught:
        Transport(TransportOptions(base_url=url, timeout=1, connections=1, max_bytes=1, spool_dir="."))
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "script",
    [
        ["read"],
        ["read", "reset"],
        ["reset"],
        ["read", b"HTTP/1.1 2"],
        ["read", b"HTTP/1.1 200 OK\r\nContent-Len"],
        ["read", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"],
        ["read", b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * (1 << 20) + b"\r\n\r\n"],
        ["read", b"HTTP/1.1 200 OK\r\n" + b"X-Many: x\r\n" * 10_000 + b"\r\n"],
        ["read", b"HTTP/1.1 100 Continue\r\n\r\n"],
    ],
    ids=[
        "closed",
        "reset",
        "reset unread",
        "half status",
        "half header",
        "not http",
        "long",
        "many",
        "only 100",
    ],
)
async def test_no_answer_to_a_request_that_left_is_unknown(serve: Any, connect: Any, script: list[Any]) -> None:
    server = await serve(script)
    error = await Asker().fails(await connect(server.url))
    assert (error.code, error.billed) == (Code.UNKNOWN, True)
    assert "may have been billed" in error.message
    assert server.connections == 1


@pytest.mark.parametrize(
    "script",
    [["read"], ["read", "reset"], ["read", b"HTTP/1.1 2"], ["read", CHUNKED + b"5\r\nhello\r\n"], ["read", OTHER[:-1]]],
    ids=["closed", "reset", "half status", "in chunks", "short"],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
async def test_a_lost_answer_that_may_be_asked_for_again_is_not_billed(
    serve: Any, connect: Any, script: list[Any], method: str
) -> None:
    server = await serve(script)
    request = {**POLL, "method": method} if method == "GET" else {"method": method, "repeatable": True}
    error = await Asker().fails(await connect(server.url), **request)
    assert (error.code, error.billed) == (Code.NETWORK, False)


@pytest.mark.parametrize("script", [["read", "hang"], ["read", CHUNKED + b"5\r\nhello\r\n", "hang"]])
async def test_a_late_answer_that_may_be_asked_for_again_is_timeout(
    serve: Any, connect: Any, script: list[Any]
) -> None:
    server = await serve(script)
    error = await Asker().fails(await connect(server.url, timeout=0.2), **POLL)
    assert (error.code, error.billed) == (Code.TIMEOUT, False)


async def test_a_kept_connection_that_was_dropped_costs_nothing(serve: Any, connect: Any) -> None:
    server = await serve(["read", OK, "read"], ["read", OK])
    transport = await connect(server.url)
    for _ in range(2):
        await Asker().ask(transport, **POLL)
    assert (server.connections, len(server.requests)) == (2, 3)


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
async def test_what_may_not_be_repeated_leaves_once_whatever_its_method(serve: Any, connect: Any, method: str) -> None:
    server = await serve(["read"], ["read", OK])
    error = await Asker().fails(await connect(server.url), method=method)
    assert (error.code, error.billed) == (Code.UNKNOWN, True)
    assert len(server.requests) == 1


async def test_a_poll_has_no_body(serve: Any, connect: Any) -> None:
    server = await serve(["read", OK])
    await Asker().ask(await connect(server.url), **POLL, url="/v1/get_result?id=a%20b")
    head, _ = server.requests[0]
    assert head.startswith(b"GET /v1/get_result?id=a%20b HTTP/1.1\r\n")
    assert not any(name in head.lower() for name in (b"content-length", b"content-type", b"transfer-encoding"))


async def test_a_request_says_what_its_provider_wants_said(serve: Any, connect: Any) -> None:
    server = await serve(["read", OK])
    headers = {"accept": "image/png", "X-Model": "flux"}
    await Asker().ask(await connect(server.url), headers=headers)
    lines = server.requests[0][0].decode().split("\r\n")
    assert {"Accept: image/png", "X-Model: flux"} <= {line[:1].upper() + line[1:] for line in lines}
    assert "Accept: application/json, text/event-stream" not in lines


async def test_the_pause_that_an_answer_hints_at_is_told(serve: Any, connect: Any) -> None:
    head = HEAD + b"x-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 2s\r\n"
    server = await serve(["read", head + b"Content-Length: 0\r\n\r\n"])
    assert (await Asker().ask(await connect(server.url))).pause == 2.0


async def test_an_absolute_url_at_the_provider_is_its_own(serve: Any, connect: Any) -> None:
    server = await serve(["read", OK])
    transport = await connect(f"http://localhost:{server.port}/base")
    await Asker().ask(transport, **POLL, url=f"http://127.0.0.1:{server.port}/poll?id=1")
    assert server.requests[0][0].startswith(b"GET /poll?id=1 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://[::1]:{port}/",
        "http://127.1:{port}/",
        "http://169.254.169.254/",
        "file:///x",
    ],
)
@pytest.mark.parametrize("repeatable", [True, False])
async def test_an_absolute_url_that_is_not_public_is_never_dialled(
    serve: Any, connect: Any, url: str, *, repeatable: bool
) -> None:
    provider, inside = await serve(["hang"]), await serve(["read", OK])
    error = await Asker().fails(await connect(provider.url), repeatable=repeatable, url=url.format(port=inside.port))
    assert (error.code, error.billed) == (Code.UNSAFE_URL, False)
    assert (inside.connections, provider.connections) == (0, 0)


async def test_what_looks_like_another_host_is_a_path_of_the_provider(serve: Any, connect: Any) -> None:
    server = await serve(["read", OK])
    await Asker().ask(await connect(server.url), url="//169.254.169.254/latest")
    assert server.requests[0][0].startswith(b"POST //169.254.169.254/latest HTTP/1.1\r\n")


async def test_an_answer_that_does_not_come_in_time_is_unknown(serve: Any, connect: Any, clock: Clock) -> None:
    server = await serve(["read", "hang"])
    asked = asyncio.create_task(Asker().fails(await connect(server.url, timeout=1)))
    await server.asked.wait()
    error = await clock.over(asked)
    assert (error.code, error.billed) == (Code.UNKNOWN, True)
    await server.gone.wait()


NOISE = gzip.compress(random.Random(1).randbytes(100_000))
CUTS: dict[str, list[Any]] = {
    "short": ["read", HEAD + b"Content-Length: 10\r\n\r\nhello"],
    "until it ends, reset": ["read", HEAD + b"\r\nhello", "reset"],
    "short, reset": ["read", HEAD + b"Content-Length: 10\r\n\r\nhello", "reset"],
    "chunked": ["read", CHUNKED + b"5\r\nhello\r\n"],
    "bad chunk": ["read", CHUNKED + b"5\r\nhello\r\nzz\r\n"],
    "in a chunk": ["read", CHUNKED + b"9\r\nhello"],
    "bad gzip": ["read", PACKED + NOISE[:90_000] + b"no" + NOISE[90_002:]],
    "half gzip": [
        "read",
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: 30\r\n\r\n" + gzip.compress(b"x" * 99)[:20],
    ],
}


@pytest.mark.parametrize("script", CUTS.values(), ids=CUTS)
async def test_an_answer_cut_off_is_finished_incomplete(serve: Any, connect: Any, script: list[Any]) -> None:
    server = await serve(script)
    asker = Asker()
    error = await asker.fails(await connect(server.url))
    assert (error.code, error.billed) == (Code.UNKNOWN, True)
    assert asker.readers[0].ends == [False]
    assert server.connections == 1


@pytest.mark.parametrize("option", ["timeout", "idle_timeout"])
async def test_an_answer_that_stalls_is_finished_incomplete(
    serve: Any, connect: Any, clock: Clock, option: str
) -> None:
    server = await serve(["read", CHUNKED + b"5\r\nhello\r\n", "hang"])
    asker = Asker()
    asked = asyncio.create_task(asker.fails(await connect(server.url, **{option: 1})))
    await until(lambda: asker.readers and asker.readers[0].data, pause=0)
    error = await clock.over(asked)
    assert error.code is Code.UNKNOWN
    assert (asker.readers[0].data, asker.readers[0].ends) == (b"hello", [False])


async def test_an_answer_whose_chunks_are_garbled_is_given_up_at_once(serve: Any, connect: Any) -> None:
    server = await serve(["read", CHUNKED + b"5\r\nhello\r\n", "pause", b"no chunk", "hang"])
    asker = Asker()
    transport = await connect(server.url, timeout=600)
    async with asyncio.timeout(90):
        error = await asker.fails(transport)
    assert (error.code, error.billed) == (Code.UNKNOWN, True)
    assert (asker.readers[0].data, asker.readers[0].ends) == (b"hello", [False])


async def test_a_picture_whose_chunks_are_garbled_is_given_up_at_once(serve: Any, connect: Any) -> None:
    server = await serve(["read", CHUNKED + b"5\r\nhello\r\n", "pause", b"no chunk", "hang"])
    transport = await connect(server.url)
    async with asyncio.timeout(90):
        with pytest.raises(JobError, match="garbled") as caught:
            await transport.fetch(server.url)
    assert caught.value.code is Code.DOWNLOAD


async def test_the_idle_time_does_not_bound_the_first_byte(serve: Any, connect: Any) -> None:
    server = await serve(["read", "hang"])
    task = asyncio.create_task(Asker().ask(await connect(server.url, idle_timeout=0.01)))
    await server.asked.wait()
    done, _ = await asyncio.wait([task], timeout=0.2)
    assert not done
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_failure_cut_off_is_still_judged_by_its_status(serve: Any, connect: Any) -> None:
    server = await serve(["read", b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 99\r\n\r\n<html>"])
    asker = Asker()
    error = await asker.fails(await connect(server.url))
    assert error.code is Code.SERVER
    assert error.message == "status 502: b'<html>'"
    assert asker.readers[0].ends == [False]


async def test_redirects_are_not_followed(serve: Any, connect: Any) -> None:
    other = await serve(["read", OK])
    for status in (301, 302, 303, 307, 308):
        server = await serve(
            ["read", f"HTTP/1.1 {status} X\r\nLocation: {other.url}/\r\nContent-Length: 0\r\n\r\n".encode()]
        )
        asker = Asker()
        error = await asker.fails(await connect(server.url))
        assert (error.code, asker.readers[0].status) == (Code.SERVER, status)
    assert other.connections == 0


async def test_an_endless_answer_is_given_up(serve: Any, connect: Any) -> None:
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    server = await serve(["read", CHUNKED, *[piece] * 100])
    asker = Asker()
    error = await asker.fails(await connect(server.url, max_bytes=1 << 20))
    assert (error.code, error.billed) == (Code.BAD_ANSWER, True)
    assert "output.max_bytes" in error.message
    assert len(asker.readers[0].data) <= int(1.4 * (1 << 20)) + (1 << 20)
    assert asker.readers[0].ends == [False]


async def test_an_endless_failure_is_still_judged_by_its_status(serve: Any, connect: Any) -> None:
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    server = await serve(["read", CHUNKED.replace(b"200 OK", b"500 X"), *[piece] * 100])
    assert (await Asker().fails(await connect(server.url, max_bytes=1 << 20))).code is Code.SERVER


async def test_a_compression_bomb_is_counted_as_it_unpacks(serve: Any, connect: Any) -> None:
    bomb = gzip.compress(b"\0" * (100 << 20))
    head = HEAD + f"Content-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    server = await serve(["read", head + bomb])
    asker = Asker()
    error = await asker.fails(await connect(server.url, max_bytes=1 << 20))
    assert error.code is Code.BAD_ANSWER
    assert len(asker.readers[0].data) <= int(1.4 * (1 << 20)) + (1 << 20)


async def test_a_compressed_answer_is_read(serve: Any, connect: Any) -> None:
    body = gzip.compress(b"hello")
    server = await serve(
        ["read", HEAD + f"Content-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body]
    )
    assert (await Asker().ask(await connect(server.url))).reply == Finished(asset=Inline(data=b"hello"))


async def test_a_long_header_is_taken(serve: Any, connect: Any) -> None:
    link = "https://x.test/?sig=" + "a" * 40_000
    server = await serve(["read", HEAD + f"X-Link: {link}\r\nContent-Length: 0\r\n\r\n".encode()])
    asker = Asker()
    await asker.ask(await connect(server.url))
    assert asker.readers[0].headers["x-link"] == link


async def test_the_wait_asked_for_is_on_the_error(serve: Any, connect: Any) -> None:
    server = await serve(["read", b"HTTP/1.1 429 X\r\nRetry-After: 7.5\r\nContent-Length: 0\r\n\r\n"])
    assert (await Asker().fails(await connect(server.url))).retry_after == 7.5


async def test_a_cancelled_call_lets_go_of_its_connection(serve: Any, connect: Any) -> None:
    server = await serve(["read", "hang"], ["read", CHUNKED + b"5\r\nhello\r\n", "hang"], ["hang"])
    transport = await connect(server.url)
    for _ in range(2):
        server.asked.clear()
        server.gone.clear()
        task = asyncio.create_task(Asker().ask(transport))
        await server.asked.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.gone.wait()


async def test_a_large_request_is_sent_whole(serve: Any, connect: Any) -> None:
    server = await serve(["read", OK])
    text = "ü" * (3 << 20)
    await Asker().ask(await connect(server.url), body={"prompt": text})
    head, body = server.requests[0]
    assert json.loads(body) == {"prompt": text}
    assert f"Content-Length: {len(body)}".encode() in head


@pytest.mark.parametrize("size", [1, 3 << 20], ids=["small", "in pieces"])
async def test_who_waits_for_a_request_is_told_once_as_it_leaves(serve: Any, connect: Any, size: int) -> None:
    server = await serve(["read", OK])
    transport = await connect(server.url)
    told: list[bool] = []
    request = Asker().request({"prompt": "x" * size})
    await transport.exchange(request, on_sent=lambda: told.append(server.asked.is_set()))
    assert told == [False]
    assert len(server.requests[0][1]) > size


async def test_nobody_is_told_of_a_request_that_did_not_leave(connect: Any) -> None:
    told: list[int] = []
    transport = await connect("http://nowhere.invalid")
    with pytest.raises(JobError):
        await transport.exchange(Asker().request(), on_sent=lambda: told.append(1))
    assert told == []


async def test_closing_the_transport_ends_what_waits_with_a_failure_of_its_own(serve: Any, connect: Any) -> None:
    server = await serve(["read", CHUNKED + b"5\r\nhello\r\n", "hang"])
    async with asyncio.timeout(90):
        async with Transport(
            TransportOptions(base_url=server.url, timeout=600, connections=2, max_bytes=9, spool_dir=".")
        ) as transport:
            tasks = [asyncio.create_task(transport.fetch(server.url)), asyncio.create_task(Asker().ask(transport))]
            await until(lambda: len(server.requests) == 2)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in ended] == [JobError, JobError]


@pytest.mark.parametrize("repeatable", [True, False])
async def test_an_upload_refused_before_its_end_is_judged_by_the_answer(
    serve: Any, connect: Any, *, repeatable: bool
) -> None:
    refused = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"
    server = await serve(["head", refused, "stall"], ["read", OK])
    transport = await connect(server.url, connections=1)
    error = await Asker().fails(transport, repeatable=repeatable, body={"prompt": "x" * (30 << 20)})
    assert error.message.startswith("status 413")
    assert (await Asker().ask(transport, repeatable=repeatable)).reply == Finished(asset=Inline(data=b"hello"))
    assert server.connections == 2


async def test_a_link_that_is_refused_in_an_answer_is_not_paid_for_again(serve: Any, connect: Any) -> None:
    server = await serve(["read", OK])
    transport = await connect(f"http://localhost:{server.port}")

    class Refuses:
        def feed(self, data: bytes) -> bool:
            return False

        def finish(self, *, complete: bool) -> Finished:
            raise JobError(Code.UNSAFE_URL, "no link", billed=True)

    request = HttpRequest(method="POST", url=server.url, reader=lambda *_: Refuses())
    with pytest.raises(JobError, match="no link") as caught:
        await transport.exchange(request)
    assert caught.value.billed
    assert len(server.requests) == 1


async def test_half_a_surrogate_pair_is_refused_unsent(serve: Any, connect: Any) -> None:
    server = await serve(["read", OK])
    error = await Asker().fails(await connect(server.url), body={"prompt": "\ud800"})
    assert error.code is Code.INVALID_REQUEST
    assert server.connections == 0


async def test_a_name_given_a_fixed_address_is_the_provider_itself(serve: Any, connect: Any) -> None:
    server = await serve(["read", OK])
    transport = await connect("http://simulator.localhost", resolve={"simulator.localhost": ("127.0.0.1", server.port)})
    await Asker().ask(transport)
    assert b"Host: simulator.localhost\r\n" in server.requests[0][0]


async def test_a_transport_that_is_not_open_says_so() -> None:
    transport = Transport(TransportOptions(base_url="http://x", timeout=1, connections=1, max_bytes=1, spool_dir="."))
    with pytest.raises(RuntimeError, match="async with"):
        await transport.exchange(Asker().request())
    with pytest.raises(RuntimeError, match="async with"):
        await transport.fetch("http://x")


@pytest.mark.parametrize("pieces", [1, 3])
async def test_an_answer_that_came_while_the_process_stood_still_is_read(pieces: int, clock: Clock) -> None:
    """Ctrl-Z, a paused machine: all timers are overdue before a socket is looked at."""
    arrived, written = threading.Event(), threading.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        arrived.set()
        for _ in range(pieces):
            await asyncio.sleep(0.02)
            await response.write(b"hello")
        await response.write_eof()
        written.set()
        return response

    app, asker = web.Application(), Asker()
    app.router.add_post("/{tail:.*}", answer)
    with serving(app) as url:
        options = TransportOptions(
            base_url=url, timeout=0.5, idle_timeout=0.3, connections=4, max_bytes=10**6, spool_dir="."
        )
        async with Transport(options) as transport:
            asked = asyncio.create_task(asker.ask(transport))
            await until(arrived.is_set, pause=0)
            assert written.wait(60)  # the loop stands still, and the server does not
            clock.at += 1.5
            await asked
    assert asker.readers[0].data == b"hello" * pieces


async def test_a_call_that_is_due_goes_on_for_as_long_as_it_may_then(serve: Any, connect: Any, clock: Clock) -> None:
    """Asked again at its time, and not before each piece: the last answer counts."""
    asked: list[float] = []

    def due(began: float) -> float:
        asked.append(began)
        return began + min(0.2 * len(asked), 0.6)

    server = await serve(["read", "hang"])
    asking = asyncio.create_task(Asker().fails(await connect(server.url, timeout=9, due=due)))
    await server.asked.wait()
    error = await clock.over(asking)
    assert error.code is Code.UNKNOWN
    assert len(set(asked)) == 1
    assert len(asked) >= 4
