"""`batchflux plan`."""

from __future__ import annotations

import json
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from batchflux.cli.options import manifest_options
from batchflux.cli.progress import checking
from batchflux.cli.terminal import count, duration, money, place
from batchflux.engine.shutdown import stranded
from batchflux.planner import Plan
from batchflux.planner import plan as make_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.ledger.reconcile import Selection
    from batchflux.manifest import Manifest

MEANINGS = {
    "new": "never run",
    "changed": "same id, new content; the old picture is kept in .replaced/",
    "pending": "begun by an earlier run",
    "done": "have their picture",
    "failed": "stay failed until --retry-failed",
    "unknown": "request sent, never answered; see --on-unknown",
    "merged": "listed twice with the same content; made once (variant: 2 makes a second copy)",
    "redo": "of those to do, asked for in a review",
    "unlisted": "no longer in the manifest; their files stay",
}


@click.command("plan")
@manifest_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def plan(load: Callable[[], Manifest], selection: Selection, *, as_json: bool) -> int:
    """Check every job and reference of MANIFEST and show what a run would do and cost. Spends nothing.

    Exits with 1 when jobs have references that cannot be read, with 2 when the manifest has faults.
    """
    result = make_plan(load(), selection, through=checking)
    if as_json:
        click.echo(json.dumps(asdict(result), default=_plain, ensure_ascii=False, indent=2))
    else:
        click.echo("\n".join(plan_lines(result)))
    return 1 if result.unreadable else 0


def plan_lines(result: Plan) -> list[str]:
    """Return the plan as a person reads it."""
    counts = result.counts
    jobs = count(counts["total"], "job")
    text = [f"{result.name}: {jobs} for {result.provider} ({result.model}) -> {place(result.folder)}"]
    if result.styles:
        text.append("  styles    " + ", ".join(f"{n:,} {style}" for style, n in sorted(result.styles.items())))
    text += [f"  {name:<9} {counts[name]:>9,}  {MEANINGS[name]}" for name in MEANINGS if counts.get(name)]
    if counts.get("waiting"):
        text.append(f"  {stranded(counts['waiting'])}")
    text.append("")
    call = "call" if result.provider == "simulator" else "paid call"
    text.append(f"  to do     {counts['todo']:>9,}  {count(result.calls, call)}")
    text.append(f"  cost      {_cost(result)}")
    about = "about " if result.seconds >= 1 else ""
    text.append(f"  time      {about}{duration(result.seconds)}, at {result.seconds_a_call:.1f} s a call")
    if result.unreadable:
        text.append("")
        text.append(f"{count(result.unreadable, 'job')} will fail, because a reference cannot be read:")
        text += [f"  {sample}" for sample in result.unreadable_samples]
    for request in result.requests:
        text.append("")
        text.append(f"{request['id']}: {request['method']} {request['url']}")
        text.append("  " + json.dumps(request["body"], ensure_ascii=False))
    return text


def _cost(result: Plan) -> str:
    if result.cost is None:
        return "nothing (simulated)" if result.provider == "simulator" else "not known: provider.price is not set"
    text = f"{money(result.cost, result.currency)} ({result.calls:,} x {result.price})"
    if result.spent:
        text += f", {money(result.spent, result.currency)} spent already"
    if result.budget is not None:
        text += f"; budget {money(result.budget, result.currency)}"
        if result.cost + result.spent > result.budget:
            text += ", which will stop the run before its end"
    return text


def _plain(value: Any) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    raise TypeError(f"no JSON for {type(value)}")
