"""The formats of `batchflux export`: those that a module of this package names in `EXPORTERS`, and other packages'.

Another package registers a Format as an entry point of the group `batchflux.exporters`, whose name is the format's.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING

from batchflux.exports.base import Format

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["formats"]

GROUP = "batchflux.exporters"


@cache
def formats() -> Mapping[str, Format]:
    """Return all formats by name; TypeError when one registered is none, or two have one name."""
    found: dict[str, Format] = {}
    for place, name, one in _registered():
        if not isinstance(one, Format):
            raise TypeError(f"{place} registers {one!r}, which is no Format")
        if name in found:
            raise TypeError(f"{place}: there is a format {name} already")
        found[name] = one
    return MappingProxyType(found)


def _registered() -> Iterator[tuple[str, str, object]]:
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        place = f"{__name__}.{module.name}"
        for name, one in getattr(import_module(place), "EXPORTERS", {}).items():
            yield place, name, one
    for point in entry_points(group=GROUP):
        yield f"{point.dist.name if point.dist else point.name} ({point.value})", point.name, point.load()
