"""Whatever a server answers comes to what aiohttp's session makes of it: the short way shows in nothing.

Of a download that is cut off nothing counts; of an answer to a call what had come does.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import uvloop
from aiohttp import ClientTimeout
from hypothesis import example, given, settings
from hypothesis import strategies as st
from yarl import URL

from batchflux.transport.dial import Names, connector
from batchflux.transport.exchange import HEADER_BYTES, Exchange
from batchflux.transport.headers import lowered
from batchflux.transport.sent import Sent
from batchflux.transport.ssrf import Guard
from batchflux.transport.wire_errors import WIRE_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    Outcome = tuple[int, dict[str, str], bytes, bool] | None  # status, headers, body, all of it; None: no answer
    Run = Callable[[Coroutine[Any, Any, Outcome]], Outcome]


HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity"}
SILENCE = 5.0  # seconds; no answer here stalls
MOST = 40
ASKED = b'{"prompt": "a"}'
BODY = b"0123456789abcdef"
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)

STATUS = st.sampled_from(
    [b"HTTP/1.1 200 OK"] * 8
    + [b"HTTP/1.1 200 ", b"HTTP/1.1 200", b"HTTP/1.0 200 OK", b"HTTP/1.1 404 Not Found", b"HTTP/1.1 204 No Content"]
    + [b"HTTP/1.1 206 Partial Content", b"HTTP/1.1 304 Not Modified", b"ICY 200 OK", b"HTTP/1.1 103 Early Hints", b""]
)
LENGTHS = [b"%d" % len(BODY)] * 6 + [b"0", b"5", b"17", b"41", b"+5", b"5, 5", b"0x5", b"", b"99999999999999"]
LINE = st.one_of(
    st.sampled_from(LENGTHS).map(lambda length: b"Content-Length: " + length),
    st.sampled_from([b"Connection: close", b"Connection: keep-alive", b"Connection: Keep-Alive, x", b"X: y", b"x: z"]),
    st.sampled_from([b"Transfer-Encoding: chunked", b"Content-Encoding: identity", b"Content-Encoding: gzip"]),
    st.sampled_from([b"Trailer: X", b"Upgrade: h2c", b" folded", b"no colon", b": nameless", b"X : y", b"X: \x80\xff"]),
    st.sampled_from([b"X: " + b"x" * 5000, b"X: a\0b", b"Location: /there", b"X: a\rb"]),
)
END = st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r"])
REST = st.sampled_from([BODY] * 6 + [b"", BODY[:5], BODY + b"more", CHUNKED, BODY * 3, b"HTTP/1.1 200 OK\r\n\r\n"])


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    lines = [draw(STATUS), *draw(st.lists(LINE, max_size=4))]
    return b"".join(line + draw(END) for line in lines) + draw(END) + draw(REST)


class Server:
    """Answers every request with the same bytes, in pieces cut at `cuts`, and closes the connection."""

    def __init__(self) -> None:
        self.answer = b""
        self.cuts: list[int] = []
        self.url = URL()

    async def play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"POST"):
                await reader.readexactly(len(ASKED))
            at = 0
            for cut in [*sorted({min(cut, len(self.answer)) for cut in self.cuts}), len(self.answer)]:
                writer.write(self.answer[at:cut])
                await writer.drain()
                await asyncio.sleep(0.001)
                at = cut
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has seen enough
        finally:
            writer.close()


async def body(content: aiohttp.StreamReader) -> tuple[bytes, bool]:
    data = b""
    try:
        while piece := await content.readany():
            data += piece
    except WIRE_ERRORS:
        return data, False
    return data, True


def counts(outcome: Outcome, method: str) -> Outcome:
    return outcome if method == "POST" or outcome is None or outcome[3] else None


async def by_session(session: aiohttp.ClientSession, method: str, url: URL) -> Outcome:
    asked = ASKED if method == "POST" else None
    try:
        async with session.request(method, url, data=asked, allow_redirects=False) as response:
            return counts((response.status, lowered(response.headers), *await body(response.content)), method)
    except WIRE_ERRORS:
        return None


async def by_exchange(exchange: Exchange, method: str, url: URL) -> Outcome:
    try:
        answer = await (exchange.post(url, ASKED, "", Sent(None)) if method == "POST" else exchange.get(url, MOST))
    except WIRE_ERRORS:
        return None
    try:
        data, whole = (answer.data, True) if answer.data is not None else await body(answer.content)
    finally:
        answer.release()
    return counts((answer.status, answer.headers, data, whole), method)


class Alike:
    """A server, and both ways to ask it."""

    def __init__(self, server: Server, session: aiohttp.ClientSession, exchange: Exchange, run: Run) -> None:
        self._server = server
        self._session = session
        self._exchange = exchange
        self._run = run

    def by_session(self, method: str, answer: bytes, cuts: list[int]) -> Outcome:
        self._server.answer, self._server.cuts = answer, cuts
        return self._run(by_session(self._session, method, self._server.url))

    def by_exchange(self, method: str, answer: bytes, cuts: list[int]) -> Outcome:
        self._server.answer, self._server.cuts = answer, cuts
        return self._run(by_exchange(self._exchange, method, self._server.url))


@pytest.fixture(scope="module", params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def alike(request: pytest.FixtureRequest) -> Iterator[Alike]:
    """Return the session and the exchange, with a pool for each, on one loop."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        clients = AsyncExitStack()

        async def start() -> tuple[Server, aiohttp.ClientSession, Exchange]:
            server = Server()
            listener = await clients.enter_async_context(await asyncio.start_server(server.play, "127.0.0.1", 0))
            server.url = URL(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/p.png")
            guard = Guard()
            pools = [connector(guard, Names(guard, server.url.origin(), {}), 4) for _ in range(2)]
            for pool in pools:
                pool._force_close = True  # the server closes them: one that is kept may be closed by the next request
            session = aiohttp.ClientSession(
                connector=pools[0],
                timeout=ClientTimeout(sock_read=SILENCE),
                headers=HEADERS,
                max_line_size=HEADER_BYTES,
                max_field_size=HEADER_BYTES,
            )
            await clients.enter_async_context(session)
            await clients.enter_async_context(pools[1])
            return server, session, Exchange(pools[1], HEADERS, ClientTimeout(connect=SILENCE), SILENCE)

        started = runner.run(start())
        try:
            yield Alike(*started, runner.run)
        finally:
            runner.run(clients.aclose())


PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n" + BODY
GARBLED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY


@pytest.mark.parametrize("method", ["GET", "POST"])
@settings(max_examples=150)
@given(answer=answers(), cuts=st.lists(st.integers(min_value=0, max_value=120), max_size=3))
@example(answer=PLAIN, cuts=[1, 9, 39])
@example(answer=PLAIN.replace(b"\r\n", b"\n"), cuts=[])
@example(answer=b"HTTP/1.1 200 OK\r\nContent-Len", cuts=[3])
@example(answer=GARBLED, cuts=[len(GARBLED) - len(BODY)])
@example(answer=b"", cuts=[])
def test_an_answer_comes_to_what_the_session_makes_of_it(
    alike: Alike, method: str, answer: bytes, cuts: list[int]
) -> None:
    by_us = alike.by_exchange(method, answer, cuts)
    if by_us != alike.by_session(method, answer, cuts):
        # Faults behind a head count or not, as they arrive along with it or later; and pieces may be joined on the way.
        cut_at_head = answer.find(b"\r\n\r\n") + 4
        assert by_us in [alike.by_session(method, answer, pieces) for pieces in ([], [cut_at_head])]
