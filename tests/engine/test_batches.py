"""Batches, from the first job that is put aside to the last answer that is read, killed wherever that can be.

In each scene every job has its picture in the end, once, and the ledger says to the last attempt what was billed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import product
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.engine.batching.rooms import AT_HAND
from batchflux.errors import Code, JobError
from batchflux.folders.merge import merge
from batchflux.models import Way
from tests.engine.batch_shop import HALF, HOUR, WHOLE, Fate, Shop, ShopApi, killing

if TYPE_CHECKING:
    from pathlib import Path

    from tests.engine.conftest import Night, NightFactory, RunEnded

DONE = Fate()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What the API does with its batches; `terms` are those of the run, `most` jobs are in a batch.

    `extra` answers come beyond the first of a job, and are billed.
    """

    fates: tuple[Fate, ...] = (DONE,)
    count: int = 8
    most: int = 50_000
    terms: dict[str, Any] = field(default_factory=dict)
    extra: int = 0

    def on(self, night: Night) -> Shop:
        shop = Shop(*self.fates)
        shop.wire = ShopApi(most=self.most)
        night.server, night.rules = shop, shop.rules
        return shop


SCENES = {
    "one": Scene(),
    "several": Scene(count=10, most=4),
    "expired": Scene(fates=(Fate(made=0.5, ends="expired"), DONE)),
    "cancelled": Scene(fates=(Fate(made=0.25, ends="cancelled"), DONE)),
    "twice": Scene(fates=(Fate(twice=3),), extra=3),
    "lost": Scene(fates=(Fate(lost="after"),)),
    "lost_and_hidden": Scene(fates=(Fate(lost="after", hidden=20.0),)),
    "never_came": Scene(fates=(Fate(lost="before"), DONE)),
    "lines_fail": Scene(fates=(Fate(errors=Code.SERVER), DONE)),
    "lines_refused": Scene(fates=(Fate(errors=Code.RATE_LIMITED), DONE)),
    "too_busy": Scene(fates=(Fate(refused=Code.RATE_LIMITED), DONE)),
    "broken": Scene(fates=(Fate(refused=Code.SERVER), DONE)),
    "wait": Scene(fates=(Fate(validation=Code.RATE_LIMITED), DONE)),
    "cut": Scene(fates=(Fate(cut=3),)),
    "cut_twice": Scene(fates=(Fate(cut=4, twice=6),), extra=6),
    "canary": Scene(count=10, terms={"canary": 3}),
    "then_live": Scene(fates=(Fate(hours=0.4),), terms={"live_from": 0.2 * HOUR}),
}


def run(night: Night, **terms: Any) -> RunEnded:
    """Run it, as the program does: what is free comes first; a later run begins when this one ended."""
    ended = night.run(free_first=True, **terms)
    night.epoch += ended.seconds
    night.server.epoch += ended.seconds
    return ended


def hold(night: Night, shop: Shop, scene: Scene) -> None:
    """Hold a night that ended to what must be so in all."""
    assert {row.status for row in night.rows().values()} == {"done"}
    assert len(night.rows()) == scene.count
    assert shop.wrong == []
    assert sum(shop.pictures.values()) == scene.count, "a picture was made twice"
    assert night.spent() == shop.money
    assert all(row.in_flight is None for row in night.rows().values())
    again = [row for row in night.rows().values() if "counted as spent" in (row.remarks or "")]
    assert len(again) == scene.extra


@pytest.mark.parametrize("name", SCENES)
def test_every_job_has_its_picture_and_is_paid_once(nights: NightFactory, name: str) -> None:
    scene = SCENES[name]
    with nights(scene.count) as night:
        shop = scene.on(night)
        ended = run(night, **scene.terms)
        assert (ended.reason, ended.tally.done) == (None, scene.count)
        hold(night, shop, scene)
        again = run(night, **scene.terms)
        assert (again.seconds, shop.creates) == (0, shop.creates)


POINTS = [
    "batch.written",
    "batch.authorized",
    "batch.uploaded",
    "batch.leaving",
    "batch.created",
    "batch.recorded",
    "batch.answered",
    "answer.recorded",
    "batch.read",
    "batch.closed",
    "attempt.failing",
    "attempt.settled",
]
TELLING = ("twice", "then_live")


