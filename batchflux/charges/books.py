"""What a provider's own books say: a line of them, how much was spent or is left, and what of them is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from decimal import Decimal

Step = TypeVar("Step")


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One line of a provider's books.

    `receipt` is how they name the request. `at` is in epoch seconds; `amount` is negative where it was given back, and
    None where they tell that the request was made, but not what it cost. `where` is the place of the line in a file.
    """

    receipt: str | None = None
    at: float | None = None
    amount: Decimal | None = None
    currency: str = "USD"
    model: str | None = None
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement(Generic[Step]):
    """Lines of a provider's books; `more` is the step, as free, that asks for those that follow (None: that is all)."""

    charges: tuple[Charge, ...]
    more: Step | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What an account has spent so far, by whatever start, or has left; at least one of them is told.

    `currency` is "" where the API counts in a unit of its own that it does not name.
    """

    used: Decimal | None = None
    left: Decimal | None = None
    currency: str = "USD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """What of the books is asked for: from epoch second `since` to `until`, of these `models` and `receipts`."""

    since: float
    until: float
    models: tuple[str, ...] = ()
    receipts: tuple[str, ...] = ()
