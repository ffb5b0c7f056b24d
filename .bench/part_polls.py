"""(polls) CPU per job of tasks that are polled, against the same pictures in one call: 200 in flight, 5 s each.

A task is asked for about once a second while it is young (0.5 s, then a quarter longer each time), and not so early
once it is known how long they take.
"""

from __future__ import annotations

from shutil import rmtree
from statistics import median
from typing import TYPE_CHECKING, Any

import manifests
import pictures
from servers import poll_server
from tools import Child, Options, Row, ours, scratch, table

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Control

CONCURRENCY, SECONDS = 200, 5.0
JOBS, QUICK_JOBS = 1000, 600
ROUNDS, QUICK_ROUNDS = 3, 1


def run(options: Options) -> dict[str, Any]:
    """Measure, print, and return the figures."""
    jobs, rounds = (QUICK_JOBS, QUICK_ROUNDS) if options.quick else (JOBS, ROUNDS)
    found: dict[str, list[Row]] = {"one call": [], "tasks": []}
    with scratch() as folder:
        pictures.write_photo(folder / "picture.png")
        for _ in range(rounds):
            for what, rows in found.items():
                with poll_server(folder / "picture.png", SECONDS) as control:
                    rows.append(_measured(folder, control, what, jobs))
    rows = [{"what": what, **{name: median(row[name] for row in of) for name in of[0]}} for what, of in found.items()]
    for row in rows:
        row["cpu_ratio"] = row["cpu_ms/job"] / rows[0]["cpu_ms/job"]
    table(f"(polls) {jobs:,} jobs, {CONCURRENCY} in flight, {SECONDS:.0f} s each; medians of {rounds}", rows)
    return {"jobs": jobs, "rounds": rounds, "rows": rows}


def _measured(folder: Path, control: Control, what: str, jobs: int) -> Row:
    """Run batchflux once; the start-up, which a run of one job has as well, is taken off."""
    start, whole = (_cpu(folder, control.url, what, number) for number in (1, jobs))
    seen = control.stats()
    return {
        "cpu_ms/job": 1000 * (whole - start) / (jobs - 1),
        "polls/job": seen["polls"] / (jobs + 1),
        "connections": seen["connections"],
    }


def _cpu(folder: Path, url: str, what: str, jobs: int) -> float:
    style = "native" if what == "tasks" else "standard"
    spec = manifests.Spec(url=url, jobs=jobs, concurrency=CONCURRENCY, style=style)
    measured = Child(ours("run", manifests.write(folder, spec), "--yes", "--no-progress"), folder / "ours.log").wait()
    rmtree(folder / "out")
    return measured.cpu
