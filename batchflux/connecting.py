"""The HTTP client of a run, and the simulator for it where the manifest names no other provider."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from batchflux.models import Answered, Finished, HttpRequest, Json
from batchflux.transport import Transport
from batchflux.tuning import transport_options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AsyncExitStack

    from batchflux.manifest import Manifest, Redos
    from batchflux.models import Fetched, Picture, Request

SIMULATOR_HOST = "simulator.localhost"


class Calls:
    """Performs the steps of a provider's flow through the HTTP client."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._keys: set[str] = set()  # no message may show any of them: an answer may quote another job's

    async def call(
        self, request: Request, *, key: str | None, on_sent: Callable[[], Awaitable[None]] | None = None
    ) -> Answered:
        """Perform one API step; raise JobError."""
        if on_sent is not None:
            await on_sent()
        known = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._keys |= set() if key is None else {key}
        step = HttpRequest(method="POST", url=request.path, reader=request.reader, content=Json(value=request.body))
        done = await self._transport.exchange(step, headers=known, secrets=self._keys)
        picture = done.reply.asset if isinstance(done.reply, Finished) else cast("Picture", done.reply)
        pause = {} if done.pause is None else {"x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{done.pause:.3f}"}
        return Answered(picture=picture, seconds=done.seconds, headers=pause)

    async def fetch(self, url: str) -> Fetched:
        """Download a picture; raise JobError."""
        return await self._transport.fetch(url)


async def connected(stack: AsyncExitStack, manifest: Manifest, redos: Redos | None) -> Calls:
    """Return the client, open until `stack` is closed; so is the simulator.

    The embedded simulator is reached under a name of its own, so that links in results.csv outlive its port.
    """
    base_url = manifest.provider.base_url
    resolve = {}
    if base_url is None:
        from batchflux.simulator import (  # noqa: PLC0415  a server, which other providers do not need
            EmbeddedSimulator,
            parse_options,
        )

        # A request does not tell its job's variant, and a redo must not be the same picture once more.
        salt = 0 if redos is None else sum(map(len, redos.asked.values()))
        simulator = EmbeddedSimulator(replace(parse_options(manifest.provider.options), salt=salt))
        resolve[SIMULATOR_HOST] = await asyncio.to_thread(simulator.start)
        stack.push_async_callback(asyncio.to_thread, simulator.stop)
        base_url = f"http://{SIMULATOR_HOST}"
    return Calls(await stack.enter_async_context(Transport(transport_options(manifest, base_url, resolve))))
