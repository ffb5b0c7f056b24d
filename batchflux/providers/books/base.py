"""What the books of an API are: what it says itself that it billed, asked for in free steps, without I/O.

A Provider names its Books in `books`. A line names a request as `Provider.task_of` names a task, or as a receipt does
that an answer gave.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from batchflux.charges.books import Period
    from batchflux.models import HttpRequest

_MOST = Decimal(10) ** 12  # of any currency


class Books(ABC):
    """How one API tells what it billed, by lines, by what an account spent, or by both.

    `states`: it has lines; `complete`: they are of all requests of a period, and not only of the receipts asked for.
    """

    states: ClassVar[bool] = True
    complete: ClassVar[bool] = True

    @abstractmethod
    def statements(self, period: Period) -> tuple[HttpRequest, ...]:
        """Return the steps whose readers return Statement; () without any."""

    @abstractmethod
    def balance(self, period: Period) -> HttpRequest | None:
        """Return the step whose reader returns Balance, or Then: what an account spent since, or has left; None."""


def amount_in(value: Any) -> Decimal | None:
    """Return an amount of money in an answer, exactly as it is written; None where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and abs(amount) < _MOST else None