def hold_after(night: Night, shop: Shop, scene: Scene) -> None:
    """Hold a night that was killed to what must be so: of what came twice nobody can know before it was read."""
    assert night.spent() >= shop.money - scene.extra * HALF, "the ledger knows of less than was billed"


@pytest.mark.parametrize("name", TELLING)
def test_killed_at_any_point_it_goes_on_where_it_stood(nights: NightFactory, name: str) -> None:
    assert len(killed_at(nights, SCENES[name], (1,))) >= 9


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_killed_at_any_point_however_often_it_was_passed(nights: NightFactory, name: str) -> None:
    assert len(killed_at(nights, SCENES[name], (1, 2, 3, 4, 7))) >= 9


def killed_at(nights: NightFactory, scene: Scene, passes: tuple[int, ...]) -> Counter[str]:
    killed = Counter[str]()
    for point, number in product(POINTS, passes):
        with nights(scene.count) as night, killing(point, number):
            shop = scene.on(night)
            if not run(night, **scene.terms).killed:
                continue
            killed[point] += 1
            hold_after(night, shop, scene)
            ended = run(night, **scene.terms)
            assert ended.reason is None, (point, number)
            hold(night, shop, scene)
    return killed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one", "cut_twice", "lines_fail"])
def test_killed_at_every_turn_of_a_small_run(nights: NightFactory, name: str) -> None:
    scene, turns, killed = replace(SCENES[name], count=2), 0, True
    scene = replace(scene, extra=2 if name == "cut_twice" else 0)
    while killed:
        turns += 1
        with nights(scene.count) as night:
            shop = scene.on(night)
            killed = run(night, kill_after_turns=turns, **scene.terms).killed
            hold_after(night, shop, scene)
            run(night, **scene.terms)
            hold(night, shop, scene)
    assert turns > 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_killed_again_and_again(nights: NightFactory, seed: int) -> None:
    """Whatever the API does in turn, and whenever the program is killed, and killed once more as it goes on."""
    random = Random(seed)
    strange: dict[str, Any] = {
        "hours": random.choice([0.05, 0.2, 0.5]),
        "made": random.choice([1.0, 0.5, 0.0]),
        "ends": random.choice(["completed", "expired", "cancelled"]),
        "lost": random.choice([None, None, "before", "after"]),
        "hidden": random.choice([0.0, 20.0]),
        "errors": random.choice([None, Code.SERVER, Code.RATE_LIMITED]),
        "cut": random.choice([None, 1, 4]),
    }
    if strange["made"] < 1 and strange["ends"] == "completed":  # which would have answered all
        strange["ends"] = "expired"
    fates = (*(Fate(**strange) for _ in range(random.randrange(1, 4))), DONE)
    scene = Scene(fates=fates, count=12, most=random.choice([3, 5, 50]))
    scene.terms["canary"] = random.choice([0, 2])
    with nights(scene.count) as night:
        shop = scene.on(night)
        broken = random.random() < 0.5
        shop.faults = lambda _, number: JobError(Code.NETWORK, "cut off") if broken and number % 5 == 2 else None
        for _ in range(random.randrange(1, 6)):
            how: dict[str, Any] = {"kill_at": random.expovariate(1 / 300)}
            if random.random() < 0.4:
                how = {"kill_after_turns": random.randrange(1, 800)}
            run(night, **how, **scene.terms)
            hold_after(night, shop, scene)
        assert run(night, **scene.terms).reason is None
        hold(night, shop, scene)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_killed_on_either_side_of_the_hour(nights: NightFactory, seed: int) -> None:
    """What is live when it is killed may have been billed, and is sent once more; a batch is never beside it."""
    random, kills = Random(f"live {seed}"), 0
    fates = [Fate(hours=random.choice([0.1, 0.3, 9.0]), lost=random.choice([None, "before", "after"])) for _ in "123"]
    terms: dict[str, Any] = {"live_from": random.uniform(100, 900), "concurrency": 3, "budget": Decimal("4.00")}
    with nights(12) as night:
        shop = Scene(fates=tuple(fates), most=random.choice([4, 50])).on(night)
        for _ in range(random.randrange(1, 5)):
            kills += run(night, kill_at=random.uniform(1, 800), **terms).killed
            shop.live.clear()
            assert 4_000_000_000 >= night.spent() >= shop.money
        assert run(night, **terms).reason is None
        assert statuses(night) == {"done": 12}
        assert (shop.wrong, sum(shop.pictures.values()) <= 12 + 3 * kills) == ([], True)
        assert shop.money <= night.spent() <= shop.money + 3 * kills * WHOLE


