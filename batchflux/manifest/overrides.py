"""`--set PATH=VALUE` and `--provider NAME`, put into the tree before it is checked, so that the same rules hold.

The rule: a path names keys and list positions with dots; mappings on its way are made when missing, list positions
must exist. Another provider takes nothing of the manifest's provider that would lead to the wrong place: base_url,
keys and options go, unless they are set on the command line too. The price goes as well when that other provider is the
simulator, for nothing is spent there; any other keeps it, because a budget needs one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.errors import ManifestError
from batchflux.manifest.check import OVERRIDE_FILE
from batchflux.manifest.yaml_nodes import read_tree
from batchflux.manifest.yaml_nodes import OVERRIDE, Items, Node, Scalar, Table, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchflux.manifest.diagnostics import Faults

_OF_ONE_PROVIDER = ("base_url", "keys", "options")
_SIMULATOR = "simulator"
MAX_PARTS = 16
_DIGITS = 9  # of a list position
_FLOW = ("[", "{", '"', "'")


def apply_overrides(root: Table, sets: Sequence[str], provider: str | None, faults: Faults) -> None:
    """Change the tree as the command line says; note what cannot be."""
    section = _provider_section(root)
    if provider is not None:
        name = section.pairs.get("name")
        current = name.text if isinstance(name, Scalar) and not name.is_null else _SIMULATOR
        if provider != current:
            for key in (*_OF_ONE_PROVIDER, *(("price",) if provider == _SIMULATOR else ())):
                section.pairs.pop(key, None)
                section.lines.pop(key, None)
        _put(section, "name", Scalar(provider, plain=False, line=OVERRIDE))
        _put(root, "provider", section)
    for text in sets:
        path, equals, value = text.partition("=")
        if not equals or not path:
            faults.add(OVERRIDE, (), f"found {quoted(path)}; allowed is PATH=VALUE, as limits.rate=10/s")
            continue
        node = _value(value, faults)
        if node is not None:
            _walk(root, path, node, faults)
    _provider_section(root)  # --set provider=NAME may have put a bare name there


def _provider_section(root: Table) -> Table:
    """The provider as a mapping; a bare name becomes one. What is neither stays for the check to refuse."""
    node = root.pairs.get("provider")
    if isinstance(node, Table):
        return node
    section = Table(OVERRIDE if node is None else node.line)
    if isinstance(node, Scalar):
        if not node.is_null:
            section.pairs["name"] = node
            section.lines["name"] = node.line
        root.pairs["provider"] = section
        root.lines.setdefault("provider", section.line)
    return section


def _put(table: Table, key: str, node: Node) -> None:
    table.pairs[key] = node
    table.lines[key] = OVERRIDE


def _value(text: str, faults: Faults) -> Node | None:
    stripped = text.strip()
    if not stripped.startswith(_FLOW):
        return Scalar(stripped, plain=True, line=OVERRIDE)
    try:
        node = read_tree(stripped.encode("utf-8", "surrogateescape"), OVERRIDE_FILE, faults.note)
    except ManifestError as error:
        for fault in error.faults:
            faults.add(OVERRIDE, (), fault.message)
        return None
    _relabel(node)
    return node


def _relabel(node: Node) -> None:
    node.line = OVERRIDE
    if isinstance(node, Table):
        node.lines = dict.fromkeys(node.pairs, OVERRIDE)
        for child in node.pairs.values():
            _relabel(child)
    elif isinstance(node, Items):
        for child in node.items:
            _relabel(child)


def _walk(root: Table, path: str, node: Node, faults: Faults) -> None:
    at: Node = root
    part = ""
    parts = path.split(".")
    if len(parts) > MAX_PARTS:
        faults.add(OVERRIDE, (), f"found a path of {len(parts)} parts; allowed are at most {MAX_PARTS}")
        return
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(at, Table) and part:
            if last:
                _put(at, part, node)
                return
            if part not in at.pairs or _is_nothing(at.pairs[part]):
                _put(at, part, Table(OVERRIDE))
            at.pairs[part] = child = _own(at.pairs[part])
            at = child
        elif (
            isinstance(at, Items)
            and part.isascii()
            and part.isdigit()
            and len(part) <= _DIGITS
            and int(part) < len(at.items)
        ):
            if last:
                at.items[int(part)] = node
                return
            at.items[int(part)] = child = _own(at.items[int(part)])
            at = child
        else:
            break
    faults.add(OVERRIDE, (), f"found the path {quoted(path)}; {_reason(at, part)}")


def _own(node: Node) -> Node:
    """A copy that is changed here only, for an alias may have put the node in other places too."""
    if isinstance(node, Table):
        return Table(node.line, dict(node.pairs), dict(node.lines))
    return Items(node.line, list(node.items)) if isinstance(node, Items) else node


def _is_nothing(node: Node) -> bool:
    return isinstance(node, Scalar) and node.is_null


def _reason(at: Node, part: str) -> str:
    if isinstance(at, Items):
        return f"allowed in place of {quoted(part)} is a position from 0 to {len(at.items) - 1}"
    if isinstance(at, Table):
        return "allowed is a path of names and positions, as jobs.0.seed"
    return "there is nothing below it, for a single value stands there"
