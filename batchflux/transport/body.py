"""The body of an answer, piece by piece, decoded as it comes: also from codings that were not asked for.

What is named as coded and is not (a proxy undid the coding and left the header), or is coded in a way that cannot be
undone here, is passed on as it came: an answer that was paid for is not lost for its header. What is coded and not
named so (a proxy took the header out) is told by its first bytes, with which no picture and no text begins.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchflux.transport.connecting.connections import Until

PIECE = 1 << 18  # bytes of a decoded piece, so that what grows without end is counted as it grows
LOOK_SECONDS = 1.0  # aiohttp does not tell a reader that the connection of an answer with garbled chunks was closed
_PROOF = 1 << 10  # bytes by which a coding has shown: zlib keeps what it has decoded to itself when it fails later
_ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"


class Body:
    """Reads the body of a response. `missing` names a coding that it has and that no library here can undo."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        named = ",".join(response.headers.getall("Content-Encoding", [])).lower().split(",")
        makers = [_CODINGS[name.strip()] for name in reversed(named) if name.strip() in _CODINGS]
        self.missing = next((module for module, make in makers if module and make() is None), "")
        self._response = response
        self._codings: list[_Coding | _Unsaid] = (
            [] if self.missing else [*(_Coding(make) for _, make in makers), _Unsaid()]
        )
        self._pieces: Iterator[bytes] = iter(())

    async def next(self, until: Until, idle: float = float("inf")) -> bytes:
        """Return the next bytes, none at the end; one of WIRE_ERRORS, also at `until` or after `idle` seconds."""
        while True:
            for piece in self._pieces:
                if piece:
                    return piece
            data = await _next_piece(self._response, until, idle)
            if not data:
                return next((rest for coding in self._codings if (rest := coding.undecoded())), b"")
            if not self._codings:
                return data
            self._pieces = iter((data,))
            for coding in self._codings:
                self._pieces = coding.decoded(self._pieces)


class _Decoder(Protocol):
    """Undoes one stream: `full` when it may have more to give without more data; at `eof`, `rest` follows it."""

    full: bool
    eof: bool
    rest: bytes

    def decode(self, data: bytes) -> bytes: ...


class _Coding:
    """Undoes one coding of several streams in a row: gzip's members, zstd's frames."""

    def __init__(self, make: Callable[[], _Decoder | None]) -> None:
        self._make = make
        self._decoder: _Decoder | None = None
        self._ended = self._shown = self._absent = False
        self._came = b""  # until something is decoded

    def decoded(self, coded: Iterator[bytes]) -> Iterator[bytes]:
        """Give the pieces of what comes, as it came if it is not coded so; aiohttp.ClientPayloadError in its midst."""
        for data in coded:
            for part in (data,) if self._shown else (data[:_PROOF], data[_PROOF:]):
                yield from self._tried(part)

    def _tried(self, data: bytes) -> Iterator[bytes]:
        if self._absent:
            yield data
            return
        self._came = b"" if self._shown else self._came + data
        try:
            for piece in self._all_of(data):
                if piece:
                    self._shown, self._came = True, b""
                yield piece
        except _FAILURES as error:
            if self._shown:
                raise aiohttp.ClientPayloadError("the coding of an answer broke off") from error
            self._absent = True
            yield self.undecoded()

    def undecoded(self) -> bytes:
        """Return once what came of something too short to show that it is not coded so."""
        came, self._came = self._came, b""
        return came

    def _all_of(self, data: bytes) -> Iterator[bytes]:
        while data or (self._decoder is not None and self._decoder.full):
            decoder = self._decoder = self._decoder or self._make()
            if decoder is None:
                return
            try:
                yield decoder.decode(data)
            except _FAILURES:
                if self._ended:
                    return  # padding behind the end
                raise
            data = decoder.rest
            if decoder.eof:
                self._decoder, self._ended = None, True