@pytest.mark.parametrize("told", [None, Decimal("0.05")])
def test_the_budget_is_exact_to_the_last_attempt(nights: NightFactory, told: Decimal | None) -> None:
    """What does not fit waits; when nothing is out that could come back, the run ends."""
    with nights(10) as night:
        shop = Scene(most=3).on(night)
        shop.told = told
        ended = run(night, budget=Decimal("0.50"))
        assert ended.reason is not None
        assert ended.reason.reason == "budget"
        each = HALF if told is None else 50_000_000
        assert night.spent() == shop.money <= 500_000_000
        assert ended.tally.done == shop.money // each
        assert 500_000_000 - night.spent() < HALF
        again = run(night, budget=Decimal("2.00"))
        assert (again.reason, statuses(night)) == (None, {"done": 10})
        assert night.spent() == shop.money == 10 * each


def test_what_comes_twice_is_money_that_the_others_do_not_have(nights: NightFactory) -> None:
    with nights(10) as night:
        shop = Scene(fates=(Fate(twice=4), DONE)).on(night)
        ended = run(night, canary=4, budget=Decimal("0.70"))
        assert ended.reason is not None
        assert (ended.reason.reason, ended.tally.done, shop.creates) == ("budget", 6, 2)
        assert night.spent() == shop.money == 10 * HALF


def test_what_was_not_made_for_others_makes_room_too(nights: NightFactory) -> None:
    """Jobs of a batch that this run does not select, and that it did not make, cost nothing any more."""
    with nights(8) as night:
        shop = Scene(fates=(Fate(made=0.5, ends="expired"), DONE)).on(night)
        run(night, stop_at=100.0)
        taken_out, night.jobs = night.jobs[-4:], night.jobs[:4]
        night.jobs += [replace(job, key=job.key[::-1], id=f"new-{job.id}") for job in taken_out]
        ended = run(night, budget=Decimal("0.56"))
        assert (ended.reason, ended.tally.done) == (None, 8)
        assert night.spent() == shop.money == 8 * HALF


def test_what_was_not_made_makes_room_in_the_budget(nights: NightFactory) -> None:
    with nights(8) as night:
        shop = Scene(fates=(Fate(made=0.5, ends="expired"), DONE)).on(night)
        ended = run(night, budget=Decimal("0.56"))
        assert (ended.reason, ended.tally.done, shop.creates) == (None, 8, 2)
        assert night.spent() == shop.money == 8 * HALF


def test_a_signal_leaves_batches_to_the_next_run_at_once(nights: NightFactory) -> None:
    with nights(8) as night:
        shop = Scene().on(night)
        ended = run(night, stop_at=100.0)
        assert ended.reason is not None
        assert (ended.reason.reason, ended.tally.done) == ("signal", 0)
        assert ended.seconds < 101
        assert night.spent() == 8 * HALF
        assert run(night, retry_failed=True, pay_again=True).tally.done == 8
        assert (shop.creates, night.spent(), shop.money) == (1, 8 * HALF, 8 * HALF)


def test_a_signal_while_a_batch_is_created_waits_for_its_handle(nights: NightFactory) -> None:
    with nights(8) as night:
        shop = Scene().on(night)
        shop.creating = 50.0
        ended = run(night, stop_at=20.0)
        assert 50 < ended.seconds < 52
        shop.creating = 0.05
        assert run(night).tally.done == 8
        assert (shop.creates, shop.free_steps["find"], night.spent()) == (1, 0, shop.money)


def test_a_deadline_leaves_batches_to_the_next_run(nights: NightFactory) -> None:
    with nights(8) as night:
        shop = Scene().on(night)
        ended = run(night, deadline=300.0)
        assert ended.reason is not None
        assert (ended.reason.reason, round(ended.seconds)) == ("deadline", 300)
        assert run(night).tally.done == 8
        assert (shop.creates, night.spent()) == (1, shop.money)


