"""What `plan` says of live and of batches against what they came to: price to the last digit, time within 2 %."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batchflux.ledger.tables import currency
from batchflux.planner import load_manifest, plan
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
