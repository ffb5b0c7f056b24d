"""The settings of the engine from a manifest: keys, limits and transport, and limits anew while it runs (SIGHUP)."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

from batchflux.engine.budget import Budget, Ceiling, Purse
from batchflux.engine.canary import Canary
from batchflux.engine.circuit_breaker import CircuitBreaker
from batchflux.engine.limits.key_pool import AT, Allowance, Key
from batchflux.engine.limits.limit_finder import Learned
from batchflux.engine.limits.rate_limiter import RateLimiter, Slots
from batchflux.engine.outages import NEVER, PATIENCE
from batchflux.engine.retry import RetryPolicy
from batchflux.engine.services import Batching, Service, Services
from batchflux.engine.shutdown import Deadline, Gate
from batchflux.errors import UsageError
from batchflux.ledger.tables import nanos
from batchflux.manifest import AutoTimeout
from batchflux.manifest.reading.diagnostics import keys_fault
from batchflux.providers import capabilities, providers, quoted
from batchflux.secrets import wrong_key
from batchflux.state import Lesson
from batchflux.transport import CallTimes, DownloadSlots, Proxies, TransportOptions
from batchflux.transport.links import origin_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from batchflux.errors import Fault
    from batchflux.ledger.reconcile import OnUnknown
    from batchflux.manifest import Manifest, ProviderConfig
    from batchflux.manifest.reading.values import Deadline as Until
    from batchflux.manifest.reading.values import Rate
    from batchflux.models import Cost, Job
    from batchflux.providers import Provider

SHORTEST_IDLE, LONGEST_IDLE = 5.0, 60.0  # seconds between two pieces of an answer or a download
SHORTEST_DOWNLOAD, LONGEST_DOWNLOAD = 30.0, 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What engine and transport share of a provider: how long calls take, the slots of pictures, and the ways out."""

    times: CallTimes
    downloads: DownloadSlots
    proxies: Proxies


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How a run starts: `already` is what its folder has spent, in nanounits, `earlier` what of it before this run.

    `clock` gives the monotonic seconds of its limits, `now` the time of day in epoch seconds; a rehearsal has its own.
    """

    already: int
    on_unknown: OnUnknown
    earlier: int | None = None
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time


@dataclass(slots=True, kw_only=True)
class Rules:
    """What holds the run back, and who makes its jobs; limits change while it runs when they are read again.

    `downloads` are the slots of pictures on their way, `slots` those of requests over all providers. `fallback_on` are
    the error codes for which another provider takes a job over. `purse_of` says whose money pays for a job, where it is
    not all the same.
    """

    services: Services
    canary: Canary
    budget: Budget
    deadline: Deadline
    downloads: DownloadSlots
    slots: Slots
    fallback_on: tuple[str, ...] = ()
    purse_of: Callable[[Job], Purse] | None = None

    def budget_of(self, job: Job) -> Budget | Purse:
        """Return what pays for a job."""
        return self.budget if self.purse_of is None else self.purse_of(job)


def key_faults(manifest: Manifest, environ: Mapping[str, str]) -> dict[str, Fault]:
    """Return by its name what is wrong with each key that is not set, or cannot be one, of providers that may be asked.

    A run needs them all.
    """
    secrets = manifest.secrets(environ)
    return {
        name: keys_fault(manifest, provider, index, wrong)
        for provider in manifest.may_ask
        for index, name in enumerate(manifest.providers[provider].keys)
        if (wrong := wrong_key(name, secrets)) is not None
    }


def secrets_of(manifest: Manifest, environ: Mapping[str, str]) -> dict[str, str | None]:
    """Return the keys of all providers by their names; None where an API wants none, or none is set and none needed.

    Blanks and line ends around a key are none of it. Raises UsageError: a variable that the manifest names is not set,
    or holds what is no key.
    """
    if faults := key_faults(manifest, environ):
        raise UsageError("\n".join(map(str, faults.values())))
    providers, looked_up = manifest.providers.values(), manifest.secrets(environ)
    secrets = {name: (looked_up.get(name) or "").strip() or None for provider in providers for name in provider.keys}
    return {name: secrets.get(name) for provider in providers for name in provider.key_names}


def keys_of(
    provider: ProviderConfig, rate: Rate | None, secrets: Mapping[str, str | None], lessons: Mapping[str, Lesson]
) -> list[Key]:
    """Return a provider's pool of keys, each for each of its addresses.

    Each begins from what was found of it before, where limits allow that. In a fleet its name tells the address, which
    a later run goes by that asks for its tasks, whatever addresses there are then; `rate` is each key's at all of them.
    """
    pace = None if rate is None else (rate.count, rate.seconds)
    fleet = len(provider.addresses) > 1
    shared = {key: Allowance() for key in provider.key_names}
    made = []
    for address in provider.addresses or ("",):
        for key in provider.key_names:
            name = f"{key}{AT}{address}" if fleet else key
            key_made = Key(
                name=name,
                secret=secrets[key],
                address=address if fleet else "",
                shared=shared[key] if fleet else None,
                rate=pace,
                learned=Learned(rate=known.rate, active=known.active) if (known := lessons.get(name)) else None,
            )
            if fleet:
                key_made.place.name = f"provider at {address}"
            made.append(key_made)
    return made


def found_of(keys: Iterable[Key]) -> dict[str, Lesson]:
    """Return what keys are known to allow now, for later runs to begin from."""
    now, each = time.time(), [(key.name, key.found) for key in keys if key.dead is None]
    return {name: Lesson(rate=found.rate, active=found.active, at=now) for name, found in each}


def service_of(
    manifest: Manifest, name: str, keys: list[Key], times: CallTimes, of_all: tuple[Gate, Slots], start: Start
) -> Service:
    """Return one of the manifest's providers as the engine knows it; its gate is the run's where it is the only one."""
    provider, limits = manifest.providers[name], manifest.limits_of(name)
    offers = [offer.for_model(provider.model) for offer in capabilities() if offer.api == provider.api]
    gate, slots = of_all
    own = Gate(gate) if len(manifest.providers) > 1 else gate
    breaker = CircuitBreaker(limits.max_consecutive_failures, own, _patience(manifest))

    def wire(job: Job) -> Provider:
        return providers()[provider.api, job.style]

    return Service(
        name=name,
        gate=own,
        limits=RateLimiter(
            keys,
            concurrency=limits.concurrency,
            gate=own,
            breaker=breaker,
            active_tasks=min((offer.active_tasks for offer in offers if offer.active_tasks), default=None),
            clock=start.clock,
            slots=slots,
        ),
        breaker=breaker,
        policy=RetryPolicy(attempts=limits.attempts, on_unknown=start.on_unknown),
        times=times,
        wire=wire,
        price_of=lambda job: nanos(quoted(manifest, job) or Decimal(0)),
        cost_of=partial(_cost_of, provider),
        batching=_batching(manifest, provider),
    )


def _cost_of(provider: ProviderConfig, job: Job, told: Cost | None, *, batched: bool = False) -> int | None:
    free = provider.price is None and provider.simulated
    cost = None if free else provider.cost_of(job.model, told, batched=batched)
    return None if cost is None else nanos(cost)


def _batching(manifest: Manifest, provider: ProviderConfig) -> Batching | None:
    """Return how a provider's batches are paid, None where its API sells none."""
    sellers = [one for (api, _), one in providers().items() if api == provider.api and one.batches is not None]
    if not sellers:
        return None
    return Batching(
        on=provider.batched,
        price_of=lambda job: nanos(provider.in_batch(quoted(manifest, job) or Decimal(0))),
        cost_of=partial(_cost_of, provider, batched=True),
        seller=sellers[0],
        live_from=_live_from(provider.live_from),
    )


