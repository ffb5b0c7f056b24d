"""Nodes for ComfyUI that make pictures through a batchflux gateway: each one paid for once.

ComfyUI imports this folder. It takes the nodes by `comfy_entrypoint` where it has the V3 schema that they are written
for, and by `NODE_CLASS_MAPPINGS` where it is older: `nodes.NODES` is the one list of them.
"""

from __future__ import annotations

from .nodes import NODES

try:
    from . import v3
except ImportError:  # a ComfyUI from before the V3 schema
    from . import v1

    NODE_CLASS_MAPPINGS = {node.name: v1.class_of(node) for node in NODES}
    NODE_DISPLAY_NAME_MAPPINGS = {node.name: node.title for node in NODES}
    __all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
else:

    async def comfy_entrypoint() -> object:
        """Hand the nodes to ComfyUI."""
        return v3.extension(NODES)

    __all__ = ["comfy_entrypoint"]
