"""Makes the copy of a photo that is sent in its place.

Losslessly where the format can: PNG and WEBP. A JPEG is encoded anew at quality 95, its colours no coarser than before;
one of which only the metadata goes keeps the data of its pixels as they are.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image, ImageCms, ImageColor, ImageOps, JpegImagePlugin

from batchflux.errors import JobError
from batchflux.output.containers import follow
from batchflux.photos.facts import RefusedError, check_pixels, opened
from batchflux.photos.steps import steps_of, target_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchflux.photos.facts import Facts
    from batchflux.photos.steps import Settings, Step, Target

VERSION = 1  # of what this makes: a copy of another version is made anew
QUALITY = 95
_HALVED = 2  # 4:2:0
_QUALITIES = (88, 80)  # tried before a photo is scaled for its bytes
_TRIES = 12  # each scales by at least a tenth
_SCAN, _FILL = b"\xff\xda", 0xFF
_SAYS_NOTHING = frozenset({*range(0xE1, 0xF0), 0xFE}) - {0xEE}  # APP1 to APP15 and comments
_ALPHA = frozenset({"LA", "PA", "RGBA"})


class Copy(NamedTuple):
    """A prepared photo."""

    data: bytes
    kind: Target


def prepare(data: bytes, facts: Facts, settings: Settings, most: int) -> Copy:
    """Return the copy of a photo that is sent, of at most `most` bytes; a ValueError is the end of a sentence."""
    steps = steps_of(facts, settings)
    if steps == ("stripped",) and facts.kind == "jpeg":
        with opened(data, facts.kind):  # which has a scan, then
            return Copy(_without_metadata(data), "jpeg")
    with opened(data, facts.kind) as picture:
        chroma = _chroma(picture, facts)
        if "scaled" in steps and settings.max_side is not None:
            scale = settings.max_side / max(facts.width, facts.height)
            picture.draft(None, (math.ceil(facts.width * scale), math.ceil(facts.height * scale)))
        check_pixels(*picture.size, facts.kind)
        picture.load()
        made = _changed(picture, settings, steps)
        kind = target_of(facts.kind, transparent=facts.transparent and "flattened" not in steps)
        return _fitted(
            made, kind, chroma, min(most, settings.max_bytes or most), shrinks=settings.max_bytes is not None
        )


def _chroma(picture: Image.Image, facts: Facts) -> int:
    """Return how a photo's copy is subsampled as a JPEG (Pillow's number): no more than the photo itself."""
    halved = facts.kind in {"heic", "avif"}  # as phones and browsers make them
    if isinstance(picture, JpegImagePlugin.JpegImageFile):
        halved = JpegImagePlugin.get_sampling(picture) == _HALVED
    return _HALVED if halved else 0


def _without_metadata(jpeg: bytes) -> bytes:
    """Return a JPEG without the segments in front of its pixels that say nothing of them (ITU T.81, B.1.1.4).

    JFIF (APP0), its colour profile (APP2) and what Adobe says of its colours (APP14) do.
    """
    kept, at = [jpeg[:2]], 2
    while jpeg[at : at + 2] != _SCAN:
        if jpeg[at] != _FILL or jpeg[at + 1] in {0, _FILL}:  # what decoders skip between segments
            at += 1
            continue
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        marker, segment = jpeg[at + 1], jpeg[at:end]
        if marker not in _SAYS_NOTHING or segment[4:].startswith(b"ICC_PROFILE\0"):
            kept.append(segment)
        at = end
    return b"".join([*kept, jpeg[at : _end_of(jpeg)]])


def _end_of(jpeg: bytes) -> int:
    """Return where a JPEG ends: behind it may stand others, with metadata of their own."""
    try:
        return follow(jpeg).end
    except JobError:  # of a kind that is not followed
        return len(jpeg)


def _changed(picture: Image.Image, settings: Settings, steps: Sequence[Step]) -> Image.Image:
    made = ImageOps.exif_transpose(picture) if "upright" in steps else picture
    if "rgb" in steps:
        made = _in_rgb(made)
    elif made.mode.startswith("I"):  # Pillow would clip 16 bit at 255
        made = made.convert("I").point(lambda value: value * (1 / 256)).convert("L")
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


def _fitted(picture: Image.Image, kind: Target, chroma: int, most: int, *, shrinks: bool) -> Copy:
    """Encode a picture within `most` bytes: first at lower qualities, then, where it `shrinks`, in fewer pixels."""
    data = _encoded(picture, kind, QUALITY, chroma)
    if len(data) > most and not _lets_through(picture):
        kind = "jpeg"
        for quality in (QUALITY, *_QUALITIES):
            data = data if len(data) <= most else _encoded(picture, kind, quality, chroma)
    for _ in range(_TRIES if shrinks else 0):
        if len(data) <= most:
            break
        picture = _scaled(picture, min(0.9, 0.95 * math.sqrt(most / len(data))))
        data = _encoded(picture, kind, _QUALITIES[0], chroma)
    if len(data) > most:
        raise RefusedError(
            f"has {len(data)} bytes once converted; at most {most} can be sent: set references.max_bytes"
        )
    return Copy(data, kind)


def _lets_through(picture: Image.Image) -> bool:
    return picture.mode in _ALPHA or "transparency" in picture.info


def _encoded(picture: Image.Image, kind: Target, quality: int, chroma: int) -> bytes:
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
            picture.save(file, "JPEG", quality=quality, subsampling=chroma, icc_profile=kept.get("icc_profile"))
        elif kind == "webp":
            picture.save(file, "WEBP", lossless=True, exact=True, icc_profile=kept.get("icc_profile"))
        else:
            picture.save(file, "PNG", icc_profile=kept.get("icc_profile"))
    finally:
        picture.info = before
    return file.getvalue()
