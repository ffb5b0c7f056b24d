"""An entry of `jobs`, made ready to turn rows into jobs; every fault that needs no row is found here.

The rule: what is the same for all jobs of an entry is converted once; only templated fields are left for each row.
A template may read the table's columns, the axes and `row`; an axis named like a job field sets that field.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from batchflux.manifest.axes import AXIS_FIELDS, axis_field, axis_values, least_size
from batchflux.manifest.matrix import MAX_COMBINATIONS, AxisValue, combinations
from batchflux.manifest.diagnostics import nearest
from batchflux.manifest.matrix import Axis
from batchflux.manifest.schema import Entry, Manifest
from batchflux.manifest.values import Template
from batchflux.manifest.job_fields import READERS
from batchflux.manifest.places import entry_fault, file_name_fault, row_fault
from batchflux.manifest.tables import Unreadable, columns_of, table_format
from batchflux.manifest.templates import Renderer, compile_template
from batchflux.manifest.yaml_nodes import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from batchflux.errors import Fault

NAME_VARIABLES = frozenset({*READERS, "image", "images", "tags", "ext", "key"})
_NO_AXIS = frozenset({"tags", "webhook_secret", "row"})
_CHOICES = 4096  # combinations kept ready for all rows; more are made anew for each row

Part = str | Renderer  # a text, or what renders it


@dataclass(frozen=True, slots=True)
class Choice:
    """One combination of axis values: what templates see, and the fields it sets."""

    variables: dict[str, Any]
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An entry ready for rows.

    `dynamic` are the fields to render (name, renderer, converter); `bare` says that a row's columns are all that its
    templates read.
    """

    entry: Entry
    constants: dict[str, Any] = field(default_factory=dict)
    dynamic: tuple[tuple[str, Renderer, Callable[[str], Any]], ...] = ()
    images: tuple[Part, ...] = ()
    tags: tuple[tuple[str, Part], ...] = ()
    values: tuple[Sequence[AxisValue], ...] = ()
    bare: bool = False

    def choices(self) -> Sequence[Choice] | None:
        """All combinations, or None when they are too many to keep."""
        count = 1
        for values in self.values:
            count *= len(values)
        return list(self.each_choice()) if count <= _CHOICES else None

    def each_choice(self) -> Iterator[Choice]:
        """The combinations in order, one at a time."""
        names = [axis.name for axis in self.entry.axes]
        for combination in combinations(names, self.values, self.entry.exclude):
            pairs = list(zip(names, combination, strict=True))
            fields = dict(axis_field(name, value) for name, value in pairs if name in AXIS_FIELDS)
            yield Choice({name: value.value for name, value in pairs}, fields)


def compile_entry(entry: Entry, manifest: Manifest, report: Callable[[Fault], None]) -> Plan | None:
    """Make an entry ready, or report at least one fault and return None."""
    return _Compiler(entry, manifest, report).run()


