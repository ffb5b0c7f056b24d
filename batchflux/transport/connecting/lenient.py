"""Puts in order what real servers get slightly wrong in HTTP, so that a paid answer is not given up for it.

It stands between a connection and aiohttp's parser, which takes nothing but HTTP to the letter. A head gets one
Content-Length where the same was said twice, none where the body is chunked or the length is no number; no blank
before a colon, no control character in a value, no line that is no header. Chunk sizes lose their extensions and
blanks. A body that ends with its connection is passed on in chunks, for the parser takes one that was reset for a
whole one. What follows an answer is dropped, and its connection closed: a second one is never anybody's. All else
passes as it came: what has no single meaning (two lengths that differ, a chunk's size that is no number) the parser
refuses.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from aiohttp import ClientRequest, ClientTimeout
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

LONGEST_HEAD = 1 << 20  # bytes; the parser's own bounds are far below
_LONGEST_LINE = 1 << 13  # of a chunk's size with its extensions
_END = re.compile(rb"\r?\n\r?\n")
_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?\r?\n")
_SIZE_BEGUN = re.compile(rb"[ \t]*[0-9A-Fa-f]{0,15}[ \t]*(?:;[^\n]*)?\r?")
_CONTROLS = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_PLAIN = re.compile(rb"HTTP/1\.[01] (\d{3})[^\r\n]*\r\n(?:[!-9;-~]+:[\t -~\x80-\xff]*\r\n)*\r\n")  # nothing to mend
_FRAMING = re.compile(rb"(?i)\n(content-length|transfer-encoding):[ \t]*([^\r\n]*)")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FOLD = re.compile(rb"\r?\n[ \t]+")  # a header over several lines, which HTTP had once
_NO_BODY = frozenset({204, 304})


class LenientConnector(aiohttp.TCPConnector):
    """A connector whose connections pass what they read through Lenient."""

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: ClientTimeout,  # noqa: ASYNC109  the signature is aiohttp's
    ) -> Connection:
        """Return a connection for one request, free or new."""
        connection = await super().connect(req, traces, timeout)
        transport, parser = connection.transport, connection.protocol
        if transport is not None and parser is not None:
            reader = transport.get_protocol()
            if not isinstance(reader, Lenient):
                reader = Lenient(transport, parser)
                transport.set_protocol(reader)
            reader.begin()
        return connection


class Lenient(asyncio.Protocol):
    """Reads the answers that come over one connection for `parser`; `begin` before each request."""

    def __init__(self, transport: asyncio.Transport, parser: asyncio.Protocol) -> None:
        self._transport, self._parser = transport, parser
        self.begin()

    def begin(self) -> None:
        """Expect the head of an answer."""
        self._held = b""
        self._step = self._head
        self._left = 0

    def data_received(self, data: bytes) -> None:
        """Take what came; a connection may be closed while it is passed on, and nothing follows then."""
        self._held += data
        while self._held and self._step():
            pass

    def eof_received(self) -> None:
        """Pass on what is held of an answer that was cut off, and that it was."""
        self._pass(len(self._held))
        self._closed()
        self._parser.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on that the connection is gone."""
        self._pass(len(self._held))
        if exc is None:
            self._closed()
        self._parser.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass on that the peer takes no more for now."""
        self._parser.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that it does again."""
        self._parser.resume_writing()

    def _pass(self, count: int) -> None:
        data, self._held = self._held[:count], self._held[count:]
        if data:
            self._parser.data_received(data)

    def _head(self) -> bool:
        """Pass on a head, once it is whole; return whether there may be more to do, as all steps."""
        self._held = self._held.lstrip(b"\r\n")
        found = _END.search(self._held)
        if found is None or not self._held.startswith(b"HTTP/"):
            if found is not None or len(self._held) > LONGEST_HEAD or not b"HTTP/".startswith(self._held[:5]):
                self._step = self._as_it_came
            return self._step != self._head
        head, self._held = self._held[: found.end()], self._held[found.end() :]
        status, head, length, chunked = _mended(head)
        if status >= 200:  # noqa: PLR2004  what is below announces that the answer is still to come
            self._left = length or 0
            self._step = self._size if chunked else self._as_it_came if length is None else self._body
            if status in _NO_BODY or length == 0:
                self._step = self._over
            elif not _FRAMING.search(head):
                self._step = self._until_closed
                head = head.replace(b"\r\n", b"\r\nTransfer-Encoding: chunked\r\n", 1)
        self._parser.data_received(head)
        return True

    def _body(self) -> bool:
        """Pass on the bytes of a body of known length."""
        count = min(self._left, len(self._held))
        self._left -= count
        if not self._left:
            self._step = self._over
        self._pass(count)
        return True

    def _size(self) -> bool:
        """Pass on the size of a chunk, once its line is whole."""
        found = _SIZE.match(self._held)
        if found is None:
            if len(self._held) > _LONGEST_LINE or not _SIZE_BEGUN.fullmatch(self._held):
                self._step = self._as_it_came
            return self._step != self._size
        self._left = int(found[1], 16)
        self._held = self._held[found.end() :]
        self._step = self._chunk if self._left else self._trailers
        self._parser.data_received(b"%x\r\n" % self._left)
        return True

    def _chunk(self) -> bool:
        """Pass on the bytes of a chunk, and then the line end that follows them."""
        if self._left:
            count = min(self._left, len(self._held))
            self._left -= count
            self._pass(count)
            return True
        ending = 1 if self._held.startswith(b"\n") else 2
        if ending == 2 and not b"\r\n".startswith(self._held[:2]):  # noqa: PLR2004  the two bytes of a line end
            self._step = self._as_it_came
        elif len(self._held) < ending:
            return False
        else:
            self._held = self._held[ending:]
            self._step = self._size
            self._parser.data_received(b"\r\n")
        return True

    def _trailers(self) -> bool:
        """Leave out the headers that may follow the last chunk, and end the answer."""
        line, ended, rest = self._held.partition(b"\n")
        if not ended:
            return False
        self._held = rest
        if not line.strip():
            self._step = self._over
            self._parser.data_received(b"\r\n")
        return True

    def _over(self) -> bool:
        """Drop what follows an answer, and see that nobody waits for more on this connection."""
        if self._held:
            self._held = b""
            self._transport.close()
        return False

    def _until_closed(self) -> bool:
        """Pass on the bytes of a body without an end of its own as a chunk."""
        data, self._held = self._held, b""
        self._parser.data_received(b"%x\r\n%b\r\n" % (len(data), data))
        return False

    def _closed(self) -> None:
        """End a body that ends with its connection."""
        if self._step == self._until_closed:
            self._step = self._over
            self._parser.data_received(b"0\r\n\r\n")

    def _as_it_came(self) -> bool:
        self._pass(len(self._held))
        return False


