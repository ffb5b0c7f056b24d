"""What `batchflux run` shows on stderr while it works.

On a terminal two lines: a tqdm bar with counts, and below it the rate, what was spent and the time left, or what is
waited for; otherwise one line a minute says the same. A job that failed and a key that died have lines of their own.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import deque
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
from tqdm.utils import disp_len, disp_trim

from batchflux.cli.manifest import checking
from batchflux.cli.terminal import count, duration, place, say
from batchflux.models import Status
from batchflux.monitoring.fields import with_names
from batchflux.observers import Watcher
from batchflux.output.folder import iso

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchflux import observers
    from batchflux.models import Job, Outcome
    from batchflux.planner import Plan

LINE_SECONDS = 60.0
DRAW_SECONDS = 0.5
RECENT = 600.0  # seconds over which a rate is taken: what was waited for before says nothing about the time left
MOST_FAILURES_SHOWN = 20
TOLD = frozenset(
    {
        "limits_changed",
        "limits_kept",
        "key_refused",
        "key_away",
        "away",
        "back",
        "mirror_away",
        "mirror_back",
        "metrics_failed",
        "shaky_locks",
    }
)  # with a message
BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
_LONGEST_NAME = 24  # columns
_WIDTH, _HEIGHT = 80, 24  # of a terminal that does not tell
_MARGIN = 3  # columns, which the ^C of a person may take at the end


class Progress(Watcher):
    """Shows a run. The `log_format` json makes every line on stderr a JSON object, and leaves the bar out."""

    def __init__(self, *, log_format: str, no_progress: bool, quiet: bool) -> None:
        self._json = log_format == "json"
        self.quiet = quiet
        self._wanted = not (no_progress or quiet)
        self._lines: tuple[tqdm[Any], tqdm[Any]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._shown = 0
        self._past: deque[tuple[float, int, int]] = deque()  # when, jobs ended and pictures made until then

    def checking(self, jobs: Iterable[Job]) -> Iterable[Job]:
        """Show how many there were."""
        return checking(jobs) if self._wanted and not self._json else jobs

    def started(self, plan: Plan, progress: observers.Progress) -> None:
        """Begin to show."""
        self._plan, self._progress = plan, progress
        self._past.append((time.monotonic(), 0, 0))
        total = plan.counts["todo"]
        self._say("started", f"{plan.name}: {count(total, 'job')} to do, into {place(plan.folder)}", todo=total)
        if not self._wanted:
            return
        if sys.stderr.isatty() and not self._json:
            name = plan.name if disp_len(plan.name) <= _LONGEST_NAME else f"{disp_trim(plan.name, _LONGEST_NAME - 1)}…"
            columns, rows = _shape()
            room: dict[str, Any] = {"leave": False, "file": sys.stderr, "ncols": columns, "nrows": rows}
            bar = tqdm(total=total, desc=name, bar_format=BAR, **room)
            self._lines = bar, tqdm(bar_format="{desc}", position=1, **room)
            self._draw(self._lines)
        self._wait()

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Say why a job failed."""
        if outcome.status is not Status.DONE:
            self._shown += 1
            if self._shown <= MOST_FAILURES_SHOWN or self._json:
                what = outcome.error_code if outcome.status is Status.UNKNOWN else f"failed, {outcome.error_code}"
                text = f"{job.id}: {what}: {outcome.error}"
                who = {"provider": job.provider, "model": job.model}
                self._say("job_failed", text, id=job.id, code=outcome.error_code, error=outcome.error, **who)
            if self._shown == MOST_FAILURES_SHOWN and not self._json:
                self._say("more", "more failures are listed in results.csv and run.log")

    def event(self, name: str, /, **fields: Any) -> None:
        """Say what a person should know at once."""
        if name == "signal":
            self._say(name, f"{fields['signal']}: no new requests; waiting for those under way (again to stop at once)")
        elif name in ("notices_failed", "selects_nothing"):  # whoever does not look on relies on them
            self.tell(str(fields["message"]), name)
        elif name in TOLD:
            self._say(name, str(fields["message"]))

    def close(self) -> None:
        """Take the lines away: the summary says all that they did."""
        if self._timer is not None:
            self._timer.cancel()
        lines, self._lines = self._lines, None
        for line in reversed(lines or ()):
            line.close()

    def _wait(self) -> None:
        pause = LINE_SECONDS if self._lines is None else DRAW_SECONDS
        self._timer = asyncio.get_running_loop().call_later(pause, self._tick)

    def _tick(self) -> None:
        if self._lines is not None:
            self._draw(self._lines)
        else:
            tally, total = self._progress.tally, self._plan.counts["todo"]
            text = f"{self._ended():,} of {total:,} jobs, {self._counts(all_of_them=True)}; {self._second_line()}"
            counts = {"done": tally.done, "failed": tally.failed, "unknown": tally.unknown, "todo": total}
            self._say("progress", text, **counts, waiting=self._progress.waiting())
        self._wait()

    def _draw(self, lines: tuple[tqdm[Any], tqdm[Any]]) -> None:
        bar, below = lines
        columns, _ = _shape()
        counts = self._counts(all_of_them=False)
        bar.ncols = below.ncols = columns
        bar.n = self._ended()
        bar.set_postfix_str(counts, refresh=False)
        bar.refresh()
        below.set_description_str(disp_trim(self._second_line(columns), columns), refresh=True)

    def _ended(self) -> int:
        tally = self._progress.tally
        return tally.done + tally.failed + tally.unknown

    def _counts(self, *, all_of_them: bool) -> str:
        """Return how jobs ended; of those that failed only when some did, where there is little room."""
        tally = self._progress.tally
        counts = {"done": tally.done, "failed": tally.failed, "unknown": tally.unknown}
        always = {"done", "failed"} if all_of_them else {"done"}
        return ", ".join(f"{number:,} {name}" for name, number in counts.items() if number or name in always)

    def _second_line(self, columns: int | None = None) -> str:
        """Return the rate, what was spent and the time left; or what is waited for."""
        title = "waiting: "
        waiting = self._progress.waiting() if columns is None else self._progress.waiting(columns - len(title))
        pace = self._pace()
        if waiting is not None:
            return title + waiting
        numbers = [pace[0], f"{self._progress.in_flight} in flight"]
        if self._plan.price is not None:
            budget = self._plan.budget
            most = "" if budget is None else f" of {budget:,.2f}"
            numbers.append(f"{self._progress.spent:,.2f}{most} {self._plan.currency}")
        return ", ".join([*numbers, pace[1]])

    def _pace(self) -> tuple[str, str]:
        """Return images a minute and the time left, by what ended lately."""
        now, ended, made = time.monotonic(), self._ended(), self._progress.tally.done
        while len(self._past) > 1 and self._past[1][0] < now - RECENT:
            self._past.popleft()
        began, ended_before, made_before = self._past[0]
        self._past.append((now, ended, made))
        seconds = max(now - began, 1e-3)
        left = "time left unknown"
        if ended > ended_before:
            still = self._plan.counts["todo"] - ended
            left = f"about {duration(still * seconds / (ended - ended_before))} left"
        return f"{60 * (made - made_before) / seconds:,.0f} images/min", left

    def _say(self, event: str, text: str, **fields: Any) -> None:
        if not self.quiet:
            self.tell(text, event, **fields)

    def tell(self, text: str, event: str = "watch", **fields: Any) -> None:
        """Say what was asked for, `--quiet` or not; from any thread."""
        if self._json:
            line = {"at": iso(time.time()), "event": event, "message": text, **with_names(fields)}
            text = json.dumps(line, ensure_ascii=False)
        with tqdm.external_write_mode(file=sys.stderr) if self._lines is not None else nullcontext():
            say(text, err=True)  # who looks on may go; the run goes on


def _shape() -> tuple[int, int]:
    """Return how many columns of the terminal may be filled, and its rows; usual ones where it has no size."""
    try:
        columns, rows = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError):
        columns = rows = 0
    return max((columns or _WIDTH) - _MARGIN, 1), rows or _HEIGHT
