"""What is remembered from folder to folder, and that nothing else changes where it cannot be."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchflux import state

if TYPE_CHECKING:
    from collections.abc import Callable

RELAY = ("tuzi", "flux-kontext-pro", "standard", "https://relay.example")


def test_a_provider_is_proven_for_seven_days_and_no_other_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not state.proven(*RELAY)
    state.note_proven(*RELAY)
    assert state.proven(*RELAY)
    for place in range(len(RELAY)):
        other: tuple[str, ...] = (*RELAY[:place], "another", *RELAY[place + 1 :])
        assert not state.proven(*other)
    for days, holds in ((6.9, True), (7.1, False)):
        then = time.time() + days * 86_400
        with monkeypatch.context() as later:
            later.setattr(time, "time", lambda then=then: then)
            assert state.proven(*RELAY) is holds


def test_a_manifest_is_remembered_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert state.folder_of(Path("m.yaml")) is None
    state.note_folder(Path("m.yaml"), Path("out/m"))
    monkeypatch.chdir(tmp_path.parent)
    assert state.folder_of(tmp_path / "m.yaml") == tmp_path / "out" / "m"


def _a_file(place: Path) -> None:
    place.write_text("")


def _garbage(place: Path) -> None:
    state.note_proven(*RELAY)
    for path in (place / "batchflux").iterdir():
        path.write_bytes(b"\xff{")


@pytest.mark.parametrize("spoil", [_a_file, _garbage])
def test_what_cannot_be_kept_or_read_is_not_known(
    spoil: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    spoil(tmp_path / "state")
    assert not state.proven(*RELAY)
    assert state.folder_of(tmp_path) is None


def test_a_relative_state_home_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    state.note_proven(*RELAY)
    assert state.proven(*RELAY)
    assert os.listdir(tmp_path) == ["home"]  # noqa: PTH208  names, no paths
