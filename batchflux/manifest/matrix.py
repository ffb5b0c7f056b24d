"""The matrix: the product of all axes in the order written, the last one fastest, less what is excluded.

Each value of an axis has a text (what a field's reader and `exclude` see) and a value (what a template sees). Globs and
files of lines are read beside the manifest or in buckets; a glob that finds nothing is a fault.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from batchflux.errors import quoted
from batchflux.manifest.job_fields import READERS, reference
from batchflux.manifest.reading.values import is_template, line_of_text, problem, scalar
from batchflux.manifest.reading.yaml_nodes import Scalar, found, value_of
from batchflux.manifest.templates import ImagePath, Parts
from batchflux.tables.lines import lines_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

MAX_RANGE = 1_000_000
MAX_COMBINATIONS = 10_000_000
_BOUNDS = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
_MADE = {
    "range": _BOUNDS,
    "glob": {"type": ["string", "array"], "items": {"type": "string"}},
    "lines": {"type": "string"},
}
_ONE_OF_THEM = {"minProperties": 1, "maxProperties": 1, "additionalProperties": False}
AXIS_SCHEMA = {"oneOf": [{"type": "array", "minItems": 1}, {"type": "object", "properties": _MADE, **_ONE_OF_THEM}]}
_ALLOWED = "allowed is a list, {range: [first, last]}, {glob: PATTERN} or {lines: FILE}"

Kind = Literal["list", "range", "glob", "lines"]


class Files(Protocol):
    """Finds the files that a manifest names, beside it or in buckets."""

    def path_of(self, source: str, /) -> Path:
        """Return where a file's bytes are; ReadError."""

    def matches(self, patterns: Sequence[str], /) -> list[str]:
        """Return the files that patterns mean; ValueError where there are none."""


