"""Draw the picture of a recipe: references or a subject, graded, captioned and marked; the same bytes anywhere.

References are cropped to the ratio and stand side by side or blend into one another. A reference given as a URL is
never fetched: a subject drawn from its digest stands for it.
"""

from __future__ import annotations

import colorsys
import re
import textwrap
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from random import Random
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont, ImageOps

from batchflux.simulator.subjects import subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.models import Format

WIDEST = 21 / 9
MARK = "SIMULATED"
REFERENCES_DRAWN = 4
SUFFIXES: dict[Format, str] = {"jpeg": "jpg", "png": "png", "webp": "webp"}
MEDIA_TYPES: dict[Format, str] = {name: f"image/{name}" for name in SUFFIXES}
_SAVE_OPTIONS: dict[Format, dict[str, int]] = {
    "jpeg": {"quality": 85},
    "png": {"compress_level": 1},
    "webp": {"quality": 85, "method": 0},
}
_RATIO = re.compile(r"(\d{1,5}(?:\.\d{1,4})?):(\d{1,5}(?:\.\d{1,4})?)", re.ASCII)
_SLACK = 1e-9
_THINNEST = 8
_SUBJECT_RATIOS = (1.0, 4 / 3, 3 / 2, 3 / 4)
_ZOOM = 0.12
_MID = 0.5
_MIRRORED_SHARE = 0.3
_CAPTION_LINES = 3
_FILLED = 0.92  # of the width: letters differ
_FEWEST_COLUMNS = 4
_SMALLEST_FONT = 7
_TINY = 96
_WHITE = (250, 250, 248)
_DARK = (14, 14, 20)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything a picture is drawn from, and what its link does.

    `digest` covers prompt, references, ratio, and seed or salt, and drives every choice of the drawing. `references`
    are `f` and the SHA-256 of an upload, or `u` and a digest of a URL; of many, the first four are drawn. `fault` is
    what happens to whoever fetches the link, `turn` sets the links of repeated requests apart when there is one.
    """

    digest: str
    caption: str
    references: tuple[str, ...] = ()
    ratio: str = ""
    output_format: Format = "jpeg"
    size: int = 512
    fault: str = ""
    turn: int = 0


def parse_ratio(text: str) -> float | None:
    """Return width by height of `W:H`, or None when it is not written so or beyond the allowed."""
    found = _RATIO.fullmatch(text)
    if found is None or not float(found[1]) or not float(found[2]):
        return None
    ratio = float(found[1]) / float(found[2])
    return ratio if 1 / WIDEST - _SLACK <= ratio <= WIDEST + _SLACK else None


def pixels(ratio: float, size: int) -> tuple[int, int]:
    """Return width and height with the long side at `size`; within 3 % of `ratio` from 40 pixels up."""
    if ratio >= 1:
        return size, max(_THINNEST, round(size / ratio))
    return max(_THINNEST, round(size * ratio)), size


def draw(recipe: Recipe, reference: Callable[[str], bytes]) -> bytes:
    """Return the picture as a file; `reference` gives the reduced upload of a digest."""
    rng = Random(recipe.digest)
    originals = [_original(name, reference, recipe.size) for name in recipe.references]
    size = pixels(_ratio(recipe, originals), recipe.size)
    if originals:
        views = [original if original is not None else subject(name, size) for name, original in originals]
        canvas = _grade(_together(views, size, rng), rng)
    else:
        canvas = subject(recipe.digest, size)
    _mark(canvas)
    _band(canvas, recipe.caption)
    return _encoded(canvas, recipe.output_format)


def _original(name: str, reference: Callable[[str], bytes], size: int) -> tuple[str, Image.Image | None]:
    if not name.startswith("f"):
        return name, None
    opened = Image.open(BytesIO(reference(name[1:])), formats=("JPEG",))
    opened.draft("RGB", (size, size))
    opened.load()
    return name, opened


def _ratio(recipe: Recipe, originals: list[tuple[str, Image.Image | None]]) -> float:
    asked = parse_ratio(recipe.ratio) if recipe.ratio else None
    if asked is not None or not originals:
        return asked or 1.0
    name, first = originals[0]
    return first.width / first.height if first is not None else Random(name).choice(_SUBJECT_RATIOS)


def _together(views: list[Image.Image], size: tuple[int, int], rng: Random) -> Image.Image:
    if len(views) == 1:
        return _fit(views[0], size, rng)
    compose = rng.choice((_side_by_side, _blended))
    return compose(views, size, rng)


def _fit(view: Image.Image, size: tuple[int, int], rng: Random) -> Image.Image:
    """Crop to the ratio, a little closer than the original and off its centre."""
    centre = (rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7))
    close = rng.uniform(0, _ZOOM)
    return ImageOps.fit(view, size, Image.Resampling.BILINEAR, bleed=close / 2, centering=centre)


def _side_by_side(views: list[Image.Image], size: tuple[int, int], rng: Random) -> Image.Image:
    width, height = size
    canvas = Image.new("RGB", size, "white")
    lying = width >= height
    length = width if lying else height
    gap = max(1, length // 128)
    edges = [round(index * (length + gap) / len(views)) for index in range(len(views) + 1)]
    for view, start, end in zip(views, edges, edges[1:], strict=False):
        part = max(1, end - gap - start)
        box = (part, height) if lying else (width, part)
        canvas.paste(_fit(view, box, rng), (start, 0) if lying else (0, start))
    return canvas


def _blended(views: list[Image.Image], size: tuple[int, int], rng: Random) -> Image.Image:
    canvas = _fit(views[0], size, rng)
    ramp = Image.linear_gradient("L")
    for index, view in enumerate(views[1:], 1):
        middle = 255 * index / len(views)
        steep = ramp.point([max(0, min(255, round(128 + (level - middle) * 3))) for level in range(256)])
        mask = steep.rotate(90) if size[0] >= size[1] else steep
        canvas.paste(_fit(view, size, rng), (0, 0), mask.resize(size, Image.Resampling.BILINEAR))
    return canvas


def _encoded(canvas: Image.Image, kind: Format) -> bytes:
    out = BytesIO()
    canvas.save(out, kind, **_SAVE_OPTIONS[kind])
    return out.getvalue()


def _grade(photo: Image.Image, rng: Random) -> Image.Image:
    """Return `photo` in a look drawn from `rng`; what it shows stays recognisable."""
    hue = rng.random()
    shadow = colorsys.hls_to_rgb(hue, 0.5, 0.75)
    light = colorsys.hls_to_rgb((hue + rng.uniform(0.35, 0.65)) % 1, 0.5, 0.85)
    strength = rng.uniform(0.16, 0.34)
    contrast = rng.uniform(0.95, 1.25)
    saturation = rng.uniform(0.55, 1.1)
    if rng.random() < _MIRRORED_SHARE:
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    muted = Image.blend(photo.convert("L").convert("RGB"), photo, saturation)
    curves = [
        level
        for channel in range(3)
        for level in _curve(shadow[channel] - _MID, light[channel] - _MID, strength, contrast)
    ]
    return _vignette(muted.point(curves), rng.uniform(0.15, 0.4))


def _curve(shadow: float, light: float, strength: float, contrast: float) -> list[int]:
    levels = []
    for step in range(256):
        value = step / 255
        bent = _MID + (value - _MID) * contrast
        toned = bent + strength * (shadow * (1 - value) + light * value)
        levels.append(max(0, min(255, round(toned * 255))))
    return levels


@lru_cache(maxsize=8)
def _edges(size: tuple[int, int], depth: int) -> Image.Image:
    round_ = Image.radial_gradient("L").point([round(max(0, level - 110) / 145 * depth) for level in range(256)])
    return round_.resize(size, Image.Resampling.BILINEAR)


def _vignette(picture: Image.Image, depth: float) -> Image.Image:
    """Darken the corners in place, by `depth` of the way to black, and return the picture."""
    picture.paste((8, 6, 12), (0, 0, *picture.size), _edges(picture.size, round(depth * 20) * 12))
    return picture


@lru_cache(maxsize=32)
def _font(size: int) -> Font:
    """Return the font that comes with Pillow, `size` pixels high. Its text is drawn under the GIL, so it is shared."""
    return ImageFont.load_default(size)


def _mark(picture: Image.Image) -> None:
    """Write that the picture is simulated into its upper corner."""
    size = max(_SMALLEST_FONT, round((picture.width * picture.height) ** 0.5 * 0.026))
    face = _font(size)
    margin = max(2, size // 2)
    left, top, right, bottom = (round(edge) for edge in face.getbbox(MARK))
    box = (margin, margin, 3 * margin + right - left, 3 * margin + bottom - top)
    _shade(picture, box, 0.45)
    ImageDraw.Draw(picture).text((2 * margin - left, 2 * margin - top), MARK, font=face, fill=_WHITE)


def _band(picture: Image.Image, caption: str) -> None:
    """Write the caption on a translucent band at the foot."""
    width, height = picture.size
    size = max(_SMALLEST_FONT + 1, round((width * height) ** 0.5 * 0.034))
    face = _font(size)
    margin = max(3, round(size * 0.9))
    lines = _wrap(caption, face, width - 2 * margin, 1 if height <= _TINY else _CAPTION_LINES)
    step = round(size * 1.3)
    top = height - step * len(lines) - round(margin * 1.3)
    _shade(picture, (0, top, width, height), 0.55)
    pen = ImageDraw.Draw(picture)
    for index, line in enumerate(lines):
        pen.text((margin, top + margin * 0.6 + index * step), line, font=face, fill=_WHITE)


def _shade(picture: Image.Image, box: tuple[int, int, int, int], depth: float) -> None:
    part = picture.crop(box)
    picture.paste(Image.blend(part, Image.new("RGB", part.size, _DARK), depth), box)


def _wrap(text: str, face: Font, width: int, most: int) -> list[str]:
    """Return `text` in at most `most` lines of about `width` pixels, with an ellipsis where it had to end."""
    columns = int(width * _FILLED / face.getlength(text) * len(text))
    return textwrap.wrap(text, max(columns, _FEWEST_COLUMNS), max_lines=most, placeholder="...")
