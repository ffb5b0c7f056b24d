"""Budgets and rates of clients, raced: never over, not by one picture, whatever comes at once or after a crash."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from batchflux.gateway import desk
from batchflux.manifest.reading.values import Rate
from batchflux.testing.bank import PRICE
from tests.gateway.hostile.conftest import IMAGES, House
from tests.waiting import until

pytestmark = pytest.mark.slow


async def test_pictures_of_one_call_count_each(house: House) -> None:
    house.client("a", budget=f"{PRICE * 3:.2f}")
    async with house.caller() as caller:
        assert await caller.buy("job four", n=4) == (429, "insufficient_quota")
        assert house.bank.billed.total() == 0
        assert await caller.buy("job two", n=2) == (200, None)
        assert await caller.buy("job another two", n=2) == (429, "insufficient_quota")
        assert await caller.buy("job one") == (200, None)
    assert house.bank.billed.total() == 3


async def test_what_a_retry_costs_is_the_clients_too(house: House) -> None:
    """An answer without a picture may be billed: the second attempt has to fit into the budget, as the first did."""
    house.client("a", budget=f"{PRICE:.2f}")
    async with house.caller() as caller:
        assert (await caller.buy("job a #nojson"))[0] in {400, 429}
        assert await caller.buy("job b") == (429, "insufficient_quota")
    assert house.bank.posts.total() == 1


async def test_the_manifests_budget_bounds_all_clients_together(house: House) -> None:
    house.more = f"limits: {{budget: {PRICE * 5:.2f}}}\n"
    house.client("a", budget="100")
    house.client("b")
    async with house.callers() as callers:
        calls = (callers["ab"[number % 2]].buy(f"job {number}") for number in range(20))
        ends = Counter(await house.at_once(*calls))
        assert ends == {(200, None): 5, (429, "insufficient_quota"): 15}
    assert house.bank.billed.total() == 5


async def test_a_client_that_joins_pays_nothing_and_needs_no_money(house: House) -> None:
    house.client("a", budget=f"{PRICE:.2f}", rate=Rate(count=1, seconds=3600))
    async with house.caller() as caller:
        ends = await house.at_once(*(caller.buy("job a") for _ in range(20)))
        assert set(ends) == {(200, None)}
        assert await caller.buy("job a", headers={"x-stainless-retry-count": "1"}) == (200, None)
    assert house.bank.billed.total() == 1


async def test_who_paid_and_who_joined_is_told_apart(house: House) -> None:
    async with house.caller() as caller:
        ends = await house.at_once(*(caller.ask(IMAGES, {"prompt": "job a"}) for _ in range(5)))
        assert sorted("x-batchflux-joined" in headers for _, _, headers in ends) == [False, True, True, True, True]
        again = await caller.ask(IMAGES, {"prompt": "job a"}, headers={"x-stainless-retry-count": "1"})
        assert again[2]["x-batchflux-joined"] == "true"


async def test_a_rate_that_is_raced(house: House) -> None:
    house.client("a", rate=Rate(count=5, seconds=3600))
    house.client("b", rate=Rate(count=5, seconds=3600))
    async with house.callers() as callers:
        ends = await house.at_once(*(callers["a"].buy(f"job {number}") for number in range(30)))
        assert Counter(ends) == {(200, None): 5, (429, "rate_limit_exceeded"): 25}
        status, said, headers = await callers["a"].ask(IMAGES, {"prompt": "job late"})
        assert (status, said["error"]["code"]) == (429, "rate_limit_exceeded")
        assert 3000 < int(headers["Retry-After"]) <= 3600
        assert "5/h" in said["error"]["message"]
        assert (await callers["a"].ask("/v1/models"))[0] == 200, "looking costs nothing"
        assert await callers["b"].buy("job of another") == (200, None)
    assert house.bank.billed.total() == 6


async def test_a_marked_call_is_paid_once_however_often_it_comes_at_once(house: House) -> None:
    house.client("a")
    house.client("b")
    async with house.callers() as callers:
        mark = {"Idempotency-Key": "order 4711"}
        ends = await house.at_once(*(callers["a"].buy("job a", headers=mark) for _ in range(20)))
        assert set(ends) == {(200, None)}
        assert await callers["a"].buy("job a", headers=mark) == (200, None)
        assert house.bank.billed.total() == 1
        assert await callers["a"].buy("job other", headers=mark) == (400, "idempotency_key_reused")
        assert await callers["a"].buy("job a", n=2, headers=mark) == (400, "idempotency_key_reused")
        assert await callers["b"].buy("job a", headers=mark) == (200, None), "a mark is a client's own"
    assert house.bank.billed.total() == 2


async def test_two_contents_race_for_one_mark(house: House) -> None:
    async with house.caller() as caller:
        mark = {"Idempotency-Key": "k"}
        ends = Counter(await house.at_once(*(caller.buy(f"job {number % 2}", headers=mark) for number in range(10))))
        assert ends == {(200, None): 5, (400, "idempotency_key_reused"): 5}
    assert house.bank.billed.total() == 1


async def test_a_client_that_is_taken_out_loses_its_budget_and_not_its_bound(house: House) -> None:
    """What it has waiting must not be bought without one."""
    house.client("b")
    house.client("a", budget=f"{PRICE * 2:.2f}")
    bank = house.bank
    bank.held = lambda: True
    async with house.callers() as callers:
        assert house.desk is not None
        desk, keys = house.desk, house.read
        calls = [asyncio.create_task(callers["a"].buy(f"job {number}")) for number in range(12)]
        await until(lambda: bank.posts.total() == 2 and desk.waiting + sum(call.done() for call in calls) == 12)
        house.take_out("a")
        assert keys is not None
        keys.reload()
        bank.held = None
        ends = Counter(await asyncio.gather(*calls))
        assert ends == {(200, None): 2, (429, "insufficient_quota"): 10}
        assert await callers["a"].buy("job late") == (401, "invalid_api_key")
    assert house.bank.billed.total() == 2


async def test_spent_money_is_spent_in_the_next_run_too(house: House) -> None:
    house.client("a", budget=f"{PRICE * 3:.2f}")
    async with house.caller() as caller:
        assert await caller.buy("job 1") == (200, None)
        assert await caller.buy("job 2") == (200, None)
    house.renew("a")
    async with house.caller() as caller:
        assert await caller.buy("job 3") == (200, None)
        assert await caller.buy("job 4") == (429, "insufficient_quota")
        assert await caller.buy("job 3", headers={"x-stainless-retry-count": "2"}) == (200, None), "of before"
    assert house.bank.billed.total() == 3


async def test_a_client_that_asks_and_leaves_leaves_so_many_calls_behind(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "MOST_OF_CLIENT", 10)
    house.client("a")
    house.client("b")
    async with house.callers() as callers:
        ends = Counter(await house.at_once(*(callers["a"].buy(f"job {number}") for number in range(30))))
        assert ends == {(200, None): 10, (429, "rate_limit_exceeded"): 20}
        assert await callers["b"].buy("job of another") == (200, None)
        assert await callers["a"].buy("job later") == (200, None)
    assert house.bank.billed.total() == 12
