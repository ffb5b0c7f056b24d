"""How long a server asks us to wait in words, where no header says it: `reset after 2h23m`, `请在 30 秒后重试`."""

from __future__ import annotations

import re

LONGEST = 86_400.0  # seconds
_UNITS = {  # by how a unit begins; of two that begin so the longer one is listed first
    "milli": 1e-3,
    "ms": 1e-3,
    "毫秒": 1e-3,
    "d": 86_400.0,
    "天": 86_400.0,
    "h": 3600.0,
    "小时": 3600.0,
    "m": 60.0,
    "分": 60.0,
    "s": 1.0,
    "秒": 1.0,
}
_NAMES = "milliseconds?|msecs?|ms|days?|d|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s|毫秒|天|小时|分钟?|秒钟?"
_AMOUNT = rf"\d{{1,9}}(?:\.\d{{1,9}})? ?(?:{_NAMES})(?![a-z])"
_SPAN = rf"{_AMOUNT}(?:(?:, ?| and | )?{_AMOUNT}){{0,3}}"
_TOLD = re.compile(
    rf"(?:retry|again|reset|wait|available)[^.;\d]{{0,40}}({_SPAN})|({_SPAN}) ?[之以]?[后後]", re.IGNORECASE
)
_PART = re.compile(rf"([\d.]+) ?({_NAMES})", re.IGNORECASE)


def wait_in_words(text: str) -> float | None:
    """Return the seconds to wait that a refusal's text names, at most a day; None when it names none."""
    found = _TOLD.search(text)
    if found is None:
        return None
    return min(sum(float(number) * _seconds(unit) for number, unit in _PART.findall(found[1] or found[2])), LONGEST)


def _seconds(unit: str) -> float:
    return next(seconds for begin, seconds in _UNITS.items() if unit.lower().startswith(begin))
