"""Answer the APIs that make a task of a request: submit, then poll until the task has ended.

`bfl` has `x-key` for a key; `relay` is the same below `/flux` with a bearer token, its statuses in other words and
cases, and a polling_url that leads to a foreign host. Tasks are found only by the key that submitted them.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from batchflux.simulator import replies
from batchflux.simulator.apis import told
from batchflux.simulator.endpoint import authorize
from batchflux.simulator.faults import FAULTY_POLLS, SLOW_POLLS
from batchflux.simulator.images import link
from batchflux.simulator.replies import Refusal, Reply, json_reply, whole
from batchflux.simulator.requests import TASK_MODELS

if TYPE_CHECKING:
    from aiohttp import web

    from batchflux.simulator.drawing import Recipe
    from batchflux.simulator.endpoint import Endpoint, Turn
    from batchflux.simulator.replies import Api
    from batchflux.simulator.requests import ImageRequest

READY, NOT_FOUND = "Ready", "Task not found"
FOREIGN_ORIGIN = "https://api.us1.bfl.ai"
BFL_ACTIVE_TASKS = 24
KEPT_TASKS = 4_096
STARTING_CREDITS = 10_000.0
_PROGRESS = ("Pending", "Reasoning", "Generating")
_MEGAPIXELS = 1.05
# Fault: the status that the task ends with, and why.
_FAILURES = {
    "task_error": ("Error", "The task could not be processed"),
    "task_error_503": ("Error", "The task could not be processed"),
    "task_failed": ("Failed", "The task has failed"),
    "request_moderated": ("Request Moderated", "Violence"),
    "content_moderated": ("Content Moderated", "Derivative Works Filter"),
}
_RELAY_WORDS = {
    "Pending": ("pending", "PENDING", "queued", "not_start", "submitted"),
    "Reasoning": ("processing", "in_progress", "IN_PROGRESS"),
    "Generating": ("processing", "in_progress", "IN_PROGRESS"),
    READY: ("READY", "ready", "SUCCESS", "succeeded", "completed"),
    "Error": ("error", "ERROR", "failure"),
    "Failed": ("failed", "FAILED", "failure", "cancelled", "expired"),
}
# Poll fault: the fault of a submit that gives the same answer, where it is not a `server_...` of the same name.
_POLL_ERRORS = {"429": "rate_limited", "401": "auth", "bad_json": "bad_json"}


@dataclass(slots=True, kw_only=True)
class Task:
    """One accepted request. `owner` is the key that submitted it; times are epoch seconds."""

    owner: str = field(repr=False)
    request: ImageRequest = field(repr=False)
    recipe: Recipe
    turn: Turn
    id: str = field(default_factory=lambda: str(uuid4()))
    created: float = field(default_factory=time.time)
    ended: float | None = None
    polls: int = 0
    given: bool = False

    @property
    def price(self) -> float:
        """What the task costs once it is Ready, in credits."""
        return TASK_MODELS[self.request.model].credits / (2 if "settled_lower" in self.turn.faults else 1)

    @property
    def end(self) -> str:
        """The status that the task ends with."""
        return _FAILURES[self.turn.of("task")][0] if self.turn.of("task") in _FAILURES else READY

    @property
    def progress(self) -> float:
        """How far the task is, from 0 to 1."""
        if self.ended is not None:
            return 1.0
        if self.turn.of("task") == "task_slow":
            return self.polls / (SLOW_POLLS + 1)
        if self.turn.of("task") == "task_stuck" or not self.turn.latency:
            return 0.0
        return min(0.99, max(0.0, (time.time() - self.created) / self.turn.latency))

    @property
    def status(self) -> str:
        """The status in BFL's words."""
        return _PROGRESS[int(self.progress * len(_PROGRESS))] if self.ended is None else self.end


