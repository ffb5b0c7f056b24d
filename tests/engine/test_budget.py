"""The budget holds over any schedule, and ends the run only when no money can come back."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.engine.budget import UNBOUND, Budget, Ceiling
from batchflux.engine.shutdown import Gate, Halted
from batchflux.errors import Code, StopRun

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.engine.clock import VirtualLoop
    from tests.engine.conftest import Night, NightFactory

PRICE = Decimal("0.14")
NANOS = 140_000_000
PLAIN = settings(deadline=None, max_examples=20)


async def reserve(budget: Budget, price: int = 10) -> None:
    """As the engine does: try, and wait while others may give back."""
    while not budget.try_reserve(price):
        await budget.wait(price)


def limited(limit: int | None, spent: int = 0) -> tuple[Budget, Gate]:
    gate = Gate()
    return Budget(folder=Ceiling(limit, "0.25 CNY"), spent=spent, gate=gate), gate


async def test_the_last_penny_is_spent_and_not_one_more() -> None:
    budget, gate = limited(25)
    await reserve(budget)
    budget.settle(10, 10)
    await reserve(budget)
    budget.settle(10, 10)
    with pytest.raises(Halted):
        await reserve(budget)
    assert gate.reason is not None
    assert (gate.reason.reason, gate.reason.exit_code) == ("budget", 3)
    assert str(gate.reason) == ("The budget of 0.25 CNY is used up: raise limits.budget and run again to continue.")
    assert (budget.spent, budget.reserved) == (20, 0)


async def test_a_budget_that_earlier_runs_used_up_starts_nothing() -> None:
    budget, gate = limited(25, spent=16)
    with pytest.raises(Halted):
        await reserve(budget)
    assert gate.closed


async def test_money_that_may_come_back_is_waited_for() -> None:
    budget, gate = limited(10)
    await reserve(budget)
    waiting = asyncio.ensure_future(reserve(budget))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert not gate.closed
    budget.settle(10, 0)
    await waiting
    assert (budget.spent, budget.reserved) == (0, 10)


async def test_those_who_wait_are_sent_home_when_the_money_does_not_come_back() -> None:
    budget, gate = limited(10)
    await reserve(budget)
    waiting = [asyncio.ensure_future(reserve(budget)) for _ in range(3)]
    await asyncio.sleep(0)
    budget.settle(10, 10)
    assert [type(result) for result in await asyncio.gather(*waiting, return_exceptions=True)] == [Halted] * 3
    assert gate.reason is not None
    assert gate.reason.reason == "budget"


async def test_a_closing_gate_ends_the_wait() -> None:
    budget, gate = limited(10)
    await reserve(budget)
    waiting = asyncio.ensure_future(reserve(budget))
    await asyncio.sleep(0)
    gate.close(StopRun("signal", "Stopped by SIGTERM."))
    with pytest.raises(Halted):
        await waiting
    assert budget.reserved == 10


async def test_one_who_gives_up_waiting_leaves_the_money_to_the_others() -> None:
    budget, _ = limited(10)
    await reserve(budget)
    quitter, other = asyncio.ensure_future(reserve(budget)), asyncio.ensure_future(reserve(budget))
    await asyncio.sleep(0)
    quitter.cancel()
    budget.settle(10, 0)
    await other
    assert budget.reserved == 10


async def test_two_prices_share_a_budget_and_the_dear_one_waits_until_it_can_never_fit() -> None:
    budget, gate = limited(10)
    await reserve(budget, 4)
    dear = asyncio.ensure_future(reserve(budget, 8))
    await asyncio.sleep(0)
    assert not dear.done()
    await reserve(budget, 4)
    budget.settle(4, 0)
    await asyncio.sleep(0)
    assert (budget.reserved, dear.done(), gate.closed) == (4, False, False)
    budget.settle(4, 4)
    with pytest.raises(Halted):
        await dear
    assert (budget.spent, budget.reserved) == (4, 0)
    assert gate.reason is not None


async def test_what_an_answer_tells_takes_the_place_of_the_price() -> None:
    budget, _ = limited(25)
    await reserve(budget)
    budget.settle(10, 3)
    await reserve(budget)
    budget.settle(10, 12)
    assert (budget.spent, budget.reserved) == (15, 0)
    await reserve(budget)
    waiting = asyncio.ensure_future(reserve(budget, 5))
    await asyncio.sleep(0)
    assert not waiting.done()
    budget.adjust(10, 4)  # the task is still out, but its submit told what it costs
    await waiting
    assert (budget.spent, budget.reserved) == (15, 9)


@settings(deadline=None, max_examples=50)
@given(
    limit=st.integers(0, 60),
    attempts=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 100), st.integers(0, 9)), min_size=1, max_size=20),
)
def test_no_mix_of_prices_passes_the_limit(
    virtual_loop: type[VirtualLoop], limit: int, attempts: list[tuple[int, int, int]]
) -> None:
    """Each attempt costs its price, or nothing, or less."""
    most = 0

    async def attempt(budget: Budget, price: int, share: int, after: int) -> None:
        nonlocal most
        await reserve(budget, price)
        most = max(most, budget.spent + budget.reserved)
        await asyncio.sleep(after)
        budget.settle(price, price * share // 100)

    async def scene() -> None:
        budget, gate = limited(limit)
        ended = await asyncio.gather(*(attempt(budget, *each) for each in attempts), return_exceptions=True)
        assert most <= limit
        assert budget.reserved == 0
        halted = [price for (price, _, _), result in zip(attempts, ended, strict=True) if isinstance(result, Halted)]
        assert gate.closed == bool(halted)
        assert not halted or budget.spent + max(halted) > limit, "it stopped with money left"

    with asyncio.Runner(loop_factory=virtual_loop) as runner:
        runner.run(scene())


async def test_without_a_limit_nothing_waits() -> None:
    budget, gate = limited(None)
    for _ in range(100):
        await reserve(budget)
    assert (budget.reserved, gate.closed) == (1000, False)


async def test_a_higher_limit_wakes_those_who_wait_and_is_named_when_it_is_used_up() -> None:
    budget, gate = limited(10)
    await reserve(budget)
    waiting = [asyncio.ensure_future(reserve(budget)) for _ in range(2)]
    await asyncio.sleep(0)
    budget.retune(Ceiling(20, "0.50 CNY"), UNBOUND)
    await asyncio.wait_for(waiting[0], 60)
    assert (budget.reserved, waiting[1].done(), gate.closed) == (20, False, False)
    budget.retune(UNBOUND, UNBOUND)
    await asyncio.wait_for(waiting[1], 60)
    assert budget.reserved == 30
    budget.retune(Ceiling(20, "0.50 CNY"), UNBOUND)
    for _ in range(3):
        budget.settle(10, 10)
    with pytest.raises(Halted):
        await reserve(budget)
    assert str(gate.reason) == "The budget of 0.50 CNY is used up: raise limits.budget and run again to continue."


async def test_a_run_has_a_limit_of_its_own_beside_the_folders() -> None:
    gate = Gate()
    budget = Budget(folder=Ceiling(100, "1 CNY"), run=Ceiling(20, "0.20 CNY"), spent=50, gate=gate)
    for _ in range(2):
        await reserve(budget)
        budget.settle(10, 10)
    with pytest.raises(Halted):
        await reserve(budget)
    said = "This run's budget of 0.20 CNY is used up: run again to continue, or raise limits.budget_per_run."
    assert (str(gate.reason), budget.spent) == (said, 70)


@pytest.mark.parametrize("cost", [0, 10, 15])
async def test_what_an_earlier_run_sent_gives_this_one_no_room_and_takes_none(cost: int) -> None:
    gate = Gate()
    budget = Budget(run=Ceiling(20, "0.20 CNY"), spent=50, gate=gate)
    budget.take_up(10)
    await reserve(budget)
    budget.settle(10, cost, earlier=True)
    await reserve(budget)
    assert not budget.try_reserve(1)
    assert budget.spent + budget.reserved == 50 - 10 + cost + 20


async def test_the_folders_limit_is_named_where_both_are_used_up() -> None:
    gate = Gate()
    budget = Budget(folder=Ceiling(10, "1 CNY"), run=Ceiling(5, "0.20 CNY"), spent=10, gate=gate)
    with pytest.raises(Halted):
        await reserve(budget, 6)
    assert "limits.budget and run again" in str(gate.reason)


async def test_no_one_waits_for_money_once_the_run_is_stopping() -> None:
    budget, gate = limited(10)
    await reserve(budget)
    gate.close(StopRun("signal", "Stopped by SIGTERM."))
    with pytest.raises(Halted):
        await asyncio.wait_for(budget.wait(10), 60)
    assert gate.reason is not None
    assert gate.reason.reason == "signal"


def test_a_run_waits_for_a_free_ending_before_it_gives_up(night: Callable[[int], Night]) -> None:
    scene = night(2)
    scene.server.api = {"j0": [scene.error(Code.MODERATED, 50)], "j1": [scene.picture(), scene.picture()]}
    ended = scene.run(budget=PRICE)
    assert ended.reason is None
    assert {name: row.status for name, row in scene.rows().items()} == {"j0": "failed", "j1": "done"}
    assert scene.server.calls[1].at > 50


def test_a_run_stops_at_its_budget_and_goes_on_with_a_higher_one(night: Callable[[int], Night]) -> None:
    scene = night(10)
    ended = scene.run(budget=PRICE * 3 + Decimal("0.13"), concurrency=8)
    assert ended.reason is not None
    assert (ended.reason.reason, ended.tally.done, len(scene.server.calls)) == ("budget", 3, 3)
    assert scene.run(budget=PRICE * 10, concurrency=8).reason is None
    assert len(scene.server.calls) == 10
    assert scene.spent() == 10 * NANOS


def test_each_run_spends_its_own_budget_until_the_folders_is_used_up(night: Callable[[int], Night]) -> None:
    scene = night(10)
    for calls in (4, 8, 9):
        ended = scene.run(budget=PRICE * 9, budget_per_run=PRICE * 4, concurrency=8)
        assert ended.reason is not None
        assert (ended.reason.reason, len(scene.server.calls)) == ("budget", calls)
    assert "limits.budget and" in str(ended.reason)
    assert scene.spent() == 9 * NANOS


ENDINGS = st.sampled_from(
    [
        (None, False),
        (None, False),
        (Code.SERVER, False),
        (Code.BAD_ANSWER, True),
        (Code.NO_IMAGE, True),
        (Code.UNKNOWN, True),
        (Code.RATE_LIMITED, False),
        (Code.MODERATED, False),
        (Code.ECHOED_INPUT, True),
    ]
)


@PLAIN
@given(
    data=st.data(),
    count=st.integers(1, 12),
    concurrency=st.integers(1, 6),
    affordable=st.integers(0, 20),
    rest=st.sampled_from([0, 1, 139_999_999]),
)
def test_no_schedule_spends_more_than_the_budget(
    nights: NightFactory, data: st.DataObject, *, count: int, concurrency: int, affordable: int, rest: int
) -> None:
    with nights(count) as scene:
        replies = st.tuples(ENDINGS, st.floats(0, 30, width=16))
        script: dict[tuple[str, int], tuple[tuple[Code | None, bool], float]] = {}

        def api(name: str, number: int) -> object:
            if number > 8:
                return scene.picture()
            ending, after = script.setdefault((name, number), data.draw(replies))
            code, billed = ending
            return scene.picture(after) if code is None else scene.error(code, after, billed=billed)

        scene.server.api = api  # type: ignore[assignment]  # Reply, by its maker
        limit = affordable * NANOS + rest
        for _ in range(2):
            ended = scene.run(budget=Decimal(limit) / 10**9, concurrency=concurrency, price=PRICE)
            assert scene.server.exposure <= affordable
            assert scene.server.peak <= concurrency
            assert scene.spent() == scene.server.charged * NANOS
            assert all(row.in_flight is None for row in scene.rows().values())
            if ended.reason is not None:
                assert ended.reason.reason == "budget"
                assert scene.spent() + NANOS > limit, "it stopped with money left"
