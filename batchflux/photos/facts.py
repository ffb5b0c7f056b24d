"""What a photo is: told by its bytes, every pixel of which is decoded once.

Pillow's decoders are the judge of what is whole: a provider that cannot decode a photo refuses the request, or makes a
picture of half of it, and is paid either way.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from PIL import ExifTags, Image, JpegImagePlugin, UnidentifiedImageError

from batchflux.photos import heic

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["jpeg", "png", "webp", "gif", "tiff", "bmp", "avif", "jpeg2000", "heic"]
SENT_AS_IS: frozenset[Kind] = frozenset({"jpeg", "png", "webp"})  # what the APIs take
MEGAPIXELS = 89  # decoded at once: Pillow's own bound against bombs; 270 MB of RGB
JPEG_MEGAPIXELS = 250  # of a JPEG, which is decoded at an eighth of its size where that is enough
_SIGNATURES: tuple[tuple[bytes, Kind], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"BM", "bmp"),
    (b"\0\0\0\x0cjP  \r\n", "jpeg2000"),
    (b"\xff\x4f\xff\x51", "jpeg2000"),
)
_BRANDS: tuple[tuple[bytes, Kind], ...] = (  # of ISO base media files (ISO/IEC 23008-12, AV1 Image File Format)
    (b"avif", "avif"),
    (b"avis", "avif"),
    *((brand, "heic") for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")),
)
_FORMATS: dict[Kind, str] = {kind: kind.upper() for kind in get_args(Kind)} | {"heic": "HEIF"}
NAMES: dict[Kind, str] = {kind: kind.upper() for kind in get_args(Kind)} | {"jpeg2000": "JPEG 2000"}
_PLAIN_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})  # 8 bit, grey or RGB: what every decoder shows
_MODES = _PLAIN_MODES | {"CMYK", "YCbCr", "HSV", "RGBX", "RGBa", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"}
_GREY = "I"  # begins the modes of grey pictures of more than 8 bits
_ALPHA = frozenset({"LA", "PA", "RGBA", "RGBa", "La"})
_PERSONAL = frozenset({"exif", "xmp", "comment", "photoshop", "XML:com.adobe.xmp", "mp"})  # of Pillow's `info`
_UPRIGHT, _LAST = 1, 8  # EXIF orientations
_PNG_DEPTH = 24  # the byte that holds it
_DEEP, _WIDE, _BITS_PER_SAMPLE = 16, 32, 258
_HEAD = 64  # bytes that tell a kind

# Here and not around each decode: the filters are the process's own, and photos are decoded in several threads.
# What Pillow has to say of odd metadata is for nobody's terminal: pixels are the judge.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.simplefilter("error", Image.DecompressionBombWarning)


class Facts(NamedTuple):
    """What a photo's bytes are. `width` and `height` are as stored, before `orientation` (EXIF, 1 to 8) turns them.

    `deep`: it has 16 bits a sample. `transparent`: some pixel lets through. `moving`: it holds several pictures.
    `personal`: it holds EXIF data, texts or the like. `fault` says what is wrong with it, as the end of a sentence.
    """

    kind: Kind
    bytes: int
    width: int = 0
    height: int = 0
    orientation: int = 1
    mode: str = ""
    deep: bool = False
    transparent: bool = False
    moving: bool = False
    personal: bool = False
    fault: str | None = None

    @property
    def plain(self) -> bool:
        """Whether its colours are grey or RGB, as everybody reads them."""
        return self.mode in _PLAIN_MODES or self.mode.startswith(_GREY)


class RefusedError(Exception):
    """A picture that is not decoded, with the end of the sentence that says why."""


def kind_of(head: bytes) -> Kind | None:
    """Return what the first bytes of a file say that it is; None for no picture that can be sent."""
    for start, kind in _SIGNATURES:
        if head.startswith(start):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp":
        brands = head[8 : min(int.from_bytes(head[:4]), _HEAD)]
        return next((kind for brand, kind in _BRANDS if brand in brands), None)
    return None


def inspect(data: bytes, kind: Kind) -> Facts:
    """Decode a photo and return what it is; where it cannot be decoded, `fault` says why."""
    try:
        with opened(data, kind) as picture:
            return _looked_at(data, kind, picture)
    except ValueError as error:
        return Facts(kind, len(data), fault=str(error))


def _looked_at(data: bytes, kind: Kind, picture: Image.Image) -> Facts:
    width, height = picture.size
    deep = _is_deep(data, kind, picture)
    moving = kind in {"gif", "webp", "png"} and bool(getattr(picture, "is_animated", False))
    mode = picture.mode
    if mode == "I" and _WIDE in _bits(kind, picture):  # whose range nothing tells
        raise RefusedError(f"is a {NAMES[kind]} with 32 bits a sample; save it with 8 or 16")
    if mode not in _MODES:
        raise RefusedError(f"is a {NAMES[kind]} with colours of the kind {mode}; save it with RGB colours")
    if kind == "jpeg":
        check_pixels(width, height, kind, JPEG_MEGAPIXELS)
        picture.draft(None, (1, 1))  # all of its data is read for an eighth of its size, which is made in half the time
    check_pixels(*picture.size, kind)
    orientation = orientation_of(picture)
    picture.load()
    return Facts(
        kind=kind,
        bytes=len(data),
        width=width,
        height=height,
        orientation=orientation,
        mode=mode,
        deep=deep,
        transparent=_is_transparent(picture),
        moving=moving,
        personal=not _PERSONAL.isdisjoint(picture.info) or bool(getattr(picture, "text", None)),
    )


@contextlib.contextmanager
def opened(data: bytes, kind: Kind) -> Iterator[Image.Image]:
    """Open a picture of this kind; whatever its decoder raises meanwhile is a ValueError, the end of a sentence."""
    name = NAMES[kind]
    if kind == "heic" and not heic.can_read():
        raise ValueError(heic.MISSING)
    try:
        # Image.open refuses large JPEGs, which `draft` makes small before a pixel is decoded.
        made = (
            JpegImagePlugin.JpegImageFile if kind == "jpeg" else lambda file: Image.open(file, "r", (_FORMATS[kind],))
        )
        with made(io.BytesIO(data)) as picture:
            yield picture
    except RefusedError as error:
        raise ValueError(str(error)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(
            f"is a {name} of more than the {MEGAPIXELS} megapixels that are decoded; scale it down"
        ) from None
    except UnidentifiedImageError:  # its text is about our buffer
        raise ValueError(f"is a {name} that is cut off or damaged and does not decode; replace the file") from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise a dozen kinds for broken bytes; all mean the same here
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"is a {name} that is cut off or damaged and does not decode: {why}; replace the file"
        ) from error


def check_pixels(width: int, height: int, kind: Kind, most: int = MEGAPIXELS) -> None:
    """Refuse to decode what would take too much memory, before a pixel of it is there."""
    if width * height > most * 1_000_000:
        what = f"is a {NAMES[kind]} of {width}x{height} pixels, more than the {most} megapixels that are decoded"
        raise RefusedError(f"{what}; scale it down")


def _is_deep(data: bytes, kind: Kind, picture: Image.Image) -> bool:
    if kind == "png":
        return data[_PNG_DEPTH] == _DEEP
    return picture.mode.startswith(_GREY) or _DEEP in _bits(kind, picture)


def _bits(kind: Kind, picture: Image.Image) -> tuple[int, ...]:
    """Return how many bits each sample of a TIFF has."""
    bits = getattr(picture, "tag_v2", {}).get(_BITS_PER_SAMPLE, ()) if kind == "tiff" else ()
    return bits if isinstance(bits, tuple) else (bits,)


def orientation_of(picture: Image.Image) -> int:
    """Return the EXIF orientation; 1 where there is none, or none that can be read.

    A PNG is decoded for it, for its EXIF data may stand behind its pixels: what is wrong with those is raised.
    """
    if picture.format == "PNG":
        picture.load()
    with contextlib.suppress(Exception):  # parsers raise a dozen kinds for broken bytes, which are no pixels
        told = picture.getexif().get(ExifTags.Base.Orientation)
        if isinstance(told, int) and _UPRIGHT < told <= _LAST:
            return told
    return _UPRIGHT


def _is_transparent(picture: Image.Image) -> bool:
    """Whether some pixel of a decoded picture lets through."""
    if picture.mode in _ALPHA:
        alpha = picture.getchannel("A").getextrema()
    elif "transparency" in picture.info:
        alpha = picture.convert("RGBA").getchannel("A").getextrema()
    else:
        return False
    lowest = alpha[0]
    return isinstance(lowest, int) and lowest < 255  # noqa: PLR2004  opaque
