"""Where a fault found below `jobs` or by a run stands: at a field, at a row of a table, or at a job by its id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.errors import Fault
from batchflux.manifest.check import OVERRIDE_FILE
from batchflux.manifest.yaml_nodes import OVERRIDE

if TYPE_CHECKING:
    from batchflux.manifest.schema import Entry, Manifest


def line_of(entry: Entry, key: str) -> int:
    """The line of a field, `images[2]` or `tags.sku` too; of the entry when the field is not written."""
    return entry.lines.get(key.split(".", 1)[0].split("[", 1)[0], entry.line)


def entry_fault(manifest: Manifest, entry: Entry, key: str, message: str, line: int | None = None) -> Fault:
    """A fault in the manifest's text, at `line` or where the field stands."""
    at = line_of(entry, key) if line is None else line
    where = f"jobs[{entry.index}].{key}" if key else f"jobs[{entry.index}]"
    return _written(manifest, at, where, message)


def job_fault(manifest: Manifest, entry: Entry, key: str, message: str, name: str | None) -> Fault:
    """A fault in the manifest's text that is about one job, named by its id."""
    where = f"jobs[{entry.index}]" if name is None else f"jobs[{entry.index}] (id {name})"
    return _written(manifest, line_of(entry, key), where, message)


def row_fault(manifest: Manifest, entry: Entry, line: int | None, key: str, message: str) -> Fault:
    """A fault in the table of an entry, at one of its lines; of the table as a whole where `from` names it."""
    source = entry.source or ""
    if line is None:
        return entry_fault(manifest, entry, "from", f"the table {source} {message}")
    file = manifest.beside(source)
    return Fault(file=file, line=line, where=f"jobs[{entry.index}].{key}", message=message)


def file_name_fault(manifest: Manifest, message: str) -> Fault:
    """A fault of output.file_name that an entry brings to light."""
    return _written(manifest, manifest.file_name_line, "output.file_name", message)


def keys_fault(manifest: Manifest, index: int, message: str) -> Fault:
    """A fault of one of provider.keys, which a run brings to light."""
    return _written(manifest, manifest.keys_line, f"provider.keys[{index}]", message)


def _written(manifest: Manifest, line: int, where: str, message: str) -> Fault:
    override = line == OVERRIDE
    file = OVERRIDE_FILE if override else manifest.display
    return Fault(file=file, line=None if override else line, where=where, message=message)
