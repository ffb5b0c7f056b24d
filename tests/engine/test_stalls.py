"""Weather in which an earlier version crawled to a standstill: found by an outside tester."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

import pytest

from batchflux.errors import Code

if TYPE_CHECKING:
    from tests.engine.conftest import Night

NightOf = Callable[[int], "Night"]


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_jobs_that_all_fail_a_few_times_first_are_not_held_back(night: NightOf, bad: int) -> None:
    scene = night(120)
    scene.server.api = lambda name, number: (  # noqa: ARG005
        scene.error(Code.SERVER, 0.1) if number < bad else scene.picture(0.1)
    )
    ended = scene.run(concurrency=24, attempts=5)
    assert (ended.reason, ended.tally.done) == (None, 120)
    assert ended.seconds < 60


def test_a_few_refusals_by_chance_do_not_take_the_rate_to_nothing(night: NightOf) -> None:
    scene = night(300)
    chance = Random(5)
    scene.server.by_key = lambda key, number: (  # noqa: ARG005
        scene.error(Code.RATE_LIMITED, 0.01) if chance.random() < 0.1 else None
    )
    scene.server.api = lambda name, number: scene.picture(0.1)  # noqa: ARG005
    ended = scene.run(concurrency=10)
    assert (ended.reason, ended.tally.done) == (None, 300)
    assert ended.seconds < 300


def test_a_limit_is_learned_also_from_a_server_that_says_how_long_to_wait(night: NightOf) -> None:
    scene = night(300)
    tokens, last = 5.0, 0.0

    def bucket(key: str | None, number: int) -> object:
        nonlocal tokens, last
        now = scene.server.calls[-1].at if scene.server.calls else 0.0
        tokens, last = min(5.0, tokens + 5.0 * (now - last)), now
        if tokens >= 1:
            tokens -= 1
            return None
        return scene.error(Code.RATE_LIMITED, 0.01, retry_after=1.0)

    scene.server.by_key = bucket  # type: ignore[assignment]  # a Reply or None
    scene.server.api = lambda name, number: scene.picture(0.1)  # noqa: ARG005
    ended = scene.run(concurrency=24)
    assert ended.tally.done == 300
    assert ended.seconds < 200, "at 5 a second it takes 60"
    assert len(scene.server.calls) - 300 < 100
