"""A landscape: sky, sun, and hills that fade into the distance."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchflux.simulator.subjects import Colour, ellipse, glow, gradient, mix, rgb, silhouette

if TYPE_CHECKING:
    from random import Random

    from PIL import Image

# Sky above, sky at the horizon, sun, farthest hill, nearest hill.
_PALETTES = (
    ("20305a", "f6b28b", "ffe3b0", "b98a9b", "1d2440"),
    ("3f7fb8", "e9f1ee", "fff8df", "a5c4cf", "21443f"),
    ("2b1b4d", "e8708a", "ffd0a0", "9a5f8f", "1a1030"),
    ("f3d9a4", "f9eed8", "ffffff", "d8b98c", "6b3f2e"),
    ("14384a", "9ed3c4", "fdf4cf", "6fa7a3", "0f2b2e"),
    ("7aa7c7", "fbe3d2", "fff3e0", "c7a9b4", "4a3350"),
    ("0d1b2e", "4c6d8c", "f4f1e4", "43617d", "08111d"),
    ("f2a65a", "fbe8b9", "fffbe8", "d98a5b", "4f2a2a"),
)
_STEPS = 64


def hills(size: tuple[int, int], dice: Random) -> Image.Image:
    """Paint a landscape of `size`."""
    above, below, sun, far, near = (rgb(text) for text in dice.choice(_PALETTES))
    width, height = size
    horizon = dice.uniform(0.45, 0.62) * height
    canvas = gradient(size, [(0.0, above), (horizon / height, below), (1.0, below)])
    _sun(canvas, (dice.uniform(0.2, 0.8) * width, horizon * dice.uniform(0.45, 0.9)), sun, dice)
    layers = dice.randint(4, 6)
    for index in range(layers):
        depth = index / (layers - 1)
        crest = horizon + (height * 1.02 - horizon) * depth**1.3 * 0.72
        colour = mix(far, near, depth**0.9)
        _hill(canvas, crest, height * (0.05 + 0.05 * depth), (colour, mix(colour, below, 0.25 * (1 - depth))), dice)
    return canvas


def _sun(canvas: Image.Image, centre: tuple[float, float], colour: Colour, dice: Random) -> None:
    radius = min(canvas.size) * dice.uniform(0.05, 0.1)
    glow(canvas, centre, radius * 6, colour, 0.55)
    x, y = centre
    ellipse(canvas, (x - radius, y - radius, x + radius, y + radius), colour)


def _hill(canvas: Image.Image, crest: float, rise: float, colours: tuple[Colour, Colour], dice: Random) -> None:
    """Paint one range: three waves make its ridge; it fades to the second colour towards its foot, like mist."""
    width, height = canvas.size
    waves = [(dice.uniform(0.6, 1.6) * 2**octave, dice.uniform(0, math.tau), 0.55**octave) for octave in range(4)]
    ridge = []
    step = max(2, width // _STEPS)
    for x in range(0, width + step, step):
        lift = sum(math.sin(math.tau * turns * x / width + phase) * share for turns, phase, share in waves)
        ridge.append((x, crest - rise * lift))
    top = max(0, int(min(y for _, y in ridge)))
    if top >= height:
        return
    mask = silhouette((width, height - top), [(0, height), *((x, y - top) for x, y in ridge), (width, height)])
    canvas.paste(gradient(mask.size, [(0.0, colours[0]), (1.0, colours[1])]), (0, top), mask)