def _live_from(at: Until | None) -> Callable[[float], float] | None:
    """Return what gives, for what is sent at an epoch second, when it is sent live if it is not back; None: never."""
    if at is None:
        return None
    return lambda sent_at: sent_at + at.seconds_from(datetime.fromtimestamp(sent_at).astimezone())


def rules_of(
    manifest: Manifest,
    keys: Mapping[str, list[Key]],
    shared: Mapping[str, Shared],
    gate: Gate,
    start: Start,
) -> Rules:
    """Return the engine's rules by the manifest's limits."""
    folder, run = _budgets(manifest)
    slots, (at, label, ends) = Slots(manifest.limits.concurrency), _deadline(manifest, start.now())
    services = {
        name: service_of(manifest, name, of_one, shared[name].times, (gate, slots), start)
        for name, of_one in keys.items()
    }
    return Rules(
        services=Services(services, gate),
        canary=Canary(canary_of(manifest), gate, str(manifest.output.dir)),
        budget=Budget(folder=folder, run=run, spent=start.already, gate=gate, earlier=start.earlier),
        deadline=Deadline(at, label, gate, ends=ends, now=start.now),
        downloads=next(iter(shared.values())).downloads,
        slots=slots,
        fallback_on=manifest.fallback_on,
    )


def keep_distance(keys: list[Key], last: float | None) -> None:
    """Let each key's first request keep the user's rate to what an earlier run sent last, at epoch second `last`.

    It counts for all keys, and as now when the clock was set back and `last` lies ahead.
    """
    if last is not None:
        for key in keys:
            key.departed(time.monotonic() - max(0.0, time.time() - last))


