"""One part of the tree against its pydantic model: a model, or faults with line and key path in our words."""

from __future__ import annotations

import difflib
import heapq
import re
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from batchflux.errors import Fault, ManifestError
from batchflux.manifest.yaml_nodes import OVERRIDE, Items, Node, Scalar, Table, found, loose, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

Model = TypeVar("Model", bound=BaseModel)
Path = tuple[str | int, ...]

OVERRIDE_FILE = "--set"
_KEY_NAMES = frozenset({"api_key", "apikey", "key", "token", "secret", "password", "authorization", "api-key"})
MAX_FAULTS = 2000  # nobody reads more, and looking for what each might have meant takes time
_COMPARED, _SEARCHED, _LISTED = 100, 1000, 40  # characters of an unknown name, known names searched, known names shown
_STEPS = re.compile(r"[.\[ ]")
_MISSING = {"version": 'add "version: 1"', "jobs": "add a list of jobs"}


def where(path: Path) -> str:
    """`("jobs", 2, "seed")` as `jobs[2].seed`."""
    text = ""
    for part in path:
        name = part if isinstance(part, int) else quoted(part)[1:-1]  # a stranger's key may be long, or no text at all
        text += f"[{name}]" if isinstance(part, int) else f".{name}" if text else str(name)
    return text


def nearest(name: str, allowed: Iterable[str]) -> str:
    """What an unknown name might have been, and all that it may be: `did you mean X? Allowed: ...`."""
    known = list(allowed)
    names = heapq.nsmallest(_SEARCHED, known)
    close = difflib.get_close_matches(name.lower()[:_COMPARED], names, n=1, cutoff=0.6)
    meant = f"did you mean {quoted(close[0])}? " if close else ""
    shown = ", ".join(quoted(name)[1:-1] for name in names[:_LISTED])
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return f"{meant}Allowed: {shown}{more}"


class Faults:
    """Collects the faults of one manifest; knows its file, so that callers give line, path and message.

    Raises:
        ManifestError: from `add` and `note`, with all faults, when they are as many as anybody reads.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[Fault] = []

    def add(self, line: int | None, path: Path, message: str) -> None:
        """Note a fault of the manifest, or of a `--set` when the line says so."""
        override = line == OVERRIDE
        file, at = (OVERRIDE_FILE, None) if override else (self.file, line)
        self.note(Fault(file=file, line=at, where=where(path), message=message))

    def in_order(self) -> list[Fault]:
        """The faults as they stand in the manifest from top to bottom; those of other files after them."""
        unique = dict.fromkeys(self.found)
        return sorted(unique, key=lambda fault: (fault.file != self.file, fault.file, fault.line or 0))

    def below(self, part: str) -> dict[str, set[str]]:
        """The keys (or positions, as text) of a part that have faults, each with what is faulty below it.

        The empty text stands for what is faulty as a whole.
        """
        made: dict[str, set[str]] = {}
        for fault in self.found:
            head, key, below, *_ = *_STEPS.split(fault.where), "", "", ""
            if head == part:
                made.setdefault(key.rstrip("]"), set()).add(below.rstrip("]"))
        return made

    def note(self, fault: Fault) -> None:
        """Take a fault as it is."""
        self.found.append(fault)
        if len(self.found) >= MAX_FAULTS:
            raise ManifestError(self.in_order())


def line_at(node: Node, path: Path) -> int:
    """The line of the key at `path` under `node`, or of the last part of it that exists."""
    line = node.line
    for part in path:
        if isinstance(node, Table) and part in node.pairs:
            key = str(part)
            line, node = node.lines[key], node.pairs[key]
        elif isinstance(node, Items) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            line = node.line
        else:
            break
    return line


def check_sound(model: type[Model], node: Node, path: Path, faults: Faults) -> tuple[Model, set[str]]:
    """Validate a part, none of whose keys is required: a model of the keys that are sound, and the names of the others.

    So the rest of the manifest is judged by what the part does say, not by its defaults.
    """
    if isinstance(node, Scalar) and node.is_null and path[:1] != ("jobs",):
        return model(), set()
    if not isinstance(node, Table):
        faults.add(node.line, path, f"found {found(node)}; allowed is a mapping with {_names(model)}")
        return model(), {""}
    given = loose(node)
    try:
        return model.model_validate(given), set()
    except ValidationError as error:
        _note(model, node, path, error, faults)
        bad = {str(item["loc"][0]) for item in error.errors(include_url=False, include_input=False)}
    return model.model_validate({key: value for key, value in given.items() if key not in bad}), bad


def _note(model: type[BaseModel], node: Table, path: Path, error: ValidationError, faults: Faults) -> None:
    for item in error.errors(include_url=False, include_input=False):
        loc = tuple(item["loc"])
        faults.add(line_at(node, loc), (*path, *loc), _message(model, item, path))


def is_key_name(name: str) -> bool:
    """Whether somebody who writes this under `provider` means a key."""
    return name.lower() in _KEY_NAMES


def unknown_key(name: str, path: Path, allowed: Iterable[str]) -> str:
    """The message for a key that is not known at `path`."""
    if path == ("provider",) and is_key_name(name):
        return "a key does not belong in a manifest; put it into an environment variable and name that under keys"
    return f"unknown key {quoted(name)}; {nearest(name, allowed)}"


def key_names(model: type[BaseModel]) -> list[str]:
    """The keys of a part, as they are written."""
    return [info.alias or name for name, info in model.model_fields.items()]


def _names(model: type[BaseModel]) -> str:
    return ", ".join(key_names(model))


def _message(model: type[BaseModel], item: Any, path: Path) -> str:
    kind, name = item["type"], str(item["loc"][-1])
    if kind == "manifest":
        return str(item["ctx"]["message"])
    if kind == "value_error":
        return str(item["ctx"]["error"])
    if kind == "extra_forbidden":
        return unknown_key(name, path, key_names(model))
    if kind == "missing":
        return f"is missing; {_MISSING.get(name, 'add it')}"
    raise AssertionError(f"no message for a fault of type {kind} at {name}")
