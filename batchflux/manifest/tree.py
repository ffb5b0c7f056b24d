"""What a YAML text is read into: plain nodes that know their line, and how their scalars are understood.

The rule: a scalar is the text the user wrote, and stays so until a field asks for something else. YAML 1.2's core
is all that is understood without being asked (`true`, `false`, `null`, whole numbers, decimals); a quoted scalar is
always text. So `16:9`, `no`, `010` and `2024-01-01` are never anything but themselves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Self

OVERRIDE = 0  # the line of what came from the command line, not from the file

_NULLS = frozenset({"", "~", "null"})
_BOOLS = {"true": True, "false": False}
_INT = re.compile(r"0|-?[1-9][0-9]{0,17}")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]|[-+]?[0-9]+$")
_SHOWN = 60


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

    def __reduce__(self) -> tuple[type[Written], tuple[str]]:
        return (Written, (self._text,))


@dataclass(slots=True)
class Scalar:
    """One value. `plain` when it stood without quotes; `shown` is what a message may print in place of `text`."""

    text: str
    plain: bool
    line: int
    shown: str | None = None

    @property
    def is_null(self) -> bool:
        """Whether nothing was given: empty, `~` or `null`, without quotes."""
        return self.plain and self.text in _NULLS


@dataclass(slots=True)
class Items:
    """A sequence."""

    line: int
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Table:
    """A mapping; `lines` holds where each key stands."""

    line: int
    pairs: dict[str, Node] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


Node = Scalar | Items | Table


def value_of(scalar: Scalar) -> bool | int | float | str | None:
    """The value of a scalar where no field says what is meant: axis values, options."""
    text = scalar.text
    if not scalar.plain:
        return text
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and not _LEADING_ZERO.match(text):
        return Written(text)
    return text


def plain_data(node: Node) -> Any:
    """The node as JSON data, decimals as ordinary floats."""
    if isinstance(node, Table):
        return {key: plain_data(value) for key, value in node.pairs.items()}
    if isinstance(node, Items):
        return [plain_data(item) for item in node.items]
    value = value_of(node)
    return float(value) if isinstance(value, Written) else value


def loose(node: Node) -> Any:
    """Dicts and lists whose leaves are still Scalars: what the schema validates."""
    if isinstance(node, Table):
        return {key: loose(value) for key, value in node.pairs.items()}
    if isinstance(node, Items):
        return [loose(item) for item in node.items]
    return node


def quoted(text: str) -> str:
    """The text in quotes, cut to a readable length, on one line."""
    cut = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    visible = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut)
    return f'"{visible}"'


def found(value: object) -> str:
    """What was found, for a message: `"30:1"`, `a list`, `a mapping`, `nothing`."""
    if isinstance(value, Scalar):
        return "nothing" if value.is_null else quoted(value.shown if value.shown is not None else value.text)
    if isinstance(value, (Table, dict)):
        return "a mapping"
    if isinstance(value, (Items, list)):
        return "a list"
    return quoted(str(value))
