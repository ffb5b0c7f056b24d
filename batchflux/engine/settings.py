"""The settings of the engine from a manifest: keys, limits and transport, and limits anew while it runs (SIGHUP)."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from batchflux.engine.budget import Budget
from batchflux.engine.canary import Canary
from batchflux.engine.circuit_breaker import CircuitBreaker
from batchflux.engine.key_pool import Key
from batchflux.engine.limit_finder import Learned
from batchflux.engine.outages import NEVER, PATIENCE
from batchflux.engine.rate_limiter import RateLimiter
from batchflux.engine.retry import RetryPolicy
from batchflux.engine.shutdown import Deadline
from batchflux.errors import UsageError
from batchflux.ledger.tables import nanos
from batchflux.manifest import AutoTimeout
from batchflux.manifest.reading.diagnostics import keys_fault
from batchflux.providers import capabilities, providers
from batchflux.secrets import wrong_key
from batchflux.state import Lesson
from batchflux.transport import CallTimes, DownloadSlots, Proxies, TransportOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from batchflux.engine.shutdown import Gate
    from batchflux.errors import Fault
    from batchflux.ledger.reconcile import OnUnknown
    from batchflux.manifest import Manifest
    from batchflux.models import Cost, Job
    from batchflux.providers import Provider

SHORTEST_IDLE, LONGEST_IDLE = 5.0, 60.0  # seconds between two pieces of an answer or a download
SHORTEST_DOWNLOAD, LONGEST_DOWNLOAD = 30.0, 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What engine and transport share: how long calls take, the slots of pictures on their way, and the ways out."""

    times: CallTimes
    downloads: DownloadSlots
    proxies: Proxies


@dataclass(slots=True, kw_only=True)
class Rules:
    """What holds the run back, and how its jobs are made; limits change while it runs when they are read again.

    `downloads` are the slots of pictures on their way, `times` how long a call or task may take.
    `provider_of` tells by whom a job is made, `price_of` the most that it may cost (nanounits), `cost_of` what a told
    cost is in nanounits of the run's currency (None: it is in another, or none was told).
    """

    limits: RateLimiter
    breaker: CircuitBreaker
    canary: Canary
    budget: Budget
    deadline: Deadline
    policy: RetryPolicy
    downloads: DownloadSlots
    times: CallTimes
    provider_of: Callable[[Job], Provider]
    price_of: Callable[[Job], int]
    cost_of: Callable[[Job, Cost | None], int | None]


def key_faults(manifest: Manifest, environ: Mapping[str, str]) -> dict[str, Fault]:
    """Return by its name what is wrong with each key that is not set, or cannot be one; a run needs them all."""
    secrets = manifest.secrets(environ)
    return {
        name: keys_fault(manifest, index, wrong)
        for index, name in enumerate(manifest.provider.keys)
        if (wrong := wrong_key(name, secrets)) is not None
    }


def secrets_of(manifest: Manifest, environ: Mapping[str, str]) -> dict[str, str | None]:
    """Return the keys by their names, or one that is None for an API that wants none.

    Blanks and line ends around a key are none of it. Raises UsageError: a variable that the manifest names is not set,
    or holds what is no key.
    """
    if faults := key_faults(manifest, environ):
        raise UsageError("\n".join(map(str, faults.values())))
    provider, looked_up = manifest.provider, manifest.secrets(environ)
    secrets = {name: (looked_up.get(name) or "").strip() for name in provider.keys}
    return {name: secrets.get(name) for name in provider.key_names}


def keys_of(manifest: Manifest, secrets: Mapping[str, str | None], lessons: Mapping[str, Lesson]) -> list[Key]:
    """Return the pool of keys by their names; each begins from what was found of it before, where limits allow that."""
    limits = manifest.limits
    rate = None if limits.rate is None else (limits.rate.count, limits.rate.seconds)
    return [
        Key(
            name=name,
            secret=secret,
            rate=rate,
            learned=Learned(rate=known.rate, active=known.active) if (known := lessons.get(name)) else None,
        )
        for name, secret in secrets.items()
    ]


def found_of(keys: Iterable[Key]) -> dict[str, Lesson]:
    """Return what keys are known to allow now, for later runs to begin from."""
    now, each = time.time(), [(key.name, key.found) for key in keys if key.dead is None]
    return {name: Lesson(rate=found.rate, active=found.active, at=now) for name, found in each}


