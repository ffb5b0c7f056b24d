"""Loads a manifest, and plans what a run would do and what it would cost; spends nothing and writes nothing."""

from __future__ import annotations

from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from batchflux.errors import JobError
from batchflux.ledger.connection import reading
from batchflux.ledger.health import check_ledger
from batchflux.ledger.reconcile import Selection, Survey, Through, survey_jobs
from batchflux.ledger.tables import currency, empty_ledger, spent
from batchflux.manifest import load_manifest as load
from batchflux.output.base import LEDGER
from batchflux.providers import capabilities, preview, providers
from batchflux.redaction import without_signatures
from batchflux.transport import check_downloads

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Mapping, Sequence

    from batchflux.manifest import Manifest
    from batchflux.models import Job

SECONDS_A_CALL = 15.0
SIMULATOR_HOST = "simulator.localhost"  # a name of its own, so that links in results.csv outlive its port


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run of a manifest would do.

    `counts` as in summary.json; `calls` requests would cost `cost` in `currency` (None without a price), on top of
    `spent` so far; `seconds` is an estimate, from the rate and from `seconds_a_call`. `requests` are the first ones
    as they would be sent. `unreadable` counts jobs whose references cannot be read; `unreadable_samples` says why.
    `price` is of the manifest's model, `models` counts the calls by model: each has the price of its own.
    """

    name: str
    folder: str
    provider: str
    model: str
    counts: dict[str, int]
    styles: dict[str, int]
    calls: int
    price: Decimal | None
    cost: Decimal | None
    spent: Decimal
    budget: Decimal | None
    currency: str
    seconds: float
    seconds_a_call: float
    requests: tuple[dict[str, Any], ...]
    unreadable: int
    unreadable_samples: tuple[str, ...]
    models: dict[str, int] = field(default_factory=dict)


def load_manifest(
    path: str | os.PathLike[str],
    *,
    sets: Sequence[str] = (),
    provider: str | None = None,
    out: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Manifest:
    """Read and check a manifest; spends nothing.

    `sets` are `PATH=VALUE` texts that replace values, as `limits.rate=10/s`; `out` replaces output.dir, `provider` its
    name: another provider's base_url, keys and options are dropped, and its api, or with the simulator (which speaks
    it) its price. `${NAME}` is looked up in `environ`, by default the process's environment.

    Raises:
        ManifestError: with every fault. A manifest that is sound but for its rows has them listed by `plan` and `run`.
    """
    return load(path, sets=sets, provider=provider, out=out, environ=environ, offers=capabilities())


def plan(manifest: Manifest, selection: Selection | None = None, *, through: Through = iter) -> Plan:
    """Check every job and reference of the manifest, and say what running it would do.

    The jobs go `through` that on their way.

    Raises ManifestError: with all faults; UsageError: provider.options holds what the provider does not know;
    StorageError: the ledger in the output folder cannot be read.
    """
    check_options(manifest)
    path = manifest.output.dir / LEDGER
    check_ledger(path)
    with closing(empty_ledger()) as empty, reading(path) if path.exists() else nullcontext(empty) as connection:
        # A kill may have left a file before its tables were made.
        made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone() is not None
        ledger = connection if made else empty
        survey = survey_jobs(manifest, ledger, selection or Selection(), apply=False, through=through)
        return plan_of(manifest, survey, spent(ledger), _measured(ledger))


def check_options(manifest: Manifest) -> None:
    """Check what the provider section leaves to those who use it; UsageError when they cannot.

    They are provider.options, which only the simulator has, allow_hosts and download_headers.
    """
    check_downloads(manifest.provider.allow_hosts, manifest.provider.download_headers)
    if manifest.provider.base_url is None:
        from batchflux.simulator import parse_options  # noqa: PLC0415  a server, which other providers do not need

        parse_options(manifest.provider.options)


def plan_of(manifest: Manifest, survey: Survey, already: int, measured: float | None) -> Plan:
    """Put a survey into words and money. `already` is in nanounits, `measured` the seconds a call took so far."""
    provider, limits = manifest.provider, manifest.limits
    seconds_a_call = measured or (SECONDS_A_CALL if provider.name != "simulator" else 0.2)
    prices = {model: provider.price_of(model) for model in survey.models or {provider.model: 0}}
    costs = [None if price is None else price * survey.models[model] for model, price in prices.items()]
    return Plan(
        name=manifest.name,
        folder=str(manifest.output.dir),
        provider=provider.name,
        model=provider.model,
        counts=survey.as_counts(),
        styles=survey.styles,
        calls=survey.calls,
        price=provider.price_of(provider.model),
        cost=None if None in costs else sum(filter(None, costs), Decimal(0)),
        spent=currency(already),
        budget=limits.budget,
        currency=provider.currency,
        seconds=_estimate(manifest, survey.calls, seconds_a_call),
        seconds_a_call=seconds_a_call,
        requests=tuple(_preview(manifest, job) for job in survey.samples),
        unreadable=survey.references,
        unreadable_samples=tuple(survey.reference_faults),
        models=dict(survey.models),
    )


def _estimate(manifest: Manifest, calls: int, seconds_a_call: float) -> float:
    if calls == 0:
        return 0.0
    limits = manifest.limits
    by_slots = seconds_a_call * -(-calls // limits.concurrency)
    if limits.rate is None:
        return by_slots
    keys = max(1, len(manifest.provider.keys))
    return max(by_slots, seconds_a_call + (calls - 1) * limits.rate.seconds / limits.rate.count / keys)


def _preview(manifest: Manifest, job: Job) -> dict[str, Any]:
    try:
        request = providers()[manifest.provider.api, job.style].submit(job)
    except JobError as error:  # its own run says so, too; the others are planned
        return {"id": job.id, "method": "", "url": "", "body": {"error": error.message}}
    url = (manifest.provider.base_url or f"http://{SIMULATOR_HOST}") + request.url
    return {"id": job.id, "method": request.method, "url": url, "body": _unsigned(preview(request))}


def _unsigned(value: Any) -> Any:
    """Take the signatures out of the URLs of a request that is shown."""
    if isinstance(value, str):
        return without_signatures(value)
    if isinstance(value, dict):
        return {key: _unsigned(item) for key, item in value.items()}
    return [_unsigned(item) for item in value] if isinstance(value, list) else value


def _measured(connection: sqlite3.Connection) -> float | None:
    query = "SELECT AVG(api_seconds) FROM (SELECT api_seconds FROM jobs WHERE api_seconds > 0 LIMIT 1000)"
    measured: float | None = connection.execute(query).fetchone()[0]
    return measured
