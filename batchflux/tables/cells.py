"""What a cell says: the number, the blank, the text without what only the eye takes for text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Self

Row = Mapping[str, Any]
Report = Callable[[int | None, str], None]  # line of the table, message

MAX_CELL = 1 << 20

# Blanks that `str.strip` takes, and those of no width that come along with text from web pages and spreadsheets.
_BLANKS = "".join(map(chr, (*range(9, 14), *range(28, 33), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029)))
_WIDTHLESS = "\u00ad\u180e\u200b\u200c\u200d\u200e\u200f\u202f\u205f\u2060\u3000\ufeff"
JUNK = _BLANKS + _WIDTHLESS

# What pandas, databases, JavaScript and spreadsheets write where there is nothing; in any of three spellings.
_NOTHING = (
    "nan -nan none null nat undefined n/a <na> #n/a #na #nv 1.#ind 1.#qnan -1.#ind -1.#qnan nan(ind) -nan(ind) n.a. "
    "(null) (blank) (none) (empty) <null> #n/d #нд #ref #getting_data loading... [] {}"
)
MISSING = frozenset(word for lower in _NOTHING.split() for word in (lower, lower.upper(), lower.capitalize()))
MISSING |= {"[object Object]", "NA", "NaN", "-NaN", "NaT", "#N/A N/A", "\\N"}
_LONGEST = 24
_ERROR = re.compile(r"#[A-ZÀ-ÞЀ-Я¡/0?_]{2,20}[!?]|#{3,}")  # #REF!, #DIV/0!, #NAME?, #¡VALOR!, #ЗНАЧ!; a narrow column


class Written(float):
    """A decimal that prints as it was written: `1.50` stays `1.50` in a prompt, and can still be reckoned with."""

    __slots__ = ("_text",)

    _text: str

    def __new__(cls, text: str) -> Self:
        """Make the number that `text` says."""
        made = super().__new__(cls, text)
        made._text = text
        return made

    def __str__(self) -> str:
        return self._text


class Padded(int):
    """A whole number that prints with the zeros that its cell's format puts in front: `00123` stays it in a sku."""

    _text: str

    def __new__(cls, number: int, digits: int) -> Self:
        """Make the number that has at least so many digits."""
        made = super().__new__(cls, number)
        made._text = f"{number:0{digits}}"
        return made

    def __str__(self) -> str:
        return self._text


def trimmed(text: str) -> str:
    """Return the text without blanks at its ends, also those that have no width or do not break."""
    return text if text[:1].isalnum() and text[-1].isalnum() else text.strip(JUNK)


def is_empty(cell: Any) -> bool:
    """Whether nothing stands in a cell."""
    return cell is None or (isinstance(cell, str) and not trimmed(cell))


def is_blank(cell: Any) -> bool:
    """Whether a cell is empty or says that it is: `nan`, `None`, `NULL`, `#N/A`, an error of a spreadsheet's."""
    if isinstance(cell, str):
        if len(cell) > _LONGEST and cell[0] not in JUNK:
            return False
        if cell[:1].isalnum() and cell[-1].isalnum():  # as nearly all are
            return cell in MISSING
        text = cell.strip(JUNK)
        return not text or text in MISSING or _ERROR.fullmatch(text) is not None
    return cell is None or cell in ([], {}) or cell != cell  # noqa: PLR0124  only NaN differs from itself
