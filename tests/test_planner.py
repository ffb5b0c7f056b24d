"""What a plan costs: each call at the price of its job's model."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from batchflux import load_manifest, plan
from batchflux.cli.manifest import plan_lines
from batchflux.errors import ManifestError

if TYPE_CHECKING:
    from pathlib import Path

    from batchflux.planner import Plan

MANIFEST = """
version: 1
name: models
provider: {{name: studio, base_url: "http://127.0.0.1:9", currency: CNY{price}}}
jobs:
  - {{id: a, prompt: A cup, model: flux-kontext-pro}}
  - {{id: b, prompt: A cup, model: flux-kontext-max}}
  - {{id: c, prompt: A pot, model: flux-kontext-max}}
"""


@pytest.mark.parametrize(("price", "cost"), [("", None), (", price: 0.14", Decimal("0.42"))])
def test_a_plan_costs_what_its_calls_cost(tmp_path: Path, price: str, cost: Decimal | None) -> None:
    (tmp_path / "m.yaml").write_text(MANIFEST.format(price=price), encoding="utf-8")
    planned = plan(load_manifest(tmp_path / "m.yaml"))
    assert planned.models == {"flux-kontext-pro": 1, "flux-kontext-max": 2}
    assert (planned.calls, planned.cost) == (3, cost)


def test_nothing_to_do_costs_nothing(tmp_path: Path) -> None:
    text = MANIFEST.format(price=", price: 0.14").partition("jobs:")[0]
    (tmp_path / "m.yaml").write_text(
        f"{text}jobs:\n  - {{id: a, prompt: A cup, images: [gone.jpg]}}\n", encoding="utf-8"
    )
    planned = plan(load_manifest(tmp_path / "m.yaml"))
    assert (planned.calls, planned.unreadable, planned.price, planned.cost) == (0, 1, Decimal("0.14"), Decimal(0))


SEVERAL = """
version: 1
name: several
providers:
  cheap: {api: flux-relay, base_url: "http://127.0.0.1:9", keys: [CHEAP_KEY], price: 0.02}
  best: {api: bfl, keys: [BEST_KEY], price: 0.08, limits: {concurrency: 2}}
  spare: {api: bfl, keys: [SPARE_KEY], price: 1}
fallback: [best]
limits: {concurrency: 4, budget: 0.5}
jobs:
  - {prompt: A cup, matrix: {seed: {range: [1, 6]}}}
  - {prompt: A pot, matrix: {provider: [cheap, best]}}
