"""What a node is, whichever schema ComfyUI has: plain data, of which `v3` and `v1` make classes."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from collections.abc import Sequence

CATEGORY = "batchflux"
SOCKETS = frozenset({"IMAGE", "MASK"})  # kinds that have no widget
Values = Mapping[str, Any]  # a node's inputs by their names, as ComfyUI hands them over


@dataclass(frozen=True)
class Input:
    """One input: `kind` is ComfyUI's name of its type, `options` the choices of a COMBO, `more` what a widget takes."""

    name: str
    kind: str
    says: str
    default: Any = None
    options: tuple[str, ...] = ()
    optional: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """One output; `listed`: a list, of which what follows takes one item after the other."""

    name: str
    kind: str
    says: str
    listed: bool = False


@dataclass(frozen=True)
class Node:
    """One node: `run` makes its outputs of its inputs, `fingerprint` says what they hang on besides."""

    name: str
    title: str
    says: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    run: Callable[[Values], Awaitable[tuple[Any, ...]]]
    fingerprint: Callable[[Values], Any]

    def values(self, given: Values) -> Values:
        """Return all inputs: an optional one that nothing was given for has its default."""
        return {**{one.name: one.default for one in self.inputs}, **given}


def said(inputs: Sequence[Input], *, optional: bool) -> Sequence[Input]:
    """Return those of the inputs that may be left out, or those that may not."""
    return [one for one in inputs if one.optional is optional]
