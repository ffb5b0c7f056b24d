"""How many requests of one key may be out: slow start, less when the provider queues, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.engine.pace import FIRST, SAMPLE, Window


def answer(window: Window, seconds: float, times: int = SAMPLE) -> None:
    for _ in range(times):
        window.answered(seconds)


def test_a_known_rate_needs_no_slow_start() -> None:
    assert Window(100, known=True).size == 100


@pytest.mark.parametrize(("concurrency", "first"), [(1, 1), (5, 5), (100, 8)])
def test_an_unknown_one_begins_small(concurrency: int, first: int) -> None:
    assert Window(concurrency, known=False).size == first


def test_slow_start_doubles_with_each_window_of_answers_up_to_the_concurrency() -> None:
    window, sizes = Window(50, known=False), []
    for _ in range(4):
        sizes.append(window.size)
        answer(window, 1.0, window.size)
    assert sizes == [8, 16, 32, 50]
    assert window.size == 50


def test_rising_latency_shrinks_it_to_half_and_no_further() -> None:
    window, sizes = Window(100, known=True), []
    answer(window, 1.0)
    for second in range(40):
        answer(window, 3.0 * 1.2**second)
        sizes.append(window.size)
    assert sizes[0] == 80
    assert 50 <= min(sizes) <= 52


def test_it_recovers_by_one_a_window_when_latency_falls() -> None:
    window = Window(100, known=True)
    answer(window, 1.0)
    answer(window, 3.0)
    assert window.size == 80
    answer(window, 1.0, 80)
    assert window.size in (80, 81)
    answer(window, 1.0, 80 * 25)
    assert window.size == 100


def test_a_rise_ends_the_slow_start_and_opens_nothing() -> None:
    """Half of the concurrency is where shrinking stops; it is no size to jump to."""
    window = Window(1000, known=False)
    answer(window, 1.0)
    before = window.size
    answer(window, 10.0)
    assert before < window.size + 1
    assert window.size <= before + SAMPLE
    answer(window, 1.0, 10)
    assert window.size <= before + SAMPLE + 1


def test_pictures_that_simply_take_longer_become_usual() -> None:
    window = Window(100, known=True)
    answer(window, 1.0)
    answer(window, 5.0, 40 * SAMPLE)
    assert window.size > 50
    answer(window, 5.0, 100 * 60)
    assert window.size == 100


def test_a_few_slow_answers_say_nothing() -> None:
    window = Window(100, known=True)
    for _ in range(20):
        answer(window, 1.0, SAMPLE - 10)
        answer(window, 60.0, 10)
    assert window.size == 100


def test_another_concurrency_holds_at_once_or_is_grown_into() -> None:
    known, unknown = Window(100, known=True), Window(100, known=False)
    known.retune(10, known=True)
    unknown.retune(4, known=False)
    assert (known.size, unknown.size) == (10, 4)
    known.retune(200, known=True)
    unknown.retune(200, known=False)
    assert (known.size, unknown.size) == (200, 4)
    answer(unknown, 1.0, 6)
    assert unknown.size == 10


@given(
    concurrency=st.integers(1, 300),
    known=st.booleans(),
    latencies=st.lists(st.floats(0, 1e4), max_size=400),
)
def test_its_size_stays_between_one_and_the_concurrency(
    concurrency: int, latencies: list[float], *, known: bool
) -> None:
    window = Window(concurrency, known=known)
    for seconds in latencies:
        window.answered(seconds)
        assert min(FIRST, concurrency, max(concurrency / 2, 1)) - 1 < window.size <= concurrency
        assert window.size >= 1
