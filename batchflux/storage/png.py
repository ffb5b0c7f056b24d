"""The structure of a PNG (PNG specification, third edition, 2025): its chunks, from signature to IEND."""

from __future__ import annotations

import struct
import zlib

from batchflux.storage.structure import Shape, bad, check_tail, sized

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEAD = struct.Struct(">I4s")
_IHDR = struct.Struct(">IIBBBBB")
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
_PALETTE = 3
_MOST = 1 << 31  # no length reaches this
_OVERHEAD = 12  # length, type and CRC of a chunk
_DEFLATE_BEST = 1032  # bytes that one byte of deflate can stand for, at most
_ANIMATION = frozenset({b"acTL", b"fcTL", b"fdAT"})


def inspect(data: bytes) -> Shape:
    """Return the shape of a whole PNG.

    Raises:
        JobError: `bad_image`, saying what is wrong.
    """
    view = memoryview(data)
    at = len(SIGNATURE)
    shape: Shape | None = None
    pixels = 0
    seen: set[bytes] = set()
    last = b""
    while last != b"IEND":
        kind, length = _chunk(data, view, at)
        if (kind == b"IHDR") is not (shape is None):
            raise bad("the PNG does not start with its one IHDR chunk")
        if shape is None:
            shape = _header(data[at + 8 : at + 8 + length])
        elif kind in _ANIMATION:
            raise bad("the PNG is animated; a still picture was asked for")
        elif kind == b"IDAT":
            if b"IDAT" in seen and last != b"IDAT":
                raise bad("the PNG's pixel data is torn apart by other chunks")
            pixels += length
        seen.add(kind)
        last = kind
        at += length + _OVERHEAD
    if shape is None:
        raise bad("the PNG has no header")
    _check_pixels(data, pixels, seen)
    check_tail("png", data, at)
    return shape


def _chunk(data: bytes, view: memoryview, at: int) -> tuple[bytes, int]:
    """Return type and length of the chunk at `at`, whole and with a right checksum."""
    if at + _OVERHEAD > len(data):
        raise bad(f"the PNG is cut off after {len(data)} bytes, before its end")
    length, kind = _HEAD.unpack_from(data, at)
    if length >= _MOST or not kind.isalpha():
        raise bad(f"the PNG is damaged: no chunk starts at byte {at}")
    end = at + 8 + length
    if end + 4 > len(data):
        raise bad(f"the PNG is cut off after {len(data)} bytes, inside a chunk that ends at {end + 4}")
    if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
        raise bad(f"the PNG is damaged: the checksum of its {kind.decode('ascii')} chunk at byte {at} is wrong")
    return kind, length


def _header(body: bytes) -> Shape:
    if len(body) != _IHDR.size:
        raise bad("the PNG's header has a wrong length")
    width, height, depth, colour, compression, filtering, interlace = _IHDR.unpack(body)
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise bad("the PNG's header holds values that no PNG has")
    return sized("png", width, height)


def _check_pixels(data: bytes, compressed: int, seen: set[bytes]) -> None:
    """Check that pixel data is there, looks like zlib, and can be enough for the size that the header promises."""
    width, height, depth, colour, *_ = _IHDR.unpack_from(data, len(SIGNATURE) + 8)
    if colour == _PALETTE and b"PLTE" not in seen:
        raise bad("the PNG has no palette though its header promises one")
    row = 1 + (width * depth * _CHANNELS[colour] + 7) // 8
    if row * height > (compressed + 1) * _DEFLATE_BEST:
        raise bad(f"the PNG holds {compressed} bytes of pixel data, too few for {width}x{height}")
