"""Compares what an account said it had, as a run began and as it ended, with what the folder's attempts came to."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchflux.charges.matching import Entry
    from batchflux.ledger.books.balances import Noted

_ROUNDING = Decimal("0.00001")  # relays count in such steps, for each request


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What a key's account spent from epoch second `since` to `until` (`spent`), and what the folder has of that time.

    `certain` is what was billed then, `possible` what may have been. `at_least`: others may have spent of it before.
    """

    provider: str
    key_name: str
    since: float
    until: float
    spent: Decimal
    currency: str
    certain: Decimal
    possible: Decimal
    attempts: int
    entries_currency: str
    at_least: bool = False

    @property
    def comparable(self) -> bool:
        """Whether the difference says something: both sides are in one currency, and nobody topped the account up."""
        return self.currency == self.entries_currency and self.spent >= 0

    @property
    def agrees(self) -> bool:
        """Whether what was spent lies between what was billed for certain and all that may have been."""
        slack = _ROUNDING * (self.attempts + 1)
        fits = self.certain - slack <= self.spent
        return not self.comparable or (fits and (self.at_least or self.spent <= self.certain + self.possible + slack))


def spans(noted: Sequence[Noted], entries: Sequence[Entry]) -> Iterator[Span]:
    """Yield what each key's account spent in each run that noted its balance twice."""
    in_order = sorted(noted, key=lambda one: (one.provider, one.key_name, one.began, one.at))
    for _, notes in groupby(in_order, key=lambda one: one[:3]):
        first, *later = notes
        if later and (spent := _spent(first, later[-1])) is not None:
            yield span(first, later[-1].at, spent, entries)


def span(first: Noted, until: float, spent: Decimal, entries: Sequence[Entry], *, at_least: bool = False) -> Span:
    """Return what an account spent from a note on, beside what the folder's attempts with its key came to."""
    own = [one for one in entries if (one.provider, one.key_name) == (first.provider, first.key_name)]
    met = [one for one in own if one.billed != "no" and one.at <= until and (one.ended or until) >= first.at]
    inside = [one for one in met if one.billed == "yes" and one.at >= first.at and (one.ended or until) <= until]
    certain, most = (sum((one.amount for one in some), Decimal(0)) for some in (inside, met))
    return Span(
        provider=first.provider,
        key_name=first.key_name,
        since=first.at,
        until=until,
        spent=spent,
        currency=first.balance.currency,
        certain=certain,
        possible=most - certain,
        attempts=len(met),
        entries_currency=met[0].currency if met else first.balance.currency,
        at_least=at_least,
    )


def _spent(first: Noted, last: Noted) -> Decimal | None:
    """Return by how much more was spent at the last note, or less was left."""
    before, after = first.balance, last.balance
    if before.used is not None and after.used is not None:
        return after.used - before.used
    return None if before.left is None or after.left is None else before.left - after.left
