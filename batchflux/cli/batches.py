"""What a person reads of batches: what they cost and take beside live requests, and which are open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.cli.terminal import count, duration, money

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.ledger.summary import BatchUse
    from batchflux.manifest import Manifest, ProviderConfig
    from batchflux.planner import Plan, ProviderPlan
    from batchflux.planner.modes import ModePlan

_HOUR = 3600.0


def mode_lines(result: Plan) -> list[str]:
    """Return what each provider whose API sells batches costs and takes live and so, where it has calls to make."""
    sellers = {name: one for name, one in result.providers.items() if one.modes and one.calls}
    alone = len(result.providers) == 1
    return [
        f"  modes     {'' if alone else f'of {name}: '}"
        f"live: {_mode(one, 'live', result.currency)}; batch: {_mode(one, 'batch', result.currency)}"
        for name, one in sellers.items()
    ]


def _mode(one: ProviderPlan, name: str, currency: str) -> str:
    made = one.modes[name]
    cost = [] if made.cost is None else [money(made.cost, currency)]
    return ", ".join([*cost, batch_time(made) if name == "batch" else about(made.seconds)])


def about(seconds: float) -> str:
    """Return `about 12 s`."""
    return f"{'about ' if seconds >= 1 else ''}{duration(seconds)}"


def batch_time(made: ModePlan) -> str:
    """Return how long batches take: as the last ones did, or their API's bound."""
    row = f", {made.in_a_row} in a row" if made.in_a_row > 1 else ""
    if not made.took:
        return f"up to {f'{made.seconds / _HOUR:.3g} h' if made.seconds >= _HOUR else duration(made.seconds)}{row}"
    took, last = duration(sum(made.took) / len(made.took)), len(made.took)
    return f"{about(made.seconds)}{row} (the last {f'{last} took' if last > 1 else 'took'} {took})"


def time_of(one: ProviderPlan, manifest: Manifest, name: str) -> str:
    """Return how long a provider's calls take in its mode."""
    provider, batch = manifest.providers[name], one.modes.get("batch")
    if batch is None or not provider.batched:
        return about(one.seconds)
    if one.seconds == batch.seconds:
        return f"{batch_time(batch)}, in {'a batch' if one.calls == 1 else 'batches'}"
    return f"up to {duration(one.seconds)}: batches {_until(provider)}, then live what is not back"


def _until(provider: ProviderConfig) -> str:
    """Return until when batches are waited for, `until 04:00` or `for 5h`."""
    by_clock = provider.live_from is not None and provider.live_from.clock is not None
    return f"{'until' if by_clock else 'for'} {provider.live_from}"


def at_most(result: Plan, manifest: Manifest) -> list[str]:
    """Return what it may come to where what is not back from batches is sent live."""
    if result.cost is None or result.worst_cost is None or result.worst_cost <= result.cost or manifest.several:
        return []
    most = (
        f"  at most   {money(result.worst_cost, result.currency)}, if batches gave nothing {_until(manifest.provider)}"
    )
    beyond = result.budget is not None and result.worst_cost + result.spent > result.budget
    return [f"{most}; the budget would stop that before its end" if beyond else most]


def batch_lines(batches: Mapping[str, BatchUse], again: int = 0) -> list[str]:
    """Return which batches are open, and how many answers came more than once."""
    text = [
        f"  batch      {name} of {use.provider}: {count(use.jobs, 'job')}, {use.back:,} back, since {use.since}"
        for name, use in batches.items()
    ]
    if again:
        text.append(f"  again      {again:>9,}  answers of batches came more than once, and are counted as spent")
    return text
