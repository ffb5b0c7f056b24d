"""The routes beside OpenAI's API."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from batchflux.gateway.answering.links import base_of
from batchflux.gateway.extras.manifests import expanded, text_of
from batchflux.gateway.extras.results import results
from batchflux.gateway.guard import CLIENT, body_of
from batchflux.gateway.reading.bodies import parsed
from batchflux.providers import capabilities

if TYPE_CHECKING:
    from batchflux.gateway.answering.links import Names
    from batchflux.gateway.maker import Maker
    from batchflux.runner import Endless

EXPAND, RESULTS = "/v1/batchflux/expand", "/v1/batchflux/results"


class Extras:
    """Both, of one run; `public_url` is what links begin with, None: the address by which the client found us."""

    def __init__(self, run: Endless, maker: Maker, names: Names, public_url: str | None) -> None:
        self._run, self._maker, self._names, self._public_url = run, maker, names, public_url
        self._free = asyncio.Semaphore()  # templates of one manifest at a time

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post(EXPAND, self._expand)
        app.router.add_get(RESULTS, self._results)

    async def _expand(self, request: web.Request) -> web.Response:
        text = text_of(parsed(body_of(request)))
        models = {(one.model, one.provider): one.id for one in self._maker.models()}
        async with self._free:
            made = await asyncio.to_thread(expanded, self._run.session.manifest, capabilities(), models, text)
        return web.json_response(made)

    async def _results(self, request: web.Request) -> web.Response:
        base = base_of(self._public_url, request.scheme, request.host)
        read = partial(results, client=request[CLIENT].name, names=self._names, base=base, query=dict(request.query))
        return web.json_response(await self._run.database.submit(read))
