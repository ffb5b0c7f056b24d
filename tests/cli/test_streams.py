from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUICK = (
    "version: 1\nname: q\nprovider: {name: simulator, options: {latency: 0, size: 64}}\n"
    "jobs: [{id: a, prompt: a cup}, {id: b, prompt: a jug}]\n"
)


def sh(folder: Path, redirections: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program from a shell, which can close its streams."""
    line = shlex.join([sys.executable, "-W", "error", "-m", "batchflux", *arguments])
    return subprocess.run(
        ["/bin/sh", "-c", f"exec {line} {redirections}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("redirections", ["<&-", "2>&-", ">&-", "<&- >&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_a_run_needs_none_of_its_streams(tmp_path: Path, redirections: str) -> None:
    (tmp_path / "m.yaml").write_text(QUICK)
    ended = sh(tmp_path, redirections, "run", "m.yaml")
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ("All 2 jobs are done." in ended.stdout) == (">&-" not in redirections.replace("2>&-", ""))
    summary = json.loads((tmp_path / "out" / "q" / "summary.json").read_text())
    assert summary["this_run"]["done"] == 2
    for file in (tmp_path / "out" / "q").rglob("*"):  # nothing was printed into a file that got a stream's number
        if file.is_file():
            assert b"jobs are done.\n" not in file.read_bytes()


def test_a_full_stdout_is_said_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(QUICK)
    ended = sh(tmp_path, "> /dev/full", "run", "m.yaml")
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "No space left on device" in ended.stderr
    assert "out/q/summary.json has it" in ended.stderr


@pytest.mark.parametrize("arguments", [["plan", "m.yaml"], ["schema"], ["--help"], ["status", "out/q"]])
def test_an_output_that_cannot_be_printed_is_said_in_one_sentence(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "m.yaml").write_text(QUICK)
    if arguments[0] == "status":
        assert sh(tmp_path, "", "run", "m.yaml").returncode == 0
    ended = sh(tmp_path, "> /dev/full", *arguments)
    assert ended.returncode == 1
    assert ended.stderr.startswith("The output cannot be printed (No space left on device)")
    assert ended.stderr.count("\n") == 1
    assert sh(tmp_path, ">&-", *arguments).returncode == 0


@pytest.mark.parametrize("redirections", ["2>&-", "2>/dev/full"])
def test_a_wrong_command_has_its_exit_code_without_streams(tmp_path: Path, redirections: str) -> None:
    assert sh(tmp_path, redirections, "fly").returncode == 2


@pytest.mark.parametrize("redirections", ["<&- 2>&-", "2>/dev/full"])
def test_a_fault_has_its_exit_code_without_streams(tmp_path: Path, redirections: str) -> None:
    (tmp_path / "m.yaml").write_text("version: 1\njobs: nonsense\n")
    ended = sh(tmp_path, redirections, "run", "m.yaml")
    assert ended.returncode == 2
    assert ended.stdout == ""
