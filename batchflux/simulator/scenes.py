"""Draws a scene where there is no photo: hills under a sun, or a still life; a pure function of its name and size."""

from __future__ import annotations

from random import Random

from PIL import Image

from batchflux.simulator.hills import hills
from batchflux.simulator.stilllife import still_life

_HILLS_SHARE = 0.5


def scene(name: str, size: tuple[int, int]) -> Image.Image:
    """Return the scene called `name`. It is drawn twice as large and reduced, for smooth edges."""
    dice = Random(name)
    paint = hills if dice.random() < _HILLS_SHARE else still_life
    width, height = size
    return paint((width * 2, height * 2), dice).resize(size, Image.Resampling.BOX)
