"""The call styles. A module in this package that names a `PROVIDER` is one; presence is registration."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from batchflux.providers.base import Provider
from batchflux.providers.preview import request_preview

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.models import Capabilities

__all__ = ["Provider", "capabilities", "request_preview", "styles"]


@cache
def styles() -> Mapping[str, Provider]:
    """Return the providers by the name of their style, in the order of their modules' names.

    Raises:
        TypeError: a module's `PROVIDER` is not a Provider, or two have one style.
    """
    found: dict[str, Provider] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        provider = getattr(import_module(f"{__name__}.{module.name}"), "PROVIDER", None)
        if provider is None:
            continue
        if not isinstance(provider, Provider):
            raise TypeError(f"{__name__}.{module.name}.PROVIDER has no `capabilities` and `flow`")
        style = provider.capabilities.style
        if style in found:
            raise TypeError(f"{__name__}.{module.name}.PROVIDER: the style {style} exists already")
        found[style] = provider
    return MappingProxyType(found)


def capabilities() -> tuple[Capabilities, ...]:
    """Return what each style of each API can carry."""
    return tuple(provider.capabilities for provider in styles().values())
