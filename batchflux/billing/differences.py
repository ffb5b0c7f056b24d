"""What differs between a folder and its providers' books, each difference by name; and all of it as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from batchflux.charges.matching import sums_of
from batchflux.output.folder import iso

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from batchflux.billing.balances import Span
    from batchflux.billing.comparing import Compared
    from batchflux.charges.books import Charge
    from batchflux.charges.matching import Entry, Group, Match, Sums

Kind = Literal["amount", "currency", "counted_free", "only_ours", "only_theirs", "repeated", "unclear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing in which the two sides differ: an attempt (`job`, `attempt`), a line of the books, or both.

    `at` is when the request was sent, else when the books have it, in epoch seconds; `ours` and `theirs` are amounts,
    each in its currency, None where that side has nothing. Of what is `unclear`, `among` names all that are alike.
    """

    kind: Kind
    job: str | None = None
    attempt: int | None = None
    at: float | None = None
    ours: tuple[Decimal, str] | None = None
    theirs: tuple[Decimal, str] | None = None
    receipt: str | None = None
    where: str = ""
    among: tuple[str, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """Return it as it stands in JSON."""
        return {
            "kind": self.kind,
            "job": self.job,
            "attempt": self.attempt,
            "at": iso(self.at) or None,
            "ours": _amount(self.ours),
            "theirs": _amount(self.theirs),
            "id": self.receipt,
            "where": self.where or None,
            **({"among": list(self.among)} if self.among else {}),
        }


def differences(compared: Compared) -> Iterator[Difference]:
    """Yield what keeps one provider's books from agreeing with the folder."""
    if (found := compared.found) is None:
        return
    yield from (_of_match(match) for match in found.matches if not match.agrees)
    yield from (_of_entry("only_ours", entry) for entry in found.missing)
    yield from (_of_charge("repeated", charge) for charge in found.repeated if charge.amount)
    yield from (_of_charge("only_theirs", charge) for charge in found.only_theirs if charge.amount)
    yield from (_of_group(group) for group in found.groups if not group.even)


def as_data(made: Sequence[Compared]) -> dict[str, Any]:
    """Return a comparison as plain data: money as decimal text, times as UTC ISO 8601."""
    return {"agrees": all(one.agrees for one in made), "books": [_books(one) for one in made]}


def by_certainty(entries: Iterable[Entry]) -> tuple[Sums, Sums]:
    """Return what attempts came to: what was billed for certain, and what possibly was."""
    known = [*entries]
    sure, maybe = ([one for one in known if one.billed == billed] for billed in ("yes", "maybe"))
    return sums_of(sure), sums_of(maybe)


def _books(one: Compared) -> dict[str, Any]:
    certain, possible = by_certainty(one.entries)
    made: dict[str, Any] = {
        "provider": one.provider,
        "source": one.source,
        "agrees": one.agrees,
        "sums": {"ours": _sums(certain), "ours_possibly": _sums(possible), "theirs": _sums(sums_of(one.charges))},
        "differences": [found.as_data() for found in differences(one)],
        "balances": [_span(span) for span in one.spans],
        "left": [{"key": left.key_name, **(_amount((left.amount, left.currency)) or {})} for left in one.left],
        "assumed": dict(one.assumed),
        "faults": list(one.faults),
    }
    if (found := one.found) is not None:
        groups = [(group.entries, group.charges) for group in found.groups]
        made["counts"] = {
            "matched": len(found.matches),
            "only_ours": len(found.missing),
            "only_theirs": len(found.only_theirs),
            "repeated": len(found.repeated),
            "unclear": {"ours": sum(len(own) for own, _ in groups), "theirs": sum(len(own) for _, own in groups)},
            "free": len(found.free),
            "untold": len(found.untold),
        }
        made["matched"] = _sums(sums_of(charge for match in found.matches for charge in match.charges))
        made["decided"] = [
            {"job": entry.job, "attempt": entry.attempt, "billed": _amount((paid, entry.currency))}
            for entry, paid in found.decided
        ]
    return made


def _of_match(match: Match) -> Difference:
    entry, first = match.entry, match.charges[0]
    kind: Kind = "amount" if match.same_currency else "currency"
    if entry.billed == "no":
        kind = "counted_free"
    theirs = None if match.paid is None else (match.paid, first.currency)
    return Difference(
        kind=kind,
        job=entry.job,
        attempt=entry.attempt,
        at=entry.at,
        ours=(Decimal(0) if entry.billed == "no" else entry.amount, entry.currency),
        theirs=theirs,
        receipt=entry.receipt,
        where=first.where,
    )


def _of_entry(kind: Kind, entry: Entry) -> Difference:
    ours = entry.amount, entry.currency
    return Difference(kind=kind, job=entry.job, attempt=entry.attempt, at=entry.at, ours=ours, receipt=entry.receipt)


def _of_charge(kind: Kind, charge: Charge) -> Difference:
    theirs = charge.amount or Decimal(0), charge.currency
    return Difference(kind=kind, at=charge.at, theirs=theirs, receipt=charge.receipt, where=charge.where)


def _of_group(group: Group) -> Difference:
    (ours, money), first = _only(sums_of(group.entries)), group.entries[0]
    theirs = _only(sums_of(group.charges))
    among = tuple(f"{entry.job} ({entry.attempt})" for entry in group.entries)
    places = ", ".join(charge.where or charge.receipt or iso(charge.at) for charge in group.charges)
    return Difference(kind="unclear", at=first.at, ours=(ours, money), theirs=theirs, where=places, among=among)


def _only(sums: Sums) -> tuple[Decimal, str]:
    """Return the one amount of a group, all of which is in one currency."""
    ((money, amount),) = sums.items()
    return amount, money


def _span(span: Span) -> dict[str, Any]:
    return {
        "key": span.key_name,
        "from": iso(span.since),
        "to": iso(span.until),
        "spent": _amount((span.spent, span.currency)),
        "certain": _amount((span.certain, span.entries_currency)),
        "possible": _amount((span.possible, span.entries_currency)),
        "of_all_time": span.at_least,
        "agrees": span.agrees if span.comparable else None,
    }


def _sums(sums: Mapping[str, Decimal]) -> dict[str, str]:
    return {money: format(amount, "f") for money, amount in sums.items()}


def _amount(amount: tuple[Decimal, str] | None) -> dict[str, str] | None:
    return None if amount is None else {"amount": format(amount[0].normalize(), "f"), "currency": amount[1]}
