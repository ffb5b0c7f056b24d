"""(a) Throughput and CPU per job, against a bare aiohttp loop on the same files, in turn.

64 in flight; POST, GET of a 200 KB PNG from nginx, and the file. Ours with `verify: structure`, the same with a
progress bar on a terminal, and with `verify: decode`, next to what Pillow alone decodes on two threads.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from shutil import rmtree
from statistics import median
from typing import TYPE_CHECKING, Any

import manifests
import pictures
from servers import PICTURE, nginx
from tools import (
    OUT,
    ROOT,
    SHM,
    Child,
    Measured,
    Options,
    Row,
    environment,
    middle,
    ours,
    say,
    scratch,
    script,
    table,
)

if TYPE_CHECKING:
    from pathlib import Path

JOBS, QUICK_JOBS = 4000, 800
ROUNDS, QUICK_ROUNDS = 3, 1
CONCURRENCY = 64
PILLOW_THREADS, PILLOW_SECONDS = 2, 4.0
BASELINE = "bare aiohttp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One of our ways to run."""

    name: str
    verify: str
    bar: bool = False


VARIANTS = (
    Variant(name="structure", verify="structure"),
    Variant(name="structure, bar", verify="structure", bar=True),
    Variant(name="decode", verify="decode"),
)


def run(options: Options) -> dict[str, Any]:
    """Measure, print, and return the figures."""
    jobs, rounds = (QUICK_JOBS, QUICK_ROUNDS) if options.quick else (JOBS, ROUNDS)
    places = {"disk": OUT} if not SHM.is_dir() else {"memory": SHM, "disk": OUT}
    figures: dict[str, Any] = {"jobs": jobs, "rounds": rounds}
    with ExitStack() as stack:
        site = stack.enter_context(scratch())
        (site / "www").mkdir()
        photo = site / "www" / PICTURE
        figures["picture_bytes"] = pictures.write_photo(photo)
        url = stack.enter_context(nginx(site))
        for name, place in places.items():
            with scratch(place) as folder:
                figures[name] = in_place(folder, url, photo, jobs, rounds)
            title = f"(a) {jobs:,} jobs, {CONCURRENCY} in flight, files in {name}; medians of {rounds} (ratios to bare)"
            table(title, figures[name])
    return figures


def pillow(photo: Path) -> float:
    """Return how many such pictures a second Pillow alone decodes."""
    command = script("pillow_rate", photo, PILLOW_THREADS, PILLOW_SECONDS)
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    return float(done.stdout)


def in_place(folder: Path, url: str, photo: Path, jobs: int, rounds: int) -> list[Row]:
    """Return the rows of one place for files."""
    alone: list[float] = []
    samples: dict[str, list[Row]] = {name: [] for name in (BASELINE, *(variant.name for variant in VARIANTS))}
    for number in range(rounds):
        say(f"  round {number + 1}/{rounds} in {folder.parent}")
        samples[BASELINE].append(net(bare(folder, url, 1), bare(folder, url, jobs), jobs))
        for variant in VARIANTS:
            start = our_run(folder, url, 1, variant)
            samples[variant.name].append(net(start, our_run(folder, url, jobs, variant), jobs))
        alone.append(pillow(photo))  # right behind the run that decodes, for it shares the machine's mood
    medians = {name: middle(rows) for name, rows in samples.items()}
    return [row_of(name, found, medians[BASELINE], median(alone)) for name, found in medians.items()]


def net(start: Measured, whole: Measured, jobs: int) -> Row:
    """Return the figures of one run, and those without what a run of one job takes."""
    return {
        "wall_s": whole.wall,
        "jobs/s": jobs / whole.wall,
        "cpu_ms/job": 1000 * whole.cpu / jobs,
        "start_cpu_s": start.cpu,
        "net_cpu_ms/job": 1000 * (whole.cpu - start.cpu) / (jobs - 1),
        "net_jobs/s": (jobs - 1) / max(whole.wall - start.wall, 1e-3),
        "peak_MiB": whole.peak,
    }


def row_of(name: str, found: Row, baseline: Row, decodes: float) -> Row:
    """Return a row of the table."""
    row = {
        "what": name,
        **found,
        "cpu_ratio": found["cpu_ms/job"] / baseline["cpu_ms/job"],
        "net_cpu_ratio": found["net_cpu_ms/job"] / baseline["net_cpu_ms/job"],
        "speed_ratio": found["jobs/s"] / baseline["jobs/s"],
    }
    if name == "decode":
        row |= {"pillow/s": decodes, "share_of_pillow": found["net_jobs/s"] / decodes}
    return row


def bare(folder: Path, url: str, jobs: int) -> Measured:
    """Run the baseline."""
    os.sync()  # what the run before left to be written is not this one's load
    out = folder / "bare"
    out.mkdir()
    command = script("bare_loop", "--url", url, "--out", out, "--jobs", jobs, "--workers", CONCURRENCY)
    measured = Child(command, folder / "bare.log").wait()
    rmtree(out)
    return measured


def our_run(folder: Path, url: str, jobs: int, variant: Variant) -> Measured:
    """Run batchflux."""
    os.sync()
    spec = manifests.Spec(url=url, jobs=jobs, concurrency=CONCURRENCY, verify=variant.verify)
    manifest = manifests.write(folder, spec)
    quiet = () if variant.bar else ("--no-progress",)
    measured = Child(ours("run", manifest, "--yes", *quiet), folder / "ours.log", terminal=variant.bar).wait()
    rmtree(folder / "out")
    return measured
