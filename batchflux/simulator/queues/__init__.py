"""The APIs that make a task of a request: a class each, on `base.Queue`; how they ask and refuse is in `apis`.

`QUEUES` has of each API what puts its handlers at their paths. All but BFL's and a relay's are also below their names.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from batchflux.simulator.queues.bfl import BflQueue, RelayQueue, task_id
from batchflux.simulator.queues.comfyui import ComfyQueue
from batchflux.simulator.queues.fal import FalQueue
from batchflux.simulator.queues.replicate import ReplicateQueue
from batchflux.simulator.replies import RELAY, Refusal, json_reply, whole

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from batchflux.simulator.endpoint import Endpoint
    from batchflux.simulator.queues.base import Queue

    Give = Callable[[web.Request, str], Awaitable[web.StreamResponse]]
    Add = Callable[[web.UrlDispatcher, Endpoint, Give, bool], Queue]

_FAL_OWNER, _ANY_OWNER = r"fal-ai", r"(?!v1/|api/|storage/|fal/)[\w.-]+"


def _bfl(router: web.UrlDispatcher, endpoint: Endpoint, _: Give, __: bool) -> Queue:  # noqa: FBT001  the same for all
    queue = BflQueue(endpoint, "bfl")
    router.add_get("/v1/get_result", partial(queue.poll, name=task_id))
    router.add_get("/v1/credits", queue.credits)
    router.add_post(r"/v1/{model:flux-[\w.-]+}", queue.submit)
    return queue


def _relay(router: web.UrlDispatcher, endpoint: Endpoint, _: Give, __: bool) -> Queue:  # noqa: FBT001  the same for all
    queue = RelayQueue(endpoint, "relay")
    router.add_get("/flux/v1/get_result", partial(queue.poll, name=task_id))
    router.add_post(r"/flux/v1/{model:[\w.-]+}", queue.submit)
    return queue


def _fal(router: web.UrlDispatcher, endpoint: Endpoint, _: Give, alone: bool) -> Queue:  # noqa: FBT001  the same for all
    queue = FalQueue(endpoint, "fal")
    for below in ("/fal", ""):
        owner = _ANY_OWNER if alone or below else _FAL_OWNER
        task = rf"{below}/{{app:{owner}/[\w.-]+}}/requests/{{id:[^/]+}}"
        router.add_get(f"{task}/status", queue.poll)
        router.add_get(task, queue.response)
        router.add_put(f"{task}/cancel", queue.stop)
        router.add_get(f"{below}/v1/models/requests/by-endpoint", queue.listed)
        router.add_post(f"{below}/storage/auth/token", queue.token)
        router.add_post(f"{below}/files/upload", queue.upload)
        router.add_get(f"{below}/.well-known/jwks.json", queue.public_keys)
        router.add_post(rf"{below}/{{endpoint:{owner}/[\w./-]+}}", queue.submit)
    return queue


def _replicate(router: web.UrlDispatcher, endpoint: Endpoint, _: Give, __: bool) -> Queue:  # noqa: FBT001  the same for all
    queue = ReplicateQueue(endpoint, "replicate")
    for below in ("/replicate", ""):
        router.add_post(rf"{below}/v1/models/{{owner:[\w.-]+}}/{{name:[\w.-]+}}/predictions", queue.submit)
        router.add_post(f"{below}/v1/predictions", queue.submit)
        router.add_get(f"{below}/v1/predictions", queue.listed)
        router.add_get(f"{below}/v1/predictions/{{id}}", queue.poll)
        router.add_post(f"{below}/v1/predictions/{{id}}/cancel", queue.stop)
        router.add_post(f"{below}/v1/files", queue.upload)
        router.add_get(f"{below}/v1/webhooks/default/secret", queue.signing_secret)
    return queue


def _comfyui(router: web.UrlDispatcher, endpoint: Endpoint, give: Give, _: bool) -> Queue:  # noqa: FBT001  the same for all
    queue = ComfyQueue(endpoint, "comfyui")

    async def view(http: web.Request) -> web.StreamResponse:
        try:
            return await give(http, queue.view(http))
        except Refusal as refusal:
            return whole(refusal.reply, {})

    async def told(http: web.Request, tell: Callable[[], dict[str, Any]]) -> web.StreamResponse:
        del http
        return whole(json_reply(tell()), {})

    for below in ("/comfyui/api", "/comfyui", "/api", ""):
        router.add_post(f"{below}/prompt", queue.submit)
        router.add_get(f"{below}/history/{{id}}", queue.job)
        router.add_get(f"{below}/queue", partial(told, tell=queue.queue))
        router.add_post(f"{below}/queue", queue.unqueue)
        router.add_post(f"{below}/interrupt", queue.interrupt)
        router.add_post(f"{below}/upload/image", queue.upload)
        router.add_get(f"{below}/view", view)
        router.add_get(f"{below}/system_stats", partial(told, tell=queue.stats))
        if below.endswith("/api"):
            router.add_get(f"{below}/jobs/{{id}}", queue.job)
            router.add_post(f"{below}/jobs/{{id}}/cancel", queue.stop)
    return queue


QUEUES: dict[str, Add] = {
    "bfl": _bfl,
    RELAY: _relay,
    "fal": _fal,
    "replicate": _replicate,
    "comfyui": _comfyui,
}
