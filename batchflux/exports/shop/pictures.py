"""Makes a picture what shops take: an upright JPEG in sRGB without transparency, within a side and a size, of a ratio.

One that is such a JPEG already keeps its bytes, and with them what its maker signed.
"""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import PIL
from PIL import Image, ImageCms, ImageOps

from batchflux.photos.facts import check_pixels, kind_of, opened, orientation_of

VERSION = 1  # of what is made here: a picture that another version made is made anew
WHITE_BORDER = "yes"
_HEAD = 64  # bytes that tell a kind
_FINE, _HALVED = 0, 2  # Pillow's numbers for how coarse colours are: 4:4:4, 4:2:0
_QUALITIES = ((92, _FINE), (86, _FINE), (80, _HALVED), (72, _HALVED))  # tried before a picture is scaled for its bytes
_TRIES = 12  # each scales by at least a tenth
_PERSONAL = frozenset({"exif", "xmp", "comment", "photoshop"})  # of Pillow's `info`
_WHITE, _WHITEST = (255, 255, 255), 255
_THUMBNAIL = (96, 96)  # pixels
_INTENT, _FLAGS = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """How pictures are to be: sides in pixels, bytes, a ratio (width, height) that they are cropped or padded to.

    With `check_white` it is said whether their borders are white, with `thumbnail` one is made.
    """

    max_side: int
    max_bytes: int
    ratio: tuple[int, int] | None = None
    crop: bool = False
    pad: tuple[int, ...] = _WHITE
    check_white: bool = False
    thumbnail: bool = False

    def text(self) -> list[Any]:
        """Return all that a picture's bytes follow from, beside its own, as JSON has it."""
        return [VERSION, PIL.__version__, list(asdict(self).items())]


class Look(NamedTuple):
    """What a finished picture is: its size in pixels, its border, its thumbnail (JPEG).

    `border` is WHITE_BORDER or says how dark which side is, '' where it was not looked at; `thumbnail` may be empty.
    """

    width: int
    height: int
    border: str
    thumbnail: bytes


def finished(data: bytes, finish: Finish, *, private: bool = False) -> bytes:
    """Return a picture as a shop takes it; with `private` no metadata stay. A ValueError is the end of a sentence."""
    kind = kind_of(data[:_HEAD])
    if kind is None:
        raise ValueError("is no picture of a kind that can be converted")
    with opened(data, kind) as picture:
        turned = orientation_of(picture) != 1
        conforms = kind == "jpeg" and picture.mode == "RGB" and not turned and len(data) <= finish.max_bytes
        conforms = conforms and _is_srgb(picture) and _fits(picture.size, finish)
        if conforms and not (private and not _PERSONAL.isdisjoint(picture.info)):
            return data
        if finish.ratio is None or not finish.crop:  # a JPEG is decoded at a half or a quarter where that is enough
            scale = min(1.0, finish.max_side / max(picture.size))
            picture.draft(None, (math.ceil(picture.width * scale), math.ceil(picture.height * scale)))
        check_pixels(*picture.size, kind)
        made = ImageOps.exif_transpose(picture) if turned else picture
        return _encoded(_shaped(_flat(_in_srgb(made)), finish), finish.max_bytes)


def look_at(data: bytes, finish: Finish) -> Look:
    """Look at a finished picture, as far as it is asked for."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
        width, height = picture.size
        border, thumbnail = "", b""
        if finish.check_white:
            border = _border(picture)
        if finish.thumbnail:
            small = picture.convert("RGB")
            small.thumbnail(_THUMBNAIL)
            thumbnail = _jpeg(small, 80, _HALVED)
    return Look(width, height, border, thumbnail)


def _is_srgb(picture: Image.Image) -> bool:
    """Whether a picture's colours are what everybody takes them for."""
    profile = picture.info.get("icc_profile")
    if not profile:
        return True
    try:
        read = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return "srgb" in ImageCms.getProfileDescription(read).casefold()
    except (ImageCms.PyCMSError, OSError):
        return False


def _in_srgb(picture: Image.Image) -> Image.Image:
    """Return a picture in RGB or RGBA, by its colour profile where it has one that can be read."""
    if picture.mode.startswith("I"):  # Pillow would clip 16 bit at 255
        return picture.convert("I").point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    alpha = None
    if picture.mode in {"LA", "PA", "RGBA", "RGBa", "La"} or "transparency" in picture.info:
        picture = _with_alpha(picture)
        alpha = picture.getchannel("A")
    if picture.mode not in {"RGB", "L", "CMYK"}:
        profile = picture.info.get("icc_profile")
        picture = picture.convert("RGB")
        picture.info["icc_profile"] = profile
    made = _converted(picture)
    if alpha is not None:
        made.putalpha(alpha)
    return made


