"""Whether bytes are a whole picture, and in what it differs from the one that was ordered.

The rule: bytes prove themselves, nothing else is believed. `structure` follows the container (containers.py) from its
first byte to its end, where only padding may follow. `decode` decodes every pixel besides, because bytes can be wrong
where no checksum tells, and sees a picture of one single colour. A kind that nobody orders is always decoded.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import struct
import warnings
import zlib
from typing import TYPE_CHECKING, NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError

from batchflux.errors import Code, JobError
from batchflux.output.containers import MEGAPIXELS, NAMES, PALETTE, bad, follow, pixel_data, sized

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchflux.models import Format, Verify
    from batchflux.output.base import Kind
    from batchflux.output.containers import Container

RATIO_TOLERANCE = 0.08  # APIs round sides to multiples of 8 to 64: 1392x752 comes for 16:9
_ORDERED = ("jpeg", "png", "webp")  # the kinds that can be
_LINE_ENDS = b"\r\n"  # what an HTTP or text layer puts before a body
_PADDING = b"\0\r\n"
_CHANNELS = {0: 1, 2: 3, PALETTE: 1, 4: 2, 6: 4}  # samples a pixel, by a PNG's colour type
_ON_ITS_SIDE = range(5, 9)  # EXIF orientations
_SAMPLED = 8  # pixels a side
_WHOLE_BYTE = 8  # bits
_PNG_FILTERS = bytes(range(5))

# Here and not around each decode: the filters are the process's own, and pictures are decoded in several threads.
warnings.simplefilter("error", Image.DecompressionBombWarning)


class Expected(NamedTuple):
    """What a job's picture has to be: None is any, and none of the `references` (sha256 hex digests)."""

    kind: Format | None = None
    ratio: str | None = None  # W:H
    references: frozenset[str] = frozenset()


class Shape(NamedTuple):
    """What a picture is: its kind, its size in pixels, and whether it is shown on its side, as its EXIF data wants."""

    kind: Kind
    width: int
    height: int
    turned: bool = False


class Judgement(NamedTuple):
    """What a whole picture is, its sha256 hex digest, and which DIFFERENCES it has from the order, each in words."""

    shape: Shape
    sha256: str
    differs: dict[str, str]


def check(data: bytes, expect: Expected, how: Verify, sha256: str | None = None) -> Judgement:
    """Judge a picture, with its hex digest where that is known; JobError `echoed_input`, `bad_image`: no whole one."""
    digest = sha256 or hashlib.sha256(data).hexdigest()
    if digest in expect.references:
        message = "the answer is a reference image, unchanged; reword the prompt or take another model"
        raise JobError(Code.ECHOED_INPUT, message)
    body = data.lstrip(_LINE_ENDS)
    container = follow(body)
    shape, several, plate = _looked_at(body, container, how)
    differs = dict(_differences(body, expect, container, shape, several=several, plate=plate))
    if before := len(data) - len(body):
        differs["trailing"] = f"{before} bytes stand before the start of the {NAMES[shape.kind]}, which are not its own"
    return Judgement(shape, digest, differs)


def _differences(
    data: bytes, expect: Expected, container: Container, shape: Shape, *, several: bool, plate: bool
) -> Iterator[tuple[str, str]]:
    """Yield in what a picture differs from the order; `plate`: it has one colour, `several`: it is not one picture."""
    name = NAMES[shape.kind]
    if expect.kind is not None and shape.kind != expect.kind:
        yield "format", f"a {NAMES[expect.kind]} was asked for and a {name} came"
    elif shape.kind not in _ORDERED:
        yield "format", f"a {name} came, which is no JPEG, PNG or WEBP"
    wide, _, high = (expect.ratio or "").partition(":")
    asked = int(wide) / int(high) if wide.isdecimal() and high.isdecimal() and int(high) else 0
    ratio = shape.height / shape.width if shape.turned else shape.width / shape.height
    if asked and abs(ratio / asked - 1) > RATIO_TOLERANCE:
        yield "ratio", f"the picture is {shape.width}x{shape.height}, which is not the {expect.ratio} asked for"
    if plate:
        yield "colour", f"every pixel of the {name} has the same colour"
    if data[container.end :].strip(_PADDING):
        follows = len(data) - container.end
        yield "trailing", f"{follows} bytes follow the end of the {name}, which are not its own"
    if several:
        yield "animated", f"the {name} is animated, or holds several pictures; a still one was asked for"


