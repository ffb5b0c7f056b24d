"""The commands that read an output folder: `batchflux status`, `batchflux report` and `batchflux export-review`."""

from __future__ import annotations

import time
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

from batchflux.cli.lines import batch_lines
from batchflux.cli.nights import night_lines
from batchflux.cli.terminal import (
    OutputFolder,
    count,
    dropped_fields,
    duration,
    learned_lines,
    mirror_lines,
    money,
    place,
    provider_lines,
)
from batchflux.exports.dataset import write_dataset
from batchflux.exports.projection import write_results
from batchflux.exports.redo_manifest import export_review as write_redo_manifest
from batchflux.exports.redo_manifest import redo_manifest
from batchflux.folders.merge import merge as merge_folders
from batchflux.folders.prune import listed_no_longer, set_unlisted_aside
from batchflux.ledger.summary import read_standing
from batchflux.manifest.reading.values import link_life
from batchflux.output.folder import iso, zone
from batchflux.report.report import write_report

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from batchflux.ledger.summary import Standing
    from batchflux.report.report import Report

_SHOWN = 3
_VERDICTS = {"accept": "accepted", "reject": "rejected", "redo": "redo"}


@click.command("status")
@click.argument("out", type=OutputFolder())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(out: Path, *, as_json: bool) -> None:
    """Show how the output folder OUT stands: counts, failures, spend, rate, the last run. Works while a run goes on."""
    standing, now = read_standing(out), time.time()
    click.echo(standing.to_json(now) if as_json else "\n".join(status_lines(out, standing, now)))


def status_lines(out: Path, standing: Standing, now: float) -> list[str]:
    """Return how a folder stands at epoch second `now`, as a person reads it."""
    state, verdicts = standing.state, standing.verdicts
    text = [f"{out}: {state.done:,} of {state.total:,} jobs done", *_last_run(standing)]
    if standing.night is not None:
        text += night_lines(standing.night, state.pending)
    counts = {name: getattr(state, name) for name in ("pending", "in_flight", "unknown", "failed")}
    text += [f"  {name.replace('_', ' '):<10} {value:>9,}" for name, value in counts.items() if value]
    text += [f"    {code:<18} {number:,}" for code, number in state.failures.items()]
    if state.unknown:
        text.append(
            "  unknown: sent and never answered, possibly billed; the next run asks an API that can tell, else sends"
        )
        text.append("           each once more (--on-unknown hold leaves them, --on-unknown fail gives them up)")
    if verdicts:
        said = ", ".join(f"{number:,} {_VERDICTS[name]}" for name, number in verdicts.items())
        text.append(f"  verdicts   {said}, {standing.not_judged:,} not judged")
    if state.redo:
        text.append(f"  redo       {state.redo:>9,}  asked for in a review; the next run makes them")
    if state.dropped:
        text.append(f"  dropped    {dropped_fields(state.dropped)} (params: drop)")
    text += batch_lines(state.batches, state.answered_again)
    text += mirror_lines(state.mirror)
    text += _spending(standing)
    if standing.run.state == "running" and standing.run.deadline is not None:
        at = datetime.fromtimestamp(standing.run.deadline).astimezone()
        text.append(f"  deadline   {at:%H:%M} {zone(at)}, {duration(max(standing.run.deadline - now, 0.0))} left")
    if state.last_at is not None:
        text.append(f"  rate       {state.images_per_minute:,.1f} images/min, the last at {iso(state.last_at)}")
    return text


def _spending(standing: Standing) -> list[str]:
    """Return what was spent, what is left of the budget, and how each key was used."""
    state, budget = standing.state, standing.run.budget
    spent = f"  spent      {money(state.spent, state.currency)}"
    if state.possibly_billed:
        possibly = f"{money(state.spent_possibly, state.currency)} possibly"
        spent += f", of it {possibly} ({count(state.possibly_billed, 'attempt')})"
    text = [f"  attempts   {state.attempts:>9,}", spent]
    if budget is not None:
        left = max(budget - state.spent, Decimal(0))
        text.append(f"  budget     {money(budget, state.currency)}, {money(left, state.currency)} left")
    if standing.run.budget_per_run is not None:
        text.append(f"  per run    {money(standing.run.budget_per_run, state.currency)} at most")
    text += provider_lines(state.providers, state.currency)
    for name, use in standing.keys.items():
        refused = "".join(f", {number:,} {code}" for code, number in use.refusals.items())
        used = f"{count(use.attempts, 'attempt')}, {money(use.spent, state.currency)}{refused}"
        text.append(f"  key        {name}: {used}")
    return text + learned_lines(standing.learned, "  learned    ")