def _with_alpha(picture: Image.Image) -> Image.Image:
    made = picture.convert("RGBA")
    if picture.info.get("icc_profile") is not None:
        made.info["icc_profile"] = picture.info["icc_profile"]
    return made


def _converted(picture: Image.Image) -> Image.Image:
    """Return a picture without transparency in sRGB."""
    profile = picture.info.get("icc_profile")
    if profile and not _is_srgb(picture):
        with contextlib.suppress(ImageCms.PyCMSError, OSError):  # a profile of another mode, or a broken one
            source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
            made = ImageCms.profileToProfile(picture, source, target, _INTENT, "RGB", flags=_FLAGS)
            if made is not None:
                return made
    return picture.convert("RGB")


def _flat(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return picture
    made = Image.new("RGB", picture.size, _WHITE)
    made.paste(picture, mask=picture.getchannel("A"))
    return made


def _fits(size: tuple[int, int], finish: Finish) -> bool:
    """Whether a picture has no side too long, and its ratio to a pixel."""
    if max(size) > finish.max_side:
        return False
    wide, high = finish.ratio or size
    return abs(size[0] * high - size[1] * wide) < max(wide, high)


def _shaped(picture: Image.Image, finish: Finish) -> Image.Image:
    """Return a picture of the ratio and within the longest side that are asked for; it is never made larger."""
    if finish.ratio is None:
        canvas = picture.size
    elif finish.crop:
        canvas = _within(picture.size, finish.ratio)
        left, top = (picture.width - canvas[0]) // 2, (picture.height - canvas[1]) // 2
        picture = picture.crop((left, top, left + canvas[0], top + canvas[1]))
    else:
        canvas = _around(picture.size, finish.ratio)
    scale = min(1.0, finish.max_side / max(canvas))
    picture = _scaled(picture, scale)
    canvas = (max(1, round(canvas[0] * scale)), max(1, round(canvas[1] * scale)))
    if picture.size == canvas:
        return picture
    made = Image.new("RGB", canvas, finish.pad)
    made.paste(picture, ((canvas[0] - picture.width) // 2, (canvas[1] - picture.height) // 2))
    return made


def _within(size: tuple[int, int], ratio: tuple[int, int]) -> tuple[int, int]:
    """Return the largest size of a ratio that a picture has room for."""
    (width, height), (wide, high) = size, ratio
    return min(width, max(1, round(height * wide / high))), min(height, max(1, round(width * high / wide)))


def _around(size: tuple[int, int], ratio: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest size of a ratio that has room for a picture."""
    (width, height), (wide, high) = size, ratio
    return max(width, round(height * wide / high)), max(height, round(width * high / wide))


def _scaled(picture: Image.Image, scale: float) -> Image.Image:
    if scale == 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _encoded(picture: Image.Image, most: int) -> bytes:
    """Encode a picture within `most` bytes: first at lower qualities, then in fewer pixels."""
    data = b""
    for quality, colours in _QUALITIES:
        data = _jpeg(picture, quality, colours)
        if len(data) <= most:
            return data
    for _ in range(_TRIES):
        picture = _scaled(picture, min(0.9, 0.95 * math.sqrt(most / len(data))))
        data = _jpeg(picture, *_QUALITIES[-1])
        if len(data) <= most:
            return data
    raise ValueError(f"has {len(data):,} bytes even at {picture.width}x{picture.height}: raise --max-bytes")


def _jpeg(picture: Image.Image, quality: int, colours: int) -> bytes:
    """Encode a picture without metadata; `colours` is Pillow's subsampling."""
    file = io.BytesIO()
    before, picture.info = picture.info, {}
    try:
        picture.save(file, "JPEG", quality=quality, subsampling=colours)
    finally:
        picture.info = before
    return file.getvalue()


def _border(picture: Image.Image) -> str:
    """Return WHITE_BORDER, or which sides hold a pixel that is not white, with the darkest value of each."""
    width, height = picture.size
    sides = {
        "top": (0, 0, width, 1),
        "right": (width - 1, 0, width, height),
        "bottom": (0, height - 1, width, height),
        "left": (0, 0, 1, height),
    }
    whole = picture.convert("RGB")
    darkest = {side: min(whole.crop(box).tobytes()) for side, box in sides.items()}
    dark = [f"{side} {value}" for side, value in darkest.items() if value < _WHITEST]
    return f"no: {', '.join(dark)}" if dark else WHITE_BORDER
