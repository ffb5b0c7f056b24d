"""What a plan costs: each call at the price of its job's model."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from batchflux import load_manifest, plan

if TYPE_CHECKING:
    from pathlib import Path

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
