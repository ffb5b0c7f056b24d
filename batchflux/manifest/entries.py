"""Entries: the elements of `jobs` with `defaults` merged in, and each made ready to turn rows into jobs.

A field of the entry wins over the default, also when it says null; tags and options are merged name by name; an axis
named like a field sets it, and is a fault beside the entry's own field. An entry with faults is kept, without them, if
nothing else in it depends on those fields. What is the same for all jobs of an entry is converted once.
"""

from __future__ import annotations

from contextlib import suppress
from math import prod
from typing import TYPE_CHECKING, Any

from batchflux.errors import ReadError, quoted
from batchflux.manifest.job_fields import AXIS_FIELDS, FIELD_NAMES, READERS, Split, job_id
from batchflux.manifest.matrix import MAX_COMBINATIONS, Axis, AxisValue, combinations, meaning, meanings
from batchflux.manifest.reading.diagnostics import (
    check_sound,
    entry_fault,
    file_name_fault,
    nearest,
    row_fault,
    unknown_variable,
)
from batchflux.manifest.reading.values import Template, is_nothing, is_template
from batchflux.manifest.reading.yaml_nodes import Items, KeyPath, Scalar, Table, found
from batchflux.manifest.rows import View, aliases, foreign, hint, tidied
from batchflux.manifest.schema import Entry, JobEntry, Manifest
from batchflux.manifest.templates import Compiled, ImagePath, Renderer, compile_template
from batchflux.tables import Given, opened, table_format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pydantic import BaseModel

    from batchflux.errors import Fault
    from batchflux.manifest.reading.diagnostics import Faults
    from batchflux.tables import Opened

APART = FIELD_NAMES - {"prompt", "style"}  # fields that nothing else in an entry depends on
_NAME_VARIABLES = frozenset({*READERS, "image", "images", "tags", "ext", "key"})
_PAIRS = ("tags", "options")
_OF_TABLE = ("encoding", "delimiter", "where", "skip_empty")
_NO_AXIS = frozenset({*_PAIRS, "webhook_secret", "row"})
_CHOICES = 4096  # combinations kept ready for all rows; more are made anew for each row

Choice = tuple[dict[str, Any], dict[str, Any]]  # of axis values: what templates see, and the fields that are set
Fields = tuple[dict[str, Any], dict[str, int]]  # the fields that a part sets, and their lines


def read_entries(root: Table, defaults: BaseModel, faults: Faults) -> tuple[Entry, ...]:
    """Return all entries that can be judged further, after noting what is wrong with any."""
    jobs = root.pairs.get("jobs")
    if jobs is None or is_nothing(jobs):
        faults.add(root.line if jobs is None else jobs.line, ("jobs",), "is missing; add a list of jobs")
        return ()
    if not isinstance(jobs, Items):
        faults.add(jobs.line, ("jobs",), f"found {found(jobs)}; allowed is a list of jobs")
        return ()
    if not jobs.items:
        faults.add(jobs.line, ("jobs",), "the list is empty; add at least one job")
    base = _fields(defaults, root.pairs.get("defaults"), ("defaults",), faults)
    made = []
    for index, node in enumerate(jobs.items):
        if isinstance(node, Scalar):
            faults.add(node.line, ("jobs", index), f"found {found(node)}; a job is a mapping, as {{prompt: A red mug}}")
            continue
        model, bad = check_sound(JobEntry, node, ("jobs", index), faults)
        if bad <= APART and isinstance(node, Table):
            made.append(_entry(index, model, node, base, faults))
    _unique_ids(jobs, faults)
    return tuple(made)


def _fields(model: BaseModel, table: object, path: KeyPath, faults: Faults) -> Fields:
    """Return the job fields that a part sets, and where; `image` counts as `images`."""
    if not isinstance(table, Table):
        return {}, {}
    given = model.model_fields_set & FIELD_NAMES
    if {"image", "images"} <= given:
        faults.add(table.lines["image"], (*path, "image"), "image and images stand here both; keep one of them")
    names = {key: "images" if key == "image" else key for key in table.lines if key in given}
    return (
        {name: getattr(model, key) for key, name in names.items()},
        {name: table.lines[key] for key, name in names.items()},
    )


