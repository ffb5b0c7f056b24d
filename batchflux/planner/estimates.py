"""What each provider of a manifest has to do in a run: its calls, what they cost, and how long they take."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from batchflux.engine.settings import canary_of
from batchflux.ledger.bookkeeping import made_before
from batchflux.ledger.lessons import lessons_of
from batchflux.ledger.summary import batch_seconds, batch_sent_at
from batchflux.ledger.survey import Asked
from batchflux.planner.modes import ModePlan, Pace, chosen_of, cost_of, in_batches
from batchflux.state import proven

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable, Mapping
    from decimal import Decimal

    from batchflux.ledger.survey import Survey
    from batchflux.manifest import Manifest, ProviderConfig
    from batchflux.state import Lesson

SECONDS_A_CALL, SIMULATED_CALL = 15.0, 0.2
_MEASURED = 10_000  # jobs whose calls are looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderPlan:
    """What one provider has to do.

    `jobs` of all are its own; `calls` of them need a request, which cost `cost` in the plan's currency (None without a
    price) and take `seconds`, an estimate by `seconds_a_call` and by its limits, `concurrency` and `rate` in requests
    a second (None: it is found). `takes_over` counts the calls of others that it can make when they cannot. `models`
    counts its calls by model, `price` is of `model`, which jobs have that name none. `canary` requests are tried before
    its other ones are sent. `keys_missing` are those of its keys that a run would miss, `proxy` what it goes through.
    `mode` is how it works; where its API sells batches, `modes` says what its calls cost and take `live` and in a
    `batch`.
    """

    api: str
    base_url: str | None
    model: str
    jobs: int
    calls: int
    takes_over: int
    models: dict[str, int]
    price: Decimal | None
    cost: Decimal | None
    concurrency: int
    rate: float | None
    seconds: float
    seconds_a_call: float
    canary: int = 0
    keys_missing: tuple[str, ...] = ()
    proxy: str | None = None
    learned: dict[str, Lesson] = field(default_factory=dict)
    mode: str = "live"
    modes: dict[str, ModePlan] = field(default_factory=dict)


def counted(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return the sum of the counts of each name."""
    found: dict[str, int] = {}
    for name, count in pairs:
        found[name] = found.get(name, 0) + count
    return found


def provider_plans(manifest: Manifest, survey: Survey, paces: Mapping[str, Pace]) -> dict[str, ProviderPlan]:
    """Return what each provider of a manifest has to do, by its name."""
    known = {name: paces.get(name, Pace(None, {})) for name in manifest.providers}
    return {name: _in_mode(manifest, survey, name, pace) for name, pace in known.items()}


def _plan_of(manifest: Manifest, survey: Survey, name: str, pace: Pace) -> ProviderPlan:
    """Return what a provider has to do, were it all live."""
    provider, limits = manifest.providers[name], manifest.limits_of(name)
    own = _own(survey, name)
    taken = (calls for ways, calls in survey.asked.items() if any(other.provider == name for other in ways[1:]))
    seconds_a_call = pace.seconds_a_call or (SIMULATED_CALL if provider.simulated else SECONDS_A_CALL)
    made = ProviderPlan(
        api=provider.api,
        base_url=provider.base_url,
        model=provider.model,
        jobs=sum(jobs for (maker, _), jobs in survey.made_by.items() if maker == name),
        calls=sum(own.values()),
        takes_over=sum(taken),
        models=counted((ways[0].model, calls) for ways, calls in own.items()),
        price=provider.price_of(provider.model),
        cost=cost_of(manifest, own or _none_of(manifest, name), mode="live"),
        concurrency=min(limits.concurrency, manifest.limits.concurrency),
        rate=None if limits.rate is None else limits.rate.count / limits.rate.seconds,
        seconds=0.0,
        seconds_a_call=seconds_a_call,
        canary=pace.canary,
        learned=dict(pace.learned),
        mode=provider.mode,
    )
    return replace(made, seconds=_seconds(made, provider.key_names))


def _own(survey: Survey, name: str) -> dict[tuple[Asked, ...], int]:
    return {ways: calls for ways, calls in survey.asked.items() if ways[0].provider == name}


