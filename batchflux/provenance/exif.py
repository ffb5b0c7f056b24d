"""EXIF data (a TIFF without pictures): its UserComment read, and put in.

Nothing in it moves, since what makers of cameras keep there points to places: a directory that gets an entry is
written anew at the end, and the pointer to it changed.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from batchflux.provenance.parts import LeftError

_POINTER, _VERSION, _COMMENT = 0x8769, 0x9000, 0x9286
_LONG, _UNDEFINED = 4, 7  # types of entries
_ORDERS = {b"MM\0*": ">", b"II*\0": "<"}
_START, _ENTRY, _INLINE = 8, 12, 4  # bytes of the header, of an entry, of a value that stands in its entry
_CODE = b"UNICODE\0"  # behind which UTF-16 follows, big-endian in all that write `parameters`
_SETTINGS = re.compile(rb"\b(?:Steps|Seed|Size|Model): ")
_BROKEN = "its EXIF data are broken"


class _Entry(NamedTuple):
    tag: int
    data: bytes  # type, count and value, or where that is


class _Tiff:
    """EXIF data as a TIFF: its order of bytes, and its directories."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        order = _ORDERS.get(data[:4])
        if order is None:
            raise LeftError(_BROKEN)
        self.order: str = order
        self.main = self._number(4)
        self.entries, self.next = self._directory(self.main)
        self.inner: list[_Entry] = []
        self.inner_next = 0
        self.pointer = next((at for at, entry in enumerate(self.entries) if entry.tag == _POINTER), None)
        if self.pointer is not None:
            place = self._number(self.main + 2 + self.pointer * _ENTRY + 8)
            self.inner, self.inner_next = self._directory(place)

    def comment(self) -> bytes:
        """Return UserComment as it is, b'' where there is none."""
        entry = next((entry for entry in self.inner if entry.tag == _COMMENT), None)
        if entry is None:
            return b""
        count, place = struct.unpack(f"{self.order}II", entry.data[2:])
        if count <= _INLINE:
            return entry.data[6 : 6 + count]
        if place + count > len(self.data):
            raise LeftError(_BROKEN)
        return self.data[place : place + count]

    def entry(self, tag: int, kind: int, count: int, value: int) -> _Entry:
        return _Entry(tag, struct.pack(f"{self.order}HII", kind, count, value))

    def directory(self, entries: list[_Entry], following: int) -> bytes:
        """Return the bytes of a directory."""
        ordered = sorted(entries, key=lambda entry: entry.tag)
        body = b"".join(struct.pack(f"{self.order}H", entry.tag) + entry.data for entry in ordered)
        return struct.pack(f"{self.order}H", len(entries)) + body + struct.pack(f"{self.order}I", following)

    def _directory(self, place: int) -> tuple[list[_Entry], int]:
        if not _START <= place <= len(self.data) - 2:
            raise LeftError(_BROKEN)
        (count,) = struct.unpack_from(f"{self.order}H", self.data, place)
        end = place + 2 + count * _ENTRY
        if end > len(self.data):
            raise LeftError(_BROKEN)
        found = [self.data[at : at + _ENTRY] for at in range(place + 2, end, _ENTRY)]
        entries = [_Entry(struct.unpack(f"{self.order}H", entry[:2])[0], entry[2:]) for entry in found]
        return entries, self._number(end) if end + 4 <= len(self.data) else 0

    def _number(self, place: int) -> int:
        if place + 4 > len(self.data):
            raise LeftError(_BROKEN)
        return int(struct.unpack_from(f"{self.order}I", self.data, place)[0])


def is_told(data: bytes | None) -> bool:
    """Whether UserComment says how a picture was made; broken data say nothing."""
    try:
        said = _Tiff(data).comment() if data else b""
    except LeftError:
        return False
    return _SETTINGS.search(said.replace(b"\0", b"")) is not None


def fits(data: bytes | None, text: str, room: int) -> bool:
    """Whether EXIF data of at most `room` bytes can hold a text."""
    try:
        return len(with_comment(data, text)) <= room
    except LeftError:  # which is what a text of any length meets
        return True


def with_comment(data: bytes | None, text: str) -> bytes:
    """Return EXIF data with a UserComment; LeftError: there is another, or the data are broken."""
    fresh = data is None
    tiff = _Tiff(b"MM\0*\0\0\0\x08\0\0\0\0\0\0" if data is None else data)
    if tiff.comment()[len(_CODE) :].strip(b"\0 "):
        raise LeftError("its EXIF data have a comment already")
    value = _value(text)
    out = bytearray(tiff.data)
    place = _append(out, value)
    inner = [entry for entry in tiff.inner if entry.tag != _COMMENT]
    inner += [tiff.entry(_COMMENT, _UNDEFINED, len(value), place)]
    inner += [_Entry(_VERSION, struct.pack(">HI4s", _UNDEFINED, 4, b"0232"))] if fresh else []
    place = _append(out, tiff.directory(inner, tiff.inner_next))
    if tiff.pointer is not None:
        struct.pack_into(f"{tiff.order}I", out, tiff.main + 2 + tiff.pointer * _ENTRY + 8, place)
    else:
        entries = [*tiff.entries, tiff.entry(_POINTER, _LONG, 1, place)]
        place = _append(out, tiff.directory(entries, tiff.next))
        struct.pack_into(f"{tiff.order}I", out, 4, place)
    return bytes(out)


def _value(text: str) -> bytes:
    return _CODE + text.encode("utf-16-be", errors="replace")


def _append(out: bytearray, data: bytes) -> int:
    """Append data at an even place, which is returned."""
    out += bytes(len(out) % 2)
    place = len(out)
    out += data
    return place
