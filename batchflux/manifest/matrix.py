"""The matrix: the product of all axes in the order written, the last one fastest, less what is excluded.

Each value of an axis has a text (what a field's reader and `exclude` see) and a value (what a template sees). Globs and
files of lines are read beside the manifest; a glob that finds nothing is a fault.
"""

from __future__ import annotations

import glob
import itertools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from batchflux.manifest.job_fields import READERS, reference
from batchflux.manifest.tables import lines_of
from batchflux.manifest.templates import ImagePath
from batchflux.manifest.values import is_nothing, is_template, line_of_text, problem, scalar
from batchflux.manifest.yaml_nodes import Scalar, found, quoted, value_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

MAX_RANGE = 1_000_000
MAX_COMBINATIONS = 10_000_000
MAX_DEEP = 2
AXIS_SCHEMA = {
    "oneOf": [
        {"type": "array", "minItems": 1},
        {
            "type": "object",
            "properties": {
                "range": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
                "glob": {"type": "string"},
                "lines": {"type": "string"},
            },
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": False,
        },
    ],
}
_ALLOWED = "allowed is a list, {range: [first, last]}, {glob: PATTERN} or {lines: FILE}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of a matrix: `kind` is list, range, glob or lines; `values` holds what was written for it."""

    name: str
    kind: Literal["list", "range", "glob", "lines"]
    values: tuple[Any, ...]
    line: int


@dataclass(frozen=True, slots=True)
class AxisValue:
    """One value of an axis: its text, what a template sees, and the texts of a list (an axis of `images`)."""

    text: str
    value: Any
    parts: tuple[str, ...] | None = None


Combination = tuple[AxisValue, ...]


# --- what is written --------------------------------------------------------------------------------------------------


def axis_spec(value: object) -> tuple[str, tuple[Any, ...]]:
    """Check what an axis is made of: its kind, and the Scalars (or lists of them), bounds or text written for it."""
    if isinstance(value, list):
        if not value:
            raise problem("found an empty list; an axis needs at least one value")
        return "list", tuple(_axis_value(item) for item in value)
    if not isinstance(value, dict) or len(value) != 1:
        raise problem(f"found {found(value)}; {_ALLOWED}")
    ((kind, given),) = value.items()
    if kind == "range":
        return "range", _range(given)
    if kind not in {"glob", "lines"}:
        raise problem(f"found {quoted(kind)}; {_ALLOWED}")
    text = line_of_text(scalar(given, "a pattern" if kind == "glob" else "the path of a text file").text)
    if text is None:
        raise problem(f"found nothing; {_ALLOWED}")
    return kind, (text,)


def exclusion(value: object) -> str:
    """Check a value that an excluded combination has, as text."""
    node = scalar(value)
    return "" if node.is_null else node.text


def _axis_value(item: object) -> Any:
    if isinstance(item, list):
        return tuple(scalar(part) for part in item)
    node = scalar(item)
    if is_template(node.text):
        raise problem(f"found {quoted(node.text)}; axis values are data, so write the template into the field itself")
    return node


def _range(given: object) -> tuple[int, int]:
    items = given if isinstance(given, list) else []
    numbers = [value_of(item) if isinstance(item, Scalar) else None for item in items]
    match numbers:
        case [int(first), int(last)] if not any(isinstance(number, bool) for number in numbers):
            pass
        case _:
            raise problem("the range is not two whole numbers; allowed is {range: [first, last]}, both included")
    if first > last:
        raise problem(f"the range starts at {first} and ends at {last}; the first must not be above the last")
    if last - first >= MAX_RANGE:
        raise problem(f"the range has {last - first + 1} values; allowed are at most {MAX_RANGE}")
    return first, last


# --- what it comes to -------------------------------------------------------------------------------------------------


def axis_values(axis: Axis, base: Path) -> Sequence[AxisValue]:
    """Return all values of an axis.

    Raises:
        ValueError: nothing matches, or the file of lines cannot be read; says what and why.
    """
    if axis.kind == "range":
        first, last = axis.values
        return [AxisValue(str(number), number) for number in range(first, last + 1)]
    if axis.kind == "glob":
        return [AxisValue(name, ImagePath(name)) for name in _matches(axis.values[0], base)]
    if axis.kind == "lines":
        texts = lines_of(axis.values[0], base)
        return [AxisValue(text, ImagePath(text) if axis.name == "image" else text) for text in texts]
    return [_listed(axis.name, item) for item in axis.values]


def least_size(axis: Axis) -> int:
    """Return how many values an axis has at least, without making them."""
    if axis.kind == "range":
        first, last = axis.values
        return int(last) - int(first) + 1
    return 1 if axis.kind in {"glob", "lines"} else len(axis.values)


def axis_field(name: str, value: AxisValue) -> tuple[str, Any]:
    """Return the field that an axis sets, and its converted value.

    Raises:
        ValueError: the value is not one that the field allows.
    """
    if name in {"image", "images"}:
        sources = map(reference, value.parts if value.parts is not None else (value.text,))
        return "images", tuple(source for source in sources if source is not None)
    if value.parts is not None:
        raise ValueError(f"found a list; an axis of {name} has single values")
    return name, READERS[name](value.text)


def _listed(name: str, item: Scalar | tuple[Scalar, ...]) -> AxisValue:
    if isinstance(item, tuple):
        parts = tuple(part.text for part in item)
        return AxisValue(", ".join(parts), list(parts), parts)
    text = "" if is_nothing(item) else item.text
    return AxisValue(text, ImagePath(text) if name == "image" else value_of(item))


def _matches(pattern: str, base: Path) -> list[str]:
    _check_pattern(pattern)
    names = sorted(name for name in glob.glob(pattern, root_dir=base, recursive=True) if (base / name).is_file())  # noqa: PTH207  Path.glob takes no absolute pattern
    if not names:
        raise ValueError(f"no file matches the pattern {quoted(pattern)} beside the manifest")
    if len(names) > MAX_RANGE:
        raise ValueError(f"the pattern {quoted(pattern)} matches more than {MAX_RANGE} files")
    return [name.replace(os.sep, "/") for name in names]


def _check_pattern(pattern: str) -> None:
    """Refuse a pattern that would walk the same folders over and over: `*/../*/../*`."""
    parts = pattern.split("/")
    wild = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    if ".." in parts[wild:]:
        raise ValueError(f"found .. behind a wildcard in the pattern {quoted(pattern)}; write it in front")
    if parts.count("**") > MAX_DEEP:
        raise ValueError(
            f"found more than {MAX_DEEP} ** in the pattern {quoted(pattern)}; one finds folders of any depth"
        )


def combinations(
    names: Sequence[str], values: Sequence[Sequence[AxisValue]], exclude: Sequence[Mapping[str, str]]
) -> Iterator[Combination]:
    """Yield the product, less the excluded; one empty combination when there are no axes."""
    at = {name: index for index, name in enumerate(names)}
    rules: dict[tuple[int, ...], set[tuple[str, ...]]] = {}  # by the axes they name, so that many rules are one look
    for rule in exclude:
        pairs = sorted((at[name], text) for name, text in rule.items())
        rules.setdefault(tuple(index for index, _ in pairs), set()).add(tuple(text for _, text in pairs))
    for combination in itertools.product(*values):
        if not any(tuple(combination[index].text for index in indexes) in texts for indexes, texts in rules.items()):
            yield combination