def test_a_batch_that_is_refused_ends_its_jobs_in_the_words_of_the_api(nights: NightFactory) -> None:
    for fate in (Fate(refused=Code.INVALID_REQUEST), Fate(validation=Code.INVALID_REQUEST)):
        with nights(4) as night:
            shop = Scene(fates=(fate, DONE)).on(night)
            ended = run(night)
            assert (ended.reason, ended.tally.codes, shop.creates) == (None, {"invalid_request": 4}, 1)
            assert {row.error for row in night.rows().values()} <= {"the batch is refused", "the file is refused"}
            assert night.spent() == shop.money == 0
            assert run(night, retry_failed=True).tally.done == 4


def test_one_job_that_no_batch_can_carry_does_not_keep_the_others(nights: NightFactory) -> None:
    with nights(4) as night:
        Scene().on(night)
        night.jobs[1] = replace(night.jobs[1], prompt="unsendable")
        ended = run(night)
        assert (ended.tally.done, ended.tally.codes) == (3, {"invalid_request": 1})
        assert night.spent() == 3 * HALF


@pytest.mark.parametrize("fate", [Fate(refused=Code.QUOTA), Fate(validation=Code.QUOTA)])
def test_a_key_without_money_leaves_the_pool(nights: NightFactory, fate: Fate) -> None:
    with nights(6) as night:
        shop = Scene(fates=(fate, DONE)).on(night)
        ended = run(night, keys=("A", "B"))
        assert (ended.reason, ended.tally.done, shop.creates) == (None, 6, 2)
        assert [lot.key for lot in shop.lots.values()][-1] == "B"
        assert (shop.wrong, night.spent()) == ([], shop.money)
    with nights(6) as night:
        shop = Scene(fates=(fate, DONE)).on(night)
        ended = run(night)
        assert ended.reason is not None
        assert (ended.reason.reason, night.spent(), shop.creates) == ("quota", 0, 1)
        assert run(night).tally.done == 6


def test_a_key_that_dies_while_its_batch_is_out_leaves_it_to_a_later_run(nights: NightFactory) -> None:
    with nights(6) as night:
        shop = Scene().on(night)
        died = JobError(Code.AUTH, "the key was revoked")
        shop.faults = lambda step, number: died if (step, number) == ("poll", 5) else None
        ended = run(night, keys=("A", "B"))
        assert (ended.reason, ended.tally.unknown) == (None, 6)
        assert all("known to the key A only" in (row.error or "") for row in night.rows().values())
        assert night.spent() == 6 * HALF
        assert run(night, keys=("A", "B")).tally.done == 6
        assert (shop.creates, night.spent()) == (1, shop.money)


def test_an_api_that_is_not_there_is_waited_for(nights: NightFactory) -> None:
    with nights(6) as night:
        shop = Scene().on(night)
        shop.faults = lambda _, number: JobError(Code.NETWORK, "no route") if 4 < number < 12 else None
        assert run(night).tally.done == 6
        assert (shop.creates, night.spent()) == (1, shop.money)
    with nights(6) as night:
        shop = Scene().on(night)
        shop.faults = lambda _, number: JobError(Code.NETWORK, "no route") if number > 4 else None
        ended = run(night)
        assert ended.reason is not None
        assert (ended.reason.reason, ended.tally.done) == ("failures", 0)
        shop.faults = lambda *_: None
        assert run(night).tally.done == 6
        assert (shop.creates, night.spent()) == (1, shop.money)


def test_a_batch_that_its_api_forgets_may_have_been_billed(nights: NightFactory) -> None:
    with nights(4) as night:
        shop = Scene().on(night)
        assert run(night, stop_at=100.0).reason is not None
        shop.lots.clear()
        ended = run(night, on_unknown="hold")
        assert (ended.tally.unknown, night.spent(), ended.seconds > 60) == (4, 4 * HALF, True)
        assert run(night, on_unknown="hold").seconds == 0
        assert run(night).tally.done == 4
        assert night.spent() == 8 * HALF


def test_lines_that_are_not_understood_may_be_those_that_are_missing(nights: NightFactory) -> None:
    with nights(8) as night:
        shop = Scene(fates=(Fate(strange=2), DONE)).on(night)
        ended = run(night)
        assert (ended.tally.done, ended.tally.codes) == (6, {"bad_answer": 2})
        assert night.spent() == shop.money == 8 * HALF
        assert all("could not be read" in row.error for row in night.rows().values() if row.error)


