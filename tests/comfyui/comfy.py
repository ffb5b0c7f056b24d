"""A ComfyUI as far as nodes see it: it loads a pack from custom_nodes, checks schemas, and runs nodes one by one.

`modern` has the V3 schema (as in 0.3.64: ids are unique over inputs and outputs together), otherwise it is one from
before. Tensors are arrays, which is all that the nodes want of them.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import sys
import types
from abc import ABC, abstractmethod
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


class InterruptProcessingException(Exception):  # noqa: N818  as ComfyUI calls it
    """What ComfyUI raises in a node when a person cancels."""


class Context(NamedTuple):
    """Which node runs."""

    prompt_id: str
    node_id: str
    list_index: int | None


class Kind:
    """A type of inputs and outputs, as `io.Int`."""

    def __init__(self, io_type: str, *takes: str) -> None:
        takes = ("id", "display_name", "optional", "tooltip", *takes)

        def made(names: tuple[str, ...], io_type: str = io_type) -> Callable[..., dict[str, Any]]:
            def make(id: str, **given: Any) -> dict[str, Any]:  # noqa: A002  as ComfyUI calls it
                assert given.keys() <= set(names), f"{io_type} takes no {given.keys() - set(names)}"
                return {"id": id, "io_type": io_type, **given}

            return make

        self.Input = made(takes)
        self.Output = made(("display_name", "tooltip", "is_output_list"))


class NodeOutput:
    """What a node of the V3 schema returns."""

    def __init__(self, *args: Any) -> None:
        self.args = args


class ComfyNode(ABC):
    """The base of V3's nodes."""

    @classmethod
    @abstractmethod
    def define_schema(cls) -> Any: ...

    @classmethod
    @abstractmethod
    def execute(cls, **kwargs: Any) -> Any: ...


class ComfyExtension(ABC):
    """The base of V3's extensions."""

    @abstractmethod
    async def get_node_list(self) -> list[type]: ...


@dataclass(kw_only=True)
class Schema:
    """V3's description of a node."""

    node_id: str
    display_name: str
    category: str
    description: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    is_api_node: bool = False


class Entry(NamedTuple):
    """A node as both schemas have it: its inputs with their defaults, and which outputs are lists."""

    title: str
    required: Mapping[str, Any]
    optional: frozenset[str]
    kinds: Mapping[str, str]
    returns: tuple[str, ...]
    lists: tuple[bool, ...]
    run: Callable[..., Any]
    fingerprint: Callable[..., Any]


