"""Draws a scene where there is no photo: hills under a sun, or a still life; a pure function of its name and size."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from batchflux.simulator.subjects import hills
from batchflux.simulator.subjects import still_life

if TYPE_CHECKING:
    from PIL import Image

_HILLS_SHARE = 0.5


def scene(name: str, size: tuple[int, int]) -> Image.Image:
    """Return the scene called `name`."""
    dice = Random(name)
    paint = hills if dice.random() < _HILLS_SHARE else still_life
    return paint(size, dice)
