"""The output folder under the run: removed, moved away, replaced, read-only; too few file descriptors."""

from __future__ import annotations

import resource
import shutil
import subprocess
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.chaos.kills.conftest import MOUNT, UMOUNT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.program import Scene

pytestmark = pytest.mark.timeout(900)  # real processes, also on a loaded machine

COUNT = 40
SLOW = partial(pytest.param, marks=pytest.mark.slow)
GONE = (
    "was removed or replaced while it was in use: put it back, then run again to continue; without its ledger "
    "everything would be made and paid for anew."
)
NAMES = {f"a{n}" for n in range(COUNT)}


@pytest.fixture
def running(scene: Scene) -> Scene:
    """Forty jobs, of which four are out at a time."""
    scene.bank.delay = (0.05, 0.15)
    jobs = "".join(f"  - {{id: a{n}, prompt: 'job a{n} #{'url' if n % 2 else 'b64'}'}}\n" for n in range(COUNT))
    scene.program.manifest(scene.bank.url, jobs)
    return scene


def when(scene: Scene, number: int, action: Callable[[], object]) -> None:
    """Do something as soon as so many requests were answered; once, whichever of them come at the same moment."""
    first = threading.Lock()

    def hook(_name: str) -> None:
        if scene.bank.billed.total() >= number and first.acquire(blocking=False):
            action()

    scene.bank.hook = hook


def test_the_folder_is_removed(running: Scene) -> None:
    program, bank = running.program, running.bank
    when(running, 8, lambda: shutil.rmtree(program.out, ignore_errors=True))
    ended = program.run()
    assert ended.code == 3, ended.said
    assert GONE in ended.said, ended.said
    assert bank.posts.total() < 8 + 3 * 6, "requests went on leaving although nothing could be recorded"
    assert not (program.out / "ledger.db").exists(), "a ledger that was removed must not come back empty"
    bank.hook = None
    shutil.rmtree(program.out, ignore_errors=True)  # the first one may have met files as they were written
    assert program.run().code == 0


@pytest.mark.slow
@pytest.mark.parametrize("way", ["url", "b64"], ids=["missed by the ledger", "missed by a picture"])
def test_the_folder_is_moved_away_and_put_back(running: Scene, way: str) -> None:
    """The same is told whatever is written next: one request at a time is out, and its answer is that."""
    program, bank = running.program, running.bank
    away = program.folder / "away"
    jobs = "".join(f"  - {{id: a{n}, prompt: 'job a{n} #{way}'}}\n" for n in range(COUNT))
    program.manifest(bank.url, jobs)
    when(running, 8, lambda: program.out.rename(away))
    ended = program.run("--set", "limits.concurrency=1")
    assert ended.code == 3, ended.said
    assert GONE in ended.said, ended.said
    assert not program.out.exists()
    away.rename(program.out)
    bank.hook = None
    ended = program.run()
    assert ended.code == 0, ended.said
    running.at_the_end(NAMES, kills=1)


@pytest.mark.slow
def test_the_folder_is_replaced_by_another(running: Scene) -> None:
    """Nothing is written into a ledger that is not ours, and its neighbour's is left alone."""
    program, bank = running.program, running.bank
    ended = program.run("--only", "a1")
    assert ended.code == 0
    other, away = program.folder / "other", program.folder / "away"
    shutil.copytree(program.out, other)
    before = (other / "ledger.db").read_bytes()

    def swap() -> None:
        program.out.rename(away)
        other.rename(program.out)

    when(running, 8, swap)
    ended = program.run()
    assert ended.code == 3, ended.said
    assert GONE in ended.said, ended.said
    assert (program.out / "ledger.db").read_bytes() == before
    program.out.rename(other)
    away.rename(program.out)
    bank.hook = None
    ended = program.run()
    assert ended.code == 0, ended.said
    running.at_the_end(NAMES, kills=1)


def test_a_folder_of_pictures_that_turns_read_only(running: Scene, mounting: None) -> None:
    program, bank = running.program, running.bank
    images = program.out / "images"

    def turn() -> None:
        subprocess.run([MOUNT, "--bind", str(images), str(images)], check=True)
        remount = [MOUNT, "-o", "remount,ro,bind", str(images)]
        while subprocess.run(remount, capture_output=True, check=False).returncode:
            time.sleep(0.01)  # it is busy while a picture is written, and no other comes meanwhile

    when(running, 8, turn)
    try:
        ended = program.run()
        assert ended.code == 3, ended.said
        assert "read-only" in ended.said
        assert "run again" in ended.said
    finally:
        subprocess.run([UMOUNT, "--lazy", str(images)], check=True)
    running.after_kill()
    bank.hook = None
    ended = program.run()
    assert ended.code == 0, ended.said
    assert bank.billed.total() == COUNT, "an answer that had been paid for was lost"
    running.at_the_end(NAMES, kills=0)


@pytest.mark.parametrize(
    "inner", [".", pytest.param("images", marks=pytest.mark.slow), pytest.param(".spool", marks=pytest.mark.slow)]
)
def test_a_folder_that_is_read_only_from_the_start(running: Scene, mounting: None, inner: str) -> None:
    program, bank = running.program, running.bank
    assert program.run("--limit", "2").code == 0
    place = program.out / inner
    subprocess.run([MOUNT, "--bind", str(place), str(place)], check=True)
    subprocess.run([MOUNT, "-o", "remount,ro,bind", str(place)], check=True)
    try:
        ended = program.run("--set", "limits.concurrency=3")
        status = program.status()
    finally:
        subprocess.run([UMOUNT, "--lazy", str(place)], check=True)
    assert ended.code in {2, 3}, ended.said
    assert "ead-only" in ended.said
    assert "run again" in ended.said or "--out" in ended.said
    assert "Traceback" not in ended.said
    assert status["done"] == 2, "what is read-only can still be looked at"
    if inner != "images":
        assert bank.posts.total() == 2, "nothing is sent that cannot be kept"
    assert program.run().code == 0
    assert bank.billed.total() == COUNT
    running.at_the_end(NAMES, kills=0)


def test_too_few_file_descriptors_are_told_before_anything_is_spent(running: Scene) -> None:
    program, bank = running.program, running.bank
    program.preexec = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (90, 90))
    ended = program.run("--set", "limits.concurrency=30")
    assert ended.code == 2, ended.said
    assert "allows 90 open files" in ended.err
    assert "ulimit -n" in ended.err
    assert "lower limits.concurrency to 3" in ended.err
    assert bank.posts.total() == 0
    ended = program.run("--set", "limits.concurrency=3")
    assert ended.code == 0, ended.said
    assert bank.billed.total() == COUNT


@pytest.mark.slow
def test_a_soft_limit_of_file_descriptors_is_raised(running: Scene) -> None:
    program = running.program
    program.preexec = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (80, 4096))
    ended = program.run("--set", "limits.concurrency=40")
    assert ended.code == 0, ended.said
    assert {row["attempts"] for row in program.rows()} == {"1"}
