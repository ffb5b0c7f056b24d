"""The engine's settings from a manifest; the first request of a run keeps its distance to the last one on record."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from batchflux import load_manifest
from batchflux.engine.key_pool import Key
from batchflux.engine.pace import Pace
from batchflux.engine.settings import keep_distance, keys_of, rules_of
from batchflux.engine.shutdown import Gate
from batchflux.ledger.ledger import last_activity
from batchflux.ledger.tables import empty_ledger

if TYPE_CHECKING:
    from pathlib import Path

INTERVAL = (60.0 + 0.05) / 2  # of two requests a minute, with the allowance of a long window


def _wait(pace: Pace, last: float | None) -> float:
    keep_distance([Key(name="A", secret=None, pace=pace)], last)
    now = time.monotonic()
    return pace.next_at(now) - now


@pytest.mark.parametrize(
    ("age", "wait"),
    [
        (0.0, INTERVAL),
        (10.0, INTERVAL - 10.0),
        (3600.0, 0.0),
        (-3600.0, INTERVAL),  # the clock was set back meanwhile
    ],
)
def test_the_first_request_waits_for_what_is_left_of_an_interval(age: float, wait: float) -> None:
    assert _wait(Pace(2, 60.0), time.time() - age) == pytest.approx(wait, abs=2.0)


def test_never_more_than_the_window() -> None:
    assert _wait(Pace(0.01, 60.0), time.time()) == pytest.approx(60.0, abs=2.0)


def test_without_a_rate_or_an_earlier_run_nothing_waits() -> None:
    assert _wait(Pace(), time.time()) == 0.0
    assert _wait(Pace(2, 60.0), None) == 0.0


def test_the_last_activity_is_the_latest_of_all_that_sent() -> None:
    with empty_ledger() as connection:
        assert last_activity(connection) is None
        row = "INSERT INTO jobs (key, id, position, planned, tags, spec, attempts, started_at, finished_at)"
        for number, values in enumerate([(1, 5.0, None), (1, 1.0, 7.0), (2, 2.0, 3.0), (0, 9.0, 9.0)]):
            connection.execute(f"{row} VALUES (?, 'a', 0, '', '', '', ?, ?, ?)", (bytes([number]), *values))
        assert last_activity(connection) == 7.0
    connection.close()


def test_the_rules_of_a_manifest_hold_the_keys_the_price_and_the_providers_cap(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "version: 1\nname: n\nprovider: {name: simulator, price: 0.5, currency: CNY}\n"
        "limits: {concurrency: 9, budget: 1.2}\njobs: [{prompt: a cup, model: m}]\n"
    )
    manifest = load_manifest(path)

    async def scene() -> None:
        gate = Gate()
        keys = keys_of(manifest, {})
        assert [(key.name, key.secret) for key in keys] == [("(no key)", None)]
        rules = rules_of(manifest, keys, gate, 200_000_000, "retry", active_tasks=4)
        assert (rules.limits.concurrency, rules.price, rules.fetches) == (4, 500_000_000, 26)
        assert [rules.budget.try_reserve(rules.price) for _ in range(3)] == [True, True, False]
        assert rules_of(manifest, keys, gate, 0, "retry").limits.concurrency == 9

    asyncio.run(scene())
