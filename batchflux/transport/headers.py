"""How long a server asks us to wait, and which headers may be sent.

Retry-After (RFC 9110 section 10.2.3) is read in all the ways in which servers write it; limits by OpenAI's own headers,
those of other servers that are spelled much alike, and the `RateLimit` that the IETF drafts.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from batchflux.errors import UsageError
from batchflux.transport.waits import wait_in_words

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t -~\u00a0-\U0010ffff]*")
_OURS = frozenset({"host", "connection", "content-length", "transfer-encoding", "accept-encoding", "te", "upgrade"})
LONGEST = 3600.0  # seconds; a longer wait is the user's decision, not a header's
SUCCESS = range(200, 300)
TOO_MANY_REQUESTS = 429
_RESET, _REMAINING = "reset", "remaining"
_LIMIT = re.compile(r"(?:x-)?rate-?limit-(reset|remaining)(.*)")
_ITEM = {
    _RESET: re.compile(r"\b(?:t|reset)\s*=\s*(\d{1,15})"),
    _REMAINING: re.compile(r"\b(?:r|remaining)\s*=\s*(\d{1,15})"),
}
_LISTED = re.compile(r"\"?([\d.]{1,20})\"?\s*(?:,.*)?")  # in quotes, or several of them
_NUMBER = re.compile(r"[+-]?\d{1,15}(?:\.\d{0,9})?", re.ASCII)
_DURATION = re.compile(r"(?:\d{1,9}(?:\.\d{0,9})?(?:ms|us|µs|ns|d|h|m|s))+", re.ASCII)
_PART = re.compile(r"([\d.]+)(ms|us|µs|ns|d|h|m|s)")
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_ISO = re.compile(r"\d{4}-\d\d-\d\dT")
_EPOCH, _EPOCH_MS = 1e9, 1e12  # numbers from here on are times since 1970 in (milli)seconds, not lengths of time


def wait_asked(status: int, headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds to wait, 0 to 3600, None when no sensible wait is asked; limits count only under a 429."""
    now = _date_of(headers, now)
    asked = headers.get("retry-after", "").strip()
    listed = _LISTED.fullmatch(asked)
    seconds = _span(listed[1] if listed else asked, now)
    if seconds is None and asked[:1].isdecimal():
        seconds = wait_in_words(f"retry after {asked}")
    if seconds is None and _NUMBER.fullmatch(in_ms := headers.get("retry-after-ms", "").strip()):
        seconds = float(in_ms) / 1000
    if seconds is None and status == TOO_MANY_REQUESTS:
        seconds = _reset(headers, now)
    return _bounded(seconds)


def pause_hinted(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds until a limit that an answer marks as used up reopens, None when it marks none."""
    used_up = "0" in _told(headers, _REMAINING).values()
    return _bounded(_reset(headers, _date_of(headers, now))) if used_up else None


def lowered(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers with names in lower case; of a repeated one the first counts."""
    return {name.lower(): value for name, value in reversed([*headers.items()])}


def check_sendable(headers: Mapping[str, str]) -> None:
    """See that provider.download_headers can be sent; UsageError when one cannot."""
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise UsageError(f"provider.download_headers: {name!a} is no header that can be sent")
        if name.lower() in _OURS:
            raise UsageError(f"provider.download_headers: {name} is the client's own; leave it out")


def _bounded(seconds: float | None) -> float | None:
    return None if seconds is None else min(max(seconds, 0.0), LONGEST)


def _reset(headers: Mapping[str, str], now: float) -> float | None:
    """Return when the exhausted limit is open again; when none is marked as exhausted, the first that reopens."""
    resets, left = _told(headers, _RESET), _told(headers, _REMAINING)
    waits = {kind: wait for kind, text in resets.items() if (wait := _span(text, now)) is not None}
    empty = [wait for kind, wait in waits.items() if left.get(kind) == "0"]
    return max(empty) if empty else min(waits.values(), default=None)


def _told(headers: Mapping[str, str], what: str) -> dict[str, str]:
    """Return what is told of limits, RESET or REMAINING, by their kinds."""
    named = ((_LIMIT.fullmatch(name), text.strip()) for name, text in headers.items())
    told = {name[2]: text for name, text in named if name is not None and name[1] == what}
    field = headers.get("ratelimit", "")
    for number, item in enumerate(field.split(",") if ";" in field else [field]):
        if found := _ITEM[what].search(item):
            told[f" {number}"] = found[1]
    return told


def _span(text: str, now: float) -> float | None:
    """Read `1s`, `6m0s`, `250ms`, `12.5` (seconds), or a time since 1970 in seconds or milliseconds."""
    if _DURATION.fullmatch(text):
        return math.fsum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if not _NUMBER.fullmatch(text):
        return _until(text, now)
    number = float(text)
    moment = number / 1000 if number >= _EPOCH_MS else number
    return moment - now if number >= _EPOCH else number


def _until(date: str, now: float) -> float | None:
    """Return the seconds until an HTTP date, or one of ISO 8601, None when it is none."""
    try:
        moment = datetime.fromisoformat(date) if _ISO.match(date) else parsedate_to_datetime(date)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def _date_of(headers: Mapping[str, str], now: float) -> float:
    """Return when the server answered, in seconds since the epoch."""
    date = _until(headers.get("date", ""), 0)
    return now if date is None else date
