"""`batchflux run`: what it shows on stderr while it works, and the summary it prints to stdout at the end.

On a terminal a tqdm bar; otherwise one line a minute. A job that failed and a key that died have lines of their own.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import click
import uvloop
from tqdm import tqdm

from batchflux.cli.manifest import checking, manifest_options, plan_lines, settle
from batchflux.cli.terminal import count, dropped_fields, duration, money, place, same_again, say
from batchflux.engine.shutdown import stranded
from batchflux.errors import UsageError
from batchflux.models import Status
from batchflux.observers import Watcher
from batchflux.output.folder import iso
from batchflux.planner import Plan
from batchflux.planner import plan as make_plan
from batchflux.runner import RunOptions
from batchflux.runner import run as run_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batchflux import observers as watcher
    from batchflux.ledger.reconcile import Selection
    from batchflux.ledger.summary import Summary
    from batchflux.manifest import Manifest
    from batchflux.models import Job, Outcome

LINE_SECONDS = 60.0
MOST_FAILURES_SHOWN = 20
BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class Progress(Watcher):
    """Shows a run. The `log_format` json makes every line on stderr a JSON object, and leaves the bar out."""

    def __init__(self, *, log_format: str, no_progress: bool, quiet: bool) -> None:
        self._json = log_format == "json"
        self.quiet = quiet
        self._wanted = not (no_progress or quiet)
        self._bar: tqdm[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._shown = 0

    def checking(self, jobs: Iterable[Job]) -> Iterable[Job]:
        """Show how many there were."""
        return checking(jobs) if self._wanted and not self._json else jobs

    def started(self, plan: Plan, progress: watcher.Progress) -> None:
        """Begin to show."""
        self._plan, self._progress, self._began = plan, progress, time.monotonic()
        total = plan.counts["todo"]
        self._say("started", f"{plan.name}: {count(total, 'job')} to do, into {place(plan.folder)}", todo=total)
        if not self._wanted:
            return
        if sys.stderr.isatty() and not self._json:
            self._bar = tqdm(total=total, desc=plan.name, bar_format=BAR, dynamic_ncols=True, file=sys.stderr)
        self._wait()

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Count a job, and say why it failed."""
        if outcome.status is not Status.DONE:
            self._shown += 1
            if self._shown <= MOST_FAILURES_SHOWN or self._json:
                what = outcome.error_code if outcome.status is Status.UNKNOWN else f"failed, {outcome.error_code}"
                text = f"{job.id}: {what}: {outcome.error}"
                self._say("job_failed", text, id=job.id, code=outcome.error_code, error=outcome.error)
            if self._shown == MOST_FAILURES_SHOWN and not self._json:
                self._say("more", "more failures are listed in results.csv and run.log")
        if self._bar is not None:
            self._bar.set_postfix_str(self._numbers(), refresh=False)
            self._bar.update()

    def event(self, name: str, /, **fields: Any) -> None:
        """Say what a person should know at once."""
        if name == "signal":
            self._say(name, f"{fields['signal']}: no new requests; waiting for those under way (again to stop at once)")
        elif name in {"limits_changed", "limits_kept", "key_refused", "key_away", "away", "back"}:
            self._say(name, str(fields["message"]))

    def close(self) -> None:
        """End the bar."""
        if self._timer is not None:
            self._timer.cancel()
        if self._bar is not None:
            self._bar.close()

    def _wait(self) -> None:
        pause = LINE_SECONDS if self._bar is None else 1.0
        self._timer = asyncio.get_running_loop().call_later(pause, self._tick)

    def _tick(self) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(self._numbers(), refresh=True)
        else:
            tally, total = self._progress.tally, self._plan.counts["todo"]
            ended = tally.done + tally.failed + tally.unknown
            left = "time left unknown"
            if ended:
                left = f"about {duration((total - ended) * (time.monotonic() - self._began) / ended)} left"
            text = f"{ended:,} of {total:,} jobs, {self._numbers()}, {left}"
            self._say("progress", text, done=tally.done, failed=tally.failed, unknown=tally.unknown, todo=total)
        self._wait()

    def _numbers(self) -> str:
        tally = self._progress.tally
        numbers = [f"{tally.done:,} done", f"{tally.failed:,} failed"]
        if tally.unknown:
            numbers.append(f"{tally.unknown:,} unknown")
        a_minute = 60 * tally.done / max(time.monotonic() - self._began, 1e-3)
        numbers += [f"{self._progress.in_flight} in flight", f"{a_minute:,.0f} images/min"]
        if self._plan.price is not None:
            numbers.append(f"{self._progress.spent:,.2f} {self._plan.currency}")
        return ", ".join(numbers)

    def _say(self, event: str, text: str, **fields: Any) -> None:
        if not self.quiet:
            self.tell(text, event, **fields)

    def tell(self, text: str, event: str = "watch", **fields: Any) -> None:
        """Say what was asked for, `--quiet` or not; from any thread."""
        if self._json:
            text = json.dumps({"at": iso(time.time()), "event": event, "message": text, **fields}, ensure_ascii=False)
        with self._bar.external_write_mode(file=sys.stderr) if self._bar is not None else nullcontext():
            say(text, err=True)  # who looks on may go; the run goes on