@dataclass
class ComfyUI:
    """One ComfyUI."""

    modern: bool = True
    interrupted: bool = False
    nodes: dict[str, Entry] = field(default_factory=dict)
    steps: list[tuple[int, int]] = field(default_factory=list)
    previews: int = 0
    texts: list[tuple[str, str]] = field(default_factory=list)
    executing: ClassVar[ContextVar[Context | None]] = ContextVar("executing", default=None)

    def modules(self) -> Iterator[tuple[str, types.ModuleType]]:
        """Yield what a pack can import here."""
        bar = _bar(self)
        parts: dict[str, dict[str, Any]] = {
            "comfy": {"__path__": []},
            "comfy.model_management": {"throw_exception_if_processing_interrupted": self.throw_if_interrupted},
            "comfy.utils": {"ProgressBar": bar},
            "server": {"PromptServer": types.SimpleNamespace(instance=self._server())},
            "torch": {"from_numpy": lambda array: array},
        }
        if self.modern:
            parts["comfy_api"] = {"__path__": []}
            parts["comfy_api.v0_0_2"] = {"io": _io(), "ComfyExtension": ComfyExtension}
            parts["comfy_execution"] = {"__path__": []}
            parts["comfy_execution.utils"] = {"get_executing_context": self.executing.get}
        modules = {name: types.ModuleType(name) for name in parts}
        for name, members in parts.items():
            vars(modules[name]).update(members)
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(modules[parent], child, modules[name])
        yield from modules.items()

    def _server(self) -> types.SimpleNamespace:
        def send(text: str, node_id: str, _sid: str | None = None) -> None:
            self.texts.append((node_id, text))

        server = types.SimpleNamespace(client_id="client")
        return types.SimpleNamespace(**vars(server), send_progress_text=send) if self.modern else server

    def throw_if_interrupted(self) -> None:
        """Raise once after each interrupt, as ComfyUI does."""
        if self.interrupted:
            self.interrupted = False
            raise InterruptProcessingException

    def load(self, pack: Path) -> None:
        """Import a pack as ComfyUI does, and take its nodes."""
        name = str(pack).replace(".", "_x_")
        spec = importlib.util.spec_from_file_location(name, pack / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        if hasattr(module, "NODE_CLASS_MAPPINGS"):  # looked for first
            titles = module.NODE_DISPLAY_NAME_MAPPINGS
            self.nodes = {key: _old(titles[key], cls) for key, cls in module.NODE_CLASS_MAPPINGS.items()}
            return
        extension = asyncio.run(module.comfy_entrypoint())
        assert isinstance(extension, ComfyExtension)
        for cls in asyncio.run(extension.get_node_list()):
            assert issubclass(cls, ComfyNode)
            key, entry = _new(cls)
            self.nodes[key] = entry

    async def run(self, node: str, **given: Any) -> Any:
        """Run a node with these inputs, widgets at their defaults; return its outputs by their names."""
        entry = self.nodes[node]
        assert given.keys() <= entry.required.keys() | entry.optional
        self.executing.set(Context("prompt", node, None))
        made = await entry.run(**{**entry.required, **given})
        assert len(made) == len(entry.returns)
        assert all(isinstance(value, list) for value, listed in zip(made, entry.lists, strict=True) if listed)
        return dict(zip(entry.returns, made, strict=True))


def _bar(comfy: ComfyUI) -> type:
    class ProgressBar:
        def __init__(self, total: int) -> None:
            self._total = total

        def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
            comfy.throw_if_interrupted()  # as the real one's hook does
            comfy.steps.append((value, total or self._total))
            comfy.previews += preview is not None

    return ProgressBar


def _io() -> types.SimpleNamespace:
    whole = ("default", "min", "max", "step", "control_after_generate")
    return types.SimpleNamespace(
        Image=Kind("IMAGE"),
        Mask=Kind("MASK"),
        String=Kind("STRING", "default", "multiline"),
        Int=Kind("INT", *whole),
        Combo=Kind("COMBO", "default", "options"),
        Schema=Schema,
        NodeOutput=NodeOutput,
        ComfyNode=ComfyNode,
        ControlAfterGenerate=types.SimpleNamespace(fixed="fixed"),
    )


def _new(cls: Any) -> tuple[str, Entry]:
    schema = cls.define_schema()
    names = [one["id"] for one in (*schema.inputs, *schema.outputs)]
    assert len(set(names)) == len(names), "ids must be unique between inputs and outputs"
    assert not schema.is_api_node
    assert inspect.iscoroutinefunction(cls.execute)

    async def run(**given: Any) -> Any:
        made = await cls.execute(**given)
        assert isinstance(made, NodeOutput)
        return made.args

    required = {one["id"]: one.get("default") for one in schema.inputs if not one["optional"]}
    return schema.node_id, Entry(
        title=schema.display_name,
        required=required,
        optional=frozenset(one["id"] for one in schema.inputs if one["optional"]),
        kinds={one["id"]: one["io_type"] for one in schema.inputs},
        returns=tuple(one["id"] for one in schema.outputs),
        lists=tuple(one["is_output_list"] for one in schema.outputs),
        run=run,
        fingerprint=cls.fingerprint_inputs,
    )


def _old(title: str, cls: Any) -> Entry:
    types_of = cls.INPUT_TYPES()
    run = getattr(cls(), cls.FUNCTION)
    assert not inspect.iscoroutinefunction(run)
    both = {**types_of["required"], **types_of["optional"]}
    kinds = {name: "COMBO" if isinstance(kind, list) else kind for name, (kind, _) in both.items()}
    return Entry(
        title=title,
        required={name: options.get("default") for name, (_, options) in types_of["required"].items()},
        optional=frozenset(types_of["optional"]),
        kinds=kinds,
        returns=cls.RETURN_NAMES,
        lists=cls.OUTPUT_IS_LIST,
        run=lambda **given: asyncio.to_thread(run, **given),
        fingerprint=cls.IS_CHANGED,
    )
