"""An entry of `jobs`, made ready to turn rows into jobs; every fault that needs no row is found here.

The rule: what is the same for all jobs of an entry is converted once; only templated fields are left for each row.
A template may read the table's columns, the axes and `row`; an axis named like a job field sets that field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchflux.manifest.axes import AxisValue, Combination, axis_values, combinations
from batchflux.manifest.check import nearest
from batchflux.manifest.config import Axis, Entry, Manifest, Template
from batchflux.manifest.fields import CONVERTERS, reference, tag
from batchflux.manifest.sources import Unreadable, columns_of, table_format
from batchflux.manifest.templates import Renderer, compile_template
from batchflux.manifest.tree import quoted

JOB_FIELDS = (*CONVERTERS, "images", "webhook_secret", "tags")
AXIS_FIELDS = {**dict.fromkeys(CONVERTERS), "image": None, "images": None}
NAME_VARIABLES = frozenset({*CONVERTERS, "image", "images", "tags", "ext", "key"})
_NO_AXIS = frozenset({"tags", "webhook_secret", "row"})
_CHOICES = 4096  # combinations kept ready for all rows; more are made anew for each row

Convert = Callable[[str], Any]
Report = Callable[[int, str, str], None]  # line of the manifest, key below the entry, message
Part = str | Renderer  # a text, or what renders it


@dataclass(frozen=True, slots=True)
class Choice:
    """One combination of axis values: what templates see, and the fields it sets."""

    variables: dict[str, Any]
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An entry ready for rows. `dynamic` are the fields to render: name, renderer, converter."""

    entry: Entry
    columns: tuple[str, ...] | None = ()
    constants: dict[str, Any] = field(default_factory=dict)
    dynamic: tuple[tuple[str, Renderer, Convert], ...] = ()
    images: tuple[Part, ...] = ()
    tags: tuple[tuple[str, Part], ...] = ()
    axes: tuple[Axis, ...] = ()
    values: tuple[Sequence[AxisValue], ...] = ()

    def choices(self) -> Sequence[Choice] | None:
        """All combinations, or None when they are too many to keep."""
        count = 1
        for values in self.values:
            count *= len(values)
        return list(self.each_choice()) if count <= _CHOICES else None

    def each_choice(self) -> Iterator[Choice]:
        """The combinations in order, one at a time."""
        names = [axis.name for axis in self.axes]
        for combination in combinations(names, self.values, self.entry.exclude):
            yield self._choice(names, combination)

    def _choice(self, names: list[str], combination: Combination) -> Choice:
        pairs = list(zip(names, combination, strict=True))
        variables = {name: value.value for name, value in pairs}
        fields: dict[str, Any] = {}
        for name, value in pairs:
            if name in AXIS_FIELDS:
                target, converted = _axis_field(name, value)
                fields[target] = converted
        return Choice(variables, fields)


def _axis_field(name: str, value: AxisValue) -> tuple[str, Any]:
    if name in {"image", "images"}:
        sources = [reference(text) for text in (value.parts if value.parts is not None else (value.text,))]
        return "images", tuple(source for source in sources if source is not None)
    if value.parts is not None:
        raise ValueError(f"found a list; an axis of {name} has single values")
    return name, CONVERTERS[name](value.text)


def compile_entry(
    entry: Entry, manifest: Manifest, report: Report, on_table: Callable[[Unreadable], None]
) -> Plan | None:
    """Make an entry ready.

    Args:
        entry: the entry, its own fields already checked.
        manifest: where it stands.
        report: told of each fault in the manifest.
        on_table: told when the table that `from` names cannot be read.

    Returns:
        None after at least one fault.
    """
    return _Compiler(entry, manifest, report).run(on_table)