def _mended(head: bytes) -> tuple[int, bytes, int | None, bool]:
    """Return an answer's status, its head as it should be, its body's length where that is told, whether in chunks."""
    plain, framing = _PLAIN.fullmatch(head), _FRAMING.findall(head)
    if plain is None or len(framing) != 1 or not (framing[0][1].isdigit() or framing[0][1].lower() == b"chunked"):
        head = _rewritten(head)
        plain, framing = _PLAIN.fullmatch(head), _FRAMING.findall(head)
    chunked = any(value.lower().endswith(b"chunked") for _, value in framing)
    length = framing[0][1].strip() if len(framing) == 1 else b""
    return int(plain[1]) if plain else 200, head, int(length) if length.isdigit() else None, chunked


def _rewritten(head: bytes) -> bytes:
    head = _FOLD.sub(b" ", head.rstrip(b"\r\n"))
    first, *lines = [_CONTROLS.sub(b" ", line.rstrip(b"\r")) for line in head.split(b"\n")]
    named = [(name.rstrip(b" \t"), value) for name, _, value in (line.partition(b":") for line in lines)]
    named = [pair for pair in named if _NAME.fullmatch(pair[0])]
    named = [pair for pair in named if not (_is(pair, b"transfer-encoding") and _said(pair) == b"identity")]
    chunked = any(_is(pair, b"transfer-encoding") and _said(pair).endswith(b"chunked") for pair in named)
    lengths = {part.strip() for pair in named if _is(pair, b"content-length") for part in _said(pair).split(b",")}
    lengths = {length for length in lengths if length.isdigit()}
    if chunked or len(lengths) <= 1:
        named = [pair for pair in named if not _is(pair, b"content-length")]
    if len(lengths) == 1 and not chunked:
        named.append((b"Content-Length", b" " + lengths.pop()))
    return b"\r\n".join((first, *map(b":".join, named), b"", b""))


def _is(pair: tuple[bytes, bytes], name: bytes) -> bool:
    return pair[0].lower() == name


def _said(pair: tuple[bytes, bytes]) -> bytes:
    return pair[1].strip().lower()