@dataclass(frozen=True, slots=True)
class AxisValue:
    """One value of an axis: its text, what a template sees, and the texts of a list (an axis of `images`)."""

    text: str
    value: Any
    parts: tuple[str, ...] | None = None

    def field(self, name: str) -> tuple[str, Any]:
        """Return the field that an axis of this name sets, and its value; a ValueError when that is not allowed."""
        if name in {"image", "images"}:
            sources = map(reference, self.parts if self.parts is not None else (self.text,))
            return "images", tuple(source for source in sources if source is not None)
        if self.parts is not None or isinstance(self.value, Parts):
            kind = "a list" if self.parts is not None else "a mapping"
            raise ValueError(f"found {kind}; an axis of {name} has single values")
        return name, READERS[name](self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of a matrix; `given` holds what was written for it."""

    name: str
    kind: Kind
    given: tuple[Any, ...]
    line: int
    zipped: bool = False  # its values go with those of the others that are

    @property
    def place(self) -> str:
        """The key of the entry that it stands under."""
        return "zip" if self.zipped else "matrix"

    def least(self) -> int:
        """Return how many values there are at least, without making them."""
        return self.given[1] - self.given[0] + 1 if self.kind == "range" else len(self.given)

    def values(self, files: Files) -> Sequence[AxisValue]:
        """Return all values; a ValueError says that nothing matches, or why the file of lines cannot be read."""
        if self.kind == "range":
            return [AxisValue(str(number), number) for number in range(self.given[0], self.given[1] + 1)]
        if self.kind == "glob":
            return [AxisValue(name, ImagePath(name)) for name in files.matches(self.given)]
        if self.kind == "lines":
            texts = lines_of(self.given[0], files.path_of)
            return [AxisValue(text, ImagePath(text) if self.name == "image" else text) for text in texts]
        return [self._listed(item) for item in self.given]

    def _listed(self, item: Scalar | tuple[Scalar, ...] | dict[str, Scalar]) -> AxisValue:
        if isinstance(item, dict):
            named = item.get("name") or next(iter(item.values()))
            values = {name: value_of(part) for name, part in item.items()}
            return AxisValue(named.text, Parts(named.text, values))
        if isinstance(item, tuple):
            parts = tuple(part.text for part in item)
            return AxisValue(", ".join(parts), list(parts), parts)
        text = "" if item.is_null else item.text
        return AxisValue(text, ImagePath(text) if self.name == "image" else value_of(item))


def axis_spec(value: object) -> tuple[Kind, tuple[Any, ...]]:
    """Check what an axis is made of: its kind, and the Scalars (or lists of them), bounds or text written for it."""
    if isinstance(value, list):
        if not value:
            raise problem("found an empty list; an axis needs at least one value")
        return "list", _together(tuple(map(_axis_value, value)))
    if not isinstance(value, dict) or len(value) != 1:
        raise problem(f"found {found(value)}; {_ALLOWED}")
    ((kind, given),) = value.items()
    if kind == "range":
        return "range", _range(given)
    if kind not in {"glob", "lines"}:
        raise problem(f"found {quoted(kind)}; {_ALLOWED}")
    items = given if kind == "glob" and isinstance(given, list) else [given]
    what = "a pattern" if kind == "glob" else "the path of a text file"
    texts = [line_of_text(scalar(item, what).text) for item in items]
    if not texts or None in texts:
        raise problem(f"found nothing; {_ALLOWED}")
    return kind, tuple(texts)


def _axis_value(item: object) -> Any:
    if isinstance(item, list):
        return tuple(map(scalar, item))
    if isinstance(item, dict):
        if len(item) == 1:
            ((name, text),) = item.items()
            said = f"found a mapping of {quoted(name)} alone; put a text with a colon in quotes"
            raise problem(f'{said}, as "{name}: {text.text}"' if isinstance(text, Scalar) else said)
        return {name: _data(part) for name, part in item.items()}
    return _data(item)


def _data(item: object) -> Scalar:
    node = scalar(item)
    if is_template(node.text):
        raise problem(f"found {quoted(node.text)}; axis values are data, so write the template into the field itself")
    return node


def _together(items: tuple[Any, ...]) -> tuple[Any, ...]:
    """Check that values of an axis have the same parts, where one has any."""
    names = {tuple(sorted(item)) if isinstance(item, dict) else () for item in items}
    if len(names) > 1:
        shown = " and ".join(quoted(", ".join(one)) for one in sorted(names)[:2])
        raise problem(f"the values of the axis have different parts, {shown}; give all the same, as name and text")
    return items


def _range(given: object) -> tuple[int, int]:
    items = given if isinstance(given, list) else []
    numbers: list[Any] = [value_of(item) if isinstance(item, Scalar) else None for item in items]
    if [type(number) for number in numbers] != [int, int]:
        raise problem("the range is not two whole numbers; allowed is {range: [first, last]}, both included")
    first, last = numbers
    if first > last:
        raise problem(f"the range starts at {first} and ends at {last}; the first must not be above the last")
    if last - first >= MAX_RANGE:
        raise problem(f"the range has {last - first + 1} values; allowed are at most {MAX_RANGE}")
    return first, last


def meaning(axis: str, text: str) -> str:
    """Return what a value of an axis says: where it sets a field, what that reads, so that `jpg` is `jpeg`."""
    if axis not in READERS:
        return text
    try:
        return str(READERS[axis](text))
    except ValueError:  # which is a fault of its own
        return text


def meanings(axis: str, values: Sequence[AxisValue]) -> dict[str, set[str]]:
    """Return the texts of an axis's values, by what they say."""
    made: dict[str, set[str]] = {}
    for value in values:
        made.setdefault(meaning(axis, value.text), set()).add(value.text)
    return made


def combinations(
    names: Sequence[str], values: Sequence[Sequence[AxisValue]], exclude: Sequence[Mapping[str, str]], paired: int = 0
) -> Iterator[tuple[AxisValue, ...]]:
    """Yield the product, less the excluded; one empty combination when there are no axes.

    The last `paired` axes have as many values each, of which those in the same place go together.
    """
    free = len(values) - paired
    together: Sequence[tuple[AxisValue, ...]] = list(zip(*values[free:], strict=True)) if paired else [()]
    at = {name: index for index, name in enumerate(names)}
    rules: dict[tuple[int, ...], set[tuple[str, ...]]] = {}  # by the axes they name, so that many rules are one look
    known = {name: meanings(name, values[at[name]]) for name in set(itertools.chain(*exclude))}
    for rule in exclude:
        pairs = sorted((at[name], known[name].get(meaning(name, text), ())) for name, text in rule.items())
        rules.setdefault(tuple(index for index, _ in pairs), set()).update(itertools.product(*(of for _, of in pairs)))
    for single, tied in itertools.product(itertools.product(*values[:free]), together):
        combination = single + tied
        if not any(tuple(combination[index].text for index in indexes) in texts for indexes, texts in rules.items()):
            yield combination
