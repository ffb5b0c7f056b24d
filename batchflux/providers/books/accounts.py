"""The books of APIs that tell what an account has, and no lines: BFL's credits, and what a relay's key has used."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from batchflux.charges.books import Balance
from batchflux.models import Then
from batchflux.providers.answers.documents import asking
from batchflux.providers.books.base import Books, amount_in

if TYPE_CHECKING:
    from decimal import Decimal

    from batchflux.charges.books import Period
    from batchflux.models import HttpRequest, Reply
    from batchflux.providers.answers.documents import DocumentReader

_DAY = 86_400  # seconds
_UNLIMITED = 100_000_000  # what keys without a limit are said to have


class Account(Books):
    """Books without lines."""

    states = False

    def statements(self, period: Period) -> tuple[HttpRequest, ...]:
        """Return nothing."""
        return ()


class Credits(Account):
    """The credits that are left, which are worth `each` in USD."""

    def __init__(self, place: str, each: Decimal) -> None:
        self._place, self._each = place, each

    def balance(self, period: Period) -> HttpRequest | None:
        """Return what asks how many credits are left."""
        return asking(self._place, self._left)

    def _left(self, answer: DocumentReader) -> Reply:
        left = amount_in(answer.document.get("credits")) if answer.ok else None
        if left is None:
            raise answer.failure()
        return Balance(left=left * self._each)


class RelayUsage(Account):
    """What a key has used, and may use in all, as forks of one-api tell it: as OpenAI once did.

    They count in hundredths of their website's unit of money; most tell all that the key ever used, whatever the days.
    """

    def balance(self, period: Period) -> HttpRequest | None:
        """Return what asks how much a key has used since a day; how much it may use in all follows."""
        days = [datetime.fromtimestamp(at, UTC).date().isoformat() for at in (period.since, period.until + _DAY)]
        return asking(f"/v1/dashboard/billing/usage?start_date={days[0]}&end_date={days[1]}", _used)


def _used(answer: DocumentReader) -> Reply:
    hundredths = amount_in(answer.document.get("total_usage")) if answer.ok else None
    if hundredths is None:
        raise answer.failure()
    return Then(request=asking("/v1/dashboard/billing/subscription", partial(_left, hundredths / 100)))


def _left(used: Decimal, answer: DocumentReader) -> Reply:
    most = amount_in(answer.document.get("hard_limit_usd")) if answer.ok else None
    left = None if most is None or most >= _UNLIMITED else most - used
    return Balance(used=used, left=left, currency="")
