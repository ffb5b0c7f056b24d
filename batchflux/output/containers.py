"""The containers of pictures, followed from the first byte to the end: what Pillow does not look at.

Pillow takes a JPEG that is cut off, or followed by other bytes, for whole.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, NamedTuple

from batchflux.errors import Code, JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batchflux.output.base import Kind

MEGAPIXELS = 64  # four times what the largest image API makes; a decoded one takes 256 MB
NAMES: Mapping[Kind, str] = {
    "jpeg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "gif": "GIF",
    "bmp": "BMP",
    "tiff": "TIFF",
    "avif": "AVIF",
    "ico": "ICO",
    "ppm": "PPM",
    "jpeg2000": "JPEG2000",
}
PALETTE = 3  # a PNG's colour type
PNG_START, JPEG_START = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_AVIF = (b"avif", b"avis")
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
PNG_OVERHEAD = 12  # length, type and checksum of a chunk
_PNG_ANIMATION = frozenset({b"acTL", b"fcTL", b"fdAT"})
_DEFLATE_BEST = 1032  # bytes that one byte of deflate can stand for, at most
_BMP_HEADERS = 26  # bytes, the shortest
_BOX = re.compile(rb"ftyp|meta|mdat|moov|moof|free|skip|uuid|pdin|mfra|sidx|styp|jumb")
_GIF_BLOCKS, _GIF_PICTURE, _GIF_END = 0x21, 0x2C, 0x3B
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_STILL_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended and progressive Huffman: what decoders decode
_ALONE = frozenset({0x01, *range(0xD0, 0xD8), _EOI})  # markers without a body: TEM and the restarts too
_MOST_SCANS = 100  # encoders make twenty; each costs the decoder a walk over all pixels, however few bytes it has
_MARKER = re.compile(rb"\xff+([\x01-\xfe])")  # fill bytes may stand before a marker
_SCAN_END = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # in scan data: neither a stuffed byte, a restart nor fill

_SIGNATURES: dict[str, tuple[bytes, ...]] = {
    "a PDF": (b"%PDF",),
    "a ZIP archive": (b"PK\3\4",),
    "gzip data": (b"\x1f\x8b",),
    "an HTML page": (b"<!doctype html", b"<html"),
    "an SVG": (b"<svg",),
    "an XML document": (b"<?xml",),
    "JSON": (b"{", b"["),
    "a data: URL": (b"data:",),
}


class Container(NamedTuple):
    """What was followed: its kind, where it ends, and whether it says that it is animated."""

    kind: Kind
    end: int
    animated: bool = False


def follow(data: bytes) -> Container:
    """Follow the container that bytes are; JobError `bad_image` says why they are no whole one, or none."""
    for starts, walk in _WALKS.items():
        if data.startswith(starts):
            return walk(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[4:8] == b"ftyp" and any(brand in data[8 : int.from_bytes(data[:4])][:64] for brand in _AVIF):
        return _avif(data)
    if data and any(start.startswith(data) for start in (PNG_START, JPEG_START)):
        raise bad(f"the picture is cut off after {len(data)} bytes")
    if data[4:8] == b"ftyp" or data.startswith(_JPEG_XL):
        name = "JPEG XL" if data.startswith(_JPEG_XL) else data[8:12].decode("ascii", "replace").strip().upper()
        raise bad(f"the answer is a {name!a} file, a kind of picture that batchflux cannot read", final=True)
    raise bad(f"the answer is {_foreign(data)}, not a picture of a known kind")


def ends_as_picture(data: bytes) -> bool:
    """Whether bytes are a picture to its end, and of a kind that says where that is."""
    try:
        found = follow(data)
    except JobError:
        return False
    return found.kind in {"png", "jpeg", "webp"} and found.end == len(data)


def bad(message: str, *, final: bool = False) -> JobError:
    """Return what to raise for bytes that are no whole picture; `final`: to ask again would bring the same."""
    return JobError(Code.BAD_IMAGE, message, final=final)


def sized(kind: Kind, width: int, height: int) -> None:
    """Refuse a size that no picture has, or that is not decoded."""
    if width < 1 or height < 1:
        raise bad(f"the {NAMES[kind]} has no pixels: its size is {width}x{height}")
    if width * height > MEGAPIXELS * 1_000_000:
        what = f"the {NAMES[kind]} is {width}x{height}, over the {MEGAPIXELS} megapixels that are decoded"
        raise bad(what, final=True)


def pixel_data(png: bytes) -> Iterator[bytes]:
    """Yield the bodies of a PNG's IDAT chunks."""
    at = len(PNG_START)
    while (kind := png[at + 4 : at + 8]) != b"IEND":
        length = int.from_bytes(png[at : at + 4])
        if kind == b"IDAT":
            yield png[at + 8 : at + 8 + length]
        at += length + PNG_OVERHEAD


