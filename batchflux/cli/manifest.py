"""`batchflux plan`, and the options that it shares with `run`."""

from __future__ import annotations

import gc
import json
import math
import sys
from dataclasses import asdict
from datetime import datetime
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, get_args

import click
from tqdm import tqdm

from batchflux.cli.lines import about, at_most, batch_lines, mode_lines, photo_lines, time_of
from batchflux.cli.terminal import (
    Whole,
    agreed,
    count,
    dropped_fields,
    duration,
    learned_lines,
    money,
    place,
    same_again,
)
from batchflux.engine.shutdown import stranded
from batchflux.errors import ManifestError, UsageError
from batchflux.ledger.reconcile import OnUnknown, Selection
from batchflux.manifest import AutoTimeout
from batchflux.output.folder import zone
from batchflux.planner import Plan, doubt, load_manifest
from batchflux.planner import plan as make_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from decimal import Decimal

    from batchflux.manifest import Manifest, ProviderConfig
    from batchflux.models import Job
    from batchflux.planner import ProviderPlan

CHECKING_SECONDS = 1.0  # what takes no longer is not worth a line
LIMITS = ("concurrency", "rate", "budget")  # those with an option of their own
SELECTION = ("only", "limit", "sample", "redo", "retry_failed", "pay_again", "on_unknown")
MEANINGS = {
    "new": "never run",
    "changed": "same id, new content; the old picture is kept in .replaced/",
    "pending": "begun by an earlier run",
    "done": "have their picture",
    "failed": "stay failed until --retry-failed",
    "again": "failed before, and are tried again",
    "unknown": "request sent, never answered; see --on-unknown",
    "merged": "ask for the same as an earlier one; made once (variant: 2 makes a second copy)",
    "redo": "of those to do, asked for in a review",
    "unlisted": "no longer in the manifest; their files stay",
}


CHANGES = (  # of a manifest, by whatever command that works on one
    click.argument("path", metavar="MANIFEST", type=click.Path()),
    click.option("--out", metavar="DIR", help="Write to DIR instead of the manifest's output.dir."),
    click.option("--provider", metavar="NAME", help="Use this provider instead of the manifest's; simulator is free."),
    click.option("--set", "sets", metavar="PATH=VALUE", multiple=True, help="Set a manifest value: limits.rate=10/s."),
    click.option(
        "--env-file",
        metavar="FILE",
        type=click.Path(),
        help="Look keys and ${NAME} up in FILE, too: NAME=value a line.",
    ),
    click.option("--concurrency", metavar="N", help="Short for --set limits.concurrency=N."),
    click.option("--rate", metavar="N/min", help="Short for --set limits.rate=N/min."),
    click.option("--budget", metavar="AMOUNT", help="Short for --set limits.budget=AMOUNT."),
)
OPTIONS = (  # that `plan` and `run` share
    *CHANGES,
    click.option(
        "--only", metavar="GLOB", multiple=True, help="Only jobs whose id matches, as 'mug-*'; also several times."
    ),
    click.option("--limit", type=Whole(min=1), metavar="N", help="Work on at most N jobs."),
    click.option("--sample", type=Whole(min=1), metavar="N", help="Only N jobs, spread over entries, rows and axes."),
    click.option("--redo", is_flag=True, help="Only the redos that were asked for in a review."),
    click.option("--retry-failed", is_flag=True, help="Try failed jobs again: what is free first."),
    click.option("--pay-again", is_flag=True, help="With --retry-failed: buy anew what may still be had, or differs."),
    click.option(
        "--on-unknown",
        type=click.Choice(get_args(OnUnknown)),
        default="retry",
        show_default=True,
        help="What to do with a job whose request left and was never answered.",
    ),
)


def loading(given: dict[str, Any]) -> partial[Manifest]:
    """Take MANIFEST and the options that change it out of what was given; return what loads it. UsageError."""
    _refuse_empty(given)
    limits = {name: given.pop(name) for name in LIMITS}
    given["sets"] += tuple(f"limits.{name}={value}" for name, value in limits.items() if value is not None)
    return partial(load_manifest, **{name: given.pop(name) for name in ("path", "sets", "provider", "out", "env_file")})


def _refuse_empty(given: Mapping[str, Any]) -> None:
    """Refuse an option that is there and says nothing, as of a script's variable that is not set: it was meant to."""
    for name, value in given.items():
        if value == "" or (isinstance(value, tuple) and "" in value and name != "sets"):
            if name == "path":
                raise UsageError("MANIFEST is empty: name the manifest, a YAML file.")
            raise UsageError(f"--{name.replace('_', '-')} is empty: give what you mean, or leave it out.")


