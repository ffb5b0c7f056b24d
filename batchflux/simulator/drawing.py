"""Draws the picture of a recipe: the references, or a scene, graded, captioned and marked; the same bytes anywhere.

References are cropped to the ratio and stand side by side or melt into one another. A reference given as a URL is
never fetched: a scene drawn from its digest stands for it.
"""

from __future__ import annotations

from io import BytesIO
from random import Random
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from batchflux.simulator.drawing import grade
from batchflux.simulator.drawing import letter
from batchflux.simulator.drawing import parse_ratio, pixels
from batchflux.simulator.subjects import scene

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.simulator.images import Recipe

_JPEG_QUALITY = 85
_PNG_LEVEL = 1
_SCENE_RATIOS = (1.0, 4 / 3, 3 / 2, 3 / 4)
_ZOOM = 0.12


def draw(recipe: Recipe, reference: Callable[[str], bytes]) -> bytes:
    """Return the picture as a file; `reference` gives the reduced upload of a digest."""
    dice = Random(recipe.digest)
    originals = [_original(name, reference, recipe.size) for name in recipe.references]
    size = pixels(_ratio(recipe, originals), recipe.size)
    if originals:
        views = [original if original is not None else scene(name, size) for name, original in originals]
        canvas = grade(_together(views, size, dice), dice)
    else:
        canvas = scene(recipe.digest, size)
    letter(canvas, recipe.caption)
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
    return first.width / first.height if first is not None else Random(name).choice(_SCENE_RATIOS)


def _together(views: list[Image.Image], size: tuple[int, int], dice: Random) -> Image.Image:
    if len(views) == 1:
        return _fit(views[0], size, dice)
    if dice.random() < 0.5:  # noqa: PLR2004  a coin
        return _side_by_side(views, size, dice)
    return _melted(views, size, dice)


def _fit(view: Image.Image, size: tuple[int, int], dice: Random) -> Image.Image:
    """Crop to the ratio, a little closer than the original and off its centre."""
    centre = (dice.uniform(0.3, 0.7), dice.uniform(0.3, 0.7))
    close = dice.uniform(0, _ZOOM)
    return ImageOps.fit(view, size, Image.Resampling.BILINEAR, bleed=close / 2, centering=centre)


def _side_by_side(views: list[Image.Image], size: tuple[int, int], dice: Random) -> Image.Image:
    width, height = size
    canvas = Image.new("RGB", size, "white")
    lying = width >= height
    length = width if lying else height
    gap = max(1, length // 128)
    edges = [round(index * (length + gap) / len(views)) for index in range(len(views) + 1)]
    for view, start, end in zip(views, edges, edges[1:], strict=False):
        part = max(1, end - gap - start)
        box = (part, height) if lying else (width, part)
        canvas.paste(_fit(view, box, dice), (start, 0) if lying else (0, start))
    return canvas


def _melted(views: list[Image.Image], size: tuple[int, int], dice: Random) -> Image.Image:
    canvas = _fit(views[0], size, dice)
    ramp = Image.linear_gradient("L")
    for index, view in enumerate(views[1:], 1):
        middle = 255 * index / len(views)
        steep = ramp.point([max(0, min(255, round(128 + (level - middle) * 3))) for level in range(256)])
        mask = steep.rotate(90) if size[0] >= size[1] else steep
        canvas.paste(_fit(view, size, dice), (0, 0), mask.resize(size, Image.Resampling.BILINEAR))
    return canvas


def _encoded(canvas: Image.Image, kind: str) -> bytes:
    out = BytesIO()
    if kind == "png":
        canvas.save(out, "PNG", compress_level=_PNG_LEVEL)
    else:
        canvas.save(out, "JPEG", quality=_JPEG_QUALITY)
    return out.getvalue()