def _last_run(standing: Standing) -> list[str]:
    """Return since when it runs and for how long, or when and why it stopped."""
    run = standing.run
    if run.state == "running":
        left = f", about {duration(standing.seconds_left)} left" if standing.seconds_left else ""
        waits = [f"  waiting    {run.message}"] if run.message else []
        return [f"  last run   goes on since {iso(run.began)}{left}", *waits]
    if run.state == "none":
        return []
    at = run.summary.get("finished_at") or iso(standing.state.last_at) or iso(run.began)
    how = "finished" if run.reason == "finished" else "stopped"
    return [f"  last run   {how} at {at}: {run.message}"]


def _link_life(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    try:
        return None if text is None else link_life(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


@click.command("report")
@click.argument("out", type=OutputFolder())
@click.option("--sign", metavar="DURATION", callback=_link_life, help="With links to pictures in the mirror, as 2h.")
def report(out: Path, sign: int | None) -> None:
    """Write OUT/report.html: all pictures of an output folder in one page that opens from disk.

    Of pictures that are in the bucket of output.mirror alone it has thumbnails, and their addresses. With --sign it has
    links as well, by which whoever has the page sees the pictures without a key, for so long: at most 168h.
    """
    with tqdm(desc="thumbnails", unit="picture", leave=False, disable=None) as bar:

        def started(jobs: int) -> Callable[[], object]:
            bar.reset(jobs)
            return bar.update

        written = write_report(out, started, sign)
    click.echo(place(str(written.path)))
    if sign:
        until = "No picture needs a signed link." if written.signed_until is None else _signed(written)
        click.echo(until, err=True)
    click.echo(f"{count(written.rows, 'job')}, {count(written.thumbs, 'thumbnail')} made.", err=True)
    if missing := len(written.missing):
        names = ", ".join(written.missing[:_SHOWN])
        more = "" if missing <= _SHOWN else f" and {missing - _SHOWN:,} more"
        says = f"{count(missing, 'picture')} cannot be shown, the file is missing or damaged ({names}{more}); "
        click.echo(f"{says}`batchflux run` brings missing ones back.", err=True)
    if written.unread:
        first, why = next(iter(written.unread.items()))
        says = f"{count(len(written.unread), 'picture')} could not be read from the mirror, and cannot be shown"
        click.echo(f"{says} (first {first}: {why}).", err=True)


def _signed(written: Report) -> str:
    return f"Links to pictures in the mirror are good until {iso(written.signed_until)}: the page is a key to them."


@click.command("merge")
@click.argument("first", metavar="A", type=OutputFolder())
@click.argument("second", metavar="B", type=OutputFolder())
@click.option("-o", "--out", "target", metavar="C", required=True, type=click.Path(path_type=Path, file_okay=False))
def merge(first: Path, second: Path, target: Path) -> None:
    """Join the output folders A and B into a new one, C: nothing is paid, and A and B stay as they are.

    A job that both have is one job; where both made a picture, A's stands and B's is kept in .replaced/. A manifest
    that lists the jobs of both goes on with `batchflux run MANIFEST --out C`.
    """
    merged = merge_folders(first, second, target, _write_files)
    click.echo(f"Wrote {place(str(target))}: {count(merged.jobs, 'job')}, {merged.shared:,} of them in both.")
    for what, lines in (
        ("renamed, as another job has the name", [f"{old} -> {new}" for old, new in merged.renamed]),
        ("made in both; the second picture is kept", merged.aside),
    ):
        if lines:
            click.echo(f"  {len(lines):,} {what}: {', '.join(lines[:_SHOWN])}{', ...' if len(lines) > _SHOWN else ''}")


def _write_files(folder: Path, connection: sqlite3.Connection) -> None:
    write_results(folder, connection)
    write_dataset(folder, connection)


@click.command("prune")
@click.argument("out", type=OutputFolder())
@click.option("--yes", is_flag=True, help="Move them, and do not only list them.")
def prune(out: Path, *, yes: bool) -> None:
    """List pictures of jobs that the manifest of the output folder OUT lists no longer; with --yes move them.

    They go to OUT/.replaced/, and come back by themselves, without being paid again, when their jobs are listed again.
    Nothing is deleted; rejected/ and answers/ stay, and so does all that is in the bucket of output.mirror.
    """
    moves, apart = set_unlisted_aside(out) if yes else listed_no_longer(out)
    click.echo("".join(f"{move.source}\n" for move in moves), nl=False)
    said = f"{count(len(moves), 'picture')} of jobs that are no longer listed"
    done = (
        f"moved to {place(str(out))}/.replaced/"
        if yes
        else f"batchflux prune {place(str(out))} --yes moves them to .replaced/"
    )
    click.echo(f"{said}; {done}." if moves else f"{said}.", err=True)
    if apart:
        click.echo(f"{count(apart, 'more picture')} of such jobs in the mirror alone; nothing moves there.", err=True)


@click.command("export-review")
@click.argument("out", type=OutputFolder())
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
