"""(c) Adaptation: nobody tells the limit, and the server halves and doubles it while the run goes on.

64 in flight, 0.2 s latency. The baseline is the bare loop that waits a second after each 429.
"""

from __future__ import annotations

import signal
import time
from bisect import bisect_left
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import manifests
import pictures
from servers import Control, bucket_server
from tools import BenchError, Child, Options, Row, ours, say, scratch, script, table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CONCURRENCY = 64
LATENCY = 0.2
SETTLED = 20.0
LAST = 10.0
WINDOW = 5.0
NEAR = 0.10
FULL = ((50.0, 40.0), (25.0, 30.0), (50.0, 30.0), (100.0, 30.0))
QUICK = ((50.0, 30.0), (25.0, 22.0), (50.0, 22.0))
START_SECONDS = 30.0
SPARE = 3
STOPPED = (0, 1, 130)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A limit, and from when to when it held, on the monotonic clock."""

    rate: float
    start: float
    end: float


def run(options: Options) -> dict[str, Any]:
    """Measure, print, and return the figures."""
    plan = QUICK if options.quick else FULL
    figures: dict[str, Any] = {}
    rows: list[Row] = []
    totals: list[Row] = []
    for bucket in ("1 s",) if options.quick else ("1 s", "1 token"):
        for who in ("bare loop", "batchflux"):
            say(f"  (c) {who}, bucket {bucket}: {sum(seconds for _, seconds in plan):.0f} s")
            found = measure(who, plan, strict=bucket != "1 s")
            label = {"bucket": bucket, "who": who}
            rows += [label | row for row in found["phases"]]
            totals.append(label | found["whole"])
            figures[f"{who}, {bucket}"] = found
    table("(c) adaptation to a limit nobody told, phase by phase", rows)
    table("(c) the whole run", totals)
    return figures


def measure(who: str, plan: Sequence[tuple[float, float]], *, strict: bool) -> dict[str, Any]:
    """Run one client through all phases."""
    first = plan[0][0]
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        pictures.write_tiny(folder / "tiny.png")
        capacity = 1.0 if strict else first
        server = stack.enter_context(bucket_server(folder / "tiny.png", rate=first, capacity=capacity, latency=LATENCY))
        jobs = round(SPARE * sum(rate * seconds for rate, seconds in plan))
        child = Child(command_of(folder, who, server, jobs), folder / "log")
        phases = drive(server, plan, strict=strict)
        child.signal(signal.SIGINT)
        child.wait(STOPPED)
        stats = server.stats(times=True)
    return figures_of(phases, stats["accepted_times"], stats["refused_times"])


def command_of(folder: Path, who: str, server: Control, jobs: int) -> list[str]:
    """Return the command line of one client."""
    if who == "batchflux":
        spec = manifests.Spec(url=server.url, jobs=jobs, concurrency=CONCURRENCY)
        return ours("run", manifests.write(folder, spec), "--no-progress")
    arguments = ["--url", server.url, "--out", folder, "--jobs", jobs, "--workers", CONCURRENCY]
    return script("bare_loop", *arguments, "--retry")


def drive(server: Control, plan: Sequence[tuple[float, float]], *, strict: bool) -> list[Phase]:
    """Change the server's limit on time, counted from its first request."""
    until = time.monotonic() + START_SECONDS
    while (start := server.stats()["first_request"]) is None:
        if time.monotonic() > until:
            raise BenchError(f"No request came within {START_SECONDS:.0f} s; see the client's log.")
        time.sleep(0.05)
    phases: list[Phase] = []
    for number, (rate, seconds) in enumerate(plan):
        if number:
            start = server.limit(rate, 1.0 if strict else rate)
            phases[-1] = Phase(rate=phases[-1].rate, start=phases[-1].start, end=start)
        phases.append(Phase(rate=rate, start=start, end=start + seconds))
        time.sleep(max(0.0, start + seconds - time.monotonic()))
    return phases


def figures_of(phases: Sequence[Phase], accepted: Sequence[float], refused: Sequence[float]) -> dict[str, Any]:
    """Return what each phase and the whole run came to."""
    rows: list[Row] = []
    for phase in phases:
        served, turned = count(accepted, phase.start, phase.end), count(refused, phase.start, phase.end)
        rows.append(
            {
                "limit/s": phase.rate,
                "seconds": phase.end - phase.start,
                "used": served / (phase.rate * (phase.end - phase.start)),
                "used_from_20s": share(accepted, phase, phase.start + SETTLED),
                "used_last_10s": share(accepted, phase, phase.end - LAST),
                "within_10%_after_s": settled_after(accepted, phase),
                "refused": turned,
                "refused_share": turned / max(1, turned + served),
            }
        )
    settled = [
        Phase(rate=phase.rate, start=max(phase.start, phases[0].start + SETTLED), end=phase.end) for phase in phases
    ]
    served = sum(count(accepted, phase.start, phase.end) for phase in settled)
    whole = {
        "used_from_20s": served / sum(phase.rate * (phase.end - phase.start) for phase in settled),
        "accepted": len(accepted),
        "refused": len(refused),
        "refused_share": len(refused) / max(1, len(refused) + len(accepted)),
    }
    return {"phases": rows, "whole": whole}


def count(times: Sequence[float], start: float, end: float) -> int:
    """Return how many of the times, which ascend, lie from start up to end."""
    return bisect_left(times, end) - bisect_left(times, start)


def share(accepted: Sequence[float], phase: Phase, start: float) -> float | None:
    """Return how much of the limit was used from `start` to the phase's end."""
    if not phase.start <= start < phase.end:
        return None
    return count(accepted, start, phase.end) / (phase.rate * (phase.end - start))


def settled_after(accepted: Sequence[float], phase: Phase) -> int | None:
    """Return the first second after which a window of 5 s was within 10 % of the limit; None when there is none."""
    for second in range(int(phase.end - phase.start - WINDOW) + 1):
        start = phase.start + second
        rate = count(accepted, start, start + WINDOW) / WINDOW
        if abs(rate / phase.rate - 1.0) <= NEAR:
            return second
    return None
