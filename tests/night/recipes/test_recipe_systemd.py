"""A real systemd runs the units: what it makes of each exit code, how it stops a night, what it begins no more.

It runs as a user's manager, in a mount namespace of its own, where it believes that the machine was booted by it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchflux.night.recipes import files_of
from batchflux.night.recipes.night import program
from tests.night.recipes.test_recipe_runs import ROOT, SIMULATED, called, ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchflux.night.recipes.night import Night
    from tests.night.recipes.conftest import Recipes

pytestmark = pytest.mark.slow

SERVICE, FAILED = "batchflux-shop.service", "batchflux-failed@batchflux-shop.service.service"
SET_UP = """
mount --make-rshared / && mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system /run/x/systemd/user &&
chmod 700 /run/x && mount -t cgroup2 cgroup2 /sys/fs/cgroup &&
XDG_RUNTIME_DIR=/run/x exec "$0" --user --log-target=console
"""


@dataclass(frozen=True, slots=True)
class Manager:
    """A systemd that was started for a test; its units lie in its own /run."""

    process: subprocess.Popen[bytes]

    def call(self, *command: str, given: str = "") -> str:
        """Run a command where the manager is, and return what it says."""
        inside = ["nsenter", f"--target={self.process.pid}", "--mount", "env", "XDG_RUNTIME_DIR=/run/x", *command]
        return subprocess.run(inside, input=given, capture_output=True, text=True, check=False, timeout=60).stdout

    def take(self, night: Night, folder: Path) -> None:
        """Take the units of a night in, but for the user: a user's manager has one only."""
        for name, text in files_of("systemd", night, folder).items():
            lines = [line for line in text.splitlines() if not line.startswith("User=")]
            at = lines.index("[Service]") + 1 if "[Service]" in lines else 0
            lines[at:at] = [f"Environment=PYTHONPATH={ROOT}"] if at else []
            self.call("tee", f"/run/x/systemd/user/{name}", given="\n".join(lines) + "\n")
        self.call("systemctl", "--user", "daemon-reload")

    def start(self) -> None:
        """Start the night."""
        self.call("systemctl", "--user", "start", SERVICE)

    def shown(self, *names: str, unit: str = SERVICE) -> list[str]:
        """Return properties of a unit."""
        return [self.call("systemctl", "--user", "show", "--property", name, "--value", unit).strip() for name in names]

    def ended(self) -> list[str]:
        """Wait until the night is over; return its state and result."""
        end = time.monotonic() + 60
        while True:
            found = self.shown("SubState", "Result")
            if found[0] in {"dead", "failed", "auto-restart"}:
                return found
            assert time.monotonic() < end, found
            time.sleep(0.05)


@pytest.fixture
def manager(need: Callable[[str, bool], None]) -> Iterator[Manager]:
    """Start a manager; skip where one may not be, or where the machine's own systemd should be left alone."""
    program = shutil.which("systemd", path="/usr/lib/systemd:/lib/systemd:/usr/bin")
    need("systemd (apt-get install systemd)", program is not None)
    if os.geteuid() or Path("/run/systemd/system").exists():
        pytest.skip("this test needs a root that may mount, on a machine that systemd does not run")
    with tempfile.TemporaryFile() as log:
        command = ["unshare", "--mount", "sh", "-c", SET_UP, str(program)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        made, end = Manager(process), time.monotonic() + 20
        while not made.call("systemctl", "--user", "list-units"):
            if process.poll() is not None or time.monotonic() > end:
                log.seek(0)
                process.kill()
                pytest.skip(f"this test needs the right to mount and to run systemd: {log.read()[-300:]!r}")
            time.sleep(0.1)
        yield made
        made.call("systemctl", "--user", "exit")
        process.wait(20)


def test_each_exit_code_is_what_the_table_says(manager: Manager, recipes: Recipes) -> None:
    wanted = {
        0: ["dead", "success"],
        1: ["dead", "success"],
        2: ["failed", "exit-code"],
        3: ["auto-restart", "exit-code"],
        4: ["dead", "success"],
        70: ["failed", "exit-code"],
        130: ["dead", "success"],
        143: ["dead", "success"],
    }
    for code, state in wanted.items():
        night = replace(ending(code, recipes.folder), until=None, filed=())
        manager.take(night, recipes.folder)
        manager.start()
        assert (code, manager.ended()) == (code, state)
        said = manager.shown("InactiveExitTimestampMonotonic", unit=FAILED) != ["0"]
        assert (code, said) == (code, state[0] == "failed")  # the notice was started, and for failures alone
        manager.call("systemctl", "--user", "stop", SERVICE, FAILED)
        manager.call("systemctl", "--user", "reset-failed")


def test_keys_are_handed_over_and_nothing_begins_when_the_night_is_over(manager: Manager, recipes: Recipes) -> None:
    (recipes.folder / "TUZI_KEY").write_text("sk-1")
    shown = ("/bin/sh", "-c", 'cat "$CREDENTIALS_DIRECTORY/TUZI_KEY" > seen; date +%Z >> seen')
    night = replace(ending(0, recipes.folder), program=shown, key_folder=recipes.folder)
    now = time.gmtime(time.time() + 8 * 3600)  # in Shanghai
    seen = recipes.folder / "seen"
    over = replace(night, at=((now.tm_hour + 2) % 24, 0), until=((now.tm_hour + 3) % 24, 0))
    manager.take(over, recipes.folder)
    manager.start()
    assert manager.ended()[0] == "dead"
    assert not seen.exists()
    manager.take(replace(night, at=((now.tm_hour - 1) % 24, 0), until=((now.tm_hour + 2) % 24, 0)), recipes.folder)
    manager.start()
    assert manager.ended() == ["dead", "success"]
    assert seen.read_text() == "sk-1CST\n"


def test_a_stop_waits_for_what_is_under_way(manager: Manager, recipes: Recipes) -> None:
    (recipes.folder / "night.yaml").write_text(SIMULATED, encoding="utf-8")
    given = ("--set", "provider.options.latency=5", "--concurrency", "1")
    whole = ending(0, recipes.folder)
    manager.take(replace(whole, program=program(), given=given, until=None, filed=()), recipes.folder)
    manager.start()
    called(recipes.folder / "out")
    manager.call("systemctl", "--user", "stop", SERVICE)
    assert manager.ended() == ["dead", "success"]
    assert [path.stem for path in (recipes.folder / "out" / "images").iterdir()] == ["a"]
