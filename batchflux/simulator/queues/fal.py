"""Answer fal's queue: submit, status, response, cancel; and the storage that local pictures are put into.

A request that fails is COMPLETED, and its response is the failure. Its links name the first two parts of the endpoint
only, as fal's do.
"""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from batchflux.simulator.drawing import parse_ratio, pixels
from batchflux.simulator.images import link, media_type_of, picture
from batchflux.simulator.queues.base import Queue, Task, iso, moment, origin_of
from batchflux.simulator.replies import Refusal, Reply, invalid, json_reply, whole
from batchflux.simulator.webhooks import public_keys

if TYPE_CHECKING:
    from aiohttp import web

    from batchflux.simulator.queues.base import Said

_TOKEN = "cdn-token"  # noqa: S105  anyone may have it
_TOKEN_LIFE = timedelta(hours=1)
_CANCELLED = 499
_PAGE, _LARGEST_PAGE, _DAY = 50, 100, 86_400.0
_VIOLATION = {"loc": ["body", "prompt"], "msg": "The content was flagged.", "type": "content_policy_violation"}
_FIELD = {"loc": ["body", "prompt"], "msg": "The input could not be used.", "type": "value_error"}
# Task fault: the response of the request that ended so.
_FAILURES: dict[str, tuple[int, dict[str, Any]]] = {
    "task_error": (500, {"detail": "Internal server error", "error_type": "internal_error"}),
    "task_failed": (422, {"detail": [_FIELD]}),
    "task_error_503": (503, {"detail": "Connection to the runner failed", "error_type": "runner_connection_error"}),
    "content_moderated": (422, {"detail": [_VIOLATION]}),
    "generation_timeout": (504, {"detail": "Generation timed out", "error_type": "generation_timeout"}),
}
_CLIENT_CANCELLED = {"detail": "The request was cancelled", "error_type": "client_cancelled"}


