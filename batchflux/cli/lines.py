"""Lines of plans, runs and states: of batches, what they cost and take, and which are open; of reference photos."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.cli.terminal import count, duration, money

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchflux.ledger.summary import BatchUse
    from batchflux.manifest import Manifest, ProviderConfig
    from batchflux.planner import Plan, ProviderPlan
    from batchflux.planner.modes import ModePlan

_HOUR = 3600.0
MB = 1_000_000
STEPS = {
    "upright": "turned upright",
    "rgb": "colours to RGB",
    "eight_bit": "16 bit to 8",
    "still": "first picture of several",
    "format": "format converted",
    "scaled": "scaled to max_side",
    "smaller": "made smaller for max_bytes",
    "flattened": "flattened",
    "stripped": "metadata stripped",
}  # by photos.steps.Step


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


def photo_lines(plan: Plan) -> Iterator[str]:
    """Yield how many local photos there are, what is done before they are sent, and which references cannot be sent."""
    photos = plan.photos
    if photos.get("photos"):
        broken = f"; {photos['broken']:,} cannot be sent" if photos["broken"] else ""
        yield f"  photos    {photos['photos']:>9,}  local, {photos['bytes'] / MB:,.1f} MB{broken}"
        if photos["prepared"]:
            done = ", ".join(f"{STEPS[name]} {number:,}" for name, number in photos["prepared"].items())
            yield f"            sent as copies: {done}"
            yield "            (JPEG at quality 95, PNG and WEBP without loss; originals stay)"
        if photos["large"]:
            yield f"            {photos['large']:,} over 20 megapixels or 10 MB, more than some APIs take;"
            yield "            references: {max_side: 2048} sends them smaller"
    if photos.get("in_buckets"):
        yield f"  photos    {photos['in_buckets']:>9,}  in buckets; a run looks at them, a plan does not"
    if plan.publish is not None and plan.publish["photos"]:
        put, size = plan.publish, plan.publish["bytes"] / MB
        yield f"  publish   {put['photos']:>9,}  to be put below {put['to']}, {size:,.1f} MB, each once for ever"
    if plan.unreadable:
        yield ""
        yield f"{count(plan.unreadable, 'job')} will fail, because a reference cannot be read:"
        yield from (f"  {sample}" for sample in plan.unreadable_samples)
