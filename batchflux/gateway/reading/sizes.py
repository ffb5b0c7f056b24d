"""Sizes in pixels as clients ask for them → the ratio that is ordered."""

from __future__ import annotations

import re
from math import log

from batchflux.errors import quoted
from batchflux.gateway.reading.bodies import read, refused
from batchflux.manifest.job_fields import ratio

USUAL = ("21:9", "16:9", "3:2", "4:3", "5:4", "1:1", "4:5", "3:4", "2:3", "9:16", "9:21")
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_ALLOWED = "allowed is WIDTHxHEIGHT, as 1024x1536, a ratio, as 2:3, or auto"
_SAME = log(1.05)  # a size of whole steps (1792x1024) is its ratio (16:9) within five hundredths
_WIDEST = log(21 / 9) + 1e-9


def ordered(size: str | None, aspect_ratio: str | None) -> str | None:
    """Return the ratio that a size or a ratio asks for, None where neither does; both must agree.

    Raises:
        RefusalError: One of them is none, is out of 21:9 to 9:21, or they contradict each other.
    """
    wanted: str | None = read("aspect_ratio", aspect_ratio, ratio) if aspect_ratio else None
    if size is None or size in {"", "auto"}:
        return wanted
    if ":" in size:
        near, slope = read("size", size, ratio), _slope(*size.split(":"))
    elif (match := _SIZE.fullmatch(size)) is None:
        raise refused("size", f"found {quoted(size)}; {_ALLOWED}")
    else:
        slope = _slope(match[1], match[2])
        near = min(USUAL, key=lambda usual: abs(_slope(*usual.split(":")) - slope))
    if abs(slope) > _WIDEST:
        raise refused("size", f"found {quoted(size)}; allowed are shapes from 21:9 to 9:21")
    if wanted and abs(_slope(*wanted.split(":")) - slope) > _SAME:
        raise refused("size", f"{quoted(size)} is {near}, and aspect_ratio asks for {wanted}; send one of them")
    return wanted or near


def _slope(width: str, height: str) -> float:
    """Return how wide a picture is as a logarithm: 0 is square, and twice as wide is as far as twice as high."""
    return log(int(width) / int(height))
