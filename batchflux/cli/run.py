"""`batchflux run`."""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click
import uvloop

from batchflux.cli.manifest import manifest_options, plan_lines
from batchflux.cli.progress import Progress, progress_options, summary_lines
from batchflux.cli.terminal import count, money, place, say
from batchflux.errors import UsageError
from batchflux.planner import Plan
from batchflux.planner import plan as make_plan
from batchflux.runner import RunOptions
from batchflux.runner import run as run_manifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.ledger.reconcile import Selection
    from batchflux.manifest import Manifest


@click.command("run")
@manifest_options
@progress_options
@click.option("--watch", is_flag=True, help="Serve a page to watch the run and judge its pictures, until it ends.")
@click.option("--yes", is_flag=True, help="Do not ask before spending.")
def run(load: Callable[[], Manifest], selection: Selection, progress: Progress, *, watch: bool, yes: bool) -> int:
    """Run MANIFEST, or continue it: pending jobs only; failed ones stay failed until --retry-failed.

    The first Ctrl-C (or SIGTERM) starts no new request and keeps what is under way; a second one stops at once.
    SIGHUP reads the manifest's limits again: they hold for what has not left yet.
    """
    manifest = load()
    asks = not yes and sys.stdin.isatty() and sys.stderr.isatty()
    if asks and not _confirm(make_plan(manifest, selection, through=progress.checking)):
        raise UsageError("Not started: nothing was spent.")
    options = RunOptions(selection=selection, signals=True, watcher=progress, reload=load)
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
        error = say("\n".join(summary_lines(summary)))
        if error is not None and not isinstance(error, BrokenPipeError):  # neither changes how the run ended
            where = f"{place(summary.folder)}/summary.json"
            say(f"The summary cannot be printed ({error.strerror}); {where} has it.", err=True)
    elif summary.exit_code:
        say(summary.message, err=True)
    return summary.exit_code


def _confirm(proposed: Plan) -> bool:
    if proposed.provider == "simulator" or proposed.calls == 0 or proposed.cost == 0:
        return True
    click.echo("\n".join(plan_lines(proposed)), err=True)
    what = "an unknown sum (provider.price is not set)"
    if proposed.cost is not None:
        what = money(proposed.cost, proposed.currency)
    return click.confirm(f"\nSpend {what} on {count(proposed.calls, 'call')}?", err=True)
