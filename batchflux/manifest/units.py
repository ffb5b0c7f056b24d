"""Amounts as people write them: `300/min`, `6m`, `50MB`, `06:00`, `0.14`.

The rule: text in, value out, ValueError with what was found and what is allowed.
"""

from __future__ import annotations

import re
from decimal import Decimal

from batchflux.manifest.values import Deadline, Rate
from batchflux.manifest.yaml_nodes import quoted

_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,9})?"
_RATE = re.compile(rf"({_NUMBER}) ?/ ?(s|min|h)")
_PART = re.compile(rf"({_NUMBER})(s|m|min|h)")
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_SIZE = re.compile(rf"({_NUMBER}) ?(B|KB|MB|GB)?")
_MONEY = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12})?")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}
_BYTES = {None: 1, "B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3}
MAX_TIMEOUT = 86_400
MAX_DEADLINE = 30 * 86_400
MAX_RATE = 1_000_000
MAX_PICTURE = 4 * 1000**3


def rate(text: str) -> Rate:
    """`N/s`, `N/min` or `N/h`; N may be decimal."""
    match = _RATE.fullmatch(text)
    if match is None or not 0 < float(match[1]) <= MAX_RATE:
        raise ValueError(f"found {quoted(text)}; allowed is N/s, N/min or N/h with N above 0, as 300/min")
    return Rate(count=float(match[1]), seconds=float(_SECONDS[match[2]]))


def _duration(text: str) -> float | None:
    total, at = 0.0, 0
    for part in _PART.finditer(text):
        if part.start() != at:
            return None
        total += float(part[1]) * _SECONDS[part[2]]
        at = part.end()
    return total if at == len(text) and total > 0 else None


def timeout(text: str) -> float:
    """Seconds of `360s`, `6m`, `1h` or a bare number, at most a day."""
    seconds = float(text) if re.fullmatch(_NUMBER, text) else _duration(text)
    if not seconds or seconds > MAX_TIMEOUT:
        raise ValueError(f"found {quoted(text)}; allowed is a duration up to 24h, as 360s or 6m")
    return seconds


def deadline(text: str) -> Deadline:
    """A clock time, `06:00`, or a duration, `5h`."""
    clock = _CLOCK.fullmatch(text)
    if clock is not None:
        return Deadline(clock=(int(clock[1]), int(clock[2])))
    seconds = _duration(text)
    if seconds is None or seconds > MAX_DEADLINE:
        raise ValueError(f'found {quoted(text)}; allowed is a clock time, as "06:00", or a duration, as 5h')
    return Deadline(seconds=seconds)


def size(text: str) -> int:
    """Bytes of `50MB`, `500KB`, `1GB` (powers of 1000) or a bare number."""
    match = _SIZE.fullmatch(text)
    amount = None if match is None else int(Decimal(match[1]) * _BYTES[match[2]])
    if amount is None or not 0 < amount <= MAX_PICTURE:
        raise ValueError(f"found {quoted(text)}; allowed is a size up to 4GB, as 50MB or 500KB")
    return amount


def money(text: str) -> Decimal:
    """An exact amount, 0 or more."""
    if not _MONEY.fullmatch(text):
        raise ValueError(f"found {quoted(text)}; allowed is an amount of 0 or more, as 0.14")
    return Decimal(text)
