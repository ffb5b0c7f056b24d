"""Whether a large table is surely without fault, told from its lines at once instead of from its jobs one by one.

The rule: one pattern stands for a line of the table whose job cannot be faulty, made from what the entry does with each
column. When all lines match it, and no id comes twice, the expansion would report nothing. Anything else is no fault
but a doubt: then the jobs are made, one by one, and tell. A million rows take a second instead of twenty-five.

What is proven: cells as csv.reader would give them; ids that are words of ASCII, no device's name, and differ without
case; prompts that are not blank; references that are plain http(s) URLs; other fields by their converter, for each
value that comes. Doubtful from the start: a matrix, a template that needs Jinja, a file name that is not the default,
local references, a field that the style cannot carry, more than one entry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from batchflux.manifest.job_fields import MAX_ID
from batchflux.manifest.capability import resolve
from batchflux.manifest.compile import compile_entry
from batchflux.manifest.schema import DEFAULT_FILE_NAME
from batchflux.manifest.values import Template
from batchflux.manifest.job_fields import READERS, MAX_PROMPT
from batchflux.manifest.values import MAX_TEXT
from batchflux.manifest.fields import UNPRINTABLE
from batchflux.manifest.lines import CELL, Column, OddTable, chunks, line_pattern
from batchflux.manifest.seen import Distinct
from batchflux.manifest.tables import Unreadable, columns_of, delimiter_of, table_format
from batchflux.manifest.templates import parts_of
from batchflux.manifest.values import MAX_URL, is_url
from batchflux.manifest.job_fields import REQUEST_FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from batchflux.manifest.schema import Entry, Manifest
    from batchflux.models import Capabilities, Style

_COLUMNS = 200  # a pattern of many more is slow to make
_VALUES = 1000  # different values of a field that are tried one by one
_DEVICES = frozenset(
    ("con", "prn", "aux", "nul", *(f"{name}{digit}" for name in ("com", "lpt") for digit in range(10)))
)
_WORD = "[A-Za-z0-9_-]+"
_IN_PATH = "[A-Za-z0-9/._~%!$&'()*+;=:-]{0,2000}"
_ORIGIN = r"https?://[A-Za-z0-9-]{1,100}(?:\.[A-Za-z0-9-]{1,100}){0,10}"
_URL = f"{_ORIGIN}(?:/{_IN_PATH})?"
_START_OF_URL = re.compile(f"{_ORIGIN}/{_IN_PATH}")
_SEED = "(?:[-+]?[0-9]{1,18})?"
_VALUE = r"[A-Za-z0-9:. ]{0,40}"
_TRIED: Final = frozenset(("aspect_ratio", "output_format", "safety_tolerance", "prompt_upsampling", "variant"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Vetted:
    """A table without fault: how many rows it has, and the style that all its jobs go by."""

    rows: int
    style: Style


def vet(manifest: Manifest, styles: Mapping[str, Capabilities]) -> Vetted | None:
    """Return what is known of a manifest whose expansion would report no fault, or None: then it has to be expanded."""
    if len(manifest.entries) != 1 or manifest.output.file_name != DEFAULT_FILE_NAME:
        return None
    (entry,) = manifest.entries
    plan = compile_entry(entry, manifest, lambda _: None)
    if plan is None or not plan.bare or entry.source is None:
        return None
    try:
        style = _style(manifest, entry, styles)
        return Vetted(rows=_Line(entry, manifest.base / entry.source).go_through(), style=style)
    except (OddTable, Unreadable, OSError, UnicodeDecodeError):
        return None


def _style(manifest: Manifest, entry: Entry, styles: Mapping[str, Capabilities]) -> Style:
    wanted = entry.fields.get("style") or manifest.provider.style
    if isinstance(wanted, Template):
        raise OddTable
    style = resolve(wanted, (), styles)  # as for references that are all URLs
    if any(entry.fields.get(name) is not None for name in REQUEST_FIELDS if name not in styles[style].fields):
        raise OddTable
    return style


@dataclass(frozen=True, slots=True)
class _Form:
    """A plain template: a %-format and its columns."""

    form: str
    names: tuple[str, ...]

    @property
    def literals(self) -> list[str]:
        """What stands before, between and behind its columns."""
        return (self.form % (("\0",) * len(self.names))).split("\0")

    @property
    def text(self) -> str:
        """What it says without its columns."""
        return "".join(self.literals)


class _Line:
    """The pattern of a table's lines, and what is made of those that match."""

    def __init__(self, entry: Entry, path: Path) -> None:
        kind, zipped = table_format(path.name)
        if zipped or kind not in {".csv", ".tsv"}:
            raise OddTable
        self._path = path
        self._delimiter = delimiter_of(kind)
        self._columns = {name: Column() for name in columns_of(path) or ()}
        if len(self._columns) > _COLUMNS:
            raise OddTable
        self._id: _Form | None = None
        self._tried: list[tuple[_Form, Callable[[str], Any]]] = []
        for name, value in entry.fields.items():
            self._take(name, value)
        if any(column.filled and column.inner in {_IN_PATH, _SEED, _VALUE} for column in self._columns.values()):
            raise OddTable
        self._groups = [name for name, column in self._columns.items() if column.kept]

    def _take(self, name: str, value: Any) -> None:
        """Learn what one field asks of the columns in it."""
        if name == "images":
            for part in value:
                self._reference(part)
        elif name == "tags":
            for _, part in value:
                if isinstance(part, Template):
                    _bounded(_form(part), MAX_TEXT)
        elif isinstance(value, Template):
            self._templated(name, _form(value))

    def _templated(self, name: str, form: _Form) -> None:
        if name == "prompt":
            _bounded(form, MAX_PROMPT)
            if not form.text.strip():
                self._column(form.names[0]).filled = True
        elif name == "id" and re.fullmatch("[A-Za-z0-9_-]*", form.text):
            self._id = form
            self._want(form, _WORD, kept=True)
        elif name == "seed" and form.form == "%s":
            self._want(form, _SEED)
        elif name in _TRIED:
            self._want(form, _VALUE, kept=True)
            self._tried.append((form, READERS[name]))
        else:
            raise OddTable

    def _reference(self, part: str | Template) -> None:
        if isinstance(part, str):
            if not is_url(part):
                raise OddTable
            return
        form = _form(part)
        if form.form == "%s":
            self._want(form, _URL)
            return
        start, *others = form.literals
        plain = _START_OF_URL.fullmatch(start) and all(re.fullmatch(_IN_PATH, other) for other in others)
        if not plain:
            raise OddTable
        _bounded(form, MAX_URL)
        self._want(form, _IN_PATH)

    def _want(self, form: _Form, inner: str, *, kept: bool = False) -> None:
        for name in form.names:
            column = self._column(name)
            if column.inner not in {None, inner}:
                raise OddTable
            column.inner = inner
            column.kept = column.kept or kept

    def _column(self, name: str) -> Column:
        column = self._columns.get(name)
        if column is None:  # the header changed meanwhile
            raise OddTable
        return column

    def go_through(self) -> int:
        """Return how many rows there are.

        Raises:
            OddTable: one of them might be faulty; so raise all that follow.
            Unreadable, OSError: the table cannot be read.
            UnicodeDecodeError: it is not UTF-8.
        """
        ids, rows = Distinct(), 0
        values: list[set[Any]] = [set() for _ in self._tried]
        pattern: re.Pattern[str] | None = None
        for chunk in chunks(self._path, self._delimiter, list(self._columns)):
            if pattern is None:
                columns = list(self._columns.values())
                pattern = line_pattern(columns, self._delimiter, chunk[: chunk.index("\n") + 1])
            found = pattern.findall(chunk)
            if len(found) != chunk.count("\n"):
                raise OddTable
            rows += len(found)
            if self._id is not None:
                names = [name.lower() for name in self._rendered(self._id, found)]
                if max(map(len, names)) > MAX_ID or not _DEVICES.isdisjoint(names):
                    raise OddTable
                ids.add(names)
            for at, (form, _) in enumerate(self._tried):
                values[at].update(self._rendered(form, found))
                if len(values[at]) > _VALUES:
                    raise OddTable
        if not rows or not ids.are():
            raise OddTable
        self._try(values)
        return rows

    def _try(self, values: Sequence[set[Any]]) -> None:
        for (_, convert), found in zip(self._tried, values, strict=True):
            for text in found:
                try:
                    convert(text)
                except ValueError:
                    raise OddTable from None

    def _rendered(self, form: _Form, found: list[Any]) -> list[str]:
        """Return what a form gives for each line."""
        columns = [found] * len(form.names)
        if len(self._groups) > 1:
            columns = [[row[number] for row in found] for number in map(self._groups.index, form.names)]
        return columns[0] if form.form == "%s" else [form.form % row for row in zip(*columns, strict=True)]


def _form(template: Template) -> _Form:
    parts = parts_of(template.text)
    if parts is None or not parts[1]:
        raise OddTable
    return _Form(*parts)


def _bounded(form: _Form, most: int) -> None:
    """Doubt a text that might have more than `most` characters, or has one of its own that no text may have."""
    if len(form.text) + CELL * len(form.names) > most or UNPRINTABLE.search(form.form):
        raise OddTable
