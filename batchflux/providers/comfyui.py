"""A ComfyUI server, with the user's own workflow: nothing is paid, so what the server has forgotten is sent again.

`options.workflow` is a workflow in API format, or the path of its file; `options.inputs` says where in it a job's
fields belong: `{prompt: 6.text, seed: 3.seed, image: 10.image}` by node and input. The id of a prompt comes from the
job's key and the attempt, so that a request whose answer was lost can be told from all others. SaveImage writes PNG
only; another format is made by the server as the picture is fetched. Facts:
https://docs.comfy.org/development/comfyui-server/comms_routes and
https://github.com/Comfy-Org/ComfyUI/blob/master/server.py, read in November 2026.
"""

from __future__ import annotations

import copy
import json
import re
import uuid
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlencode

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from batchflux.capabilities import Capabilities
from batchflux.errors import Code, JobError
from batchflux.models import (
    BASE,
    Ended,
    Finished,
    HttpRequest,
    Json,
    Link,
    Listed,
    Multipart,
    Pending,
    Submitted,
    Then,
    Uploaded,
)
from batchflux.providers.answers.documents import DocumentReader, texts_in, uploading
from batchflux.providers.base import Provider, file_of, size_of
from batchflux.redaction import tidy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batchflux.models import Job, Reference, Reply
    from batchflux.providers.base import Lost

Place = Literal["prompt", "negative_prompt", "seed", "width", "height", "image"]
_CLIENT = "batchflux"  # without one, outputs of cached nodes are missing in the history
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://comfyui.invalid/batchflux")
_PREVIEW = {"jpeg": "jpeg;95", "webp": "webp;95"}
_MORE = 9  # pictures beside the first
_OF_THE_JOB = re.compile(
    r"(?:Value|Type|Key|Index|Attribute|FileNotFound|Assertion)Error|InvalidImage|UnidentifiedImage"
)


