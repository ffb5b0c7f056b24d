"""Opens buckets, each once for a run, by what `stores` in the manifest says and by what the usual variables hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from batchflux.errors import UsageError
from batchflux.output.stores.base import SCHEMES, Address, StoreSettings, registered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchflux.output.stores.base import ObjectStore

_OURS = {**dict.fromkeys(SCHEMES, "cloud:open_bucket"), "file": "folder:open_folder"}
_EXTRA = ("obstore", "cloud")  # a package, and the extra of ours that brings it


@dataclass(slots=True, kw_only=True)
class Stores:
    """Opens buckets, each once. `settings` are by the addresses of buckets, `look_up` finds values by their names."""

    look_up: Callable[[str], str | None] = field(repr=False)
    settings: Mapping[str, StoreSettings] = field(default_factory=dict)
    _open: dict[str, ObjectStore] = field(default_factory=dict, repr=False)

    def at(self, address: Address | str) -> ObjectStore:
        """Return the bucket of an address. UsageError: it cannot be had, or the extra `cloud` is not installed."""
        place = Address.of(address) if isinstance(address, str) else address
        if place.root not in self._open:
            try:
                self._open[place.root] = self._opened(place)
            except ValueError as error:  # what a variable's file holds cannot be read
                raise UsageError(f"{place.root}: {error}") from None
        return self._open[place.root]

    def __reduce__(self) -> NoReturn:
        raise TypeError("what opens buckets holds secrets; send addresses and settings, and open them again there")

    def _opened(self, place: Address) -> ObjectStore:
        settings = self.settings.get(place.root, StoreSettings())
        store: ObjectStore = _opener(place)(place, settings, self.look_up)
        return store


def _opener(place: Address) -> Any:
    """Return what opens an address, called with it, its StoreSettings and the look-up; UsageError."""
    if place.scheme not in _OURS:
        return registered()[place.scheme].load()
    module, _, name = _OURS[place.scheme].partition(":")
    try:
        return getattr(import_module(f"batchflux.output.stores.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != _EXTRA[0]:
            raise
        remedy = f"pip install 'batchflux[{_EXTRA[1]}]'"
        raise UsageError(f"Buckets such as {place.root} need the extra {_EXTRA[1]}: {remedy}.") from None
