"""Grades a photo as an editor would: shadows and highlights toned apart, contrast, saturation, a vignette."""

from __future__ import annotations

import colorsys
from functools import lru_cache
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from random import Random

_MID = 0.5


def grade(photo: Image.Image, dice: Random) -> Image.Image:
    """Return `photo` in a look drawn from `dice`; what it shows stays recognisable."""
    hue = dice.random()
    shadow = colorsys.hls_to_rgb(hue, 0.5, 0.75)
    light = colorsys.hls_to_rgb((hue + dice.uniform(0.35, 0.65)) % 1, 0.5, 0.85)
    strength = dice.uniform(0.16, 0.34)
    contrast = dice.uniform(0.95, 1.25)
    saturation = dice.uniform(0.55, 1.1)
    if dice.random() < 0.3:  # noqa: PLR2004  three in ten are mirrored
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    muted = Image.blend(photo.convert("L").convert("RGB"), photo, saturation)
    curves = [
        level
        for channel in range(3)
        for level in _curve(shadow[channel] - _MID, light[channel] - _MID, strength, contrast)
    ]
    return vignette(muted.point(curves), dice.uniform(0.15, 0.4))


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


def vignette(picture: Image.Image, depth: float) -> Image.Image:
    """Darken the corners in place, by `depth` of the way to black, and return the picture."""
    picture.paste((8, 6, 12), (0, 0, *picture.size), _edges(picture.size, round(depth * 20) * 12))
    return picture
