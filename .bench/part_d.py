"""(d) Manifests of 10,000, 100,000 and 1,000,000 rows: time to the first request, peak memory, CPU per job, `plan`.

A very fast server, 64 in flight, a tiny picture. The baseline is the bare loop on the same table. With --quick the
largest one is stopped when it has worked on a few jobs of its million.
"""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import manifests
import pictures
from servers import bucket_server
from tools import (
    POLL_SECONDS,
    BenchError,
    Child,
    Measured,
    Options,
    Row,
    each,
    ours,
    scratch,
    script,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from servers import Control

SIZES = (10_000, 100_000, 1_000_000)
CONCURRENCY = 64
QUICK_LARGEST = 100_000
SOME = 2000
PATIENCE = 120.0  # seconds
STOPPED = 128 + signal.SIGTERM


def run(options: Options) -> dict[str, Any]:
    """Measure, print, and return the figures."""

    def work(size: int) -> list[Row]:
        return measure(size, SOME if options.quick and size > QUICK_LARGEST else size)

    rows = each("(d)", SIZES, work)
    first = {row["who"]: row["cpu_ms/job"] for row in rows if row["rows"] == SIZES[0]}
    for row in rows:
        if row["jobs"] == row["rows"]:
            row["cpu_to_10k"] = row["cpu_ms/job"] / first[row["who"]]
    table("(d) large manifests", rows)
    return {"rows": rows}


def measure(size: int, jobs: int) -> list[Row]:
    """Run both on a table of `size` rows, working on `jobs` of them."""
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        pictures.write_tiny(folder / "tiny.png")
        baseline = run_one(folder, "bare loop", size, jobs)
        found = run_one(folder, "batchflux", size, jobs)
        manifest = folder / "bench.yaml"
        planned = Child(ours("plan", manifest), folder / "plan.log").wait()
    ratio = found["cpu_ms/job"] / baseline["cpu_ms/job"]
    return [baseline, found | {"cpu_ratio": ratio, "plan_s": planned.wall, "plan_MiB": planned.peak}]


def run_one(folder: Path, who: str, size: int, jobs: int) -> Row:
    """Run one client against a fresh server."""
    makers: dict[str, Callable[[str], list[str]]] = {
        "bare loop": lambda url: bare(folder, url, size, jobs),
        "batchflux": lambda url: batchflux(folder, url, size),
    }
    with bucket_server(folder / "tiny.png") as server:
        child = Child(makers[who](server.url), folder / "log")
        if who == "batchflux" and jobs < size:
            stop_after(server, jobs, child)
        measured: Measured = child.wait(allowed=(0, STOPPED))
        stats = server.stats()
    rmtree(folder / "out")
    return {
        "rows": size,
        "jobs": jobs,
        "who": who,
        "first_request_s": stats["first_request"] - measured.started,
        "wall_s": measured.wall,
        "peak_MiB": measured.peak,
        "cpu_ms/job": 1000 * measured.cpu / jobs,
        "requests": stats["requests"],
    }


def stop_after(server: Control, jobs: int, child: Child) -> None:
    """Stop a run once the server has met so many of its jobs.

    Raises:
        BenchError: it does not come to that.
    """
    end = time.monotonic() + PATIENCE
    while server.stats()["requests"] < jobs:
        if time.monotonic() > end:
            child.signal(signal.SIGKILL)
            raise BenchError(f"no {jobs} requests came in {PATIENCE:.0f} seconds")
        time.sleep(POLL_SECONDS)
    child.signal(signal.SIGTERM)


def bare(folder: Path, url: str, size: int, jobs: int) -> list[str]:
    """Return the command line of the baseline."""
    manifests.write_table(folder / "jobs.csv", size)
    (folder / "out").mkdir()
    arguments = ["--url", url, "--out", folder / "out", "--workers", CONCURRENCY]
    return script("bare_loop", *arguments, "--table", folder / "jobs.csv", "--jobs", jobs)


def batchflux(folder: Path, url: str, size: int) -> list[str]:
    """Return our command line."""
    manifest = manifests.write(folder, manifests.Spec(url=url, jobs=size, concurrency=CONCURRENCY))
    return ours("run", manifest, "--no-progress")
