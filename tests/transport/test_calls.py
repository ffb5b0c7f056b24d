"""API calls: what counts as sent, what an answer becomes, and that nothing is ever sent twice."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.errors import Code, JobError, UsageError
from batchflux.models import Answered, Inline, Picture, Request
from batchflux.transport import Transport, TransportOptions, client
from tests.transport.conftest import kept_by

if TYPE_CHECKING:
    from collections.abc import Mapping


@pytest.fixture(autouse=True, params=["small", "through the session"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which way a call goes: by the size of its body. Both are the same to everyone but the processor."""
    if request.param != "small":
        monkeypatch.setattr(client, "SMALL", 0)
    return str(request.param)


KEY = "sk-canary-0123456789"
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

    def finish(self, *, complete: bool) -> Picture:
        self.ends.append(complete)
        if self.status != 200:
            raise JobError(Code.SERVER, f"status {self.status}: {self.data[:20]!r}")
        if not complete:
            raise JobError(Code.UNKNOWN, "cut off", billed=True)
        return Inline(data=self.data)


class Asker:
    """Makes requests and keeps the readers that their answers got."""

    def __init__(self, until: bytes | None = None) -> None:
        self.readers: list[Collect] = []
        self._until = until

    def request(self, body: Mapping[str, Any] | None = None, method: str = "POST") -> Request:
        return Request(method=method, path="/v1/images/generations", body=body or {"model": "m"}, reader=self._reader)

    def _reader(self, status: int, headers: Mapping[str, str]) -> Collect:
        self.readers.append(Collect(status, headers, self._until))
        return self.readers[-1]

    async def ask(self, transport: Transport, **request: Any) -> Answered:
        return await transport.call(self.request(**request), key=KEY)

    async def fails(self, transport: Transport, **request: Any) -> JobError:
        with pytest.raises(JobError) as caught:
            await self.ask(transport, **request)
        assert "\n" not in caught.value.message
        assert KEY not in caught.value.message
        return caught.value


async def test_the_request_as_it_goes_over_the_wire(serve: Any, connect: Any) -> None:
    server = await serve(["read", OK])
    transport = await connect(server.url + "/base/")
    answered = await Asker().ask(transport, body={"prompt": "Größe ☕", "n": [1, {"a": None}]})
    head, body = server.requests[0]
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /base/v1/images/generations HTTP/1.1"
    assert f"Authorization: Bearer {KEY}" in lines
    assert "Content-Type: application/json" in lines
    assert "Accept: application/json, text/event-stream" in lines
    assert "User-Agent: batchflux/0.1.0" in lines
    assert not any(line.lower().startswith("cookie") for line in lines)
    assert body == '{"prompt":"Größe ☕","n":[1,{"a":null}]}'.encode()
    assert answered.picture == Inline(data=b"hello")
    assert answered.headers == {"content-length": "5", "x-thing": "a"}
    assert answered.seconds >= 0


async def test_without_a_key_there_is_no_authorization(serve: Any, connect: Any) -> None:
    server = await serve(["read", OK])
    await (await connect(server.url)).call(Asker().request(), key=None)
    assert b"authorization" not in server.requests[0][0].lower()


@pytest.mark.parametrize("key", ["", "sk-1\r\nX-Evil: 1", "sk 1", "sk-ü"])
async def test_a_key_that_no_header_can_carry_is_refused_unsent(serve: Any, connect: Any, key: str) -> None:
    server = await serve(["read", OK])
    transport = await connect(server.url)
    with pytest.raises(JobError, match="API key") as caught:
        await transport.call(Asker().request(), key=key)
    assert caught.value.code is Code.AUTH
    assert server.connections == 0


async def test_answers_use_one_connection_again(serve: Any, connect: Any) -> None:
    server = await serve(["read", OK] * 5)
    transport = await connect(server.url)
    for _ in range(5):
        await Asker().ask(transport)
    assert server.connections == 1


async def test_a_reader_that_has_enough_keeps_the_connection_when_the_answer_ends(serve: Any, connect: Any) -> None:
    done = CHUNKED + b"6\r\n[DONE]\r\n"
    server = await serve(["read", done, b"0\r\n\r\n"] * 3)
    transport = await connect(server.url)
    for _ in range(3):
        asker = Asker(until=b"[DONE]")
        await asker.ask(transport)
        assert asker.readers[0].ends == [True]
    assert server.connections == 1


