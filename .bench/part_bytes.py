"""(bytes) Photos sent and pictures received in the bodies themselves, against a bare aiohttp loop that does the same.

16 in flight, one server in a process of its own. Local PNGs of 4 MB, each used by 20 jobs or by one, answered by a link
to 200 KB; pictures of 3 MB in the answer, as JSON, as one frame of a stream and as frames of 16 KB; and the small case,
links alone. CPU and peak memory are of the whole process, without what one job takes; `late` is how far behind a task
came that ticks beside the jobs, in a run of its own.
"""

from __future__ import annotations

import csv
import json
import random
from dataclasses import dataclass
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import pictures
from PIL import Image
from servers import bytes_server
from tools import KEYS, Child, Measured, Options, Row, middle, ours, say, scratch, script, table

if TYPE_CHECKING:
    from pathlib import Path

IN_FLIGHT = 16
JOBS, QUICK_JOBS = 400, 41
ROUNDS, QUICK_ROUNDS = 3, 1
PHOTO_SIDE, PICTURE_SIDE = 1183, 1000  # of noise: 4.2 and 3.0 MB
BARE = "bare aiohttp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kind of load: how the picture comes back, and how many jobs share a photo (0: there are none)."""

    name: str
    way: str
    shared: int = 0
    verify: tuple[str, ...] = ("structure",)

    @property
    def style(self) -> str:
        """How the relay is called."""
        return "standard" if not self.shared and self.way in ("link", "json") else "chat"


CASES = (
    Case(name="4 MB photo, 20 jobs each", way="link", shared=20),
    Case(name="4 MB photo, one job each", way="link", shared=1),
    Case(name="3 MB in JSON", way="json", verify=("structure", "decode")),
    Case(name="3 MB in one frame", way="stream"),
    Case(name="3 MB in 16 KB frames", way="frames"),
    Case(name="small: 200 KB by link", way="link"),
)


def run(options: Options) -> dict[str, Any]:
    """Measure, print, and return the figures."""
    jobs, rounds = (QUICK_JOBS, QUICK_ROUNDS) if options.quick else (JOBS, ROUNDS)
    rows: list[Row] = []
    with scratch() as folder:
        small, large = folder / "small.png", folder / "large.png"
        pictures.write_photo(small)
        write_noise(large, PICTURE_SIDE)
        for case in CASES:
            say(f"  {case.name}")
            count = 5 * jobs if case is CASES[-1] else jobs
            photos = write_photos(folder / "photos", -(-count // case.shared) if case.shared else 0)
            with bytes_server(small if case.way == "link" else large) as url:
                rows += measured(folder, case, f"{url}/{case.way}", photos, count, rounds)
    table(f"(bytes) {IN_FLIGHT} in flight; medians of {rounds} (ratios to bare)", rows)
    return {"jobs": jobs, "rounds": rounds, "rows": rows}


def write_noise(path: Path, side: int) -> None:
    """Write a PNG of 3 bytes a pixel, which is as large as it looks."""
    noise = random.Random(path.name).randbytes(3 * side * side)
    Image.frombytes("RGB", (side, side), noise).save(path, "PNG", compress_level=0)


def write_photos(folder: Path, count: int) -> list[Path]:
    """Make so many different photos; return them."""
    folder.mkdir(exist_ok=True)
    photos = [folder / f"{number}.png" for number in range(count)]
    for photo in photos:
        if not photo.exists():
            write_noise(photo, PHOTO_SIDE)
    return photos


def measured(folder: Path, case: Case, url: str, photos: list[Path], jobs: int, rounds: int) -> list[Row]:
    """Return the rows of one case."""
    samples: dict[str, list[Row]] = {}
    for _ in range(rounds):
        ways = {BARE: lambda count, late: bare(folder, case, url, photos, count, late)}
        for verify in case.verify:
            manifest_of = lambda count, verify=verify: write_manifest(folder, case, url, photos, count, verify)  # noqa: E731
            ways[verify] = lambda count, late, make=manifest_of: our_run(folder, make(count), late)
        for name, way in ways.items():
            start, whole = way(1, None), way(jobs, None)
            way(jobs, folder / "late.json")
            late = json.loads((folder / "late.json").read_text())
            samples.setdefault(name, []).append(
                {
                    "cpu_ms/job": 1000 * (whole.cpu - start.cpu) / (jobs - 1),
                    "jobs/s": (jobs - 1) / max(whole.wall - start.wall, 1e-3),
                    "peak_MiB": whole.peak,
                    "late_ms": late["worst_ms"],
                    "late_p999_ms": late["p999_ms"],
                }
            )
    medians = {name: middle(found) for name, found in samples.items()}
    base = medians[BARE]
    return [
        {
            "case": case.name,
            "who": name,
            **found,
            "cpu_ratio": found["cpu_ms/job"] / base["cpu_ms/job"],
            "peak_ratio": found["peak_MiB"] / base["peak_MiB"],
        }
        for name, found in medians.items()
    ]


def command_of(command: list[str], late: Path | None) -> list[str]:
    """Return the command, ticked where lateness is asked for."""
    return command if late is None else [command[0], *script("ticked", late)[1:], *command[1:]]


def bare(folder: Path, case: Case, url: str, photos: list[Path], jobs: int, late: Path | None) -> Measured:
    """Run the baseline."""
    out = folder / "bare"
    out.mkdir()
    used = [argument for photo in photos for argument in ("--photo", photo)]
    command = script(
        "bytes_loop", "--url", url, "--out", out, "--jobs", jobs, "--workers", IN_FLIGHT, "--way", case.way, *used
    )
    if case.style == "standard" and case.way == "link":
        command = script("bare_loop", "--url", url, "--out", out, "--jobs", jobs, "--workers", IN_FLIGHT)
    result = Child(command_of(command, late), folder / "bare.log").wait()
    rmtree(out)
    return result


def our_run(folder: Path, manifest: Path, late: Path | None) -> Measured:
    """Run batchflux."""
    command = ours("run", manifest, "--yes", "--no-progress")
    result = Child(command_of(command, late), folder / "ours.log").wait()
    rmtree(folder / "out")
    return result


def write_manifest(folder: Path, case: Case, url: str, photos: list[Path], jobs: int, verify: str) -> Path:
    """Write table and manifest; return the manifest."""
    with (folder / "jobs.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "photo"))
        writer.writerows((f"item-{n:05d}", photos[n // case.shared] if photos else "") for n in range(jobs))
    lines = [
        "version: 1",
        "name: bench",
        f"provider: {{name: tuzi, style: {case.style}, base_url: {url!r}, keys: [{KEYS[0]}], price: 0.01}}",
        f"limits: {{concurrency: {IN_FLIGHT}}}",
        f"output: {{dir: {str(folder / 'out')!r}, verify: {verify}}}",
        "jobs:",
        "  - from: jobs.csv",
        '    id: "{{ id }}"',
        '    prompt: "A ceramic mug no. {{ id }}, glazed in cobalt on oak"',
        *(['    images: ["{{ photo }}"]'] if photos else []),
    ]
    path = folder / "bytes.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
