"""Aspect ratios: any W:H from 21:9 to 9:21, and the pixels they come to."""

from __future__ import annotations

import re

_WRITTEN = re.compile(r"(\d{1,5}(?:\.\d{1,4})?):(\d{1,5}(?:\.\d{1,4})?)", re.ASCII)
WIDEST = 21 / 9
_SLACK = 1e-9
_THINNEST = 8


def parse_ratio(text: str) -> float | None:
    """Return width by height of `W:H`, or None when it is not written so or beyond the allowed."""
    found = _WRITTEN.fullmatch(text)
    if found is None or not float(found[1]) or not float(found[2]):
        return None
    ratio = float(found[1]) / float(found[2])
    return ratio if 1 / WIDEST - _SLACK <= ratio <= WIDEST + _SLACK else None


def pixels(ratio: float, size: int) -> tuple[int, int]:
    """Return width and height with the long side at `size`; within 3 % of `ratio` from 40 pixels up."""
    if ratio >= 1:
        return size, max(_THINNEST, round(size / ratio))
    return max(_THINNEST, round(size * ratio)), size
