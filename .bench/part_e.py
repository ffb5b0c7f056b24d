"""(e) Resume: how long a run takes that has nothing left to do, with 100,000 and 1,000,000 jobs done.

The folder is filled by fill.py; that it equals a real run's is checked first, at 1,000 jobs. The baseline is the bare
loop that leaves out the rows whose file is there. Ours runs twice: a filled folder has no mark that its table was gone
through, as a real run leaves it, so the second figure is what a run's successor takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import manifests
import pictures
from fill import differences
from servers import Control, bucket_server
from tools import BenchError, Child, Options, Row, each, ours, scratch, script, table

if TYPE_CHECKING:
    from pathlib import Path

CHECKED = 1000
WHOLE, AGAIN = "batchflux, table is new to it", "batchflux, table unchanged"
SIZES = (100_000, 1_000_000)


def run(options: Options) -> dict[str, Any]:
    """Measure, print, and return the figures."""
    with scratch() as folder:
        check(folder)
    rows = each("(e)", SIZES[:1] if options.quick else SIZES, measure)
    table("(e) a run that has nothing left to do", rows)
    return {"rows": rows, "checked_at": CHECKED}


def check(folder: Path) -> None:
    """Make a folder and run a real one.

    Raises:
        BenchError: they differ, so the figures would tell nothing.
    """
    pictures.write_tiny(folder / "tiny.png")
    with bucket_server(folder / "tiny.png") as server:
        manifest = manifests.write(folder, manifests.Spec(url=server.url, jobs=CHECKED))
        Child(ours("run", manifest, "--no-progress"), folder / "log").wait()
        real = (folder / "out").rename(folder / "real")
        fill(folder, manifest, server)
    if found := differences(folder / "out", real):
        raise BenchError(f"A filled folder is not what a run makes; mend .bench/fill.py: {'; '.join(found)}")


def fill(folder: Path, manifest: Path, server: Control) -> float:
    """Make the folder of a run whose jobs are all done; return the seconds it took."""
    command = script("fill", manifest, folder / "tiny.png", f"{server.url}/picture.png")
    return Child(command, folder / "fill.log").wait().wall


def measure(size: int) -> list[Row]:
    """Return the rows of one size."""
    with scratch() as folder:
        pictures.write_tiny(folder / "tiny.png")
        with bucket_server(folder / "tiny.png") as server:
            manifest = manifests.write(folder, manifests.Spec(url=server.url, jobs=size))
            fill(folder, manifest, server)
            arguments = ["--url", server.url, "--out", folder / "out" / "images", "--skip-done"]
            bare = Child(script("bare_loop", *arguments, "--table", folder / "jobs.csv"), folder / "log").wait()
            whole, again = (Child(ours("run", manifest, "--no-progress"), folder / "log").wait() for _ in range(2))
            requests = server.stats()["requests"]
    if requests:
        raise BenchError(f"A run with nothing to do sent {requests} requests.")
    rows: list[Row] = [
        {"done": size, "who": who, "wall_s": run.wall, "cpu_s": run.cpu, "peak_MiB": run.peak}
        for who, run in (("bare loop", bare), (WHOLE, whole), (AGAIN, again))
    ]
    for row in rows[1:]:
        row["ratio"] = row["wall_s"] / bare.wall
    return rows
