"""Answer the APIs that make a task of a request: submit, then poll until the task has ended.

`bfl` is `POST /v1/{model}`, `GET /v1/get_result?id=` and `GET /v1/credits` with `x-key`. `relay` is the same below
`/flux` with a bearer token; its statuses are written in other words and cases, and its polling_url leads to a foreign
host. Tasks live in memory, the last finished ones included, and are found only by the key that submitted them.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from batchflux.simulator import replies
from batchflux.simulator.endpoint import authorize, check_active_tasks
from batchflux.simulator.faults import FAULTY_POLLS, SLOW_POLLS, fraction
from batchflux.simulator.images import links, recipe_for
from batchflux.simulator.replies import (
    Chunks,
    Refusal,
    Reply,
    as_detail,
    dumps,
    error_answer,
    invalid,
    model_not_found,
    whole,
)
from batchflux.simulator.requests import TASK_MODELS, parse_submit

if TYPE_CHECKING:
    from aiohttp import web

    from batchflux.simulator.drawing import Recipe
    from batchflux.simulator.endpoint import Endpoint, Turn
    from batchflux.simulator.replies import Api
    from batchflux.simulator.requests import ImageRequest

READY, NOT_FOUND = "Ready", "Task not found"
ODD_STATUS = "Rendering"
FOREIGN_ORIGIN = "https://api.us1.bfl.ai"
KEPT_TASKS = 4_096
STARTING_CREDITS = 10_000.0
_PROGRESS = ("Pending", "Reasoning", "Generating")
_MEGAPIXELS = 1.05
_ENDS = {
    "task_error": "Error",
    "task_error_503": "Error",
    "task_failed": "Failed",
    "request_moderated": "Request Moderated",
    "content_moderated": "Content Moderated",
}
_REASONS = {
    "Error": "The task could not be processed",
    "Failed": "The task has failed",
    "Request Moderated": "Violence",
    "Content Moderated": "Derivative Works Filter",
}
_RELAY_WORDS = {
    "Pending": ("pending", "PENDING", "queued", "not_start", "submitted"),
    "Reasoning": ("processing", "in_progress", "IN_PROGRESS"),
    "Generating": ("processing", "in_progress", "IN_PROGRESS"),
    READY: ("READY", "ready", "SUCCESS", "succeeded", "completed"),
    "Error": ("error", "ERROR", "failure"),
    "Failed": ("failed", "FAILED", "failure", "cancelled", "expired"),
    "Request Moderated": ("Request Moderated", "REQUEST MODERATED", "request moderated"),
    "Content Moderated": ("Content Moderated", "CONTENT MODERATED", "content moderated"),
    NOT_FOUND: (NOT_FOUND, "TASK NOT FOUND", "task not found"),
}
# Poll fault: the fault of a submit that gives the same answer.
_POLL_ERRORS = {
    "poll_429": "rate_limited",
    "poll_500": "server_500",
    "poll_502_html": "server_502_html",
    "poll_503": "server_503",
    "poll_401": "auth",
    "poll_bad_json": "bad_json",
}


@dataclass(slots=True, kw_only=True)
class Task:
    """One accepted request. `owner` is the key that submitted it, `price` in credits; times are epoch seconds."""

    id: str
    owner: str = field(repr=False)
    request: ImageRequest = field(repr=False)
    recipe: Recipe
    turn: Turn
    price: float
    created: float
    ended: float | None = None
    polls: int = 0
    given: bool = False

    @property
    def fault(self) -> str | None:
        """The fault that decides how the task ends."""
        return self.turn.faults.task

    @property
    def end(self) -> str:
        """The status that the task ends with."""
        return _ENDS.get(self.fault or "", READY)

    @property
    def settled_price(self) -> float:
        """What the task costs once it is Ready."""
        return self.price / 2 if "settled_lower" in self.turn.faults.form else self.price

    @property
    def progress(self) -> float:
        """How far the task is, from 0 to 1."""
        if self.ended is not None:
            return 1.0
        if self.fault == "task_slow":
            return self.polls / (SLOW_POLLS + 1)
        if self.fault == "task_stuck" or not self.turn.latency:
            return 0.0
        return min(0.99, max(0.0, (time.time() - self.created) / self.turn.latency))

    @property
    def status(self) -> str:
        """The status in BFL's words."""
        if self.ended is not None:
            return self.end
        return _PROGRESS[int(self.progress * len(_PROGRESS))]


