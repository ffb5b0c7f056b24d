"""One part of the tree against its pydantic model: a model, or faults with line and key path in our words."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from batchflux.errors import Fault
from batchflux.manifest.tree import OVERRIDE, Items, Node, Scalar, Table, found, loose, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

Model = TypeVar("Model", bound=BaseModel)
Path = tuple[str | int, ...]

OVERRIDE_FILE = "--set"
_KEY_NAMES = frozenset({"api_key", "apikey", "key", "token", "secret", "password", "authorization", "api-key"})
_MISSING = {"version": 'add "version: 1"', "jobs": "add a list of jobs"}


def where(path: Path) -> str:
    """`("jobs", 2, "seed")` as `jobs[2].seed`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def nearest(name: str, allowed: Iterable[str]) -> str:
    """What an unknown name might have been, and all that it may be: `did you mean X? Allowed: ...`."""
    names = sorted(allowed)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    meant = f"did you mean {quoted(close[0])}? " if close else ""
    return f"{meant}Allowed: {', '.join(names)}"


class Faults:
    """Collects the faults of one manifest; knows its file, so that callers give line, path and message."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[Fault] = []

    def add(self, line: int | None, path: Path, message: str) -> None:
        """Note a fault of the manifest, or of a `--set` when the line says so."""
        override = line == OVERRIDE
        file, at = (OVERRIDE_FILE, None) if override else (self.file, line)
        self.found.append(Fault(file=file, line=at, where=where(path), message=message))

    def in_order(self) -> list[Fault]:
        """The faults as they stand in the manifest from top to bottom; those of other files after them."""
        return sorted(dict.fromkeys(self.found), key=lambda fault: (fault.file != self.file, fault.line or 0))

    def note(self, fault: Fault) -> None:
        """Take a fault as it is."""
        self.found.append(fault)


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


def check(model: type[Model], node: Node, path: Path, faults: Faults) -> Model | None:
    """Validate a part; None after noting its faults."""
    if isinstance(node, Scalar) and node.is_null and path[:1] != ("jobs",):
        node = Table(node.line)
    if not isinstance(node, Table):
        faults.add(node.line, path, f"found {found(node)}; allowed is a mapping with {_names(model)}")
        return None
    try:
        return model.model_validate(loose(node))
    except ValidationError as error:
        for item in error.errors(include_url=False, include_input=False):
            loc = tuple(item["loc"])
            faults.add(line_at(node, loc), (*path, *loc), _message(model, item, path))
        return None


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