"""


def test_a_plan_says_what_each_provider_does_and_who_takes_over(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(SEVERAL, encoding="utf-8")
    manifest = load_manifest(tmp_path / "m.yaml")
    planned = plan(manifest, environ={"BEST_KEY": "k"})
    each = planned.providers
    assert {name: (one.jobs, one.calls, one.takes_over) for name, one in each.items()} == {
        "cheap": (7, 7, 0),
        "best": (1, 1, 6),
        "spare": (0, 0, 0),
    }
    assert (each["cheap"].cost, each["best"].cost, planned.cost) == (Decimal("0.14"), Decimal("0.08"), Decimal("0.22"))
    assert (planned.without_fallback, planned.worst_cost) == (2, Decimal("0.58"))
    assert (planned.keys_missing, each["cheap"].keys_missing) == (("CHEAP_KEY",), ("CHEAP_KEY",))
    assert (each["cheap"].concurrency, each["best"].concurrency, planned.canary) == (4, 2, 4)
    text = "\n".join(plan_lines(planned, manifest))
    assert "fallback  best can take over 6 calls, none can take over 2 calls" in text
    assert "at most   0.58 USD, if the dearest made all they can take over; the budget would stop that" in text


def test_simulated_all_of_several_cost_nothing(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(SEVERAL, encoding="utf-8")
    manifest = load_manifest(tmp_path / "m.yaml", provider="simulator")
    planned = plan(manifest, environ={})
    assert (planned.calls, planned.cost, planned.keys_missing, planned.canary) == (8, None, (), 0)
    assert "nothing (simulated)" in "\n".join(plan_lines(planned, manifest))


NIGHT = """
version: 1
name: night
provider: {name: openai, model: gpt-image-1.5, price: 0.412, %s}
limits: {rate: 5/min, budget: 300, canary: 0}
jobs: [{prompt: "A mug {{ n }}", matrix: {n: {range: [1, 1000]}}}]
"""


def planned(path: Path, mode: str) -> tuple[Plan, str]:
    """Return the plan of a night in a mode, and what a person reads of it."""
    path.write_text(NIGHT % mode, encoding="utf-8")
    manifest = load_manifest(path, out=str(path.parent / "out"))
    made = plan(manifest, environ={"OPENAI_API_KEY": "k"})
    return made, "\n".join(plan_lines(made, manifest))


@pytest.mark.parametrize("mode", ["mode: live", "mode: batch", "mode: batch_then_live, live_from: 5h"])
def test_a_plan_compares_what_a_night_costs_live_and_in_batches(tmp_path: Path, mode: str) -> None:
    made, text = planned(tmp_path / "m.yaml", mode)
    one = made.providers["openai"]
    assert {name: (each.cost, round(each.seconds)) for name, each in one.modes.items()} == {
        "live": (Decimal(412), round(15 + 999 * 60 / 5)),
        "batch": (Decimal(206), 24 * 3600),
    }
    assert "  modes     live: 412.00 USD, about 3 h 20 min; batch: 206.00 USD, up to 24 h" in text
    live = mode == "mode: live"
    assert (one.cost, made.cost, made.worst_cost) == (
        *(2 * [Decimal(412) if live else Decimal(206)]),
        Decimal(206) if mode == "mode: batch" else Decimal(412),
    )
    assert ("which will stop the run before its end" in text) is live  # the budget holds at the price of the mode


def test_a_plan_says_until_when_batches_are_waited_for(tmp_path: Path) -> None:
    made, text = planned(tmp_path / "m.yaml", "mode: batch_then_live, live_from: 5h")
    assert round(made.seconds) == 5 * 3600 + round(made.providers["openai"].modes["live"].seconds)
    assert "  time      up to 8 h 20 min: batches for 5h, then live what is not back" in text
    assert "  at most   412.00 USD, if batches gave nothing for 5h; the budget would stop that before its end" in text


def test_a_canary_is_a_batch_of_its_own_before_the_others(tmp_path: Path) -> None:
    text = NIGHT.replace("canary: 0", "canary: 4") % "mode: batch, batch_share: 0.4"
    (tmp_path / "m.yaml").write_text(text, encoding="utf-8")
    manifest = load_manifest(tmp_path / "m.yaml", out=str(tmp_path / "out"))
    made = plan(manifest, environ={"OPENAI_API_KEY": "k"})
    assert (made.cost, made.seconds, made.canary) == (Decimal("164.8"), 2 * 24 * 3600, 4)
    assert "164.80 USD (1,000 x 0.1648, in batches)" in "\n".join(plan_lines(made, manifest))


SIZED = """
version: 1
name: sized
provider: {name: bfl, model: flux-2-pro, price: {flux-2-pro: {megapixel: 0.03, further: 0.015}}}
limits: {budget: 10}
jobs:
  - {prompt: A cup, aspect_ratio: "1:1"}
  - {prompt: A pot}
  - {prompt: A jug, aspect_ratio: "1:1", image: https://x.example/jug.png}
"""


def test_a_plan_by_megapixels_costs_at_most_what_is_reserved(tmp_path: Path) -> None:
    """1, 4, and 1 of the picture with 4 of a reference."""
    (tmp_path / "m.yaml").write_text(SIZED, encoding="utf-8")
    manifest = load_manifest(tmp_path / "m.yaml")
    planned = plan(manifest, environ={"BFL_API_KEY": "k"})
    assert planned.cost == Decimal("0.03") + Decimal("0.075") + Decimal("0.09")
    assert "0.195 USD at most (3 by their sizes)" in "\n".join(plan_lines(planned, manifest))


def test_what_the_simulator_does_not_know_is_a_fault_of_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(
        "version: 1\nproviders:\n  a: {api: simulator, options: {latncy: 1}}\n"
        "  b:\n    api: simulator\n    options: {faults: {reset: 5}}\njobs: [{prompt: x}]\n"
    )
    manifest = load_manifest(tmp_path / "m.yaml", out=str(tmp_path / "out"))
    with pytest.raises(ManifestError) as caught:
        plan(manifest)
    assert [(fault.line, fault.where) for fault in caught.value.faults] == [
        (3, "providers.a.options"),
        (6, "providers.b.options"),
    ]
    assert "did you mean latency?" in caught.value.faults[0].message
