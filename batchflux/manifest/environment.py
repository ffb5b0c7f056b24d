"""Secrets: `${NAME}` in `provider` and `webhook_secret` is read from the environment, and keys are kept out.

The rule: a secret stands in an environment variable, never in a manifest; a message shows the name, never the value.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from batchflux.manifest.check import is_key_name
from batchflux.manifest.yaml_nodes import Items, Node, Scalar, Table, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.manifest.diagnostics import Faults
    from batchflux.manifest.check import Path

_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(r"\s*(?:Bearer\s+)?sk-[A-Za-z0-9_-]{8,}\s*")
_ADVICE = "put it into an environment variable"


def expand_environment(root: Table, environ: Mapping[str, str], faults: Faults) -> None:
    """Put the environment's values into the tree; note variables that are not set, and secrets written out."""
    _refuse_keys(root, faults)
    if "provider" in root.pairs:
        root.pairs["provider"] = _expanded(root.pairs["provider"], ("provider",), environ, faults)
    tables: list[tuple[Path, Node]] = []
    if "defaults" in root.pairs:
        tables.append((("defaults",), root.pairs["defaults"]))
    jobs = root.pairs.get("jobs")
    if isinstance(jobs, Items):
        tables.extend((("jobs", index), item) for index, item in enumerate(jobs.items))
    for path, table in tables:
        if isinstance(table, Table) and "webhook_secret" in table.pairs:
            _webhook_secret(table, path, environ, faults)


def _refuse_keys(root: Table, faults: Faults) -> None:
    """A key is known by its first letters, wherever it stands; keys of the provider have their own check."""
    stack: list[tuple[Path, Node]] = [((), root)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, Table):
            stack.extend(((*path, key), child) for key, child in reversed(node.pairs.items()))
        elif isinstance(node, Items):
            stack.extend(((*path, index), child) for index, child in reversed(list(enumerate(node.items))))
        elif "sk-" in node.text and not _checked_elsewhere(path) and _KEY.fullmatch(node.text):
            name = "name it under provider.keys" if path[:1] != ("provider",) else "name it under keys"
            faults.add(node.line, path, f"this looks like an API key; {_ADVICE} and {name}")


def _checked_elsewhere(path: Path) -> bool:
    """Whether the schema says the same of whatever stands there."""
    return path[:1] == ("provider",) and len(path) > 1 and (path[1] == "keys" or is_key_name(str(path[1])))


def _expanded(node: Node, path: Path, environ: Mapping[str, str], faults: Faults) -> Node:
    if isinstance(node, Table):
        pairs = {key: _expanded(child, (*path, key), environ, faults) for key, child in node.pairs.items()}
        return Table(node.line, pairs, node.lines)
    if isinstance(node, Items):
        items = [_expanded(child, (*path, index), environ, faults) for index, child in enumerate(node.items)]
        return Items(node.line, items)
    if "${" not in node.text:
        return node
    missing: list[str] = []

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if _VARIABLE.fullmatch(name) is None:
            missing.append(f"found {quoted(match[0])}; allowed is ${{NAME}} with the name of an environment variable")
        elif name not in environ:
            missing.append(f"the environment variable {name} is not set; set it")
        return environ.get(name, "")

    text = _REFERENCE.sub(value, node.text)
    for message in missing:
        faults.add(node.line, path, message)
    if missing:  # nothing stands there then, so that the field is not found wrong too
        return Scalar("", plain=True, line=node.line, shown=node.text)
    return Scalar(text, node.plain, node.line, shown=node.text)


def _webhook_secret(table: Table, path: Path, environ: Mapping[str, str], faults: Faults) -> None:
    node = table.pairs["webhook_secret"]
    if isinstance(node, Scalar) and node.is_null:
        return
    at = (*path, "webhook_secret")
    if not isinstance(node, Scalar) or _REFERENCE.fullmatch(node.text) is None:
        message = f"a secret does not belong in a manifest; {_ADVICE} and write ${{NAME}} here"
        faults.add(table.lines["webhook_secret"], at, message)
        table.pairs["webhook_secret"] = Scalar("", True, node.line)
        return
    table.pairs["webhook_secret"] = _expanded(node, at, environ, faults)
