"""Opens buckets, each once for a run, by what `stores` in the manifest says and by what the usual variables hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchflux.errors import UsageError
from batchflux.output.stores.base import Address, StoreSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchflux.output.stores.base import ObjectStore


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
            self._open[place.root] = self._opened(place)
        return self._open[place.root]

    def _opened(self, place: Address) -> ObjectStore:
        try:
            from batchflux.output.stores.cloud import open_bucket  # noqa: PLC0415  an extra, seldom needed
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "obstore":
                raise
            remedy = "pip install 'batchflux[cloud]'"
            raise UsageError(f"Buckets such as {place.root} need the extra cloud: {remedy}.") from None
        return open_bucket(place, self.settings.get(place.root, StoreSettings()), self.look_up)