def _png(data: bytes) -> Container:
    """Follow a PNG's chunks (PNG specification, third edition)."""
    at, pixels, last = len(PNG_START), 0, b""
    seen: set[bytes] = set()
    view = memoryview(data)
    while last != b"IEND":
        if at + PNG_OVERHEAD > len(data):
            raise _cut("png", data)
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        if not kind.isalpha():
            raise bad(f"the PNG is damaged: no chunk starts at byte {at}")
        if (kind == b"IHDR") == bool(seen):
            raise bad("the PNG does not start with its one IHDR chunk")
        end = at + length + PNG_OVERHEAD
        if end > len(data):
            raise _cut("png", data)
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            raise bad(f"the PNG is damaged: the checksum of its {kind.decode()} chunk at byte {at} is wrong")
        if kind == b"IDAT":
            if kind in seen and last != kind:
                raise bad("the PNG's pixel data is torn apart by other chunks")
            pixels += length
        seen.add(kind)
        last = kind
        at = end
    if not data.endswith(_PNG_END, 0, at):
        raise bad("the PNG is damaged: its IEND chunk is not one")
    _check_png_header(data, pixels, seen)
    return Container("png", at, animated=not seen.isdisjoint(_PNG_ANIMATION))


def _check_png_header(data: bytes, pixels: int, seen: set[bytes]) -> None:
    """Check what a PNG's header promises against its chunks; `pixels` are the bytes of its pixel data."""
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    sized("png", width, height)
    colour, interlace = data[25], data[28]
    if interlace > 1:
        raise bad("the PNG's header holds values that no PNG has")
    if colour == PALETTE and b"PLTE" not in seen:
        raise bad("the PNG has no palette though its header promises one")
    if (
        not pixels or height * (1 + (width + 7) // 8) > (pixels + 1) * _DEFLATE_BEST
    ):  # with the fewest bits that a pixel can have
        raise bad(f"the PNG holds {pixels} bytes of pixel data, too few for {width}x{height}")


def _jpeg(data: bytes) -> Container:
    """Follow a JPEG's segments to its EOI marker (ITU-T T.81 annex B)."""
    marker, end, scans, framed = _SOI, 2, 0, False
    while marker != _EOI:
        marker, at, end = _segment(data, end)
        if marker in _FRAMES or marker == _SOI:
            if framed or marker not in _STILL_FRAMES:
                raise bad(f"the JPEG holds a marker that a still picture has not (0x{marker:02X} at byte {at - 1})")
            sized("jpeg", int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 3 : at + 5]))
            framed = True
        elif marker == _SOS:
            scans += 1
            if not framed:
                raise bad("the JPEG's pixel data comes before its frame")
            if scans > _MOST_SCANS:
                raise bad(f"the JPEG has more than {_MOST_SCANS} scans, which would take long to decode")
    if not scans:
        raise bad("the JPEG holds no picture")
    return Container("jpeg", end)


def _segment(data: bytes, at: int) -> tuple[int, int, int]:
    """Return the marker at `at`, where its body starts and where that ends, scan data included."""
    found = _MARKER.match(data, at)
    if found is None:
        if data[at:].strip(b"\xff"):
            raise bad(f"the JPEG is damaged: no segment starts at byte {at}")
        raise _cut("jpeg", data)
    marker, body = found[1][0], found.end()
    if marker in _ALONE:
        return marker, body, body
    length = int.from_bytes(data[body : body + 2])  # its own two bytes included
    end = body + length
    if max(end, body + 2) > len(data):
        raise _cut("jpeg", data)
    if end < body + 2:
        raise bad(f"the JPEG is damaged: the segment at byte {body} has no length")
    if marker != _SOS:
        return marker, body, end
    scan = _SCAN_END.search(data, end)
    if scan is None:
        raise _cut("jpeg", data)
    if scan.start() == end:
        raise bad(f"the JPEG holds an empty scan at byte {end}")
    return marker, body, scan.start()