class Tasks:
    """The handlers of both task APIs, and their tasks; `close` stops what is not finished."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._tasks: dict[str, Task] = {}
        self._finished: deque[str] = deque()
        self._active: Counter[tuple[Api, str]] = Counter()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    @property
    def active(self) -> int:
        """How many tasks are unfinished."""
        return self._active.total()

    def close(self) -> None:
        """Stop the tasks that are not finished."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    async def submit(self, http: web.Request, api: Api) -> web.StreamResponse:
        """Answer a submit."""
        model = http.match_info["model"]
        if api == "bfl" and model not in TASK_MODELS:  # an unknown path is said before the key is looked at
            self._endpoint.journal.received += 1
            return self._endpoint.response(model_not_found(model).reply, api)

        async def answer(raw: bytes, key: str) -> web.StreamResponse:
            request = await self._endpoint.validated(raw, partial(parse_submit, api, model))
            check_active_tasks(self._active[api, key], self._endpoint.options.active_tasks, api)
            return await self._accept(http, request, key)

        return await self._endpoint.admit(http, api, answer)

    async def poll(self, http: web.Request, api: Api) -> web.StreamResponse:
        """Answer a poll."""
        try:
            task = self._find(http, api)
        except Refusal as refusal:
            return self._poll_error(refusal.reply, api)
        if task is None:
            return self._polled(NOT_FOUND, {"id": http.query["id"], "status": NOT_FOUND, "result": None}, 404)
        task.polls += 1
        fault = task.turn.faults.poll
        if fault is not None and task.polls <= FAULTY_POLLS:
            return await self._faulty_poll(http, task, fault)
        if task.fault == "task_slow" and task.polls > SLOW_POLLS:
            self._end(task)
        if (status := _not_found(task)) is not None:
            return self._polled(NOT_FOUND, _body(task, NOT_FOUND), status)
        if task.fault == "task_vanished":
            return self._polled(_PROGRESS[0], _body(task, _PROGRESS[0]))
        code = 503 if task.ended is not None and task.fault == "task_error_503" else 200
        return self._polled(task.status, self._state(task, http), code)

    async def credits(self, http: web.Request) -> web.Response:
        """Answer how many credits are left."""
        try:
            authorize(http.headers, "bfl", self._endpoint.options.keys)
        except Refusal as refusal:
            return whole(as_detail(refusal.reply), {})
        return whole(Reply(body=dumps({"credits": STARTING_CREDITS - self._endpoint.journal.credits})), {})

    async def _accept(self, http: web.Request, request: ImageRequest, key: str) -> web.StreamResponse:
        turn = self._endpoint.turn(request)
        if turn.faults.instead == "hang":
            await self._endpoint.closing.wait()
            return replies.reset(http)
        if error := turn.error_answer(request.api, _chunks(request)):
            return self._endpoint.response(error, request.api)
        task = await self._create(request, key, turn)
        if turn.faults.instead == "reset":
            return replies.reset(http)
        if "at_once" in turn.faults.form:
            await self._endpoint.pause(turn.latency)
        reply = Reply(body=dumps(self._accepted(task, http)))
        if turn.faults.instead == "cut":
            self._endpoint.journal.by_status[reply.status] += 1
            return await replies.cut(http, reply, self._endpoint.throttle.headers())
        return self._endpoint.response(reply, request.api)

    async def _create(self, request: ImageRequest, key: str, turn: Turn) -> Task:
        options = self._endpoint.options
        recipe = recipe_for(request, options.size, fault=turn.faults.link, turn=turn.number, salt=options.salt)
        await self._endpoint.images.keep_echo(request, recipe)
        task = Task(
            id=str(uuid4()),
            owner=key,
            request=replace(request, uploads=()),  # their bytes are in the cache
            recipe=recipe,
            turn=turn,
            price=TASK_MODELS[request.model].credits,
            created=time.time(),
        )
        self._tasks[task.id] = task
        self._active[request.api, key] += 1
        if request.api == "relay":
            self._endpoint.journal.bill(request.content, task=task.id, price=task.settled_price)
        if task.fault in ("task_slow", "task_stuck"):
            return task
        if turn.latency and "at_once" not in turn.faults.form:
            self._timers[task.id] = asyncio.get_running_loop().call_later(turn.latency, self._end, task)
        else:
            self._end(task)
        return task

    def _end(self, task: Task) -> None:
        """End a task, once: settle what it costs, and forget the oldest finished ones."""
        if task.ended is not None:
            return
        self._timers.pop(task.id, None)
        task.ended = time.time()
        self._active[task.request.api, task.owner] -= 1
        journal, content = self._endpoint.journal, task.request.content
        if task.request.api == "bfl" and task.end == READY:
            journal.bill(content, task=task.id, price=task.settled_price)
        elif task.request.api == "relay" and task.end != READY:
            journal.refund(content, task=task.id, price=task.settled_price)
        self._finished.append(task.id)
        if len(self._finished) > KEPT_TASKS:
            del self._tasks[self._finished.popleft()]

    def _find(self, http: web.Request, api: Api) -> Task | None:
        key = authorize(http.headers, api, self._endpoint.options.keys)
        if not http.query.get("id"):
            raise invalid("id is required.", "id", code="missing_parameter")
        task = self._tasks.get(http.query["id"])
        return task if task is not None and (task.request.api, task.owner) == (api, key) else None

    async def _faulty_poll(self, http: web.Request, task: Task, fault: str) -> web.StreamResponse:
        if fault == "poll_odd_status":
            return self._polled(ODD_STATUS, {**_body(task, "Pending"), "status": ODD_STATUS})
        if reply := error_answer(_POLL_ERRORS.get(fault, ""), task.request.api, _chunks(task.request)):
            return self._poll_error(reply, task.request.api)
        self._endpoint.journal.polls[fault.removeprefix("poll_")] += 1
        if fault == "poll_hang":
            await self._endpoint.closing.wait()
        return replies.reset(http)

    def _poll_error(self, reply: Reply, api: Api) -> web.Response:
        told = as_detail(reply) if api == "bfl" else reply
        self._endpoint.journal.polls[str(told.status)] += 1
        return whole(told, {})

    def _polled(self, status: str, body: dict[str, Any], code: int = 200) -> web.Response:
        self._endpoint.journal.polls[status] += 1
        return whole(Reply(status=code, body=dumps(body)), {})

    def _accepted(self, task: Task, http: web.Request) -> dict[str, Any]:
        """Return the answer of a submit."""
        form = task.turn.faults.form
        if task.turn.faults.instead == "no_task_id":
            return {"status": "Pending"}
        if "at_once" in form:
            return self._state(task, http)
        path = f"/v1/get_result?id={task.id}"
        body: dict[str, Any] = {"id": task.id}
        if task.request.webhook_url is not None and task.request.api == "bfl":
            body |= {"status": "Pending", "webhook_url": task.request.webhook_url}
        elif "no_polling_url" not in form:
            origin = FOREIGN_ORIGIN if task.request.api == "relay" else f"{http.scheme}://{http.host}"
            body["polling_url"] = path if "relative_polling_url" in form else f"{origin}{path}"
        if task.request.api == "bfl":
            megapixels = {"input_mp": round(_MEGAPIXELS * len(task.recipe.references), 2), "output_mp": _MEGAPIXELS}
            body |= {"cost": _quoted(task), **megapixels}
        return body

    def _state(self, task: Task, http: web.Request) -> dict[str, Any]:
        """Return the answer of a poll that finds the task."""
        body = _body(task, task.status)
        if task.status != READY or task.fault == "no_sample":
            return body
        recipe = task.recipe
        if task.fault == "expired_link" and not task.given:
            recipe = replace(recipe, fault="dead_link", turn=task.turn.number)
        if not task.given:
            task.given = True
            self._endpoint.journal.answer(task.request.content)
        sample = links(recipe, f"{http.scheme}://{http.host}", task.request.urls).url
        if "sample_on_top" in task.turn.faults.form:
            return {"id": task.id, "status": body["status"], "sample": sample}
        ended = task.ended or task.created
        body["result"] = {
            "sample": sample,
            "prompt": task.request.prompt,
            "seed": task.request.seed if task.request.seed is not None else int(task.recipe.digest[:7], 16),
            "start_time": task.created,
            "end_time": ended,
            "duration": ended - task.created,
        }
        return body


