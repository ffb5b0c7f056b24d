"""(limits) Limits as real servers have them: makespan over the ideal of a client that knows the rule, and refusals.

On a virtual clock, with a model of each server (tests/engine/limit_scenes.py): the engine, told and untold, beside a
bare loop of twenty lines (a semaphore, and tenacity's random exponential waits of up to a minute), and the same behind
aiolimiter, told the rate; `over_mark_s` is by how many seconds ours, told, takes longer than 1.05 times the ideal and
one window. Then four of them on real servers, the whole program beside the bare loop.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import manifests
import pictures
from servers import limit_server
from tools import ROOT, Child, Options, Row, each, ours, scratch, script, table

sys.path.insert(0, str(ROOT))

from tests.engine import limit_clients
from tests.engine.limit_scenes import BY_NAME, LONG, SCENES, Scene

if TYPE_CHECKING:
    from pathlib import Path

QUICK_SECONDS = 120.0
REAL = ("bucket 20/s, a second's burst", "24 active, Retry-After 1", "429 at random, 20%", "overload: slower, then 503")
REAL_SECONDS, QUICK_REAL, QUICK_REAL_SECONDS = 45.0, 2, 15.0


def run(options: Options) -> dict[str, Any]:
    """Measure, print, and return the figures."""
    seconds = QUICK_SECONDS if options.quick else LONG
    scenes = [scene.name for scene in SCENES]
    virtual = each("(limits)", scenes, lambda name: [on_virtual_time(BY_NAME[name], seconds)])
    table(f"(limits) {seconds / 60:g} virtual minutes: makespan over the ideal, share of requests refused", virtual)
    real = REAL[:QUICK_REAL] if options.quick else REAL
    lasting = QUICK_REAL_SECONDS if options.quick else REAL_SECONDS
    rows = each("(limits)", real, lambda name: on_real_servers(BY_NAME[name], lasting))
    table("(limits) real servers on loopback, untold", rows)
    return {"virtual": virtual, "real": rows}


def on_virtual_time(scene: Scene, seconds: float) -> Row:
    """Run all clients on one model."""
    began, row = time.monotonic(), {"server": scene.name}
    ways = {
        "untold": (limit_clients.ours, False),
        "told": (limit_clients.ours, True),
        "bare": (limit_clients.bare, False),
        "aiolimiter": (limit_clients.limited, True),
    }
    for name, (way, told) in ways.items():
        if told and not (scene.rate or (scene.active and name == "told")):
            continue
        client = scene.client(seconds, told=told)
        seen = client.run(way, scene.model())
        row |= {name: seen.makespan / scene.ideal(client), f"{name}_refused": seen.refused}
        if name == "told":
            row["over_mark_s"] = max(0.0, seen.makespan - scene.told_mark(scene.ideal(client)))
        if seen.failed:
            row[f"{name}_failed"] = seen.failed
    return row | {"took_s": time.monotonic() - began}


def on_real_servers(scene: Scene, seconds: float) -> list[Row]:
    """Run the program, and the bare loop that tries again after a second, against the model behind HTTP."""
    client = scene.client(seconds)
    rows = []
    with scratch() as folder:
        pictures.write_tiny(folder / "tiny.png")
        for who in ("batchflux", "bare loop"):
            with scratch() as work, limit_server(folder / "tiny.png", scene.name) as server:
                Child(_command(work, who, server.url, client), work / "log").wait()
                stats = server.stats()
            rows.append(
                {
                    "server": scene.name,
                    "who": who,
                    "ratio": stats["seconds"] / scene.ideal(client),
                    "refused_share": stats["refused"] / stats["requests"],
                    "seconds": stats["seconds"],
                    "answers": stats["accepted"],
                }
            )
    return rows


def _command(work: Path, who: str, url: str, client: limit_clients.Client) -> list[str]:
    if who == "batchflux":
        spec = manifests.Spec(url=url, jobs=client.jobs, concurrency=client.slots)
        return ours("run", manifests.write(work, spec), "--no-progress", "--set", "limits.canary=0")
    arguments = ["--url", url, "--out", work, "--jobs", client.jobs, "--workers", client.slots]
    return script("bare_loop", *arguments, "--retry")
