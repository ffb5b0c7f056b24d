"""In which mode a provider works: live, or in batches, where its API sells some, and at which share of the price."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.errors import quoted
from batchflux.manifest.job_fields import AUTO
from batchflux.manifest.reading.values import either

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchflux.capabilities import BatchTerms, Capabilities
    from batchflux.manifest.providers.settings import ProviderConfig


def terms_of(provider: ProviderConfig, offers: Sequence[Capabilities]) -> BatchTerms | None:
    """Return how a provider sells batches of its model; None when it sells none."""
    own = [offer for offer in offers if offer.api == provider.api and provider.style in (AUTO, offer.style)]
    return next((terms for offer in own if (terms := offer.for_model(provider.model).batch) is not None), None)


def mode_faults(provider: ProviderConfig, offers: Sequence[Capabilities], *, shared: bool) -> Iterator[tuple[str, str]]:
    """Yield what of its mode cannot be as it is, by its key, with the remedy; `shared`: batch_share is written."""
    terms = terms_of(provider, offers)
    known = any(offer.api == provider.api for offer in offers)  # another one is a fault already
    if known and terms is None and provider.batched:
        yield "mode", f"{sells_none(provider, offers)}; set mode: live{_elsewhere(provider, offers)}"
    elif known and terms is None and shared:
        yield "batch_share", f"{sells_none(provider, offers)}; remove batch_share"
    if provider.batched and len(provider.addresses) > 1:
        several = f"a batch lies at one address, and these are {len(provider.addresses)}"
        yield "mode", f"{several}; set mode: live, or write one base_url"
    if provider.mode == "batch_then_live" and provider.live_from is None:
        yield "live_from", 'is missing; add when what is not back from batches is sent live, as "04:00" or 5h'
    if provider.mode != "batch_then_live" and provider.live_from is not None:
        yield "live_from", "is for mode: batch_then_live; set that mode, or remove live_from"


def sells_none(provider: ProviderConfig, offers: Sequence[Capabilities], model: str = "") -> str:
    """Say that an API sells no batches, or none of a model, by default the provider's."""
    some = any(offer.api == provider.api and _sells(offer) for offer in offers)
    return f"the API {provider.api} sells no batches" + (f" of {quoted(model or provider.model)}" if some else "")


def _sells(offer: Capabilities) -> bool:
    """Whether an API sells batches: of any model, or of its own ones."""
    return offer.batch is not None or offer.for_model(offer.model).batch is not None


def _elsewhere(provider: ProviderConfig, offers: Sequence[Capabilities]) -> str:
    """Return who sells some: another model, or another API."""
    sellers = sorted({offer.api for offer in offers if _sells(offer)})
    if provider.api in sellers:
        return ", or name another model"
    return f", or use an API that does: {either(tuple(sellers))}" if sellers else ""
