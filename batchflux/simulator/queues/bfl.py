"""Answer BFL's own API, and relays that speak it: submit, then poll until the task has ended.

`bfl` has `x-key` for a key; `relay` is the same below `/flux` with a bearer token, its statuses in other words and
cases, and a polling_url that leads to a foreign host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from batchflux.simulator import replies
from batchflux.simulator.books import STARTING_CREDITS
from batchflux.simulator.endpoint import authorize
from batchflux.simulator.images import link
from batchflux.simulator.queues.base import Queue
from batchflux.simulator.replies import Refusal, Reply, json_reply, whole
from batchflux.simulator.requests import TASK_MODELS

if TYPE_CHECKING:
    from aiohttp import web

    from batchflux.simulator.queues.base import Said, Task

READY, NOT_FOUND = "Ready", "Task not found"
FOREIGN_ORIGIN = "https://api.us1.bfl.ai"
BFL_ACTIVE_TASKS = 24
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


class BflQueue(Queue):
    """The handlers of BFL's own API."""

    most_active: ClassVar[int | None] = BFL_ACTIVE_TASKS

    async def submit(self, http: web.Request) -> web.StreamResponse:
        """Answer a submit."""
        model = http.match_info["model"]
        if self.api == "bfl" and model not in TASK_MODELS:  # an unknown path is said before the key is looked at
            self._endpoint.journal.received += 1
            return self._endpoint.response(replies.model_not_found(model), self.api)
        return await super().submit(http)

    async def credits(self, http: web.Request) -> web.Response:
        """Answer how many credits are left."""
        reply = json_reply({"credits": STARTING_CREDITS - self._endpoint.journal.credits})
        try:
            authorize(http.headers, "bfl", self._endpoint.options.keys)
        except Refusal as refusal:
            reply = replies.as_detail(refusal.reply)
        return whole(reply, {})

    def first(self, task: Task, http: web.Request) -> Said:
        """Return how a task stood at first."""
        del http
        return _PROGRESS[0], json_reply(_body(task, _PROGRESS[0]))

    def odd(self, task: Task, http: web.Request) -> Reply:
        """Return an answer with a status that nobody knows."""
        del http
        return json_reply({**_body(task, "Pending"), "status": "Rendering"})

    def absent(self, http: web.Request, task: Task | None, *, code: int) -> Reply:
        """Return the answer for a task that is not found."""
        unknown = {"id": http.query["id"], "status": NOT_FOUND, "result": None}
        return json_reply(unknown if task is None else _body(task, NOT_FOUND), code)

    def state(self, task: Task, http: web.Request) -> Said:
        """Return how a task stands."""
        code = 503 if task.ended is not None and task.fault == "task_error_503" else 200
        return _status(task), json_reply(self._state(task, http), code)

    def accepted(self, task: Task, http: web.Request) -> Reply:
        """Return the answer to a submit."""
        return json_reply(self._accepted(task, http))

    def _accepted(self, task: Task, http: web.Request) -> dict[str, Any]:
        form, request = task.turn.faults, task.request
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
        body = _body(task, _status(task))
        if _status(task) != READY or task.fault == "no_sample":
            return body
        recipe, request = task.recipe, task.request
        if not task.given and task.fault == "expired_link":
            recipe = recipe.model_copy(update={"fault": "dead_link", "turn": task.turn.number})
        self.seen(task)
        sample = link(recipe, f"{http.scheme}://{http.host}", request.urls)
        if "sample_on_top" in task.turn.faults:
            return {"id": task.id, "status": body["status"], "sample": sample}
        began, ended = task.created, task.ended or task.created
        seed = int(recipe.digest[:7], 16) if request.seed is None else request.seed
        times = {"start_time": began, "end_time": ended, "duration": ended - began}
        return body | {"result": {"sample": sample, "prompt": request.prompt, "seed": seed, **times}}


class RelayQueue(BflQueue):
    """The handlers of a relay that speaks the same, and takes the money first."""

    most_active = None
    bills_first = True
    at_once = frozenset({"at_once"})


def task_id(http: web.Request) -> str:
    """Return the task that a poll asks for, or raise its Refusal."""
    if not http.query.get("id"):
        raise replies.invalid("id is required.", "id", code="missing_parameter")
    return http.query["id"]


def _status(task: Task) -> str:
    """Return the status in BFL's words."""
    if task.ended is None:
        return _PROGRESS[int(task.progress * len(_PROGRESS))]
    return _FAILURES.get(task.fault, (READY, ""))[0]


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
    if task.fault not in _FAILURES or status != _FAILURES[task.fault][0]:
        return body
    reason = _FAILURES[task.fault][1]
    if status.endswith("Moderated"):
        return body | {"details": {"Moderation Reasons": [reason]}}
    if not relay:
        return body | {"details": {"error": reason}}
    return body | task.turn.pick("place", ({"error": reason}, {"details": reason}, {"result": {"error": reason}}))
