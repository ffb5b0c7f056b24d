"""Whether bytes are the picture that was promised. The rule: bytes prove themselves, nothing else is believed.

`structure` follows the container from its first byte to its end, where only padding may follow: Pillow takes a JPEG
that is cut off or followed by other bytes for whole. `decode` decodes every pixel besides, because bytes can be wrong
where no checksum tells, and refuses a picture of one single colour.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import struct
import warnings
import zlib
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, UnidentifiedImageError

from batchflux.errors import Code, JobError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchflux.models import Format, Verify

_MEGAPIXELS = 64  # four times what the largest image API makes; a decoded one takes 256 MB
RATIO_TOLERANCE = 0.08  # APIs round sides to multiples of 8 to 64: 1392x752 comes for 16:9
_NAMES: dict[Format, str] = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}
_PADDING = b"\0\r\n"
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_PNG_OVERHEAD = 12  # length, type and checksum of a chunk
_PNG_ANIMATION = frozenset({b"acTL", b"fcTL", b"fdAT"})
_PNG_PALETTE = 3
_CHANNELS = {0: 1, 2: 3, _PNG_PALETTE: 1, 4: 2, 6: 4}  # samples a pixel, by colour type
_SAMPLED = 8  # pixels a side
_WHOLE_BYTE = 8  # bits
_PNG_FILTERS = bytes(range(5))
_DEFLATE_BEST = 1032  # bytes that one byte of deflate can stand for, at most
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_STILL_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended and progressive Huffman: what decoders decode
_ALONE = frozenset({0x01, *range(0xD0, 0xD8), _EOI})  # markers without a body: TEM and the restarts too
_MOST_SCANS = 100  # encoders make twenty; each costs the decoder a walk over all pixels, however few bytes it has
_MARKER = re.compile(rb"\xff+([\x01-\xfe])")  # fill bytes may stand before a marker
_SCAN_END = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # in scan data: neither a stuffed byte, a restart nor fill

_SIGNATURES: dict[str, tuple[bytes, ...]] = {
    "a GIF": (b"GIF87a", b"GIF89a"),
    "a BMP": (b"BM",),
    "a TIFF": (b"II*\0", b"MM\0*"),
    "a PDF": (b"%PDF",),
    "a ZIP archive": (b"PK\3\4",),
    "gzip data": (b"\x1f\x8b",),
    "an icon": (b"\0\0\1\0",),
    "a JPEG XL": (b"\xff\x0a",),
    "an HTML page": (b"<!doctype html", b"<html"),
    "an SVG": (b"<svg",),
    "an XML document": (b"<?xml",),
    "JSON": (b"{", b"["),
    "a data: URL": (b"data:",),
}

# Here and not around each decode: the filters are the process's own, and pictures are decoded in several threads.
warnings.simplefilter("error", Image.DecompressionBombWarning)


class Expected(NamedTuple):
    """What a job's picture has to be: None is any, and none of the `references` (sha256 hex digests)."""

    kind: Format | None = None
    ratio: str | None = None  # W:H
    references: frozenset[str] = frozenset()


class Shape(NamedTuple):
    """What a picture is: its kind, and its size in pixels."""

    kind: Format
    width: int
    height: int


def check(data: bytes, expect: Expected, how: Verify) -> tuple[Shape, str]:
    """Return what the picture is, and its sha256 hex digest; JobError `echoed_input` or `bad_image` if it is wrong."""
    digest = hashlib.sha256(data).hexdigest()
    if digest in expect.references:
        message = "the answer is a reference image, unchanged; reword the prompt or take another model"
        raise JobError(Code.ECHOED_INPUT, message)
    shape = inspect(data, how)
    if expect.kind is not None and shape.kind != expect.kind:
        raise _bad(f"a {_NAMES[expect.kind]} was asked for and a {_NAMES[shape.kind]} came")
    wide, _, high = (expect.ratio or "").partition(":")
    asked = int(wide) / int(high) if wide.isdecimal() and high.isdecimal() and int(high) else 0
    if asked and abs(shape.width / shape.height / asked - 1) > RATIO_TOLERANCE:
        raise _bad(f"the picture is {shape.width}x{shape.height}, which is not the {expect.ratio} asked for")
    return shape, digest


def inspect(data: bytes, how: Verify = "structure") -> Shape:
    """Return the shape of a whole still picture; JobError `bad_image` says what it is not."""
    kind = _kind_of(data)
    end = {"png": _png_end, "jpeg": _jpeg_end, "webp": _webp_end}[kind](data)
    if data[end:].strip(_PADDING):
        raise _bad(f"the {_NAMES[kind]} ends at byte {end} but {len(data) - end} bytes follow, which are not its own")
    with _opened(data, kind) as picture:
        shape = _sized(kind, *picture.size)
        if getattr(picture, "n_frames", 1) != 1:
            raise _animated(kind)
        if how == "decode" and not (kind == "png" and _is_proven(data)):
            _decode(data, picture, shape)
    return shape