def retune(rules: Rules, manifest: Manifest) -> None:
    """Let the limits of an edited manifest hold from now on, for what has not left yet.

    What `timeout` bounds is under way already, and a duration as `deadline` counted from the start: both stay.
    """
    limits, rules.slots.most = manifest.limits, manifest.limits.concurrency
    for service in rules.services:
        own = manifest.limits_of(service.name)
        rate = None if own.rate is None else (own.rate.count, own.rate.seconds)
        service.limits.retune(own.concurrency, rate)
        service.breaker.retune(limits.max_consecutive_failures, _patience(manifest))
        service.policy = replace(service.policy, attempts=own.attempts)
    rules.budget.retune(*_budgets(manifest))
    rules.canary.places = canary_of(manifest)
    if limits.deadline is None or limits.deadline.clock is not None:
        rules.deadline.retune(*_deadline(manifest, time.time()))


def proxies_of(provider: ProviderConfig, environ: Mapping[str, str]) -> Proxies:
    """Return by which proxies a provider is reached; UsageError: the manifest or the environment names what is none."""
    return Proxies() if provider.simulated else Proxies.of(provider.proxy, environ)


def transport_options(
    manifest: Manifest, name: str, base_url: str, resolve: Mapping[str, tuple[str, int]], shared: Shared
) -> TransportOptions:
    """Return how the HTTP client of one provider behaves in a run of this manifest."""
    provider, limits, times = manifest.providers[name], manifest.limits_of(name), shared.times
    return TransportOptions(
        base_url=base_url,
        timeout=times.longest,
        due=times.due,
        idle_timeout=min(max(times.longest, SHORTEST_IDLE), LONGEST_IDLE),
        download_timeout=max(min(times.longest, LONGEST_DOWNLOAD), SHORTEST_DOWNLOAD),
        connections=limits.concurrency + shared.downloads.most,
        slots=shared.downloads,
        max_bytes=manifest.output.max_bytes,
        spool_dir=str(manifest.output.dir / ".spool"),
        resolve=resolve,
        allow_hosts=(*provider.allow_hosts, *map(_origin, provider.addresses)),
        download_headers=provider.download_headers,
        proxies=shared.proxies,
    )


def _origin(address: str) -> str:
    """Return the host and port of one of a provider's addresses: what each of a fleet made may be fetched there."""
    origin = origin_of(address)
    host = origin.raw_host or ""
    return f"{f'[{host}]' if ':' in host else host}:{origin.port}"


def canary_of(manifest: Manifest) -> int:
    """Return how many requests are bought before a picture is kept, 0 for any number; what is free needs no trial."""
    free = all(provider.simulated and not provider.price for provider in manifest.providers.values())
    return 0 if free else manifest.limits.canary


def _patience(manifest: Manifest) -> float:
    """Return how many seconds an outage is waited out: as the user says, else until the deadline, if there is one."""
    limits = manifest.limits
    untold = PATIENCE if limits.deadline is None else NEVER
    return untold if limits.patience is None else limits.patience


def shared_of(manifest: Manifest, environ: Mapping[str, str], spare: int) -> dict[str, Shared]:
    """Return what transport and engine share of each provider.

    The slots of pictures are of all; the system has open files for `spare` downloads more than it must.
    """
    least = 2 * manifest.limits.concurrency + 8
    downloads, made = DownloadSlots(least, least + spare), {}
    for name, provider in manifest.providers.items():
        timeout = manifest.limits_of(name).timeout
        times = CallTimes(timeout.longest, timeout.floor) if isinstance(timeout, AutoTimeout) else CallTimes(timeout)
        made[name] = Shared(times=times, downloads=downloads, proxies=proxies_of(provider, environ))
    return made


def _budgets(manifest: Manifest) -> tuple[Ceiling, Ceiling]:
    """Return the limits of what all runs of the folder spend, and of what one does."""
    limits = manifest.limits
    folder, run = (
        Ceiling(None if budget is None else nanos(budget), f"{budget} {manifest.currency}")
        for budget in (limits.budget, limits.budget_per_run)
    )
    return folder, run


def _deadline(manifest: Manifest, at: float) -> tuple[float | None, str, float | None]:
    """Return the deadline in seconds of the loop's clock, as a person reads it, and its epoch second.

    It is epoch second `at` now. A duration has no epoch second: it is of the loop's clock alone.
    """
    deadline = manifest.limits.deadline
    if deadline is None:
        return None, "", None
    now = datetime.fromtimestamp(at).astimezone()
    left = deadline.seconds_from(now)
    ends = None if deadline.clock is None else at + left
    return asyncio.get_running_loop().time() + left, deadline.said(now), ends
