"""Loads a manifest, and plans what a run would do and what it would cost.

It spends nothing, and writes nothing but what it remembers of photos.
"""

from __future__ import annotations

import math
import os
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from yarl import URL

from batchflux.engine.settings import canary_of, key_faults, proxies_of
from batchflux.errors import JobError, StorageError, UsageError
from batchflux.ledger.bookkeeping import made_before
from batchflux.ledger.connection import reading
from batchflux.ledger.health import check_ledger
from batchflux.ledger.lessons import lessons_of
from batchflux.ledger.reconcile import Selection
from batchflux.ledger.survey import Survey, Through, survey_jobs
from batchflux.ledger.tables import currency, empty_ledger, get_meta, paid_pictures, spent
from batchflux.manifest import load_manifest as load
from batchflux.manifest.providers.config import SIMULATOR
from batchflux.output.base import LEDGER
from batchflux.providers import capabilities, preview, providers
from batchflux.redaction import without_signatures
from batchflux.secrets import Secrets
from batchflux.state import folder_of, note_folder, proven
from batchflux.transport import check_downloads

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping, Sequence

    from batchflux.manifest import Manifest
    from batchflux.models import Job
    from batchflux.state import Lesson

SECONDS_A_CALL = 15.0
SHOWN_REFERENCES = 20
SIMULATOR_HOST = "simulator.localhost"  # a name of its own, so that links in results.csv outlive its port


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run of a manifest would do.

    `counts` as in summary.json; `calls` requests would cost `cost` in `currency` (None without a price), on top of
    `spent` so far; `seconds` is an estimate, from the rate and from `seconds_a_call`. `requests` are the first ones
    as they would be sent. `unreadable` counts jobs whose references cannot be read; `unreadable_samples` says why.
    `photos` counts the local ones, as photos.Seen does.
    `price` is of the manifest's model, `models` counts the calls by model: each has the price of its own. `set_aside`
    counts the pictures that were paid for and make way for others, which cost `set_aside_cost`; `dropped` the jobs of
    which a field was dropped, by its name. `canary` is how many requests are tried before the rest is sent (0: all are
    sent). `missed` says that no job is selected. `maybe` of the calls are made only where a picture that was received
    cannot be had any more, `retried` jobs that had failed are among those to do. `doubt` says why a run would not start
    before it was asked, and what is answered by. `tables` says of each table how it was read, and which rows were left
    out. `learned` is what was found of keys before, by their names, `keys_missing` those that a run would miss, and
    `proxy` what it would go through. `renamed` file names were changed to such that Windows has, too, `renamed_sample`
    is the first.
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
    maybe: int = 0
    retried: int = 0
    doubt: str | None = None
    tables: tuple[dict[str, Any], ...] = ()
    learned: dict[str, Lesson] = field(default_factory=dict)
    keys_missing: tuple[str, ...] = ()
    proxy: str | None = None
    renamed: int = 0
    renamed_sample: str = ""


def load_manifest(
    path: str | os.PathLike[str],
    *,
    sets: Sequence[str] = (),
    provider: str | None = None,
    out: str | None = None,
    environ: Mapping[str, str] | None = None,
    env_file: str | os.PathLike[str] | None = None,
) -> Manifest:
    """Read and check a manifest; spends nothing.

    `sets` are `PATH=VALUE` texts that replace values, as `limits.rate=10/s`; `out` replaces output.dir, `provider` its
    name: another provider's base_url, keys and options are dropped, and its api, or with the simulator (which speaks
    it) its price. `${NAME}` is looked up in `environ`, by default the process's environment, then as Secrets says;
    `env_file` has lines `NAME=value`.

    Raises:
        ManifestError: with every fault. A manifest that is sound but for its rows has them listed by `plan` and `run`.
    """
    values_in = None if env_file is None else Path(env_file)
    secrets = Secrets(os.environ if environ is None else environ, Path(path).absolute().parent, values_in)
    manifest = load(path, sets=sets, provider=provider, out=out, environ=secrets, offers=capabilities())
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

    Raises ManifestError: with all faults; UsageError: provider.options holds what the provider does not know, or the
    folder's spend is in another currency; StorageError: the ledger in the output folder cannot be read.
    """
    environ = os.environ if environ is None else environ
    check_options(manifest, environ)
    with _ledger(manifest.output.dir) as ledger, closing(manifest.photos(manifest.output.dir)) as photos:
        check_currency(manifest, ledger)
        chosen = selection or Selection()
        survey = survey_jobs(manifest, ledger, chosen, apply=False, through=through, photos=photos)
        lessons: dict[str, Lesson] = {}
        for provider in manifest.providers.values():
            lessons |= lessons_of(provider, ledger)
        made = plan_of(manifest, survey, spent(ledger), _measured(ledger), lessons)
        made = replace(made, doubt=_doubt(manifest, ledger), canary=_canary(manifest, survey, ledger))
        return replace(made, keys_missing=tuple(key_faults(manifest, environ)), proxy=_proxy(manifest, environ))


def _proxy(manifest: Manifest, environ: Mapping[str, str]) -> str | None:
    """Return by which proxy the provider is asked, and where that was said; None: directly."""
    proxy = proxies_of(manifest.provider, environ).for_url(URL(manifest.provider.base_url or ""))
    return None if proxy is None else f"{proxy} ({proxy.by})"


@contextmanager
def _ledger(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open a folder's ledger to look at; an empty one where there is none."""
    path = folder / LEDGER
    check_ledger(path)
    with closing(empty_ledger()) as empty, reading(path) if path.exists() else nullcontext(empty) as connection:
        # A kill may have left a file before its tables were made.
        made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone() is not None
        yield connection if made else empty


