"""The HTTP client of a run, and the simulator for it where the manifest names no other provider."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from batchflux.engine.settings import transport_options
from batchflux.transport import Transport

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from batchflux.manifest import Manifest, Redos

SIMULATOR_HOST = "simulator.localhost"


async def connected(stack: AsyncExitStack, manifest: Manifest, redos: Redos | None) -> Transport:
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
    return await stack.enter_async_context(Transport(transport_options(manifest, base_url, resolve)))
