"""Batches, from the first job that is put aside to the last answer that is read, killed wherever that can be.

In each scene every job has its picture in the end, once, and the ledger says to the last attempt what was billed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.errors import Code, JobError
from tests.engine.batch_shop import HALF, HOUR, WHOLE, Fate, Shop, ShopApi, killing

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.capabilities import BatchTerms
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
    "then_live": Scene(fates=(Fate(hours=9, made=1.0),), terms={"live_from": 4.5 * HOUR}),
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


POINTS = (
    "batch.written batch.authorized batch.uploaded batch.leaving batch.created batch.recorded batch.answered"
    " answer.recorded batch.read batch.closed attempt.failing attempt.settled"
).split()


@pytest.mark.parametrize("name", SCENES)
def test_killed_at_any_point_it_goes_on_where_it_stood(nights: NightFactory, name: str) -> None:
    scene, killed = SCENES[name], Counter[str]()
    for point in POINTS:
        for number in (1, 2, 3, 7):
            with nights(scene.count) as night, killing(point, number):
                shop = scene.on(night)
                if not run(night, **scene.terms).killed:
                    continue
                killed[point] += 1
                assert night.spent() >= shop.money, "the ledger knows of less than was billed"
                ended = run(night, **scene.terms)
                assert ended.reason is None, (point, number)
                hold(night, shop, scene)
    assert len(killed) >= 9
