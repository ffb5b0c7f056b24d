"""A ComfyUI server: `POST /prompt` takes a graph in the API format; what becomes of it is in `queues`.

A graph is checked as the server does: nodes with class_type and inputs, links that lead to nodes, an output node. The
prompt is what the nodes' inputs named `text` or `prompt` say; pictures are what LoadImage nodes load.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NoReturn

from batchflux.simulator.apis.base import Dialect, as_json, drawable, error_in
from batchflux.simulator.replies import Refusal, json_reply
from batchflux.simulator.requests import ImageRequest, content_of, json_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchflux.simulator.apis.base import Asked
    from batchflux.simulator.replies import Reply

    Graph = Mapping[str, Mapping[str, Any]]

OUTPUTS = ("SaveImage", "PreviewImage")
_TEXTS, _SEEDS = ("text", "prompt", "clip_l", "t5xxl"), ("seed", "noise_seed")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_INVALID = 400
_PREFIX = "filename_prefix"  # where a picture is put is no part of what it is
_LINK = 2


def _parse(asked: Asked) -> ImageRequest:
    body = json_object(asked.raw)
    if "prompt_id" in body and not _is_id(body["prompt_id"]):
        _refuse("invalid_prompt_id", "prompt_id must be a canonical lower-case UUID")
    graph = body.get("prompt")
    if not isinstance(graph, dict) or not graph:
        _refuse("no_prompt", "No prompt provided")
    _check(graph)
    texts, seeds = [*_inputs(graph, _TEXTS, str)], [*_inputs(graph, _SEEDS, int)]
    last = next(name for name, node in graph.items() if node["class_type"] in OUTPUTS)
    plain = {name: [node["class_type"], node["inputs"]] for name, node in graph.items()}
    drawn = {
        name: [kind, {key: one for key, one in told.items() if key != _PREFIX}] for name, (kind, told) in plain.items()
    }
    return ImageRequest(
        api="comfyui",
        model="workflow",
        prompt="\n".join(texts) or "workflow",
        content=content_of("comfyui", sorted((name, str(node)) for name, node in drawn.items())),
        seed=seeds[0] if seeds else None,
        aspect_ratio=_ratio(graph),
        output_format="png",
        asks={
            "graph": graph,
            "whole": content_of(sorted((name, str(node)) for name, node in plain.items())),
            "output": last,
            "prefix": graph[last]["inputs"].get(_PREFIX, "ComfyUI"),
            "type": "output" if graph[last]["class_type"] == "SaveImage" else "temp",
            "prompt_id": body.get("prompt_id"),
            "client_id": body.get("client_id"),
        },
    )


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and bool(_UUID.fullmatch(value))


def _check(graph: Mapping[str, Any]) -> None:
    """Raise the Refusal of what the server finds wrong in a graph."""
    for name, node in graph.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            _refuse("missing_node_type", f"Node '{name}' has no class_type. The workflow may be corrupt.")
        if node["class_type"].startswith("Missing"):
            _refuse("missing_node_type", f"Node '{node['class_type']}' not found.")
        if not isinstance(node.get("inputs"), dict):
            raise Refusal(wrong_input(graph, name, "required_input_missing", "Required input is missing", "inputs"))
        for place, value in node["inputs"].items():
            if isinstance(value, list) and not _leads(value, graph):
                raise Refusal(wrong_input(graph, name, "bad_linked_input", "Bad linked input", place))
    if not any(node["class_type"] in OUTPUTS for node in graph.values()):
        _refuse("prompt_no_outputs", "Prompt has no outputs")


def _leads(value: list[Any], graph: Mapping[str, Any]) -> bool:
    return len(value) == _LINK and isinstance(value[0], str) and value[0] in graph and isinstance(value[1], int)


def _inputs(graph: Graph, names: tuple[str, ...], kind: type[Any]) -> Iterator[Any]:
    for node in graph.values():
        for name in names:
            value = node["inputs"].get(name)
            if isinstance(value, kind) and not isinstance(value, bool):
                yield value


def _ratio(graph: Graph) -> str | None:
    for node in graph.values():
        match node["inputs"]:
            case {"width": int(width), "height": int(height)} if width > 0 and height > 0:
                return drawable(width, height)
    return None


def _refuse(kind: str, message: str) -> NoReturn:
    raise Refusal(_error(kind, message, {}))


def _error(kind: str, message: str, nodes: Mapping[str, Any]) -> Reply:
    error = {"type": kind, "message": message, "details": "", "extra_info": {}}
    return json_reply({"error": error, "node_errors": nodes}, 400)


def wrong_input(graph: Graph, node: str, kind: str, message: str, place: str, value: Any = None) -> Reply:
    """Return the refusal of a graph that is wrong at an input of a node."""
    errors = node_errors(graph, node, kind, message, place, value)
    return _error("prompt_outputs_failed_validation", "Prompt outputs failed validation", errors)


def node_errors(
    graph: Graph, node: str, kind: str, message: str, place: str, value: Any = None
) -> dict[str, dict[str, Any]]:
    """Return the node_errors that say it."""
    extra = {"input_name": place, "received_value": value}
    error = {"type": kind, "message": message, "details": f"{place}: '{value}' not in []", "extra_info": extra}
    outputs = [name for name, one in graph.items() if one["class_type"] in OUTPUTS]
    return {node: {"errors": [error], "dependent_outputs": outputs, "class_type": graph[node]["class_type"]}}


def _told(reply: Reply) -> Reply:
    if (error := error_in(reply)) is None or reply.status != _INVALID:
        return reply
    message = error["message"]
    said = {"type": "no_prompt", "message": message, "details": message, "extra_info": {}}
    return as_json(reply, _INVALID, {"error": said, "node_errors": {}})


def _missing_model(request: ImageRequest) -> Reply:
    graph = request.asks["graph"]
    return wrong_input(
        graph, next(iter(graph)), "value_not_in_list", "Value not in list", "unet_name", "flux.safetensors"
    )


DIALECT = Dialect(
    name="comfyui",
    parse=_parse,
    told=_told,
    key=lambda _: "",
    open=True,
    faults={"missing_model": _missing_model},
)
