"""The budget: reserved before each attempt, settled after it; the limit is never passed, not by one attempt.

Spent is what was certainly or possibly billed (unknown attempts stay reserved for ever), by all runs of the folder.
What an attempt may cost at most is reserved; what it did cost is settled. A reservation that ends wakes those who wait
for money; only when nothing is out that could come back does the budget end the run. Amounts are whole nanounits, so
nothing rounds.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from batchflux.engine.shutdown import BUDGET, Halted
from batchflux.errors import StopRun

if TYPE_CHECKING:
    from batchflux.engine.shutdown import Gate


class Budget:
    """The money of one run: `spent` (by earlier runs, too), and `reserved` for what is out, in nanounits.

    `limit` is the most that may ever be spent (None: no limit), `label` the same as a person reads it (`25.00 CNY`).
    """

    def __init__(self, *, limit: int | None, spent: int, gate: Gate, label: str) -> None:
        self._limit = limit
        self.spent = spent
        self.reserved = 0
        self._gate = gate
        self._label = label
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
            message = f"The budget of {self._label} is used up: raise limits.budget and run again to continue."
            self._gate.close(StopRun(BUDGET, message))
            raise Halted
        self._changed.clear()
        await self._changed.wait()
        self._gate.check()

    def settle(self, reserved: int, spent: int) -> None:
        """End a reservation; `spent` is what the attempt did cost, or may have: nothing, its price, or more or less."""
        self.reserved -= reserved
        self.spent += spent
        self._changed.set()

    def take_up(self, amount: int) -> None:
        """Count what an earlier run spent on a task that is still out as reserved: it may turn out free, or dearer."""
        self.spent -= amount
        self.reserved += amount

    def adjust(self, reserved: int, cost: int) -> None:
        """Reserve `cost` in place of `reserved`, for an attempt that is still out and whose cost is known now."""
        self.reserved += cost - reserved
        self._changed.set()

    def retune(self, limit: int | None, label: str) -> None:
        """Let another limit hold from now on."""
        self._limit, self._label = limit, label
        self._changed.set()

    def _allows(self, price: int) -> bool:
        return self._limit is None or self.spent + self.reserved + price <= self._limit
