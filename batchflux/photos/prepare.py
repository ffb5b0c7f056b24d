"""Makes the copy of a photo that is sent in its place.

Losslessly where the format can: PNG and WEBP. A JPEG is encoded anew at quality 95 without chroma subsampling; one of
which only the metadata goes keeps its own quantisation tables, so that its pixels hardly change.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image, ImageCms, ImageColor, JpegImagePlugin

from batchflux.photos.facts import check_pixels, opened
from batchflux.photos.steps import steps_of, target_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchflux.photos.facts import Facts
    from batchflux.photos.steps import Settings, Step, Target

VERSION = 1  # of what this makes: a copy of another version is made anew
QUALITY = 95
_QUALITIES = (88, 80)  # tried before a photo is scaled for its bytes
_TRIES = 12  # each scales by at least a tenth
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ALPHA = frozenset({"LA", "PA", "RGBA"})


class Copy(NamedTuple):
    """A prepared photo."""

    data: bytes
    kind: Target


def prepare(data: bytes, facts: Facts, settings: Settings, most: int) -> Copy:
    """Return the copy of a photo that is sent, of at most `most` bytes; a ValueError is the end of a sentence."""
    steps = steps_of(facts, settings)
    with opened(data, facts.kind) as picture:
        if "scaled" in steps and settings.max_side is not None:
            scale = settings.max_side / max(facts.width, facts.height)
            picture.draft(None, (math.ceil(facts.width * scale), math.ceil(facts.height * scale)))
        check_pixels(*picture.size, facts.kind)
        picture.load()
        kind = target_of(facts.kind, transparent=facts.transparent)
        if steps == ("stripped",) and kind == "jpeg":
            return Copy(_encoded(picture, kind, "keep"), kind)
        made = _changed(picture, facts, settings, steps)
    if "flattened" in steps:
        kind = target_of(facts.kind, transparent=False)
    return _fitted(made, kind, min(most, settings.max_bytes or most), shrinks=settings.max_bytes is not None)


def _changed(picture: Image.Image, facts: Facts, settings: Settings, steps: Sequence[Step]) -> Image.Image:
    made = _in_rgb(picture) if "rgb" in steps else picture
    if picture.mode.startswith("I"):  # Pillow would clip 16 bit at 255
        made = picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if "upright" in steps:
        made = made.transpose(_TURNS[facts.orientation])
    if "transparency" in made.info and made.mode != "P":
        made = made.convert("RGBA")
    if "flattened" in steps and settings.flatten is not None:
        layer = made.convert("RGBA")
        made = Image.new("RGB", layer.size, ImageColor.getrgb(settings.flatten)[:3])
        made.paste(layer, mask=layer.getchannel("A"))
        made.info = layer.info
    if "scaled" in steps and settings.max_side is not None:
        made = _scaled(made, settings.max_side / max(made.size))
    return made


def _in_rgb(picture: Image.Image) -> Image.Image:
    """Return a picture in RGB, by its colour profile where it has one that can be read."""
    profile = picture.info.get("icc_profile")
    if picture.mode == "CMYK" and profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            made = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            made = None
        if made is not None:
            made.info.pop("icc_profile", None)
            return made
    made = picture.convert("RGBA" if picture.mode in {"RGBa", "La"} else "RGB")
    made.info.pop("icc_profile", None)
    return made


def _scaled(picture: Image.Image, factor: float) -> Image.Image:
    width, height = picture.size
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if picture.mode in {"P", "PA", "1"}:  # colours of a palette have none between them
        picture = picture.convert("RGBA" if _lets_through(picture) else "L" if picture.mode == "1" else "RGB")
    made = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    made.info = picture.info
    return made


def _fitted(picture: Image.Image, kind: Target, most: int, *, shrinks: bool) -> Copy:
    """Encode a picture within `most` bytes: first at lower qualities, then, where it `shrinks`, in fewer pixels."""
    data = _encoded(picture, kind, QUALITY)
    if len(data) > most and not _lets_through(picture):
        kind = "jpeg"
        for quality in (QUALITY, *_QUALITIES):
            data = data if len(data) <= most else _encoded(picture, kind, quality)
    for _ in range(_TRIES if shrinks else 0):
        if len(data) <= most:
            break
        picture = _scaled(picture, min(0.9, 0.95 * math.sqrt(most / len(data))))
        data = _encoded(picture, kind, _QUALITIES[0])
    if len(data) > most:
        raise ValueError(f"has {len(data)} bytes once converted; at most {most} can be sent: set references.max_bytes")
    return Copy(data, kind)


def _lets_through(picture: Image.Image) -> bool:
    return picture.mode in _ALPHA or "transparency" in picture.info


def _encoded(picture: Image.Image, kind: Target, quality: int | str) -> bytes:
    """Encode a picture with its colour profile and no other metadata."""
    kept: dict[str | tuple[int, int], Any] = {
        name: picture.info[name] for name in ("icc_profile", "transparency") if picture.info.get(name) is not None
    }
    if kind == "jpeg" and picture.mode not in {"L", "RGB"}:
        picture = picture.convert("L" if picture.mode in {"1", "LA"} else "RGB")
    file = io.BytesIO()
    before, picture.info = picture.info, kept
    try:
        if kind == "jpeg":
            more = (
                {} if isinstance(picture, JpegImagePlugin.JpegImageFile) and quality == "keep" else {"subsampling": 0}
            )
            picture.save(file, "JPEG", quality=quality, icc_profile=kept.get("icc_profile"), **more)
        elif kind == "webp":
            picture.save(file, "WEBP", lossless=True, exact=True, icc_profile=kept.get("icc_profile"))
        else:
            picture.save(file, "PNG", icc_profile=kept.get("icc_profile"))
    finally:
        picture.info = before
    return file.getvalue()
