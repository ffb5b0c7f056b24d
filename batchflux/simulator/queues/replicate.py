"""Answer Replicate: create a prediction (and wait for it), get, list and cancel it; and the files API."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from aiohttp import web

from batchflux.simulator import replies
from batchflux.simulator.images import link
from batchflux.simulator.queues.base import Queue, Task, iso, moment, origin_of
from batchflux.simulator.replies import Refusal, Reply, json_reply, whole
from batchflux.simulator.webhooks import shared_secret

if TYPE_CHECKING:
    from batchflux.simulator.queues.base import Said
    from batchflux.simulator.requests import ImageRequest

_LONGEST_WAIT, _SHORTEST_LIFE = 60, 5
_WAIT = re.compile(r"wait(?:=(\d+))?", re.ASCII)
_LIFE = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", re.ASCII)
_FILE_LIFE = 24 * 3600.0
_PAGE = 100
# Task fault: the status that a prediction ends with, and why.
_FAILURES = {
    "task_error": ("failed", "Prediction failed: Error while calling the model (E1000)"),
    "task_failed": ("failed", "The model raised an error"),
    "content_moderated": (
        "failed",
        "The input or output was flagged as sensitive. Please try again with different inputs. (E005)",
    ),
    "task_aborted": ("aborted", None),
    "task_canceled": ("canceled", None),
}


class ReplicateQueue(Queue):
    """The handlers of predictions and files."""

    lists_inputs = True

    async def _accept(self, http: web.Request, request: ImageRequest, key: str) -> web.StreamResponse:
        _life(http)  # refused before anything is made
        return await super()._accept(http, request, key)

    def accepted(self, task: Task, http: web.Request) -> Reply:
        """Return the answer to a create; 202 where a wait ran out."""
        late = _waits(http) is not None and task.ended is None
        return json_reply(self._prediction(task, http), 202 if late else 201)

    async def answered(self, task: Task, http: web.Request) -> Reply:
        """Return the answer to a create, at the end of the prediction where it waits for it."""
        life = _life(http)
        if life is not None:
            task.data["deadline"] = task.created + life
            asyncio.get_running_loop().call_later(life, self._cancel, task, "aborted")
        if (wait := _waits(http)) is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(task.ends.wait(), wait)
        return self.accepted(task, http)

    def first(self, task: Task, http: web.Request) -> Said:
        """Return how a task stood at first."""
        del http
        return "starting", json_reply({"id": task.id, "status": "starting", "output": None, "error": None})

    def odd(self, task: Task, http: web.Request) -> Reply:
        """Return an answer with a status that nobody knows."""
        del http
        return json_reply({"id": task.id, "status": "rendering", "output": None, "error": None})

    def absent(self, http: web.Request, task: Task | None, *, code: int) -> Reply:
        """Return the answer for a task that is not found."""
        del http, task
        return json_reply({"detail": "The requested resource could not be found.", "status": 404}, code)

    def state(self, task: Task, http: web.Request) -> Said:
        """Return how a task stands."""
        said = self._prediction(task, http)
        return "Ready" if said["status"] == "succeeded" else said["status"], json_reply(said)

    async def stop(self, http: web.Request) -> web.StreamResponse:
        """Answer a cancel."""
        try:
            task = self.find(http.match_info["id"], self.key(http))
        except Refusal as refusal:
            return self.refused(refusal.reply)
        if task is None:
            return whole(self.absent(http, None, code=404), {})
        self._cancel(task)
        return whole(json_reply(self._prediction(task, http)), {})

    async def listed(self, http: web.Request) -> web.StreamResponse:
        """Answer a page of the predictions of a key, newest first."""
        try:
            key = self.key(http)
            after, before = moment(http, "created_after"), moment(http, "created_before")
        except Refusal as refusal:
            return self.refused(refusal.reply)
        start = int(http.query["cursor"]) if http.query.get("cursor", "").isdecimal() else 0
        found = [
            task
            for task in reversed(self._tasks.values())
            if task.owner == key and (after or 0) <= task.created <= (before or task.created)
        ]
        page, rest = found[start : start + _PAGE], len(found) > start + _PAGE
        query = {**http.query, "cursor": str(start + _PAGE)}
        following = str(http.url.with_query(query)) if rest else None
        results = [self._prediction(task, http) for task in page]
        return whole(json_reply({"previous": None, "next": following, "results": results}), {})

    async def signing_secret(self, http: web.Request) -> web.StreamResponse:
        """Answer by which secret the calls of webhooks are signed."""
        try:
            self.key(http)
        except Refusal as refusal:
            return self.refused(refusal.reply)
        return whole(json_reply(shared_secret()), {})

    async def upload(self, http: web.Request) -> web.StreamResponse:
        """Keep a file, and answer its URL."""
        try:
            self.key(http)
            content = (await http.post()).get("content")
            if not isinstance(content, web.FileField):
                raise replies.invalid("The file content is missing", "content")
            data = content.file.read()
            url = await self.store(http, data)
        except Refusal as refusal:
            return self.refused(refusal.reply)
        now, digest = time.time(), sha256(data).hexdigest()
        about = {"id": digest, "name": content.filename, "content_type": content.content_type, "size": len(data)}
        sums = {"etag": digest, "checksums": {"sha256": digest}, "metadata": {}}
        times = {"created_at": iso(now), "expires_at": iso(now + _FILE_LIFE)}
        return whole(json_reply({**about, **sums, **times, "urls": {"get": url}}, 201), {})

    def _cancel(self, task: Task, waiting: str = "canceled") -> None:
        """Cancel a prediction: one that has started is billed all the same, one that is `waiting` ends as that."""
        if task.ended is not None:
            return
        task.data["status"] = "canceled" if task.progress else waiting
        if task.progress:
            self.end(task)
        else:
            self.cancel(task)

    def _prediction(self, task: Task, http: web.Request) -> dict[str, Any]:
        request, base = task.request, f"{origin_of(http, 'replicate')}/v1/predictions/{task.id}"
        status, error = _status(task)
        model, _, version = request.model.partition(":")
        said = {
            "id": task.id,
            "model": model,
            "version": version or "hidden",
            "input": (self._bodies.of(task.id) or request.asks)["input"],
            "output": None,
            "error": error,
            "status": status,
            "logs": "",
            "source": "api",
            "data_removed": False,
            "created_at": iso(task.created),
            "started_at": None,
            "completed_at": None,
            "urls": {"get": base, "cancel": f"{base}/cancel", "web": base},
        }
        if "deadline" in task.data:
            said["deadline"] = iso(task.data["deadline"])
        if task.ended is None:
            return said | ({"started_at": iso(task.created)} if status == "processing" else {})
        took = round(task.ended - task.created, 6)
        metrics = {"predict_time": took, "total_time": took, "image_count": int(status == "succeeded")}
        said |= {"started_at": iso(task.created), "completed_at": iso(task.ended), "metrics": metrics}
        if status != "succeeded" or task.fault == "no_sample":
            return said
        if task.fault == "data_removed":
            return said | {"data_removed": True, "input": {}, "logs": None}
        self.seen(task)
        output = link(task.recipe, f"{http.scheme}://{http.host}", request.urls)
        return said | {"output": [output] if "as_list" in task.turn.faults else output}


def _status(task: Task) -> tuple[str, str | None]:
    if task.ended is None:
        return "processing" if task.progress else "starting", None
    if "status" in task.data:
        return task.data["status"], None
    return _FAILURES.get(task.fault, ("succeeded", None))


def _waits(http: web.Request) -> float | None:
    """Return how long a create waits, in seconds; None where it does not, or raise its Refusal."""
    found = _WAIT.fullmatch(http.headers.get("Prefer", "").strip())
    return None if found is None else min(_LONGEST_WAIT, int(found[1] or _LONGEST_WAIT))


def _life(http: web.Request) -> float | None:
    """Return how long a prediction may take, in seconds; None: as long as it likes."""
    said = http.headers.get("Cancel-After")
    if said is None:
        return None
    found = _LIFE.fullmatch(said.strip())
    seconds = (
        0
        if found is None
        else sum(int(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True))
    )
    if seconds < _SHORTEST_LIFE:
        raise replies.invalid(f"Cancel-After must be a duration of at least {_SHORTEST_LIFE} seconds", "Cancel-After")
    return float(seconds)
