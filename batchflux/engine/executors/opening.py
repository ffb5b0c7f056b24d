"""Opens what performs a run's steps: transports for each address of each provider, simulators."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from batchflux.engine.executors.local import LocalExecutor
from batchflux.engine.settings import transport_options
from batchflux.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from contextlib import AsyncExitStack

    from batchflux.engine.settings import Shared
    from batchflux.manifest import Manifest, ProviderConfig, Redos
    from batchflux.output.image_store import ImageStore

SIMULATOR_HOST = "simulator.localhost"  # a name of its own, so that links in results.csv outlive its port


async def open_executor(
    stack: AsyncExitStack,
    manifest: Manifest,
    images: ImageStore,
    shared: Mapping[str, Shared],
    redos: Redos | None,
    secrets: Collection[str],
) -> LocalExecutor:
    """Return what performs the steps, open until `stack` is closed, embedded simulators too."""
    transports: dict[tuple[str, str], tuple[Transport, str]] = {}
    for name, provider in manifest.providers.items():
        resolve: dict[str, tuple[str, int]] = {}
        addresses = provider.addresses
        if provider.simulated:
            resolve[SIMULATOR_HOST] = await _simulator(stack, provider, redos)
            addresses = (f"http://{SIMULATOR_HOST}",)
        for address in addresses:
            options = transport_options(manifest, name, address, resolve, shared[name])
            transport = await stack.enter_async_context(Transport(options))
            transports[name, address if len(addresses) > 1 else ""] = transport, address
    return LocalExecutor(transports, images, secrets)


async def _simulator(stack: AsyncExitStack, provider: ProviderConfig, redos: Redos | None) -> tuple[str, int]:
    """Start the embedded simulator as a provider's options say; return its host and port."""
    from batchflux.simulator import EmbeddedSimulator, parse_options  # noqa: PLC0415  a server, seldom needed

    # A request does not tell its job's variant, and a redo must not be the same picture once more.
    salt = 0 if redos is None else sum(map(len, redos.asked.values()))
    simulator = EmbeddedSimulator(replace(parse_options(provider.options), salt=salt), provider.api)
    stack.push_async_callback(asyncio.to_thread, simulator.stop)
    return await asyncio.to_thread(simulator.start)
