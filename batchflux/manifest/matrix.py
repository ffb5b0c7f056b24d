"""The matrix: the product of all axes in the order written, the last one fastest, less what is excluded.

Each value of an axis has a text (what a field's reader and `exclude` see) and a value (what a template sees). Globs and
files of lines are read beside the manifest; a glob that finds nothing is a fault, and so is one that would look at more
than MAX_LOOKED_AT names.
"""

from __future__ import annotations

import glob
import itertools
import os
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from batchflux.errors import quoted
from batchflux.manifest.job_fields import READERS, reference
from batchflux.manifest.templates import ImagePath, Parts
from batchflux.manifest.values import is_template, line_of_text, problem, scalar
from batchflux.manifest.yaml_nodes import Scalar, found, value_of
from batchflux.tables.lines import lines_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

MAX_RANGE = 1_000_000
MAX_COMBINATIONS = 10_000_000
MAX_DEEP = 2
MAX_PARTS = 64
MAX_LOOKED_AT = 1_000_000  # names, for one pattern
_BOUNDS = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
_MADE = {"range": _BOUNDS, "glob": {"type": "string"}, "lines": {"type": "string"}}
_ONE_OF_THEM = {"minProperties": 1, "maxProperties": 1, "additionalProperties": False}
AXIS_SCHEMA = {"oneOf": [{"type": "array", "minItems": 1}, {"type": "object", "properties": _MADE, **_ONE_OF_THEM}]}
_ALLOWED = "allowed is a list, {range: [first, last]}, {glob: PATTERN} or {lines: FILE}"

Kind = Literal["list", "range", "glob", "lines"]


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

    def values(self, base: Path) -> Sequence[AxisValue]:
        """Return all values; a ValueError says that nothing matches, or why the file of lines cannot be read."""
        if self.kind == "range":
            return [AxisValue(str(number), number) for number in range(self.given[0], self.given[1] + 1)]
        if self.kind == "glob":
            return [AxisValue(name, ImagePath(name)) for name in _matches(self.given[0], base)]
        if self.kind == "lines":
            texts = lines_of(self.given[0], base)
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
    text = line_of_text(scalar(given, "a pattern" if kind == "glob" else "the path of a text file").text)
    if text is None:
        raise problem(f"found nothing; {_ALLOWED}")
    return kind, (text,)


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


def _matches(pattern: str, base: Path) -> list[str]:
    parts, shown = pattern.split("/"), f"the pattern {quoted(pattern)}"
    # What would walk the same folders over and over: `*/../*/../*`.
    if ".." in itertools.dropwhile(lambda part: not glob.has_magic(part), parts):
        raise ValueError(f"found .. behind a wildcard in {shown}; write it in front")
    if parts.count("**") > MAX_DEEP:
        raise ValueError(f"found more than {MAX_DEEP} ** in {shown}; one finds folders of any depth")
    if len(parts) > MAX_PARTS:
        raise ValueError(f"found {len(parts)} names in {shown}; allowed are at most {MAX_PARTS}")
    names = set()
    for name in _Walk(base, pattern).files():
        names.add(name)
        if len(names) > MAX_RANGE:
            raise ValueError(f"{shown} matches more than {MAX_RANGE} files")
    if not names:
        raise ValueError(f"no file matches {shown} beside the manifest")
    return sorted(names)


def _is(kind: Callable[[Any], bool], place: object) -> bool:
    """Whether a place is of a kind; not, where that cannot be seen."""
    with suppress(OSError):
        return kind(place)
    return False


class _Walk:
    """The files that a pattern means, found folder by folder within a bound of names looked at.

    As the shell has it: `*` takes no name that begins with a dot, `**` no such folder. In one place of the pattern no
    link to a folder is followed where that folder was entered before, so that links in a circle end; `**` enters what
    is no link first.
    """

    def __init__(self, base: Path, pattern: str) -> None:
        self._base = f"{base}/"
        self._pattern = pattern
        self._start = "/" if pattern.startswith("/") else ""
        self._parts = [part for part in pattern.split("/") if part]
        self._left = MAX_LOOKED_AT
        self._entered: set[tuple[int, int, int]] = set()  # position in the pattern, device, inode

    def files(self) -> Iterator[str]:
        """Yield the name of each, relative to the base unless the pattern is absolute; one may come twice."""
        return self._below(self._start, 0)

    def _below(self, place: str, at: int) -> Iterator[str]:
        """Yield what the parts from `at` on match in a folder, whose name ends in a slash or is empty."""
        part, last = self._parts[at], at + 1 == len(self._parts)
        if part == "**":
            for folder in self._deep(place, at):
                yield from self._matching(folder, "*", files=True) if last else self._below(folder, at + 1)
        elif last:
            yield from self._matching(place, part, files=True)
        else:
            for name in self._matching(place, part, files=False):
                if self._enters(name, at) or not Path(self._path(name)).is_symlink():
                    yield from self._below(f"{name}/", at + 1)

    def _matching(self, place: str, part: str, *, files: bool) -> Iterator[str]:
        """Yield the names of the files, or of the folders, in a folder that one part matches."""
        is_kind = os.DirEntry.is_file if files else os.DirEntry.is_dir
        if not glob.has_magic(part):
            here = Path(self._path(place + part))
            if _is(Path.is_file if files else Path.is_dir, here):
                yield place + part
            return
        for entry in self._entries(place):
            shown = entry.name.startswith(".") <= part.startswith(".")
            if shown and fnmatchcase(entry.name, part) and _is(is_kind, entry):
                yield place + entry.name

    def _path(self, place: str) -> str:
        return place if self._start else self._base + place

    def _deep(self, start: str, at: int) -> Iterator[str]:
        """Yield a folder and all below it that this `**` has not come to yet."""
        folders, links = deque([start]), deque[str]()
        while folders or links:
            place = (folders or links).popleft()
            if not self._enters(place, at):
                continue
            yield place
            for entry in self._entries(place):
                if not entry.name.startswith(".") and _is(os.DirEntry.is_dir, entry):
                    (links if entry.is_symlink() else folders).append(f"{place}{entry.name}/")

    def _enters(self, place: str, at: int) -> bool:
        """Whether this place of the pattern comes to a folder for the first time."""
        with suppress(OSError):
            found = Path(self._path(place)).stat()
            before = len(self._entered)
            self._entered.add((at, found.st_dev, found.st_ino))
            return len(self._entered) > before
        return False

    def _entries(self, place: str) -> list[os.DirEntry[str]]:
        """Return what is in a folder, in order; nothing where it cannot be read, as of any that does not match."""
        try:
            with os.scandir(self._path(place)) as entries:
                found = list(itertools.islice(entries, self._left + 1))
        except OSError:
            return []
        self._left -= len(found)
        if self._left < 0:
            message = f"more than {MAX_LOOKED_AT} names would have to be looked at for the pattern"
            raise ValueError(f"{message} {quoted(self._pattern)}; name the folder more closely")
        return sorted(found, key=lambda entry: entry.name)


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
    for rule in exclude:
        pairs = sorted((at[name], text) for name, text in rule.items())
        rules.setdefault(tuple(index for index, _ in pairs), set()).add(tuple(text for _, text in pairs))
    for single, tied in itertools.product(itertools.product(*values[:free]), together):
        combination = single + tied
        if not any(tuple(combination[index].text for index in indexes) in texts for indexes, texts in rules.items()):
            yield combination
