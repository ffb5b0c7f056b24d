"""Serve the simulated APIs: routes, start and stop, in the running event loop or in a thread with its own."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

from batchflux.simulator.apis import DIALECTS
from batchflux.simulator.batches import BATCHES
from batchflux.simulator.books import Books
from batchflux.simulator.calls import answer
from batchflux.simulator.endpoint import Endpoint, authorize, between
from batchflux.simulator.images import NoPictureError, ReferenceCache, decode, media_type_of, picture
from batchflux.simulator.journal import Journal, Tally
from batchflux.simulator.queues import QUEUES
from batchflux.simulator.replies import RELAY, SERVED, Refusal, Reply, error_reply, json_reply, reset, whole
from batchflux.simulator.requests import TASK_MODELS
from batchflux.transport.serving import accept, hang_up, listen_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aiohttp.typedefs import Handler

    from batchflux.simulator.batches.base import BatchQueue
    from batchflux.simulator.drawing import Recipe
    from batchflux.simulator.options import SimulatorOptions
    from batchflux.simulator.queues.base import Queue
    from batchflux.simulator.replies import Api

_BODY_LIMIT = 64 << 20
_GRACE = 1.0
_BELOW_THEIR_NAMES = frozenset({"together", "siliconflow"})
_SLOW_BYTES, _SLOW_SECONDS = 1024, 1.0
_PAGE = b"<!DOCTYPE html>\n<html><head><title>Please wait</title></head><body>Checking your browser</body></html>\n"


class Files:
    """The handler of `GET /v1/files/...`: the recipe in the link is drawn, or spoilt as the link's fault says."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._fetches = Tally()

    async def serve(self, http: web.Request) -> web.StreamResponse:
        """Answer a link."""
        return await self.give(http, http.match_info["path"])

    async def uploaded(self, http: web.Request) -> web.StreamResponse:
        """Answer the link of an upload."""
        digest, _, kind = http.match_info["name"].partition(".")
        try:
            return web.Response(body=self._endpoint.cache.read(digest, "orig"), content_type=f"image/{kind}")
        except NoPictureError:
            return web.Response(status=404)

    async def give(self, http: web.Request, path: str) -> web.StreamResponse:
        """Answer with the picture that a link's path says."""
        fault = ""
        try:
            recipe = decode(path.removeprefix("download/"))
            await self._endpoint.pause(between(*self._endpoint.options.download_latency, "download", path))
            fault, reply = recipe.fault, await self._reply(recipe, http)
        except NoPictureError:
            message = "There is no such file, or it has expired."
            reply = error_reply(404, message, "invalid_request_error", "not_found")
        self._endpoint.journal.files[reply.status] += 1
        if fault == "slow_link" and http.method == "GET":
            return await self._slowly(http, reply)
        suffix = path.rpartition(".")[2]
        disposition = {"Content-Disposition": f'attachment; filename="picture.{suffix}"'}
        return whole(reply, disposition if path.startswith("download/") else {})

    async def _reply(self, recipe: Recipe, http: web.Request) -> Reply:
        match recipe.fault:
            case "dead_link":
                raise NoPictureError
            case "redirect_loop":
                return Reply(status=302, content_type="text/plain", headers={"Location": http.rel_url.raw_path})
            case "flaky_link" if not self._fetches.add(f"{recipe.digest[:8]}{recipe.turn:08x}"):
                return Reply(status=503, content_type="text/plain", body=b"Service Unavailable\n")
            case "refused_link" if not http.headers.get("Referer"):
                return Reply(status=403, content_type="text/plain", body=b"Forbidden\n")
            case "html_image":
                return Reply(body=_PAGE, content_type=f"image/{recipe.output_format}")
        data = await asyncio.to_thread(picture, recipe, self._endpoint.cache)
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


