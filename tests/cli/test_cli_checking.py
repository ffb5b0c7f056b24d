"""While a large table is checked, a person at a terminal sees how far that is; nobody else is told."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest

from batchflux import load_manifest, plan
from batchflux.cli.manifest import checking
from batchflux.cli.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from batchflux import Manifest


class Screen(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    text = "version: 1\njobs:\n  - {prompt: 'a {{ n }}', matrix: {n: {range: [1, 30]}}}\n"
    (tmp_path / "m.yaml").write_text(text, encoding="utf-8")
    return load_manifest(tmp_path / "m.yaml", out=str(tmp_path / "out"))


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_how_many_jobs_were_checked(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, *, terminal: bool
) -> None:
    monkeypatch.setattr("batchflux.cli.manifest.CHECKING_SECONDS", 0)
    screen = Screen(terminal=terminal)
    monkeypatch.setattr("sys.stderr", screen)
    assert plan(manifest, through=checking).counts["todo"] == 30
    assert ("checking" in screen.getvalue()) is terminal


@pytest.mark.parametrize("options", [{"log_format": "json"}, {"quiet": True}, {"no_progress": True}])
def test_who_wants_no_bar_sees_none(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr("batchflux.cli.manifest.CHECKING_SECONDS", 0)
    screen = Screen(terminal=True)
    monkeypatch.setattr("sys.stderr", screen)
    usual: dict[str, Any] = {"log_format": "text", "no_progress": False, "quiet": False}
    progress = Progress(**(usual | options))
    assert plan(manifest, through=progress.checking).counts["todo"] == 30
    assert screen.getvalue() == ""
