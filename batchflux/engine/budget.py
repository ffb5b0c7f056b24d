"""Money: reserved before each attempt, settled after it; the limit is never passed, not by one attempt.

Spent is what was certainly or possibly billed (unknown attempts stay reserved for ever), by all runs of the folder.
A reservation that is released (the attempt was free) wakes those who wait for money; only when nothing is out that
could come back does the budget end the run. Amounts are whole nanounits, so nothing rounds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from batchflux.engine.shutdown import Halted
from batchflux.errors import StopRun

if TYPE_CHECKING:
    from batchflux.engine.shutdown import Gate


class Budget:
    """The purse of one run.

    Args:
        limit: most that may ever be spent, in nanounits; None for no limit.
        spent: what earlier runs of the folder spent.
        price: of one attempt.
        gate: closed when the money is gone.
        label: the limit as a person reads it, such as `25.00 CNY`.
    """

    def __init__(self, *, limit: int | None, spent: int, price: int, gate: Gate, label: str) -> None:
        self._limit = limit
        self.spent = spent
        self.reserved = 0
        self.price = price
        self._gate = gate
        self._label = label
        self._waiting: deque[asyncio.Future[None]] = deque()
        gate.on_close(self._wake)

    def try_reserve(self) -> bool:
        """Set the price of one attempt aside, if the limit allows it."""
        if self._limit is not None and self.spent + self.reserved + self.price > self._limit:
            return False
        self.reserved += self.price
        return True

    async def wait(self) -> None:
        """Wait for a reservation to end, so that it makes sense to try again.

        Raises:
            Halted: the money is gone (and the gate is closed), or the run is stopping.
        """
        self._gate.check()
        if self.reserved == 0:
            self._gate.close(
                StopRun(
                    "budget",
                    f"The budget of {self._label} is used up: raise limits.budget and run again to continue.",
                )
            )
            raise Halted
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future
        self._gate.check()

    def retune(self, limit: int | None, label: str) -> None:
        """Let another limit hold from now on."""
        self._limit, self._label = limit, label
        self._wake()

    def settle(self, *, spent: bool) -> None:
        """End a reservation: the attempt was (possibly) billed, or it was free."""
        self.reserved -= self.price
        if spent:
            self.spent += self.price
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
