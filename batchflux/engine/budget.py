"""The budget: reserved before each attempt, settled after it; the limit is never passed, not by one attempt.

Spent is what was certainly or possibly billed (unknown attempts stay reserved for ever), by all runs of the folder.
A second limit may hold for what this run's own attempts cost. What an attempt may cost at most is reserved; what it
did cost is settled. A reservation that ends wakes those who wait
for money; only when nothing is out that could come back does the budget end the run. Amounts are whole nanounits, so
nothing rounds.
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

    `folder` bounds what all runs spend, `run` what the attempts of this one do.
    """

    def __init__(self, *, spent: int, gate: Gate, folder: Ceiling = UNBOUND, run: Ceiling = UNBOUND) -> None:
        self._folder, self._run = folder, run
        self.spent = spent
        self.reserved = 0
        self._earlier = spent  # what earlier runs spent, as it is known by now, or have out
        self._gate = gate
        self._changed = asyncio.Event()
        gate.on_close(self._changed.set)

    def try_reserve(self, price: int) -> bool:
        """Reserve the price of one attempt, if the limit allows it."""
        allowed = self._allows(price)
        self.reserved += price if allowed else 0
        return allowed

    async def wait(self, price: int) -> None:
        """Wait for a reservation to end, so that it makes sense to try again.

        Raises Halted when the price will never fit (and closes the gate), or the run is stopping.
        """
        self._gate.check()
        if self._allows(price):
            return
        if self.reserved == 0:
            self._gate.close(StopRun(BUDGET, self._used_up(price)))
            raise Halted
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

    def _allows(self, price: int) -> bool:
        amount = self.spent + self.reserved + price
        return self._folder.allows(amount) and self._run.allows(amount - self._earlier)

    def _used_up(self, price: int) -> str:
        if not self._folder.allows(self.spent + self.reserved + price):
            return f"The budget of {self._folder.label} is used up: raise limits.budget and run again to continue."
        what = f"This run's budget of {self._run.label} is used up"
        return f"{what}: run again to continue, or raise limits.budget_per_run."