def _entry(index: int, model: Any, node: Table, base: Fields, faults: Faults) -> Entry:
    path: KeyPath = ("jobs", index)
    own, own_lines = _fields(model, node, path, faults)
    axes = (*_axes_of(node, "matrix", model.matrix), *_axes_of(node, "zip", model.zipped))
    values, lines = {**base[0], **own}, {**node.lines, **base[1], **own_lines}
    for pairs in _PAIRS:
        if pairs in own and pairs in base[0]:
            values[pairs] = tuple({**dict(base[0][pairs]), **dict(own[pairs])}.items())
    for axis in axes:
        name = "images" if axis.name == "image" else axis.name
        if axis.name in AXIS_FIELDS:
            if name in own:
                message = f"the job sets {name} itself; remove it there, or give the axis another name"
                faults.add(axis.line, (*path, axis.place, axis.name), message)
            values.pop(name, None)
            lines[name] = axis.line
    _needs_rows(model, node, path, faults)
    _needs_table(model, node, path, faults)
    return Entry(
        index=index,
        line=node.line,
        fields={name: value for name, value in values.items() if value is not None},
        lines=lines,
        source=model.source,
        given=Given(model.encoding, model.delimiter),
        where=model.where,
        allow_empty=model.allow_empty,
        skip_empty=model.skip_empty,
        axes=axes,
        exclude=tuple(model.exclude),
        names_provider=own.get("provider") is not None or any(axis.name == "provider" for axis in axes),
    )


def _axes_of(node: Table, key: str, specs: Mapping[str, Any]) -> Iterator[Axis]:
    table = node.pairs.get(key)
    places = table.lines if isinstance(table, Table) else {}
    for name, (kind, given) in specs.items():
        yield Axis(name=name, kind=kind, given=given, line=places[name], zipped=key == "zip")


def _needs_table(model: Any, node: Table, path: KeyPath, faults: Faults) -> None:
    """Note what is said of a table where there is none."""
    for key in _OF_TABLE if model.source is None else ():
        if key in node.pairs and not is_nothing(node.pairs[key]):
            faults.add(node.lines[key], (*path, key), "is said of a table, and there is none; add from, or remove it")


def _needs_rows(model: Any, node: Table, path: KeyPath, faults: Faults) -> None:
    """Note `exclude` without a matrix, and one id for many jobs, which are mistakes for certain."""
    if any(not rule for rule in model.exclude):
        faults.add(node.lines["exclude"], (*path, "exclude"), "an empty exclusion would leave nothing; name axes in it")
    if model.exclude and not (model.matrix or model.zipped):
        faults.add(node.lines["exclude"], (*path, "exclude"), "there is no matrix to exclude from; remove exclude")
    many = model.source is not None or model.matrix or model.zipped
    if model.id is not None and not isinstance(model.id, Template) and many:
        message = f'found {quoted(model.id)}, the same for all jobs of this entry; use a template, as "{{{{ name }}}}"'
        faults.add(node.lines["id"], (*path, "id"), message)


def _unique_ids(jobs: Items, faults: Faults) -> None:
    """Note ids that are written twice, also those of entries that have other faults."""
    first: dict[str, int] = {}
    for index, node in enumerate(jobs.items):
        written = node.pairs.get("id") if isinstance(node, Table) else None
        if not isinstance(node, Table) or not isinstance(written, Scalar) or written.is_null:
            continue
        with suppress(ValueError):  # it is no id, which is noted already
            if not is_template(written.text) and job_id(written.text) is not None:
                earlier = first.setdefault(written.text, index)
                if earlier != index:
                    at = f"by jobs[{earlier}] on line {jobs.items[earlier].line}"
                    message = f"the id {quoted(written.text)} is used {at} too; ids must differ"
                    faults.add(node.lines["id"], ("jobs", index, "id"), message)


