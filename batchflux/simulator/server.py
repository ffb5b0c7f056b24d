"""Serve the simulated APIs: routes, start and stop, in the running event loop or in a thread with its own.

Links carry the host that the client called the server by.
"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Self

from aiohttp import web

from batchflux.errors import UsageError
from batchflux.simulator.calls import Calls
from batchflux.simulator.drawing import MEDIA_TYPES, Recipe
from batchflux.simulator.endpoint import Endpoint, Throttle, authorize
from batchflux.simulator.faults import between
from batchflux.simulator.images import BadLinkError, ImageStore, ReferenceGoneError, decode, media_type_of
from batchflux.simulator.journal import Journal, Tally
from batchflux.simulator.references import ReferenceCache
from batchflux.simulator.replies import Refusal, Reply, dumps, error_reply, reset, whole
from batchflux.simulator.requests import TASK_MODELS
from batchflux.simulator.tasks import Tasks

if TYPE_CHECKING:
    from types import TracebackType

    from aiohttp.typedefs import Handler

    from batchflux.simulator.options import SimulatorOptions

_BODY_LIMIT = 64 << 20
_GRACE = 1.0
_SLOW_BYTES = 1024
_SLOW_SECONDS = 1.0
_PAGE = b"<!DOCTYPE html>\n<html><head><title>Please wait</title></head><body>Checking your browser</body></html>\n"


class Files:
    """The handler of `GET /v1/files/...`: the recipe in the link is drawn, or spoilt as the link's fault says."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._fetches = Tally()

    async def serve(self, http: web.Request) -> web.StreamResponse:
        """Answer a link."""
        path = http.match_info["path"]
        try:
            recipe = decode(path.removeprefix("download/"))
            await self._endpoint.pause(between(*self._endpoint.options.download_latency, "download", path))
            reply = await self._reply(recipe, http)
        except (BadLinkError, ReferenceGoneError):
            recipe, reply = None, _missing()
        self._endpoint.journal.files[reply.status] += 1
        headers = {}
        if path.startswith("download/"):
            headers["Content-Disposition"] = f'attachment; filename="picture.{path.rpartition(".")[2]}"'
        if recipe is not None and recipe.fault == "slow_link" and http.method == "GET":
            return await self._slowly(http, reply)
        return whole(reply, headers)

    async def _reply(self, recipe: Recipe, http: web.Request) -> Reply:
        match recipe.fault:
            case "dead_link":
                return _missing()
            case "redirect_loop":
                return Reply(status=302, content_type="text/plain", headers={"Location": http.rel_url.raw_path})
            case "flaky_link" if not self._fetches.add(int(recipe.digest[:8], 16) << 32 | recipe.turn):
                return Reply(status=503, content_type="text/plain", body=b"Service Unavailable\n")
            case "html_image":
                return Reply(body=_PAGE, content_type=MEDIA_TYPES[recipe.output_format])
        data = await self._endpoint.images.picture(recipe)
        return Reply(body=data, content_type=media_type_of(recipe, data))

    async def _slowly(self, http: web.Request, reply: Reply) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": reply.content_type})
        response.content_length = len(reply.body)
        await response.prepare(http)
        for start in range(0, len(reply.body), _SLOW_BYTES):
            if self._endpoint.closing.is_set():
                return reset(http)
            await response.write(reply.body[start : start + _SLOW_BYTES])
            await self._endpoint.pause(_SLOW_SECONDS)
        return response


def _missing() -> Reply:
    return error_reply(404, "There is no such file, or it has expired.", "invalid_request_error", code="not_found")