def doubt(manifest: Manifest) -> str | None:
    """Return why this run needs an answer first, and that `--out` is it; None when nothing speaks against it.

    That is a run which would begin anew in another folder than the manifest was run to before, or would put simulated
    pictures in place of such that were paid for. StorageError: the ledger cannot be read.
    """
    with _ledger(manifest.output.dir) as ledger:
        return _doubt(manifest, ledger)


def _doubt(manifest: Manifest, ledger: sqlite3.Connection) -> str | None:
    folder = manifest.output.dir
    if manifest.out_given:
        return None
    if manifest.provider.simulated:
        own = manifest.provider.name
        free = [SIMULATOR] if _is_real(ledger) and own != SIMULATOR else [SIMULATOR, own]
        if paid := paid_pictures(ledger, free):
            return (
                f"{folder} has pictures that were paid for ({paid:,}), and simulated ones would take their place or "
                f"stand beside them: name another folder, as --out {quote(f'{folder}-simulated')}, or this one, "
                f"--out {quote(str(folder))}, to have it so."
            )
    before = None if manifest.dir_given else folder_of(manifest.path)
    if before is None or (folder / LEDGER).exists() or not (before / LEDGER).exists():
        return None
    if _was_real(before) is manifest.provider.simulated:
        return None  # what was simulated is nothing to continue for what is paid, and the other way round
    return (
        f"{manifest.display} was run to {before} before, and {folder} is new, so all would be made anew: "
        f"--out {quote(str(before))} continues it, --out {quote(str(folder))} begins anew."
    )


def remember_folder(manifest: Manifest) -> None:
    """Note which folder the manifest is run to; a simulated run leaves it with that of a real one."""
    before = folder_of(manifest.path) if manifest.provider.simulated else None
    if before is None or not (before / LEDGER).exists() or not _was_real(before):
        note_folder(manifest.path, manifest.output.dir)


def _was_real(folder: Path) -> bool:
    """Whether a folder's last run was a real one; so it was also where that cannot be seen."""
    with suppress(StorageError), _ledger(folder) as ledger:
        return _is_real(ledger)
    return True


def _is_real(ledger: sqlite3.Connection) -> bool:
    return get_meta(ledger, "simulated") != "1"


def check_currency(manifest: Manifest, ledger: sqlite3.Connection) -> None:
    """Raise UsageError when a folder's spend is in another currency than the manifest's price and budget."""
    before, provider = get_meta(ledger, "currency"), manifest.provider
    counts = provider.price is not None or not provider.simulated
    if counts and before not in {None, provider.currency} and (amount := spent(ledger)):
        raise UsageError(
            f"{manifest.output.dir} has spent {currency(amount):f} {before}, and the manifest's currency is "
            f"{provider.currency}, which cannot be added to that: set provider.currency: {before}, with prices and "
            "budget in it, or name another folder with --out."
        )