class Options(BaseModel):
    """The workflow, and where in it the job's fields belong; `image` may be a list, in the order of the references."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workflow: dict[str, Any] | str = Field(min_length=1)
    inputs: dict[Place, str | list[str]] = Field(min_length=1)

    @field_validator("workflow")
    @classmethod
    def _is_of_the_api(cls, workflow: dict[str, Any] | str) -> dict[str, Any] | str:
        if isinstance(workflow, dict) and isinstance(workflow.get("nodes"), list):
            raise PydanticCustomError("comfyui", "it is not in API format; use File > Export (API)")
        return workflow

    @field_validator("inputs")
    @classmethod
    def _point_somewhere(cls, inputs: dict[Place, str | list[str]], info: ValidationInfo) -> dict[Place, Any]:
        workflow = info.data.get("workflow")
        for name, places in inputs.items() if isinstance(workflow, dict) else ():  # else a file, read at plan time
            for place in [places] if isinstance(places, str) else places:
                if _inputs_at(workflow or {}, place) is None:
                    said = f"{name} names {place}, which is no input of the workflow; write NODE.INPUT, as 6.text"
                    raise PydanticCustomError("comfyui", said.replace("{", "{{").replace("}", "}}"))
        return inputs


class ComfyUI(Provider):
    """`POST /prompt`, then `GET /history/ID` and `GET /queue`."""

    api = style = "comfyui"

    def capabilities(self, model: str) -> Capabilities:
        """Return what a workflow may have a place for; `conflicts` says what that of a job has none for."""
        return Capabilities(
            api=self.api,
            model="workflow",
            style=self.style,
            fields=frozenset({"seed", "aspect_ratio", "output_format", "negative_prompt"}),
            formats=frozenset({"jpeg", "png", "webp"}),
            local_images=True,
            url_images=False,
            files="upload",
            tasks=True,
            options=Options,
            conflicts=_conflicts,
            finds_lost=True,
            option_files=("workflow",),
            base_url="http://127.0.0.1:8188",
        )

    def submit(self, job: Job, attempt: int) -> HttpRequest:
        """Return the request that queues the job's workflow; JobError `reference` when a reference is not uploaded."""
        name = _name(job, attempt)
        return HttpRequest(
            method="POST",
            url="/prompt",
            content=Json(value={"prompt": _graph(job, attempt), "client_id": _CLIENT, "prompt_id": name}),
            reader=partial(DocumentReader, job, partial(self._submitted, name), paid=True),
        )

    def _submitted(self, name: str, answer: DocumentReader) -> Reply:
        faults = _faults(answer)
        if answer.status == 400:  # noqa: PLR2004  HTTP: the one refusal of this API
            raise JobError(Code.INVALID_REQUEST, f"ComfyUI refused the workflow: {faults or answer.failure().message}")
        if not answer.ok:
            raise answer.failure()
        if answer.complete and not answer.understood:
            return answer.given()
        return Submitted(handle=json.dumps({"id": answer.name("prompt_id") or name, "faults": faults}))

    def poll(self, job: Job, handle: str) -> HttpRequest:
        """Return the request that asks whether a prompt is in the history; where it is not, the queue may have it."""
        return self._history(job, json.loads(handle))

    def recover(self, job: Job, lost: Lost) -> HttpRequest:
        """Return the request that asks for the prompt of an attempt, whose id is known."""
        task = {"id": _name(job, lost.attempt), "faults": ""}
        return self._history(job, task, Listed(handles=(json.dumps(task),)))

    def _asks(self, job: Job, place: str, interpret: Callable[[DocumentReader], Reply]) -> HttpRequest:
        return HttpRequest(method="GET", url=place, reader=partial(DocumentReader, job, interpret), repeatable=True)

    def _history(
        self, job: Job, task: Mapping[str, str], known: Listed | None = None, *, queued: bool = True
    ) -> HttpRequest:
        """Return the request for what the history has of a prompt: its end, or `known`; else it may be `queued`."""
        return self._asks(job, f"/history/{quote(task['id'], safe='')}", partial(self._found, task, known, queued))

    def _found(self, task: Mapping[str, str], known: Listed | None, queued: bool, answer: DocumentReader) -> Reply:  # noqa: FBT001  bound
        gone = answer.status == 404  # noqa: PLR2004  HTTP: not found
        if not gone and not (answer.ok and answer.understood and answer.complete):
            raise answer.failure()
        entry = None if gone else answer.document.get(task["id"])
        if isinstance(entry, dict):
            return known or _result(entry, task, answer)
        if entry is not None:
            raise answer.failure()
        if queued:
            return Then(request=self._asks(answer.job, "/queue", partial(self._queued, task, known)))
        code, said = Code.SERVER, "the server has forgotten the prompt, as after a restart; nothing was paid"
        if known is not None:
            code, said = Code.NETWORK, "the server does not know the prompt: it was not accepted, and nothing was paid"
        return Ended(error=JobError(code, said, billed=False))

    def _queued(self, task: Mapping[str, str], known: Listed | None, answer: DocumentReader) -> Reply:
        queues = [answer.document.get(key) for key in ("queue_running", "queue_pending")]
        if not (answer.ok and answer.complete and all(isinstance(queue, list) for queue in queues)):
            raise answer.failure()
        entries = [entry for queue in queues if isinstance(queue, list) for entry in queue]
        if any(isinstance(entry, list) and task["id"] in entry[:2] for entry in entries):
            return known or Pending()
        # It may have ended between the two questions.
        return Then(request=self._history(answer.job, task, known, queued=False))

    def upload(self, image: Reference) -> HttpRequest:
        """Return the free step that lays a photo into a folder named by its bytes; another server has it not."""
        file = file_of(image)

        def stored(answer: DocumentReader) -> Reply:
            name, folder = answer.name("name"), answer.name("subfolder")
            if not answer.ok or name is None:
                raise answer.failure()
            return Uploaded(url=f"{folder}/{name}" if folder else name, expires=0.0)

        parts = (
            ("image", file),
            ("subfolder", f"batchflux/{file.sha256[:16]}"),
            ("type", "input"),
            ("overwrite", "true"),
        )
        return replace(uploading(image, stored), url="/upload/image", content=Multipart(parts=parts))


def _name(job: Job, attempt: int) -> str:
    """Return the id under which an attempt at a job is queued."""
    return str(uuid.uuid5(_NAMESPACE, f"{job.key}/{attempt}"))


def _graph(job: Job, attempt: int) -> dict[str, Any]:
    """Return the workflow with the job's fields in their places."""
    options = dict(job.options)
    graph, inputs = copy.deepcopy(options.get("workflow") or {}), options.get("inputs") or {}
    width, height = (
        size_of(job.aspect_ratio) if job.aspect_ratio and "aspect_ratio" not in job.dropped else (None, None)
    )
    values = {
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt,
        "seed": _seed(job),
        "width": width,
        "height": height,
    }
    for node in graph.values():  # a graph that is the same in all is served from the cache, and saves nothing
        held = node.get("inputs") if isinstance(node, dict) else None
        if isinstance(held, dict) and isinstance(held.get("filename_prefix"), str):
            held["filename_prefix"] += f"_{job.key[:12]}_{attempt}"
    for name, value in values.items():
        for place in _places(inputs, name) if value is not None else ():
            _put(graph, place, value)
    for place, image in zip(_places(inputs, "image"), job.images, strict=False):
        if image.url is None:
            raise JobError(Code.REFERENCE, image.fault or f"the reference {image.source} was not uploaded")
        _put(graph, place, image.url)
    return graph


def _seed(job: Job) -> int:
    """Return the job's seed; without one, a number of its own, so that copies of a job differ."""
    return job.seed if job.seed is not None and "seed" not in job.dropped else int(job.key[:12], 16)


def _places(inputs: Mapping[str, Any], name: str) -> list[str]:
    places = inputs.get(name, [])
    return [places] if isinstance(places, str) else places


