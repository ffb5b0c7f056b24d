"""Which line of a provider's books is of which attempt: every row in one place, and no sum lost."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.charges.books import Charge
from batchflux.charges.matching import ALWAYS, Entry, Reconciliation, covered_by, reconcile, sums_of

PRICE = Decimal("0.14")


def entry(attempt: int, **fields: Any) -> Entry:
    known: dict[str, Any] = {"job": f"job-{attempt}", "attempt": attempt, "provider": "p", "key_name": "K"}
    known |= {"model": "m", "at": 1000.0, "ended": 1010.0, "amount": PRICE, "currency": "USD", "billed": "yes"}
    return Entry(**{**known, **fields})


def charge(receipt: str | None = None, **fields: Any) -> Charge:
    return Charge(**{"receipt": receipt, "at": 1005.0, "amount": PRICE, "model": "m", **fields})


def match(ours: list[Entry], theirs: list[Charge], **how: Any) -> Reconciliation:
    return reconcile(ours, theirs, **{"window": 60.0, **how})


def test_a_line_that_names_the_request_is_of_its_attempt_whatever_else_it_says() -> None:
    line = charge("a", at=None, amount=Decimal("0.16"), model="other")
    found = match([entry(1, receipt="a")], [line])
    assert [(one.entry.attempt, one.paid, one.difference) for one in found.matches] == [
        (1, Decimal("0.16"), Decimal("0.02"))
    ]
    assert not found.agrees
    assert match([entry(1, receipt="a")], [charge("a")]).agrees


def test_gaps_strangers_and_repeats_are_each_named() -> None:
    ours = [entry(number, receipt=str(number)) for number in range(4)]
    theirs = [charge("0"), charge("1"), charge("1"), charge("3"), charge("other"), charge("other")]
    found = match(ours, theirs)
    assert [one.entry.attempt for one in found.matches] == [0, 1, 3]
    assert [one.attempt for one in found.missing] == [2]
    assert [one.receipt for one in found.only_theirs] == ["other"]
    assert [one.receipt for one in found.repeated] == ["1", "other"]
    assert not found.agrees


def test_what_was_given_back_belongs_to_its_charge() -> None:
    found = match([entry(1, receipt="a", billed="no")], [charge("a"), charge("a", amount=-PRICE)])
    assert [one.paid for one in found.matches] == [0]
    assert found.agrees
    assert not match([entry(1, receipt="a", billed="no")], [charge("a")]).agrees


def test_two_currencies_are_never_compared() -> None:
    found = match([entry(1, receipt="a"), entry(2)], [charge("a", currency="CNY"), charge(currency="CNY")])
    assert [one.difference for one in found.matches] == [None]
    assert (len(found.missing), len(found.only_theirs)) == (1, 1)
    assert sums_of([*found.only_theirs, charge()]) == {"CNY": PRICE, "USD": PRICE}
    assert not found.agrees


@pytest.mark.parametrize(
    ("line", "fits"),
    [
        ({}, True),
        ({"at": 941.0}, True),
        ({"at": 939.0}, False),
        ({"at": 1069.0}, True),
        ({"at": 1071.0}, False),
        ({"at": None}, False),
        ({"amount": Decimal("0.15")}, False),
        ({"amount": Decimal("0.1400000001")}, True),
        ({"amount": None}, False),
        ({"model": "M"}, True),
        ({"currency": "EUR"}, False),
    ],
)
def test_without_a_name_model_amount_and_time_tell(line: dict[str, Any], *, fits: bool) -> None:
    found = match([entry(1)], [charge(**line)])
    assert (len(found.matches), len(found.only_theirs)) == ((1, 0) if fits else (0, 1))


def test_models_count_where_both_sides_name_them_alike() -> None:
    assert match([entry(1)], [charge(model=None)]).matches
    assert match([entry(1)], [charge(model="another name")]).matches
    named = [entry(1), entry(2, model="n", at=5000.0, ended=5000.0)]
    assert [one.entry.attempt for one in match(named, [charge(model="n"), charge(model="n", at=5000.0)]).matches] == [2]


def test_names_of_another_kind_do_not_keep_rows_apart() -> None:
    """An export may count its rows; but where one name fits, others that do not are other requests."""
    assert match([entry(1, receipt="a")], [charge("17")]).matches
    found = match([entry(1, receipt="a"), entry(2, receipt="b")], [charge("a"), charge("c")])
    assert (len(found.matches), len(found.missing), len(found.only_theirs)) == (1, 1, 1)


def test_what_may_be_one_of_several_is_not_guessed() -> None:
    found = match([entry(1), entry(2)], [charge(), charge()])
    assert not found.matches
    assert [(len(one.entries), len(one.charges), one.even) for one in found.groups] == [(2, 2, True)]
    assert found.agrees
    found = match([entry(1), entry(2)], [charge()])
    assert [(len(one.entries), len(one.charges), one.even) for one in found.groups] == [(2, 1, False)]
    assert not found.agrees


def test_a_chain_of_candidates_is_one_group_and_others_stay_out_of_it() -> None:
    ours = [entry(1), entry(2, at=1100.0, ended=1100.0), entry(3, at=9000.0, ended=9000.0)]
    found = match(ours, [charge(at=950.0), charge(at=1055.0), charge(at=9000.0)])
    assert [sorted(one.attempt for one in group.entries) for group in found.groups] == [[1, 2]]
    assert [one.entry.attempt for one in found.matches] == [3]


def test_the_books_decide_what_may_have_been_billed() -> None:
    ours = [entry(1, billed="maybe"), entry(2, billed="maybe", at=5000.0, ended=5000.0)]
    found = match(ours, [charge(amount=Decimal("0.05"))])
    assert [(one.attempt, paid) for one, paid in found.decided] == [(1, Decimal("0.05")), (2, 0)]
    assert found.agrees
    assert not match([entry(1, billed="maybe")], [charge(amount=Decimal("0.15"))]).decided[0][1]
    assert match([entry(1, billed="maybe", ended=None, out=True)], []).decided == (), "it may be in the books tomorrow"


def test_a_file_decides_nothing_of_what_was_sent_before_or_after_its_lines() -> None:
    lines = [charge(at=1005.0), charge(at=2000.0)]
    ours = [entry(number, billed="maybe", at=at, ended=at) for number, at in enumerate((800.0, 1500.0, 9000.0))]
    found = match([*ours, entry(9, at=9000.0, ended=9000.0)], lines, covered=covered_by(lines, 60.0))
    assert [one.attempt for one, _ in found.decided] == [1]
    assert [one.attempt for one in found.untold] == [0, 2]
    assert [one.attempt for one in found.missing] == [9], "what was billed for certain is missed all the same"
    assert covered_by([], 60.0) == covered_by([charge(at=None)], 60.0) == ALWAYS


def test_books_that_tell_only_what_they_are_asked_leave_the_rest_untold() -> None:
    ours = [entry(1, receipt="a"), entry(2, receipt="b"), entry(3), entry(4, billed="no")]
    found = match(ours, [charge("a")], complete=False)
    assert [one.entry.attempt for one in found.matches] == [1]
    assert [one.attempt for one in (*found.only_ours, *found.untold, *found.free)] == [2, 3, 4]


def test_many_that_are_alike_take_no_time_of_their_pairs() -> None:
    count = 4_000
    ours = [entry(number, at=float(number), ended=float(number)) for number in range(count)]
    theirs = [charge(at=float(number)) for number in range(count)]
    found = match(ours, theirs, window=3600.0)
    assert [(len(one.entries), len(one.charges)) for one in found.groups] == [(count, count)]


NAMES = st.sampled_from([None, "a", "b", "c", "d"])
AMOUNTS = st.sampled_from([Decimal(text) for text in ("0", "0.04", "0.14", "0.140", "0.15")])
MODELS, MONEY = st.sampled_from(["m", "M", "n"]), st.sampled_from(["USD", "CNY"])
ENTRY = st.builds(
    entry, st.integers(), receipt=NAMES, amount=AMOUNTS, model=MODELS, at=st.floats(0, 300), currency=MONEY,
    ended=st.one_of(st.none(), st.floats(300, 400)), billed=st.sampled_from(["yes", "maybe", "no"]),
)  # fmt: skip
ENTRIES = st.lists(ENTRY, max_size=8)
APART = st.lists(ENTRY, max_size=8, unique_by=lambda one: one.receipt or id(one))
CHARGES = st.lists(
    st.builds(
        charge, NAMES, amount=st.one_of(AMOUNTS, AMOUNTS.map(Decimal.copy_negate), st.none()), currency=MONEY,
        at=st.one_of(st.none(), st.floats(0, 600)), model=st.one_of(MODELS, st.none()),
    ),
    max_size=8,
)  # fmt: skip


def told(sums: dict[str, Decimal]) -> dict[str, Decimal]:
    return {money: amount for money, amount in sums.items() if amount}


@given(ENTRIES, CHARGES, st.floats(0, 100), st.booleans())
def test_every_row_is_in_one_place_and_sums_add_up(
    ours: list[Entry],
    theirs: list[Charge],
    window: float,
    complete: bool,  # noqa: FBT001  hypothesis gives it
) -> None:
    found = match(ours, theirs, window=window, complete=complete)
    entries = [*(one.entry for one in found.matches), *found.only_ours, *found.free, *found.untold]
    entries += [one for group in found.groups for one in group.entries]
    charges = [*found.only_theirs, *found.repeated, *(one for pair in found.matches for one in pair.charges)]
    charges += [one for group in found.groups for one in group.charges]
    assert sorted(map(id, entries)) == sorted(map(id, ours))
    assert sorted(map(id, charges)) == sorted(map(id, theirs))
    assert told(sums_of(entries)) == told(sums_of(ours))
    assert told(sums_of(charges)) == told(sums_of(theirs))
    for pair in found.matches:
        first = pair.charges[0]
        named = first.receipt is not None and first.receipt == pair.entry.receipt
        assert named or (complete and pair.same_currency and pair.entry.billed != "no")


@given(APART, CHARGES, st.floats(0, 100))
def test_the_order_of_rows_does_not_matter(ours: list[Entry], theirs: list[Charge], window: float) -> None:
    one, other = match(ours, theirs, window=window), match(ours[::-1], theirs[::-1], window=window)
    assert len(one.groups) == len(other.groups)
    assert len(one.repeated) == len(other.repeated)
    assert len(one.matches) == len(other.matches)


def test_books_in_another_currency_decide_nothing_of_what_may_have_been_billed() -> None:
    ours = [entry(1, billed="maybe"), entry(2)]
    found = match(ours, [charge(currency="EUR", amount=Decimal("0.12"))])
    assert (found.decided, found.untold, found.only_ours) == ((), (ours[0],), (ours[1],))
    assert [one.attempt for one, _ in match(ours[:1], [charge(amount=Decimal("0.50"))]).decided] == [1]
