"""`batchflux rehearse` as a person calls it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.testing.inside import inside
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
REAL = (
    "version: 1\nname: m\n"
    "provider: {name: tuzi, base_url: https://api.example/v1, keys: [NO_SUCH_KEY], price: 0.14, currency: CNY}\n"
    "limits: {concurrency: 10, canary: 0}\njobs:\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        patched.setenv("TZ", "UTC")
        time.tzset()
        yield tmp_path
    time.tzset()


def write(folder: Path, jobs: int, head: str = REAL) -> None:
    (folder / "t.csv").write_text("n\n" + "".join(f"{number}\n" for number in range(jobs)))
    (folder / "m.yaml").write_text(head + '  - {from: t.csv, id: "j{{ n }}", prompt: "picture {{ n }}"}\n')


def call(folder: Path, *arguments: str) -> tuple[int, str, str]:
    return inside(folder, os.environ, "rehearse", "m.yaml", *arguments)


def test_it_says_when_nights_end_in_80_columns(folder: Path) -> None:
    write(folder, 100)
    code, said, _ = call(folder, "--at", "22:00", "--latency", "60s", "--nights", "4", "--set", "limits.deadline=450s")
    assert code == 0
    assert said.splitlines() == [
        "m: 100 jobs from 22:00 UTC; 4 nights rehearsed, nothing sent",
        "  history   tuzi: given are 1 min a call, no faults",
        "  ends      in none of 4 nights with all jobs",
        "  deadline  450s",
        "  cut       4 times by the deadline, with 30 % of the jobs left",
        "  spends    9.80 CNY",
        "  jobs      70 done",
        "",
        "With other limits, in 3 nights each:",
        "  concurrency 5      3 times cut by the deadline (65 % left)",
        "  concurrency 20     ends 22:05:00 in 3 of 3 nights",
    ]
    assert not (folder / "out").exists()


def test_without_history_it_says_what_is_assumed(folder: Path) -> None:
    write(folder, 40)
    _, said, _ = call(folder, "--nights", "1", "--no-compare")
    assert "  history   tuzi: none, so 7.5 s to 22.5 s a call and no faults are assumed\n" in said
    assert "With other limits" not in said


def test_a_folder_that_tells_nothing_is_named_and_so_is_what_time_is_left(folder: Path) -> None:
    write(folder, 40)
    (folder / "empty").mkdir()
    given = ("--from", "empty", "--latency", "5min", "--at", "22:00", "--set", "limits.deadline=23:00")
    _, said, _ = call(folder, *given, "--nights", "1", "--no-compare")
    assert "  left out  empty has no record of attempts: it tells nothing\n" in said
    assert "  ends      22:20 in 1 of 1 night, after 20 min\n  deadline  23:00 UTC, 40 min after those\n" in said


def test_json_has_every_night(folder: Path) -> None:
    write(folder, 40)
    given = ("--latency", "5s..15s", "--fail", "server=20%, moderated=0.1", "--json", "--nights", "5", "--seed", "7")
    code, said, _ = call(folder, *given)
    data: dict[str, Any] = json.loads(said)
    assert code == 0
    assert data["jobs"] == 40
    assert len(data["nights"]) == data["outlook"]["nights"] == 5
    assert [night["done"] + night["failed"] + night["unknown"] for night in data["nights"]] == [40] * 5
    assert all(Decimal(night["spent"]) == Decimal("0.14") * night["done"] for night in data["nights"])
    assert set(data["others"]) == {"concurrency 5", "concurrency 20"}
    assert data["others"]["concurrency 20"]["ends"]["middle"] < data["outlook"]["ends"]["middle"]
    assert data["history"]["tuzi"]["source"] == "given"
    again = json.loads(call(folder, *given)[1])
    assert again["nights"] == data["nights"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--latency", "20s..8s"), 'found "20s..8s"; allowed is a duration, 12s, or from and to, 8s..20s.'),
        (("--latency", "soon"), 'found "soon"; allowed is a duration'),
        (("--fail", "server"), 'found "server"; allowed is a share of all calls, as server=2%.'),
        (("--fail", "server=200%"), 'found "server=200%"; allowed is a share of all calls'),
        (("--fail", "server=60%,unknown=60%"), "the shares come to more than 100 %"),
        (("--fail", "quota=1%"), 'found "quota=1%"; allowed is CODE=SHARE with a CODE of rate_limited, server'),
        (("--at", "tonight"), 'found "tonight"; allowed is a clock time, "22:00", or a duration, 2h.'),
        (("--nights", "0"), "0 is not in the range"),
        (("--from", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(folder: Path, given: tuple[str, ...], says: str) -> None:
    write(folder, 1)
    code, said, errors = call(folder, *given)
    assert (code, said) == (2, "")
    assert says in " ".join(errors.split())


def test_a_manifest_with_faults_is_refused_as_by_plan(folder: Path) -> None:
    (folder / "m.yaml").write_text("version: 1\njobs: 3\n")
    code, _, errors = call(folder)
    assert code == 2
    assert "m.yaml:2: jobs" in errors


def test_nothing_to_do_is_said(folder: Path) -> None:
    write(folder, 2, "version: 1\nname: m\nprovider: {name: simulator, options: {latency: 0, size: 64}}\njobs:\n")
    assert inside(folder, os.environ, "run", "m.yaml", "--quiet")[0] == 0
    assert call(folder) == (0, "There is nothing to do, so there is nothing to rehearse.\n", "")


@pytest.mark.slow
def test_ctrl_c_shows_what_is_known(folder: Path) -> None:
    write(folder, 3000)
    screen, errors = pty.openpty()
    termios.tcsetwinsize(errors, (24, 80))
    process = subprocess.Popen(
        [sys.executable, "-m", "batchflux", "rehearse", "m.yaml", "--nights", "1000", "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    os.close(errors)
    shown = bytearray()

    def look() -> None:
        with suppress(OSError):  # the program has gone
            while True:
                shown.extend(os.read(screen, 1024))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        wait_until(lambda: re.search(rb"rehearsing:.* ([4-9]|\d\d+)\.\d*k/", shown) is not None)  # a night has ended
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        looking.join()
        os.close(screen)
    data = json.loads(said)
    assert process.returncode == 130
    assert data["whole"] is False
    assert 0 < len(data["nights"]) < 1000
    assert all(night["done"] == 3000 for night in data["nights"])


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_rehearsal_is_what_a_real_run_then_is(folder: Path, seed: int) -> None:
    """The ledger of a real run against the simulator, with faults, is all that the rehearsal of the same knows."""
    write(
        folder,
        800,
        "version: 1\nname: m\nprovider: {name: simulator, price: 0.14, currency: CNY, options: {latency: [0.1, 0.5], "
        f"size: 64, seed: {seed}, faults: {{server_503: 0.03, reset: 0.01, moderated: 0.02}}}}}}\n"
        "limits: {concurrency: 8}\njobs:\n",
    )
    inside(folder, os.environ, "run", "m.yaml", "--quiet")
    summary = json.loads((folder / "out/m/summary.json").read_text())
    _, said, _ = call(folder, "--out", "new", "--from", "out/m", "--json", "--no-compare")
    nights = json.loads(said)["nights"]
    seconds = median(night["seconds"] for night in nights)
    spent = median(Decimal(night["spent"]) for night in nights)
    sys.stdout.write(
        f"{seed}: {summary['seconds']:.2f} s and {summary['spent']}, rehearsed {seconds:.2f} and {spent}\n"
    )
    assert abs(seconds / summary["seconds"] - 1) < 0.05
    assert abs(spent / Decimal(summary["spent"]) - 1) < Decimal("0.02")