class _Unsaid:
    """Undoes a coding that nobody named."""

    def __init__(self) -> None:
        self._coding: _Coding | None = None
        self._told = False
        self._began = b""  # until its first bytes have told

    def decoded(self, coded: Iterator[bytes]) -> Iterator[bytes]:
        """Give the pieces of what comes; aiohttp.ClientPayloadError in the midst of a coding."""
        for piece in coded:
            data, self._began = self._began + piece, b""
            if not self._told and any(len(data) < len(begin) and begin.startswith(data) for begin in _BEGINNINGS):
                self._began = data
                continue
            if not self._told:
                self._told = True
                named = next((name for begin, name in _BEGINNINGS.items() if data.startswith(begin)), None)
                make = _CODINGS[named][1] if named else None
                self._coding = _Coding(make) if make and make() is not None else None
            yield from self._coding.decoded(iter((data,))) if self._coding else (data,)

    def undecoded(self) -> bytes:
        """Return once what came of something too short to show how it is coded."""
        began, self._began = self._began, b""
        return began or (self._coding.undecoded() if self._coding else b"")


class _Inflating:
    """`gzip`, and `deflate` in a zlib wrapper or raw (RFC 9110 section 8.4.1 and its note)."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._inner: Any = None
        self.full, self.eof, self.rest = False, False, b""

    def decode(self, data: bytes) -> bytes:
        if self._inner is None:
            raw = self._bits == zlib.MAX_WBITS and data[0] & 0xF != zlib.DEFLATED
            self._inner = zlib.decompressobj(-zlib.MAX_WBITS if raw else self._bits)
        piece: bytes = self._inner.decompress(data, PIECE)
        self.eof, self.full = self._inner.eof, len(piece) == PIECE
        self.rest = self._inner.unused_data if self.eof else self._inner.unconsumed_tail
        return piece


class _Brotli:
    def __init__(self, module: Any) -> None:
        self._inner = module.Decompressor()
        self.full, self.eof, self.rest = False, False, b""

    def decode(self, data: bytes) -> bytes:
        piece: bytes = self._inner.process(data, output_buffer_limit=PIECE)
        self.eof = self._inner.is_finished()
        self.full = not self.eof and not self._inner.can_accept_more_data()
        return piece


class _Zstandard:
    def __init__(self, module: Any) -> None:
        self._inner = module.ZstdDecompressor()
        self.full, self.eof, self.rest = False, False, b""

    def decode(self, data: bytes) -> bytes:
        piece: bytes = self._inner.decompress(data, PIECE)
        self.eof = self._inner.eof
        self.full, self.rest = (
            not self.eof and not self._inner.needs_input,
            self._inner.unused_data if self.eof else b"",
        )
        return piece


def _module(name: str) -> Any:
    """Return a library that may be missing: there are systems without wheels of it."""
    with suppress(ImportError):
        return importlib.import_module(name)
    return None


_BROTLI, _ZSTANDARD = _module("brotli"), _module(_ZSTD)
_FAILURES = (
    zlib.error,
    *([_BROTLI.error] if _BROTLI else []),
    *([_ZSTANDARD.ZstdError] if _ZSTANDARD else []),
)
_GZIP = ("", lambda: _Inflating(16 + zlib.MAX_WBITS))
_CODINGS: dict[str, tuple[str, Callable[[], _Decoder | None]]] = {
    "gzip": _GZIP,
    "x-gzip": _GZIP,
    "deflate": ("", lambda: _Inflating(zlib.MAX_WBITS)),
    "br": ("brotli", lambda: _Brotli(_BROTLI) if hasattr(_BROTLI, "Decompressor") else None),
    "zstd": (_ZSTD, lambda: _Zstandard(_ZSTANDARD) if _ZSTANDARD else None),
}

_BEGINNINGS = {b"\x1f\x8b\x08": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


async def _next_piece(response: aiohttp.ClientResponse, until: Until, idle: float) -> bytes:
    content = response.content
    broken = content.exception() is not None  # what came before it broke is there still, and only this gives it
    if broken and (data := content._read_nowait(-1)):  # noqa: SLF001
        return data
    if data := content.read_nowait():  # what is there already needs no timer
        return data
    if content.at_eof():
        return b""
    clock = asyncio.get_running_loop().time
    silent_at = clock() + idle
    while True:
        try:
            async with until.bound(min(LOOK_SECONDS, silent_at - clock())) as bound:
                return await content.readany()
        except TimeoutError:
            if not bound.expired() or clock() >= min(until.at, silent_at):
                raise
        connection = response.connection
        if connection is not None and (connection.transport is None or connection.transport.is_closing()):
            raise aiohttp.ClientPayloadError("the connection was closed")
