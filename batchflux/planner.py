"""What a run would do, and what it would cost; spends nothing and writes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from batchflux.errors import Fault, ManifestError
from batchflux.ledger.connection import reading
from batchflux.ledger.ledger import currency, rows_by_key, spent
from batchflux.ledger.reviews import is_pinned, pin, redos, waiting_redos
from batchflux.ledger.selection import Selection
from batchflux.ledger.survey import Survey, Surveyor
from batchflux.ledger.unchanged import unchanged
from batchflux.manifest import Redos, expand
from batchflux.models import Job, Request
from batchflux.providers import capabilities, request_preview, styles
from batchflux.redaction import without_signatures

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from decimal import Decimal
    from pathlib import Path

    from batchflux.manifest import Manifest

SECONDS_A_CALL = 15.0
LEDGER = "ledger.db"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run of a manifest would do.

    `counts` as in summary.json; `calls` requests would cost `cost` in `currency` (None without a price), on top of
    `spent` so far; `seconds` is an estimate, from the rate and from `seconds_a_call`. `requests` are the first ones
    as they would be sent. `unreadable` counts jobs whose references cannot be read; `unreadable_samples` says why.
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


Through = Callable[[Iterable[Job]], Iterable[Job]]  # passes jobs on, and may show how many there were


def plan(manifest: Manifest, selection: Selection | None = None, *, through: Through = iter) -> Plan:
    """Check every job and reference of the manifest, and say what running it would do.

    The jobs go `through` that on their way.

    Raises:
        ManifestError: with all faults.
        UsageError: provider.options holds what the provider does not know.
        StorageError: the ledger in the output folder cannot be read.
    """
    selection = selection or Selection()
    check_options(manifest)
    path = manifest.output.dir / LEDGER
    with _ledger(path) as connection:
        survey = survey_jobs(manifest, connection, selection, apply=False, through=through)
        already = spent(connection) if connection is not None else 0
        measured = _measured(connection) if connection is not None else None
    return plan_of(manifest, survey, already, measured)


@contextmanager
def _ledger(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Open the ledger beside who writes it; None when there is none, or a kill left it before its tables were made."""
    if not path.exists():
        yield None
        return
    with reading(path) as connection:
        made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone() is not None
        yield connection if made else None


def check_options(manifest: Manifest) -> None:
    """Check what only the provider knows, before anything is made or spent.

    Raises:
        UsageError: provider.options holds what the simulator does not know.
    """
    if manifest.provider.base_url is None:
        from batchflux.simulator import parse_options  # noqa: PLC0415  a server, which other providers do not need

        parse_options(manifest.provider.options)


def survey_jobs(
    manifest: Manifest,
    connection: sqlite3.Connection | None,
    selection: Selection,
    *,
    apply: bool,
    through: Through = iter,
) -> Survey:
    """Go through all jobs once, redos included, unless it is known without: see ledger.unchanged.

    `apply` also pins the redos, and allows for a survey that meets merged jobs later.

    Raises:
        ManifestError: with all faults.
    """
    exists = exists_in(manifest)
    if connection is not None:
        quick = unchanged(connection, manifest, selection, exists, unfinished=apply)
        if quick is not None:
            return quick
    faults: list[Fault] = []
    asked = _asked(connection)
    jobs = expand(manifest, capabilities(), faults.append, redos=asked)
    surveyor = Surveyor(connection, selection, exists, apply=apply)
    survey = surveyor.take(through(jobs))
    if faults:
        raise ManifestError(faults)
    survey.merged = jobs.merged
    if asked is not None and connection is not None:
        left = {redo.number for redo in asked.left}
        survey.waiting = sum(one.redo.number in left for one in waiting_redos(connection))
        survey.jobs = None  # pinned redos are other jobs than those that were met here
    for made in asked.jobs if asked is not None else ():
        redo = replace(made.redo, seed=made.job.seed, variant=made.job.variant)
        survey.redos[redo.origin] = (*survey.redos.get(redo.origin, ()), redo)
        if apply and connection is not None and redo != made.redo:
            pin(connection, redo, made.job.key)
    return survey


def _asked(connection: sqlite3.Connection | None) -> Redos | None:
    found = redos(connection) if connection is not None else {}
    if connection is None or not found:
        return None
    return Redos(found, lambda key: bool(rows_by_key(connection, [key], "1")) or is_pinned(connection, key))


def exists_in(manifest: Manifest) -> Callable[[str], bool]:
    """Return a function that tells whether a file, named relative to the output folder, is there."""
    root = str(manifest.output.dir) + os.sep

    def exists(name: str) -> bool:
        return os.path.exists(root + name)  # noqa: PTH110  called a million times; a Path each would double the cost

    return exists


def plan_of(manifest: Manifest, survey: Survey, already: int, measured: float | None) -> Plan:
    """Put a survey into words and money. `already` is in nanounits, `measured` the seconds a call took so far."""
    provider, limits = manifest.provider, manifest.limits
    price = provider.price_of(provider.model)
    seconds_a_call = measured or (SECONDS_A_CALL if provider.name != "simulator" else 0.2)
    return Plan(
        name=manifest.name,
        folder=str(manifest.output.dir),
        provider=provider.name,
        model=provider.model,
        counts=survey.as_counts(),
        styles=survey.styles,
        calls=survey.calls,
        price=price,
        cost=None if price is None else price * survey.calls,
        spent=currency(already),
        budget=limits.budget,
        currency=provider.currency,
        seconds=_estimate(manifest, survey.calls, seconds_a_call),
        seconds_a_call=seconds_a_call,
        requests=tuple(_preview(manifest, job) for job in survey.samples),
        unreadable=survey.references,
        unreadable_samples=tuple(survey.reference_faults),
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
    request = next(styles()[job.style].flow(job))
    if not isinstance(request, Request):
        raise TypeError("a flow begins with a request")
    base = manifest.provider.base_url or "http://simulator.localhost"
    return {
        "id": job.id,
        "method": request.method,
        "url": base + request.path,
        "body": _unsigned(request_preview(request)),
    }


def _unsigned(value: Any) -> Any:
    """Take the signatures out of the URLs of a request that is shown."""
    if isinstance(value, str):
        return without_signatures(value)
    if isinstance(value, dict):
        return {key: _unsigned(item) for key, item in value.items()}
    return [_unsigned(item) for item in value] if isinstance(value, list) else value


def _measured(connection: sqlite3.Connection) -> float | None:
    query = "SELECT AVG(api_seconds) FROM (SELECT api_seconds FROM jobs WHERE api_seconds > 0 LIMIT 1000)"
    row = connection.execute(query).fetchone()
    return None if row[0] is None else float(row[0])
