"""What keys were found to allow, from run to run and from folder to folder; what is damaged is not known."""

from __future__ import annotations

import asyncio
import json
import math
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux import state
from batchflux.ledger import lessons
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.lessons import Lessons, lessons_of, note, noted
from batchflux.ledger.tables import empty_ledger, set_meta
from batchflux.planner import load_manifest
from batchflux.state import HOLDS, Lesson, read_lesson
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from batchflux.manifest import Manifest

URL, MODEL = "https://relay.example", "flux-kontext-pro"


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    (tmp_path / "m.yaml").write_text(
        f"version: 1\nprovider: {{name: r, base_url: {URL}, model: {MODEL}, keys: [KEY_A, KEY_B]}}\n"
        "jobs: [{prompt: x}]\n"
    )
    return load_manifest(tmp_path / "m.yaml")


def lesson(rate: float | None = 4.9, active: int | None = 24, *, ago: float = 0.0) -> Lesson:
    return Lesson(rate=rate, active=active, at=time.time() - ago)


def test_the_later_note_counts_and_none_is_older_than_seven_days(manifest: Manifest) -> None:
    ledger = empty_ledger()
    assert lessons_of(manifest.provider, ledger) == {}
    here, there, old = lesson(ago=20), lesson(9.0, ago=10), lesson(ago=HOLDS + 60)
    note(ledger, URL, MODEL, {"KEY_A": here, "KEY_B": old, "KEY_C": here})
    assert lessons_of(manifest.provider, ledger) == {"KEY_A": here}
    state.note_lesson(URL, MODEL, "KEY_A", there)
    state.note_lesson(URL, MODEL, "KEY_B", old)
    assert lessons_of(manifest.provider, ledger) == {"KEY_A": there}
    newest = lesson(None, None)
    note(ledger, URL, MODEL, {"KEY_A": newest})
    assert lessons_of(manifest.provider, ledger) == {"KEY_A": newest}
    assert noted(ledger) == {"KEY_A": newest, "KEY_C": here}


def test_it_holds_for_its_address_model_and_key_alone(manifest: Manifest) -> None:
    ledger, other = empty_ledger(), "https://other.example"
    note(ledger, other, MODEL, {"KEY_A": lesson()})
    note(ledger, URL, "flux-kontext-max", {"KEY_A": lesson()})
    state.note_lesson(other, MODEL, "KEY_A", lesson())
    state.note_lesson(URL, "flux-kontext-max", "KEY_A", lesson())
    state.note_lesson(URL, MODEL, "KEY_C", lesson())
    assert lessons_of(manifest.provider, ledger) == {}


WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rate", "active", "at"]), inner),
    max_leaves=8,
)


@settings(max_examples=50)
@given(WILD)
def test_what_is_read_as_a_lesson_can_be_begun_from(data: object) -> None:
    found = read_lesson(data)
    if found is not None:
        assert found.rate is None or state.SLOWEST <= found.rate < math.inf
        assert found.active is None or 0 < found.active <= state.MOST_ACTIVE


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"https://relay.example flux-kontext-pro": [1]}', "[" * 100_000, '{"x": NaN}', "\0"],
)
def test_a_damaged_note_is_not_known_and_is_written_anew(text: str, manifest: Manifest) -> None:
    ledger, found = empty_ledger(), {"KEY_A": lesson()}
    set_meta(ledger, "learned", text)
    assert lessons_of(manifest.provider, ledger) == noted(ledger) == {}
    note(ledger, URL, MODEL, found)
    assert lessons_of(manifest.provider, ledger) == found


@pytest.mark.parametrize("bytes_kept", [b"", b"{", b"\xff", b'{"name": [], "value": 1}', json.dumps([1]).encode()])
def test_a_damaged_state_is_not_known(bytes_kept: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    state.note_lesson(URL, MODEL, "KEY_A", lesson())
    (kept,) = (tmp_path / "state" / "batchflux").iterdir()
    kept.write_bytes(bytes_kept)
    assert state.lesson(URL, MODEL, "KEY_A") is None


def test_a_state_that_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").write_text("a file, so nothing can be put below it")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    state.note_lesson(URL, MODEL, "KEY_A", lesson())
    assert state.lesson(URL, MODEL, "KEY_A") is None


async def test_a_run_notes_what_is_new_while_it_goes_on_and_a_new_folder_knows_it(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessons, "SECONDS", 0.001)
    found: dict[str, Lesson] = {}
    with closing(Ledger(tmp_path / "a.db")) as ledger:
        keeping = asyncio.create_task(Lessons(manifest.provider, ledger.database).keep(lambda: found))
        found["KEY_A"] = lesson(ago=3600)
        await until(lambda: state.lesson(URL, MODEL, "KEY_A") == found["KEY_A"])
        keeping.cancel()
        await asyncio.wait([keeping])
        assert ledger.database.now(noted) == found
    with closing(Ledger(tmp_path / "b.db")) as ledger:
        second = Lessons(manifest.provider, ledger.database)
        assert second.known == ledger.database.now(noted) == found
        second.note({"KEY_A": lesson()})
        assert ledger.database.now(noted) == found, "nobody has found it again, so it holds for no longer"
        second.note({"KEY_A": lesson(7.0)})
        assert ledger.database.now(noted)["KEY_A"].rate == 7.0
