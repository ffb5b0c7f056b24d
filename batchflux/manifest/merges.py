"""The merge key of YAML 1.1: `<<: *name`, or a list of such, puts the pairs of other mappings into this one.

The rule: the mapping's own keys win, then those of the mapping that comes earlier in the list. What is merged keeps the
line where it is written, and comes before the mapping's own keys (axes have an order). Whatever is no mapping is a
fault and ignored. What merging copies was counted when the alias was read (see reader).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.manifest.yaml_nodes import Items, Node, Table, found

if TYPE_CHECKING:
    from collections.abc import Callable

MERGE = "<<"
_ALLOWED = "allowed after << is the alias of a mapping, as *name, or a list of them"


def merge(table: Table, value: Node, note: Callable[[tuple[int, ...], str], None]) -> None:
    """Put what the merge key's value names into the table; `note` takes the position of what is no mapping."""
    pairs: dict[str, Node] = {}
    lines: dict[str, int] = {}
    several = isinstance(value, Items)
    for index, source in enumerate(value.items if isinstance(value, Items) else [value]):
        if not isinstance(source, Table):
            note((index,) if several else (), f"found {found(source)}; {_ALLOWED}")
            continue
        for name, node in source.pairs.items():
            if name not in pairs:
                pairs[name], lines[name] = node, source.lines[name]
    table.pairs = pairs | table.pairs
    table.lines = lines | table.lines
