"""`batchflux rehearse`: what a night would come to, from nights on a clock that jumps."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from batchflux.cli.manifest import manifest_options, unpriced
from batchflux.cli.terminal import Whole, count, duration, money
from batchflux.errors import RULES, Code, quoted
from batchflux.manifest.reading import values
from batchflux.night.outlook import outlook_of
from batchflux.night.rehearsal import Assumed, scene_of, variants
from batchflux.night.rehearsal import rehearse as rehearse_night
from batchflux.night.weather import FETCHED
from batchflux.output.folder import zone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batchflux.ledger.reconcile import Selection
    from batchflux.manifest import Manifest
    from batchflux.night.outlook import Cut, Outlook
    from batchflux.night.rehearsal import Night, Scene
    from batchflux.night.weather import Past

FEWER = 4  # of as many nights one is rehearsed with each other limit
LEAST = 3
TIMES = {1: "once", 2: "twice"}
SHOWN = 3  # codes in a line
_MANY = 0.1  # a share of which tenths of a percent say nothing
CLEAR = ("budget", "deadline")  # what cuts a night and needs no further word
STOPPED = 130  # as the exit code of what Ctrl-C ends
_MINUTE, _SOON, _DAY = 60.0, 600.0, 86_400.0  # seconds
FAILS = [code.value for code, rule in RULES.items() if rule.fault not in {"key", "us"} and code is not Code.REFERENCE]


def _at(_context: click.Context, _option: click.Parameter, text: str | None) -> float:
    now = time.time()
    if text is None:
        return now
    try:
        return now + values.deadline(text).seconds_from(datetime.fromtimestamp(now).astimezone())
    except ValueError:
        raise click.BadParameter(
            f'found {quoted(text)}; allowed is a clock time, "22:00", or a duration, 2h.'
        ) from None


def _latency(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    low, several, high = text.partition("..")
    try:
        found = values.timeout(low.strip()), values.timeout((high if several else low).strip())
    except ValueError:
        found = (1.0, 0.0)
    if found[0] > found[1]:
        raise click.BadParameter(f"found {quoted(text)}; allowed is a duration, 12s, or from and to, 8s..20s.")
    return found


def _fails(_context: click.Context, _option: click.Parameter, text: str | None) -> dict[Code, float] | None:
    if text is None:
        return None
    found = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, share = part.partition("=")
        if name.strip() not in FAILS:
            raise click.BadParameter(f"found {quoted(part)}; allowed is CODE=SHARE with a CODE of {', '.join(FAILS)}.")
        found[Code(name.strip())] = _share(part, share.strip())
    for kind in (FETCHED.intersection(found), found.keys() - FETCHED):
        if sum(found[code] for code in kind) > 1:
            raise click.BadParameter(f"found {quoted(text)}; the shares come to more than 100 %.")
    return found


def _share(part: str, text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise click.BadParameter(f"found {quoted(part)}; allowed is a share of all calls, as server=2%.")
    return share


@dataclass(slots=True)
class Rehearsed:
    """What was rehearsed: nights as the manifest has them, and with other limits; `whole`: nobody stopped it."""

    nights: list[Night] = field(default_factory=list)
    others: dict[str, list[Night]] = field(default_factory=dict)
    whole: bool = False


@click.command("rehearse")
@manifest_options
@click.option(
    "--nights",
    metavar="N",
    type=Whole(1, 10_000),
    default=20,
    show_default=True,
    help="How many are rehearsed.",
)
@click.option("--at", metavar="TIME", callback=_at, help='When the night begins: "22:00", or 2h from now. Else now.')
@click.option(
    "--from",
    "folders",
    metavar="DIR",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Learn from this output folder, too.",
)
@click.option("--latency", "seconds", metavar="8s..20s", callback=_latency, help="What a call takes, not as it was.")
@click.option("--fail", "fails", metavar="CODE=2%", callback=_fails, help="What share of calls fails, not as it was.")
@click.option("--seed", default="1", show_default=True, help="Other nights; the same seed gives the same ones.")
@click.option("--compare/--no-compare", default=True, help="Rehearse other limits, too: half and twice of each.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def rehearse(load: Callable[[], Manifest], selection: Selection, *, nights: int, seed: str, **given: Any) -> int:
    """Rehearse a run of MANIFEST: when it ends, what it spends, what stops it. Sends, spends and writes nothing.

    The engine runs as it is, on a clock that jumps, while calls take and come to what the ledgers of the output folder
    and of --from say they did. It needs neither keys nor network. Ctrl-C shows what is known by then.
    """
    compare, as_json = given.pop("compare"), given.pop("as_json")
    scene = scene_of(load(), selection, Assumed(**given))
    if not scene.works:
        click.echo("{}" if as_json else "There is nothing to do, so there is nothing to rehearse.")
        return 0
    found = _rehearsed(scene, seed, nights, variants(scene) if compare else {})
    if not found.nights:
        click.echo("Stopped before the first night ended.", err=True)
        return STOPPED
    if as_json:
        click.echo(json.dumps(_data(scene, seed, found), default="{:f}".format, ensure_ascii=False, indent=2))
    else:
        click.echo("\n".join(_lines(scene, found)))
    return 0 if found.whole else STOPPED


def _rehearsed(scene: Scene, seed: str, nights: int, others: Mapping[str, Scene]) -> Rehearsed:
    """Rehearse, until it is done or Ctrl-C ends it."""
    found, fewer = Rehearsed(), max(LEAST, nights // FEWER)
    total = len(scene.works) * (nights + fewer * len(others))
    bar = tqdm(total=total, desc="rehearsing", unit="job", unit_scale=True, leave=False, disable=None, file=sys.stderr)
    try:
        with bar:
            for number in range(nights):
                found.nights.append(rehearse_night(scene, f"{seed} {number}", bar.update))
            for name, other in others.items():
                for number in range(fewer):
                    night = rehearse_night(other, f"{seed} {number}", bar.update)
                    found.others.setdefault(name, []).append(night)
            found.whole = True
    except KeyboardInterrupt:
        pass  # what is known is shown
    return found


def _lines(scene: Scene, found: Rehearsed) -> list[str]:
    """Return what was rehearsed, as a person reads it in 80 columns."""
    jobs, at = len(scene.works), datetime.fromtimestamp(scene.at).astimezone()
    whole = outlook_of(found.nights, jobs)
    rehearsed = f"{count(whole.nights, 'night')} rehearsed, nothing sent"
    text = [
        f"{scene.manifest.name}: {count(jobs, 'job')} from {at:%H:%M} {zone(at)}; {rehearsed}",
        *(line for name, past in scene.pasts.items() for line in _past(name, past)),
        *(f"  left out  {why}" for why in scene.skipped),
        *_outlook(scene, whole),
    ]
    others = {name: outlook_of(nights, jobs) for name, nights in found.others.items()}
    if others:
        text += ["", f"With other limits, in {count(max(one.nights for one in others.values()), 'night')} each:"]
        text += [f"  {name:<18} {_in_short(scene, outlook)}" for name, outlook in others.items()]
    return text if found.whole else [*text, "Stopped by Ctrl-C: what ended by then is shown."]


def _past(name: str, past: Past) -> Iterator[str]:
    """Yield what is known of a provider, and from where."""
    low, middle, high = past.seconds
    span = _span(_seconds(low), _seconds(high))
    fails = ", ".join(f"{code} {_percent(share)} %" for code, share in [*past.fails.items()][:SHOWN]) or "no faults"
    sources = {
        "assumed": f"{name}: none, so {span} a call and {fails} are assumed",
        "options": f"{name}: none; its options say {span} a call, {fails} assumed",
        "given": f"{name}: given are {span} a call, {fails}",
        "history": f"{name}: {count(past.calls, 'call')}, of {_seconds(middle)}, most {span}",
    }
    yield f"  history   {sources[past.source]}"
    if past.source == "history":
        yield f"            {fails}"
    if past.outages:
        lasted, in_all = duration(past.outage_seconds), duration(past.active_seconds)
        yield f"            {count(past.outages, 'outage')}, {lasted} of {in_all} at work"
    if past.left_out:
        left_out = ", ".join(f"{number:,} {code}" for code, number in past.left_out.items())
        yield f"            not drawn: {left_out}"


def _outlook(scene: Scene, whole: Outlook) -> Iterator[str]:
    """Yield when nights end, what they spend, and what stops them."""
    ends = whole.ends
    after = "" if ends is None else f", after {_span(duration(ends.low), duration(ends.high))}"
    yield f"  ends      {_ends(scene, whole)}{after}"
    yield from _deadline(scene, whole)
    for reason, cut in whole.cuts.items():
        yield f"  cut       {_often(cut)} by {_why(reason)}, with {_left(cut)} of the jobs left"
        yield from () if reason in CLEAR else (f"            {cut.message.partition(':')[0]}",)
    yield f"  spends    {_spends(scene, whole)}"
    failed = f", {_from_to(whole.failed)} failed" if whole.failed[1] else ""
    unknown = f", {_from_to(whole.unknown)} unknown" if whole.unknown[1] else ""
    yield f"  jobs      {_from_to(whole.done)} done{failed}{unknown}"
    if whole.failures:
        codes = ", ".join(f"{code} {number:,.1f}" for code, number in [*whole.failures.items()][:SHOWN])
        yield f"  failures  {codes} a night"
    if whole.refused[1]:
        yield f"  refused   {_from_to(whole.refused)} requests for their rate"


def _deadline(scene: Scene, whole: Outlook) -> Iterator[str]:
    """Yield when nights have to end, and how long that is after those that made all jobs."""
    deadline = scene.manifest.limits.deadline
    if deadline is None:
        return
    at = datetime.fromtimestamp(scene.at).astimezone()
    spare = None if whole.ends is None else deadline.seconds_from(at) - whole.ends.high
    yield f"  deadline  {deadline.said(at)}" + ("" if spare is None else f", {duration(max(spare, 0.0))} after those")


def _ends(scene: Scene, outlook: Outlook) -> str:
    ends = outlook.ends
    if ends is None:
        return f"in none of {count(outlook.nights, 'night')} with all jobs"
    span = _span(_clock(scene.at + ends.low, ends.low), _clock(scene.at + ends.high, ends.high), "-")
    return f"{span} in {ends.nights} of {count(outlook.nights, 'night')}"


def _span(low: str, high: str, to: str = " to ") -> str:
    return low if low == high else f"{low}{to}{high}"


def _clock(at: float, after: float) -> str:
    """Return a time of day as a person says it: with seconds where all is over soon, with the day where it is not."""
    form = "%H:%M:%S" if after < _SOON else "%H:%M" if after < _DAY else "%a %H:%M"
    return f"{datetime.fromtimestamp(at).astimezone():{form}}"


def _often(cut: Cut) -> str:
    return TIMES.get(cut.nights, f"{cut.nights:,} times")


def _left(cut: Cut) -> str:
    """Return what share of the jobs nights left."""
    return f"{_span(_percent(cut.low), _percent(cut.high))} %"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}" if share >= _MANY else f"{100 * share:.2g}"


def _why(reason: str) -> str:
    return f"the {reason}" if reason in {*CLEAR, "canary"} else reason


def _spends(scene: Scene, outlook: Outlook) -> str:
    plan, manifest = scene.plan, scene.manifest
    if plan.cost is None:
        return "nothing (simulated)" if manifest.free else f"not known: {unpriced(plan, manifest)}"
    low, _, high = outlook.spent
    text = f"{_span(money(low, ''), money(high, ''))} {plan.currency}"
    text += f", {money(plan.spent, plan.currency)} before" if plan.spent else ""
    text += "" if plan.budget is None else f"; budget {money(plan.budget, plan.currency)}"
    return text + ("" if plan.budget_per_run is None else f"; {money(plan.budget_per_run, plan.currency)} a run")


def _in_short(scene: Scene, outlook: Outlook) -> str:
    """Return when nights end, and what is otherwise about them, in a line."""
    parts = [] if outlook.ends is None and outlook.cuts else [f"ends {_ends(scene, outlook)}"]
    parts += [f"{_often(cut)} cut by {_why(reason)} ({_left(cut)} left)" for reason, cut in outlook.cuts.items()]
    return "; ".join(parts)


def _from_to(pair: tuple[int, int]) -> str:
    return _span(f"{pair[0]:,}", f"{pair[1]:,}")


def _seconds(seconds: float) -> str:
    return duration(seconds) if seconds >= _MINUTE else f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2g} s"


def _data(scene: Scene, seed: str, found: Rehearsed) -> dict[str, Any]:
    """Return the same as data: money as text, times in seconds from the start, which is in ISO 8601."""
    look, plan = partial(outlook_of, jobs=len(scene.works)), scene.plan
    return {
        "name": scene.manifest.name,
        "folder": str(scene.manifest.output.dir),
        "jobs": len(scene.works),
        "begins": datetime.fromtimestamp(scene.at).astimezone().isoformat(timespec="seconds"),
        "seed": seed,
        "whole": found.whole,
        "currency": plan.currency,
        "spent_before": plan.spent,
        "budget": plan.budget,
        "budget_per_run": plan.budget_per_run,
        "history": {name: asdict(past) for name, past in scene.pasts.items()},
        "left_out": scene.skipped,
        "outlook": asdict(look(found.nights)),
        "nights": [asdict(night) for night in found.nights],
        "others": {name: asdict(look(nights)) for name, nights in found.others.items()},
    }
