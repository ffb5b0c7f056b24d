"""Nodes as ComfyUI had them before the V3 schema. Their functions cannot be awaited there: each gets a thread."""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from .declared import CATEGORY, SOCKETS, said

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .declared import Input, Node


def class_of(node: Node) -> type:
    """Return a node's class."""

    def run(_self: object, **given: Any) -> tuple[Any, ...]:
        async def running() -> tuple[Any, ...]:
            return await node.run(node.values(given))

        seen = contextvars.copy_context()  # it says which node runs
        with ThreadPoolExecutor(1) as thread:  # this one may have a loop of its own
            return thread.submit(seen.run, asyncio.run, running()).result()

    def input_types(_cls: type, /) -> dict[str, Any]:
        return {
            "required": _types(said(node.inputs, optional=False)),
            "optional": _types(said(node.inputs, optional=True)),
        }

    def is_changed(_cls: type, /, **given: Any) -> Any:
        return node.fingerprint(node.values(given))

    members = {
        "__doc__": node.says,
        "__module__": __name__,
        "CATEGORY": CATEGORY,
        "DESCRIPTION": node.says,
        "FUNCTION": "run",
        "INPUT_TYPES": classmethod(input_types),
        "IS_CHANGED": classmethod(is_changed),
        "OUTPUT_IS_LIST": tuple(one.listed for one in node.outputs),
        "OUTPUT_TOOLTIPS": tuple(one.says for one in node.outputs),
        "RETURN_NAMES": tuple(one.name for one in node.outputs),
        "RETURN_TYPES": tuple(one.kind for one in node.outputs),
        "run": run,
    }
    return type(node.name, (), members)


def _types(inputs: Sequence[Input]) -> dict[str, Any]:
    return {one.name: (_kind(one), _options(one)) for one in inputs}


def _kind(one: Input) -> Any:
    return list(one.options) if one.kind == "COMBO" else one.kind


def _options(one: Input) -> dict[str, Any]:
    return {"tooltip": one.says, **({} if one.kind in SOCKETS else {"default": one.default}), **one.more}