def _chunks(request: ImageRequest) -> Chunks:
    return Chunks(id="", created=int(time.time()), model=request.model)


def _quoted(task: Task) -> float | None:
    unknown = TASK_MODELS[task.request.model].priced_by_result or "no_cost" in task.turn.faults.form
    return None if unknown else task.price


def _not_found(task: Task) -> int | None:
    """Return the HTTP status of a poll that does not find the task, None when it does."""
    if task.fault == "task_never_found" or (task.fault == "task_vanished" and task.polls > 1):
        return 404
    return {1: 404, 2: 200}.get(task.polls) if task.fault == "task_not_found" else None


def _body(task: Task, status: str) -> dict[str, Any]:
    """Return the answer that says a status, without a picture."""
    relay = task.request.api == "relay"
    body: dict[str, Any] = {"id": task.id, "status": _relay_word(task, status) if relay else status, "result": None}
    if status == NOT_FOUND:
        return body
    body |= {"progress": round(task.progress, 2), "details": None, "preview": None}
    if status == READY and not relay and "no_cost" not in task.turn.faults.form:
        body["cost"] = task.settled_price
    if status in _REASONS:
        _explain(task, status, body)
    return body


def _relay_word(task: Task, status: str) -> str:
    words = _RELAY_WORDS[status]
    return words[int(fraction(status, *task.turn.chance) * len(words))]


def _explain(task: Task, status: str, body: dict[str, Any]) -> None:
    """Put the reason of a failure where the API says it; relays know three places."""
    reason = _REASONS[status]
    if status.endswith("Moderated"):
        body["details"] = {"Moderation Reasons": [reason]}
    elif task.request.api == "bfl":
        body["details"] = {"error": reason}
    else:
        place = int(fraction("place", *task.turn.chance) * 3)
        body |= ({"error": reason}, {"details": reason}, {"result": {"error": reason}})[place]
