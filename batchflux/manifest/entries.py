"""Elements of `jobs` with `defaults` merged in.

The rule: a field of the entry wins over the default, also when it says null; tags are merged name by name; an axis
named like a field wins over the default and is a fault beside the entry's own field. An entry with faults is kept,
without them, as long as they are in fields that nothing else in it depends on: then its other faults are told too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchflux.manifest.axes import AXIS_FIELDS
from batchflux.manifest.check import check_sound
from batchflux.manifest.matrix import Axis
from batchflux.manifest.schema import Entry
from batchflux.manifest.values import Template
from batchflux.manifest.job_fields import READERS
from batchflux.manifest.fields import job_id
from batchflux.manifest.values import is_template
from batchflux.manifest.schema import Defaults, JobEntry
from batchflux.manifest.yaml_nodes import Items, Scalar, Table, found, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.manifest.diagnostics import Faults
    from batchflux.manifest.check import Path

APART = frozenset({*READERS, "image", "images", "webhook_secret", "tags"}) - {"prompt", "style"}
_NOT_FIELDS = frozenset({"source", "matrix", "exclude"})


def read_entries(root: Table, defaults: Defaults, faults: Faults) -> tuple[Entry, ...]:
    """All entries that can be judged further, after noting what is wrong with any."""
    jobs = root.pairs.get("jobs")
    if jobs is None or (isinstance(jobs, Scalar) and jobs.is_null):
        faults.add(root.line if jobs is None else jobs.line, ("jobs",), "is missing; add a list of jobs")
        return ()
    if not isinstance(jobs, Items):
        faults.add(jobs.line, ("jobs",), f"found {found(jobs)}; allowed is a list of jobs")
        return ()
    if not jobs.items:
        faults.add(jobs.line, ("jobs",), "the list is empty; add at least one job")
    table = root.pairs.get("defaults")
    base = _fields(defaults, table, ("defaults",), faults)
    made = []
    for index, node in enumerate(jobs.items):
        model, bad = check_sound(JobEntry, node, ("jobs", index), faults)
        if bad <= APART and isinstance(node, Table):
            made.append(_entry(index, model, node, base, faults))
    _unique_ids(jobs, faults)
    return tuple(made)


Given = tuple[dict[str, Any], dict[str, int]]


def _fields(model: Defaults, table: object, path: Path, faults: Faults) -> Given:
    """The job fields that a part sets, and where; `image` counts as `images`."""
    if not isinstance(table, Table):
        return {}, {}
    given = model.model_fields_set - _NOT_FIELDS
    if "image" in given and "images" in given:
        faults.add(table.lines["image"], (*path, "image"), "image and images stand here both; keep one of them")
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key, line in table.lines.items():
        if key not in given:
            continue
        value = getattr(model, key)
        name = "images" if key == "image" else key
        values[name] = tuple(value.items()) if name == "tags" else value
        lines[name] = line
    if values.get("images", ()) is None:
        values["images"] = ()
    return values, lines


def _entry(index: int, model: JobEntry, node: Table, base: Given, faults: Faults) -> Entry:
    path: Path = ("jobs", index)
    own, own_lines = _fields(model, node, path, faults)
    axes = _axes(model.matrix, node)
    values, lines = {**base[0], **own}, {**node.lines, **base[1], **own_lines}
    if "tags" in own and "tags" in base[0]:
        values["tags"] = tuple({**dict(base[0]["tags"]), **dict(own["tags"])}.items())
    for axis in axes:
        name = "images" if axis.name == "image" else axis.name
        if axis.name in AXIS_FIELDS:
            if name in own:
                message = f"the job sets {name} itself; remove it there, or give the axis another name"
                faults.add(axis.line, (*path, "matrix", axis.name), message)
            values.pop(name, None)
            lines[name] = axis.line
    _needs_rows(model, node, path, faults)
    fields = {name: value for name, value in values.items() if value is not None}
    exclude = tuple(model.exclude)
    return Entry(
        index=index, line=node.line, fields=fields, lines=lines, source=model.source, axes=axes, exclude=exclude
    )


def _axes(matrix: Mapping[str, tuple[Any, tuple[Any, ...]]], node: Table) -> tuple[Axis, ...]:
    table = node.pairs.get("matrix")
    if not isinstance(table, Table):
        return ()
    return tuple(
        Axis(name=name, kind=kind, values=values, line=table.lines[name]) for name, (kind, values) in matrix.items()
    )


def _needs_rows(model: JobEntry, node: Table, path: Path, faults: Faults) -> None:
    """`exclude` without a matrix, and one id for many jobs, are mistakes for certain."""
    if any(not rule for rule in model.exclude):
        faults.add(node.lines["exclude"], (*path, "exclude"), "an empty exclusion would leave nothing; name axes in it")
    if model.exclude and not model.matrix:
        faults.add(node.lines["exclude"], (*path, "exclude"), "there is no matrix to exclude from; remove exclude")
    many = "from" if model.source is not None else "matrix" if model.matrix else None
    if model.id is not None and not isinstance(model.id, Template) and many is not None:
        message = f'found {quoted(model.id)}, the same for all jobs of this entry; use a template, as "{{{{ name }}}}"'
        faults.add(node.lines["id"], (*path, "id"), message)


def _unique_ids(jobs: Items, faults: Faults) -> None:
    """Ids as they are written, also those of entries that have other faults."""
    first: dict[str, int] = {}
    for index, node in enumerate(jobs.items):
        written = node.pairs.get("id") if isinstance(node, Table) else None
        if not isinstance(node, Table) or not isinstance(written, Scalar) or not _is_id(written):
            continue
        earlier = first.setdefault(written.text, index)
        if earlier != index:
            at = f"by jobs[{earlier}] on line {jobs.items[earlier].line}"
            message = f"the id {quoted(written.text)} is used {at} too; ids must differ"
            faults.add(node.lines["id"], ("jobs", index, "id"), message)


def _is_id(written: Scalar) -> bool:
    if written.is_null or is_template(written.text):
        return False
    try:
        return job_id(written.text) is not None
    except ValueError:
        return False  # told already
