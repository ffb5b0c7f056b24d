"""`batchflux run`: it asks before it spends, runs, and prints the summary and the next step to stdout."""

from __future__ import annotations

import asyncio
import shlex
import sys
from codecs import BOM_UTF8
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import uvloop

from batchflux.cli.lines import batch_lines
from batchflux.cli.manifest import LIMITS, manifest_options, plan_lines, settle, unpriced
from batchflux.cli.notices import again, heard
from batchflux.cli.progress import Progress
from batchflux.cli.terminal import (
    Whole,
    agreed,
    count,
    dropped_fields,
    duration,
    mirror_lines,
    money,
    place,
    provider_lines,
    same_again,
    say,
)
from batchflux.engine.executors.opening import Elsewhere
from batchflux.engine.shutdown import stranded
from batchflux.errors import UsageError
from batchflux.planner import Plan
from batchflux.planner import plan as make_plan
from batchflux.redaction import without_signatures
from batchflux.runner import RunOptions
from batchflux.runner import run as run_manifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.ledger.reconcile import Selection
    from batchflux.ledger.summary import Summary
    from batchflux.manifest import Manifest


@click.command("run")
@manifest_options
@click.option("--no-progress", is_flag=True, help="No progress bar and no progress lines.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--watch", is_flag=True, help="Serve a page to watch the run and judge its pictures, until it ends.")
@click.option(
    "--notify",
    metavar="URL",
    multiple=True,
    help="Tell URL how the run ends, of low budgets and lost providers: ${NAME}, or ping=${NAME} for a URL to ping.",
)
@click.option(
    "--metrics",
    metavar="FILE.prom",
    type=click.Path(path_type=Path),
    help="Keep numbers for Prometheus's node_exporter in FILE.prom, every 15 seconds.",
)
@click.option("--yes", is_flag=True, help="Do not ask before spending.")
@click.option("--on", metavar="ray[://ADDRESS]", help="Send requests and fetch pictures from the nodes of Ray.")
@click.option("--workers", metavar="N", type=Whole(1, 1000), help="Workers on the cluster; left out, one on each node.")
def run(load: Callable[..., Manifest], selection: Selection, *, watch: bool, yes: bool, **given: Any) -> int:
    """Run MANIFEST, or continue it: pending jobs only; failed ones stay failed until --retry-failed.

    The first Ctrl-C (or SIGTERM) starts no new request and keeps what is under way; a second one stops at once.
    SIGHUP reads the manifest's limits again: they hold for what has not left yet.
    """
    elsewhere = _elsewhere(given.pop("on"), given.pop("workers"))
    asks = sys.stdin.isatty() and sys.stderr.isatty()
    notify, metrics = given.pop("notify"), given.pop("metrics")
    progress = Progress(**given)
    with heard(notify) as targets:
        manifest = load()
        if not asks:
            settle(manifest, asks=False)
    if asks:  # a person is there, and needs to be told by nobody else
        settle(manifest, asks=True)
    if asks and not yes and not _confirm(manifest, make_plan(manifest, selection, through=progress.checking)):
        raise UsageError("Not started: nothing was spent.")
    reload = partial(load, path=manifest)
    said: dict[str, Any] = {"watcher": progress, "reload": reload, "notify": targets, "metrics": metrics}
    options = RunOptions(selection=selection, signals=True, elsewhere=elsewhere, **said)
    with ExitStack() as stack:
        stack.callback(progress.close)
        if watch:
            from batchflux.review.listen import WatchServer  # noqa: PLC0415  a server, which other runs do not need

            page = WatchServer(manifest.output.dir, progress.tell)
            page.start()
            stack.callback(page.stop)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            summary = runner.run(run_manifest(manifest, options))
    if not progress.quiet:
        error = say("\n".join([*summary_lines(summary), _next_step(summary)]))
        if error is not None and not isinstance(error, BrokenPipeError):  # neither changes how the run ended
            where = f"{place(summary.folder)}/summary.json"
            say(f"The summary cannot be printed ({error.strerror}); {where} has it.", err=True)
    elif summary.exit_code:
        say(summary.message, err=True)
    return summary.exit_code