def check_options(manifest: Manifest, environ: Mapping[str, str]) -> None:
    """Check what the provider section leaves to those who use it; UsageError when they cannot.

    They are provider.options, which only the simulator has, allow_hosts, download_headers and proxies.
    """
    for provider in manifest.providers.values():
        proxies_of(provider, environ)
        check_downloads(provider.allow_hosts, provider.download_headers)
        if provider.simulated:
            from batchflux.simulator import parse_options  # noqa: PLC0415  a server, which other providers do not need

            parse_options(provider.options)


def plan_of(
    manifest: Manifest, survey: Survey, already: int, measured: float | None, learned: Mapping[str, Lesson]
) -> Plan:
    """Put a survey into words and money. `already` is in nanounits, `measured` the seconds a call took so far."""
    provider, limits = manifest.provider, manifest.limits
    seconds_a_call = measured or (SECONDS_A_CALL if provider.name != "simulator" else 0.2)
    return Plan(
        name=manifest.name,
        folder=str(manifest.output.dir),
        provider=provider.name,
        model=provider.model,
        counts=survey.as_counts(),
        styles=survey.styles,
        calls=survey.calls,
        price=provider.price_of(provider.model),
        cost=_cost(manifest, survey.models),
        spent=currency(already),
        budget=limits.budget,
        currency=provider.currency,
        seconds=_estimate(manifest, survey.calls, seconds_a_call, learned),
        seconds_a_call=seconds_a_call,
        requests=tuple(_preview(manifest, job) for job in survey.samples),
        unreadable=survey.references,
        unreadable_samples=tuple(_reference_faults(survey)),
        models=dict(survey.models),
        photos=survey.photos,
        set_aside=survey.set_aside,
        set_aside_cost=_cost(manifest, survey.remade),
        dropped=dict(survey.dropped),
        missed=survey.missed,
        maybe=survey.maybe,
        retried=survey.retried,
        tables=tuple(survey.tables),
        learned={**learned},
        renamed=survey.renamed[0],
        renamed_sample=survey.renamed[1],
    )


def _canary(manifest: Manifest, survey: Survey, ledger: sqlite3.Connection) -> int:
    """Return how many requests are tried before the rest is sent; 0 where all are sent at once."""
    places, at = canary_of(manifest), manifest.provider.base_url or ""
    if not 0 < places < survey.calls:
        return 0
    shown = survey.samples[0]
    known = made_before(ledger, shown) or proven(shown.provider, shown.model, shown.style, at)
    return 0 if known else places


def _cost(manifest: Manifest, models: Mapping[str, int]) -> Decimal | None:
    """Return what so many requests for each model cost; None when the price of one is not known."""
    prices = {model: manifest.provider.price_of(model) for model in models or {manifest.provider.model: 0}}
    costs = [None if price is None else price * models.get(model, 0) for model, price in prices.items()]
    return None if None in costs else sum(filter(None, costs), Decimal(0))


def _reference_faults(survey: Survey) -> Iterator[str]:
    """Yield what cannot be read, each once, with the job that needs it or how many do."""
    for fault, (first, jobs) in islice(survey.reference_faults.items(), SHOWN_REFERENCES):
        yield f"{first}: {fault}" if jobs == 1 else f"{fault} ({jobs:,} jobs, the first of them {first})"
    if (more := len(survey.reference_faults) - SHOWN_REFERENCES) > 0:
        yield f"... and {more:,} more photos"


def _estimate(manifest: Manifest, calls: int, seconds_a_call: float, learned: Mapping[str, Lesson]) -> float:
    """Return how many seconds so many calls take, by what was told and what was learned of the keys."""
    limits = manifest.limits
    told = math.inf if limits.rate is None else limits.rate.count / limits.rate.seconds
    known = [learned.get(name) for name in manifest.provider.key_names]
    rate = sum(min(told, key.rate or math.inf) if key else told for key in known)
    active = sum(key.active or limits.concurrency if key else limits.concurrency for key in known)
    by_slots = seconds_a_call * -(-calls // min(limits.concurrency, active))
    return max(by_slots, seconds_a_call + (calls - 1) / rate) if calls else 0.0


def _preview(manifest: Manifest, job: Job) -> dict[str, Any]:
    try:
        provider = manifest.providers[job.provider]
        request = providers()[provider.api, job.style].submit(job, 1)
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


def _measured(connection: sqlite3.Connection) -> float | None:
    query = "SELECT AVG(api_seconds) FROM (SELECT api_seconds FROM jobs WHERE api_seconds > 0 LIMIT 1000)"
    measured: float | None = connection.execute(query).fetchone()[0]
    return measured
