"""Faults: collected all at once, each with file, line, key path, what was found and what is allowed.

A part of the tree is checked against its model with the faults in our words; a fault below `jobs` stands at a field, at
a row of a table, or at a job by its id.
"""

from __future__ import annotations

import difflib
import heapq
import re
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from batchflux.errors import Fault, ManifestError, quoted
from batchflux.manifest.reading.yaml_nodes import (
    OVERRIDE,
    KeyPath,
    Node,
    Scalar,
    Table,
    found,
    line_at,
    plain_data,
    where,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batchflux.manifest.schema import Entry, Manifest

Model = TypeVar("Model", bound=BaseModel)

OVERRIDE_FILE = "command line"  # in the place of a file, of what --set, --provider and their kin say
MAX_FAULTS = 2000  # nobody reads more, and looking for what each might have meant takes time
_KEY_NAMES = frozenset({"api_key", "apikey", "key", "token", "secret", "password", "authorization", "api-key"})
_COMPARED, _SEARCHED, _LISTED = 100, 1000, 40  # characters of an unknown name, known names searched, known names shown
_TOLD = 3  # faults of one cause that are told one by one, when they name different values
_VALUES = re.compile(r'"[^"]*"|[0-9]+')
_STEPS = re.compile(r"[.\[ ]")


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return what an unknown name might have been, and all that it may be: `did you mean X? Allowed: ...`.

    Where it is like none, `allowed: ...` alone.
    """
    known = list(allowed)
    names = heapq.nsmallest(_SEARCHED, known)
    folded = {one.casefold(): one for one in reversed(names)}
    close = difflib.get_close_matches(name.casefold()[:_COMPARED], folded, n=1, cutoff=0.6)
    meant = f"did you mean {quoted(folded[close[0]])}? Allowed" if close else "allowed"
    shown = ", ".join(quoted(name)[1:-1] for name in names[:_LISTED])
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return f"{meant}: {shown}{more}"


def is_key_name(name: str) -> bool:
    """Whether somebody who writes this under `provider` means a key."""
    return name.lower() in _KEY_NAMES


def unknown_key(name: str, path: KeyPath, model: type[BaseModel]) -> str:
    """Return the message for a key that the part at `path` does not have."""
    if path and path in {("provider",), ("providers", path[-1])} and is_key_name(name):
        return "a key does not belong in a manifest; put it into an environment variable and name that under keys"
    return f"unknown key {quoted(name)}; {nearest(name, key_names(model))}"


def unknown_variable(name: str, known: Iterable[str]) -> str:
    """Return the message for a variable that does not exist."""
    others = nearest(name, known) if known else "there are none, for the job has neither from nor matrix"
    return f"the variable {quoted(name)} does not exist; {others}"


def key_names(model: type[BaseModel]) -> list[str]:
    """Return the keys of a part, as they are written."""
    return [info.alias or name for name, info in model.model_fields.items()]


class FieldError(ValueError):
    """What is wrong with a field of a job; `key` says which. `shared`: one change of the entry mends all its jobs.

    `kind` is the value that is at fault, where all jobs that have it share the fault; None: it is this job's.
    """

    def __init__(self, key: str, message: str, *, shared: bool = False, kind: str | None = None) -> None:
        super().__init__(message)
        self.key = key
        self.shared = shared
        self.kind = kind


class Causes:
    """Passes faults on, but of one cause no more than a few, and at last how many more there were.

    A cause is what is said of a field, whatever values and lines it names. The very same words are passed on once.
    """

    def __init__(self, on_fault: Callable[[Fault], None]) -> None:
        self._on_fault = on_fault
        self._told: dict[tuple[str, str, str], tuple[dict[str, Fault], int]] = {}  # what was passed on, and the rest

    def take(self, fault: Fault) -> None:
        """Pass a fault on, or count it."""
        cause = fault.file, fault.where, _VALUES.sub("#", fault.message)
        told, more = self._told.get(cause, ({}, 0))
        if fault.message in told or len(told) == _TOLD:
            self._told[cause] = told, more + 1
            return
        told[fault.message] = fault
        self._told[cause] = told, more
        self._on_fault(fault)

    def close(self, manifest: Manifest, *, cut: bool) -> None:
        """Say how many more there were, or, `cut`, at least were."""
        for told, more in self._told.values():
            if more:
                *_, last = told.values()
                rows = "job" if last.file == manifest.display else "row"
                message = f"... in {'at least ' if cut else ''}{more:,} more {rows}{'s' if more > 1 else ''}"
                self._on_fault(replace(last, message=message))
        self._told.clear()


class Faults:
    """Collects the faults of one manifest; raises ManifestError with all when they are as many as anybody reads."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[Fault] = []

    def add(self, line: int | None, path: KeyPath, message: str) -> None:
        """Note a fault of the manifest, or of the command line when the line says so."""
        self.note(_placed(self.file, line, where(path), message))

    def note(self, fault: Fault) -> None:
        """Take a fault as it is."""
        self.found.append(fault)
        if len(self.found) >= MAX_FAULTS:
            raise ManifestError(self.in_order())

    def in_order(self) -> list[Fault]:
        """Return the faults as they stand in the manifest from top to bottom; those of other files after them."""
        unique = dict.fromkeys(self.found)
        return sorted(unique, key=lambda fault: (fault.file != self.file, fault.file, fault.line or 0))

    def below(self, part: str) -> dict[str, set[str]]:
        """Return the faulty keys (or positions, as text) of a part, with what is faulty below each; "" is a whole."""
        made: dict[str, set[str]] = {}
        for fault in self.found:
            head, key, below, *_ = *_STEPS.split(fault.where), "", "", ""
            if head == part:
                made.setdefault(key.rstrip("]"), set()).add(below.rstrip("]"))
        return made


def _placed(file: str, line: int | None, place: str, message: str) -> Fault:
    if line == OVERRIDE:
        file, line = OVERRIDE_FILE, None
    return Fault(file=file, line=line, where=place, message=message)


def check_sound(model: type[Model], node: Node, path: KeyPath, faults: Faults) -> tuple[Model, set[str]]:
    """Validate a part, none of whose keys is required; return what is sound of it, and the names of the other keys."""
    if isinstance(node, Scalar) and node.is_null and path[:1] != ("jobs",):
        return model(), set()
    if not isinstance(node, Table):
        faults.add(node.line, path, f"found {found(node)}; allowed is a mapping with {', '.join(key_names(model))}")
        return model(), {""}
    given = plain_data(node, loose=True)
    try:
        return model.model_validate(given), set()
    except ValidationError as error:
        items = error.errors(include_url=False)
    for item in items:
        loc = tuple(item["loc"])
        if item["type"] == "extra_forbidden":
            told = unknown_key(str(loc[-1]), (*path, *loc[:-1]), _part_of(model, loc[:-1]))
        elif item["type"] == "model_type":
            told = (
                f"found {found(item['input'])}; allowed is a mapping with {', '.join(key_names(_part_of(model, loc)))}"
            )
        else:
            told = str(item["ctx"].get("message") or item["ctx"]["error"])
        faults.add(line_at(node, loc), (*path, *loc), told)
    bad = {str(item["loc"][0]) for item in items}
    return model.model_validate({key: value for key, value in given.items() if key not in bad}), bad


def _part_of(model: type[BaseModel], keys: Iterable[str | int]) -> type[BaseModel]:
    """Return the model of a part within a part."""
    for key in keys:
        kinds = get_args(model.model_fields[str(key)].annotation)
        model = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return model


def entry_fault(manifest: Manifest, entry: Entry, key: str, message: str, line: int | None = None) -> Fault:
    """Return a fault in the manifest's text, at `line`, or where the field (`images[2]` too) or the entry stands."""
    at = _line_of(entry, key) if line is None else line
    return _placed(manifest.display, at, f"jobs[{entry.index}].{key}", message)


def job_fault(manifest: Manifest, entry: Entry, key: str, message: str, name: str | None) -> Fault:
    """Return a fault in the manifest's text that is about one job, named by its id."""
    place = f"jobs[{entry.index}]" if name is None else f"jobs[{entry.index}] (id {name})"
    return _placed(manifest.display, _line_of(entry, key), place, message)


def _line_of(entry: Entry, key: str) -> int:
    return entry.lines.get(_STEPS.split(key)[0], entry.line)


def row_fault(manifest: Manifest, entry: Entry, line: int | None, key: str, message: str) -> Fault:
    """Return a fault in the table of an entry, at one of its lines; of the table as a whole where `from` names it."""
    source = entry.source or ""
    if line is None:
        return entry_fault(manifest, entry, "from", f"the table {source} {message}")
    return Fault(file=manifest.beside(source), line=line, where=f"jobs[{entry.index}].{key}", message=message)


def file_name_fault(manifest: Manifest, message: str) -> Fault:
    """Return a fault of output.file_name that an entry brings to light."""
    return _placed(manifest.display, manifest.file_name_line, "output.file_name", message)


def keys_fault(manifest: Manifest, name: str, index: int, message: str) -> Fault:
    """Return a fault of one of a provider's keys, which a run brings to light."""
    return _provider_fault(manifest, name, "keys", f"[{index}]", message)


def options_fault(manifest: Manifest, name: str, message: str) -> Fault:
    """Return a fault of a provider's options that only the provider itself knows."""
    return _provider_fault(manifest, name, "options", "", message)


def _provider_fault(manifest: Manifest, name: str, key: str, part: str, message: str) -> Fault:
    place = f"providers.{name}" if manifest.several else "provider"
    return _placed(manifest.display, manifest.provider_lines.get((name, key), 1), f"{place}.{key}{part}", message)
