"""Answers that are lines: of any size, no faster than they are taken, and told where they break off."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.errors import Code, JobError
from batchflux.models import HttpRequest, Missing
from batchflux.transport.lines import Splitter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.models import Reply
    from batchflux.transport import Transport
    from tests.serving import ScriptedServer

Serve = Callable[..., Awaitable["ScriptedServer"]]
Connect = Callable[..., Awaitable["Transport"]]
KEY = "sk-canary-0123456789"
OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Refusal:
    """Reads what is no success: a file that is not there is Missing."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        assert status >= 400
        self._status, self._body = status, b""

    def feed(self, data: bytes) -> bool:
        self._body += data
        return False

    def finish(self, *, complete: bool) -> Reply:
        if self._status == 404:
            return Missing()
        raise JobError(Code.RATE_LIMITED, self._body.decode())


REQUEST = HttpRequest(method="GET", url="/files/f/content", reader=Refusal, repeatable=True)


def chunks(*parts: bytes, whole: bool = True) -> bytes:
    return OK + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + (b"0\r\n\r\n" if whole else b"")


async def taken(transport: Transport) -> tuple[list[bytes], JobError | None]:
    """Return the lines that came, and what it broke off with."""
    lines: list[bytes] = []
    try:
        async for line in transport.lines(REQUEST, headers={"Authorization": f"Bearer {KEY}"}, secrets=[KEY]):
            lines.append(line)  # noqa: PERF401  what came before it broke off counts
    except JobError as error:
        return lines, error
    return lines, None


@given(
    lines=st.lists(st.binary(max_size=30).map(lambda one: one.replace(b"\n", b"")), max_size=8), cut=st.integers(1, 40)
)
def test_lines_are_the_same_wherever_they_are_cut(lines: list[bytes], cut: int) -> None:
    body = b"".join(line + b"\n" for line in lines) + b"the last"
    split = Splitter(1000)
    found = [line for at in range(0, len(body), cut) for line in split.add(body[at : at + cut])]
    assert [*found, *split.rest()] == [*lines, b"the last"]


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_of_a_line_without_end_only_the_beginning_is_held(cut: int) -> None:
    body = b"x" * 5000 + b"\nshort\n" + b"y" * 5000 + b"\n"
    split = Splitter(100)
    found = [line for at in range(0, len(body), cut) for line in split.add(body[at : at + cut])]
    assert [*found, *split.rest()] == [b"x" * 100, b"short", b"y" * 100]


async def test_lines_come_whole_and_with_the_key(serve: Serve, connect: Connect) -> None:
    server = await serve(["read", chunks(b'{"a": 1}\n{"b"', b": 2}\n", b"\n", b'{"c": 3}')])
    assert await taken(await connect(server.url)) == ([b'{"a": 1}', b'{"b": 2}', b"", b'{"c": 3}'], None)
    assert f"Authorization: Bearer {KEY}".encode() in server.requests[0][0]


async def test_packed_lines_are_unpacked(serve: Serve, connect: Connect) -> None:
    packed = gzip.compress(b"one\n" + b"2" * (2 << 20) + b"\nthree\n")
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    server = await serve(["read", head + packed])
    assert await taken(await connect(server.url)) == ([b"one", b"2" * (2 << 20), b"three"], None)


async def test_what_breaks_off_is_told_behind_the_lines_that_came(serve: Serve, connect: Connect) -> None:
    server = await serve(["read", chunks(b"one\ntwo\nthr", whole=False)])
    lines, error = await taken(await connect(server.url))
    assert lines == [b"one", b"two"]
    assert error is not None
    assert (error.code, error.billed) == (Code.NETWORK, False)


async def test_what_is_no_success_has_no_lines(serve: Serve, connect: Connect) -> None:
    gone = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nno\n\n"
    busy = b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n%b" % (len(KEY), KEY.encode())
    server = await serve(["read", gone], ["read", busy])
    transport = await connect(server.url)
    lines, error = await taken(transport)
    assert error is not None
    assert (lines, error.code, error.dead) == ([], Code.DOWNLOAD, True)
    lines, error = await taken(transport)
    assert error is not None
    assert (lines, error.code, error.retry_after) == ([], Code.RATE_LIMITED, 7.0)
    assert KEY not in str(error)


async def test_who_takes_no_more_lets_go_of_the_connection(serve: Serve, connect: Connect) -> None:
    server = await serve(["read", chunks(b"one\n", b"two\n" * 100_000, whole=False)])
    transport = await connect(server.url)
    lines = transport.lines(REQUEST)
    assert await anext(lines) == b"one"
    await lines.aclose()
