"""The schedule of a told rate: no window holds more, whatever is late, and the rate is reached."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.engine.limits.gcra import LATENESS, Gcra
from batchflux.engine.outages import NEVER
from tests.engine.limit_clients import most_in_a_window

LATE = st.floats(0, LATENESS)
GAP = st.one_of(st.just(0.0), st.floats(0, 0.05), st.floats(0, 5))


@settings(deadline=None, max_examples=50)
@given(
    count=st.integers(1, 60),
    seconds=st.sampled_from([0.1, 1.0, 2.0, 60.0]),
    steps=st.lists(st.tuples(GAP, LATE, LATE), min_size=1, max_size=200),
)
def test_no_window_holds_more_than_its_limit(
    count: int, seconds: float, steps: list[tuple[float, float, float]]
) -> None:
    """However long work was missing, however late a timer fired and a connection took the request."""
    pace, now, written = Gcra(count, seconds), 0.0, []
    for gap, late, wire in steps:
        now = pace.next_at(now + gap) + late
        departure = pace.take(now, NEVER)
        now += wire
        departure.written = now
        written.append(now)
    assert most_in_a_window(written, seconds) <= count


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 200), seed=st.integers(0, 1000))
def test_the_rate_is_reached_although_timers_are_late(count: int, seed: int) -> None:
    random, pace, now = Random(seed), Gcra(count, 1.0), 0.0
    for _ in range(20 * count):
        now = pace.next_at(now) + random.uniform(0, 0.002)
        pace.take(now, NEVER)
    assert 20 * count >= 0.975 * count * now, "less what keeps it under the limit"


@settings(deadline=None, max_examples=50)
@given(
    count=st.integers(1, 20),
    runs=st.lists(st.lists(GAP, min_size=1, max_size=40), min_size=2, max_size=4),
)
def test_no_window_holds_more_over_runs_that_know_of_each_other_only_when_the_last_left(
    count: int, runs: list[list[float]]
) -> None:
    now, written = 0.0, list[float]()
    for gaps in runs:
        pace = Gcra(count, 1.0)
        if written:
            pace.departed(written[-1])
        for gap in gaps:
            now = pace.next_at(now + gap)
            pace.take(now, NEVER)
            written.append(now)
    assert most_in_a_window(written, 1.0) <= count


def filled(count: int) -> Gcra:
    """So many a second, of which as many have left."""
    pace = Gcra(count, 1.0)
    for _ in range(count):
        pace.take(pace.next_at(0.0), NEVER)
    return pace


def test_one_interval_is_saved_up_once_the_last_are_remembered() -> None:
    pace = filled(3)
    pace.take(10.0, NEVER)
    assert pace.next_at(10.0) == 10.0
    pace.take(10.0, NEVER)
    assert pace.next_at(10.0) == pytest.approx(10.0 + pace._window / 3)


@pytest.mark.parametrize(("count", "refused"), [(3, True), (2, False)])
def test_no_two_leave_together_where_one_was_refused_or_a_second_has_no_room_for_them(
    count: int, *, refused: bool
) -> None:
    pace = filled(count)
    if refused:
        pace.refused()
    pace.take(10.0, NEVER)
    assert pace.next_at(10.0) == pytest.approx(10.0 + pace._window / count)


def test_idle_time_saves_nothing_up() -> None:
    pace = Gcra(10, 1.0)
    pace.take(0.0, NEVER)
    pace.take(3600.0, NEVER)
    assert pace.next_at(3600.0) == pytest.approx(3600.0 + pace._window / 10)


def test_a_lower_rate_than_the_limit_keeps_its_own_distance() -> None:
    pace = Gcra(10, 1.0)
    pace.take(0.0, 2.0)
    assert pace.next_at(0.0) == 0.5
    assert Gcra().next_at(5.0) == 5.0
