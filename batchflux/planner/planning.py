"""Loads a manifest, and plans what a run would do and what it would cost.

It spends nothing, and writes nothing but what it remembers of photos.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yarl import URL

from batchflux.engine.executors.opening import SIMULATOR_HOST
from batchflux.engine.settings import key_faults, proxies_of
from batchflux.errors import JobError, ManifestError, UsageError
from batchflux.ledger.books.mirrored import use_of
from batchflux.ledger.reconcile import Selection
from batchflux.ledger.summary import batches_of
from batchflux.ledger.survey import Survey, Through, survey_jobs
from batchflux.ledger.tables import currency, spent
from batchflux.manifest import Manifest
from batchflux.manifest import load_manifest as load
from batchflux.manifest.reading.diagnostics import options_fault
from batchflux.planner.doubts import check_currency, doubt_of, looked_at
from batchflux.planner.estimates import canaries, counted, mean_call, paces_of, provider_plans, whole_time
from batchflux.planner.modes import cost_of
from batchflux.providers import capabilities, preview, providers, webhook_apis
from batchflux.redaction import without_signatures
from batchflux.secrets import Secrets
from batchflux.transport import check_downloads
from batchflux.webhooks.opening import called_by

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchflux.ledger.books.mirrored import MirrorUse
    from batchflux.ledger.summary import BatchUse
    from batchflux.manifest import ProviderConfig
    from batchflux.models import Job
    from batchflux.planner.estimates import ProviderPlan
    from batchflux.planner.modes import Pace
    from batchflux.state import Lesson

SHOWN_REFERENCES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run of a manifest would do.

    `counts` as in summary.json; `calls` requests would cost `cost` in `currency` (None without a price), on top of
    `spent` so far; `seconds` is an estimate, from the rate and from `seconds_a_call`. `requests` are the first ones
    as they would be sent. `unreadable` counts jobs whose references cannot be read; `unreadable_samples` says why.
    `photos` counts the local ones, as photos.Seen does.
    `price` is of the manifest's model, `models` counts the calls by model: each has the price of its own. `providers`
    says of each by its name what it has to do; of several, `provider`, `model`, `price` and `proxy` are those of the
    one that jobs have which name none. Calls that no fallback can take over are `without_fallback`; were each made by
    the dearest that can, it would be `worst_cost`. `set_aside`
    counts the pictures that were paid for and make way for others, which cost `set_aside_cost`; `dropped` the jobs of
    which a field was dropped, by its name. `canary` is how many requests are tried before the rest is sent (0: all are
    sent). `missed` says that no job is selected, `warnings` which globs select none. `maybe` of the calls are made only
    where a picture that was received cannot be had any more, or a request that was lost turns out not to be accepted:
    APIs are asked for that of `lost` jobs. `retried` jobs that had failed are among those to do. `doubt` says why a run
    would not start before it was asked, and what is answered by. `tables` says of each table how it was read, and which
    rows were left out. `learned` is what was found of keys before, by their names, `keys_missing` those that a run
    would miss, and `proxy` what it would go through. `batches` are open, by their names: their jobs are waited for, and
    cost no more. `renamed` file names were changed to such that Windows has, too, `renamed_sample` is the first.
    `merged_samples` are the first of the jobs that an earlier one is made for, by their ids, or where they come from.
    `webhooks` is the `public_url` that APIs call, and the providers `without`: they do not. `deadline` is in local time
    (ISO 8601, with its distance from UTC), `deadline_seconds` from now. `publish` is the address `to` which so many
    local `photos`, of so many `bytes`, would be put; None where they travel as bytes. `mirror` is the bucket that
    pictures are put into, with how many are left to be put of those that are done.
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
    photos: dict[str, Any] = field(default_factory=dict)
    set_aside: int = 0
    set_aside_cost: Decimal | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    canary: int = 0
    missed: str | None = None
    warnings: tuple[str, ...] = ()
    maybe: int = 0
    lost: int = 0
    retried: int = 0
    doubt: str | None = None
    tables: tuple[dict[str, Any], ...] = ()
    learned: dict[str, Lesson] = field(default_factory=dict)
    keys_missing: tuple[str, ...] = ()
    proxy: str | None = None
    renamed: int = 0
    renamed_sample: str = ""
    merged_samples: tuple[str, ...] = ()
    providers: dict[str, ProviderPlan] = field(default_factory=dict)
    webhooks: dict[str, Any] | None = None
    without_fallback: int = 0
    worst_cost: Decimal | None = None
    batches: dict[str, BatchUse] = field(default_factory=dict)
    publish: dict[str, Any] | None = None
    budget_per_run: Decimal | None = None
    deadline: str | None = None
    deadline_seconds: float | None = None
    mirror: MirrorUse | None = None

    @property
    def alone(self) -> bool:
        """Whether all calls ask one provider, model and style."""
        asked = sum(one.calls + one.takes_over > 0 for one in self.providers.values())
        return max(asked, len(self.models), len(self.styles)) <= 1


def load_manifest(  # noqa: PLR0913  all by name
    path: str | os.PathLike[str] | Manifest,
    *,
    sets: Sequence[str] = (),
    provider: str | None = None,
    out: str | None = None,
    environ: Mapping[str, str] | None = None,
    env_file: str | os.PathLike[str] | None = None,
    served: bool = False,
) -> Manifest:
    """Read and check a manifest, also one that was read before; spends nothing.

    `sets` are `PATH=VALUE` texts that replace values, as `limits.rate=10/s`; `out` replaces output.dir, `provider` its
    name: another provider's base_url, keys and options are dropped, and its api, or with the simulator (which speaks
    it) its price. `${NAME}` is looked up in `environ`, by default the process's environment, then as Secrets says;
    `env_file` has lines `NAME=value`. `served`: for a gateway, whose jobs come from its clients.

    Raises:
        ManifestError: with every fault. A manifest that is sound but for its rows has them listed by `plan` and `run`.
    """
    values_in = None if env_file is None else Path(env_file)
    beside = path.base if isinstance(path, Manifest) else Path(path).absolute().parent
    secrets = Secrets(os.environ if environ is None else environ, beside, values_in)
    manifest = load(path, sets=sets, provider=provider, out=out, environ=secrets, offers=capabilities(), served=served)
    return replace(manifest, env_file=values_in)


def plan(
    manifest: Manifest,
    selection: Selection | None = None,
    *,
    through: Through = iter,
    environ: Mapping[str, str] | None = None,
) -> Plan:
    """Check every job and reference of the manifest, and say what running it would do.

    The jobs go `through` that on their way. Keys and proxies are looked up in `environ`, the process's when None.

    Raises ManifestError: with all faults; UsageError: what providers need is not there, the folder's spend is in
    another currency, or it is no folder; StorageError: the ledger in the output folder cannot be read.
    """
    environ = os.environ if environ is None else environ
    check_options(manifest, environ)
    missing = tuple(key_faults(manifest, environ))
    with looked_at(manifest.output.dir) as ledger, closing(manifest.photos(manifest.output.dir)) as photos:
        check_currency(manifest, ledger)
        chosen = selection or Selection()
        survey = survey_jobs(manifest, ledger, chosen, apply=False, through=through, photos=photos)
        tried = canaries(manifest, survey, ledger)
        made = plan_of(manifest, survey, spent(ledger), paces_of(manifest, ledger, tried))
        made = replace(made, webhooks=_webhooks(manifest, survey))
        made = replace(made, doubt=doubt_of(manifest, ledger), canary=tried.total(), keys_missing=missing)
        to = manifest.output.mirror
        made = replace(made, batches=batches_of(ledger)[0], mirror=None if to is None else use_of(ledger, to))
    each = {
        name: replace(
            made.providers[name],
            keys_missing=tuple(key for key in provider.keys if key in missing),
            proxy=_proxy(provider, environ),
        )
        for name, provider in manifest.providers.items()
    }
    return replace(made, proxy=each[manifest.provider.name].proxy, providers=each)


def _proxy(provider: ProviderConfig, environ: Mapping[str, str]) -> str | None:
    """Return by which proxy a provider is asked, and where that was said; None: directly."""
    proxy = proxies_of(provider, environ).for_url(URL(provider.base_url or ""))
    return None if proxy is None else f"{proxy} ({proxy.by})"


def check_options(manifest: Manifest, environ: Mapping[str, str]) -> None:
    """Check what providers leave to those who use it; UsageError when they cannot, ManifestError for options.

    They are the embedded simulator's options, allow_hosts, download_headers, proxies, what verifies webhooks, and the
    bucket that mirrors the folder.
    """
    for name, _, api in called_by(manifest, webhook_apis()):
        if name in manifest.may_ask and (needed := api.missing()) is not None:
            raise UsageError(f"The webhooks of {name} cannot be received here: {needed}, or remove webhooks.")
    if manifest.output.mirror is not None:
        manifest.buckets(environ).at(manifest.output.mirror)
    wrong = []
    for name, provider in manifest.providers.items():
        proxies_of(provider, environ)
        check_downloads(provider.allow_hosts, provider.download_headers)
        if provider.simulated:
            from batchflux.simulator import parse_options  # noqa: PLC0415  a server, which others do not need

            try:
                parse_options(provider.options)
            except UsageError as error:
                wrong.append(options_fault(manifest, name, str(error)))
    if wrong:
        raise ManifestError(wrong)


def _limits(manifest: Manifest) -> dict[str, Any]:
    """Return the budgets, their currency, and when a run that starts now would have to end, if ever."""
    limits, currency = manifest.limits, manifest.currency
    said: dict[str, Any] = {"currency": currency, "budget": limits.budget, "budget_per_run": limits.budget_per_run}
    if limits.deadline is not None:
        now = datetime.now().astimezone()
        seconds = limits.deadline.seconds_from(now)
        at = datetime.fromtimestamp(now.timestamp() + seconds).astimezone()
        said |= {"deadline": at.isoformat(timespec="seconds"), "deadline_seconds": seconds}
    return said


def _selected(survey: Survey) -> dict[str, Any]:
    """Return what is to be said of `--only`."""
    return {"missed": survey.missed, "warnings": tuple(survey.warnings)}


def _named(survey: Survey) -> dict[str, Any]:
    """Return which file names are not as planned, and which jobs have none of their own."""
    return {"renamed": survey.renamed[0], "renamed_sample": survey.renamed[1], "merged_samples": survey.same}


def plan_of(manifest: Manifest, survey: Survey, already: int, paces: Mapping[str, Pace] | None = None) -> Plan:
    """Put a survey into words and money. `already` is in nanounits, `paces` what is known of each provider by name."""
    paces, provider, asked, put = paces or {}, manifest.provider, survey.asked, survey.unpublished
    own = (each := provider_plans(manifest, survey, paces))[provider.name]
    return Plan(
        name=manifest.name,
        folder=str(manifest.output.dir),
        provider=provider.name,
        model=provider.model,
        counts=survey.as_counts(),
        styles=counted((style, jobs) for (_, style), jobs in survey.made_by.items()),
        calls=survey.calls,
        price=own.price,
        cost=cost_of(manifest, asked) if asked else own.cost,
        spent=currency(already),
        **_limits(manifest),
        seconds=whole_time(manifest, each.values()),
        seconds_a_call=mean_call(own, each.values()),
        requests=tuple(_preview(manifest, job) for job in survey.samples),
        unreadable=survey.references,
        unreadable_samples=tuple(_reference_faults(survey)),
        models=counted((ways[0].model, calls) for ways, calls in asked.items()),
        photos=survey.photos,
        publish=None if put is None else {"to": put.published.to, "photos": put.photos, "bytes": put.bytes},
        set_aside=survey.set_aside,
        set_aside_cost=cost_of(manifest, survey.remade) if survey.remade else own.cost and Decimal(0),
        dropped=dict(survey.dropped),
        **_selected(survey),
        maybe=survey.maybe,
        lost=survey.lost,
        retried=survey.retried,
        tables=tuple(survey.tables),
        learned={name: lesson for pace in paces.values() for name, lesson in pace.learned.items()},
        **_named(survey),
        providers=each,
        without_fallback=sum(calls for ways, calls in asked.items() if len(ways) == 1),
        worst_cost=cost_of(manifest, asked, worst=True) if asked else own.cost,
    )


def _webhooks(manifest: Manifest, survey: Survey) -> dict[str, Any] | None:
    """Return where APIs call when jobs are made, and who makes jobs and does not; None without webhooks."""
    if manifest.webhooks.public_url is None:
        return None
    calls = {(name, style) for name, style, _ in called_by(manifest, webhook_apis())}
    without = dict.fromkeys(name for name, style in survey.made_by if (name, style) not in calls)
    return {"public_url": manifest.webhooks.public_url, "without": [*without]}


def _reference_faults(survey: Survey) -> Iterator[str]:
    """Yield what cannot be read, each once, with the job that needs it or how many do."""
    for fault, (first, jobs) in islice(survey.reference_faults.items(), SHOWN_REFERENCES):
        yield f"{first}: {fault}" if jobs == 1 else f"{fault} ({jobs:,} jobs, the first of them {first})"
    if (more := len(survey.reference_faults) - SHOWN_REFERENCES) > 0:
        yield f"... and {more:,} more photos"


def _preview(manifest: Manifest, job: Job) -> dict[str, Any]:
    try:
        provider = manifest.providers[job.provider]
        wire = providers()[provider.api, job.style]
        publishes = wire.takes_links(job) and not provider.batched
        request = wire.submit(manifest.published.shown(job) if publishes else job, 1)
    except JobError as error:  # its own run says so, too; the others are planned
        return {"id": job.id, "method": "", "url": "", "body": {"error": error.message}}
    url = (provider.base_url or f"http://{SIMULATOR_HOST}") + request.url
    return {"id": job.id, "method": request.method, "url": url, "body": _unsigned(preview(request))}


def _unsigned(value: Any) -> Any:
    """Take the signatures out of the URLs of a request that is shown."""
    if isinstance(value, str):
        return without_signatures(value)
    if isinstance(value, dict):
        return {key: _unsigned(item) for key, item in value.items()}
    return [_unsigned(item) for item in value] if isinstance(value, list) else value