class FalQueue(Queue):
    """The handlers of fal's queue, of the list of what was asked, and of its storage."""

    lists_inputs = True

    def accepted(self, task: Task, http: web.Request) -> Reply:
        """Return the answer to a submit."""
        return json_reply({**_links(task, http), "gateway_request_id": task.id, "queue_position": 0})

    def first(self, task: Task, http: web.Request) -> Said:
        """Return how a task stood at first."""
        del http
        return "IN_QUEUE", json_reply({"status": "IN_QUEUE", "request_id": task.id, "queue_position": 0}, 202)

    def odd(self, task: Task, http: web.Request) -> Reply:
        """Return an answer with a status that nobody knows."""
        del http
        return json_reply({"status": "RENDERING", "request_id": task.id}, 202)

    def absent(self, http: web.Request, task: Task | None, *, code: int) -> Reply:
        """Return the answer for a task that is not found."""
        del http, task
        return json_reply({"status": "NOT_FOUND"}, code)

    def state(self, task: Task, http: web.Request) -> Said:
        """Return how a task stands."""
        said = {"request_id": task.id, **{name: url for name, url in _links(task, http).items() if "url" in name}}
        if task.ended is None:
            if not task.progress:
                return "IN_QUEUE", json_reply({"status": "IN_QUEUE", "queue_position": 0, **said}, 202)
            return "IN_PROGRESS", json_reply({"status": "IN_PROGRESS", "logs": None, **said}, 202)
        failure = self._failure(task)
        failed = {} if failure is None else {"error": "The request failed", "error_type": failure[1].get("error_type")}
        metrics = {"inference_time": round(task.ended - task.created, 3)}
        return "COMPLETED", json_reply({"status": "COMPLETED", "logs": None, "metrics": metrics, **said, **failed})

    async def response(self, http: web.Request) -> web.StreamResponse:
        """Answer what came of a request: the picture, or its failure."""
        try:
            task = self.find(http.match_info["id"], self.key(http))
        except Refusal as refusal:
            return self.refused(refusal.reply)
        if task is None or task.fault in ("task_vanished", "task_never_found"):
            return self.said("NOT_FOUND", json_reply({"status": "NOT_FOUND"}, 404))
        if task.ended is None:
            return self.said("unfinished", json_reply({"detail": "Request is still in progress"}, 400))
        if (failure := self._failure(task)) is not None:
            status, body = failure
            own = {"X-Fal-Error-Type": body["error_type"]} if "error_type" in body else {}
            retry = {"X-Fal-Retryable": "true" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "false"}
            return self.said("failed", replace(json_reply(body, status), headers={**own, **retry}))
        body = await self._result(task, http)
        units = {} if "no_cost" in task.turn.faults else {"x-fal-billable-units": "1"}
        return self.said("Ready", replace(json_reply(body), headers={"x-fal-request-id": task.id, **units}))

    async def stop(self, http: web.Request) -> web.StreamResponse:
        """Answer a cancel: what runs goes on, as a worker that does not look would."""
        try:
            task = self.find(http.match_info["id"], self.key(http))
        except Refusal as refusal:
            return self.refused(refusal.reply)
        if task is None:
            return whole(json_reply({"status": "NOT_FOUND"}, 404), {})
        if task.ended is not None:
            return whole(json_reply({"status": "ALREADY_COMPLETED"}, 400), {})
        if not task.progress:
            self.cancel(task)
        return whole(json_reply({"status": "CANCELLATION_REQUESTED"}, 202), {})

    async def listed(self, http: web.Request) -> web.StreamResponse:
        """Answer a page of the requests of endpoints that have ended, the last to end first; no others are in it."""
        try:
            key, wanted = self.key(http), _endpoints(http)
            start, end = moment(http, "start"), moment(http, "end")
            page, size = _page(http), _size(http)
        except Refusal as refusal:
            return self.refused(refusal.reply)
        start, end = time.time() - _DAY if start is None else start, time.time() if end is None else end
        ended = [
            task
            for task in self._tasks.values()
            if task.owner == key and task.request.model in wanted and task.ended and start <= task.created
        ]
        found = sorted((task for task in ended if (task.ended or 0) < end), key=lambda task: -(task.ended or 0))
        first, expand = (page - 1) * size, "payloads" in http.query.get("expand", "").split(",")
        more = len(found) > first + size
        items = [self._listed(task, http, payloads=expand) for task in found[first : first + size]]
        cursor = base64.b64encode(str(page + 1).encode()).decode() if more else None
        return whole(json_reply({"items": items, "next_cursor": cursor, "has_more": more}), {})

    def _listed(self, task: Task, http: web.Request, *, payloads: bool) -> dict[str, Any]:
        ended = task.ended or 0.0
        failure = self._failure(task)
        said: dict[str, Any] = {
            "request_id": task.id,
            "endpoint_id": task.request.model,
            "sent_at": iso(task.created),
            "started_at": iso(task.created),
            "ended_at": iso(ended),
            "status_code": 200 if failure is None else failure[0],
            "duration": round(ended - task.created, 3),
        }
        if payloads:
            output = {"request_url": _links(task, http)["response_url"]} if failure is None else failure[1]
            said |= {"json_input": self._bodies.of(task.id), "json_output": output}
        return said

    async def token(self, http: web.Request) -> web.StreamResponse:
        """Answer who wants to upload with a token, and where to."""
        try:
            self.key(http)
        except Refusal as refusal:
            return self.refused(refusal.reply)
        ends = (datetime.now(UTC) + _TOKEN_LIFE).isoformat()
        base = origin_of(http, "fal")
        said = {"token": _TOKEN, "token_type": "Bearer", "base_url": base, "expires_at": ends}
        return whole(json_reply(said), {})

    async def public_keys(self, http: web.Request) -> web.StreamResponse:
        """Answer by which keys the calls of webhooks are signed."""
        del http
        return whole(json_reply(public_keys()), {})

    async def upload(self, http: web.Request) -> web.StreamResponse:
        """Keep an upload, which comes with the token."""
        if http.headers.get("Authorization") != f"Bearer {_TOKEN}":
            return self.refused(json_reply({"detail": "Invalid token"}, 401))
        try:
            url = await self.store(http, await http.read())
        except Refusal as refusal:
            return self.refused(refusal.reply)
        return whole(json_reply({"access_url": url}), {})

    def _failure(self, task: Task) -> tuple[int, dict[str, Any]] | None:
        return (_CANCELLED, _CLIENT_CANCELLED) if task.cancelled else _FAILURES.get(task.fault)

    async def _result(self, task: Task, http: web.Request) -> dict[str, Any]:
        request, recipe = task.request, task.recipe
        if hidden := task.fault == "nsfw_picture":
            recipe = recipe.model_copy(update={"fault": task.fault})
        images = []
        if task.fault != "no_sample":
            self.seen(task)
            url = link(recipe, f"{http.scheme}://{http.host}", request.urls)
            kind = f"image/{recipe.output_format}"
            if request.asks["sync_mode"]:
                data = await asyncio.to_thread(picture, recipe, self._endpoint.cache)
                kind = media_type_of(recipe, data)
                url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
            ratio = parse_ratio(recipe.ratio)
            width, height = (None, None) if ratio is None else pixels(ratio, recipe.size)
            images = [{"url": url, "width": width, "height": height, "content_type": kind}]
        seed = int(recipe.digest[:7], 16) if request.seed is None else request.seed
        said = {"seed": seed, "has_nsfw_concepts": [hidden], "prompt": request.prompt}
        return {"images": images, "timings": {"inference": 1.5}, **said}


def _endpoints(http: web.Request) -> set[str]:
    """Return the endpoints that are asked for, or raise the Refusal of none."""
    names = {name for text in http.query.getall("endpoint_id", []) for name in text.split(",") if name}
    if not names:
        raise invalid("endpoint_id is required", "endpoint_id")
    return names


def _page(http: web.Request) -> int:
    """Return which page a cursor is of, from 1, or raise the Refusal of what is none."""
    try:
        page = int(base64.b64decode(http.query.get("cursor", "MQ=="), validate=True))
    except ValueError as error:
        raise invalid("cursor is invalid", "cursor") from error
    return max(1, page)


def _size(http: web.Request) -> int:
    said = http.query.get("limit", str(_PAGE))
    if not said.isdecimal() or not 1 <= int(said) <= _LARGEST_PAGE:
        raise invalid(f"limit must be from 1 to {_LARGEST_PAGE}", "limit")
    return int(said)


def _links(task: Task, http: web.Request) -> dict[str, str]:
    app = "/".join(task.request.model.split("/")[:2])
    base = f"{origin_of(http, 'fal')}/{app}/requests/{task.id}"
    names = {"response_url": base, "status_url": f"{base}/status", "cancel_url": f"{base}/cancel"}
    return {"request_id": task.id, **names}
