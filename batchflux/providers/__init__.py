"""The providers: those that a module of this package names in `PROVIDERS`, and those of installed packages.

Another package registers one as an entry point of the group `batchflux.providers`, under any name.
"""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING

from batchflux.manifest.kinds import PixelPrice
from batchflux.providers.base import READER, Provider, preview

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from decimal import Decimal

    from batchflux.capabilities import Capabilities
    from batchflux.manifest import Manifest
    from batchflux.models import Job
    from batchflux.webhooks.api import WebhookApi

__all__ = ["READER", "Provider", "capabilities", "preview", "providers", "quoted", "webhook_apis"]

GROUP = "batchflux.providers"


@cache
def providers() -> Mapping[tuple[str, str], Provider]:
    """Return all providers by API and style; TypeError when one registered is none, or two have one name."""
    found: dict[tuple[str, str], Provider] = {}
    for place, provider in _registered():
        if not isinstance(provider, Provider):
            raise TypeError(f"{place} registers {provider!r}, which is no Provider")
        name = (provider.api, provider.style)
        if name in found:
            raise TypeError(f"{place}: the API {provider.api} has a style {provider.style} already")
        found[name] = provider
    return MappingProxyType(found)


@cache
def capabilities() -> tuple[Capabilities, ...]:
    """Return what each provider can carry, for its models in general; `for_model` tells what holds for one."""
    return tuple(replace(one.capabilities(""), by_model=cache(one.capabilities)) for one in providers().values())


def quoted(manifest: Manifest, job: Job) -> Decimal | None:
    """Return the most that a job's request may cost at its provider, None when no price is known."""
    config = manifest.providers[job.provider]
    provider, price = providers()[config.api, job.style], config.priced(job.model)
    if isinstance(price, PixelPrice):
        return price.at_most(provider.megapixels(job))
    return provider.quote(job, manifest.price_of(job.provider, job.model))


@cache
def webhook_apis() -> Mapping[tuple[str, str], WebhookApi]:
    """Return how APIs call, of those that do, by API and style."""
    return {name: one.webhooks for name, one in providers().items() if one.webhooks is not None}


def _registered() -> Iterator[tuple[str, object]]:
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        place = f"{__name__}.{module.name}"
        for provider in getattr(import_module(place), "PROVIDERS", ()):
            yield place, provider
    for point in entry_points(group=GROUP):
        yield f"{point.dist.name if point.dist else point.name} ({point.value})", point.load()