def test_answers_that_cannot_be_read_now_are_read_by_the_next_run(nights: NightFactory) -> None:
    with nights(4) as night:
        shop = Scene().on(night)
        shop.unreadable = JobError(Code.INVALID_REQUEST, "not now")
        ended = run(night)
        assert (ended.tally.unknown, night.spent()) == (4, 4 * HALF)
        shop.unreadable = None
        assert run(night).tally.done == 4
        assert night.spent() == shop.money
    with nights(4) as night:
        shop = Scene().on(night)
        shop.unreadable = JobError(Code.DOWNLOAD, "deleted", dead=True)
        assert run(night, on_unknown="hold").tally.unknown == 4
        assert run(night, on_unknown="hold").seconds == 0
        assert night.spent() == shop.money == 4 * HALF


def test_what_a_batch_has_is_not_made_live_when_the_mode_is_changed(nights: NightFactory) -> None:
    with nights(8) as night:
        shop = Scene().on(night)
        run(night, stop_at=100.0, limit=5)
        ended = run(night, batches=False)
        assert (ended.tally.done, shop.creates, shop.wrong) == (8, 1, [])
        assert night.spent() == shop.money == 5 * HALF + 3 * WHOLE


def test_answers_of_jobs_that_are_not_selected_wait(nights: NightFactory) -> None:
    with nights(6) as night:
        shop = Scene(fates=(Fate(twice=3),)).on(night)
        run(night, stop_at=100.0)
        assert run(night, only="j1").tally.done == 1
        assert night.spent() == 6 * HALF
        taken_out = night.jobs.pop()
        assert run(night).tally.done == 4
        night.jobs.append(taken_out)
        assert run(night).tally.done == 1
        assert (shop.creates, night.spent(), shop.money) == (1, 9 * HALF, 9 * HALF)


def test_a_batch_of_a_provider_that_is_gone_stays_as_it_is(nights: NightFactory) -> None:
    with nights(3) as night:
        shop = Scene().on(night)
        run(night, stop_at=100.0)
        seller, shop.sells = shop.rules, False
        ended = run(night)
        assert (ended.tally.unknown, shop.calls, night.spent()) == (3, [], 3 * HALF)
        assert all("no provider tuzi that sells batches" in (row.error or "") for row in night.rows().values())
        shop.sells = True
        assert seller is not None
        assert run(night).tally.done == 3
        assert (shop.creates, night.spent()) == (1, shop.money)


def test_a_batch_is_cancelled_when_its_hour_has_come_also_in_a_later_run(nights: NightFactory) -> None:
    with nights(8) as night:
        shop = Scene(fates=(Fate(hours=4),)).on(night)
        run(night, stop_at=100.0, live_from=2 * HOUR)
        night.epoch += 3 * HOUR
        shop.epoch += 3 * HOUR
        ended = run(night, live_from=2 * HOUR)
        assert (ended.tally.done, shop.creates, shop.wrong) == (8, 1, [])
        assert ended.seconds < 120
        assert night.spent() == shop.money == 6 * HALF + 2 * WHOLE


def test_what_has_not_left_at_the_hour_goes_live(nights: NightFactory) -> None:
    with nights(9) as night:
        shop = Scene(fates=(Fate(hours=9),), most=3).on(night)
        ended = run(night, live_from=HOUR, budget=Decimal("0.90"), concurrency=2)
        assert shop.wrong == []
        assert night.spent() == shop.money <= 900_000_000
        assert ended.tally.done == sum(shop.pictures.values())


def test_more_than_a_batch_holds_leaves_in_several(nights: NightFactory) -> None:
    with nights(25) as night:
        shop = Scene(most=10).on(night)
        assert run(night).tally.done == 25
        assert sorted(len(lot.keys) for lot in shop.lots.values()) == [5, 10, 10]
    with nights(25) as night:
        shop = Scene().on(night)
        shop.wire = ShopApi(most_bytes=1100)
        assert run(night).tally.done == 25
        assert 2 < shop.creates < 5


def test_unproven_kinds_leave_in_small_batches(nights: NightFactory) -> None:
    with nights(20) as night:
        shop = Scene(terms={"canary": 2}).on(night)
        assert run(night, canary=2).tally.done == 20
        assert [len(lot.keys) for lot in shop.lots.values()] == [2, 18]
    with nights(20) as night:
        shop = Scene().on(night)
        shop.wire = ShopApi(unproven=8)
        assert run(night).tally.done == 20
        assert [len(lot.keys) for lot in shop.lots.values()] == [8, 8, 4]