def manifest_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add MANIFEST and its options; the command gets `load: Callable[..., Manifest]` and `selection: Selection`."""

    @wraps(function)
    def wrapper(**given: Any) -> Any:
        _look_for_cycles_seldom()
        load = loading(given)
        chosen = {name: given.pop(name) for name in SELECTION}
        if chosen["pay_again"] and not chosen["retry_failed"]:
            raise UsageError("--pay-again buys failed jobs anew, so it needs --retry-failed beside it.")
        return function(load=load, selection=Selection(**chosen), **given)

    return _with(OPTIONS, wrapper)


def serving_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add MANIFEST and what changes it; the command gets `load: Callable[..., Manifest]`."""

    @wraps(function)
    def wrapper(**given: Any) -> Any:
        _look_for_cycles_seldom()
        load = loading(given)
        return function(load=load, **given)

    return _with(CHANGES, wrapper)


def _look_for_cycles_seldom() -> None:
    """Save a tenth: millions of small objects live briefly and in no cycles."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _with(options: Sequence[Callable[..., Any]], command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


def checking(jobs: Iterable[Job]) -> Iterable[Job]:
    """Pass on jobs; on a terminal show how many there were, when it takes a while."""
    line, shown = "checking {n_fmt} jobs [{elapsed}]", sys.stderr.isatty()
    return tqdm(jobs, bar_format=line, delay=CHECKING_SECONDS, leave=False, file=sys.stderr, disable=not shown)


@click.command("plan")
@manifest_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, also of faults.")
def plan(load: Callable[[], Manifest], selection: Selection, *, as_json: bool) -> int:
    """Check every job and reference of MANIFEST (- is stdin) and show what a run would do and cost. Spends nothing.

    Exits with 1 when jobs have references that cannot be read, with 2 when the manifest has faults.
    """
    try:
        manifest = load()
        result = make_plan(manifest, selection, through=checking)
    except ManifestError as error:
        if not as_json:
            raise
        faults = [asdict(fault) for fault in error.faults]
        click.echo(json.dumps({"faults": faults}, ensure_ascii=False, indent=2))
        return error.exit_code
    if as_json:
        # Of all that a plan holds, only amounts of money are nothing that JSON knows.
        click.echo(json.dumps(asdict(result), default="{:f}".format, ensure_ascii=False, indent=2))
    else:
        click.echo("\n".join(plan_lines(result, manifest)))
    return 1 if result.unreadable else 0


def plan_lines(result: Plan, manifest: Manifest) -> list[str]:
    """Return the plan as a person reads it."""
    counts = result.counts
    jobs = count(counts["total"], "job")
    makers = ", ".join(name for name, one in result.providers.items() if one.jobs or not counts["total"])
    made_by = makers if manifest.several else f"{result.provider} ({result.model})"
    text = [f"{result.name}: {jobs} for {made_by} -> {place(result.folder)}"]
    if result.styles:
        text.append("  styles    " + ", ".join(f"{n:,} {style}" for style, n in sorted(result.styles.items())))
    text += _job_lines(result)
    call = "call" if manifest.free else "paid call"
    had = "cannot be had" + (", or a request that was lost was not accepted" if result.lost else "")
    kept = f", {result.maybe:,} of them only if a picture that was paid for {had}" if result.maybe else ""
    text += [
        "",
        f"  to do     {counts['todo']:>9,}  {result.missed or count(result.calls, call) + kept}",
        f"  cost      {_cost(result, manifest)}",
        *(provider_lines(result, manifest) if manifest.several else at_most(result, manifest)),
        *_time_lines(result, manifest),
    ]
    text += [*batch_lines(result.batches), *_access(result, manifest), *photo_lines(result)]
    text += [f"  select    {warning}" for warning in result.warnings if result.missed is None]
    if result.doubt is not None:
        text += ["", f"A run would ask first: {result.doubt}"]
    for request in result.requests:
        text += ["", f"{request['id']}: {request['method']} {request['url']}"]
        text.append("  " + json.dumps(request["body"], ensure_ascii=False))
    return text


def _job_lines(result: Plan) -> list[str]:
    """Return what becomes of the jobs, and what was assumed of them."""
    counts, text = result.counts, list[str]()
    shown = counts | {"failed": counts["failed"] - result.retried, "again": result.retried}
    text += [f"  {name:<9} {shown[name]:>9,}  {says}" for name, says in MEANINGS.items() if shown.get(name)]
    if result.lost:
        text.append(
            f"  asked     {result.lost:>9,}  of the unknown are asked for first: their API may have accepted them"
        )
    if counts.get("merged"):
        more = ", ..." if counts["merged"] > len(result.merged_samples) else ""
        names = f"{', '.join(result.merged_samples)}{more}"
        text.append(f"  {count(counts['total'], 'distinct request')}; {same_again(counts['merged'])}: {names}")
    text += [f"  table     {_table(note)}" for note in result.tables if len(note) > len(_ALWAYS)]
    if result.dropped:
        text.append(f"  dropped   {dropped_fields(result.dropped)}, which the API cannot carry (params: drop)")
    if result.set_aside:
        cost = result.set_aside_cost
        again = "" if cost is None else f"; making them again costs {money(cost, result.currency)}"
        text.append(f"  set aside {result.set_aside:>9,}  pictures that were paid for make way, into .replaced/{again}")
    if counts.get("waiting"):
        text.append(f"  {stranded(counts['waiting'])}")
    return text


def _time_lines(result: Plan, manifest: Manifest) -> list[str]:
    """Return how long it takes, what is known of the keys for that, and how long a call may take where it depends."""
    timeout = manifest.limits.timeout
    pace = f"{about(result.seconds)}, at {result.seconds_a_call:.1f} s a call"
    for name, one in result.providers.items():
        if one.mode != "live" and one.seconds == result.seconds:  # no other takes longer
            pace = time_of(one, manifest, name)
    text = [f"  time      {pace}", *_deadline(result), *mode_lines(result)]
    text += learned_lines(result.learned, "  learned   ")
    if isinstance(timeout, AutoTimeout):
        most, least = duration(timeout.longest), duration(timeout.floor)
        text.append(f"  timeout   by what calls take, from {least} on; {most} until enough have told")
    return text


def _deadline(result: Plan) -> list[str]:
    """Return when the run would have to end, and whether its time is enough for that."""
    if result.deadline is None or result.deadline_seconds is None:
        return []
    at = datetime.fromisoformat(result.deadline).astimezone()
    text = f"  deadline  {at:%H:%M} {zone(at)}, in {duration(result.deadline_seconds)}"
    short = result.seconds - result.deadline_seconds
    if short <= 0:
        return [f"{text}: enough time"]
    left = math.ceil(result.calls * short / result.seconds)
    return [f"{text}: {duration(short)} too early, so about {count(left, 'call')} would be left for the next run"]


def _access(result: Plan, manifest: Manifest) -> list[str]:
    """Return what a run would try first, and what it would need to get to the provider."""
    tried = count(result.canary, "request")
    text = [f"  canary    the first {tried} are tried before the rest is sent (limits.canary)"] if result.canary else []
    if result.renamed:
        text.append(f"  names     {count(result.renamed, 'file name')} changed for Windows: {result.renamed_sample}")
    if (mirror := result.mirror) is not None:
        kept = "" if manifest.output.keep_local else "; removed here then (keep_local: false)"
        there = f"{mirror.mirrored:,} are there, {mirror.left:,} of those that are done are put there{kept}"
        text.append(f"  mirror    {mirror.to}: {there}")
    text += [f"  key       {name} is not set, or holds no key; a run needs it" for name in result.keys_missing]
    if result.webhooks is not None:
        silent = "".join(f"; {name} does not call, as it is asked" for name in result.webhooks["without"])
        text.append(f"  webhooks  at {result.webhooks['public_url']}{silent}")
    if len({one.proxy for one in result.providers.values()}) > 1:
        return [*text, *(f"  proxy     of {name}: {one.proxy or 'none'}" for name, one in result.providers.items())]
    return text if result.proxy is None else [*text, f"  proxy     {result.proxy}"]


_ALWAYS = ("table", "rows")  # what is known of every table


def _table(note: dict[str, Any]) -> str:
    """Return how a table was read, where that had to be found out, and what of it was left out."""
    names = {
        "encoding": "as {}",
        "delimiter": "with {} between cells",
        "sheet": "sheet {}",
        "hidden_rows": "hidden rows too ({})",
        "merged_cells": "merged cells in each of their rows ({})",
    }
    read = [form.format(note[name]) for name, form in names.items() if name in note]
    kinds = {
        "blank_rows": ("empty row", ""),
        "where": ("row", " by where"),
        "skip_empty": ("row", " without a reference"),
        "unnamed_columns": ("column", " without a name"),
        "other_sheets": ("sheet", " behind it"),
    }
    left = [count(note[name], word) + why for name, (word, why) in kinds.items() if name in note]
    text = f"{note['table']}: {count(note['rows'], 'row')}"
    text += f", read {', '.join(read)}" if read else ""
    return text + (f"; left out: {', '.join(left)}" if left else "")


def settle(manifest: Manifest, *, asks: bool) -> None:
    """Ask, on a terminal, what only naming `--out` answers; UsageError: it was not answered so."""
    question = doubt(manifest)
    if question is None:
        return
    if not asks:
        raise UsageError(f"Not started: {question}")
    if not agreed(f"{question}\n\nGo on all the same?"):
        raise UsageError("Not started: nothing was spent.")


def unpriced(result: Plan, manifest: Manifest) -> str:
    """Return which price is missing, where what a run costs is not known."""
    if not manifest.several:
        return "provider.price is not set"
    asked = [name for name, one in result.providers.items() if one.calls and one.cost is None]
    return f"the price of {' and '.join(asked)} is not set"


def _cost(result: Plan, manifest: Manifest) -> str:
    if result.cost is None:
        return "nothing (simulated)" if manifest.free else f"not known: {unpriced(result, manifest)}"
    text = money(result.cost, result.currency)
    if not manifest.several:
        prices = {model: _price_of(manifest.provider, model) for model in result.models or [result.model]}
        calls = f"{result.calls:,} x {prices[next(iter(prices))]:f}"
        if len({*prices.values()}) > 1:  # models have prices of their own
            calls = ", ".join(f"{result.models[model]:,} {model} at {price:f}" for model, price in prices.items())
        by_size = result.cost != sum(result.models.get(model, 0) * (price or 0) for model, price in prices.items())
        text += " at most" if by_size else ""
        calls = f"{result.calls:,} by their sizes" if by_size else calls
        text += f" ({calls}{', in batches' if manifest.provider.batched else ''})"
    if result.spent:
        text += f", {money(result.spent, result.currency)} spent already"
    if result.budget is not None:
        text += f"; budget {money(result.budget, result.currency)}"
        if result.cost + result.spent > result.budget:
            text += ", which will stop the run before its end"
    if result.budget_per_run is not None:
        text += f"; {money(result.budget_per_run, result.currency)} a run"
        if result.cost > result.budget_per_run:
            text += f", so it takes {math.ceil(result.cost / result.budget_per_run or 1)} runs or more"
    return text


def _price_of(provider: ProviderConfig, model: str) -> Decimal | None:
    """Return the price of one image in the provider's mode, as short as it can be written."""
    price = provider.price_of(model)
    return price if price is None or not provider.batched else provider.in_batch(price)