def _looked_at(data: bytes, container: Container, how: Verify) -> tuple[Shape, bool, bool]:
    """Return a picture's shape, whether there are several of it, and whether it has one colour, as far as `how` tells.

    Raises JobError: `bad_image`.
    """
    kind, several = container.kind, container.animated
    with _opened(data, kind) as picture:
        sized(kind, *picture.size)
        shape = Shape(kind, *picture.size, _is_turned(picture))
        if kind in _ORDERED and (how == "structure" or (kind == "png" and _is_proven(data))):
            return shape, several, False
        if kind not in _ORDERED:
            several = getattr(picture, "n_frames", 1) > 1
        return shape, several, _decoded(data, picture, shape)


def _is_turned(picture: Image.Image) -> bool:
    """Whether the EXIF orientation of an open picture turns it on its side; where it cannot be read, it turns nothing.

    Only what was read on opening is looked at: to look for more would decode the picture.
    """
    if "exif" in picture.info:
        with contextlib.suppress(Exception):  # parsers raise a dozen kinds for broken bytes, which are no pixels
            return picture.getexif().get(ExifTags.Base.Orientation) in _ON_ITS_SIDE
    return False


def _is_proven(png: bytes) -> bool:
    """Whether a PNG's pixel data is whole and of more than one colour; where this says False, a decode has to tell.

    It takes half the time of a decode, since no pixels are made. A row of one colour is, whatever its filter, the same
    bytes again and again behind its first pixel.
    """
    width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", png, 16)
    pixel = _CHANNELS.get(colour, 0) * depth // 8
    stride = 1 + width * pixel  # a filter's number stands before each row
    if depth < _WHOLE_BYTE or not pixel or interlace or stride * height > MEGAPIXELS * 1_000_000:
        return False
    inflate = zlib.decompressobj()
    try:
        rows = inflate.decompress(b"".join(pixel_data(png)), stride * height + 1)
    except zlib.error:
        return False
    if not inflate.eof or len(rows) != stride * height or rows[::stride].strip(_PNG_FILTERS):
        return False
    ends = range(stride, len(rows) + 1, stride)
    return any(rows[end - stride + 1 + pixel : end - pixel] != rows[end - stride + 1 + 2 * pixel : end] for end in ends)


def _decoded(data: bytes, picture: Image.Image, shape: Shape) -> bool:
    """Decode every pixel of an open picture; whether all of them have one colour."""
    if shape.kind == "jpeg":  # all of its data is read for an eighth of its size too, which is made in half the time
        picture.draft(None, (1, 1))
    blank = _blank(picture)
    if blank and picture.size != (shape.width, shape.height):
        with _opened(data, shape.kind) as whole:
            blank = _blank(whole)
    return blank


@contextlib.contextmanager
def _opened(data: bytes, kind: Kind) -> Iterator[Image.Image]:
    """Open a picture of this kind only; what Pillow raises meanwhile becomes a JobError."""
    name = NAMES[kind]
    try:
        with Image.open(io.BytesIO(data), formats=(name,)) as picture:
            yield picture
    except JobError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise bad(f"the {name} is over the {MEGAPIXELS} megapixels that are decoded", final=True) from error
    except UnidentifiedImageError as error:  # its text is about our buffer
        raise bad(f"the {name} does not decode: its header is damaged") from error
    except Exception as error:  # decoders raise a dozen kinds for broken bytes; all mean the same here
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise bad(f"the {name} does not decode: {why}") from error


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