def _none_of(manifest: Manifest, name: str) -> dict[tuple[Asked, ...], int]:
    """Return that nothing is asked of a provider, which has a cost where its price is known."""
    model = manifest.providers[name].model
    return {(Asked(name, model, "", manifest.price_of(name, model)),): 0}


def _in_mode(manifest: Manifest, survey: Survey, name: str, pace: Pace) -> ProviderPlan:
    """Return the plan of a provider as its mode has it, and how that compares with the other one."""
    provider, live = manifest.providers[name], _plan_of(manifest, survey, name, pace)
    cost = cost_of(manifest, _own(survey, name) or _none_of(manifest, name), mode="batch")
    batch = in_batches(provider, live.calls, pace)
    if batch is None:
        return live
    modes = {"live": ModePlan(cost=live.cost, seconds=live.seconds), "batch": replace(batch, cost=cost)}
    chosen = chosen_of(provider, modes["live"], modes["batch"])
    return replace(live, cost=chosen.cost, seconds=chosen.seconds, modes=modes)


def whole_time(manifest: Manifest, plans: Collection[ProviderPlan]) -> float:
    """Return how many seconds a run takes in which all providers work at once, within the concurrency of all."""
    live = [one for one in plans if one.mode == "live"]  # an open batch takes no place among requests
    together = sum(one.calls * one.seconds_a_call for one in live) / manifest.limits.concurrency
    return max(together if len(plans) > 1 else 0.0, *(one.seconds for one in plans))


def mean_call(default: ProviderPlan, plans: Collection[ProviderPlan]) -> float:
    """Return how many seconds a call takes; that of `default` when there is none."""
    calls = sum(one.calls for one in plans)
    if calls == default.calls:
        return default.seconds_a_call
    return sum(one.calls * one.seconds_a_call for one in plans) / calls


def _seconds(plan: ProviderPlan, keys: Iterable[str]) -> float:
    """Return how many seconds a provider's calls take, by what was told and what was learned of its keys."""
    told = math.inf if plan.rate is None else plan.rate
    known = [plan.learned.get(name) for name in keys]
    rate = sum(min(told, key.rate or math.inf) if key else told for key in known)
    active = sum(key.active or plan.concurrency if key else plan.concurrency for key in known)
    by_slots = plan.seconds_a_call * -(-plan.calls // min(plan.concurrency, active))
    return max(by_slots, plan.seconds_a_call + (plan.calls - 1) / rate) if plan.calls else 0.0


def canaries(manifest: Manifest, survey: Survey, ledger: sqlite3.Connection) -> Counter[str]:
    """Return by provider how many requests are tried before the rest is sent; none where all are sent at once."""
    kinds: Counter[Asked] = Counter()
    for ways, calls in survey.asked.items():
        kinds[ways[0]._replace(most=None)] += calls
    tried: Counter[str] = Counter()
    for kind, calls in kinds.items():
        provider, places = manifest.providers[kind.provider], canary_of(manifest)
        if 0 < places < calls and not _proven(ledger, kind, provider):
            tried[kind.provider] += places
    return tried


def _proven(ledger: sqlite3.Connection, kind: Asked, provider: ProviderConfig) -> bool:
    return made_before(ledger, kind) or proven(kind.provider, kind.model, kind.style, provider.base_url or "")


def paces_of(manifest: Manifest, ledger: sqlite3.Connection, tried: Mapping[str, int]) -> dict[str, Pace]:
    """Return what is known of each provider, by its name; of a single one whatever it was called before.

    `tried` says of each how many requests go first.
    """
    calls = f"SELECT spec, api_seconds FROM jobs WHERE api_seconds > 0 LIMIT {_MEASURED}"  # noqa: S608  a constant
    name = "json_extract(spec, '$.provider')" if manifest.several else "?"
    query = f"SELECT {name}, AVG(api_seconds) FROM ({calls}) GROUP BY 1"  # noqa: S608  constants
    measured = dict(ledger.execute(query, () if manifest.several else (manifest.provider.name,)).fetchall())
    return {
        name: Pace(
            measured.get(name),
            lessons_of(provider, ledger),
            batch_seconds(ledger, name),
            tried.get(name, 0),
            batch_sent_at(ledger, name),
        )
        for name, provider in manifest.providers.items()
    }
