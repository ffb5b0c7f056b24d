"""The structure of a PNG (PNG specification, third edition, 2025): its chunks, from signature to IEND.

And a short proof that its pixels decode, without decoding them. Filters (section 9) are sums of bytes modulo 256, which
cannot fail: a stream that inflates with a right checksum to the very number of bytes that the header promises, with a
known filter type before each row, decodes to its last pixel. That is a seventh of the work of decoding it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from batchflux.output import deflate
from batchflux.output.verify import Shape, bad, check_tail, sized

if TYPE_CHECKING:
    from collections.abc import Iterator

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
_EIGHT_BITS = 8
_FILTERS = 5  # types of filters: none, sub, up, average, Paeth
_WINDOW = 1 << 18  # bytes of pixels that are held at once
_NARROW = 64  # pixels; rows of fewer cost more here than when they are decoded
_ROWS = 4096  # looked at for two colours


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
    if deflate.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
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
    if b"IDAT" not in seen:
        raise bad("the PNG has no pixel data")
    if colour == _PALETTE and b"PLTE" not in seen:
        raise bad("the PNG has no palette though its header promises one")
    row = 1 + (width * depth * _CHANNELS[colour] + 7) // 8
    if row * height > (compressed + 1) * _DEFLATE_BEST:
        raise bad(f"the PNG holds {compressed} bytes of pixel data, too few for {width}x{height}")


def proven(data: bytes) -> bool:
    """Whether a PNG that passed `inspect` is known to decode to its last pixel, and to have more than one colour.

    False says nothing: the pixels have to be decoded to tell. So it is for palettes, for other than 8 bits, for
    interlaced and narrow pictures, for those with chunks behind their pixels or a row in many chunks, and where the
    first rows are each of one colour.
    """
    width, height, depth, colour, _, _, interlace = _IHDR.unpack_from(data, len(SIGNATURE) + 8)
    if depth != _EIGHT_BITS or colour == _PALETTE or interlace or width < _NARROW:
        return False
    pixels = _Pixels(data, _CHANNELS[colour])
    try:
        return pixels.whole(height) and pixels.varied
    except deflate.ERRORS:
        return False


class _Pixels:
    """The filtered rows of one picture's pixel data, gone through once; `varied` once it is known to have two colours.

    In a picture of one colour each filter leaves, behind the row's first pixel, equal bytes a pixel apart. So a row
    that has others has two colours.
    """

    def __init__(self, data: bytes, pixel: int) -> None:
        self._data = data
        self._pixel = pixel
        self._row = 1 + pixel * _IHDR.unpack_from(data, len(SIGNATURE) + 8)[0]
        self._out = self._looks = 0
        self._ends = False
        self.varied = False

    def whole(self, height: int) -> bool:
        """Whether there are `height` rows, each of a known filter, and nothing else."""
        wanted = height * self._row
        inflater = deflate.inflater()
        for piece in self._pieces():
            left: bytes | memoryview = piece
            while left:
                if inflater.eof or not self._take(inflater.decompress(left, _WINDOW)) or self._out > wanted:
                    return False
                left = inflater.unconsumed_tail
        done = self._take(inflater.flush()) and inflater.eof and not inflater.unused_data
        return done and self._out == wanted and self._ends

    def _pieces(self) -> Iterator[memoryview]:
        """Yield what the IDAT chunks hold; note whether the picture ends right behind them."""
        view = memoryview(self._data)
        at, before = len(SIGNATURE), b""
        while True:
            length, kind = _HEAD.unpack_from(self._data, at)
            if kind == b"IDAT":
                yield view[at + 8 : at + 8 + length]
            elif before == b"IDAT":
                self._ends = kind == b"IEND"
                return
            before = kind
            at += length + _OVERHEAD

    def _take(self, out: bytes) -> bool:
        """Look at the next bytes; say whether it is worth to go on: all filters are known, two colours are likely."""
        row, pixel = self._row, self._pixel
        first = -self._out % row
        if not self.varied:
            for at in range(first + 1 + pixel, len(out) - row + 2 + pixel, row):
                line = out[at : at + row - 1 - pixel]
                self._looks += 1
                self.varied = line[:-pixel] != line[pixel:]
                if self.varied or self._looks > _ROWS:
                    break
        self._out += len(out)
        return max(out[first::row], default=0) < _FILTERS and self._looks <= _ROWS
