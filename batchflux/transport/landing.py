"""Takes a plain answer from the socket straight into the memory that it will stay in.

A picture of 200 KB that goes the usual way (read, parsed in pieces, joined) is copied four times; here once. It works
for the plain case only: 200, HTTP/1.1, one Content-Length, no transfer or content coding, nothing about the connection
but that it is kept. Any other answer, and any head that is not plainly well-formed, goes with all its bytes to
aiohttp's own handler, as if nothing had stood before it.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from aiohttp import ClientConnectionResetError, ClientPayloadError, SocketTimeoutError

from batchflux.transport.dial import unwritten

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.client_proto import ResponseHandler

HEAD_BYTES = 4096  # of a plain answer; a longer head is aiohttp's
BLANK_LINE = b"\r\n\r\n"
_STATUS = b"HTTP/1.1 200 "
_HEAD = re.compile(re.escape(_STATUS) + rb"[^\r\n\0]*(?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*)*")
_LENGTH = re.compile(r"[0-9]{1,12}")
_ONCE = frozenset({"content-length", "connection"})
_NOT_PLAIN = frozenset({"transfer-encoding", "content-encoding", "upgrade", "trailer"})


def plain_head(data: bytes) -> tuple[dict[str, str], int] | None:
    """Return the headers (names in lower case) and the length of a plain answer, None when it is no such.

    `data` is all that stands before the blank line.
    """
    if _HEAD.fullmatch(data) is None:
        return None
    headers: dict[str, str] = {}
    for line in data.decode("utf-8", "surrogateescape").split("\r\n")[1:]:  # as aiohttp decodes them
        name, _, value = line.partition(":")
        key = name.lower()
        if key in headers and key in _ONCE:
            return None
        headers.setdefault(key, value.strip(" \t"))
    length = _LENGTH.fullmatch(headers.get("content-length", ""))
    if length is None or headers.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    return (headers, int(length[0])) if _NOT_PLAIN.isdisjoint(headers) else None


class Landing(asyncio.BufferedProtocol):
    """The protocol of a connection while it waits for one answer; `handler` is what it has otherwise.

    Args:
        handler: aiohttp's, of an open connection that is in nobody else's use.
        prepare: called before the handler is given an answer to read.
        most: bytes of the largest body that is taken here; None: only an answer that comes in one piece is, whole, so
            that what came of one that is cut off can be read.
        idle: seconds that may pass without a byte, None for no bound.

    `done` tells the headers and the body of a plain answer; or None, when the handler has got the answer, or what came
    of it. It fails as aiohttp's handler does: with `ClientPayloadError` when a plain answer is cut off behind its head,
    with `SocketTimeoutError` when nothing comes for too long.

    Raises:
        ClientConnectionResetError: the connection is closed.
    """

    def __init__(
        self,
        handler: ResponseHandler,
        prepare: Callable[[ResponseHandler], None],
        *,
        most: int | None,
        idle: float | None,
    ) -> None:
        if handler.transport is None:
            raise ClientConnectionResetError("the connection is closed")
        self._handler = handler
        self.transport = handler.transport
        self._prepare = prepare
        self._most = most
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[tuple[dict[str, str], bytes] | None] = self._loop.create_future()
        self._headers: dict[str, str] | None = None
        self._body = bytearray(HEAD_BYTES)
        self._view = memoryview(self._body)
        self._at = 0
        self._lost = False
        self._heard = self._loop.time()
        self._timer = None if idle is None else self._loop.call_later(idle, self._look, idle)
        self.transport.set_protocol(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Say where the next bytes go."""
        return self._view[self._at :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take note of bytes that came."""
        self._at += nbytes
        self._heard = self._loop.time()
        if self._headers is None:
            end = self._body.find(BLANK_LINE, 0, self._at)
            if end < 0 and self._at < HEAD_BYTES and self._may_be_plain():
                return
            found = plain_head(bytes(self._view[:end])) if end >= 0 else None
            if found is None or not self._takes(found[1], self._at - end - len(BLANK_LINE)):
                self._hand_over()
                return
            self._make_room(found[1], end + len(BLANK_LINE))
            self._headers = found[0]
        length = len(self._view) - 1
        if self._at >= length:
            if self._at > length:
                self._handler.force_close()  # what follows is no answer to what is asked next
            self._leave()
            if not self.done.done():
                self.done.set_result((self._headers, bytes(self._view[:length])))

    def _may_be_plain(self) -> bool:
        """Whether what came of a head can still become a plain one: a server may wait for us after any other."""
        start = self._body[: min(self._at, len(_STATUS))]
        return _STATUS.startswith(start) and self._body.count(b"\n", 0, self._at) == self._body.count(
            b"\r\n", 0, self._at
        )

    def _takes(self, length: int, come: int) -> bool:
        """Whether a body of that length lands here, when so much has come along with the head."""
        return come >= length if self._most is None else length <= self._most

    def _make_room(self, length: int, end: int) -> None:
        """Go on in memory of the body's size, with what came of it along with the head.

        There is room for one byte more: so it shows that more comes than was said. That is whole all the same.
        """
        body = bytearray(length + 1)
        self._at = min(self._at - end, length + 1)
        body[: self._at] = self._view[end : end + self._at]
        self._body, self._view = body, memoryview(body)

    def eof_received(self) -> None:
        """Let the transport close: what is not whole now never will be."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell both who waits here and the handler, whom the pool asks."""
        self._lost = True
        if self._headers is None:
            self._hand_over()  # the handler knows what an answer without a whole head comes to
        else:
            self._stop_timer()
            if not self.done.done():
                self.done.set_exception(ClientPayloadError("the answer was cut off"))
        self._handler.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._handler.resume_writing()

    def give_up(self) -> None:
        """Stop waiting: the connection is about to be closed, and what is not written of the request never will be."""
        self._stop_timer()
        if unwritten(self.transport):
            self.transport.abort()
        if not self.done.cancel() and not self.done.cancelled():
            self.done.exception()  # seen: the caller has a failure of its own

    def _hand_over(self) -> None:
        """Let aiohttp's handler read the answer from its first byte on."""
        self._leave()
        if not self.done.done():
            self.done.set_result(None)
        self._prepare(self._handler)
        if self._at:
            self._handler.data_received(bytes(self._view[: self._at]))

    def _leave(self) -> None:
        self._stop_timer()
        if not self._lost:  # a TLS connection that is gone takes no other protocol
            self.transport.set_protocol(self._handler)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self, idle: float) -> None:
        left = self._heard + idle - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look, idle)
        elif not self.done.done():
            self.done.set_exception(SocketTimeoutError("nothing came for the time allowed"))
