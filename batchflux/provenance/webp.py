"""WebP: chunks in a RIFF; what holds XMP or EXIF data begins with VP8X, which simple files get."""

from __future__ import annotations

import struct
from typing import NamedTuple

from batchflux.provenance import exif
from batchflux.provenance.about import MOST
from batchflux.provenance.parts import LeftError

_ROOM = 1 << 20  # bytes of a packet; the container itself sets no limit that matters
_HEAD, _AROUND = 12, 8  # bytes of RIFF, size and WEBP; of a chunk's type and size
_EXIF, _XMP, _ALPHA = 0x08, 0x04, 0x10  # flags of VP8X
_PREFIX = b"Exif\0\0"  # stands before EXIF data as some write them
_VP8X, _VP8, _VP8L = b"VP8X", b"VP8 ", b"VP8L"
_LOSSY_HEAD, _LOSSLESS_HEAD, _EXTENDED_HEAD = 10, 5, 10  # bytes that tell the size


class _Chunk(NamedTuple):
    kind: bytes
    body: bytes


def is_webp(data: bytes) -> bool:
    """Whether data begin as a WebP does."""
    return data[:4] == b"RIFF" and data[8:_HEAD] == b"WEBP"


class WebP:
    """A WebP in its parts."""

    room = _ROOM

    def __init__(self, data: bytes) -> None:
        self._chunks, self._behind = _chunks(data)
        self.signed = self._find(b"C2PA") is not None
        self.xmp = self._find(b"XMP ")
        found = self._find(b"EXIF")
        self._prefix = _PREFIX if found is not None and found.startswith(_PREFIX) else b""
        self._camera = None if found is None else found.removeprefix(_PREFIX)
        self.told = exif.is_told(self._camera)
        self._extended = _extended(self._chunks[0])
        self._new_exif: bytes | None = None

    def fits(self, text: str) -> bool:
        """Whether a text has room."""
        return exif.fits(self._camera, text, len(self._camera or b"") + MOST)

    def tell(self, text: str) -> None:
        """Put a text into UserComment."""
        self._new_exif = self._prefix + exif.with_comment(self._camera, text)

    def written(self, xmp: bytes | None) -> bytes:
        """Return the file."""
        first = bytearray(self._extended)
        chunks = [chunk for chunk in self._chunks if chunk.kind != _VP8X]
        for kind, flag, body in ((b"EXIF", _EXIF, self._new_exif), (b"XMP ", _XMP, xmp)):
            if body is not None:
                first[0] |= flag
                _put(chunks, _Chunk(kind, body))
        body = b"".join(map(_bytes, [_Chunk(_VP8X, bytes(first)), *chunks]))
        return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body + self._behind

    def _find(self, kind: bytes) -> bytes | None:
        return next((chunk.body for chunk in self._chunks if chunk.kind == kind), None)


def _chunks(data: bytes) -> tuple[list[_Chunk], bytes]:
    """Return the chunks, and what follows the end of the RIFF; LeftError."""
    (size,) = struct.unpack_from("<I", data, 4)
    end, place, found = size + 8, _HEAD, []
    while place + _AROUND <= end <= len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        if place + _AROUND + length > end:
            break
        found.append(_Chunk(kind, data[place + _AROUND : place + _AROUND + length]))
        place += _AROUND + length + length % 2
    if not found or place < end or found[0].kind not in {_VP8X, _VP8, _VP8L}:
        raise LeftError("its WebP is not whole")
    return found, data[max(place, end) :] if place <= len(data) else b""


def _extended(first: _Chunk) -> bytes:
    """Return the body of VP8X by a file's first chunk; LeftError."""
    kind, body = first
    if kind == _VP8X and len(body) >= _EXTENDED_HEAD:
        return body
    flags, width, height = 0, 0, 0
    if kind == _VP8 and len(body) >= _LOSSY_HEAD and body[3:6] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", body, 6))
    elif kind == _VP8L and len(body) >= _LOSSLESS_HEAD and body[0] == 0x2F:  # noqa: PLR2004  its signature
        bits = int.from_bytes(body[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        flags = _ALPHA if bits >> 28 & 1 else 0
    if not width or not height:
        raise LeftError("its WebP is not whole")
    return b"".join((bytes([flags, 0, 0, 0]), *((side - 1).to_bytes(3, "little") for side in (width, height))))


def _put(chunks: list[_Chunk], new: _Chunk) -> None:
    """Put a chunk in the place of the first of its kind, or at the end, where EXIF data come before XMP."""
    kinds = [chunk.kind for chunk in chunks]
    if new.kind in kinds:
        chunks[kinds.index(new.kind)] = new
    else:
        chunks.insert(kinds.index(b"XMP ") if b"XMP " in kinds else len(chunks), new)


def _bytes(chunk: _Chunk) -> bytes:
    return chunk.kind + struct.pack("<I", len(chunk.body)) + chunk.body + bytes(len(chunk.body) % 2)
