"""A bank and the program that runs against it; what these tests ask of the machine."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.program import ROOT, Scene, bank, program

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program

__all__ = ["bank", "program"]


MOUNT, UMOUNT = "/bin/mount", "/bin/umount"


@pytest.fixture(scope="session")
def mounting(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where the system gives no right to mount: that is nothing that could be installed."""
    place = tmp_path_factory.mktemp("mounted")
    if (
        os.geteuid()
        or not Path(MOUNT).exists()
        or subprocess.run([MOUNT, "-t", "tmpfs", "tmpfs", str(place)], check=False).returncode
    ):
        pytest.skip("this test needs the right to mount a file system (root, and no sandbox that forbids it)")
    subprocess.run([UMOUNT, str(place)], check=True)


@pytest.fixture
def strace(need: Callable[[str, bool], None]) -> str:
    """Return strace; skip where the system lets no process trace another."""
    found = shutil.which("strace")
    need("strace (apt-get install strace)", found is not None)
    if subprocess.run([str(found), "-f", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this test needs the right to trace a process, which this system does not give")
    return str(found)


@pytest.fixture
def scene(program: Program, bank: Bank) -> Scene:
    bank.out = program.out
    return Scene(program, bank)


@pytest.fixture
def seed() -> int:
    """The seed of a random test, printed with its failure; BATCHFLUX_CHAOS_SEED repeats it."""
    number = int(os.environ.get("BATCHFLUX_CHAOS_SEED") or random.SystemRandom().randrange(10**9))
    print(f"BATCHFLUX_CHAOS_SEED={number}")  # noqa: T201  pytest shows it when the test fails
    return number


POINT = re.compile(r"\breach\(\"([a-z_.]+)\"\)")


@pytest.fixture(scope="session")
def points_in_code() -> set[str]:
    """The points that the program really passes."""
    found: set[str] = set()
    for path in (ROOT / "batchflux").rglob("*.py"):
        found |= set(POINT.findall(path.read_text(encoding="utf-8")))
    return found
