"""What the README and the manual tell a reader to do works as it stands, in an empty folder."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pytest

from batchflux.testing.inside import inside

ROOT = Path(__file__).parents[2]
READMES = [ROOT / "README.md", ROOT / ".readme/README.zh.md"]
PAGES = sorted((ROOT / "batchflux/docs").glob("*.md"))
BLOCK = re.compile(r"^( *)```(\w+)(?: title=(\S+))?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SETS_UP = "python3 -m venv .venv"
SERVES = ("batchflux review", "batchflux simulate", "batchflux gateway ")
TRIED = ("sh", "yaml", "csv", "python")


class Block(NamedTuple):
    language: str
    title: str
    text: str


def blocks(text: str) -> list[Block]:
    return [
        Block(language, title or "", re.sub(rf"^{indent}", "", body, flags=re.MULTILINE))
        for indent, language, title, body in BLOCK.findall(text)
        if language in TRIED
    ]


def sections(path: Path) -> dict[str, list[Block]]:
    parts = re.split(r"^## (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {title: blocks(text) for title, text in zip(["", *parts[1::2]], parts[::2], strict=True)}


CASES = [
    pytest.param(found, id=f"{path.name}: {title}")
    for path in [*READMES, *PAGES]
    for title, found in sections(path).items()
    if any(block.language != "yaml" and SETS_UP not in block.text for block in found)
]


def environment(folder: Path) -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    path = f"{Path(sys.executable).parent}:{known['PATH']}"
    return known | {"PATH": path, "XDG_STATE_HOME": str(folder / ".state"), "HOME": str(folder)}


def serve(command: str, folder: Path) -> None:
    """Start a server and end it; at a free port, for another test may have another at the usual one."""
    words = [*command.split(), "--port", "0"]
    with subprocess.Popen(words, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = re.search(r"https?://\S+", server.stdout.readline())
        assert address is not None, command
        if "simulate" not in command:
            where = address[0] + ("/models" if "gateway" in command else "")
            with urllib.request.urlopen(where) as answer:  # noqa: S310  our own server
                assert answer.status == 200
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0, command


@pytest.mark.slow
@pytest.mark.parametrize("found", CASES)
def test_what_is_told_works(found: list[Block], tmp_path: Path) -> None:
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    for block in found:
        if block.title:
            (tmp_path / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            made = subprocess.run(
                [sys.executable, "-c", block.text], cwd=tmp_path, env=environment(tmp_path), check=False, timeout=100
            )
            assert made.returncode == 0
        elif block.language == "sh" and SETS_UP not in block.text:
            for command in block.text.replace("\\\n", " ").splitlines():
                if command.startswith(SERVES):
                    serve(command, tmp_path)
                else:
                    made = subprocess.run(
                        ["bash", "-euo", "pipefail", "-c", command],  # noqa: S607  as a reader does
                        cwd=tmp_path,
                        env=environment(tmp_path),
                        check=False,
                        timeout=100,
                    )
                    assert made.returncode == 0, command


def test_manifests_that_are_shown_are_right(tmp_path: Path) -> None:
    shown = 0
    for path in [*READMES, *PAGES]:
        for block in blocks(path.read_text(encoding="utf-8")):
            if block.language == "yaml" and "version: 1" in block.text and not block.title:
                (tmp_path / "m.yaml").write_text(block.text, encoding="utf-8")
                code, _, err = inside(tmp_path, os.environ, "plan", "m.yaml")
                assert code == 0, f"{path.name}: {err}"
                shown += 1
    assert shown
