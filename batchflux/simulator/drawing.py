"""Draw the picture of a recipe: a landscape, or its references in other colours, lettered; the same bytes anywhere.

A reference given as a URL is not fetched, unless an option says so: a landscape drawn from its digest stands for it.
"""

from __future__ import annotations

import colorsys
import math
import re
import textwrap
from io import BytesIO
from random import Random
from typing import TYPE_CHECKING, Annotated

from PIL import Image, ImageDraw, ImageFont, ImageOps
from pydantic import BaseModel, Field

from batchflux.models import Format  # noqa: TC001  pydantic reads it
from batchflux.simulator.options import MAX_SIZE, MIN_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

WIDEST = 21 / 9
REFERENCES_DRAWN = 4
LONGEST_CAPTION = 60
_RATIO = re.compile(r"(\d{1,5}(?:\.\d{1,4})?):(\d{1,5}(?:\.\d{1,4})?)", re.ASCII)
_SLACK = 1e-9
_THINNEST = 8
_STAND_IN = (512, 384)  # what stands for a reference that is a URL
_WHITE, _STRIP = (250, 250, 248), (14, 14, 20, 120)

Reference = Annotated[str, Field(pattern=r"^(?:f[0-9a-f]{64}|u[0-9a-f]{16})$")]


class Recipe(BaseModel, frozen=True, strict=True, extra="forbid"):
    """Everything a picture is drawn from: `digest`, which covers all that was asked, drives every choice.

    `references` are `f` and the SHA-256 of an upload, or `u` and a digest of a URL; of many, the first four are drawn.
    `fault` is what happens to whoever fetches the link; with one, `turn` sets the links of repeated requests apart.
    """

    digest: str = Field(pattern=r"^[0-9a-f]{32}$")
    caption: str = Field(max_length=LONGEST_CAPTION)
    references: tuple[Reference, ...] = Field(default=(), max_length=REFERENCES_DRAWN)
    ratio: str = ""
    output_format: Format = "jpeg"
    size: int = Field(default=512, ge=MIN_SIZE, le=MAX_SIZE)
    fault: str = ""
    turn: int = 0


def parse_ratio(text: object) -> float | None:
    """Return width by height of `W:H`, or None when it is not written so or beyond 21:9 and 9:21."""
    found = _RATIO.fullmatch(text) if isinstance(text, str) else None
    if found is None or not float(found[1]) or not float(found[2]):
        return None
    ratio = float(found[1]) / float(found[2])
    return ratio if 1 / WIDEST - _SLACK <= ratio <= WIDEST + _SLACK else None


def pixels(ratio: float, size: int) -> tuple[int, int]:
    """Return width and height with the long side at `size`; within 3 % of `ratio` from 40 pixels up."""
    short = max(_THINNEST, round(size * min(ratio, 1 / ratio)))
    return (size, short) if ratio >= 1 else (short, size)


def draw(recipe: Recipe, reference: Callable[[str], bytes]) -> bytes:
    """Return the picture as a file; `reference` gives the reduced upload of a digest."""
    rng = Random(recipe.digest)
    views = [
        _landscape(_STAND_IN, Random(name))
        if name.startswith("u")
        else Image.open(BytesIO(reference(name[1:])), formats=("JPEG",))
        for name in recipe.references
    ]
    ratio = parse_ratio(recipe.ratio) or (views[0].width / views[0].height if views else 1.0)
    size = pixels(ratio, recipe.size)
    canvas = _edited(views, size, rng) if views else _landscape(size, rng)
    _letter(canvas, "SIMULATED", 0.026)
    _letter(canvas, recipe.caption, 0.034, foot=True)
    out = BytesIO()
    canvas.save(out, recipe.output_format, quality=85, compress_level=1, method=0)
    return out.getvalue()


def _edited(views: list[Image.Image], size: tuple[int, int], rng: Random) -> Image.Image:
    width, height = size
    canvas = Image.new("RGB", size)
    for index, view in enumerate(views):
        start, end = (width * place // len(views) for place in (index, index + 1))
        centre = (rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7))
        fitted = ImageOps.fit(view, (end - start, height), bleed=rng.uniform(0, 0.06), centering=centre)
        canvas.paste(fitted, (start, 0))
    hue = rng.random()
    dark, light = _colour(hue, 0.2, 0.7), _colour(hue + rng.uniform(0.3, 0.6), 0.86, 0.8)
    toned = ImageOps.colorize(canvas.convert("L"), dark, light)
    return Image.blend(canvas, toned, rng.uniform(0.5, 0.75))


def _landscape(size: tuple[int, int], rng: Random) -> Image.Image:
    """Return a landscape: a sun in its sky, and ranges of hills that darken towards the foot."""
    width, height = size[0] * 2, size[1] * 2  # drawn twice as large, for smooth edges
    hue, other = rng.random(), rng.uniform(0.05, 0.25)
    above, below = _colour(hue, rng.uniform(0.3, 0.6), 0.55), _colour(hue + other, 0.86, 0.75)
    horizon = height * rng.uniform(0.45, 0.6)
    sky = ImageOps.colorize(Image.linear_gradient("L"), above, below)
    canvas = sky.resize((width, height), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(canvas, "RGBA")
    x, y = width * rng.uniform(0.2, 0.8), horizon * rng.uniform(0.4, 0.9)
    for radius, strength in ((0.2, 30), (0.14, 50), (0.08, 255)):
        reach = min(width, height) * radius
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=(*_colour(hue + other, 0.95, 0.9), strength))
    ranges = rng.randint(4, 6)
    for index in range(1, ranges + 1):
        near = index / ranges
        crest, rise = horizon + (height - horizon) * near**1.4 * 0.75, height * (0.03 + 0.05 * near)
        waves = [(rng.uniform(0.6, 1.6) * 2**octave, rng.uniform(0, math.tau), 0.5**octave) for octave in range(4)]
        ridge = []
        for at in range(0, width + 8, 8):
            up = sum(math.sin(math.tau * turns * at / width + phase) * share for turns, phase, share in waves)
            ridge.append((at, crest - rise * up))
        shade = _colour(hue + other * (1 - near), 0.72 - 0.6 * near, 0.35)
        pen.polygon([(0, height), *ridge, (width, height)], fill=shade)
    return canvas.reduce(2)


def _colour(hue: float, lightness: float, saturation: float) -> tuple[int, int, int]:
    red, green, blue = (round(part * 255) for part in colorsys.hls_to_rgb(hue % 1, lightness, saturation))
    return red, green, blue


def _letter(picture: Image.Image, text: str, scale: float, *, foot: bool = False) -> None:
    """Write `text` on a dark translucent strip: into the upper corner, or in two lines at most along the foot."""
    width, height = picture.size
    size = max(7, round((width * height) ** 0.5 * scale))
    face, margin, step = ImageFont.load_default(size), max(2, size // 2), round(size * 1.3)
    columns = max(4, int((width - 2 * margin) * 0.9 / face.getlength(text) * len(text)))
    lines = textwrap.wrap(text, columns, max_lines=2, placeholder="...") if foot else [text]
    pen = ImageDraw.Draw(picture, "RGBA")
    top = height - step * len(lines) - margin if foot else 0
    right = width if foot else round(face.getlength(text)) + 2 * margin
    pen.rectangle((0, top, right, top + step * len(lines) + margin), fill=_STRIP)
    for index, line in enumerate(lines):
        pen.text((margin, top + margin / 2 + index * step), line, font=face, fill=_WHITE)
