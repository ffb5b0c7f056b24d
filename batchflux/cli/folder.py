"""The commands that read an output folder: `batchflux status`, `batchflux report` and `batchflux export-review`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

from batchflux.cli.terminal import count, dropped_fields, money, place
from batchflux.exports.redo_manifest import export_review as write_redo_manifest
from batchflux.exports.redo_manifest import redo_manifest
from batchflux.ledger.summary import read_state
from batchflux.output.folder import iso
from batchflux.report.report import write_report

if TYPE_CHECKING:
    from collections.abc import Callable

_SHOWN = 3


@click.command("status")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(out: Path, *, as_json: bool) -> None:
    """Show how the output folder OUT stands: counts, failures by code, spend and rate. Works while a run goes on."""
    state = read_state(out)
    if as_json:
        data = asdict(state) | {"last_at": iso(state.last_at) or None}
        data |= {name: format(data[name], "f") for name in ("spent", "spent_possibly")}
        click.echo(json.dumps(data, ensure_ascii=False, indent=2))
        return
    text = [f"{out}: {state.done:,} of {state.total:,} jobs done"]
    counts = {name: getattr(state, name) for name in ("pending", "in_flight", "unknown", "failed")}
    text += [f"  {name.replace('_', ' '):<10} {value:>9,}" for name, value in counts.items() if value]
    text += [f"    {code:<18} {number:,}" for code, number in state.failures.items()]
    if state.unknown:
        text.append("  unknown: sent and never answered, possibly billed; the next run sends each once more")
        text.append("           (--on-unknown hold leaves them, --on-unknown fail gives them up)")
    if state.redo:
        text.append(f"  redo       {state.redo:>9,}  asked for in a review; the next run makes them")
    if state.dropped:
        text.append(f"  dropped    {dropped_fields(state.dropped)} (params: drop)")
    text.append(f"  attempts   {state.attempts:>9,}")
    spent = f"  spent      {money(state.spent, state.currency)}"
    if state.possibly_billed:
        spent += f", of it {money(state.spent_possibly, state.currency)} possibly ({state.possibly_billed:,} attempts)"
    text.append(spent)
    if state.last_at is not None:
        text.append(f"  rate       {state.images_per_minute:,.1f} images/min, the last at {iso(state.last_at)}")
    click.echo("\n".join(text))


@click.command("report")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
def report(out: Path) -> None:
    """Write OUT/report.html: all pictures of an output folder in one page that opens from disk."""
    with tqdm(desc="thumbnails", unit="picture", leave=False, disable=None) as bar:

        def started(jobs: int) -> Callable[[], object]:
            bar.reset(jobs)
            return bar.update

        written = write_report(out, started)
    click.echo(place(str(written.path)))
    click.echo(f"{count(written.rows, 'job')}, {count(written.thumbs, 'thumbnail')} made.", err=True)
    if missing := len(written.missing):
        names = ", ".join(written.missing[:_SHOWN])
        more = "" if missing <= _SHOWN else f" and {missing - _SHOWN:,} more"
        says = f"{count(missing, 'picture')} cannot be shown, the file is missing or damaged ({names}{more}); "
        click.echo(f"{says}`batchflux run` brings missing ones back.", err=True)


@click.command("export-review")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("-o", "target", metavar="FILE", required=True, type=click.Path(dir_okay=False, allow_dash=True))
def export_review(out: Path, target: str) -> None:
    """Write what a review of the output folder OUT asked to redo as a manifest of its own, to FILE (- is stdout).

    It is for making them apart, into another folder; `batchflux run --redo` makes them beside the pictures they redo.
    Webhooks are kept where the manifest has them under defaults. On stdout it is a manifest for the current folder.
    """
    if target == "-":
        exported, where = redo_manifest(out, Path.cwd()), "the manifest to stdout"
        click.echo(exported.text.encode(), nl=False)
    else:
        exported, where = write_redo_manifest(out, Path(target)), target
    click.echo(f"Wrote {where}: {count(exported.jobs, 'job')}, to be made into {exported.folder}.", err=True)
