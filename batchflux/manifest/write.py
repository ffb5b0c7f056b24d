"""Writes manifests: nodes and plain values → YAML that reads back as the same.

The rule: what a person wrote without quotes stays so (`16:9`, `300/min`, `${NAME}`, 0.14), everything else is written
in double quotes with all that is not printable escaped. Text that is no template is escaped so that it is none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from batchflux.manifest.yaml_nodes import Items, Node, Scalar, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIMPLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_JINJA = re.compile(r"\{[{%#]")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_BYTE, _PLANE = 0xFF, 0xFFFF


def quoted_scalar(text: str) -> Scalar:
    """Return a node for text that is to be read back as it is."""
    return Scalar(text, plain=False, line=0)


def plain_scalar(value: float | bool) -> Scalar:  # noqa: FBT001  one of YAML's scalars
    """Return a node for a number or a boolean."""
    return Scalar(str(value).lower() if isinstance(value, bool) else str(value), plain=True, line=0)


def literal(text: str) -> Scalar:
    """Return a node for text of a field that may be a template, so that it renders as it is."""
    return quoted_scalar(_JINJA.sub(lambda match: f"{{{{ '{match[0]}' }}}}", text))


def table(**pairs: Node | None) -> Table:
    """Return a mapping of what is given."""
    return Table(0, {name: node for name, node in pairs.items() if node is not None})


def yaml_text(root: Table) -> str:
    """Return the YAML of a mapping, in block style."""
    return "\n".join(_lines(root, "")) + "\n"


def _lines(node: Table | Items, indent: str) -> Iterator[str]:
    pairs = [(f"{_key(key)}:", child) for key, child in node.pairs.items()] if isinstance(node, Table) else None
    for head, child in pairs if pairs is not None else [("-", item) for item in getattr(node, "items", [])]:
        if isinstance(child, Scalar):
            yield f"{indent}{head} {_scalar(child)}".rstrip()
        elif _is_empty(child):
            yield f"{indent}{head} {'{}' if isinstance(child, Table) else '[]'}"
        elif head == "-":
            first, *rest = _lines(child, f"{indent}  ")
            yield f"{indent}- {first.lstrip()}"
            yield from rest
        else:
            yield f"{indent}{head}"
            yield from _lines(child, f"{indent}  ")


def _is_empty(node: Table | Items) -> bool:
    return not (node.pairs if isinstance(node, Table) else node.items)


def _key(key: str) -> str:
    return key if _SIMPLE.fullmatch(key) and key.lower() not in {"null", "true", "false"} else _quoted(key)


def _scalar(node: Scalar) -> str:
    # A plain scalar over several lines was folded: it needs quotes now to stay on one.
    return node.text if node.plain and node.text.isprintable() else _quoted(node.text)


def _quoted(text: str) -> str:
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code <= _BYTE:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= _PLANE else f"\\U{code:08x}"
