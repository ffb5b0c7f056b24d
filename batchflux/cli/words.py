"""Numbers as people say them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decimal import Decimal

MINUTE, HOUR, DAY = 60, 3600, 86400


def duration(seconds: float) -> str:
    """Return `12 s`, `3 min 20 s`, `5 h 10 min` or `2 d 3 h`."""
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole} s" if whole or not seconds else "under 1 s"
    if whole < HOUR:
        return _two(whole // MINUTE, "min", whole % MINUTE, "s")
    if whole < DAY:
        return _two(whole // HOUR, "h", whole % HOUR // MINUTE, "min")
    return _two(whole // DAY, "d", whole % DAY // HOUR, "h")


def money(amount: Decimal, currency: str) -> str:
    """Return `25.00 CNY`; at least two decimals, as many as there are."""
    exponent = amount.normalize().as_tuple().exponent
    places = max(2, -exponent if isinstance(exponent, int) else 2)
    return f"{amount:,.{places}f} {currency}".strip()


def place(folder: str) -> str:
    """Return the folder as a person in the current one would type it."""
    relative = os.path.relpath(folder)
    return folder if relative.startswith(os.pardir) else relative


def count(number: int, word: str) -> str:
    """Return `1 job`, `2 jobs`."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def _two(first: int, unit: str, second: int, smaller: str) -> str:
    return f"{first} {unit} {second} {smaller}" if second else f"{first} {unit}"