class Plan:
    """An entry ready for rows; not `sound` when it has faults, which are reported then.

    `constants` are its values, `dynamic` the fields to render. Of what has templates among its items `images` and
    `pairs` (tags, options) have each item with its name in messages: it is what it is, or Compiled; `split` says that a
    text of `images` lists several. `bare` says that a row's columns are all that templates read. `table` is what the
    rows come from, `view` what templates see of them.
    """

    def __init__(self, entry: Entry, manifest: Manifest, report: Callable[[Fault], None]) -> None:
        self.entry = entry
        self.sound = True
        self.constants: dict[str, Any] = {"provider": manifest.provider.name, **dict.fromkeys(("images", *_PAIRS), ())}
        self.dynamic: list[tuple[str, Compiled, Renderer, Callable[[str], Any]]] = []
        self.images: list[tuple[str, str | Compiled]] = []
        self.split = False
        self.pairs: list[tuple[str, list[tuple[str, str, Any]]]] = []
        self._manifest = manifest
        self._to = report
        self._read: set[str] = set()  # the variables that templates read
        self.table = self._opened(entry)
        columns = () if entry.source is None else self.table.source.columns if self.table is not None else None
        self._columns = columns or ()
        self._values = self._axes(columns or ())
        self._names = [axis.name for axis in entry.axes]
        self._paired = sum(axis.zipped for axis in entry.axes)
        self._check_matrix()
        # The variables there are; None: each row has its own.
        self._known: frozenset[str] | None = None
        if columns is not None:
            of_rows = () if entry.source is None else (*columns, *aliases(columns), "row")
            self._known = frozenset({*of_rows, *self._names})
        self._compile()
        where = self._where(entry.where)
        if "prompt" not in entry.fields and "prompt" not in self._names:
            self._report("prompt", "is missing; a job needs a prompt", entry.line)
        # The syntax of the file name is checked once, where the manifest is loaded.
        reads = compile_template(manifest.output.file_name, file_name=True).names
        self.bare = not entry.axes and "row" not in self._read | reads
        self.view = View(self._read | reads, columns, where)
        known = reads if self._known is None else self._known | _NAME_VARIABLES
        for name in sorted(reads - known):
            self._tell(file_name_fault(manifest, unknown_variable(name, known)))
        del self._to  # the expansion's: a cycle would keep what that knows of a million jobs

    def choices(self) -> Iterable[Choice]:
        """Return the combinations of axis values in order, as a list when they are few enough to keep for all rows."""
        made = self._each_choice()
        return list(made) if self._many() <= _CHOICES else made

    def _many(self) -> int:
        """Return how many combinations there are."""
        sizes = [*map(len, self._values)]
        free = len(sizes) - self._paired
        return prod(sizes[:free]) * prod(sizes[free : free + 1])

    def _each_choice(self) -> Iterator[Choice]:
        for combination in combinations(self._names, self._values, self.entry.exclude, self._paired):
            pairs = list(zip(self._names, combination, strict=True))
            fields = dict(value.field(name) for name, value in pairs if name in AXIS_FIELDS)
            yield {name: value.value for name, value in pairs}, fields

    def _tell(self, fault: Fault) -> None:
        self.sound = False
        self._to(fault)

    def _report(self, key: str, message: str, line: int | None = None) -> None:
        self._tell(entry_fault(self._manifest, self.entry, key, message, line))

    def _opened(self, entry: Entry) -> Opened | None:
        if (source := entry.source) is None:
            return None
        try:
            table_format(source)
            return opened(self._manifest.path_of(source), entry.given)
        except ReadError as error:
            self._tell(row_fault(self._manifest, self.entry, error.line, "from", error.message))
        except ValueError as error:
            self._report("from", str(error))
        return None

    def _axes(self, columns: Sequence[str]) -> tuple[Sequence[AxisValue], ...]:
        """Return the values of all axes; none when their product is beyond what anybody can mean, or make."""
        axes = self.entry.axes
        values: list[Sequence[AxisValue]] = []
        single, pairs = [axis for axis in axes if not axis.zipped], [axis for axis in axes if axis.zipped]
        if prod(axis.least() for axis in (*single, *pairs[:1])) <= MAX_COMBINATIONS:
            values = [self._axis(axis, columns) for axis in axes]
        together = values[len(single) :]
        if (not values and axes) or prod(map(len, (*values[: len(single)], *together[:1]))) > MAX_COMBINATIONS:
            self._report("matrix", f"has more than {MAX_COMBINATIONS} combinations; split the job, or take values out")
            return ()
        if len({len(of_one) for of_one in together}) > 1:
            sizes = ", ".join(f"{axis.name} has {len(of_one)}" for axis, of_one in zip(pairs, together, strict=True))
            self._report("zip", f"its values go together, so there must be as many of each; {sizes}")
        return tuple(values)

    def _axis(self, axis: Axis, columns: Sequence[str]) -> Sequence[AxisValue]:
        key = f"{axis.place}.{axis.name}"
        if axis.name in _NO_AXIS:
            self._report(key, f"{axis.name} cannot be an axis; give the axis another name", axis.line)
            return ()
        if not axis.name.isidentifier():
            self._report(key, "an axis is named like a variable: letters, digits and _, no digit first", axis.line)
        if axis.name in columns:
            self._report(key, "the table has a column of this name too; rename one of them", axis.line)
        values: Sequence[AxisValue] = ()
        try:
            values = axis.values(self._manifest)
        except ValueError as error:
            self._report(key, str(error), axis.line)
        for value in values if axis.name in AXIS_FIELDS else ():
            try:
                value.field(axis.name)
            except ValueError as error:
                style = "; style is the call style, so name the axis otherwise, as look" if axis.name == "style" else ""
                self._report(key, f"{error}{style}", axis.line)
                if style:
                    break
        return values

    def _check_matrix(self) -> None:
        if {"image", "images"} <= set(self._names):
            self._report("matrix", "image and images are the same field; keep one axis")
        if both := {name for name in self._names if self._names.count(name) > 1}:
            self._report("zip", f"{quoted(min(both))} is an axis of matrix too; keep one of them")
        for index, rule in enumerate(self.entry.exclude):
            for name in rule:
                if name not in self._names and self._names:
                    self._report(f"exclude[{index}]", f"{quoted(name)} is no axis; {nearest(name, self._names)}")
        self._check_excluded()

    def _check_excluded(self) -> None:
        """Report what is to be left out and is not there: what was meant would be made, and paid for."""
        for axis, values in zip(self.entry.axes, self._values, strict=False):
            rules = [(index, rule[axis.name]) for index, rule in enumerate(self.entry.exclude) if axis.name in rule]
            known = meanings(axis.name, values) if rules else {}
            for index, text in rules:
                if known and meaning(axis.name, text) not in known and (meant := _meant(axis, values, text)):
                    self._report(f"exclude[{index}]", f"{quoted(text)} is no value of {axis.name}; {meant}")

    def _named(self) -> Iterator[str]:
        """Yield the names of columns and axes; the columns of the first row where each has its own."""
        yield from (*self._columns, *self._names)
        if self.table is not None and self.table.source.columns is None:
            with suppress(ReadError):  # which is told when the rows are read
                yield from next((row for _, row in self.table.source.rows(lambda *_: None)), ())

    def _compile(self) -> None:
        prompt = self.entry.fields.get("prompt", "")
        said = foreign(prompt.text if isinstance(prompt, Template) else prompt or "", self._named())
        if said is not None:
            self._report("prompt", said)
        for name, value in self.entry.fields.items():
            if isinstance(value, Template):
                compiled = self._compiled(name, value.text, self._known)
                if compiled is not None:
                    self.dynamic.append((name, compiled, compiled.render, tidied(name, READERS[name])))
            elif name == "images" and any(isinstance(item, Template) for item in value):
                self.split = any(isinstance(item, Split) for item in value)
                keys = [f"images[{at}]" for at in range(len(value))]
                self.images = [(key, self._part(key, item)) for key, item in zip(keys, value, strict=True)]
            elif name in _PAIRS and any(isinstance(item, Template) for _, item in value):
                keyed = [(label, f"{name}.{label}", item) for label, item in value]
                self.pairs.append((name, [(label, key, self._part(key, item)) for label, key, item in keyed]))
            else:
                self.constants[name] = value

    def _part(self, key: str, item: Any) -> Any:
        if not isinstance(item, Template):
            return item
        return self._compiled(key, item.text, self._known) or item

    def _compiled(self, key: str, text: str, known: frozenset[str] | None) -> Compiled | None:
        """Compile a template that may read what is known (None: anything); report what is wrong with it."""
        said = hint(text, self._columns)
        try:
            compiled = compile_template(text)
        except ValueError as error:
            self._report(key, said or str(error))
            return None
        self._read |= compiled.names
        for name in sorted(compiled.names - known if known is not None else ()):
            self._report(key, said or unknown_variable(name, known or ()))
        return compiled

    def _where(self, text: str | None) -> Renderer | None:
        known = None if self._known is None else self._known - {*self._names} | {*self._columns}
        compiled = None if text is None else self._compiled("where", text, known)
        return None if compiled is None else compiled.render


def _meant(axis: Axis, values: Sequence[AxisValue], text: str) -> str | None:
    """Return what an exclusion of no value of an axis may mean; None of a file or line that may have gone."""
    if axis.kind == "range":
        return f"allowed is {axis.given[0]} to {axis.given[1]}"
    if axis.kind == "list":
        return nearest(text, (value.text for value in values))
    paths = (value.value for value in values if isinstance(value.value, ImagePath))
    path = next((path for path in paths if text in {path.name, path.stem}), None)
    return None if path is None else f"write {quoted(path)}"
