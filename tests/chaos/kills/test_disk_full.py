"""A disk that fills up under the run (a small tmpfs, real ENOSPC): one sentence says so, and nothing is paid twice."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.chaos.kills.conftest import MOUNT, UMOUNT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.program import Scene

pytestmark = pytest.mark.timeout(900)  # real processes, also on a loaded machine

LARGE = 700  # pixels: a picture of 1.5 MB
MB = 1 << 20
SLOW = partial(pytest.param, marks=pytest.mark.slow)
LEFT = 16 * MB  # bytes: less than a run wants to see free, more than its answers take


@dataclass
class Disk:
    """A tmpfs of `size` bytes at `path`."""

    path: Path

    def option(self, what: str) -> None:
        subprocess.run([MOUNT, "-o", f"remount,{what}", str(self.path)], check=True)

    def free(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, leave: int) -> None:
        """Take up all but `leave` bytes, as another program would."""
        with contextlib.suppress(OSError), (self.path / "of-others").open("ab", buffering=0) as file:
            while (size := self.free() - leave) > 0:
                file.write(bytes(size))

    def relieve(self) -> None:
        (self.path / "of-others").unlink(missing_ok=True)


@pytest.fixture
def disk(scene: Scene, mounting: None) -> Iterator[Disk]:
    """A small disk that holds the output folder."""
    path = scene.program.folder / "disk"
    path.mkdir()
    subprocess.run([MOUNT, "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(path)], check=True)
    scene.program.out = path / "out"
    scene.bank.out = path / "out"
    yield Disk(path)
    subprocess.run([UMOUNT, "-l", str(path)], check=True)


def lines(way: str, count: int) -> str:
    style = "chat" if way in {"link", "data"} else "standard"
    return "".join(f"  - {{id: a{n}, prompt: 'job a{n} #{way}', style: {style}}}\n" for n in range(count))


def check_stop(scene: Scene, said: str, code: int) -> None:
    assert code == 3, said
    assert re.search(r"(is full|almost full|No space left).*(free space|make room).*run again", said), said
    scene.after_kill()


@pytest.mark.parametrize("way", list(map(SLOW, ("b64", "url", "link", "data"))))
def test_a_disk_that_fills_up_with_pictures(scene: Scene, disk: Disk, way: str) -> None:
    """Pictures of 1.5 MB on a disk of 100: the answers under way when it is full are kept, also whole pictures."""
    program, bank = scene.program, scene.bank
    disk.option("size=100m")
    bank.side, bank.delay = LARGE, (0.0, 0.1)
    program.manifest(bank.url, lines(way, 60))
    ended = program.run("--set", "limits.concurrency=4")
    check_stop(scene, ended.said, ended.code)
    assert 4 < bank.billed.total() < 60
    disk.option("size=256m")
    ended = program.run()
    assert ended.code == 0, ended.said
    assert bank.billed.total() == 60, "an answer that had been paid for was lost"
    scene.at_the_end({f"a{n}" for n in range(60)}, kills=0)


@pytest.mark.slow
def test_a_disk_that_others_fill_up(scene: Scene, disk: Disk) -> None:
    """What is left takes all that is under way, and nothing more leaves."""
    program, bank = scene.program, scene.bank
    bank.delay = (0.2, 0.4)
    bank.query = "?signature=" + "x" * 6000  # each takes new pages of the ledger
    filled: list[str] = []

    def hook(name: str) -> None:
        if not filled and bank.posts.total() >= 20:
            filled.append(name)
            disk.fill(LEFT)

    bank.hook = hook
    program.manifest(bank.url, lines("url", 60))
    ended = program.run("--set", "limits.concurrency=12")
    check_stop(scene, ended.said, ended.code)
    assert 20 <= bank.billed.total() < 60
    bank.hook = None
    billed = bank.billed.total()
    disk.fill(LEFT)
    again = program.run()
    check_stop(scene, again.said, again.code)
    assert bank.billed.total() == billed, "nothing is sent while there is no room for its answer"
    disk.relieve()
    ended = program.run()
    assert ended.code == 0, ended.said
    assert bank.billed.total() == 60, "an answer that had been paid for was lost"
    scene.at_the_end({f"a{n}" for n in range(60)}, kills=0)


@pytest.mark.slow
def test_a_disk_that_is_full_to_the_last_byte_at_once(scene: Scene, disk: Disk) -> None:
    """No mark helps then: what was out is told as possibly billed, what had come before is kept."""
    program, bank = scene.program, scene.bank
    bank.side, bank.delay = 256, (0.1, 0.3)
    filled: list[str] = []

    def hook(name: str) -> None:
        if not filled and bank.posts.total() >= 20:
            filled.append(name)
            disk.fill(0)

    bank.hook = hook
    program.manifest(bank.url, lines("b64", 40))
    ended = program.run()
    assert ended.code == 3, ended.said
    assert re.search("full.*free space.*run again", ended.said), ended.said
    bank.hook = None
    scene.settle()
    disk.relieve()
    ended = program.run()
    assert ended.code == 0, ended.said
    scene.at_the_end({f"a{n}" for n in range(40)}, kills=1)


def test_a_disk_without_room_for_the_answers_spends_nothing(scene: Scene, disk: Disk) -> None:
    program, bank = scene.program, scene.bank
    disk.fill(LEFT)
    program.manifest(bank.url, lines("url", 3))
    ended = program.run()
    assert ended.code == 3, ended.said
    assert re.search("almost full.*free space.*run again", ended.said), ended.said
    assert bank.posts.total() == 0
    disk.relieve()
    assert program.run().code == 0
