"""What scenes are painted with: colours, gradients, glows and soft shadows."""

from __future__ import annotations

import math
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]


def rgb(text: str) -> Colour:
    """Return the colour of six hex digits."""
    return int(text[:2], 16), int(text[2:4], 16), int(text[4:], 16)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Return the colour `share` of the way from `first` to `second`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def ramp(stops: list[tuple[float, Colour]], steps: int) -> list[Colour]:
    """Return `steps` colours through `stops`, whose places go from 0 to 1."""
    colours = []
    index = 0
    for step in range(steps):
        place = step / max(1, steps - 1)
        while index < len(stops) - 2 and place > stops[index + 1][0]:
            index += 1
        (start, first), (end, second) = stops[index], stops[index + 1]
        colours.append(mix(first, second, max(0.0, min(1.0, (place - start) / max(1e-6, end - start)))))
    return colours


def gradient(size: tuple[int, int], stops: list[tuple[float, Colour]], *, across: bool = False) -> Image.Image:
    """Return a gradient from top to bottom, or from left to right."""
    steps = min(64, size[0] if across else size[1])  # the resize smooths between them
    strip = Image.new("RGB", (steps, 1) if across else (1, steps))
    strip.putdata(ramp(stops, steps))
    return strip.resize(size, Image.Resampling.BILINEAR)


def silhouette(size: tuple[int, int], points: list[tuple[float, float]]) -> Image.Image:
    """Return a mask of `size` with the polygon in it, its edges smooth: drawn twice as large, then reduced."""
    large = Image.new("L", (size[0] * 2, size[1] * 2), 0)
    ImageDraw.Draw(large).polygon([(x * 2, y * 2) for x, y in points], fill=255)
    return large.reduce(2)


def ellipse(canvas: Image.Image, box: tuple[float, float, float, float], colour: Colour) -> None:
    """Fill an ellipse with smooth edges, to a quarter of a pixel."""
    left, top = math.floor(box[0]), math.floor(box[1])
    width, height = math.ceil(box[2]) - left + 1, math.ceil(box[3]) - top + 1
    large = Image.new("L", (width * 4, height * 4), 0)
    inner = tuple((edge - (left, top)[index % 2]) * 4 for index, edge in enumerate(box))
    ImageDraw.Draw(large).ellipse((inner[0], inner[1], inner[2], inner[3]), fill=255)
    canvas.paste(colour, (left, top, left + width, top + height), large.reduce(4))


@lru_cache(maxsize=64)
def _halo(diameter: int, strength: int) -> Image.Image:
    # The built-in gradient reaches 255 in its corners; up to 180 it is a whole circle.
    levels = [round(max(0.0, 1 - level / 180) ** 2 * strength) for level in range(256)]
    return Image.radial_gradient("L").point(levels).resize((diameter, diameter), Image.Resampling.BILINEAR)


def glow(canvas: Image.Image, centre: tuple[float, float], radius: float, colour: Colour, strength: float) -> None:
    """Brighten `canvas` around `centre` towards `colour`."""
    diameter = max(2, round(radius * 2))
    corner = (round(centre[0] - radius), round(centre[1] - radius))
    canvas.paste(colour, (*corner, corner[0] + diameter, corner[1] + diameter), _halo(diameter, round(strength * 255)))


def shadow(canvas: Image.Image, box: tuple[float, float, float, float], colour: Colour, strength: float) -> None:
    """Lay a soft elliptic shadow over `canvas`, its edge beyond `box` by half of the box's height."""
    left, top, right, bottom = box
    pad = (bottom - top) / 2
    width, height = max(4, round(right - left + 2 * pad)), max(4, round(bottom - top + 2 * pad))
    small = Image.new("L", (48, 24), 0)
    inset = (48 * pad / width, 24 * pad / height)
    ImageDraw.Draw(small).ellipse((inset[0], inset[1], 47 - inset[0], 23 - inset[1]), fill=round(strength * 255))
    mask = small.filter(ImageFilter.GaussianBlur(3)).resize((width, height), Image.Resampling.BICUBIC)
    corner = (round(left - pad), round(top - pad))
    canvas.paste(colour, (*corner, corner[0] + width, corner[1] + height), mask)