class Simulator:
    """Serves the APIs in the running event loop, from `start` to `stop`; `requests` are its counters.

    `api`, one of SERVED, is the only one served. `opens` says whom it lets in when that is not this machine only.
    """

    def __init__(self, options: SimulatorOptions, api: str | None = None) -> None:
        self.options, self.requests = options, Journal()
        self._api = api
        self.host, self.port = "", 0
        self.opens: str | None = None
        self._endpoint = Endpoint(options, self.requests, ReferenceCache(options.cache_dir))
        self._queues: list[Queue] = []
        self._batches: list[BatchQueue] = []
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None

    @property
    def in_flight(self) -> int:
        """How many calls are being answered."""
        return self._endpoint.throttle.in_flight

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen on `port` (0: any free one) and return the base URL; UsageError: it or the folder cannot be used."""
        self._endpoint.cache.prepare()
        place = listen_at(host, port)
        self._runner = web.AppRunner(self._app(), access_log=None, handler_cancellation=True, shutdown_timeout=_GRACE)
        await self._runner.setup()
        self._listening = await accept(self._runner, place.socket)
        self.host, self.port = place.address, place.port
        opens = f"Everyone who can reach {place.reach} can use it and read what it was asked; nothing is encrypted."
        self.opens = place.reach and opens
        return f"http://{place.at}"

    async def stop(self) -> None:
        """Close all connections, also those that hang. Safe to call twice."""
        self._endpoint.closing.set()
        await self._endpoint.caller.close()
        for batches in self._batches:
            await batches.close()
        if self._listening is not None:
            await hang_up(self._listening)
        if self._runner is not None:
            await self._runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=_BODY_LIMIT, middlewares=[_documented_errors])
        call = partial(self._endpoint.admit, answer=partial(answer, self._endpoint))
        for path, name in self._paths():
            app.router.add_post(path, partial(call, api=name))
        alone = self._api is not None
        for make in BATCHES:
            if self._api in (None, make.api):
                self._batches.append(make(self._endpoint))
                self._batches[-1].routes(app.router, alone=alone)
        files = Files(self._endpoint)
        app.router.add_get(r"/v1/files/uploads/{name:[0-9a-f]{64}\.\w+}", files.uploaded)
        app.router.add_get("/v1/files/{path:.+}", files.serve)
        for path, told in (
            ("/v1/models", self._models),
            ("/v1/simulator/stats", self._stats),
            ("/v1/simulator/charges", lambda _: {"charges": [*self.requests.charges]}),
            ("/healthz", lambda _: {"status": "ok"}),
        ):
            app.router.add_get(path, partial(_tell, told=told))
        Books(self._endpoint).add(app.router, self._api)
        for served, add in QUEUES.items():
            if self._api in (None, served):
                self._queues.append(add(app.router, self._endpoint, files.give, alone))
        return app

    def _paths(self) -> Iterator[tuple[str, Api]]:
        """Yield the paths of calls and whose they are; the first of two has it.

        Every API but a relay's is also below its own name. `/v1/images/generations` is a relay's and OpenAI's, whom the
        model tells apart; others who have it are found below their names only, or when they are served alone.
        """
        if self._api in (None, RELAY):
            yield "/v1/images/{action:generations}", "standard"
            yield "/v1/chat/completions", "chat"
        for name, dialect in DIALECTS.items():
            if self._api in (None, name):
                for path in dialect.routes:
                    yield f"/{name}{path}", name
                    if self._api == name or name not in _BELOW_THEIR_NAMES:
                        yield path, name

    def _models(self, http: web.Request) -> dict[str, Any]:
        authorize(http.headers, "standard", self.options.keys)
        model = {"object": "model", "created": 0, "owned_by": "batchflux"}
        return {"object": "list", "data": [{"id": name, **model} for name in TASK_MODELS]}

    def _stats(self, _: web.Request) -> dict[str, Any]:
        return {
            **self.requests.as_dict(),
            "in_flight": self.in_flight,
            "active_tasks": sum(queue.unfinished for queue in self._queues),
        }


async def _tell(http: web.Request, told: Callable[[web.Request], dict[str, Any]]) -> web.Response:
    return whole(json_reply(told(http)), {})


@web.middleware
async def _documented_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give aiohttp's own refusals (no such path, wrong method) the documented shape."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return whole(refusal.reply, {})
    except ConnectionResetError:  # nobody is there any more: that is no fault of ours, to be logged
        return web.Response()
    except web.HTTPException as error:
        says = f"{request.method} {request.path}: {error.reason}"
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return whole(error_reply(error.status, says, "invalid_request_error"), headers)


class EmbeddedSimulator:
    """A simulator in a daemon thread, on a free loopback port, from `start` to `stop`.

    It serves `api` alone, where that is one of SERVED.
    """

    def __init__(self, options: SimulatorOptions, api: str | None = None) -> None:
        self._options, self._api = options, api if api in SERVED else None
        self._thread: threading.Thread | None = None
        self._end: Callable[[], object] = lambda: None

    def start(self) -> tuple[str, int]:
        """Start the thread and return host and port once it listens, or raise UsageError as `Simulator.start` does."""
        ready: Future[Simulator] = Future()
        name = "batchflux-simulator"
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(ready),), name=name, daemon=True)
        self._thread.start()
        self.simulator = ready.result()
        return self.simulator.host, self.simulator.port

    def stop(self) -> None:
        """Close all connections and wait for the thread's end. Safe to call twice, and before `start`."""
        if self._thread is not None:
            self._end()
            self._thread.join()
            self._thread = None

    async def _serve(self, ready: Future[Simulator]) -> None:
        stopping, simulator = asyncio.Event(), Simulator(self._options, self._api)
        try:
            await simulator.start()
        except BaseException as error:  # noqa: BLE001  it is raised again, in the thread that called start
            ready.set_exception(error)
            return
        self._end = partial(asyncio.get_running_loop().call_soon_threadsafe, stopping.set)
        ready.set_result(simulator)
        await stopping.wait()
        await simulator.stop()
