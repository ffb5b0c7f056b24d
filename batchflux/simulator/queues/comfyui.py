"""Answer a ComfyUI server: prompt, history, queue, jobs, cancel, uploads and pictures. It asks for no key.

Its history is in memory only: a restart forgets it, and its files stay. A graph that it ran before, to the letter, is
served from the cache: no new picture, and without a client_id no outputs either.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from aiohttp import web

from batchflux.simulator.apis.comfyui import node_errors, wrong_input
from batchflux.simulator.images import decode, file_path
from batchflux.simulator.options import MIN_SIZE
from batchflux.simulator.queues.base import KEPT_TASKS, Queue, Task
from batchflux.simulator.replies import Refusal, Reply, json_reply, whole
from batchflux.simulator.requests import content_of, json_object, upload_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchflux.simulator.drawing import Recipe
    from batchflux.simulator.endpoint import Endpoint, Turn
    from batchflux.simulator.queues.base import Said
    from batchflux.simulator.replies import Api
    from batchflux.simulator.requests import ImageRequest, Upload

VERSION = "0.26.0"
# How a job ends in the history: the word of /api/jobs for it.
_WORDS = {"success": "completed", "error": "failed", "interrupted": "cancelled"}
# Task fault: how it ends, and by which exception.
_FAILURES = {
    "task_error": ("error", "RuntimeError", "The model could not be run"),
    "task_failed": ("error", "ValueError", "The input could not be used"),
    "out_of_memory": ("error", "torch.cuda.OutOfMemoryError", "Allocation on device"),
    "interrupted": ("interrupted", "", ""),
}


class ComfyQueue(Queue):
    """The handlers of one server. `files` are its pictures by name: what draws each; `inputs` its uploads' digests."""

    def __init__(self, endpoint: Endpoint, api: Api) -> None:
        super().__init__(endpoint, api)
        self._files: dict[str, str] = {}
        self._inputs: dict[str, str] = {}
        self._cache: dict[str, str] = {}
        self._number = self._made = 0

    async def _accept(self, http: web.Request, request: ImageRequest, key: str) -> web.StreamResponse:
        loaded = tuple(self._loaded(request))
        content = content_of(request.content, [upload.sha256 for upload in loaded])
        return await super()._accept(http, replace(request, uploads=loaded, content=content), key)

    def made(self, request: ImageRequest, recipe: Recipe, turn: Turn, key: str) -> Task:
        """Return the task of a graph, under the prompt_id that came with it."""
        asked = None if "own_prompt_id" in turn.faults else request.asks["prompt_id"]
        task = super().made(request, recipe, turn, key)
        self._number += 1
        task.id = asked or str(uuid4())
        task.data = {"number": self._number, "file": self._cache.get(_whole(request))}
        task.free = task.data["file"] is not None
        return task

    def begin(self, task: Task) -> None:
        """Take a graph into the queue; one of the same prompt_id is put behind the other, and hides it."""
        self._tasks.pop(task.id, None)
        super().begin(task)

    def end(self, task: Task) -> None:
        """End a job: its picture is on the disk."""
        if task.ended is None and task.billed and task.fault != "no_sample":
            task.data["file"] = self._written(task.request.asks["prefix"], task.recipe)
            _keep(self._cache, _whole(task.request), task.data["file"])
            if "preview_first" in task.turn.faults:
                small = task.recipe.model_copy(update={"size": MIN_SIZE})
                task.data["preview"] = self._written("ComfyUI_temp", small)
        super().end(task)

    def accepted(self, task: Task, http: web.Request) -> Reply:
        """Return the answer to a submit."""
        del http
        graph = task.request.asks["graph"]
        wrong = {}
        if "node_errors" in task.turn.faults:
            wrong = node_errors(
                graph, next(iter(graph)), "required_input_missing", "Required input is missing", "image"
            )
        return json_reply({"prompt_id": task.id, "number": task.data["number"], "node_errors": wrong})

    def first(self, task: Task, http: web.Request) -> Said:
        """Return how a job stood at first."""
        return "pending", _unfinished(http, {"id": task.id, "status": "pending"})

    def odd(self, task: Task, http: web.Request) -> Reply:
        """Return an answer with a status that nobody knows."""
        return _unfinished(http, {"id": task.id, "status": "rendering"})

    def absent(self, http: web.Request, task: Task | None, *, code: int) -> Reply:
        """Return the answer for a job that is not found."""
        del task
        return _unfinished(http, {"error": "Job not found"}, code)

    def state(self, task: Task, http: web.Request) -> Said:
        """Return how a job stands, as /api/jobs says it, or /history."""
        if task.ended is None:
            word = "in_progress" if task.progress else "pending"
            return word, _unfinished(http, {"id": task.id, "status": word, "create_time": int(task.created * 1000)})
        ending = "interrupted" if task.cancelled else _FAILURES.get(task.fault, ("success",))[0]
        outputs = self._outputs(task) if ending == "success" else {}
        if outputs:
            self.seen(task)
        word = "Ready" if outputs else _WORDS[ending]
        if _is_history(http):
            return word, json_reply({task.id: _entry(task, ending, outputs)})
        said: dict[str, Any] = {"id": task.id, "status": _WORDS[ending], "create_time": int(task.created * 1000)}
        failed = {"execution_error": _exception(task)} if ending == "error" else {}
        return word, json_reply({**said, "outputs": outputs, "outputs_count": len(outputs), **failed})

    async def job(self, http: web.Request) -> web.StreamResponse:
        """Answer a poll of /api/jobs or /history, whose `{}` is a job that has not ended, or one nobody knows."""
        task = self._tasks.get(http.match_info["id"])
        if task is not None and "no_jobs_api" in task.turn.faults and not _is_history(http):
            return self.said("no jobs", Reply(status=404, content_type="text/plain", body=b"404: Not Found"))
        if task is not None and task.fault == "restart":
            for one in self._tasks.values():
                self.cancel(one)
            self._tasks.clear()
            self._cache.clear()
        return await self.poll(http)

    def queue(self) -> dict[str, Any]:
        """Return what runs and what waits."""
        rows: dict[bool, list[Any]] = {True: [], False: []}
        for task in self._tasks.values():
            if task.ended is None:
                rows[task.progress > 0].append(_row(task))
        return {"queue_running": rows[True], "queue_pending": rows[False]}

    async def unqueue(self, http: web.Request) -> web.StreamResponse:
        """Take what waits out of the queue."""
        body = await _json(http)
        for name in body.get("delete", []) if not body.get("clear") else [*self._tasks]:
            task = self._tasks.get(name)
            if task is not None and not task.progress:
                self.cancel(task)
        return whole(Reply(), {})

    async def interrupt(self, http: web.Request) -> web.StreamResponse:
        """End what runs: the job of that prompt_id, or, without one, whatever it is."""
        wanted = (await _json(http)).get("prompt_id")
        for task in self._tasks.values():
            if task.progress and wanted in (None, task.id):
                self.cancel(task)
        return whole(Reply(), {})

    async def stop(self, http: web.Request) -> web.StreamResponse:
        """Answer a cancel of one job."""
        task = self._tasks.get(http.match_info["id"])
        if task is None:
            return whole(json_reply({"error": "Job not found"}, 404), {})
        alive = task.ended is None
        self.cancel(task)
        return whole(json_reply({"cancelled": alive}), {})

    async def upload(self, http: web.Request) -> web.StreamResponse:
        """Keep a picture under its name; another of that name gets a number behind it, unless it may be overwritten."""
        form = await http.post()
        image = form.get("image")
        if not isinstance(image, web.FileField) or not image.filename:
            return whole(Reply(status=400), {})
        data = image.file.read()
        try:
            await self.store(http, data)
        except Refusal:
            return whole(Reply(status=400), {})
        folder, digest = str(form.get("subfolder", "")), sha256(data).hexdigest()
        path, number = PurePosixPath(image.filename), 1
        name = path.name
        if form.get("overwrite") not in ("true", "1"):
            while self._inputs.get(_place(folder, name), digest) != digest:
                name, number = f"{path.stem} ({number}){path.suffix}", number + 1
        _keep(self._inputs, _place(folder, name), digest)
        return whole(json_reply({"name": name, "subfolder": folder, "type": "input"}), {})

    def view(self, http: web.Request) -> str:
        """Return what draws the picture that /view is asked for, or raise what it answers in its place."""
        name, folder = http.query.get("filename", ""), http.query.get("subfolder", "")
        if not name or name.startswith("/") or ".." in name:
            raise Refusal(Reply(status=400))
        if ".." in folder:
            raise Refusal(Reply(status=403))
        found = self._files.get(_place(folder, name))
        if found is None:
            raise Refusal(Reply(status=404))
        kind = http.query.get("preview", "").partition(";")[0]
        if kind in ("jpeg", "webp"):
            return file_path(decode(found).model_copy(update={"output_format": kind}))
        return found

    def stats(self) -> dict[str, Any]:
        """Return what the server is."""
        return {"system": {"os": "posix", "comfyui_version": VERSION, "argv": ["main.py"]}, "devices": []}

    def _written(self, prefix: Any, recipe: Recipe) -> str:
        """Put a picture on the disk and return its path."""
        self._made += 1
        path = f"{prefix if isinstance(prefix, str) else 'ComfyUI'}_{self._made:05d}_.png"
        _keep(self._files, path, file_path(recipe))
        return path

    def _loaded(self, request: ImageRequest) -> Iterator[Upload]:
        """Yield the uploads that a graph loads, or raise the Refusal of one that is not there."""
        graph = request.asks["graph"]
        for name, node in graph.items():
            if node["class_type"] == "LoadImage":
                image = node["inputs"].get("image")
                digest = self._inputs.get(image) if isinstance(image, str) else None
                if digest is None:
                    raise Refusal(wrong_input(graph, name, "value_not_in_list", "Value not in list", "image", image))
                yield upload_of(self._endpoint.cache.read(digest, "orig"), f"{name}.image")

    def _outputs(self, task: Task) -> dict[str, Any]:
        asks = task.request.asks
        if task.data["file"] is None or (task.free and not asks["client_id"]):
            return {}
        images = [_image(task.data["file"], asks["type"])]
        if "preview" in task.data:
            images.insert(0, _image(task.data["preview"], "temp"))
        return {asks["output"]: {"images": images}}


