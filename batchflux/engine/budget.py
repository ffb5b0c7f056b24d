"""The budget: reserved before each attempt, settled after it; the limit is never passed, not by one attempt.

Spent is what was certainly or possibly billed (unknown attempts stay reserved for ever), by all runs of the folder.
A second limit may hold for what this run's own attempts cost. What an attempt may cost at most is reserved; what it
did cost is settled. A reservation that ends wakes those who wait for money; only when nothing is out that could come
back does the budget end the run. Amounts are whole nanounits, so nothing rounds.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchflux.engine.shutdown import BUDGET, Halted
from batchflux.errors import StopRun

if TYPE_CHECKING:
    from batchflux.engine.shutdown import Gate


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The most that may be spent, in nanounits (None: no limit), and the same as a person reads it: `25.00 CNY`."""

    most: int | None = None
    label: str = ""

    def allows(self, amount: int) -> bool:
        """Whether so much may be spent in all."""
        return self.most is None or amount <= self.most


UNBOUND = Ceiling()


class Budget:
    """The money of one run: `spent` (by earlier runs, too), and `reserved` for what is out, in nanounits.

    `folder` bounds what all runs spend, `run` what the attempts of this one do; `earlier` of it was spent before.
    """

    def __init__(
        self, *, spent: int, gate: Gate, folder: Ceiling = UNBOUND, run: Ceiling = UNBOUND, earlier: int | None = None
    ) -> None:
        self._folder, self._run = folder, run
        self.spent = spent
        self.reserved = 0
        self._earlier = spent if earlier is None else earlier  # as it is known by now, or out
        self._gate = gate
        self._changed = asyncio.Event()
        gate.on_close(self._changed.set)

    def try_reserve(self, price: int) -> bool:
        """Reserve the price of one attempt, if the limit allows it."""
        allowed = self.allows(price)
        self.reserved += price if allowed else 0
        return allowed

    async def wait(self, price: int) -> None:
        """Wait for a reservation to end, so that it makes sense to try again.

        Raises Halted when the price will never fit (and closes the gate), or the run is stopping.
        """
        self._gate.check()
        if self.allows(price):
            return
        if self.reserved == 0:
            self._gate.close(self._used_up(price))
            raise Halted
        await self.change()

    async def change(self) -> None:
        """Wait until a reservation ends, or the limits change; Halted: the run is stopping."""
        self._changed.clear()
        await self._changed.wait()
        self._gate.check()

    def settle(self, reserved: int, spent: int, *, earlier: bool = False) -> None:
        """End a reservation; `spent` is what the attempt did cost, or may have: nothing, its price, or more or less.

        `earlier`: an earlier run sent it, so this run's own limit gets no room from it, and loses none.
        """
        self.reserved -= reserved
        self.spent += spent
        self._earlier += spent - reserved if earlier else 0
        self._changed.set()

    def take_up(self, amount: int) -> None:
        """Count what an earlier run spent on a task that is still out as reserved: it may turn out free, or dearer."""
        self.spent -= amount
        self.reserved += amount

    def adjust(self, reserved: int, cost: int) -> None:
        """Reserve `cost` in place of `reserved`, for an attempt that is still out and whose cost is known now."""
        self.reserved += cost - reserved
        self._changed.set()

    def retune(self, folder: Ceiling, run: Ceiling) -> None:
        """Let other limits hold from now on."""
        self._folder, self._run = folder, run
        self._changed.set()

    def used(self) -> dict[str, tuple[int, int, str]]:
        """Return of each limit, by its key in the manifest, what is spent of it, what it is, and that as it reads."""
        limits = {"budget": (self.spent, self._folder), "budget_per_run": (self.spent - self._earlier, self._run)}
        return {key: (used, limit.most, limit.label) for key, (used, limit) in limits.items() if limit.most is not None}

    def allows(self, price: int) -> bool:
        """Whether the limits leave so much."""
        amount = self.spent + self.reserved + price
        return self._folder.allows(amount) and self._run.allows(amount - self._earlier)

    def _used_up(self, price: int) -> StopRun:
        if not self._folder.allows(self.spent + self.reserved + price):
            return _to_raise("budget", f"The budget of {self._folder.label} is used up")
        if not self._run.allows(price):
            return _to_raise("budget_per_run", f"One picture costs more than this run's budget of {self._run.label}")
        what = f"This run's budget of {self._run.label} is used up"
        return StopRun(BUDGET, f"{what}: run again to continue, or raise limits.budget_per_run.")


def _to_raise(key: str, what: str) -> StopRun:
    """Return the end of a run that another one with the same limit would not continue."""
    return StopRun(BUDGET, f"{what}: raise limits.{key} and run again to continue.", to_raise=key)


class Purse:
    """One payer's part of a budget: `spent` so far of the `most` that is theirs, in nanounits.

    Where it, or the budget, has no more, that ends the job's wait and nobody else's.
    """

    def __init__(self, most: Ceiling = UNBOUND, *, spent: int = 0) -> None:
        self.spent, self.reserved = spent, 0
        self._most = most
        self._budget: Budget | None = None

    def of(self, budget: Budget) -> Purse:
        """Return the purse, which is a part of this budget from here on.

        What is reserved of an earlier one is out, as the ledger has it: spent, until it is taken up again.
        """
        if budget is not self._budget:
            self.spent, self.reserved, self._budget = self.spent + self.reserved, 0, budget
        return self

    def allows(self, price: int) -> bool:
        """Whether it, and the budget, have so much."""
        return self._enough(price) and self._whole.allows(price)

    def try_reserve(self, price: int) -> bool:
        """Reserve the price of one attempt, if both limits allow it."""
        allowed = self._enough(price) and self._whole.try_reserve(price)
        self.reserved += price if allowed else 0
        return allowed

    async def wait(self, price: int) -> None:
        """Wait for a reservation to end that may make it fit; Halted: it will not, or the run is stopping."""
        if self.allows(price):
            return
        if (self._whole.reserved if self._enough(price) else self.reserved) == 0:
            raise Halted
        await self._whole.change()

    def settle(self, reserved: int, spent: int, *, earlier: bool = False) -> None:
        """End a reservation; see Budget."""
        self.reserved -= reserved
        self.spent += spent
        self._whole.settle(reserved, spent, earlier=earlier)

    def take_up(self, amount: int) -> None:
        """Count what is spent on a task that is still out as reserved; see Budget."""
        self.spent -= amount
        self.reserved += amount
        self._whole.take_up(amount)

    def adjust(self, reserved: int, cost: int) -> None:
        """Reserve `cost` in place of `reserved`; see Budget."""
        self.reserved += cost - reserved
        self._whole.adjust(reserved, cost)

    def retune(self, most: Ceiling) -> None:
        """Let another limit hold from now on."""
        self._most = most

    def _enough(self, price: int) -> bool:
        return self._most.allows(self.spent + self.reserved + price)

    @property
    def _whole(self) -> Budget:
        if self._budget is None:
            raise RuntimeError("a purse is part of no budget yet")
        return self._budget
