"""(bytes) Photos sent and pictures received in the bodies themselves, against a bare aiohttp loop that does the same.

16 in flight, one server in a process of its own. Local PNGs of 4 MB, each used by 20 jobs or by one, answered by a link
to 200 KB; pictures of 3 MB in the answer, as JSON, as one frame of a stream and as frames of 16 KB; and the small case,
links alone. CPU is without what a run of one job takes, memory the whole peak. In a run of its own a task ticks beside
the jobs: `held` is the most CPU that the loop's thread took between two of its ticks, `late` how far behind they came,
which a busy machine adds to.
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
    site = Site(folder, case, url, photos)
    samples: dict[str, list[Row]] = {}
    for _ in range(rounds):
        for who in (BARE, *case.verify):
            start, whole = site.run(who, 1), site.run(who, jobs)
            site.run(who, jobs, folder / "late.json")
            late = json.loads((folder / "late.json").read_text())
            samples.setdefault(who, []).append(
                {
                    "cpu_ms/job": 1000 * (whole.cpu - start.cpu) / (jobs - 1),
                    "jobs/s": (jobs - 1) / max(whole.wall - start.wall, 1e-3),
                    "peak_MiB": whole.peak,
                    "held_ms": late["held_ms"],
                    "late_p99_ms": late["p99_ms"],
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


@dataclass(frozen=True, slots=True)
class Site:
    """Where one case runs."""

    folder: Path
    case: Case
    url: str
    photos: list[Path]

    def run(self, who: str, jobs: int, late: Path | None = None) -> Measured:
        """Run the baseline, or batchflux with this `verify`; `late` is where a task that ticks beside it reports."""
        out = self.folder / ("bare" if who == BARE else "out")
        if who == BARE:
            out.mkdir()
            command = self._bare(out, jobs)
        else:
            command = ours("run", self._manifest(jobs, who), "--yes", "--no-progress")
        if late is not None:
            command = [command[0], *script("ticked", late)[1:], *command[1:]]
        result = Child(command, self.folder / "log").wait()
        rmtree(out)
        return result

    def _bare(self, out: Path, jobs: int) -> list[str]:
        name, more = "bytes_loop", ["--way", self.case.way]
        if self.case.style == "standard" and self.case.way == "link":
            name, more = "bare_loop", []
        used = [argument for photo in self.photos for argument in ("--photo", str(photo))]
        return script(name, "--url", self.url, "--out", out, "--jobs", jobs, "--workers", IN_FLIGHT, *more, *used)

    def _manifest(self, jobs: int, verify: str) -> Path:
        case, photos = self.case, self.photos
        with (self.folder / "jobs.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("id", "photo"))
            writer.writerows((f"item-{n:05d}", photos[n // case.shared] if photos else "") for n in range(jobs))
        lines = [
            "version: 1",
            "name: bench",
            f"provider: {{name: tuzi, style: {case.style}, base_url: {self.url!r}, keys: [{KEYS[0]}], price: 0.01}}",
            f"limits: {{concurrency: {IN_FLIGHT}}}",
            f"output: {{dir: {str(self.folder / 'out')!r}, verify: {verify}}}",
            "jobs:",
            "  - from: jobs.csv",
            '    id: "{{ id }}"',
            '    prompt: "A ceramic mug no. {{ id }}, glazed in cobalt on oak"',
            *(['    images: ["{{ photo }}"]'] if photos else []),
        ]
        path = self.folder / "bytes.yaml"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path
