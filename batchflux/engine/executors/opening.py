"""Opens what performs a run's steps: transports for each address of each provider, simulators, workers on Ray."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING
from uuid import uuid4

from batchflux.engine.executors.local import LocalExecutor
from batchflux.engine.executors.remote import RemoteExecutor
from batchflux.engine.executors.remote_worker import WorkerSettings
from batchflux.engine.settings import transport_options
from batchflux.errors import UsageError
from batchflux.output.base import SPOOL, TEMPORARY
from batchflux.transport import DownloadSlots, Proxies, Transport
from batchflux.transport.connecting.proxies import DIRECT

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from contextlib import AsyncExitStack

    from batchflux.engine.settings import Shared
    from batchflux.manifest import Manifest, ProviderConfig, Redos
    from batchflux.output.image_store import ImageStore
    from batchflux.transport import TransportOptions

SIMULATOR_HOST = "simulator.localhost"  # a name of its own, so that links in results.csv outlive its port

Ways = dict[tuple[str, str], "TransportOptions"]
"""How each address of each provider is reached."""


async def open_ways(
    stack: AsyncExitStack, manifest: Manifest, shared: Mapping[str, Shared], redos: Redos | None
) -> Ways:
    """Return how all are reached; embedded simulators are open until `stack` is closed."""
    ways: Ways = {}
    for name, provider in manifest.providers.items():
        resolve: dict[str, tuple[str, int]] = {}
        addresses = provider.addresses
        if provider.simulated:
            resolve[SIMULATOR_HOST] = await _simulator(stack, provider, redos)
            addresses = (f"http://{SIMULATOR_HOST}",)
        for address in addresses:
            place = name, address if len(addresses) > 1 else ""
            ways[place] = transport_options(manifest, name, address, resolve, shared[name])
    return ways


async def open_local(stack: AsyncExitStack, ways: Ways, images: ImageStore, secrets: Collection[str]) -> LocalExecutor:
    """Return what performs steps in this process, open until `stack` is closed."""
    opened = [(place, await stack.enter_async_context(Transport(way)), way.base_url) for place, way in ways.items()]
    return LocalExecutor({place: (transport, url) for place, transport, url in opened}, images, secrets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """Where steps are performed, if not in this process: `on` is ray, ray://auto or ray://HOST:PORT; UsageError.

    `workers` is how many there are, None: one on each node.
    """

    on: str
    workers: int | None = None

    def __post_init__(self) -> None:
        scheme, _, address = self.on.partition("://")
        if scheme != "ray" or (self.on != "ray" and not address):
            raise UsageError(f"--on {self.on}: allowed is ray, ray://auto and ray://HOST:PORT")
        if find_spec("ray") is None:
            raise UsageError("--on ray needs Ray; install the extra: pip install 'batchflux[ray]'")


async def open_remote(  # noqa: PLR0913  all of it is what the two sides have in common
    stack: AsyncExitStack,
    elsewhere: Elsewhere,
    local: LocalExecutor,
    *,
    ways: Ways,
    manifest: Manifest,
    images: ImageStore,
    shared: Mapping[str, Shared],
    keys: Mapping[str, str | None],
    secrets: Collection[str],
    tell: Callable[..., None],
    came: Callable[[int], None],
) -> RemoteExecutor:
    """Return what has steps performed on Ray, open until `stack` is closed; UsageError: it cannot be used."""
    from batchflux.engine.executors.ray_cluster import ray_workers  # noqa: PLC0415  an extra

    folder, mark = manifest.output.dir.absolute(), f"{SPOOL}/{TEMPORARY}{uuid4().hex}"
    await asyncio.to_thread((folder / mark).touch)
    stack.callback((folder / mark).unlink, missing_ok=True)
    named, settings = manifest.providers.items(), _settings(manifest, ways, keys, mark)
    workers = await stack.enter_async_context(ray_workers(elsewhere.on, elsewhere.workers, settings, tell))
    return RemoteExecutor(
        local,
        workers,
        images=images,
        folder=folder,
        times={name: one.times for name, one in shared.items()},
        key_names={value: name for name, value in keys.items() if value is not None},
        secrets=secrets,
        here={name for name, one in named if one.proxy is not None and Proxies.of(one.proxy, {}).secret},
        fetched_here={name for name, one in named if one.download_headers},
        near={name for name, one in named if one.simulated},
        came=came,
    )


def _settings(manifest: Manifest, ways: Ways, keys: Mapping[str, str | None], mark: str) -> WorkerSettings:
    """Return what workers work by; what may be secret of how providers are reached is left out."""
    slots = next(iter(ways.values())).slots
    slots = DownloadSlots(slots.least, slots.most)
    transports = {
        place: replace(way, due=None, slots=slots, proxies=Proxies(), download_headers={})
        for place, way in ways.items()
    }
    return WorkerSettings(
        folder=str(manifest.output.dir.absolute()),
        mark=mark,
        verify=manifest.output.verify,
        accept=tuple(manifest.output.accept),
        transports=transports,
        slots=slots,
        proxies={name: DIRECT if one.simulated else one.proxy for name, one in manifest.providers.items()},
        keys=tuple(name for name, value in keys.items() if value is not None),
        base=manifest.base,
        env_file=manifest.env_file,
        at_once=manifest.limits.concurrency,
    )


async def _simulator(stack: AsyncExitStack, provider: ProviderConfig, redos: Redos | None) -> tuple[str, int]:
    """Start the embedded simulator as a provider's options say; return its host and port."""
    from batchflux.simulator import EmbeddedSimulator, parse_options  # noqa: PLC0415  a server, seldom needed

    # A request does not tell its job's variant, and a redo must not be the same picture once more.
    salt = 0 if redos is None else sum(map(len, redos.asked.values()))
    simulator = EmbeddedSimulator(replace(parse_options(provider.options), salt=salt), provider.api)
    stack.push_async_callback(asyncio.to_thread, simulator.stop)
    return await asyncio.to_thread(simulator.start)