async def test_a_reader_that_has_enough_does_not_wait_for_an_answer_without_end(serve: Any, connect: Any) -> None:
    server = await serve(["read", CHUNKED + b"6\r\n[DONE]\r\n", "hang"])
    transport = await connect(server.url)
    for number in (1, 2):
        answered = await Asker(until=b"[DONE]").ask(transport)
        assert answered.picture == Inline(data=b"[DONE]")
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


async def test_a_name_with_a_label_too_long_is_network(connect: Any) -> None:
    error = await Asker().fails(await connect(f"http://{'x' * 70}.com"))
    assert (error.code, error.billed) == (Code.NETWORK, False)


async def test_a_failed_tls_handshake_is_network(serve: Any, connect: Any) -> None:
    server = await serve([b"this is no TLS\r\n\r\n", "hang"])
    error = await Asker().fails(await connect(server.url.replace("http", "https")))
    assert (error.code, error.billed) == (Code.NETWORK, False)
    assert "TLS" in error.message


async def test_a_connection_that_takes_too_long_is_timeout(serve: Any, connect: Any) -> None:
    server = await serve(["hang"])  # TLS needs an answer that never comes
    error = await Asker().fails(await connect(server.url.replace("http", "https"), connect_timeout=0.1))
    assert (error.code, error.billed) == (Code.TIMEOUT, False)


async def test_a_pool_without_a_free_place_is_timeout(serve: Any, connect: Any) -> None:
    server = await serve(["read", "hang"])
    transport = await connect(server.url, connections=1, connect_timeout=0.1)
    first = asyncio.create_task(Asker().ask(transport))
    await server.asked.wait()
    error = await Asker().fails(transport)
    assert (error.code, error.billed) == (Code.TIMEOUT, False)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first


@pytest.mark.parametrize("url", ["http://127.1:9", "http://2130706433"])
async def test_a_base_url_that_cannot_be_called_fails_at_once(connect: Any, url: str) -> None:
    error = await Asker().fails(await connect(url))
    assert (error.code, error.billed) == (Code.INVALID_REQUEST, False)


@pytest.mark.parametrize(
    "url", ["", "x", "ftp://h", "http://", "http://h:99999", "http://user:SECRET@h", "http://SECRET@h"]
)
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
        ["read", CHUNKED + b"5\r\nhello\r\nzz\r\n"],
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
        "bad chunk",
    ],
)
async def test_no_answer_to_a_request_that_left_is_unknown(serve: Any, connect: Any, script: list[Any]) -> None:
    server = await serve(script)
    error = await Asker().fails(await connect(server.url))
    assert (error.code, error.billed) == (Code.UNKNOWN, True)
    assert "may have been billed" in error.message
    assert server.connections == 1


async def test_a_dropped_kept_connection_is_unknown_and_not_sent_again(serve: Any, connect: Any) -> None:
    server = await serve(["read", OK, "read"], ["read", OK])
    transport = await connect(server.url)
    await Asker().ask(transport)
    error = await Asker().fails(transport)
    assert (error.code, error.billed) == (Code.UNKNOWN, True)
    assert (server.connections, len(server.requests)) == (1, 2)


@pytest.mark.parametrize("option", ["timeout", "first_byte_timeout"])
async def test_an_answer_that_does_not_come_in_time_is_unknown(serve: Any, connect: Any, option: str) -> None:
    server = await serve(["read", "hang"])
    error = await Asker().fails(await connect(server.url, **{option: 0.1}))
    assert (error.code, error.billed) == (Code.UNKNOWN, True)
    await server.gone.wait()


