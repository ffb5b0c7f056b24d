"""A user's shell: a folder with a manifest and a photograph, and the stand-in of the API that it leads to."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from batchflux.testing.bank import picture_of
from tests.program import bank, program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program

__all__ = ["bank", "program"]


@pytest.fixture
def manifest(program: Program, bank: Bank) -> Callable[..., str]:
    """Write a manifest `m.yaml` for the stand-in and return its name; `jobs` is YAML, `more` goes into the top."""
    program.environ["OTHER_KEY"] = "sk-other"
    program.out = program.folder / "out" / "m"

    def write(jobs: str, *, style: str = "auto", provider: str = "", limits: str = "", more: str = "") -> str:
        program.write(
            "m.yaml",
            f"version: 1\nname: m\n"
            f"provider: {{name: tuzi, base_url: {bank.url}, keys: [TEST_KEY], price: 0.14, currency: CNY, "
            f"style: {style}{provider}}}\n"
            f"limits: {{concurrency: 4, timeout: 60s{limits}}}\n{more}\njobs:\n{jobs}",
        )
        return "m.yaml"

    return write


@pytest.fixture
def photo(program: Program) -> Path:
    """A local photograph beside the manifest, `p/a.png`."""
    path = program.folder / "p" / "a.png"
    path.parent.mkdir()
    path.write_bytes(picture_of("reference"))
    return path


@pytest.fixture
def on_terminal(program: Program) -> Callable[..., tuple[int, str]]:
    """Run the program on a terminal, where `answer` was typed ahead; return its exit code and all it showed."""

    def go(*arguments: str, answer: bytes) -> tuple[int, str]:
        leader, follower = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "batchflux", *arguments],
            cwd=program.folder,
            env=program.environ,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            close_fds=True,
        )
        os.close(follower)
        os.write(leader, answer)
        text = b""
        while True:
            try:
                piece = os.read(leader, 4096)
            except OSError:
                break
            if not piece:
                break
            text += piece
        os.close(leader)
        return process.wait(100), text.decode()

    return go