def _kind_of(data: bytes) -> Format:
    if data.startswith(_PNG):
        return "png"
    if data.startswith(_JPEG):
        return "jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data and any(start.startswith(data) for start in (_PNG, _JPEG)):
        raise _bad(f"the picture is cut off after {len(data)} bytes")
    raise _bad(f"the answer is {_foreign(data)}, not a PNG, JPEG or WEBP picture")


def _is_proven(png: bytes) -> bool:
    """Whether a PNG's pixel data is whole and of more than one colour; where this says False, a decode has to tell.

    It takes half the time of a decode, since no pixels are made. A row of one colour is, whatever its filter, the same
    bytes again and again behind its first pixel.
    """
    width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", png, 16)
    pixel = _CHANNELS.get(colour, 0) * depth // 8
    stride = 1 + width * pixel  # a filter's number stands before each row
    if depth < _WHOLE_BYTE or not pixel or interlace or stride * height > _MEGAPIXELS * 1_000_000:
        return False
    inflate = zlib.decompressobj()
    try:
        rows = inflate.decompress(b"".join(_pixel_data(png)), stride * height + 1)
    except zlib.error:
        return False
    if not inflate.eof or len(rows) != stride * height or rows[::stride].strip(_PNG_FILTERS):
        return False
    ends = range(stride, len(rows) + 1, stride)
    return any(rows[end - stride + 1 + pixel : end - pixel] != rows[end - stride + 1 + 2 * pixel : end] for end in ends)


def _pixel_data(png: bytes) -> Iterator[bytes]:
    """Yield the bodies of a PNG's IDAT chunks."""
    at = len(_PNG)
    while (kind := png[at + 4 : at + 8]) != b"IEND":
        length = int.from_bytes(png[at : at + 4])
        if kind == b"IDAT":
            yield png[at + 8 : at + 8 + length]
        at += length + _PNG_OVERHEAD


def _decode(data: bytes, picture: Image.Image, shape: Shape) -> None:
    """Decode every pixel of an open picture."""
    if shape.kind == "jpeg":  # all of its data is read for an eighth of its size too, which is made in half the time
        picture.draft(None, (1, 1))
    blank = _blank(picture)
    if blank and picture.size != (shape.width, shape.height):
        with _opened(data, shape.kind) as whole:
            blank = _blank(whole)
    if blank:
        raise _bad(f"blank picture: every pixel of the {_NAMES[shape.kind]} has the same colour")


@contextlib.contextmanager
def _opened(data: bytes, kind: Format) -> Iterator[Image.Image]:
    """Open a picture of this kind only; what Pillow raises meanwhile becomes a JobError."""
    name = _NAMES[kind]
    try:
        with Image.open(io.BytesIO(data), formats=(name,)) as picture:
            yield picture
    except JobError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _bad(f"the {name} is over the {_MEGAPIXELS} megapixels that are decoded") from error
    except UnidentifiedImageError as error:  # its text is about our buffer
        raise _bad(f"the {name} does not decode: its header is damaged") from error
    except Exception as error:  # decoders raise a dozen kinds for broken bytes; all mean the same here
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise _bad(f"the {name} does not decode: {why}") from error


def _sized(kind: Format, width: int, height: int) -> Shape:
    if width < 1 or height < 1:
        raise _bad(f"the {_NAMES[kind]} has no pixels: its size is {width}x{height}")
    if width * height > _MEGAPIXELS * 1_000_000:
        raise _bad(f"the {_NAMES[kind]} is {width}x{height}, over the {_MEGAPIXELS} megapixels that are decoded")
    return Shape(kind=kind, width=width, height=height)


def _png_end(data: bytes) -> int:
    """Return where a PNG's last chunk ends (PNG specification, third edition)."""
    at, pixels, last = len(_PNG), 0, b""
    seen: set[bytes] = set()
    view = memoryview(data)
    while last != b"IEND":
        if at + _PNG_OVERHEAD > len(data):
            raise _cut("png", data)
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        if not kind.isalpha():
            raise _bad(f"the PNG is damaged: no chunk starts at byte {at}")
        if (kind == b"IHDR") == bool(seen):
            raise _bad("the PNG does not start with its one IHDR chunk")
        end = at + length + _PNG_OVERHEAD
        if end > len(data):
            raise _cut("png", data)
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            raise _bad(f"the PNG is damaged: the checksum of its {kind.decode()} chunk at byte {at} is wrong")
        if kind == b"IDAT":
            if kind in seen and last != kind:
                raise _bad("the PNG's pixel data is torn apart by other chunks")
            pixels += length
        seen.add(kind)
        last = kind
        at = end
    if not data.endswith(_PNG_END, 0, at):
        raise _bad("the PNG is damaged: its IEND chunk is not one")
    _check_png_header(data, pixels, seen)
    return at


