"""Nodes of a Ray cluster die, workers freeze, a driver is killed: nothing is lost, nothing paid unnoticed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchflux import RunOptions, load_manifest, run
from batchflux.engine.executors.opening import Elsewhere
from batchflux.testing.bank import KEY
from tests.program import Scene, bank, program
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program

__all__ = ["bank", "program"]

pytestmark = pytest.mark.ray
AT_ONCE = 6  # as the manifest says


@pytest.fixture
def scene(program: Program, bank: Bank) -> Scene:
    bank.out = program.out
    return Scene(program, bank)


class Nodes:
    """A cluster on this machine: a head that has no worker, and nodes with one each."""

    def __init__(self, number: int) -> None:
        from ray.cluster_utils import Cluster  # noqa: PLC0415  an extra

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(number)]

    def kill_one(self, chance: random.Random) -> int:
        """Kill a node with all on it, and put another in its place; return how many workers it had."""
        node, before = self.nodes.pop(chance.randrange(len(self.nodes))), self.workers()
        self.cluster.remove_node(node, allow_graceful=False)
        hit = sum(not (Path("/proc") / str(process)).exists() for process in before)
        self.nodes.append(self.cluster.add_node(num_cpus=1))
        return hit

    @staticmethod
    def workers() -> list[int]:
        """Return the processes of the workers that this test has started."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (place / "cmdline").read_bytes().startswith(b"ray::Worker") and _ours(int(place.name)):
                    found.append(int(place.name))
        return found

    def freeze_one(self, chance: random.Random) -> int:
        """Let a worker stand still for good; return how many that are: one."""
        os.kill(chance.choice(self.workers()), signal.SIGSTOP)
        return 1

    def shutdown(self) -> None:
        """End all."""
        for process in self.workers():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.cluster.shutdown()


def _ours(process: int) -> bool:
    while process > 1 and process != os.getpid():
        process = int((Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[1])
    return process == os.getpid()


@pytest.fixture
def nodes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    import ray  # noqa: PLC0415  an extra

    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr("batchflux.engine.executors.ray_cluster.SILENT", 3.0)
    with warnings.catch_warnings(action="ignore"):
        made = Nodes(request.param)
        ray.init(made.cluster.address, log_to_driver=False)
        yield made
        ray.shutdown()
        made.shutdown()


def through(scene: Scene, workers: int) -> int:
    """Run the manifest, in a thread; return the exit code."""
    manifest = load_manifest(scene.program.folder / "m.yaml", environ=scene.program.environ)
    options = RunOptions(environ=scene.program.environ, elsewhere=Elsewhere(on="ray", workers=workers))
    return asyncio.run(run(manifest, options)).exit_code


@pytest.mark.parametrize(
    ("nodes", "blows", "each"),
    [
        pytest.param(2, 2, 40, marks=pytest.mark.timeout(400)),
        pytest.param(3, 20, 500, marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
    ],
    indirect=["nodes"],
)
def test_nodes_die_and_workers_freeze(scene: Scene, nodes: Nodes, blows: int, each: int) -> None:
    program, bank, chance, workers = scene.program, scene.bank, random.Random(7), len(nodes.nodes)
    program.manifest(bank.url, scene.jobs(each))
    written = (program.folder / "m.yaml").read_text()
    (program.folder / "m.yaml").write_text(written.replace("timeout: 20s", "timeout: 60s"))  # nodes take long to start
    blow: list[Callable[[random.Random], int]] = [nodes.kill_one, nodes.freeze_one] * blows
    allowed, back = 0.0, workers
    bank.held = lambda: len(bank.seen) >= allowed  # so that each finds requests that are out
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(through, scene, workers)
        for one in blow:  # in this thread, as Ray starts nodes from no other
            allowed = len(bank.seen) + 4 * each // (len(blow) + 1)
            wait_until(lambda: (bank.held is not None and bank.held()) or running.done())
            assert not running.done(), f"the run has ended before all had happened: {program.summary()}"
            back += one(chance)
            wait_until(lambda back=back: greeted(program) >= back or running.done())  # type: ignore[misc]
        allowed = float("inf")
        code = running.result(300)
        if code:  # a job that was hit twice waits for the next run
            code = thread.submit(through, scene, workers).result(300)
    assert code == 0
    assert program.run().code == 0  # removes what a lost worker left half written, as each run does
    scene.settle()
    scene.at_the_end(scene.names(each), 2 * blows, AT_ONCE)
    assert bank.billed.total() > 4 * each, "no blow met a request, so nothing was shown"


def greeted(program: Program) -> int:
    """Return how many workers have greeted the driver so far; one that is back counts again."""
    time.sleep(0.2)
    return (program.out / "run.log").read_text().count('"event": "ray_worker",')


@pytest.mark.timeout(300)
def test_a_driver_is_killed_and_the_run_continues(scene: Scene) -> None:
    """Its workers end with it: nothing leaves that no driver has on record."""
    program, bank = scene.program, scene.bank
    bank.delay = (0.02, 0.3)
    program.manifest(bank.url, scene.jobs(30))

    def killed(at: int) -> None:
        bank.held = lambda: len(bank.seen) >= at  # it cannot end before
        process = program.start("run", "m.yaml", "--quiet", "--on", "ray", "--workers", "2")
        wait_until(lambda: len(bank.seen) >= at or process.poll() is not None)
        assert program.kill(process).code == -9
        bank.held = None

    for at in (40, 90):
        killed(at)
        scene.after_kill()
        seen = len(bank.seen)
        time.sleep(0.5)
        assert len(bank.seen) == seen
    ended = program.finish(program.start("run", "m.yaml", "--on", "ray", "--workers", "2"))
    assert ended.code == 0, ended.said
    scene.at_the_end(scene.names(30), 2, AT_ONCE)


@pytest.mark.timeout(300)
def test_a_limit_is_held_over_all_workers_and_a_signal_drains_them(scene: Scene) -> None:
    program, bank = scene.program, scene.bank
    program.manifest(bank.url, scene.jobs(100), limits=", rate: 20/s")
    bank.held = lambda: len(bank.seen) >= 80 and not program.noted("signal")
    process = program.start("run", "m.yaml", "--quiet", "--on", "ray", "--workers", "2")
    wait_until(lambda: len(bank.seen) >= 80 or process.poll() is not None)
    ended = program.kill(process, signal.SIGTERM)
    assert ended.code == 143, ended.said
    first = min(line["at"] for line in program.log() if line["event"] == "ray_worker")
    began = datetime.fromisoformat(first).timestamp() - (time.time() - time.monotonic())
    # The stand-in may note late what it receives, on a busy machine, but never before it has left.
    assert all(seen.at - began >= (number - AT_ONCE) // 20 - 0.01 for number, seen in enumerate(bank.seen))
    rows = program.rows()
    assert len(rows) == len(bank.seen) == bank.billed.total()
    assert {row["status"] for row in rows} == {"done"}
    assert program.pictures() == {row["id"] for row in rows}
    assert program.leftovers() == []
