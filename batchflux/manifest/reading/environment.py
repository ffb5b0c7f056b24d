"""Puts the environment's values into the tree, in place of `${NAME}`, and refuses secrets that are written out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from batchflux.errors import quoted
from batchflux.manifest.kinds import VARIABLE
from batchflux.manifest.reading.diagnostics import is_key_name
from batchflux.manifest.reading.values import is_nothing
from batchflux.manifest.reading.yaml_nodes import Items, KeyPath, Node, Scalar, Table

if TYPE_CHECKING:
    from batchflux.manifest.reading.diagnostics import Faults
    from batchflux.secrets import Lookup

_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_KEY = re.compile(r"\s*(?:Bearer\s+)?sk-[A-Za-z0-9_-]{8,}\s*")
_ADVICE = "put it into an environment variable"


def expand_environment(root: Table, secrets: Lookup, faults: Faults) -> Table:
    """Return the tree with the environment's values; note variables that are not set, and secrets written out.

    `${NAME}` is looked up in `provider`, `providers`, `notify` and `webhook_secret`. A message shows the name,
    never the value.
    """

    def walk(node: Node, path: KeyPath, line: int) -> Node:
        if isinstance(node, Scalar):
            _refuse_key(node, path, faults)
        of_provider = secret = False
        match path:
            case ("provider" | "providers" | "notify", *_):
                of_provider = True
            case ("defaults", "webhook_secret") | ("jobs", int(), "webhook_secret"):
                secret = not is_nothing(node)
        if secret and not (isinstance(node, Scalar) and _REFERENCE.fullmatch(node.text)):
            faults.add(line, path, f"a secret does not belong in a manifest; {_ADVICE} and write ${{NAME}} here")
            return Scalar("", plain=True, line=node.line)
        if isinstance(node, Table):
            return walk_table(node, path)
        if isinstance(node, Items):
            return Items(node.line, [walk(item, (*path, index), item.line) for index, item in enumerate(node.items)])
        return _expanded(node, path, secrets, faults) if of_provider or secret else node

    def walk_table(table: Table, path: KeyPath) -> Table:
        pairs = {key: walk(child, (*path, key), table.lines[key]) for key, child in table.pairs.items()}
        return Table(table.line, pairs, table.lines)

    return walk_table(root, ())


def _refuse_key(node: Scalar, path: KeyPath, faults: Faults) -> None:
    """A key is known by its first letters, wherever it stands; keys of the provider have their own check."""
    of_provider = path[0] in {"provider", "providers"}
    key = next(map(str, path[1 if path[0] == "provider" else 2 :]), "")
    if _KEY.fullmatch(node.text) and not (of_provider and (key == "keys" or is_key_name(key))):
        name = "name it under keys" if of_provider else "name it under provider.keys"
        faults.add(node.line, path, f"this looks like an API key; {_ADVICE} and {name}")


def _expanded(node: Scalar, path: KeyPath, secrets: Lookup, faults: Faults) -> Scalar:
    if "${" not in node.text:
        return node
    missing, values = False, dict[str, str]()
    for name in _REFERENCE.findall(node.text):
        if VARIABLE.fullmatch(name) is None:
            message = f"found {quoted(f'${{{name}}}')}; allowed is ${{NAME}} with the name of an environment variable"
        else:
            try:
                found = secrets.get(name)
            except ValueError as error:
                message = str(error)
            else:
                if found or (found is not None and path[-1] != "webhook_secret" and path[0] != "notify"):
                    values[name] = found
                    continue
                message = f"the environment variable {name} is {'not set; set it' if found is None else 'empty'}"
        missing = True
        faults.add(node.line, path, message)
    if missing:  # nothing stands there then, so that the field is not found wrong too
        return Scalar("", plain=True, line=node.line, shown=node.text)
    text = _REFERENCE.sub(lambda match: values[match[1]], node.text)
    return Scalar(text, node.plain, node.line, shown=node.text)
