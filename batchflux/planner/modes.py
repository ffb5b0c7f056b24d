"""What the calls of a provider cost and how long they take live, and in batches, where its API sells some."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from batchflux.manifest.providers.modes import terms_of
from batchflux.providers import capabilities

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.capabilities import BatchTerms
    from batchflux.ledger.survey import Asked
    from batchflux.manifest import Manifest, ProviderConfig
    from batchflux.state import Lesson

AT_ONCE = 50_000
"""How many jobs of a provider are in batches at once; the rest follows when some are back."""
_HOUR = 3600.0


class Pace(NamedTuple):
    """What is known of a provider from before: the seconds that a call took, and what its keys were found to allow.

    `batches` has the seconds that its last ones in the folder took, the latest first; `canary` is how many requests
    are tried before its other ones, `sent_at` the epoch second at which its newest open batch left.
    """

    seconds_a_call: float | None
    learned: Mapping[str, Lesson]
    batches: tuple[float, ...] = ()
    canary: int = 0
    sent_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModePlan:
    """What calls cost in one mode (None without a price), and how many seconds they take, an estimate.

    Of batches, `in_a_row` so many after each other, it is by how long the last ones of the folder `took`, in seconds;
    while none was closed yet, `took` is empty, and it is the API's own bound.
    """

    cost: Decimal | None
    seconds: float
    took: tuple[float, ...] = ()
    in_a_row: int = 1


def batch_terms(provider: ProviderConfig, model: str) -> BatchTerms | None:
    """Return how a provider sells batches of a model; None when it sells none."""
    return terms_of(provider.model_copy(update={"model": model}), capabilities())


def cost_of(
    manifest: Manifest, asked: Mapping[tuple[Asked, ...], int], *, mode: str = "", worst: bool = False
) -> Decimal | None:
    """Return what requests cost at most, by whom they ask; None when the price of one is not known.

    `mode` holds for all whose API sells batches; without it each has its provider's. In the `worst` case each is made
    by the dearest that can, live where it may be.
    """
    total = Decimal(0)
    for ways, calls in asked.items():
        prices = [_price(manifest, way, mode, worst=worst) for way in (ways if worst else ways[:1])]
        known = [price for price in prices if price is not None]
        if len(known) < len(prices):
            return None
        total += max(known) * calls
    return total


def _price(manifest: Manifest, way: Asked, mode: str, *, worst: bool) -> Decimal | None:
    provider, price = manifest.providers[way.provider], way.most
    own = mode or provider.mode
    if price is None or own == "live" or (worst and own == "batch_then_live"):
        return price
    return price if mode and batch_terms(provider, way.model) is None else provider.in_batch(price)


def in_batches(provider: ProviderConfig, calls: int, known: Pace) -> ModePlan | None:
    """Return what a provider's calls take in batches, of which the first is the canary's; None: it sells none.

    That is no less than what is left of the time of its newest batch that is open.
    """
    terms = batch_terms(provider, provider.model)
    if terms is None:
        return None
    took = known.batches
    rounds = bool(known.canary) + -(-max(0, calls - known.canary) // AT_ONCE)
    each = sum(took) / len(took) if took else _window(provider, terms)
    left = 0.0 if known.sent_at is None else max(0.0, each - (time.time() - known.sent_at))
    return ModePlan(cost=None, seconds=max(rounds * each, left), took=took, in_a_row=rounds)


def _window(provider: ProviderConfig, terms: BatchTerms) -> float:
    """Return within how many seconds a batch is made."""
    if not provider.simulated:
        return terms.hours * _HOUR
    from batchflux.simulator import parse_options  # noqa: PLC0415  a server, which others do not need

    return parse_options(provider.options).batch_seconds[1]


def chosen_of(provider: ProviderConfig, live: ModePlan, batch: ModePlan | None) -> ModePlan:
    """Return what the mode comes to in which a provider works; what is sent live at last is sent at its live pace."""
    if batch is None or not provider.batched:
        return live
    if provider.live_from is None or not batch.seconds:
        return batch
    left = provider.live_from.seconds_from(datetime.now().astimezone())
    return batch if batch.seconds <= left else replace(batch, seconds=left + live.seconds)
