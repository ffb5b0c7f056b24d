"""What `plan` says of live and of batches against what they came to: price to the last digit, time within 2 %."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.ledger.summary import batch_sent_at
from batchflux.ledger.tables import currency
from batchflux.planner import load_manifest, plan
from batchflux.planner.doubts import looked_at
from batchflux.planner.modes import Pace, in_batches
from tests.engine.batch_shop import Fate, Shop

if TYPE_CHECKING:
    from batchflux.planner import ProviderPlan
    from tests.engine.conftest import Night, NightFactory

MANIFEST = """
version: 1
name: night
provider: {{name: tuzi, api: openai, base_url: "https://x.example", model: gpt-image-1.5, price: 0.14, mode: {mode}}}
limits: {{concurrency: 8, canary: {canary}}}
jobs: [{{prompt: "A mug {{{{ n }}}}", matrix: {{n: {{range: [1, {jobs}]}}}}}}]
"""


def planned(night: Night, mode: str, jobs: int, canary: int) -> ProviderPlan:
    """Return what a plan of so many new jobs says in a folder where a night has been before."""
    path = night.folder / "m.yaml"
    path.write_text(MANIFEST.format(mode=mode, jobs=jobs, canary=canary), encoding="utf-8")
    return plan(load_manifest(path, out=str(night.folder)), environ={}).providers["tuzi"]


def shop_of(night: Night) -> Shop:
    """Let a night be at a provider that makes a batch within the hour, and a picture in some seconds."""
    shop = Shop(Fate(hours=0.8))
    night.server, night.rules = shop, shop.rules
    return shop


@pytest.mark.parametrize(
    ("mode", "before", "canary", "terms"),
    [
        ("batch", 5, 0, {"batches": True}),
        ("batch", 40, 4, {"batches": True, "canary": 4}),
        ("live", 60, 0, {"batches": False, "concurrency": 8}),
    ],
)
def test_price_and_time_are_what_was_planned(
    nights: NightFactory, mode: str, before: int, canary: int, terms: dict[str, Any]
) -> None:
    """A first run tells how long it takes; the plan of another one, of 200 jobs, is held to what that comes to."""
    with nights(before) as night, nights(200) as other:
        shop_of(night)
        assert night.run(**terms).tally.done == before
        shop_of(other)
        ended = other.run(**terms)
        assert ended.tally.done == 200
        said = planned(night, mode, 200, canary)
        assert said.cost == currency(other.spent())
        assert said.seconds == pytest.approx(ended.seconds, rel=0.02)


def test_how_long_batches_took_says_nothing_of_live_calls(nights: NightFactory) -> None:
    with nights(5) as night:
        shop_of(night)
        night.run(batches=True)
        said = planned(night, "live", 8, 0)
        assert said.seconds == said.modes["live"].seconds == 15
        assert len(said.modes["batch"].took) == 1


def test_a_batch_that_is_open_is_waited_for(nights: NightFactory) -> None:
    """Nothing is left to send, and the API has its whole time for it: from when it left, long ago on this clock."""
    with nights(5) as night:
        shop_of(night)
        assert night.run(batches=True, kill_at=60.0).killed
        with closing(sqlite3.connect(night.folder / "ledger.db")) as connection:
            connection.execute("UPDATE submissions SET sent_at = ?", (time.time() - 6 * 3600,))
            connection.commit()
        made = planned(night, "batch", 5, 0).modes["batch"]
        assert made.seconds == pytest.approx(24 * 3600)  # for those of the manifest, which are others
        (night.folder / "m.yaml").write_text(MANIFEST.format(mode="batch", jobs=1, canary=0), encoding="utf-8")
        with looked_at(night.folder) as ledger:
            pace = Pace(None, {}, sent_at=batch_sent_at(ledger, "tuzi"))
        left = in_batches(load_manifest(night.folder / "m.yaml").provider, 0, pace)
        assert left is not None
        assert left.seconds == pytest.approx(18 * 3600, rel=0.001)
