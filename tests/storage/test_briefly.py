from __future__ import annotations

from batchflux.ledger.briefly import BRIEF, TRY_AGAIN, Briefly


def test_brief_steps_stay_in_place_and_one_long_one_changes_nothing() -> None:
    briefly = Briefly()
    for seconds in (BRIEF / 3, BRIEF / 3, 10.0, BRIEF / 3):
        assert briefly.in_place()
        briefly.took(seconds)
    assert briefly.in_place()


def test_long_steps_go_to_threads_and_are_tried_in_place_now_and_then() -> None:
    briefly = Briefly()
    for _ in range(10):
        if briefly.in_place():
            briefly.took(3 * BRIEF)
    tried = [briefly.in_place() for _ in range(4 * TRY_AGAIN)]
    assert 3 <= sum(tried) <= 4
    briefly.took(BRIEF / 2)
    assert briefly.in_place()
