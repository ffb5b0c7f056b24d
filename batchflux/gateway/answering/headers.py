"""What headers tell beside an answer: which jobs it is of, what it cost, and what became of the order."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX = "x-batchflux-"
_LONGEST = 1024  # characters of a value; proxies refuse long heads
_AS_IT_IS = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def told(
    *, jobs: Iterable[str], cost: str | None, currency: str, joined: bool, notes: Mapping[str, str]
) -> dict[str, str]:
    """Return the headers of an answer, in ASCII: other characters are percent-encoded, as in a URL.

    `cost` reads as a decimal number, None where nothing is told; `joined`: nothing new was bought.
    """
    values = {"jobs": ", ".join(jobs)}
    values |= {} if cost is None else {"cost": cost, "currency": currency}
    values |= {"joined": "true"} if joined else {}
    return noted({**notes, **values})


def noted(notes: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of what is told of an order before it is made."""
    return {PREFIX + name: _clean(value) for name, value in notes.items()}


def _clean(value: str) -> str:
    return quote(value, safe=_AS_IT_IS, errors="backslashreplace").strip()[:_LONGEST]
