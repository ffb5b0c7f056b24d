"""`batchflux run`."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click
import uvloop

from batchflux.cli.options import manifest_options
from batchflux.cli.plan import lines
from batchflux.cli.progress import Progress, summary_lines
from batchflux.cli.words import count, money
from batchflux.runner import RunOptions, run

if TYPE_CHECKING:
    from batchflux.engine.selection import Selection
    from batchflux.manifest import Manifest
    from batchflux.planner import Plan


@click.command("run")
@manifest_options
@click.option("--no-progress", is_flag=True, help="No progress bar and no progress lines.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--yes", is_flag=True, help="Do not ask before spending.")
def command(
    manifest: Manifest, selection: Selection, *, no_progress: bool, quiet: bool, log_format: str, yes: bool
) -> int:
    """Run MANIFEST, or continue it: pending jobs only; failed ones stay failed until --retry-failed.

    The first Ctrl-C (or SIGTERM) starts no new request and keeps what is under way; a second one stops at once.
    """
    progress = Progress(json_log=log_format == "json", bar=not no_progress, quiet=quiet)
    asks = not yes and sys.stdin.isatty() and sys.stderr.isatty()
    options = RunOptions(selection=selection, signals=True, watcher=progress, confirm=_confirm if asks else None)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            summary = runner.run(run(manifest, options))
    finally:
        progress.close()
    if not quiet:
        click.echo("\n".join(summary_lines(summary)))
    elif summary.exit_code:
        click.echo(summary.message, err=True)
    return summary.exit_code


def _confirm(plan: Plan) -> bool:
    if plan.provider == "simulator" or plan.calls == 0 or plan.cost == 0:
        return True
    for line in lines(plan):
        click.echo(line, err=True)
    what = money(plan.cost, plan.currency) if plan.cost is not None else "an unknown sum (provider.price is not set)"
    return click.confirm(f"\nSpend {what} on {count(plan.calls, 'call')}?", err=True)