def _inputs_at(workflow: Mapping[str, Any], place: str) -> dict[str, Any] | None:
    node, _, name = place.partition(".")
    found = workflow.get(node)
    held = found.get("inputs") if isinstance(found, dict) else None
    return held if isinstance(held, dict) and name in held else None


def _put(graph: Mapping[str, Any], place: str, value: Any) -> None:
    held = _inputs_at(graph, place)
    if held is None:
        raise JobError(Code.INVALID_REQUEST, f"the workflow has no input {place}; mend options.inputs")
    held[place.partition(".")[2]] = value


def _conflicts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each field of a job that its workflow has no place for, and why."""
    options = dict(values["options"])
    if not options:
        yield "options", "comfyui needs options.workflow, a workflow in API format, and options.inputs"
        return
    inputs = options["inputs"]
    needed = {"prompt": ("prompt",), "negative_prompt": ("negative_prompt",), "seed": ("seed",)}
    for field, names in {**needed, "aspect_ratio": ("width", "height")}.items():
        lacking = [name for name in names if not _places(inputs, name)]
        if lacking and values.get(field) is not None and field not in values.get("dropped", ()):
            yield field, f"the workflow has no place for {field}; add {' and '.join(lacking)} to options.inputs"
    if (values.get("seed") or 0) < 0:
        yield "seed", f"found {values['seed']}; ComfyUI takes a seed of 0 or more"
    found, places = len(values["images"]), len(_places(inputs, "image"))
    if found != places:
        yield "images", f"found {found} references, and options.inputs.image names {places} places; give one for each"


def _faults(answer: DocumentReader) -> str:
    """Return what the server has against a workflow, the nodes by their numbers."""
    error, nodes = answer.document.get("error"), answer.document.get("node_errors")
    said = texts_in([error.get(key) for key in ("message", "details")] if isinstance(error, dict) else error)
    for number, node in list(nodes.items())[:5] if isinstance(nodes, dict) else ():
        errors = node.get("errors") if isinstance(node, dict) else None
        for one in errors[:3] if isinstance(errors, list) else ():
            told = [one.get(key) for key in ("message", "details")] if isinstance(one, dict) else one
            said.append(f"node {number}: {' '.join(texts_in(told)) or '-'}")
    return tidy("; ".join(said), limit=300)


def _result(entry: Mapping[str, Any], task: Mapping[str, str], answer: DocumentReader) -> Reply:
    """Return what the history tells of a prompt."""
    status = entry.get("status")
    if isinstance(status, dict) and status.get("status_str") == "error":
        return Ended(error=_failed(status.get("messages")))
    links = [_link(image, answer) for image in _images(entry.get("outputs"))]
    if links:
        return Finished(asset=links[0], seed=_seed(answer.job), more=tuple(links[1 : 1 + _MORE]))
    if task.get("faults"):
        return Ended(error=JobError(Code.INVALID_REQUEST, f"the workflow gave no picture: {task['faults']}"))
    said = "the workflow ended without a picture; has it a SaveImage node?"
    return Ended(error=JobError(Code.NO_IMAGE, said, billed=False, final=True))


def _failed(messages: Any) -> JobError:
    told = [one for one in messages if isinstance(one, list) and one] if isinstance(messages, list) else []
    name, data = (told[-1][0], told[-1][1] if len(told[-1]) > 1 else None) if told else ("", None)
    if name == "execution_interrupted":
        return JobError(Code.SERVER, "the prompt was interrupted at the server; nothing was paid", billed=False)
    data = data if isinstance(data, dict) else {}
    kind, said = (" ".join(texts_in(data.get(key))) for key in ("exception_type", "exception_message"))
    node = " ".join(texts_in([data.get("node_type")])) or "a node"
    code = Code.INVALID_REQUEST if _OF_THE_JOB.search(kind) else Code.SERVER
    hint = "; lower limits.concurrency" if "OutOfMemory" in kind else ""
    return JobError(code, f"{tidy(f'{node} failed ({kind or chr(45)}): {said}', limit=300)}{hint}", billed=False)


def _images(outputs: Any) -> list[dict[str, str]]:
    """Return the pictures of all nodes, those that were saved; previews only where nothing was."""
    nodes = [node for node in outputs.values() if isinstance(node, dict)] if isinstance(outputs, dict) else []
    images = [image for node in nodes if isinstance(node.get("images"), list) for image in node["images"]]
    keys = ("filename", "subfolder", "type")
    named = [{key: str(image.get(key) or "") for key in keys} for image in images if isinstance(image, dict)]
    named = [image for image in named if image["filename"]]
    return [one for one in named if one["type"] == "output"] or [one for one in named if one["type"] == "temp"]


def _link(image: dict[str, str], answer: DocumentReader) -> Link:
    preview = _PREVIEW.get(answer.job.output_format or "jpeg")
    asked = image | ({"preview": preview} if preview else {})
    return Link(url=f"{answer.headers.get(BASE, '').rstrip('/')}/view?{urlencode(asked)}")


PROVIDERS = (ComfyUI(),)
