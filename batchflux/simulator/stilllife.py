"""A still life: two or three vessels on a table, lit from one side, with soft shadows."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from batchflux.simulator.subjects import Colour, ellipse, glow, gradient, mix, rgb, shadow, silhouette

if TYPE_CHECKING:
    from random import Random

    from PIL import Image

# Wall, table, then the vessels' colours.
_PALETTES = (
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


def still_life(size: tuple[int, int], dice: Random) -> Image.Image:
    """Paint a still life of `size`."""
    width, height = size
    wall, table, colours = dice.choice(_PALETTES)
    canvas = _room(size, rgb(wall), rgb(table), dice)
    lit = dice.choice((-1, 1))
    glow(canvas, (width * (0.5 + 0.35 * lit), height * 0.2), max(size) * 0.85, (255, 250, 238), 0.36)
    count = dice.randint(2, 3)
    palette = dice.sample(colours, count)
    outlines = dice.sample(_OUTLINES, count)
    places = sorted(range(count), key=lambda _: dice.random())
    unit = min(width / (count * 0.5), height) * 0.52
    for order, place in enumerate(places):
        x = width * (0.5 + (place - (count - 1) / 2) * 0.27 * min(1, unit * 2.4 / height + 0.3))
        foot = height * (0.7 + 0.045 * order)
        _vessel(canvas, (x, foot, unit * dice.uniform(0.75, 1.2)), outlines[order], (rgb(palette[order]), lit))
    return canvas


def _room(size: tuple[int, int], wall: Colour, table: Colour, dice: Random) -> Image.Image:
    width, height = size
    edge = round(height * dice.uniform(0.56, 0.62))
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
