"""Nodes as ComfyUI's V3 schema has them. The version is pinned: `comfy_api.latest` moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.v0_0_2 import ComfyExtension, io

from .declared import CATEGORY, SOCKETS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .declared import Input, Node, Output

_KINDS = {"IMAGE": io.Image, "MASK": io.Mask, "STRING": io.String, "INT": io.Int, "COMBO": io.Combo}


def extension(nodes: Sequence[Node]) -> Any:
    """Return the extension that has these nodes."""
    classes = [class_of(node) for node in nodes]

    async def get_node_list(_self: object) -> list[type]:
        return classes

    return type("BatchfluxExtension", (ComfyExtension,), {"get_node_list": get_node_list})()


def class_of(node: Node) -> type:
    """Return a node's class."""

    async def execute(_cls: type, /, **given: Any) -> Any:
        return io.NodeOutput(*await node.run(node.values(given)))

    def define_schema(_cls: type, /) -> Any:
        return io.Schema(
            node_id=node.name,
            display_name=node.title,
            category=CATEGORY,
            description=node.says,
            inputs=[_input(one) for one in node.inputs],
            outputs=[_output(one) for one in node.outputs],
        )

    def fingerprint_inputs(_cls: type, /, **given: Any) -> Any:
        return node.fingerprint(node.values(given))

    made: dict[str, Any] = {each.__name__: classmethod(each) for each in (execute, define_schema, fingerprint_inputs)}
    return type(node.name, (io.ComfyNode,), {"__doc__": node.says, "__module__": __name__, **made})


def _input(one: Input) -> Any:
    more = dict(one.more)
    if one.kind not in SOCKETS:
        more["default"] = one.default
    if one.kind == "COMBO":
        more["options"] = list(one.options)
    if "control_after_generate" in more and hasattr(io, "ControlAfterGenerate"):  # else it would begin at randomize
        more["control_after_generate"] = io.ControlAfterGenerate.fixed
    return _KINDS[one.kind].Input(one.name, optional=one.optional, tooltip=one.says, **more)


def _output(one: Output) -> Any:
    return _KINDS[one.kind].Output(one.name, display_name=one.name, tooltip=one.says, is_output_list=one.listed)
