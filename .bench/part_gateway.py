"""(gateway) A call through the gateway, against the same call made to the provider's stand-in itself.

The stand-in answers at once, so that what is measured is ours alone: `overhead` is how much later the picture is there
(p50 through the gateway less p50 of the direct call, of the same round), `cpu` what the gateway's process takes, and
`added` how much of it is more than a job of `batchflux run` takes with the same picture. One of 200 KB and a tiny one
as base64, and the large one by links, which the client follows; one client, 16, and 200 of a provider that takes 2 s.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import pictures
from servers import HOST, START_SECONDS, bytes_server, free_port
from tools import KEYS, BenchError, Child, Options, Row, environment, middle, ours, say, scratch, script, table

if TYPE_CHECKING:
    from collections.abc import Iterator

CALLS, QUICK_CALLS = 1000, 200
ROUNDS, QUICK_ROUNDS = 5, 1
MOST_AT_ONCE = 256  # calls that the gateway has under way
WARM = 30  # calls before the first that is measured
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kind of call: how the picture comes, and how many are under way at once."""

    name: str
    way: str
    tiny: bool = False
    at_once: int = 1
    seconds: float = 0.0  # that the provider takes


CASES = (
    Case(name="tiny, base64", way="json", tiny=True),
    Case(name="200 KB, base64", way="json"),
    Case(name="200 KB, link", way="link"),
    Case(name="tiny, base64, 16 at once", way="json", tiny=True, at_once=16),
    Case(name="200 KB, base64, 16 at once", way="json", at_once=16),
    Case(name="tiny, base64, 200 at once, of 2 s each", way="json", tiny=True, at_once=200, seconds=2.0),
    Case(name="200 KB, base64, 200 at once, of 2 s each", way="json", at_once=200, seconds=2.0),
)


def run(options: Options) -> dict[str, Any]:
    """Measure, print, and return the figures."""
    calls, rounds = (QUICK_CALLS, QUICK_ROUNDS) if options.quick else (CALLS, ROUNDS)
    rows: list[Row] = []
    with scratch() as folder:
        large, tiny = folder / "large.png", folder / "tiny.png"
        pictures.write_photo(large)
        pictures.write_tiny(tiny)
        for case in CASES:
            say(f"  {case.name}")
            with bytes_server(tiny if case.tiny else large, case.seconds) as url:
                with gateway(folder, f"{url}/{case.way}") as served:
                    served.measured(case, WARM)
                    row = middle([served.measured(case, calls) for _ in range(rounds)])
                job = median(_job(folder, f"{url}/{case.way}", case, calls) for _ in range(rounds))
            rows.append({"call": case.name, **row, "added_ms": row["cpu_ms/call"] - job})
    table(f"(gateway) {calls:,} calls a round; medians of {rounds}", rows)
    return {"calls": calls, "rounds": rounds, "rows": rows}


@dataclass(slots=True)
class Served:
    """A gateway at `url` in front of the stand-in at `behind`."""

    url: str
    behind: str
    process: Child
    asked: int = 0

    def measured(self, case: Case, calls: int) -> Row:
        """Return the figures of so many calls, made directly and through the gateway."""
        direct = self._times(self.behind, case, calls)
        before = cpu_of(self.process.pid)
        times = self._times(self.url, case, calls)
        cpu = cpu_of(self.process.pid) - before
        return {
            "direct_p50_ms": 1000 * median(direct),
            "gateway_p50_ms": 1000 * median(times),
            "overhead_ms": 1000 * (median(times) - median(direct)),
            "p99_ms": 1000 * quantiles(times, n=100)[98],
            "cpu_ms/call": 1000 * cpu / calls,
        }

    def _times(self, url: str, case: Case, calls: int) -> list[float]:
        asked = ["--url", url, "--way", case.way, "--calls", calls, "--at-once", case.at_once, "--first", self.asked]
        asked += ["--over", case.seconds]
        self.asked += calls
        done = subprocess.run(
            script("gateway_client", *asked), env=environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BenchError(f"a client failed: {done.stderr}")
        times: list[float] = json.loads(done.stdout)
        return times


def _job(folder: Path, url: str, case: Case, jobs: int) -> float:
    """Return the milliseconds of CPU that a job of a run takes; its start, which a run of one has, is taken off."""
    manifest = folder / "run.yaml"
    taken = []
    for count in (1, jobs):
        rows = "".join(f"  - {{id: i{number}, prompt: A ceramic mug no. {number}}}\n" for number in range(count))
        text = _manifest(folder, url, case.at_once)
        manifest.write_text(f"{text}jobs:\n{rows}", encoding="utf-8")
        done = Child(ours("run", manifest, "--yes", "--no-progress"), folder / "run.log").wait()
        taken.append(done.cpu)
        rmtree(folder / "out")
    return 1000 * (taken[1] - taken[0]) / (jobs - 1)


def _manifest(folder: Path, url: str, concurrency: int) -> str:
    return (
        f"version: 1\nname: bench\n"
        f"provider: {{name: tuzi, base_url: {url!r}, keys: [{KEYS[0]}], model: bench, price: 0.01}}\n"
        f"limits: {{concurrency: {concurrency}}}\noutput: {{dir: {str(folder / 'out')!r}}}\n"
    )


def cpu_of(pid: int) -> float:
    """Return the seconds of CPU that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def gateway(folder: Path, behind: str) -> Iterator[Served]:
    """Serve a gateway, in a process of its own."""
    port = free_port()
    manifest = folder / "gateway.yaml"
    manifest.write_text(_manifest(folder, behind, MOST_AT_ONCE), encoding="utf-8")
    child = Child(ours("gateway", manifest, "--port", str(port)), folder / "gateway.log")
    try:
        _wait_for(port, folder / "gateway.log")
        yield Served(f"http://{HOST}:{port}", behind, child)
    finally:
        child.signal(signal.SIGTERM)
        child.wait(allowed=(0, 143))
        rmtree(folder / "out", ignore_errors=True)


def _wait_for(port: int, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        connection = http.client.HTTPConnection(HOST, port, timeout=1)
        try:
            connection.request("GET", "/health")
            connection.getresponse().read()
        except OSError:
            time.sleep(0.05)
        else:
            return
        finally:
            connection.close()
    raise BenchError(f"the gateway did not start to listen on {HOST}:{port}: {log.read_text(errors='replace')}")