class _Compiler:
    def __init__(self, entry: Entry, manifest: Manifest, report: Callable[[Fault], None]) -> None:
        self._entry = entry
        self._manifest = manifest
        self._tell = report
        self._failed = False
        self._known: frozenset[str] | None = frozenset()  # the variables there are; None: each row has its own
        self._read: set[str] = set()  # the variables that templates read

    def _report(self, key: str, message: str, line: int | None = None) -> None:
        self._failed = True
        self._tell(entry_fault(self._manifest, self._entry, key, message, line))

    def run(self) -> Plan | None:
        entry = self._entry
        columns = self._columns(entry.source) if entry.source is not None else ()
        values = self._axes(columns or ())
        names = {axis.name for axis in entry.axes}
        self._check_matrix(names)
        variables = names | {"row"} if entry.source is not None else names
        self._known = None if columns is None else frozenset({*columns, *variables})
        plan = self._fields(values)
        if "prompt" not in entry.fields and "prompt" not in names:
            self._report("prompt", "is missing; a job needs a prompt", entry.line)
        self._file_name()
        return None if self._failed else plan

    def _columns(self, source: str) -> tuple[str, ...] | None:
        try:
            table_format(source)
            return columns_of(self._manifest.base / source)
        except ValueError as error:
            self._report("from", str(error))
        except Unreadable as error:
            self._failed = True
            self._tell(row_fault(self._manifest, self._entry, error.line, "from", error.message))
        return None

    def _axes(self, columns: Sequence[str]) -> tuple[Sequence[AxisValue], ...]:
        """The values of all axes; none when their product is beyond what anybody can mean, or make."""
        axes = self._entry.axes
        values: list[Sequence[AxisValue]] = []
        if prod(map(least_size, axes)) <= MAX_COMBINATIONS:
            values = [self._axis(axis, columns) for axis in axes]
        if (not values and axes) or prod(map(len, values)) > MAX_COMBINATIONS:
            self._report("matrix", f"has more than {MAX_COMBINATIONS} combinations; split the job, or take values out")
            return ()
        return tuple(values)

    def _axis(self, axis: Axis, columns: Sequence[str]) -> Sequence[AxisValue]:
        key = f"matrix.{axis.name}"
        if axis.name in _NO_AXIS:
            self._report(key, f"{axis.name} cannot be an axis; give the axis another name", axis.line)
            return ()
        if not axis.name.isidentifier():
            self._report(key, "an axis is named like a variable: letters, digits and _, no digit first", axis.line)
        if axis.name in columns:
            self._report(key, "the table has a column of this name too; rename one of them", axis.line)
        try:
            values = axis_values(axis, self._manifest.base)
        except ValueError as error:
            self._report(key, str(error), axis.line)
            return ()
        for value in values if axis.name in AXIS_FIELDS else ():
            try:
                axis_field(axis.name, value)
            except ValueError as error:
                self._report(key, str(error), axis.line)
        return values

    def _check_matrix(self, names: set[str]) -> None:
        if {"image", "images"} <= names:
            self._report("matrix", "image and images are the same field; keep one axis")
        for index, rule in enumerate(self._entry.exclude):
            for name in rule:
                if name not in names and names:
                    self._report(f"exclude[{index}]", f"{quoted(name)} is no axis; {nearest(name, names)}")

    def _fields(self, values: tuple[Sequence[AxisValue], ...]) -> Plan:
        constants: dict[str, Any] = {}
        dynamic: list[tuple[str, Renderer, Callable[[str], Any]]] = []
        images: tuple[Part, ...] = ()
        tags: tuple[tuple[str, Part], ...] = ()
        for name, value in self._entry.fields.items():
            if name == "images":
                images = tuple(self._part(f"images[{at}]", item) for at, item in enumerate(value))
            elif name == "tags":
                tags = tuple((label, self._part(f"tags.{label}", item)) for label, item in value)
            elif isinstance(value, Template):
                dynamic.append((name, self._renderer(name, value), READERS[name]))
            else:
                constants[name] = value
        return Plan(
            entry=self._entry,
            constants=constants,
            dynamic=tuple(dynamic),
            images=images,
            tags=tags,
            values=values,
            bare=not self._entry.axes and "row" not in self._read and "row" not in self._name().names,
        )

    def _part(self, key: str, item: str | Template) -> Part:
        return self._renderer(key, item) if isinstance(item, Template) else item

    def _renderer(self, key: str, template: Template) -> Renderer:
        try:
            compiled = compile_template(template.text)
        except ValueError as error:
            self._report(key, str(error))
            return str
        self._read |= compiled.names
        for name in sorted(compiled.names - self._known if self._known is not None else ()):
            self._report(key, unknown_variable(name, self._known or ()))
        return compiled.render

    def _name(self) -> Any:
        return compile_template(self._manifest.output.file_name, file_name=True)

    def _file_name(self) -> None:
        """The file name's variables, for this entry; its syntax is checked once, where the manifest is loaded."""
        if self._known is None:
            return
        known = self._known | NAME_VARIABLES
        for name in sorted(self._name().names - known):
            self._failed = True
            self._tell(file_name_fault(self._manifest, unknown_variable(name, known)))


def unknown_variable(name: str, known: Any) -> str:
    """The message for a variable that does not exist."""
    if not known:
        return f"the variable {quoted(name)} does not exist; there are none, for the job has neither from nor matrix"
    return f"the variable {quoted(name)} does not exist; {nearest(name, known)}"
