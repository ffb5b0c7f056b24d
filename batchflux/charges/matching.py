"""Matches a folder's attempts with the lines of a provider's books, one to one.

A line that names an attempt's request is that attempt's. What is left is matched by model, amount and time, and only
where neither side has another candidate: what could be one of several is told as a group, and never guessed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from batchflux.charges.books import Charge

Sums = dict[str, Decimal]
"""Money by its currency; two currencies are never added."""
ALWAYS = (float("-inf"), float("inf"))
_SMALLEST = Decimal("0.000001")  # what books round to: a smaller difference is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One attempt as the folder has it, sent at epoch second `at`; `ended` None: nobody saw its end. `out`: it goes on.

    `amount` is what it cost, or the most that it may have; `billed` says whether it did, for certain, possibly, or not.
    `receipt` is how the provider's books name it, where that is known.
    """

    job: str
    attempt: int
    provider: str
    key_name: str
    model: str
    at: float
    ended: float | None
    amount: Decimal
    currency: str
    billed: Literal["yes", "maybe", "no"]
    receipt: str | None = None
    out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """An attempt, and the lines that are of it: the charge, and what was given back of it."""

    entry: Entry
    charges: tuple[Charge, ...]

    @property
    def paid(self) -> Decimal | None:
        """What the books say that it cost, None where they tell no amount."""
        told = [charge.amount for charge in self.charges if charge.amount is not None]
        return sum(told, Decimal(0)) if told else None

    @property
    def same_currency(self) -> bool:
        """Whether both sides are in one currency."""
        return all(charge.currency == self.entry.currency for charge in self.charges)

    @property
    def difference(self) -> Decimal | None:
        """How much more the books have than the folder, which has nothing for what is free; None: not comparable."""
        if self.paid is None or not self.same_currency:
            return None
        ours = Decimal(0) if self.entry.billed == "no" else self.entry.amount
        return self.paid - ours if abs(self.paid - ours) >= _SMALLEST else Decimal(0)

    @property
    def agrees(self) -> bool:
        """Whether both sides say the same; of what was possibly billed, the books decide."""
        if not self.same_currency:
            return self.paid is None
        return self.entry.billed == "maybe" or not self.difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Attempts and lines of which each may be one of several others."""

    entries: tuple[Entry, ...]
    charges: tuple[Charge, ...]

    @property
    def even(self) -> bool:
        """Whether there are as many lines as attempts, and they come to the same."""
        ours, theirs = sums_of(self.entries), sums_of(self.charges)
        return len(self.entries) == len(self.charges) and ours == theirs


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """What became of each attempt and of each line; every one is in exactly one place.

    `only_ours` are attempts that were, or may have been, billed and are not in the books, `free` those that were not
    and are not; `untold` are those of which the books cannot tell. `only_theirs` are lines that no attempt is of,
    `repeated` those whose request has a line already.
    """

    matches: tuple[Match, ...] = ()
    groups: tuple[Group, ...] = ()
    only_ours: tuple[Entry, ...] = ()
    free: tuple[Entry, ...] = ()
    untold: tuple[Entry, ...] = ()
    only_theirs: tuple[Charge, ...] = ()
    repeated: tuple[Charge, ...] = ()

    @property
    def missing(self) -> tuple[Entry, ...]:
        """The attempts that were billed for certain, and not for nothing, and are not in the books."""
        return tuple(entry for entry in self.only_ours if entry.billed == "yes" and entry.amount)

    @property
    def decided(self) -> tuple[tuple[Entry, Decimal], ...]:
        """The attempts that may have been billed and of which the books tell, with what they cost in truth."""
        billed = [
            (match.entry, match.paid)
            for match in self.matches
            if match.entry.billed == "maybe" and match.paid is not None and match.same_currency
        ]
        absent = (entry for entry in self.only_ours if entry.billed == "maybe" and not entry.out)
        return (*billed, *((entry, Decimal(0)) for entry in absent))

    @property
    def agrees(self) -> bool:
        """Whether the books say what the folder says, as far as they tell of it."""
        costs = [charge for charge in (*self.only_theirs, *self.repeated) if charge.amount]
        alike = all(match.agrees for match in self.matches) and all(group.even for group in self.groups)
        return alike and not costs and not self.missing


def sums_of(items: Iterable[Entry | Charge]) -> Sums:
    """Return what attempts or lines come to, by currency; what tells no amount adds nothing."""
    sums: Sums = defaultdict(Decimal)
    for item in items:
        sums[item.currency] += item.amount or Decimal(0)
    return {currency: amount.normalize() for currency, amount in sorted(sums.items())}


def reconcile(
    ours: Sequence[Entry],
    theirs: Sequence[Charge],
    *,
    window: float,
    complete: bool = True,
    covered: tuple[float, float] = ALWAYS,
) -> Reconciliation:
    """Match a folder's attempts with a provider's books.

    A line is at most `window` seconds before an attempt was sent, or after it ended, where only that tells whose it is.
    Books that are not `complete` tell of the requests that they were asked for, and of no other. They decide nothing of
    an attempt that was sent outside the time `covered`, in epoch seconds.
    """
    named, rest, repeated = _by_receipt(theirs)
    shared = any(entry.receipt in named for entry in ours)  # or they name requests in another way
    matches, left = [], []
    for entry in ours:
        if entry.receipt is not None and entry.receipt in named:
            matches.append(Match(entry=entry, charges=tuple(named.pop(entry.receipt))))
        else:
            left.append(entry)
    rest += [charge for charges in named.values() for charge in charges]
    sure = [entry for entry in left if entry.receipt is not None and (shared or not complete)]
    open_ = [entry for entry in left if entry.receipt is None or not (shared or not complete)]
    free = tuple(entry for entry in left if entry.billed == "no")
    found = _Alike(_billed(open_), rest, window) if complete else None
    absent, hidden = _told_apart(found.only_ours, found.only_theirs) if found else ([], _billed(open_))
    gone: dict[bool, list[Entry]] = {True: [], False: []}  # by whether the books tell of it
    for entry in (*_billed(sure), *absent):
        gone[entry.billed == "yes" or covered[0] <= entry.at <= covered[1]].append(entry)
    return Reconciliation(
        matches=(*matches, *(found.matches if found else ())),
        groups=tuple(found.groups) if found else (),
        only_ours=tuple(gone[True]),
        free=free,
        untold=(*hidden, *gone[False]),
        only_theirs=tuple(found.only_theirs if found else rest),
        repeated=tuple(repeated),
    )


def covered_by(theirs: Sequence[Charge], window: float) -> tuple[float, float]:
    """Return the time that lines of a file cover, from the first to the last of them, give or take `window` seconds."""
    times = [charge.at for charge in theirs if charge.at is not None]
    return (min(times) - window, max(times) + window) if times else ALWAYS


def _billed(entries: Iterable[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.billed != "no"]


def _told_apart(ours: Sequence[Entry], theirs: Sequence[Charge]) -> tuple[list[Entry], list[Entry]]:
    """Return the attempts that are not in the books, and those that may be there, in another currency."""
    currencies = {charge.currency for charge in theirs if charge.amount}
    told: tuple[list[Entry], list[Entry]] = ([], [])
    for entry in ours:
        told[entry.billed == "maybe" and bool(currencies - {entry.currency})].append(entry)
    return told


def _by_receipt(theirs: Sequence[Charge]) -> tuple[dict[str, list[Charge]], list[Charge], list[Charge]]:
    """Return the lines by the request that they name, those that name none, and those that say one once more.

    Of a request the earliest line stands, and with it what was given back.
    """
    named: dict[str, list[Charge]] = defaultdict(list)
    for charge in theirs:
        if charge.receipt is not None:
            named[charge.receipt].append(charge)
    repeated: list[Charge] = []
    for receipt, charges in named.items():
        back = [charge for charge in charges if (charge.amount or 0) < 0]
        taken = sorted((charge for charge in charges if (charge.amount or 0) >= 0), key=_when)
        named[receipt] = [*taken[:1], *back]
        repeated += taken[1:]
    return named, [charge for charge in theirs if charge.receipt is None], repeated


def _when(charge: Charge) -> tuple[bool, float, Decimal]:
    return charge.at is None, charge.at or 0.0, charge.amount or Decimal(0)


class _Range(NamedTuple):
    """Lines that are candidates of an attempt: from `begin` to `end` of all, in the order of `_Alike`."""

    begin: int
    end: int


@dataclass(slots=True)
class _Alike:
    """Attempts and lines that are alike in currency, model, amount and time.

    The candidates of an attempt stand side by side once lines are sorted by all of that, so they are ranges; what
    ranges overlap in, in one step or in several, is a group. So the work grows with the rows, not with their pairs.
    """

    entries: list[Entry]
    charges: list[Charge]
    window: float
    matches: list[Match] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    only_ours: list[Entry] = field(default_factory=list)
    only_theirs: list[Charge] = field(default_factory=list)

    def __post_init__(self) -> None:
        by_model = not _models(self.entries).isdisjoint(_models(self.charges))
        fit = [charge for charge in self.charges if charge.at is not None and charge.amount and charge.amount > 0]
        fit.sort(key=lambda charge: (*_kind(charge, by_model=by_model), _rounded(charge.amount), charge.at))
        others = {id(charge) for charge in fit}
        self.only_theirs += [charge for charge in self.charges if id(charge) not in others]
        lists = _Lists(fit, by_model=by_model)
        ranges = [[*lists.candidates(entry, self.window)] for entry in self.entries]
        self._sort_out(fit, ranges)

    def _sort_out(self, fit: list[Charge], ranges: list[list[_Range]]) -> None:
        runs, candidates = _runs(len(fit), [one for each in ranges for one in each])
        joined = _Joined()
        for each in ranges:
            for one in each:
                joined.join(runs[each[0].begin], runs[one.begin])
        ours: dict[int, list[int]] = defaultdict(list)
        for number, each in enumerate(ranges):
            if each:
                ours[joined.root(runs[each[0].begin])].append(number)
            else:
                self.only_ours.append(self.entries[number])
        theirs: dict[int, list[int]] = defaultdict(list)
        for number, count in enumerate(candidates):
            if count:
                theirs[joined.root(runs[number])].append(number)
            else:
                self.only_theirs.append(fit[number])
        for root, numbers in ours.items():
            entries, charges = [self.entries[one] for one in numbers], [fit[one] for one in theirs[root]]
            if len(entries) == len(charges) == 1:
                self.matches.append(Match(entry=entries[0], charges=tuple(charges)))
            else:
                self.groups.append(Group(entries=tuple(entries), charges=tuple(charges)))


class _Lists:
    """Lines by currency and model, and there by amount, each list sorted by time."""

    def __init__(self, fit: Sequence[Charge], *, by_model: bool) -> None:
        self._by_model = by_model
        self._times = [charge.at or 0.0 for charge in fit]
        self._lists: dict[tuple[str, str], dict[Decimal, _Range]] = defaultdict(dict)
        for number, charge in enumerate(fit):
            of_kind, amount = self._lists[_kind(charge, by_model=by_model)], _rounded(charge.amount)
            before = of_kind.get(amount, _Range(number, number))
            of_kind[amount] = _Range(before.begin, number + 1)

    def candidates(self, entry: Entry, window: float) -> Iterator[_Range]:
        """Yield the lines that may be of an attempt: of its amount, or of at most that where it is the most."""
        of_kind, most = self._lists.get(_kind(entry, by_model=self._by_model), {}), _rounded(entry.amount)
        amounts = [most] if entry.billed == "yes" else [amount for amount in of_kind if amount <= most]
        first, last = entry.at - window, (entry.at if entry.ended is None else entry.ended) + window
        for begin, end in (of_kind[amount] for amount in amounts if amount in of_kind):
            found = _Range(bisect_left(self._times, first, begin, end), bisect_right(self._times, last, begin, end))
            if found.begin < found.end:
                yield found


class _Joined:
    """Which runs of lines are candidates of one attempt, in one step or in several."""

    def __init__(self) -> None:
        self._before: dict[int, int] = {}

    def root(self, number: int) -> int:
        """Return the first of all that are joined with one."""
        while (before := self._before.get(number, number)) != number:
            self._before[number] = self._before.get(before, before)
            number = before
        return number

    def join(self, one: int, other: int) -> None:
        """Join two."""
        first, second = sorted((self.root(one), self.root(other)))
        self._before[second] = first


def _runs(count: int, ranges: Sequence[_Range]) -> tuple[list[int], list[int]]:
    """Return of each line the run of overlapping ranges that it is in, by its first line, and how many have it."""
    steps, inner = Counter[int](), Counter[int]()
    for begin, end in ranges:
        steps.update({begin: 1})
        steps.subtract({end: 1})
        inner.update({begin + 1: 1})
        inner.subtract({end: 1})
    covered = [*accumulate(steps[number] for number in range(count))]
    linked = [*accumulate(inner[number] for number in range(count))]  # ranges that a line shares with the one before
    runs: list[int] = []
    for number in range(count):
        runs.append(runs[-1] if runs and linked[number] else number)
    return runs, covered


def _models(items: Iterable[Entry | Charge]) -> set[str]:
    return {item.model.casefold() for item in items if item.model}


def _kind(item: Entry | Charge, *, by_model: bool) -> tuple[str, str]:
    return item.currency, (item.model or "").casefold() if by_model else ""


def _rounded(amount: Decimal | None) -> Decimal:
    return (amount or Decimal(0)).quantize(_SMALLEST)
