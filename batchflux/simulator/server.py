"""The simulator as a server: routes, start, stop. Links carry the host that the client called it by."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from aiohttp import web

from batchflux.errors import UsageError
from batchflux.simulator.calls import Api
from batchflux.simulator.replies import whole
from batchflux.simulator.journal import Journal
from batchflux.simulator.server import Links
from batchflux.simulator.references import Spool
from batchflux.simulator.images import Studio
from batchflux.simulator.endpoint import Throttle
from batchflux.simulator.replies import Refusal, Reply, dumps, error_reply

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from batchflux.simulator.options import SimulatorOptions

MODELS = ("flux-kontext-pro", "flux-kontext-max")
_BODY_LIMIT = 64 << 20
_GRACE = 1.0


class Simulator:
    """Serves the API in the running event loop, from `start` to `stop`; `requests` are its counters."""

    def __init__(self, options: SimulatorOptions) -> None:
        self.options = options
        self.requests = Journal()
        self.host = ""
        self.port = 0
        self._api: Api | None = None
        self._studio: Studio | None = None
        self._throttle: Throttle | None = None
        self._runner: web.AppRunner | None = None

    @property
    def in_flight(self) -> int:
        """How many calls are being answered."""
        return self._throttle.in_flight if self._throttle is not None else 0

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen on `port` (0: any free one) and return the base URL.

        Raises:
            UsageError: the address cannot be listened on, or the cache folder cannot be used.
        """
        spool = Spool(self.options.cache_dir)
        spool.prepare()
        self._studio = Studio(spool)
        options = self.options
        self._throttle = Throttle(
            rate=options.rate, burst=options.burst, concurrency=options.concurrency, clock=time.monotonic
        )
        self._api = Api(options, self.requests, self._throttle, self._studio)
        self._runner = web.AppRunner(
            self._application(self._api, self._studio),
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
        if self._runner is None or self._api is None or self._studio is None:
            return
        runner, self._runner = self._runner, None
        self._api.closing.set()
        await runner.cleanup()
        await asyncio.to_thread(self._studio.close)

    def _application(self, api: Api, studio: Studio) -> web.Application:
        app = web.Application(client_max_size=_BODY_LIMIT, middlewares=[_documented_errors])
        links = Links(self.options, self.requests, studio, api)
        app.router.add_post("/v1/images/generations", api.standard)
        app.router.add_post("/v1/chat/completions", api.chat)
        app.router.add_get("/v1/files/{path:.+}", links.serve)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/simulator/stats", self._stats)
        app.router.add_get("/healthz", self._health)
        return app

    async def _models(self, request: web.Request) -> web.Response:
        if self._api is not None:
            self._api.authorize(request)
        rows = [{"id": name, "object": "model", "created": 0, "owned_by": "batchflux"} for name in MODELS]
        return whole(Reply(body=dumps({"object": "list", "data": rows})), {})

    async def _stats(self, request: web.Request) -> web.Response:
        return whole(Reply(body=dumps({**self.requests.as_dict(), "in_flight": self.in_flight})), {})

    async def _health(self, request: web.Request) -> web.Response:
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
