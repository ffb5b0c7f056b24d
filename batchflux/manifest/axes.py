"""The matrix: the product of all axes in the order written, the last one fastest, less what is excluded.

The rule: each value of an axis has a text (what a field's converter and `exclude` see) and a value (what a template
sees). Globs and line files are read beside the manifest; a glob that finds nothing is a fault.
"""

from __future__ import annotations

import glob
import itertools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchflux.manifest.job_fields import READERS
from batchflux.manifest.fields import reference
from batchflux.manifest.matrix import MAX_RANGE
from batchflux.manifest.templates import ImagePath
from batchflux.manifest.yaml_nodes import Scalar, quoted, value_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from batchflux.manifest.matrix import Axis


@dataclass(frozen=True, slots=True)
class AxisValue:
    """One value of an axis: its text, what a template sees, and the texts of a list (an axis of `images`)."""

    text: str
    value: Any
    parts: tuple[str, ...] | None = None


MAX_LINES_BYTES = 64 << 20
MAX_COMBINATIONS = 10_000_000
MAX_DEEP = 2
AXIS_FIELDS = frozenset({*READERS, "image", "images"})  # an axis of such a name sets the field
Combination = tuple[AxisValue, ...]


def axis_values(axis: Axis, base: Path) -> Sequence[AxisValue]:
    """All values of an axis.

    Raises:
        ValueError: nothing matches, or the file of lines cannot be read; says what and why.
    """
    if axis.kind == "range":
        first, last = axis.values
        return [AxisValue(str(number), number) for number in range(first, last + 1)]
    if axis.kind == "glob":
        return [AxisValue(name, ImagePath(name)) for name in _matches(axis.values[0], base)]
    if axis.kind == "lines":
        texts = _lines(axis.values[0], base)
        return [AxisValue(text, ImagePath(text) if axis.name == "image" else text) for text in texts]
    return [_listed(axis.name, item) for item in axis.values]


def least_size(axis: Axis) -> int:
    """How many values an axis has at least, told without making them."""
    if axis.kind == "range":
        first, last = axis.values
        return int(last) - int(first) + 1
    return 1 if axis.kind in {"glob", "lines"} else len(axis.values)


def axis_field(name: str, value: AxisValue) -> tuple[str, Any]:
    """The field that an axis sets, and its converted value.

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
    text = "" if item.is_null else item.text
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


def _lines(source: str, base: Path) -> list[str]:
    path = base / source
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"{quoted(source)} is not a file")
        if path.stat().st_size > MAX_LINES_BYTES:
            raise ValueError(f"the file {quoted(source)} has more than {MAX_LINES_BYTES} bytes; use a table with from")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the file {quoted(source)} is not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise ValueError(f"the file {quoted(source)} cannot be read: {error.strerror}") from None
    lines = [line.strip() for line in text.split("\n")]
    values = [line for line in lines if line]
    if not values:
        raise ValueError(f"the file {quoted(source)} has no line that is not blank")
    if len(values) > MAX_RANGE:
        raise ValueError(f"the file {quoted(source)} has more than {MAX_RANGE} lines; use a table with from")
    return values


def combinations(
    names: Sequence[str], values: Sequence[Sequence[AxisValue]], exclude: Sequence[Mapping[str, str]]
) -> Iterator[Combination]:
    """The product, less the excluded; one empty combination when there are no axes."""
    at = {name: index for index, name in enumerate(names)}
    rules: dict[tuple[int, ...], set[tuple[str, ...]]] = {}  # by the axes they name, so that many rules are one look
    for rule in exclude:
        pairs = sorted((at[name], text) for name, text in rule.items())
        rules.setdefault(tuple(index for index, _ in pairs), set()).add(tuple(text for _, text in pairs))
    for combination in itertools.product(*values):
        if not any(tuple(combination[index].text for index in indexes) in texts for indexes, texts in rules.items()):
            yield combination