def _elsewhere(on: str | None, workers: int | None) -> Elsewhere | None:
    """Return where steps are performed, None for here; UsageError."""
    if on is None and workers is None:
        return None
    if on is None:
        raise UsageError("--workers is how many there are on a Ray cluster: give --on ray, or --on ray://ADDRESS.")
    return Elsewhere(on=on, workers=workers)


def _confirm(manifest: Manifest, proposed: Plan) -> bool:
    if proposed.calls == 0 or manifest.free or proposed.worst_cost == 0:
        return True
    click.echo("\n".join(plan_lines(proposed, manifest)), err=True)
    unknown = f"an unknown sum ({unpriced(proposed, manifest)})"
    what = unknown if proposed.cost is None else money(proposed.cost, proposed.currency)
    if proposed.worst_cost and proposed.cost is not None and proposed.worst_cost > proposed.cost:
        what += f" (at most {money(proposed.worst_cost, proposed.currency)})"
    return agreed(f"\nSpend {what} on {count(proposed.calls, 'call')}?")


def summary_lines(summary: Summary) -> list[str]:
    """Return the end of a run as a person reads it."""
    this, jobs = summary.this_run, summary.jobs
    made = f"{this['done']:,} done, {this['failed']:,} failed, {this['unknown']:,} unknown"
    pace = f" ({summary.images_per_minute:,.0f} images/min)" if this["done"] else ""
    text = [summary.message, f"  this run   {made} in {duration(summary.seconds)}{pace}"]
    if summary.failures:
        text.append("  failures   " + ", ".join(f"{code} {number:,}" for code, number in summary.failures.items()))
    if summary.spent or summary.budget is not None:
        spent = f"  spent      {money(summary.spent, summary.currency)}"
        if summary.spent_possibly:
            spent += f", of it {money(summary.spent_possibly, summary.currency)} possibly"
        text.append(spent)
    text += provider_lines(summary.providers, summary.currency)
    text += batch_lines(summary.batches, summary.answered_again)
    if jobs.get("merged"):
        text.append(f"  merged     {same_again(jobs['merged'])}; made once")
    if summary.dropped:
        text.append(f"  dropped    {dropped_fields(summary.dropped)} (params: drop)")
    if jobs.get("unlisted"):
        text.append(f"  unlisted   {jobs['unlisted']:,} no longer listed; files kept")
    waiting = jobs.get("waiting", 0)
    if waiting and stranded(waiting) != summary.message:
        text.append(f"  {stranded(waiting)}")
    text += mirror_lines(summary.mirror)
    text.append(f"  results    {place(summary.folder)}/results.csv{_for_excel(summary.folder)}")
    return text


def _for_excel(folder: str) -> str:
    """Return what to do where Excel would show other letters than results.csv has: it has some beyond ASCII, no BOM."""
    with suppress(OSError), (Path(folder) / "results.csv").open("rb") as file:
        begun = file.read(1 << 20)
        if not begun.isascii() and not begun.startswith(BOM_UTF8):
            return " (for Excel, set output.csv: excel)"
    return ""


def _next_step(summary: Summary) -> str:
    """Return what to do next: to look at what there is, or the command that continues what was stopped.

    It works on no more jobs than the one that was stopped, and sends no request again that this would not have.
    """
    if summary.reason == "finished":
        return f"  next       look at it: batchflux report {shlex.quote(place(summary.folder))}"
    given = click.get_current_context().params
    short = summary.to_raise
    command = ["batchflux", "run", given["path"]]
    for option in ("out", "provider", "env_file", "limit", "sample", *LIMITS, "on", "workers"):
        command += [f"--{option.replace('_', '-')}", str(given[option])] if given[option] and option != short else []
    command += [word for glob in given["only"] for word in ("--only", glob)]
    command += ["--redo"] if given["redo"] else []
    command += ["--on-unknown", given["on_unknown"]] if given["on_unknown"] != "retry" else []
    for value in given["sets"]:
        command += ["--set", without_signatures(value)] if not value.startswith(f"limits.{short}=") else []
    command += ["--set", f"limits.{short}=MORE"] if short else []
    command += again(given["notify"]) + (["--metrics", str(given["metrics"])] if given["metrics"] else [])
    return f"  next       to continue: {shlex.join(command)}"