def _check_png_header(data: bytes, pixels: int, seen: set[bytes]) -> None:
    """Check what a PNG's header promises against its chunks; `pixels` are the bytes of its pixel data."""
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    _sized("png", width, height)
    if not seen.isdisjoint(_PNG_ANIMATION):
        raise _animated("png")
    colour, interlace = data[25], data[28]
    if interlace > 1:
        raise _bad("the PNG's header holds values that no PNG has")
    if colour == _PNG_PALETTE and b"PLTE" not in seen:
        raise _bad("the PNG has no palette though its header promises one")
    if height * (1 + (width + 7) // 8) > (pixels + 1) * _DEFLATE_BEST:  # with the fewest bits that a pixel can have
        raise _bad(f"the PNG holds {pixels} bytes of pixel data, too few for {width}x{height}")


def _jpeg_end(data: bytes) -> int:
    """Return where a JPEG's EOI marker ends (ITU-T T.81 annex B)."""
    marker, end, scans, framed = _SOI, 2, 0, False
    while marker != _EOI:
        marker, at, end = _segment(data, end)
        if marker in _FRAMES or marker == _SOI:
            if framed or marker not in _STILL_FRAMES:
                raise _bad(f"the JPEG holds a marker that a still picture has not (0x{marker:02X} at byte {at - 1})")
            _sized("jpeg", int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 3 : at + 5]))
            framed = True
        elif marker == _SOS:
            scans += 1
            if not framed:
                raise _bad("the JPEG's pixel data comes before its frame")
            if scans > _MOST_SCANS:
                raise _bad(f"the JPEG has more than {_MOST_SCANS} scans, which would take long to decode")
    if not scans:
        raise _bad("the JPEG holds no picture")
    return end


def _segment(data: bytes, at: int) -> tuple[int, int, int]:
    """Return the marker at `at`, where its body starts and where that ends, scan data included."""
    found = _MARKER.match(data, at)
    if found is None:
        if data[at:].strip(b"\xff"):
            raise _bad(f"the JPEG is damaged: no segment starts at byte {at}")
        raise _cut("jpeg", data)
    marker, body = found[1][0], found.end()
    if marker in _ALONE:
        return marker, body, body
    length = int.from_bytes(data[body : body + 2])  # its own two bytes included
    end = body + length
    if max(end, body + 2) > len(data):
        raise _cut("jpeg", data)
    if end < body + 2:
        raise _bad(f"the JPEG is damaged: the segment at byte {body} has no length")
    if marker != _SOS:
        return marker, body, end
    scan = _SCAN_END.search(data, end)
    if scan is None:
        raise _cut("jpeg", data)
    if scan.start() == end:
        raise _bad(f"the JPEG holds an empty scan at byte {end}")
    return marker, body, scan.start()


def _webp_end(data: bytes) -> int:
    """Return where a WEBP's RIFF container ends (RFC 9649)."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise _cut("webp", data)
    at, frames = 12, 0
    while at < end:
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind in {b"ANIM", b"ANMF"} or (kind == b"VP8X" and any(byte & 0x02 for byte in data[at + 8 : at + 9])):
            raise _animated("webp")
        frames += kind in {b"VP8 ", b"VP8L"}
        if at + 8 + length > end:
            raise _bad(f"the WEBP is damaged: the chunk at byte {at} is longer than the file")
        at += 8 + length + (length & 1)
    if frames != 1:
        raise _bad("the WEBP holds more than one picture" if frames else "the WEBP holds no picture")
    return end


def _blank(picture: Image.Image) -> bool:
    """Decode a picture; whether all its pixels have one colour, of which a few mostly tell that they do not."""
    picture.load()
    return all(
        low == high
        for some in (picture.resize((_SAMPLED, _SAMPLED), Image.Resampling.NEAREST), picture)
        for low, high in _extrema(some)
    )


def _extrema(picture: Image.Image) -> Iterator[tuple[float, float]]:
    extrema = picture.getextrema()
    yield from extrema if isinstance(extrema[0], tuple) else (extrema,)


def _foreign(data: bytes) -> str:
    """Say what bytes are that are no PNG, JPEG or WEBP."""
    if not data:
        return "nothing (0 bytes)"
    if data[4:8] == b"ftyp":
        return f"a {data[8:12].decode('ascii', 'replace').strip().upper()!a} file"
    head = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for name, starts in _SIGNATURES.items():
        if data.startswith(starts) or head.startswith(starts):
            return "an SVG" if name == "an XML document" and b"<svg" in head else name
    return "text" if head.isascii() and head.decode("ascii").replace("\n", " ").isprintable() else "no known picture"


def _bad(message: str) -> JobError:
    return JobError(Code.BAD_IMAGE, message)


def _animated(kind: Format) -> JobError:
    return _bad(f"the {_NAMES[kind]} is animated; a still picture was asked for")


def _cut(kind: Format, data: bytes) -> JobError:
    return _bad(f"the {_NAMES[kind]} is cut off after {len(data)} bytes, before its end")