@click.command("run")
@manifest_options
@click.option("--no-progress", is_flag=True, help="No progress bar and no progress lines.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--watch", is_flag=True, help="Serve a page to watch the run and judge its pictures, until it ends.")
@click.option("--yes", is_flag=True, help="Do not ask before spending.")
def run(load: Callable[[], Manifest], selection: Selection, *, watch: bool, yes: bool, **shown: Any) -> int:
    """Run MANIFEST, or continue it: pending jobs only; failed ones stay failed until --retry-failed.

    The first Ctrl-C (or SIGTERM) starts no new request and keeps what is under way; a second one stops at once.
    SIGHUP reads the manifest's limits again: they hold for what has not left yet.
    """
    manifest, progress = load(), Progress(**shown)
    asks = sys.stdin.isatty() and sys.stderr.isatty()
    settle(manifest, asks=asks)
    if asks and not yes and not _confirm(manifest, make_plan(manifest, selection, through=progress.checking)):
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


def _confirm(manifest: Manifest, proposed: Plan) -> bool:
    if proposed.provider == "simulator" or proposed.calls == 0 or proposed.cost == 0:
        return True
    click.echo("\n".join(plan_lines(proposed, manifest)), err=True)
    unknown = "an unknown sum (provider.price is not set)"
    what = unknown if proposed.cost is None else money(proposed.cost, proposed.currency)
    return click.confirm(f"\nSpend {what} on {count(proposed.calls, 'call')}?", err=True)


def summary_lines(summary: Summary) -> list[str]:
    """Return the end of a run as a person reads it."""
    this, jobs = summary.this_run, summary.jobs
    made = f"{this['done']:,} done, {this['failed']:,} failed, {this['unknown']:,} unknown"
    pace = f"{summary.images_per_minute:,.0f} images/min"
    text = [summary.message, f"  this run   {made} in {duration(summary.seconds)} ({pace})"]
    if summary.failures:
        text.append("  failures   " + ", ".join(f"{code} {number:,}" for code, number in summary.failures.items()))
    if summary.spent or summary.budget is not None:
        spent = f"  spent      {money(summary.spent, summary.currency)}"
        if summary.spent_possibly:
            spent += f", of it {money(summary.spent_possibly, summary.currency)} possibly"
        text.append(spent)
    if jobs.get("merged"):
        text.append(f"  merged     {same_again(jobs['merged'])}; made once")
    if summary.dropped:
        text.append(f"  dropped    {dropped_fields(summary.dropped)} (params: drop)")
    if jobs.get("unlisted"):
        text.append(f"  unlisted   {jobs['unlisted']:,} no longer listed; files kept")
    waiting = jobs.get("waiting", 0)
    if waiting and stranded(waiting) != summary.message:
        text.append(f"  {stranded(waiting)}")
    text.append(f"  results    {place(summary.folder)}/results.csv")
    return text