def rules_of(
    manifest: Manifest, keys: list[Key], shared: Shared, gate: Gate, already: int, on_unknown: OnUnknown
) -> Rules:
    """Return the engine's rules by the manifest's limits; the folder has spent so many nanounits `already`."""
    limits, provider = manifest.limits, manifest.provider
    offers = [offer.for_model(provider.model) for offer in capabilities() if offer.api == provider.api]
    breaker = CircuitBreaker(limits.max_consecutive_failures, gate, _patience(manifest))
    budget, budget_label = _budget(manifest)

    def provider_of(job: Job) -> Provider:
        return providers()[provider.api, job.style]

    def cost_of(job: Job, told: Cost | None) -> int | None:
        free = provider.price is None and provider.simulated
        cost = None if free else provider.cost_of(job.model, told)
        return None if cost is None else nanos(cost)

    return Rules(
        limits=RateLimiter(
            keys,
            concurrency=limits.concurrency,
            gate=gate,
            breaker=breaker,
            active_tasks=min((offer.active_tasks for offer in offers if offer.active_tasks), default=None),
            clock=time.monotonic,
        ),
        breaker=breaker,
        canary=Canary(canary_of(manifest), gate, str(manifest.output.dir)),
        budget=Budget(limit=budget, spent=already, gate=gate, label=budget_label),
        deadline=Deadline(*_deadline(manifest), gate),
        policy=RetryPolicy(attempts=limits.attempts, on_unknown=on_unknown),
        downloads=shared.downloads,
        times=shared.times,
        provider_of=provider_of,
        price_of=lambda job: nanos(provider_of(job).quote(job, provider.price_of(job.model)) or Decimal(0)),
        cost_of=cost_of,
    )


def keep_distance(keys: list[Key], last: float | None) -> None:
    """Let each key's first request keep the user's rate to what an earlier run sent last, at epoch second `last`.

    It counts for all keys, and as now when the clock was set back and `last` lies ahead.
    """
    if last is not None:
        for key in keys:
            key.schedule.departed(time.monotonic() - max(0.0, time.time() - last))


def retune(rules: Rules, manifest: Manifest) -> None:
    """Let the limits of an edited manifest hold from now on, for what has not left yet.

    What `timeout` bounds is under way already, and a duration as `deadline` counted from the start: both stay.
    """
    limits = manifest.limits
    rate = None if limits.rate is None else (limits.rate.count, limits.rate.seconds)
    rules.limits.retune(limits.concurrency, rate)
    rules.budget.retune(*_budget(manifest))
    rules.canary.places = canary_of(manifest)
    rules.breaker.retune(limits.max_consecutive_failures, _patience(manifest))
    rules.policy = replace(rules.policy, attempts=limits.attempts)
    if limits.deadline is None or limits.deadline.clock is not None:
        rules.deadline.retune(*_deadline(manifest))


def proxies_of(manifest: Manifest, environ: Mapping[str, str]) -> Proxies:
    """Return by which proxies a run goes; UsageError when the manifest or the environment names what is none."""
    provider = manifest.provider
    return Proxies() if provider.simulated else Proxies.of(provider.proxy, environ)


def transport_options(
    manifest: Manifest, base_url: str, resolve: Mapping[str, tuple[str, int]], shared: Shared
) -> TransportOptions:
    """Return how the HTTP client behaves in a run of this manifest."""
    limits, times = manifest.limits, shared.times
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
        allow_hosts=manifest.provider.allow_hosts,
        download_headers=manifest.provider.download_headers,
        proxies=shared.proxies,
    )


def canary_of(manifest: Manifest) -> int:
    """Return how many requests are bought before a picture is kept, 0 for any number; what is free needs no trial."""
    provider = manifest.provider
    return 0 if provider.simulated and not provider.price else manifest.limits.canary


def _patience(manifest: Manifest) -> float:
    """Return how many seconds an outage is waited out: as the user says, else until the deadline, if there is one."""
    limits = manifest.limits
    untold = PATIENCE if limits.deadline is None else NEVER
    return untold if limits.patience is None else limits.patience


def shared_of(manifest: Manifest, environ: Mapping[str, str], spare: int) -> Shared:
    """Return what transport and engine share; the system has open files for `spare` downloads more than it must."""
    limits, timeout = manifest.limits, manifest.limits.timeout
    times = CallTimes(timeout) if not isinstance(timeout, AutoTimeout) else CallTimes(timeout.longest, timeout.floor)
    least = 2 * limits.concurrency + 8
    downloads = DownloadSlots(least, least + spare)
    return Shared(times=times, downloads=downloads, proxies=proxies_of(manifest, environ))


def _budget(manifest: Manifest) -> tuple[int | None, str]:
    """Return the limit in nanounits, and as a person reads it."""
    budget = manifest.limits.budget
    return None if budget is None else nanos(budget), f"{budget} {manifest.provider.currency}"


def _deadline(manifest: Manifest) -> tuple[float | None, str]:
    """Return the deadline in seconds of the loop's clock, and as a person reads it."""
    deadline = manifest.limits.deadline
    if deadline is None:
        return None, ""
    return asyncio.get_running_loop().time() + deadline.seconds_from(datetime.now().astimezone()), str(deadline)