class Simulator:
    """Serves the APIs in the running event loop, from `start` to `stop`; `requests` are its counters."""

    def __init__(self, options: SimulatorOptions) -> None:
        self.options = options
        self.requests = Journal()
        self.host = ""
        self.port = 0
        self._endpoint: Endpoint | None = None
        self._tasks: Tasks | None = None
        self._runner: web.AppRunner | None = None

    @property
    def in_flight(self) -> int:
        """How many calls are being answered."""
        return self._endpoint.throttle.in_flight if self._endpoint is not None else 0

    @property
    def active_tasks(self) -> int:
        """How many tasks are unfinished."""
        return self._tasks.active if self._tasks is not None else 0

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen on `port` (0: any free one) and return the base URL.

        Raises:
            UsageError: the address cannot be listened on, or the cache folder cannot be used.
        """
        options = self.options
        references = ReferenceCache(options.cache_dir)
        references.prepare()
        throttle = Throttle(
            rate=options.rate, burst=options.burst, concurrency=options.concurrency, clock=time.monotonic
        )
        self._endpoint = Endpoint(options, self.requests, throttle, ImageStore(references))
        self._tasks = Tasks(self._endpoint)
        self._runner = web.AppRunner(
            self._application(self._endpoint, self._tasks),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_GRACE,
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self.stop()
            raise UsageError(
                f"The simulator cannot listen on {host}:{port}: {error.strerror or error}; choose another address."
            ) from error
        self.host, self.port = self._runner.addresses[0][:2]
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{name}:{self.port}"

    async def stop(self) -> None:
        """Close all connections, also those that hang. Safe to call twice."""
        if self._runner is None or self._endpoint is None or self._tasks is None:
            return
        runner, self._runner = self._runner, None
        self._endpoint.closing.set()
        self._tasks.close()
        await runner.cleanup()
        await asyncio.to_thread(self._endpoint.images.close)

    def _application(self, endpoint: Endpoint, tasks: Tasks) -> web.Application:
        app = web.Application(client_max_size=_BODY_LIMIT, middlewares=[_documented_errors])
        calls = Calls(endpoint)
        app.router.add_post("/v1/images/generations", calls.standard)
        app.router.add_post("/v1/chat/completions", calls.chat)
        app.router.add_get("/v1/get_result", partial(tasks.poll, api="bfl"))
        app.router.add_get("/v1/credits", tasks.credits)
        app.router.add_post(r"/v1/{model:flux-[\w.-]+}", partial(tasks.submit, api="bfl"))
        app.router.add_get("/flux/v1/get_result", partial(tasks.poll, api="relay"))
        app.router.add_post(r"/flux/v1/{model:[\w.-]+}", partial(tasks.submit, api="relay"))
        app.router.add_get("/v1/files/{path:.+}", Files(endpoint).serve)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/simulator/stats", self._stats)
        app.router.add_get("/v1/simulator/charges", self._charges)
        app.router.add_get("/healthz", self._health)
        return app

    async def _models(self, http: web.Request) -> web.Response:
        authorize(http.headers, "standard", self.options.keys)
        rows = [{"id": name, "object": "model", "created": 0, "owned_by": "batchflux"} for name in TASK_MODELS]
        return whole(Reply(body=dumps({"object": "list", "data": rows})), {})

    async def _stats(self, http: web.Request) -> web.Response:
        state = {"in_flight": self.in_flight, "active_tasks": self.active_tasks}
        return whole(Reply(body=dumps({**self.requests.as_dict(), **state})), {})

    async def _charges(self, http: web.Request) -> web.Response:
        return whole(Reply(body=dumps({"charges": [asdict(charge) for charge in self.requests.charges]})), {})

    async def _health(self, http: web.Request) -> web.Response:
        return whole(Reply(body=dumps({"status": "ok"})), {})


@web.middleware
async def _documented_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give aiohttp's own refusals (no such path, wrong method) the documented shape."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return whole(refusal.reply, {})
    except web.HTTPException as error:
        message = f"{request.method} {request.path}: {error.reason}"
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return whole(error_reply(error.status, message, "invalid_request_error", headers=headers), {})


class EmbeddedSimulator:
    """A simulator in a daemon thread, on a free loopback port, from `start` to `stop` or for a `with` block."""

    def __init__(self, options: SimulatorOptions) -> None:
        self.simulator = Simulator(options)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    @property
    def requests(self) -> Journal:
        """The counters."""
        return self.simulator.requests

    @property
    def base_url(self) -> str:
        """Where it listens."""
        return f"http://{self.simulator.host}:{self.simulator.port}"

    def start(self) -> tuple[str, int]:
        """Start the thread, wait until it listens, and return host and port.

        Raises:
            UsageError: it cannot listen, or the cache folder cannot be used.
        """
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(ready)), name="batchflux-simulator", daemon=True
        )
        self._thread.start()
        ready.result()
        return self.simulator.host, self.simulator.port

    def stop(self) -> None:
        """Close all connections and wait for the thread's end. Safe to call twice, and before `start`."""
        if self._thread is None:
            return
        if self._loop is not None and self._stopping is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def _serve(self, ready: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        try:
            await self.simulator.start()
        except BaseException as error:  # noqa: BLE001  it is raised again, in the thread that called start
            ready.set_exception(error)
            return
        ready.set_result(None)
        await self._stopping.wait()
        await self.simulator.stop()
