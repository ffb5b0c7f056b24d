"""`batchflux status`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from batchflux.cli.words import money
from batchflux.ledger.summary import State, read_state
from batchflux.output.folder import iso


@click.command("status")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(out: Path, *, as_json: bool) -> None:
    """Show how the output folder OUT stands: counts, failures by code, spend and rate. Works while a run goes on."""
    state = read_state(out)
    if as_json:
        data = asdict(state) | {
            "spent": format(state.spent, "f"),
            "spent_possibly": format(state.spent_possibly, "f"),
            "last_at": iso(state.last_at) or None,
        }
        click.echo(json.dumps(data, ensure_ascii=False, indent=2))
    else:
        click.echo("\n".join(_lines(out, state)))


def _lines(out: Path, state: State) -> list[str]:
    text = [f"{out}: {state.done:,} of {state.total:,} jobs done"]
    counts = {name: getattr(state, name) for name in ("pending", "in_flight", "unknown", "failed")}
    text += [f"  {name.replace('_', ' '):<10} {value:>9,}" for name, value in counts.items() if value]
    text += [f"    {code:<18} {number:,}" for code, number in state.failures.items()]
    if state.unknown:
        text.append("  unknown: sent and never answered, possibly billed; the next run sends each once more")
        text.append("           (--on-unknown hold leaves them, --on-unknown fail gives them up)")
    if state.redo:
        text.append(f"  redo       {state.redo:>9,}  asked for in a review; the next run makes them")
    text.append(f"  attempts   {state.attempts:>9,}")
    spent = f"  spent      {money(state.spent, state.currency)}"
    if state.possibly_billed:
        spent += f", of it {money(state.spent_possibly, state.currency)} possibly ({state.possibly_billed:,} attempts)"
    text.append(spent)
    if state.last_at is not None:
        text.append(f"  rate       {state.images_per_minute:,.1f} images/min, the last at {iso(state.last_at)}")
    return text