def _webp(data: bytes) -> Container:
    """Follow the chunks of a WEBP's RIFF container (RFC 9649)."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise _cut("webp", data)
    at, frames, animated = 12, 0, False
    while at < end:
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        animated |= kind == b"ANMF"
        frames += kind in {b"VP8 ", b"VP8L"}
        if at + 8 + length > end:
            raise bad(f"the WEBP is damaged: the chunk at byte {at} is longer than the file")
        at += 8 + length + (length & 1)
    if frames != 1 and not animated:
        raise bad("the WEBP holds more than one picture" if frames else "the WEBP holds no picture")
    return Container("webp", end, animated=animated)


def _gif(data: bytes) -> Container:
    """Follow a GIF's blocks to its trailer (GIF89a specification)."""
    try:
        at = 13 + _gif_colours(data[10])
        while data[at] != _GIF_END:
            if data[at] == _GIF_PICTURE:
                at += 11 + _gif_colours(data[at + 9])  # the code size stands behind the colours
            elif data[at] == _GIF_BLOCKS:
                at += 2
            else:
                raise bad(f"the GIF is damaged: no block starts at byte {at}")
            while data[at]:
                at += 1 + data[at]
            at += 1
    except IndexError:
        raise _cut("gif", data) from None
    return Container("gif", at + 1)


def _gif_colours(flags: int) -> int:
    return 6 << (flags & 7) if flags & 0x80 else 0  # bytes


def _bmp(data: bytes) -> Container:
    """Believe a BMP's header how long it is, unless it is a stub that does not tell; Pillow sees what is missing."""
    told = int.from_bytes(data[2:6], "little")
    return Container("bmp", told if _BMP_HEADERS <= told <= len(data) else len(data))


def _to_the_end(kind: Kind) -> Callable[[bytes], Container]:
    """Take one to the last byte: its parts lie anywhere, or Pillow alone follows them; it sees what is missing."""
    return lambda data: Container(kind, len(data))


def _avif(data: bytes) -> Container:
    """Follow an AVIF's boxes (ISO/IEC 14496-12)."""
    at = 0
    while _BOX.fullmatch(data, at + 4, at + 8):
        size = int.from_bytes(data[at : at + 4])
        size = int.from_bytes(data[at + 8 : at + 16]) if size == 1 else size or len(data) - at
        if size < 8 or at + size > len(data):  # noqa: PLR2004  its own header
            raise _cut("avif", data)
        at += size
    return Container("avif", at)


_WALKS: Mapping[tuple[bytes, ...], Callable[[bytes], Container]] = {
    (PNG_START,): _png,
    (JPEG_START,): _jpeg,
    (b"GIF87a", b"GIF89a"): _gif,
    (b"BM",): _bmp,
    (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"): _to_the_end("tiff"),
    (b"\0\0\1\0",): _to_the_end("ico"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"): _to_the_end("jpeg2000"),
    tuple(b"P%d%c" % (number, blank) for number in range(1, 7) for blank in b"\n\r\t "): _to_the_end("ppm"),
}
"""How each container begins, and what follows it; those of RIFF and boxes begin with their length."""


def _foreign(data: bytes) -> str:
    """Say what bytes are that are no picture of a known kind."""
    if not data:
        return "nothing (0 bytes)"
    head = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for name, starts in _SIGNATURES.items():
        if data.startswith(starts) or head.startswith(starts):
            return "an SVG" if name == "an XML document" and b"<svg" in head else name
    return "text" if head.isascii() and head.decode("ascii").replace("\n", " ").isprintable() else "no known picture"


def _cut(kind: Kind, data: bytes) -> JobError:
    return bad(f"the {NAMES[kind]} is cut off after {len(data)} bytes, before its end")