class _Compiler:
    def __init__(self, entry: Entry, manifest: Manifest, report: Report) -> None:
        self._entry = entry
        self._manifest = manifest
        self._tell = report
        self._failed = False
        self._known: frozenset[str] | None = frozenset()

    def _report(self, key: str, message: str, line: int | None = None) -> None:
        self._failed = True
        at = self._entry.lines.get(key.split(".", maxsplit=1)[0], self._entry.line) if line is None else line
        self._tell(at, key, message)

    def run(self, on_table: Callable[[Unreadable], None]) -> Plan | None:
        columns = self._columns(on_table) if self._entry.source is not None else ()
        values = tuple(self._axis(axis) for axis in self._entry.axes)
        self._check_axes(columns)
        names = {axis.name for axis in self._entry.axes}
        if self._entry.source is not None:
            names.add("row")
        self._known = None if columns is None else frozenset({*columns, *names})
        plan = self._fields(columns, values)
        if "prompt" not in plan.constants and "prompt" not in names and not any(d[0] == "prompt" for d in plan.dynamic):
            self._report("prompt", "is missing; a job needs a prompt", self._entry.line)
        self._file_name()
        return None if self._failed else plan

    def _columns(self, on_table: Callable[[Unreadable], None]) -> tuple[str, ...] | None:
        source = self._entry.source or ""
        try:
            table_format(source)
            return columns_of(self._manifest.base / source)
        except ValueError as error:
            self._report("from", str(error))
        except Unreadable as error:
            self._failed = True
            on_table(error)
        return None

    def _axis(self, axis: Axis) -> Sequence[AxisValue]:
        key = f"matrix.{axis.name}"
        if axis.name in _NO_AXIS:
            self._report(key, f"{axis.name} cannot be an axis; give the axis another name", axis.line)
            return ()
        try:
            values = axis_values(axis, self._manifest.base)
        except ValueError as error:
            self._report(key, str(error), axis.line)
            return ()
        if axis.name in AXIS_FIELDS:
            for value in values:
                try:
                    _axis_field(axis.name, value)
                except ValueError as error:
                    self._report(key, str(error), axis.line)
        return values

    def _check_axes(self, columns: tuple[str, ...] | None) -> None:
        names = [axis.name for axis in self._entry.axes]
        if "image" in names and "images" in names:
            self._report("matrix", "image and images are the same field; keep one axis")
        for axis in self._entry.axes:
            if axis.name in (columns or ()):
                message = f"the table has a column of the name {quoted(axis.name)} too; rename one of them"
                self._report(f"matrix.{axis.name}", message, axis.line)
        for index, rule in enumerate(self._entry.exclude):
            for name in rule:
                if name not in names:
                    self._report(f"exclude[{index}]", f"{quoted(name)} is no axis; {nearest(name, names)}")

    def _fields(self, columns: tuple[str, ...] | None, values: tuple[Sequence[AxisValue], ...]) -> Plan:
        constants: dict[str, Any] = {}
        dynamic: list[tuple[str, Renderer, Convert]] = []
        images: tuple[Part, ...] = ()
        tags: tuple[tuple[str, Part], ...] = ()
        for name, value in self._entry.fields.items():
            if name == "images":
                images = tuple(self._part(f"images[{at}]", item) for at, item in enumerate(value))
            elif name == "tags":
                tags = tuple((label, self._part(f"tags.{label}", item)) for label, item in value)
            elif isinstance(value, Template):
                dynamic.append((name, self._renderer(name, value), CONVERTERS[name]))
            else:
                constants[name] = value
        return Plan(
            entry=self._entry,
            columns=columns,
            constants=constants,
            dynamic=tuple(dynamic),
            images=images,
            tags=tags,
            axes=self._entry.axes,
            values=values,
        )

    def _part(self, key: str, item: str | Template) -> Part:
        return self._renderer(key, item) if isinstance(item, Template) else item

    def _renderer(self, key: str, template: Template) -> Renderer:
        try:
            compiled = compile_template(template.text)
        except ValueError as error:
            self._report(key, str(error))
            return _nothing
        self._check_names(key, compiled.names, self._known)
        return compiled.render

    def _check_names(self, key: str, names: frozenset[str], known: frozenset[str] | None) -> None:
        for name in sorted(names - known if known is not None else ()):
            self._report(key, unknown_variable(name, known or ()))

    def _file_name(self) -> None:
        """The file name's variables, for this entry; its syntax is checked once, where the manifest is loaded."""
        compiled = compile_template(self._manifest.output.file_name, file_name=True)
        if self._known is not None:
            for name in sorted(compiled.names - self._known - NAME_VARIABLES):
                known = self._known | NAME_VARIABLES
                self._report("", f"output.file_name: {unknown_variable(name, known)}")


def unknown_variable(name: str, known: Any) -> str:
    """The message for a variable that does not exist."""
    if not known:
        return f"the variable {quoted(name)} does not exist; there are none, for the job has neither from nor matrix"
    return f"the variable {quoted(name)} does not exist; {nearest(name, known)}"


def _nothing(_: Any) -> str:
    return ""


CONVERT_IMAGE: Convert = reference
CONVERT_TAG: Convert = tag
