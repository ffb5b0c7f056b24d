"""A client's budget, raced: what the slow tests beside this one look at closely, in short."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from batchflux.testing.bank import PRICE

if TYPE_CHECKING:
    from tests.gateway.hostile.conftest import House


async def test_fifty_at_once_buy_what_the_budget_holds_and_not_one_more(house: House) -> None:
    house.client("a", budget=f"{PRICE * 7:.2f}")
    house.client("b")
    async with house.callers() as callers:
        ends = await house.at_once(*(callers["a"].buy(f"job a{number}") for number in range(50)))
        assert Counter(ends) == {(200, None): 7, (429, "insufficient_quota"): 43}
        assert house.bank.billed.total() == 7
        assert await callers["a"].buy("job one more") == (429, "insufficient_quota")
        assert await callers["b"].buy("job of another") == (200, None)
    assert house.bank.billed.total() == 8