def _whole(request: ImageRequest) -> str:
    """Return what a graph must equal, to the letter, to be served from the cache."""
    return f"{request.asks['whole']} {request.content}"


def _image(path: str, kind: str) -> dict[str, str]:
    folder, _, name = path.rpartition("/")
    return {"filename": name, "subfolder": folder, "type": kind}


def _place(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _row(task: Task) -> list[Any]:
    asks = task.request.asks
    return [task.data["number"], task.id, asks["graph"], {"client_id": asks["client_id"]}, [asks["output"]]]


def _entry(task: Task, ending: str, outputs: dict[str, Any]) -> dict[str, Any]:
    about = {"prompt_id": task.id, "timestamp": int((task.ended or 0) * 1000)}
    messages: list[Any] = [["execution_start", about], ["execution_cached", {**about, "nodes": []}]]
    last = {"success": about, "interrupted": about, "error": about | _exception(task)}[ending]
    messages.append([f"execution_{ending}", last])
    done = ending == "success"
    status = {"status_str": "success" if done else "error", "completed": done, "messages": messages}
    said = {"prompt": _row(task), "outputs": outputs, "meta": {}}
    return {**said, "status": None if "null_status" in task.turn.faults else status}


def _exception(task: Task) -> dict[str, Any]:
    _, kind, message = _FAILURES.get(task.fault, ("", "", ""))
    node = task.request.asks["output"]
    said = {"exception_message": message, "exception_type": kind, "traceback": []}
    return {"prompt_id": task.id, "node_id": node, "node_type": "SaveImage", "executed": [], **said}


def _is_history(http: web.Request) -> bool:
    return "/history/" in http.path


def _unfinished(http: web.Request, body: dict[str, Any], code: int = 200) -> Reply:
    return json_reply({}) if _is_history(http) else json_reply(body, code)


def _keep(kept: dict[str, str], name: str, value: str) -> None:
    """Put a value behind the others, and forget the oldest."""
    kept.pop(name, None)
    kept[name] = value
    if len(kept) > KEPT_TASKS:
        del kept[next(iter(kept))]


async def _json(http: web.Request) -> dict[str, Any]:
    try:
        return json_object(await http.read() or b"{}")
    except Refusal:
        return {}
