"""Reads the single values of options: numbers, spans, rates. Each raises a UsageError of one sentence."""

from __future__ import annotations

import math
import re
from typing import Any

from batchflux.errors import UsageError

_RATE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*(s|min|h)\s*")
_UNITS = {"s": 1, "min": 60, "h": 3600}
_PAIR = 2
_LONGEST = 86_400


def integer(place: str, value: Any, *, low: int | None = None, high: int | None = None) -> int:
    """Return `value` when it is a whole number from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"{place} must be a whole number, found {value!r}.")
    if (low is not None and value < low) or (high is not None and value > high):
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        raise UsageError(f"{place} must be {limits}, found {value}.")
    return value


def number(place: str, value: Any, *, high: float) -> float:
    """Return `value` when it is a number from 0 to `high`."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise UsageError(f"{place} must be a number from 0 to {high:g}, found {value!r}.")
    if not 0 <= value <= high:
        raise UsageError(f"{place} must be from 0 to {high:g}, found {value:g}.")
    return float(value)


def span(place: str, value: Any) -> tuple[float, float]:
    """Return seconds, from and to, of a number or a pair."""
    pair = value if isinstance(value, list | tuple) else [value, value]
    if len(pair) != _PAIR:
        raise UsageError(f"{place} must be seconds, or two of them: [low, high]; found {value!r}.")
    low, high = (number(place, part, high=_LONGEST) for part in pair)
    if low > high:
        raise UsageError(f"{place} must be [low, high] with low first, found {value!r}.")
    return low, high


def per_second(place: str, value: Any) -> float:
    """Return requests per second of `10/s`, `300/min` or `100/h`."""
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None or not float(found[1]):
        raise UsageError(f"{place} must be like 10/s, 300/min or 100/h, found {value!r}.")
    return float(found[1]) / _UNITS[found[2]]
