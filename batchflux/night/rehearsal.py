"""Rehearses a run: the engine as it is, on a clock that jumps, with what ledgers tell of the providers.

What is drawn is the world outside (see `weather`); limits, budget, deadline, outages, canary and retries are the run's
own. So a night shows what this run does in it, with no key, no network, and nothing spent or written.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any

from batchflux.engine.job_runner import JobRunner
from batchflux.engine.ports import World
from batchflux.engine.settings import Start, keys_of, rules_of, shared_of
from batchflux.engine.shutdown import Gate
from batchflux.engine.worker_pool import WorkerPool, workers_for
from batchflux.errors import UsageError
from batchflux.ledger.bookkeeping import made_before
from batchflux.ledger.lessons import lessons_of
from batchflux.ledger.means import exists_in, means_of
from batchflux.ledger.reconcile import Selection, work_for
from batchflux.ledger.survey import survey_jobs
from batchflux.ledger.tables import currency, known_as, known_by_key, nanos, spent
from batchflux.manifest import Redos, expand
from batchflux.night.learned import by_provider, climate_of, given, seen_in, was_simulated, writing_of
from batchflux.night.stage import NoBatches, Place, Record, Rehearsed, Stage, Works
from batchflux.night.virtual import VirtualLoop
from batchflux.night.weather import Sky
from batchflux.planner import check_currency
from batchflux.planner.doubts import looked_at
from batchflux.planner.estimates import paces_of
from batchflux.planner.planning import plan_of
from batchflux.providers import capabilities, providers
from batchflux.state import proven

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from decimal import Decimal
    from pathlib import Path

    from batchflux.engine.limits.key_pool import Key
    from batchflux.engine.settings import Rules
    from batchflux.errors import Code
    from batchflux.ledger.reconcile import Work
    from batchflux.ledger.survey import Survey
    from batchflux.manifest import Manifest
    from batchflux.manifest.reading.values import Rate
    from batchflux.models import Cost, Job, Outcome
    from batchflux.night.learned import Writing
    from batchflux.night.weather import Climate, Past
    from batchflux.planner import Plan
    from batchflux.state import Lesson

_AT_ONCE = 500  # jobs that are looked up at once
_FACTORS = (0.5, 2.0)
_SPARE = 1024  # downloads that may be out beyond the least, as a run may have


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What the user gives: folders to learn from, in place of history seconds a call takes and shares that fail.

    The night begins at epoch second `at`.
    """

    at: float = field(default_factory=time.time)
    folders: Sequence[Path] = ()
    seconds: tuple[float, float] | None = None
    fails: Mapping[Code, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """How one night ended, after so many `seconds`.

    `reason` says why jobs were `left` (None: none were), in the words of `message`. `failures` counts by code the jobs
    that failed, or whose outcome is unknown; `spent` is in currency, of this night alone, `possibly_billed` counts the
    attempts that gave nothing and may have cost, `refused` those that were for their rate.
    """

    seconds: float
    reason: str | None
    message: str
    done: int
    failed: int
    unknown: int
    left: int
    failures: Mapping[str, int]
    spent: Decimal
    attempts: int
    possibly_billed: int
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """All that nights have in common: a manifest, what there is to do, and what is known of its providers.

    `works` has what is free first, `free` of it; `proven` are the kinds of requests that have given a picture before.
    `at` is the epoch second at which nights begin, `writing` how long the ledger takes. `skipped`
    says which folders told nothing, and why.
    """

    manifest: Manifest
    plan: Plan
    selection: Selection
    works: Sequence[Work]
    free: int
    already: int
    climates: Mapping[str, Climate]
    lessons: Mapping[str, Mapping[str, Lesson]]
    proven: frozenset[tuple[str, str, str]]
    writing: Writing
    at: float
    skipped: tuple[str, ...] = ()

    @property
    def pasts(self) -> dict[str, Past]:
        """What is known of each provider that has something to do, by its name."""
        asked = {work.job.provider for work in self.works}
        asked |= {way.provider for work in self.works for way in work.job.fallbacks}
        return {name: climate.past for name, climate in self.climates.items() if name in asked}


def scene_of(manifest: Manifest, selection: Selection, assumed: Assumed) -> Scene:
    """Look at a manifest, its folder and those that are to be learned from; write nothing.

    Raises ManifestError: with all faults; UsageError: it cannot be rehearsed; StorageError: a ledger cannot be read.
    """
    batched = [name for name, provider in manifest.providers.items() if provider.batched]
    if batched:
        what = f"{' and '.join(batched)} works in batches, which have no pace of their own to rehearse"
        raise UsageError(f"{what}: `batchflux plan` says what batches take; provider.mode: live rehearses it live.")
    with ExitStack() as stack:
        ledger = stack.enter_context(looked_at(manifest.output.dir))
        check_currency(manifest, ledger)
        survey = survey_jobs(manifest, ledger, selection, apply=False)
        seen, skipped = _seen(stack, manifest, ledger, assumed.folders)
        each = by_provider(manifest, seen)
        works = sorted(_works(manifest, ledger, survey), key=lambda work: work.costs)
        return Scene(
            manifest=manifest,
            plan=plan_of(manifest, survey, spent(ledger), paces_of(manifest, ledger, {})),
            selection=survey.selection,
            works=works,
            free=sum(not work.costs for work in works),
            already=spent(ledger),
            climates={
                name: given(climate_of(provider, ledger, each[name]), assumed.seconds, assumed.fails)
                for name, provider in manifest.providers.items()
            },
            lessons={name: lessons_of(provider, ledger) for name, provider in manifest.providers.items()},
            proven=frozenset(_proven(manifest, ledger, survey)),
            writing=writing_of(seen),
            at=assumed.at,
            skipped=skipped,
        )


def _seen(
    stack: ExitStack, manifest: Manifest, ledger: sqlite3.Connection, folders: Sequence[Path]
) -> tuple[list[Any], tuple[str, ...]]:
    """Return the attempts of the manifest's folder and of others, as they were sent; and what told nothing."""
    own = manifest.output.dir.resolve()
    others = {folder.resolve(): folder for folder in folders if folder.resolve() != own}
    ledgers = {str(manifest.output.dir): ledger}
    ledgers |= {str(folder): stack.enter_context(looked_at(folder)) for folder in others.values()}
    seen, skipped = [], []
    for name, each in ledgers.items():
        found = seen_in(each)
        if not found and each is not ledger:
            skipped.append(f"{name} has no record of attempts: it tells nothing")
        elif found and was_simulated(each) is not manifest.simulated:
            kind = "not simulated, and this manifest is" if manifest.simulated else "simulated"
            skipped.append(f"{name} was {kind}: it tells nothing")
        else:
            seen += found
    return sorted(seen, key=lambda one: one.sent_at), tuple(skipped)


def _works(manifest: Manifest, ledger: sqlite3.Connection, survey: Survey) -> Iterator[Work]:
    """Yield what there is to do for the jobs of a survey, in order."""
    jobs = survey.jobs
    if jobs is None:
        redos = Redos(survey.redos, lambda _: False) if survey.redos else None
        stream = iter(expand(manifest, capabilities(), lambda _: None, redos=redos, known_as=known_as(ledger)))
    else:
        stream = iter(jobs)
    exists, means, left = exists_in(manifest), means_of(manifest, ledger), survey.todo
    while left > 0 and (batch := list(islice(stream, _AT_ONCE))):
        known = known_by_key(ledger, [job.key for job in batch])
        for job in batch:
            work = work_for(job, known.get(job.key), survey.selection, exists, means)
            if work is not None and left > 0:
                left -= 1
                yield work


def _proven(manifest: Manifest, ledger: sqlite3.Connection, survey: Survey) -> Iterator[tuple[str, str, str]]:
    for ways in survey.asked:
        for way in ways:
            base_url = manifest.providers[way.provider].base_url or ""
            if made_before(ledger, way) or proven(way.provider, way.model, way.style, base_url):
                yield way.provider, way.model, way.style


def rehearse(scene: Scene, seed: str, ended: Callable[[], object] = lambda: None) -> Night:
    """Rehearse one night, and call `ended` for each job that ends. The same seed gives the same night.

    KeyboardInterrupt ends it at once.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(_night(scene, seed, ended))


async def _night(scene: Scene, seed: str, ended: Callable[[], object]) -> Night:
    loop, gate, manifest = asyncio.get_running_loop(), Gate(), scene.manifest
    keys = {name: _keys(scene, name) for name in manifest.providers}
    shared = shared_of(manifest, {}, _SPARE)
    start = Start(
        already=scene.already,
        on_unknown=scene.selection.on_unknown,
        clock=loop.time,
        now=lambda: scene.at + loop.time(),
    )
    rules = rules_of(manifest, keys, shared, gate, start)
    _set(rules, scene)
    skies = {name: Sky(climate, Random(f"{seed} {name}"), loop.time) for name, climate in scene.climates.items()}
    record = Record(scene.writing)
    world = World(
        executor=Stage({name: Place(sky=sky, times=shared[name].times) for name, sky in skies.items()}),
        ledger=record,
        batches=NoBatches(),
        observer=_Counting(ended),
        gate=gate,
        random=Random(seed),
        now=start.now,
    )
    pool, todo = WorkerPool(JobRunner(world, rules), world, start.on_unknown), len(scene.works)
    await pool.run(Works(scene.works), min(workers_for(manifest.limits.concurrency), max(1, todo)), free=scene.free)
    tally, left = pool.tally, todo - pool.tally.ended
    return Night(
        seconds=loop.time(),
        reason=gate.reason.reason if gate.reason is not None and left else None,
        message=str(gate.reason) if gate.reason is not None and left else "",
        done=tally.done,
        failed=tally.failed,
        unknown=tally.unknown,
        left=left,
        failures=dict(tally.codes),
        spent=currency(rules.budget.spent + rules.budget.reserved - scene.already),
        attempts=record.attempts,
        possibly_billed=record.possibly_billed,
        refused=sum(sky.refused for sky in skies.values()),
    )


def _keys(scene: Scene, name: str) -> list[Key]:
    """Return a provider's keys, each with its name in the place of its secret."""
    provider = scene.manifest.providers[name]
    names = {key: key for key in provider.key_names}
    return keys_of(provider, scene.manifest.limits_of(name).rate, names, scene.lessons[name])


def _set(rules: Rules, scene: Scene) -> None:
    """Let the engine ask the stage, and know what has given pictures before."""

    @cache
    def rehearsed(api: str, style: str) -> Rehearsed:
        return Rehearsed(providers()[api, style])

    async def known(job: Job) -> bool:
        return (job.provider, job.model, job.style) in scene.proven

    for service in rules.services:
        api = scene.manifest.providers[service.name].api
        service.wire = lambda job, api=api: rehearsed(api, job.style)  # type: ignore[misc]  # bound for each of them
        service.cost_of = _cost
    rules.canary.proven, rules.canary.alone = known, scene.plan.alone


def _cost(_job: Job, told: Cost | None) -> int | None:
    """Return what an answer of the stage tells: it is in the currency of the run already."""
    return None if told is None or told.amount is None else nanos(told.amount)


class _Counting:
    """An Observer that hears of nothing but ends."""

    def __init__(self, ended: Callable[[], object]) -> None:
        self._ended = ended

    def ended(self, job: Job, outcome: Outcome) -> None:
        """A job ended."""
        self._ended()

    def event(self, name: str, /, **fields: Any) -> None:
        """Nobody looks on."""


def variants(scene: Scene) -> dict[str, Scene]:
    """Return the same night with half and twice of a limit, by what it is then: where that can change anything."""
    limits, found = scene.manifest.limits, dict[str, Scene]()
    for factor in _FACTORS:
        most = max(1, int(limits.concurrency * factor))
        if most != limits.concurrency and min(most, limits.concurrency) < len(scene.works):
            found[f"concurrency {most:,}"] = _with(scene, partial(_at_once, factor))
    for factor in _FACTORS if limits.rate is not None else ():
        paced = _with(scene, partial(_paced, factor))
        found[f"rate {_in_words(paced.manifest.limits.rate)}"] = paced
    return found


def _with(scene: Scene, change: Callable[[Any], Any]) -> Scene:
    """Return a scene with other limits, also of each provider that has limits of its own."""
    manifest, each = scene.manifest, dict[str, Any]()
    for name, provider in manifest.providers.items():
        own = getattr(provider, "limits", None)
        each[name] = provider if own is None else provider.model_copy(update={"limits": change(own)})
    return replace(scene, manifest=replace(manifest, limits=change(manifest.limits), providers=each))


def _at_once(factor: float, limits: Any) -> Any:
    most = limits.concurrency
    return limits if most is None else limits.model_copy(update={"concurrency": max(1, int(most * factor))})


def _paced(factor: float, limits: Any) -> Any:
    rate = limits.rate
    return limits if rate is None else limits.model_copy(update={"rate": replace(rate, count=rate.count * factor)})


def _in_words(rate: Rate | None) -> str:
    units = {1.0: "s", 60.0: "min", 3600.0: "h"}
    return "" if rate is None else f"{rate.count:g}/{units[rate.seconds]}"