def test_nothing_more_is_bought_when_no_picture_of_the_first_batch_is_kept(nights: NightFactory) -> None:
    with nights(20) as night:
        shop = Scene().on(night)
        for job in night.jobs:
            night.pictures.faults[job.id] = [JobError(Code.DIFFERS, "a square")]
        ended = run(night, canary=3)
        assert ended.reason is not None
        assert (ended.reason.reason, shop.creates, night.spent()) == ("canary", 1, 3 * HALF)


def test_what_waits_is_bounded_and_the_rest_stays_in_the_source(
    nights: NightFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nights(30) as night:
        shop = Scene(most=8).on(night)
        run(night, stop_at=100.0, limit=20)
        assert sum(len(lot.keys) for lot in shop.lots.values()) == 20
        monkeypatch.setattr("batchflux.engine.batching.source.MOST", 6)  # fewer than are out already
        assert run(night).tally.done == 30
        assert max(len(lot.keys) for lot in [*shop.lots.values()][3:]) <= 6
        assert (shop.wrong, night.spent(), shop.money) == ([], 30 * HALF, 30 * HALF)


def test_answers_are_read_no_faster_than_they_are_taken(nights: NightFactory) -> None:
    with nights(60) as night:
        shop = Scene().on(night)
        shop.kept = lambda: night.pictures.spooled
        assert run(night, concurrency=1).tally.done == 60
        assert shop.read == 61
        assert AT_HAND <= shop.most_ahead <= AT_HAND + 2


def beside(night: Night, own: str) -> None:
    """Let each job be of one provider, and be made by the other where that cannot."""
    other = {"tuzi": "other", "other": "tuzi"}[own]
    way = Way(provider=other, style="standard", model="m")
    night.jobs = [replace(job, provider=own, model="m", style="standard", fallbacks=(way,)) for job in night.jobs]
    assert isinstance(night.server, Shop)
    night.server.beside = True


def test_who_sells_no_more_batches_leaves_its_jobs_to_another(nights: NightFactory) -> None:
    with nights(6) as night:
        shop = Scene(fates=(Fate(refused=Code.QUOTA),)).on(night)
        beside(night, "tuzi")
        ended = run(night)
        assert (ended.reason, ended.tally.done, shop.made_by) == (None, 6, {"other": 6})
        assert (shop.wrong, night.spent()) == ([], shop.money)


def test_a_batch_takes_what_another_provider_does_not_make(nights: NightFactory) -> None:
    with nights(6) as night:
        shop = Scene(fates=(Fate(made=0.5, ends="expired"), DONE)).on(night)
        beside(night, "other")
        shop.refuses = {"other": Code.MODERATED}
        assert run(night, stop_at=100.0).tally.done == 0
        ended = run(night)
        assert (ended.reason, ended.tally.done, shop.made_by, shop.creates) == (None, 6, {}, 2)
        assert (shop.wrong, night.spent()) == ([], shop.money)
        assert all('"provider": "tuzi"' in row.spec for row in night.rows().values())


def test_two_folders_whose_batches_are_out_are_joined(nights: NightFactory, tmp_path: Path) -> None:
    with nights(10) as one, nights(10) as other:
        shop = Scene(fates=(Fate(made=0.5, ends="expired"), DONE)).on(one)
        other.server, other.rules = shop, shop.rules
        one.jobs, other.jobs = one.jobs[:6], other.jobs[4:]  # two of them in both
        run(other, stop_at=100.0)
        run(one, stop_at=100.0)
        merge(one.folder, other.folder, tmp_path / "both", lambda *_: None)
        jobs = list({job.key: job for job in (*one.jobs, *other.jobs)}.values())
        both = replace(one, folder=tmp_path / "both", jobs=jobs)
        shop.wrong.clear()
        ended = run(both)
        assert (ended.reason, statuses(both)) == (None, {"done": 10})
        twice = sum(shop.pictures.values()) - 10
        assert both.spent() == shop.money == (10 + twice) * HALF
        assert shop.wrong == []


def statuses(night: Night) -> dict[str, int]:
    return dict(Counter(row.status for row in night.rows().values()))