class Tasks:
    """The handlers of both task APIs, and their tasks; `active` counts the unfinished ones by API and key."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._tasks: dict[str, Task] = {}
        self._finished: deque[str] = deque()
        self.active: Counter[tuple[Api, str]] = Counter()

    async def submit(self, http: web.Request, api: Api) -> web.StreamResponse:
        """Answer a submit."""
        model = http.match_info["model"]
        if api == "bfl" and model not in TASK_MODELS:  # an unknown path is said before the key is looked at
            self._endpoint.journal.received += 1
            return self._endpoint.response(replies.model_not_found(model), api)
        return await self._endpoint.admit(http, api, self._accept, model)

    async def poll(self, http: web.Request, api: Api) -> web.StreamResponse:
        """Answer a poll."""
        try:
            key = authorize(http.headers, api, self._endpoint.options.keys)
            if not http.query.get("id"):
                raise replies.invalid("id is required.", "id", code="missing_parameter")
        except Refusal as refusal:
            return self._poll_error(refusal.reply, api)
        task = self._tasks.get(http.query["id"])
        if task is None or (task.request.api, task.owner) != (api, key):
            return self._polled(NOT_FOUND, {"id": http.query["id"], "status": NOT_FOUND, "result": None}, 404)
        task.polls += 1
        if task.turn.of("poll") and task.polls <= FAULTY_POLLS:
            return await self._faulty_poll(http, task)
        if task.turn.of("task") == "task_slow" and task.polls > SLOW_POLLS:
            self._end(task)
        match task.turn.of("task"), task.polls:
            case ("task_vanished", 1):
                status, code = _PROGRESS[0], 200
            case ("task_never_found" | "task_vanished", _) | ("task_not_found", 1):
                status, code = NOT_FOUND, 404
            case ("task_not_found", 2):
                status, code = NOT_FOUND, 200
            case _:
                code = 503 if task.ended is not None and task.turn.of("task") == "task_error_503" else 200
                return self._polled(task.status, self._state(task, http), code)
        return self._polled(status, _body(task, status), code)

    async def credits(self, http: web.Request) -> web.Response:
        """Answer how many credits are left."""
        reply = json_reply({"credits": STARTING_CREDITS - self._endpoint.journal.credits})
        try:
            authorize(http.headers, "bfl", self._endpoint.options.keys)
        except Refusal as refusal:
            reply = replies.as_detail(refusal.reply)
        return whole(reply, {})

    async def _accept(self, http: web.Request, request: ImageRequest, key: str) -> web.StreamResponse:
        endpoint, api = self._endpoint, request.api
        most = endpoint.options.active_tasks or (BFL_ACTIVE_TASKS if api == "bfl" else None)
        if most is not None and self.active[api, key] >= most:
            message = f"Active tasks limit exceeded: at most {most} unfinished tasks are allowed."
            raise Refusal(replies.error_reply(429, message, "requests", "active_tasks_limit"))
        turn = endpoint.turn(request)
        if (instead := await endpoint.instead(http, request, turn)) is not None:
            return instead
        recipe = await endpoint.recipe(request, turn)
        request = replace(request, uploads=())  # their bytes are in the cache
        task = Task(owner=key, request=request, recipe=recipe, turn=turn)
        self._tasks[task.id] = task
        self.active[api, key] += 1
        if api == "relay":
            endpoint.journal.bill(request.content, task=task.id, price=task.price)
        if turn.of("task") not in ("task_slow", "task_stuck"):
            if turn.latency and "at_once" not in turn.faults:
                asyncio.get_running_loop().call_later(turn.latency, self._end, task)
            else:
                self._end(task)
        if "reset" in turn.faults:
            return replies.reset(http)
        if "at_once" in turn.faults:
            await endpoint.pause(turn.latency)
        reply = json_reply(self._accepted(task, http))
        return await endpoint.cut(http, reply) if "cut" in turn.faults else endpoint.response(reply, api)

    def _end(self, task: Task) -> None:
        """End a task, once: settle what it costs, and forget the oldest finished ones."""
        if task.ended is not None or self._endpoint.closing.is_set():
            return
        task.ended = time.time()
        api = task.request.api
        self.active[api, task.owner] -= 1
        if (task.end == READY) == (api == "bfl"):
            self._endpoint.journal.bill(task.request.content, task=task.id, price=task.price, refund=api == "relay")
        self._finished.append(task.id)
        if len(self._finished) > KEPT_TASKS:
            del self._tasks[self._finished.popleft()]

    async def _faulty_poll(self, http: web.Request, task: Task) -> web.StreamResponse:
        fault, api = task.turn.of("poll").removeprefix("poll_"), task.request.api
        chunks = task.turn.chunks(task.request.model)
        if fault == "odd_status":
            return self._polled("Rendering", {**_body(task, "Pending"), "status": "Rendering"})
        if reply := replies.error_answer(_POLL_ERRORS.get(fault, f"server_{fault}"), api, chunks):
            return self._poll_error(reply, api)
        self._endpoint.journal.polls[fault] += 1
        return await self._endpoint.hang(http) if fault == "hang" else replies.reset(http)

    def _poll_error(self, reply: Reply, api: Api) -> web.Response:
        said = told(reply, api)
        self._endpoint.journal.polls[str(said.status)] += 1
        return whole(said, {})

    def _polled(self, status: str, body: dict[str, Any], code: int = 200) -> web.Response:
        self._endpoint.journal.polls[status] += 1
        return whole(json_reply(body, code), {})

    def _accepted(self, task: Task, http: web.Request) -> dict[str, Any]:
        form, request = task.turn.faults, task.request
        if "no_task_id" in form:
            return {"status": "Pending"}
        if "at_once" in form:
            return self._state(task, http)
        body: dict[str, Any] = {"id": task.id}
        if request.webhook_url is not None and request.api == "bfl":
            body |= {"status": "Pending", "webhook_url": request.webhook_url}
        elif "no_polling_url" not in form:
            origin = FOREIGN_ORIGIN if request.api == "relay" else f"{http.scheme}://{http.host}"
            body["polling_url"] = f"{'' if 'relative_polling_url' in form else origin}/v1/get_result?id={task.id}"
        if request.api == "bfl":
            model = TASK_MODELS[request.model]
            body["cost"] = None if model.priced_by_result or "no_cost" in form else model.credits
            body |= {"input_mp": round(_MEGAPIXELS * len(task.recipe.references), 2), "output_mp": _MEGAPIXELS}
        return body

    def _state(self, task: Task, http: web.Request) -> dict[str, Any]:
        body = _body(task, task.status)
        if task.status != READY or task.turn.of("task") == "no_sample":
            return body
        recipe, request = task.recipe, task.request
        if not task.given:
            task.given = True
            self._endpoint.journal.answer(request.content)
            if task.turn.of("task") == "expired_link":
                recipe = recipe.model_copy(update={"fault": "dead_link", "turn": task.turn.number})
        sample = link(recipe, f"{http.scheme}://{http.host}", request.urls)
        if "sample_on_top" in task.turn.faults:
            return {"id": task.id, "status": body["status"], "sample": sample}
        began, ended = task.created, task.ended or task.created
        seed = int(recipe.digest[:7], 16) if request.seed is None else request.seed
        times = {"start_time": began, "end_time": ended, "duration": ended - began}
        return body | {"result": {"sample": sample, "prompt": request.prompt, "seed": seed, **times}}


def _body(task: Task, status: str) -> dict[str, Any]:
    """Return the answer that says a status, without a picture; relays say the reason of a failure in three places."""
    relay = task.request.api == "relay"
    words = _RELAY_WORDS.get(status, (status, status.upper(), status.lower())) if relay else (status,)
    body: dict[str, Any] = {"id": task.id, "status": task.turn.pick(status, words), "result": None}
    if status == NOT_FOUND:
        return body
    body |= {"progress": round(task.progress, 2), "details": None, "preview": None}
    if status == READY and not relay and "no_cost" not in task.turn.faults:
        body["cost"] = task.price
    if task.turn.of("task") not in _FAILURES or status != task.end:
        return body
    reason = _FAILURES[task.turn.of("task")][1]
    if status.endswith("Moderated"):
        return body | {"details": {"Moderation Reasons": [reason]}}
    if not relay:
        return body | {"details": {"error": reason}}
    return body | task.turn.pick("place", ({"error": reason}, {"details": reason}, {"result": {"error": reason}}))
