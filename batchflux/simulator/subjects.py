"""Paint the subjects of simulated pictures: a landscape or a still life, a pure function of name and size."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from random import Random

from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]

# Sky above, sky at the horizon, sun, farthest hill, nearest hill.
_LANDSCAPE_COLOURS = (
    ("20305a", "f6b28b", "ffe3b0", "b98a9b", "1d2440"),
    ("3f7fb8", "e9f1ee", "fff8df", "a5c4cf", "21443f"),
    ("2b1b4d", "e8708a", "ffd0a0", "9a5f8f", "1a1030"),
    ("f3d9a4", "f9eed8", "ffffff", "d8b98c", "6b3f2e"),
    ("14384a", "9ed3c4", "fdf4cf", "6fa7a3", "0f2b2e"),
    ("7aa7c7", "fbe3d2", "fff3e0", "c7a9b4", "4a3350"),
    ("0d1b2e", "4c6d8c", "f4f1e4", "43617d", "08111d"),
    ("f2a65a", "fbe8b9", "fffbe8", "d98a5b", "4f2a2a"),
)
_RIDGE_STEPS = 64
# Wall, table, then the vessels' colours.
_STILL_LIFE_COLOURS = (
    ("e8dfd3", "c9a98a", ("b5533c", "2f4858", "e3b23c")),
    ("cfdcdc", "8fa6a3", ("f2efe6", "d1714f", "2e4a4f")),
    ("efd9cf", "d8a48f", ("6d2e46", "a26769", "f5efe6")),
    ("d9dbe6", "9a9cb8", ("3d405b", "e07a5f", "f2cc8f")),
    ("2e3440", "4a5568", ("d8a657", "c7524f", "88a9a3")),
    ("f1ead2", "cdbb8c", ("586f4b", "9c4a2f", "e9e3d0")),
    ("e6d7e3", "b190b0", ("5b3c6b", "d98ca5", "f7efe9")),
)
# Outlines of vessels: height from the foot up, and half the width there, in parts of the vessel's height.
_OUTLINES = (
    ((0, 0.16), (0.05, 0.2), (0.3, 0.3), (0.5, 0.3), (0.72, 0.16), (0.86, 0.1), (0.95, 0.11), (1, 0.14)),
    ((0, 0.15), (0.03, 0.17), (0.55, 0.17), (0.66, 0.13), (0.74, 0.055), (0.96, 0.05), (1, 0.06)),
    ((0, 0.24), (0.04, 0.27), (0.5, 0.27), (0.96, 0.27), (1, 0.27)),
    ((0, 0.12), (0.04, 0.2), (0.2, 0.36), (0.45, 0.45), (0.7, 0.4), (0.9, 0.24), (1, 0.2)),
    ((0, 0.2), (0.03, 0.22), (0.06, 0.07), (0.35, 0.06), (0.45, 0.2), (0.7, 0.3), (1, 0.27)),
)
_SMOOTHING = 3


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


def landscape(size: tuple[int, int], rng: Random) -> Image.Image:
    """Paint a landscape of `size`."""
    above, below, sun, far, near = (rgb(text) for text in rng.choice(_LANDSCAPE_COLOURS))
    width, height = size
    horizon = rng.uniform(0.45, 0.62) * height
    canvas = gradient(size, [(0.0, above), (horizon / height, below), (1.0, below)])
    _sun(canvas, (rng.uniform(0.2, 0.8) * width, horizon * rng.uniform(0.45, 0.9)), sun, rng)
    layers = rng.randint(4, 6)
    for index in range(layers):
        depth = index / (layers - 1)
        crest = horizon + (height * 1.02 - horizon) * depth**1.3 * 0.72
        colour = mix(far, near, depth**0.9)
        _hill(canvas, crest, height * (0.05 + 0.05 * depth), (colour, mix(colour, below, 0.25 * (1 - depth))), rng)
    return canvas


def _sun(canvas: Image.Image, centre: tuple[float, float], colour: Colour, rng: Random) -> None:
    radius = min(canvas.size) * rng.uniform(0.05, 0.1)
    glow(canvas, centre, radius * 6, colour, 0.55)
    x, y = centre
    ellipse(canvas, (x - radius, y - radius, x + radius, y + radius), colour)


def _hill(canvas: Image.Image, crest: float, rise: float, colours: tuple[Colour, Colour], rng: Random) -> None:
    """Paint one range: three waves make its ridge; it fades to the second colour towards its foot, like mist."""
    width, height = canvas.size
    waves = [(rng.uniform(0.6, 1.6) * 2**octave, rng.uniform(0, math.tau), 0.55**octave) for octave in range(4)]
    ridge = []
    step = max(2, width // _RIDGE_STEPS)
    for x in range(0, width + step, step):
        lift = sum(math.sin(math.tau * turns * x / width + phase) * share for turns, phase, share in waves)
        ridge.append((x, crest - rise * lift))
    top = max(0, int(min(y for _, y in ridge)))
    if top >= height:
        return
    mask = silhouette((width, height - top), [(0, height), *((x, y - top) for x, y in ridge), (width, height)])
    canvas.paste(gradient(mask.size, [(0.0, colours[0]), (1.0, colours[1])]), (0, top), mask)


def still_life(size: tuple[int, int], rng: Random) -> Image.Image:
    """Paint a still life of `size`."""
    width, height = size
    wall, table, colours = rng.choice(_STILL_LIFE_COLOURS)
    canvas = _room(size, rgb(wall), rgb(table), rng)
    lit = rng.choice((-1, 1))
    glow(canvas, (width * (0.5 + 0.35 * lit), height * 0.2), max(size) * 0.85, (255, 250, 238), 0.36)
    count = rng.randint(2, 3)
    palette = rng.sample(colours, count)
    outlines = rng.sample(_OUTLINES, count)
    places = sorted(range(count), key=lambda _: rng.random())
    unit = min(width / (count * 0.5), height) * 0.52
    for order, place in enumerate(places):
        x = width * (0.5 + (place - (count - 1) / 2) * 0.27 * min(1, unit * 2.4 / height + 0.3))
        foot = height * (0.7 + 0.045 * order)
        _vessel(canvas, (x, foot, unit * rng.uniform(0.75, 1.2)), outlines[order], (rgb(palette[order]), lit))
    return canvas


def _room(size: tuple[int, int], wall: Colour, table: Colour, rng: Random) -> Image.Image:
    width, height = size
    edge = round(height * rng.uniform(0.56, 0.62))
    canvas = gradient(size, [(0.0, mix(wall, (0, 0, 0), 0.08)), (edge / height, wall), (1.0, wall)])
    top = gradient(
        (width, height - edge), [(0.0, mix(table, wall, 0.3)), (0.12, table), (1.0, mix(table, (0, 0, 0), 0.25))]
    )
    canvas.paste(top, (0, edge))
    return canvas


def _vessel(
    canvas: Image.Image,
    place: tuple[float, float, float],
    outline: tuple[tuple[float, float], ...],
    paint: tuple[Colour, int],
) -> None:
    x, foot, tall = place
    colour, lit = paint
    base = outline[0][1] * tall
    widest = max(half for _, half in outline) * tall
    reach = widest * 1.5
    shadow(
        canvas,
        (x - base - reach * (lit > 0), foot - tall * 0.05, x + base + reach * (lit < 0), foot + tall * 0.07),
        (20, 14, 18),
        0.5,
    )
    box = (round(x - widest), round(foot - tall), round(x + widest), round(foot + tall * 0.03))
    mask = silhouette((box[2] - box[0], box[3] - box[1]), _polygon(outline, tall, widest))
    bright, dark = mix(colour, (255, 255, 255), 0.45), mix(colour, (8, 6, 16), 0.62)
    stops = [
        (0.0, mix(colour, dark, 0.4)),
        (0.22, bright),
        (0.36, colour),
        (0.7, mix(colour, dark, 0.55)),
        (0.93, dark),
        (1.0, mix(dark, colour, 0.3)),
    ]
    if lit > 0:
        stops = [(1 - spot, tone) for spot, tone in reversed(stops)]
    canvas.paste(gradient(mask.size, stops, across=True), box[:2], mask)
    _mouth(canvas, (x, foot - tall), outline[-1][1] * tall, (mix(colour, dark, 0.75), mix(colour, bright, 0.4)))


def _mouth(canvas: Image.Image, top: tuple[float, float], half: float, colours: tuple[Colour, Colour]) -> None:
    x, y = top
    thick = half * 0.24
    ellipse(canvas, (x - half, y - thick, x + half, y + thick), colours[1])
    ellipse(canvas, (x - half * 0.86, y - thick * 0.72, x + half * 0.86, y + thick * 0.8), colours[0])


def _polygon(outline: tuple[tuple[float, float], ...], tall: float, widest: float) -> list[tuple[float, float]]:
    points = list(outline)
    for _ in range(_SMOOTHING):  # Chaikin: cut every corner off, thrice
        cut = [points[0]]
        for (y0, r0), (y1, r1) in itertools.pairwise(points):
            cut += [(y0 * 0.75 + y1 * 0.25, r0 * 0.75 + r1 * 0.25), (y0 * 0.25 + y1 * 0.75, r0 * 0.25 + r1 * 0.75)]
        points = [*cut, points[-1]]
    right = [(widest + half * tall, tall - up * tall) for up, half in points]
    left = [(widest - half * tall, tall - up * tall) for up, half in reversed(points)]
    base = points[0][1] * tall
    foot = [(widest - base * 0.7, tall * 1.02), (widest, tall * 1.03), (widest + base * 0.7, tall * 1.02)]
    return [*foot, *right, *left]


_LANDSCAPE_SHARE = 0.5


def subject(name: str, size: tuple[int, int]) -> Image.Image:
    """Return the picture of the subject called `name`."""
    rng = Random(name)
    paint = rng.choice((landscape, still_life))
    return paint(size, rng)
