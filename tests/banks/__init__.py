"""How the APIs that batchflux ships say things, a module an API.

They share no code with batchflux or its simulator, and are written from the APIs' own documentation.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchflux.testing.dialect import Dialect


def dialects() -> tuple[Dialect, ...]:
    """Return those of all modules here."""
    found = (import_module(f"{__name__}.{info.name}").DIALECT for info in iter_modules(__path__))
    return tuple(found)
