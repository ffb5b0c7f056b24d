"""(soak) Minutes of the embedded simulator with 20 % mixed faults: does anything grow, and does every job end?

Samples /proc every 10 s; compares the medians of the first three minutes with those of the last (a quarter of the
time each in a short soak). A `rate` makes the length; a run that takes more than twice as long is stopped.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

from tools import MIB, BenchError, Child, Options, Row, middle, ours, say, scratch, status_of, table

RATE = 20
SECONDS = 10.0
SHORT_SECONDS = 2.0
SHORT_MINUTES = 5.0
WINDOW = 180.0
OVERTIME = 2.0
ENDED = (0, 1, 3, 130)

_MANIFEST = """
version: 1
name: soak
provider:
  name: simulator
  options:
    size: 64
    latency: [0.05, 0.5]
    seed: 11
    faults:
      server_500: 0.05
      reset: 0.03
      cut: 0.03
      rate_limited: 0.003
      flaky_link: 0.047
      truncated_image: {{rate: 0.03, times: 1}}
      moderated: 0.01
limits:
  concurrency: 64
  rate: {rate}/s
  timeout: 30s
output:
  dir: {out}
jobs:
  - prompt: "{{{{ subject }}}} in the {{{{ hour }}}} light"
    matrix:
      subject: [A lighthouse, A bowl of lemons]
      hour: [morning, evening]
      seed: {{range: [1, {seeds}]}}
"""


def run(options: Options) -> dict[str, Any]:
    """Measure, print, and return the figures."""
    if not Path("/proc/self/status").exists():
        raise BenchError("The soak reads /proc, which this system does not have: run it on Linux.")
    planned = 60.0 * options.minutes
    with scratch() as folder:
        manifest = folder / "soak.yaml"
        seeds = max(1, round(planned * RATE / 4))
        manifest.write_text(_MANIFEST.format(rate=RATE, out=folder / "out", seeds=seeds), encoding="utf-8")
        say(f"  (soak) {4 * seeds:,} jobs, {options.minutes:g} minutes or more")
        child = Child(ours("run", manifest, "--no-progress"), folder / "log")
        step = SHORT_SECONDS if options.minutes < SHORT_MINUTES else SECONDS
        samples = watch(child, step, OVERTIME * planned)
        measured = child.wait(ENDED)
        summary = json.loads((folder / "out" / "summary.json").read_text(encoding="utf-8"))
    rows = growth(samples)
    jobs, failures = summary["jobs"], summary["failures"]
    ended = sum(jobs[name] for name in ("done", "failed", "unknown"))
    table(f"(soak) {measured.wall / 60:.1f} minutes, peak {measured.peak:.0f} MiB", rows)
    say(f"  {ended:,} of {jobs['total']:,} jobs ended: {jobs}; failures {failures}; exit {measured.code}")
    return {
        "minutes": measured.wall / 60,
        "rows": rows,
        "jobs": jobs,
        "failures": failures,
        "attempts": summary["attempts"],
        "all_ended": ended == jobs["total"],
        "exit_code": measured.code,
        "peak_MiB": measured.peak,
        "cpu_s": measured.cpu,
        "samples": samples,
    }


def watch(child: Child, step: float, most: float) -> list[Row]:
    """Sample the process until it ends; stop it when it takes more than `most` seconds."""
    samples: list[Row] = []
    stopped = False
    while (found := sample(child)) is not None:
        if samples or found["at_s"] >= step:  # the interpreter's start tells nothing
            samples.append(found)
        if found["at_s"] > most and not stopped:
            child.signal(signal.SIGINT)
            stopped = True
        time.sleep(step)
    return samples


def sample(child: Child) -> Row | None:
    """Return what the process holds now; None when it has ended."""
    status = status_of(child.pid)
    if "VmRSS" not in status:
        return None
    try:
        descriptors = sum(1 for _ in Path(f"/proc/{child.pid}/fd").iterdir())
    except OSError:
        return None
    return {
        "at_s": time.monotonic() - child.started,
        "rss_MiB": status["VmRSS"] / MIB,
        "fds": descriptors,
        "threads": int(status["Threads"]),
    }


def growth(samples: list[Row]) -> list[Row]:
    """Return the medians at the start and at the end, and what lies between them."""
    if not samples:
        raise BenchError("The soak ended before it could be looked at: give it more --minutes.")
    end = samples[-1]["at_s"]
    window = min(WINDOW, end / 4)
    first = middle([row for row in samples if row["at_s"] <= max(window, samples[0]["at_s"])])
    last = middle([row for row in samples if row["at_s"] >= end - window])
    difference = {name: last[name] - first[name] for name in first}
    return [{"when": "first", **first}, {"when": "last", **last}, {"when": "growth", **difference}]
