"""Who makes a job while its own provider is down, or makes nothing that can be used, and after that."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from batchflux.engine.shutdown import CANARY
from batchflux.errors import Code
from tests.engine.conftest import Reply
from tests.engine.test_several_providers import NEVER, UNIT, Shop, Street, check, opened

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.engine.conftest import Night, NightFactory

CHEAP = Shop(name="cheap", price=2 * UNIT, concurrency=4, keys={"c1": NEVER})
BEST = Shop(name="best", price=8 * UNIT, concurrency=3, keys={"b1": NEVER})


def street_of(night: Night, own: Shop, *others: Shop) -> Street:
    """Let all jobs be of one provider, with the others behind it."""
    street = Street([own, *others], seed=1, faults=0.0)
    night.server, night.rules = street, street.rules
    night.jobs = [replace(job.by(own.way), fallbacks=tuple(shop.way for shop in others)) for job in night.jobs]
    return street


def makers(street: Street) -> list[str]:
    return [shop for _, shop, what in street.log if what == "picture"]


@pytest.mark.parametrize("code", [Code.NETWORK, Code.SERVER, Code.TIMEOUT])
def test_after_an_outage_its_jobs_go_back_to_their_own_provider(night: Callable[[int], Night], code: Code) -> None:
    scene = night(250)
    street = street_of(scene, replace(CHEAP, down=(10.0, 40.0), down_as=code), BEST)
    ended = scene.run()
    check(scene, street, ended)
    assert (ended.tally.done, ended.reason) == (250, None)
    made = makers(street)
    taken_over = [number for number, shop in enumerate(made) if shop == "best"]
    assert len(taken_over) > 5, "nobody took over while it was down"
    back = made[taken_over[-1] + 1 :]
    assert "cheap" in made[: taken_over[0]]
    assert len(back) > 100, "it is asked again once it is back"
    assert set(back) == {"cheap"}


def test_a_job_that_was_taken_over_is_asked_of_its_own_provider_first_in_the_next_run(
    night: Callable[[int], Night],
) -> None:
    scene = night(10)
    street = street_of(scene, replace(CHEAP, down=(0.0, 1000.0)), BEST)
    street.files = lambda *_: Reply(after=0.1)
    assert scene.run(kill_at=15.0).killed
    before = len(street.log)
    street.epoch = 2000.0
    assert scene.run().tally.done > 0
    assert {shop for _, shop, _ in street.log[before:]} == {"cheap"}
    assert {row.status for row in scene.rows().values()} == {"done"}


def blind(street: Street, *names: str) -> None:
    """Let providers answer what nobody can use, at a price."""
    reply = street.api

    def answered(name: str, number: int) -> Reply:
        assert callable(reply)
        if street.shop.name in names:
            return Reply(after=1.0, code=Code.BAD_ANSWER, billed=True)
        return reply(name, number)

    street.api = answered


def test_what_one_provider_answers_is_bought_no_more_than_a_few_times_and_another_makes_the_rest(
    night: Callable[[int], Night],
) -> None:
    scene = night(60)
    street = street_of(scene, CHEAP, BEST)
    blind(street, "cheap")
    ended = scene.run(canary=4, kinds=2)
    asked = [shop for _, shop, _ in street.log]
    assert asked.count("cheap") == 4
    assert ended.tally.done >= 60 - 4
    assert set(makers(street)) == {"best"}
    assert scene.spent() == street.money.total() == 4 * CHEAP.price + ended.tally.done * BEST.price


def test_each_provider_has_a_canary_of_its_own(night: Callable[[int], Night]) -> None:
    """What one of them gave proves nothing of the other; jobs that nobody can make are why the run stops."""
    scene = night(60)
    street = street_of(scene, CHEAP)
    street.shops["best"] = BEST
    scene.jobs[::2] = [job.by(BEST.way) for job in scene.jobs[::2]]
    blind(street, "best")
    ended = scene.run(canary=4, kinds=2)
    asked = [shop for _, shop, _ in street.log]
    assert (asked.count("best"), asked.count("cheap"), ended.tally.done) == (4, 30, 30)
    assert ended.reason is not None
    assert (ended.reason.reason, "best" in str(ended.reason)) == (CANARY, True)
    assert len([row for row in scene.rows().values() if row.status == "done"]) == 30


@pytest.mark.parametrize(
    "turns", [*range(20, 420, 40), *(pytest.param(n, marks=pytest.mark.slow) for n in range(5, 420, 7))]
)
def test_a_kill_at_any_turn_of_several_providers(nights: NightFactory, turns: int) -> None:
    """Tasks are asked for where they were accepted, nothing that was delivered is paid again."""
    with nights(18) as night:
        street = opened(night, turns % 5, faults=0.1)
        first = night.run(kill_after_turns=turns)
        street.epoch += 40.0
        ended = night.run()
        assert first.killed
        assert ended.reason is None
        assert {row.status for row in night.rows().values()} <= {"done", "failed", "unknown"}
        assert len(night.rows()) == 18
        assert street.money.total() <= night.spent()
        assert all(count <= 2 for count in street.delivered.values())