def provider_lines(result: Plan, manifest: Manifest) -> list[str]:
    """Return what each of several providers has to do, what of it others can take over, and what that may cost."""
    width = max(9, *map(len, result.providers))
    text = [
        f"  {name:<{width}} {_share(one, result.currency, time_of(one, manifest, name))}"
        for name, one in result.providers.items()
    ]
    if not manifest.fallback or manifest.chosen or not result.calls:
        return text
    takers = {name: one.takes_over for name, one in result.providers.items() if one.takes_over}
    takers |= {"none": result.without_fallback} if result.without_fallback else {}
    over = [f"{name} can take over {count(calls, 'call')}" for name, calls in takers.items()]
    text.append(f"  fallback  {', '.join(over)}")
    if result.worst_cost is not None and result.cost is not None and result.worst_cost > result.cost:
        most = f"  at most   {money(result.worst_cost, result.currency)}, if the dearest made all they can take over"
        beyond = result.budget is not None and result.worst_cost + result.spent > result.budget
        text.append(f"{most}; the budget would stop that before its end" if beyond else most)
    return text


def _share(one: ProviderPlan, currency: str, time: str) -> str:
    calls = f"{count(one.jobs, 'job')}, {count(one.calls, 'call')}"
    if one.cost is not None and one.calls:
        calls += f" for {money(one.cost, currency)}"
    pace = f"{one.concurrency:,} at once"
    pace += "" if one.rate is None else f", {60 * one.rate:,.0f}/min of each key"
    return f"{calls}; {pace}" + (f"; {time}" if one.calls else "")
