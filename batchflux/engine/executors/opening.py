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

    from batchflux.engine.ports import Executor
    from batchflux.engine.settings import Shared
    from batchflux.manifest import Manifest, ProviderConfig, Redos
    from batchflux.output.image_store import ImageStore
    from batchflux.transport import TransportOptions

SIMULATOR_HOST = "simulator.localhost"  # a name of its own, so that links in results.csv outlive its port

Ways = dict[tuple[str, str], "TransportOptions"]
"""How each address of each provider is reached."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a run has for its steps, wherever they are performed.

    `keys` are by their names, `secrets` all texts that nobody may see. `tell` is told events.
    """

    manifest: Manifest
    images: ImageStore
    shared: Mapping[str, Shared]
    redos: Redos | None
    keys: Mapping[str, str | None]
    secrets: Collection[str]
    tell: Callable[..., None]


async def open_executors(
    stack: AsyncExitStack, means: Means, elsewhere: Elsewhere | None
) -> tuple[LocalExecutor, Executor]:
    """Return what performs steps in this process, and what performs those of jobs, open until `stack` is closed.

    UsageError: Ray cannot be used.
    """
    ways = await _ways(stack, means)
    opened = [(place, await stack.enter_async_context(Transport(way)), way.base_url) for place, way in ways.items()]
    transports = {place: (transport, url) for place, transport, url in opened}
    local = LocalExecutor(transports, means.images, means.secrets)
    return local, local if elsewhere is None else await _remote(stack, means, elsewhere, ways, local)


async def _ways(stack: AsyncExitStack, means: Means) -> Ways:
    """Return how all are reached; embedded simulators are open until `stack` is closed."""
    ways: Ways = {}
    for name, provider in means.manifest.providers.items():
        resolve: dict[str, tuple[str, int]] = {}
        addresses = provider.addresses
        if provider.simulated:
            resolve[SIMULATOR_HOST] = await _simulator(stack, provider, means)
            addresses = (f"http://{SIMULATOR_HOST}",)
        for address in addresses:
            place = name, address if len(addresses) > 1 else ""
            ways[place] = transport_options(means.manifest, name, address, resolve, means.shared[name])
    return ways


async def _remote(
    stack: AsyncExitStack, means: Means, elsewhere: Elsewhere, ways: Ways, local: LocalExecutor
) -> RemoteExecutor:
    from batchflux.engine.executors.ray_cluster import ray_workers  # noqa: PLC0415  an extra

    folder, mark = means.manifest.output.dir.absolute(), f"{SPOOL}/{TEMPORARY}{uuid4().hex}"
    await asyncio.to_thread((folder / mark).touch)
    stack.callback((folder / mark).unlink, missing_ok=True)
    named, settings = means.manifest.providers.items(), _settings(means, ways, mark)
    workers = await stack.enter_async_context(ray_workers(elsewhere.on, elsewhere.workers, settings, means.tell))
    return RemoteExecutor(
        local,
        workers,
        images=means.images,
        folder=folder,
        times={name: one.times for name, one in means.shared.items()},
        key_names={value: name for name, value in means.keys.items() if value is not None},
        secrets=means.secrets,
        here={name for name, one in named if _has_secret(one)},
        fetched_here={name for name, one in named if one.download_headers},
        near={name for name, one in named if one.simulated},
    )


def _settings(means: Means, ways: Ways, mark: str) -> WorkerSettings:
    """Return what workers work by; what may be secret of how providers are reached is left out."""
    manifest, slots = means.manifest, next(iter(ways.values())).slots
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
        proxies={
            name: DIRECT if one.simulated or _has_secret(one) else one.proxy for name, one in manifest.providers.items()
        },
        keys=tuple(name for name, value in means.keys.items() if value is not None),
        base=manifest.base,
        env_file=manifest.env_file,
        at_once=manifest.limits.concurrency,
    )


def _has_secret(provider: ProviderConfig) -> bool:
    """Whether a provider is reached by a proxy with a password, which must not travel."""
    return provider.proxy is not None and Proxies.of(provider.proxy, {}).secret


async def _simulator(stack: AsyncExitStack, provider: ProviderConfig, means: Means) -> tuple[str, int]:
    """Start the embedded simulator as a provider's options say; return its host and port."""
    from batchflux.simulator import EmbeddedSimulator, parse_options  # noqa: PLC0415  a server, seldom needed

    # A request does not tell its job's variant, and a redo must not be the same picture once more.
    salt = 0 if means.redos is None else sum(map(len, means.redos.asked.values()))
    # Who asks a gateway for the same again wants another picture.
    options = replace(parse_options(provider.options), salt=salt, varied=means.manifest.served)
    simulator = EmbeddedSimulator(options, provider.api)
    stack.push_async_callback(asyncio.to_thread, simulator.stop)
    return await asyncio.to_thread(simulator.start)
