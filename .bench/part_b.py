"""(b) Rate fidelity: how much of a known limit is used, and how often the server has to refuse.

The server holds a token bucket per key: of a second's worth of requests, or of one token, the strictest there is.
The baseline is a textbook GCRA on bare aiohttp at the same rate. `used` counts from the first to the last accepted
request; a perfect schedule shows n / (n - 1) for n requests a key, so `used_intervals` counts the gaps instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import manifests
import pictures
from servers import Control, bucket_server
from tools import Child, Options, Row, each, ours, scratch, script, table

if TYPE_CHECKING:
    from pathlib import Path

QUICK = 5
SPARE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One server: `rate` a second for each key as a number and as written, `jobs` for each key."""

    rate: float
    written: str
    jobs: int
    latency: float
    strict: bool
    keys: int

    def __str__(self) -> str:
        bucket = "one token" if self.strict else "a second's worth"
        return f"{self.written}, latency {self.latency:g} s, bucket {bucket}, keys {self.keys}"

    @property
    def concurrency(self) -> int:
        """Enough that only the rate holds requests back."""
        return round(1.5 * self.rate * self.keys * self.latency) + SPARE


def cases(*, quick: bool) -> list[Case]:
    """Return all cases."""
    part = QUICK if quick else 1
    rates = ((50.0, "50/s", 1500 // part), (10.0, "600/min", 300 // part))
    return [
        Case(rate=rate, written=written, jobs=jobs, latency=latency, strict=strict, keys=keys)
        for (rate, written, jobs), strict, latency, keys in product(rates, (False, True), (0.2, 5.0), (1, 3))
    ]


def run(options: Options) -> dict[str, Any]:
    """Measure, print, and return the figures."""
    with scratch() as folder:
        pictures.write_tiny(folder / "tiny.png")
        rows = each("(b)", cases(quick=options.quick), lambda case: both(folder, case))
    table("(b) rate fidelity: share of the limit used, share of requests refused", rows)
    return {"rows": rows}


def both(folder: Path, case: Case) -> list[Row]:
    """Measure the baseline and us on one case."""
    baseline = measure(folder, case, "textbook GCRA")
    found = measure(folder, case, "batchflux")
    found["used_ratio"] = found["used"] / baseline["used"] if baseline["used"] else None
    return [baseline, found]


def measure(folder: Path, case: Case, who: str) -> Row:
    """Run one client against a fresh server."""
    capacity = 1.0 if case.strict else case.rate
    with (
        scratch() as work,
        bucket_server(folder / "tiny.png", rate=case.rate, capacity=capacity, latency=case.latency) as server,
    ):
        measured = Child(command_of(work, case, who, server), work / "log").wait()
        stats = server.stats()
    total = case.jobs * case.keys
    if stats["accepted"] < total:
        raise AssertionError(f"{who} ended well with {stats['accepted']} of {total} requests accepted")
    seconds = stats["last_accepted"] - stats["first_accepted"]
    limit = case.rate * case.keys * seconds
    return {
        "rate": case.written,
        "bucket": "1 token" if case.strict else "1 s",
        "latency_s": case.latency,
        "keys": case.keys,
        "who": who,
        "used": stats["accepted"] / limit,
        "used_intervals": (stats["accepted"] - case.keys) / limit,
        "refused": stats["refused"],
        "refused_share": stats["refused"] / stats["requests"],
        "accepted": stats["accepted"],
        "seconds": seconds,
        "wall_s": measured.wall,
    }


def command_of(work: Path, case: Case, who: str, server: Control) -> list[str]:
    """Return the command line of one client."""
    total = case.jobs * case.keys
    if who == "batchflux":
        spec = manifests.Spec(
            url=server.url, jobs=total, concurrency=case.concurrency, keys=case.keys, rate=case.written
        )
        return ours("run", manifests.write(work, spec), "--no-progress")
    arguments = ["--url", server.url, "--out", work, "--jobs", total, "--workers", case.concurrency]
    return script("bare_loop", *arguments, "--keys", case.keys, "--rate", case.rate)