CUTS: dict[str, list[Any]] = {
    "short": ["read", HEAD + b"Content-Length: 10\r\n\r\nhello"],
    "short, reset": ["read", HEAD + b"Content-Length: 10\r\n\r\nhello", "reset"],
    "chunked": ["read", CHUNKED + b"5\r\nhello\r\n"],
    "in a chunk": ["read", CHUNKED + b"9\r\nhello"],
    "bad gzip": ["read", HEAD + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello"],
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
async def test_an_answer_that_stalls_is_finished_incomplete(serve: Any, connect: Any, option: str) -> None:
    server = await serve(["read", CHUNKED + b"5\r\nhello\r\n", "hang"])
    asker = Asker()
    error = await asker.fails(await connect(server.url, **{option: 0.2}))
    assert error.code is Code.UNKNOWN
    assert (asker.readers[0].data, asker.readers[0].ends) == (b"hello", [False])


async def test_an_answer_whose_chunks_are_garbled_is_given_up_at_once(serve: Any, connect: Any) -> None:
    server = await serve(["read", CHUNKED + b"5\r\nhello\r\n", "pause", b"no chunk", "hang"])
    asker = Asker()
    transport = await connect(server.url, timeout=600)
    async with asyncio.timeout(30):
        error = await asker.fails(transport)
    assert (error.code, error.billed) == (Code.UNKNOWN, True)
    assert (asker.readers[0].data, asker.readers[0].ends) == (b"hello", [False])


async def test_a_picture_whose_chunks_are_garbled_is_given_up_at_once(serve: Any, connect: Any) -> None:
    server = await serve(["read", CHUNKED + b"5\r\nhello\r\n", "pause", b"no chunk", "hang"])
    transport = await connect(server.url)
    async with asyncio.timeout(30):
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
    assert (await Asker().ask(await connect(server.url))).picture == Inline(data=b"hello")


async def test_a_long_header_is_taken(serve: Any, connect: Any) -> None:
    link = "https://x.test/?sig=" + "a" * 40_000
    server = await serve(["read", HEAD + f"X-Link: {link}\r\nContent-Length: 0\r\n\r\n".encode()])
    assert (await Asker().ask(await connect(server.url))).headers["x-link"] == link


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
async def test_who_waits_for_a_request_is_told_once_as_it_is_written(serve: Any, connect: Any, size: int) -> None:
    server = await serve(["read", OK])
    transport = await connect(server.url)
    told: list[tuple[bool, int]] = []

    async def tell() -> None:
        (handler,) = transport._session.connector._acquired
        told.append((server.asked.is_set(), handler.transport.get_write_buffer_size()))

    await transport.call(Asker().request({"prompt": "x" * size}), key=KEY, on_sent=tell)
    assert told == [(False, 0)]
    assert len(server.requests[0][1]) > size


async def test_what_keeps_a_request_from_being_written_keeps_it_from_being_sent(
    serve: Any, connect: Any, way: str
) -> None:
    server = await serve(["read", OK, "read", OK])

    async def tell() -> None:
        raise OverflowError

    transport = await connect(server.url)
    await transport.call(Asker().request(), key=KEY)
    with pytest.raises(OverflowError if way == "small" else JobError):  # the session's headers may have left by then
        await transport.call(Asker().request(), key=KEY, on_sent=tell)
    assert len(server.requests) == 1


async def test_a_call_cancelled_before_it_is_written_is_not_sent(serve: Any, connect: Any) -> None:
    server = await serve(["read", OK, "hang"], ["read", OK])
    transport = await connect(server.url)
    waiting = asyncio.Event()

    async def tell() -> None:
        waiting.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(transport.call(Asker().request(), key=KEY, on_sent=tell))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await transport.call(Asker().request(), key=KEY)
    assert len(server.requests) == 1


async def test_a_connection_that_dies_before_a_byte_is_written_costs_nothing(
    serve: Any, connect: Any, way: str
) -> None:
    server = await serve(["read", OK, "hang"], ["read", OK])
    transport = await connect(server.url)
    await transport.call(Asker().request(), key=KEY)
    (kept,) = kept_by(transport)
    told = []

    async def tell() -> None:
        told.append(asyncio.get_running_loop().time())
        if len(told) == 1:
            kept.transport.abort()

    call = transport.call(Asker().request(), key=KEY, on_sent=tell)
    if way == "small":
        await call
        assert len(told) == 2  # the moment that counts is that of the connection that took it
    else:
        with pytest.raises(JobError) as caught:  # the session's headers may have left by then
            await call
        assert caught.value.code is Code.UNKNOWN
    assert len(server.requests) == (2 if way == "small" else 1)


async def test_an_answer_understood_is_whole_though_the_time_ends_before_its_end_comes(
    serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TAIL_SECONDS", 1.5)
    server = await serve(["read", CHUNKED + b"5\r\nhello\r\n", "hang"])
    transport = await connect(server.url, timeout=0.7)
    asker = Asker(until=b"hello")
    await transport.call(asker.request(), key=KEY)
    assert asker.readers[0].ends == [True]


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
        await transport.call(Asker().request(), key=None)
    with pytest.raises(RuntimeError, match="async with"):
        await transport.fetch("http://x")
