"""The suite's share of the fuzzing: hypothesis drives the targets for a few seconds, `python -m tests.fuzz` longer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import streams
from tests.fuzz.mutations import mutated
from tests.fuzz.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
SHORT = settings(max_examples=60)


@pytest.fixture(autouse=True)
def here() -> Iterator[None]:
    """The manifest target changes the current folder."""
    before = Path.cwd()
    yield
    os.chdir(before)


@pytest.mark.parametrize("name", TARGETS)
@SHORT
@given(data=st.data())
def test_words_of_the_language_in_any_order(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    pieces = st.sampled_from([*target.words, *target.seeds()]) | st.binary(max_size=20)
    target.check(b"".join(data.draw(st.lists(pieces, max_size=12))))


@pytest.mark.parametrize("name", TARGETS)
@SHORT
@given(seed=st.integers(0, 2**48))
def test_whole_inputs_with_a_few_changes(name: str, seed: int) -> None:
    target = TARGETS[name]
    target.check(mutated(Random(seed), target.seeds(), target.words))


@settings(max_examples=1000)
@given(st.integers(0, 2**48))
def test_no_broken_stream_gives_a_wrong_picture(seed: int) -> None:
    streams.run(Random(seed))


def test_broken_streams_still_give_their_pictures() -> None:
    outcomes = [streams.run(Random(seed)) for seed in range(300)]
    assert outcomes.count("link") > 100


def test_the_command_runs_and_names_what_it_found(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "image", "streams", "--runs", "50", "--keep", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("image: 50 inputs in")
