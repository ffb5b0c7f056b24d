"""PNG: chunks; XMP and text are put behind the first, which holds the picture's size."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from batchflux.provenance.about import MOST
from batchflux.provenance.parts import LeftError

START = b"\x89PNG\r\n\x1a\n"
_ROOM = 1 << 20  # bytes of a packet; the container itself sets no limit that matters
_XMP, _TOLD = b"XML:com.adobe.xmp", b"parameters"
_AROUND = 12  # bytes of a chunk around its data: length, type, checksum


class _Chunk(NamedTuple):
    kind: bytes
    begin: int
    end: int


class Png:
    """A PNG in its parts."""

    room = _ROOM

    def __init__(self, data: bytes) -> None:
        self._data, self._chunks = data, _chunks(data)
        self.signed = any(chunk.kind == b"caBX" for chunk in self._chunks)
        texts = [chunk for chunk in self._chunks if chunk.kind in {b"iTXt", b"tEXt", b"zTXt"}]
        self.told = any(self._key(chunk) == _TOLD for chunk in texts)
        xmp = (chunk for chunk in texts if chunk.kind == b"iTXt" and self._key(chunk) == _XMP)
        self._place = next(xmp, None)
        self.xmp = None if self._place is None else _text(self._body(self._place))
        self._text = b""

    def fits(self, text: str) -> bool:
        """Whether a text has room."""
        return len(text.encode()) <= MOST

    def tell(self, text: str) -> None:
        """Put a text in: as tEXt where its characters are Latin-1, else as iTXt."""
        try:
            self._text = _chunk(b"tEXt", _TOLD + b"\0" + text.encode("latin-1"))
        except UnicodeEncodeError:
            self._text = _international(_TOLD, text.encode())

    def written(self, xmp: bytes | None) -> bytes:
        """Return the file."""
        data, first, place = memoryview(self._data), self._chunks[0].end, self._place
        packet = b"" if xmp is None else _international(_XMP, xmp)
        if place is None or not packet:
            return b"".join((data[:first], packet, self._text, data[first:]))
        return b"".join((data[:first], self._text, data[first : place.begin], packet, data[place.end :]))

    def _body(self, chunk: _Chunk) -> bytes:
        return self._data[chunk.begin + 8 : chunk.end - 4]

    def _key(self, chunk: _Chunk) -> bytes:
        return self._data[chunk.begin + 8 : min(chunk.begin + 88, chunk.end - 4)].partition(b"\0")[0]


def _chunks(data: bytes) -> list[_Chunk]:
    """Return the chunks up to the last; LeftError."""
    found, place = [], len(START)
    while place + _AROUND <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + _AROUND + length
        if end > len(data):
            break
        found.append(_Chunk(kind, place, end))
        if kind == b"IEND":
            break
        place = end
    if not found or found[0].kind != b"IHDR" or found[-1].kind != b"IEND":
        raise LeftError("its PNG is not whole")
    return found


def _text(body: bytes) -> bytes:
    """Return the text of an iTXt; LeftError where it cannot be had."""
    flags, rest = body.partition(b"\0")[2][:2], body.partition(b"\0")[2][2:]
    text = rest.split(b"\0", 2)[-1]
    if flags == b"\0\0":
        return text
    try:
        unpacking = zlib.decompressobj()
        text = unpacking.decompress(text, _ROOM)
    except zlib.error:
        raise LeftError("its XMP cannot be read") from None
    if not unpacking.eof:
        raise LeftError("its XMP is larger than 1 MB, or is not whole")
    return text


def _international(key: bytes, text: bytes) -> bytes:
    return _chunk(b"iTXt", key + bytes(5) + text)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
