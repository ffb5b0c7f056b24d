"""Killed at any moment, run again: every job ends, and no job that was answered is paid for twice."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.errors import Code

if TYPE_CHECKING:
    from tests.engine.conftest import Night, NightFactory

PRICE = 140_000_000
NightOf = Callable[[int], "Night"]

REPLIES = st.sampled_from(
    [
        (None, False),
        (None, False),
        (None, True),
        (Code.SERVER, False),
        (Code.NO_IMAGE, False),
        (Code.UNKNOWN, False),
        (Code.RATE_LIMITED, False),
        (Code.MODERATED, False),
    ]
)
KILLS = st.lists(
    st.one_of(
        st.builds(lambda at: {"kill_at": at}, st.floats(0, 40)),
        st.builds(lambda turns: {"kill_after_turns": turns}, st.integers(1, 400)),
    ),
    min_size=1,
    max_size=4,
)


def answered(scene: Night) -> dict[str, int]:
    """How often each job had been sent, of those whose answer is on record."""
    return {
        name: scene.server.per_job[name]
        for name, row in scene.rows().items()
        if row.link is not None or row.spool is not None or row.status == "done"
    }


@settings(deadline=None, max_examples=30)
@given(data=st.data(), kills=KILLS, count=st.integers(1, 10), concurrency=st.integers(1, 5))
def test_whenever_it_is_killed(
    nights: NightFactory, data: st.DataObject, kills: list[dict[str, Any]], count: int, concurrency: int
) -> None:
    with nights(count) as scene:
        script: dict[tuple[str, int], Any] = {}

        def api(name: str, number: int) -> Any:
            if (name, number) not in script:
                code, inline = data.draw(REPLIES)
                after = data.draw(st.floats(0, 8, width=16))
                script[name, number] = scene.picture(after, inline=inline) if code is None else scene.error(code, after)
            return script[name, number]

        scene.server.api = api
        scene.server.files = lambda _, number: scene.error(Code.DOWNLOAD) if number % 2 else scene.picture()
        paid: dict[str, int] = {}
        for kill in kills:
            scene.run(concurrency=concurrency, attempts=9, **kill)
            for name, calls in paid.items():
                assert scene.server.per_job[name] == calls, f"{name} was answered before, and sent again"
            assert scene.spent() >= scene.server.charged * PRICE, "the ledger knows of less than was billed"
            paid |= answered(scene)
        for _ in range(3):
            scene.run(concurrency=concurrency, attempts=9)
            for name, calls in paid.items():
                assert scene.server.per_job[name] == calls, f"{name} was answered before, and sent again"
            assert scene.spent() >= scene.server.charged * PRICE
            paid |= answered(scene)
        rows = scene.rows()
        assert len(rows) == count
        assert {row.status for row in rows.values()} <= {"done", "failed", "unknown"}
        assert all(row.in_flight is None for row in rows.values())
        for name, row in rows.items():
            assert (row.status == "done") == (f"images/{name}.png" in scene.pictures.files)


@pytest.mark.parametrize("inline", [False, True])
def test_killed_at_every_turn_of_a_small_run(nights: NightFactory, inline: bool) -> None:  # noqa: FBT001  pytest's
    turns = 0
    killed = True
    while killed:
        turns += 1
        with nights(3) as scene:
            scene.server.api = lambda *_, scene=scene: scene.picture(inline=inline)
            killed = scene.run(concurrency=2, kill_after_turns=turns).killed
            known = answered(scene)
            ended = scene.run(concurrency=2)
            assert ended.tally.done + sum(row.status == "done" for row in scene.rows().values()) >= 3
            assert {row.status for row in scene.rows().values()} == {"done"}
            for name, calls in known.items():
                assert scene.server.per_job[name] == calls
            assert sum(scene.server.per_job.values()) <= 5
            assert scene.spent() >= scene.server.charged * PRICE
    assert turns > 30


def test_what_was_in_flight_is_unknown_and_possibly_billed(night: NightOf) -> None:
    scene = night(6)
    scene.server.api = lambda *_: scene.picture(10)
    assert scene.run(concurrency=2, kill_at=15.0).killed
    before = scene.rows()
    assert {name: row.in_flight for name, row in before.items() if row.status != "done"} == {"j2": PRICE, "j3": PRICE}
    held = scene.run(concurrency=2, on_unknown="hold")
    assert held.recovered == 2
    rows = scene.rows()
    assert {name for name, row in rows.items() if row.status == "unknown"} == {"j2", "j3"}
    assert (rows["j2"].error_code, rows["j2"].possibly_billed, rows["j2"].attempts) == ("unknown", 1, 1)
    assert scene.spent() == 6 * PRICE
    assert len(scene.server.calls) == 6
    again = scene.run(concurrency=2)
    assert (again.recovered, again.tally.done) == (0, 2)
    rows = scene.rows()
    assert (rows["j2"].status, rows["j2"].possibly_billed, rows["j2"].attempts) == ("done", 1, 2)
    assert scene.spent() == 8 * PRICE


def test_on_unknown_fail_ends_what_was_in_flight(night: NightOf) -> None:
    scene = night(4)
    scene.server.api = lambda *_: scene.picture(10)
    scene.run(concurrency=2, kill_at=5.0)
    ended = scene.run(concurrency=2, on_unknown="fail")
    assert (ended.tally.done, ended.tally.failed, ended.tally.codes) == (2, 2, {"unknown": 2})
    row = scene.rows()["j0"]
    assert (row.status, row.error_code, row.possibly_billed) == ("failed", "unknown", 1)
    assert len(scene.server.calls) == 4


def test_what_a_dead_run_had_out_stays_counted_against_the_budget(night: NightOf) -> None:
    scene = night(4)
    scene.server.api = lambda *_: scene.picture(10)
    scene.run(concurrency=4, kill_at=5.0, price=Decimal(1))
    ended = scene.run(concurrency=4, price=Decimal(1), budget=Decimal(5))
    assert ended.reason is not None
    assert (ended.reason.reason, len(scene.server.calls)) == ("budget", 5)
    assert scene.spent() == 5 * 10**9
