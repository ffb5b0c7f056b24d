"""`python .bench [PART ...] [--quick] [--json FILE]`, from the repository's root; without a part all of them.

Each part runs us and a baseline in turn, prints a table, and adds its figures to the JSON file. Timing values are
reported, never asserted: a benchmark fails only when it could not measure.

    a     throughput and CPU per job             against a bare aiohttp loop      needs nginx
    b     how exactly a known limit is used      against a textbook GCRA client
    c     finding a limit nobody told            against a loop that waits a second after each 429
    d     manifests of up to a million rows      against a bare loop on the same table
    e     a run that has nothing left to do      against a loop that looks for the files
    limits  servers that limit in each way they do  against a bare loop and aiolimiter, on a virtual clock
    polls tasks that are polled                    against the same pictures in one call
    bytes photos and pictures in the bodies        against a bare aiohttp loop
    gateway  a call through the gateway              against the same call made directly
    stores  pictures that are put into a bucket     against a bare aiohttp PUT
    soak  half an hour of mixed faults           its first minutes against its last
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

from servers import nginx_program
from tools import OUT, ROOT, BenchError, Options, say

_LETTERS_AND_MORE = ("a", "b", "c", "d", "e", "bytes", "gateway", "limits", "polls", "stores")
PARTS = {**{part: f"part_{part}" for part in _LETTERS_AND_MORE}, "soak": "soak"}


def main() -> int:
    """Run the parts asked for; return the exit code."""
    arguments = _parse()
    parts = arguments.parts or list(PARTS)
    options = Options(quick=arguments.quick, minutes=arguments.minutes or (2.0 if arguments.quick else 30.0))
    report: dict[str, Any] = {"machine": _machine(), "quick": options.quick, "parts": {}}
    try:
        if "a" in parts:
            nginx_program()
        for part in parts:
            began = time.monotonic()
            say(f"\n== {part} ==")
            figures = import_module(PARTS[part]).run(options)
            report["parts"][part] = figures | {"took_s": time.monotonic() - began}
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except BenchError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    say(f"\nFigures written to {arguments.json}")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python .bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {' '.join(PARTS)}; all when none is named")
    parser.add_argument("--quick", action="store_true", help="smaller and rougher, some minutes in all")
    parser.add_argument("--minutes", type=float, help="length of the soak (default 30, quick 2)")
    parser.add_argument("--json", type=Path, default=OUT / "bench.json", metavar="FILE")
    arguments = parser.parse_args()
    if unknown := [part for part in arguments.parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}; choose from {' '.join(PARTS)}")
    return arguments


def _machine() -> dict[str, Any]:
    describe = ["git", "describe", "--always", "--dirty"]
    git = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=False) if which("git") else None
    spec = find_spec("batchflux")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "batchflux": None if spec is None else spec.origin,
        "commit": git.stdout.strip() or None if git else None,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
    }


if __name__ == "__main__":
    sys.exit(main())
