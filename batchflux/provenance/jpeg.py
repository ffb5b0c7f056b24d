"""JPEG: segments up to the first scan; XMP and EXIF data each have an APP1, of at most 64 KB."""

from __future__ import annotations

import struct
from typing import NamedTuple

from batchflux.provenance import exif
from batchflux.provenance.parts import LeftError

START = b"\xff\xd8\xff"
_EXIF, _XMP, _MPF = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"MPF\0"
_APP0, _APP1, _APP2, _APP11 = 0xE0, 0xE1, 0xE2, 0xEB
_BEFORE_SCAN, _ALONE = 0xDA, {0x01, *range(0xD0, 0xDA)}
_SOI, _LENGTH = 2, 2  # bytes of the first marker, of a segment's length, which counts itself
_MOST = 0xFFFF - _LENGTH  # bytes of a segment's body


class _Segment(NamedTuple):
    marker: int
    begin: int
    end: int


class Jpeg:
    """A JPEG in its parts."""

    room = _MOST - len(_XMP)

    def __init__(self, data: bytes) -> None:
        self._data, self._segments = data, _segments(data)
        if self._find(_APP2, _MPF) is not None:
            raise LeftError("its JPEG holds several pictures, whose places would no longer be right")
        self.signed = any(
            one.marker == _APP11 and self._body(one)[:2] == b"JP" and self._body(one)[12:16] == b"jumb"
            for one in self._segments
        )
        self._packet, self._exif = self._find(_APP1, _XMP), self._find(_APP1, _EXIF)
        self.xmp = None if self._packet is None else self._body(self._packet)[len(_XMP) :]
        self._camera = None if self._exif is None else self._body(self._exif)[len(_EXIF) :]
        self.told = exif.is_told(self._camera)
        self._new_exif = b""

    def fits(self, text: str) -> bool:
        """Whether a text has room."""
        return exif.fits(self._camera, text, _MOST - len(_EXIF))

    def tell(self, text: str) -> None:
        """Put a text into UserComment."""
        self._new_exif = _segment(_EXIF + exif.with_comment(self._camera, text))

    def written(self, xmp: bytes | None) -> bytes:
        """Return the file; new segments come behind APP0, EXIF data first."""
        ahead = 0
        while ahead < len(self._segments) and self._segments[ahead].marker == _APP0:
            ahead += 1
        first = self._segments[ahead - 1].end if ahead else _SOI
        packet = b"" if xmp is None else _segment(_XMP + xmp)
        changes: list[tuple[int, int, bytes]] = []
        if self._new_exif:
            place = (self._exif.begin, self._exif.end) if self._exif else (first, first)
            changes.append((*place, self._new_exif))
        if packet:
            behind = self._exif.end if self._exif else first
            place = (self._packet.begin, self._packet.end) if self._packet else (behind, behind)
            changes.append((*place, packet))
        return _changed(self._data, changes)

    def _body(self, segment: _Segment) -> bytes:
        return self._data[segment.begin + 4 : segment.end]

    def _find(self, marker: int, head: bytes) -> _Segment | None:
        ours = (one for one in self._segments if one.marker == marker)
        return next((one for one in ours if self._data.startswith(head, one.begin + 4)), None)


def _segments(data: bytes) -> list[_Segment]:
    """Return the segments before the first scan; LeftError."""
    found: list[_Segment] = []
    place = _SOI
    while True:
        while data[place + 1 : place + 2] == b"\xff":  # fill bytes
            place += 1
        if data[place : place + 1] != b"\xff" or place + 4 > len(data) or data[place + 1] in _ALONE:
            raise LeftError("its JPEG is not whole")
        marker, length = data[place + 1], struct.unpack_from(">H", data, place + 2)[0]
        if marker == _BEFORE_SCAN:
            return found
        end = place + 2 + length
        if length < _LENGTH or end > len(data):
            raise LeftError("its JPEG is not whole")
        found.append(_Segment(marker, place, end))
        place = end


def _segment(body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, _APP1, len(body) + 2) + body


def _changed(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Return data with other bytes in these places."""
    whole, at = memoryview(data), 0  # no slice of it is copied twice
    pieces: list[bytes | memoryview] = []
    for begin, end, new in sorted(changes, key=lambda change: change[:2]):
        pieces += [whole[at:begin], new]
        at = end
    return b"".join([*pieces, whole[at:]])
