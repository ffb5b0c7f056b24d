"""Exports of books as providers' websites have them: headings, money, times, encodings; and what cannot be told."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.billing.exported import HowToRead, columns_named, money_of, read_exported, time_of
from batchflux.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from batchflux.charges.books import Charge

AT = 1_795_000_000.0
TIME = "2026-11-18T11:06:40Z"


def read(path: Path, text: str | bytes, *, name: str = "b.csv", **how: Any) -> tuple[Charge, ...]:
    file = path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_exported(file, HowToRead(**how), "USD").charges


@pytest.mark.parametrize(
    "text",
    [
        f"request_id,created_at,cost,currency,model\na,{TIME},0.14,USD,m\n",
        f"generation_id,created_at,cost_total,model_permaslug\na,{TIME},0.14,m\n",
        "Request ID;Timestamp;Cost (USD);Model\na;1795000000;0,14;m\n",
        "sep=;\nid;time;amount;cur;endpoint_id\na;1795000000000;$0.14;usd;m\n",
        "请求ID,创建时间,金额,模型名称\na,2026-11-18 11:06:40,$0.14,m\n",
        f"\ufeffrequest_id\ttimestamp\tTotal cost\tmodel\na\t{TIME}\t-0.14\tm\n",
    ],
)
def test_common_headings_are_known(tmp_path: Path, text: str) -> None:
    (line,) = read(tmp_path, text)
    assert (line.receipt, line.at, line.amount, line.currency, line.model) == ("a", AT, Decimal("0.14"), "USD", "m")
    assert line.where.startswith("b.csv:")


def test_columns_that_are_named_and_other_encodings(tmp_path: Path) -> None:
    text = "wann;was;wieviel;zeichen\n18.11;Becher ü;0,14;x1\n"
    columns = columns_named("id=zeichen, amount=wieviel")
    (line,) = read(tmp_path, text.encode("cp1252"), columns=columns, encoding="cp1252", currency="EUR")
    assert (line.receipt, line.at, line.amount, line.currency) == ("x1", None, Decimal("0.14"), "EUR")


def test_times_without_a_zone_are_of_the_one_that_is_named(tmp_path: Path) -> None:
    text = "id,time,cost\na,2026-11-18 19:06:40,1\nb,2026-11-18T11:06:40+00:00,1\n"
    assert [line.at for line in read(tmp_path, text, zone=ZoneInfo("Asia/Shanghai"))] == [AT, AT]


def test_what_is_assumed_is_said(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("id;when;cost\na;1795000000;-1\nb;;-2\n", encoding="utf-8")
    made = read_exported(tmp_path / "b.csv", HowToRead(columns={"time": "when"}), "CNY")
    assert [line.amount for line in made.charges] == [1, 2]
    assert dict(made.assumed) == {
        "id": "id",
        "amount": "cost",
        "delimiter": "semicolon",
        "currency": "CNY, as the folder's",
        "times": "UTC where they name no zone",
        "sign": "what was spent stands as negative",
    }


def test_charges_and_what_was_given_back_keep_their_signs(tmp_path: Path) -> None:
    lines = read(tmp_path, "id,cost\na,0.14\na,(0.14)\nb,-0.02\n")
    assert [line.amount for line in lines] == [Decimal("0.14"), Decimal("-0.14"), Decimal("-0.02")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("when,what\n1,2\n", r"to hold the amount \(\"when\", \"what\"\); name it with --columns amount=NAME"),
        ("cost,model\n1,m\n", r"to hold the id or time .*--columns id=NAME"),
        ("id,cost\na,free\n", r'b.csv:2: found "free"; allowed is an amount of money'),
        ("id,cost\na,\n", r'b.csv:2: found ""; allowed is an amount'),
        ("id,cost\na,0.1.2\n", r'b.csv:2: found "0.1.2", which is no amount'),
        ('id,cost\na,"1,234"\n', r"thousands or decimals"),
        ("id,time,cost\na,11/12/2026,1\n", r'b.csv:2: found "11/12/2026"; allowed is a time as'),
        ("", "is empty"),
        ("id,id,cost\n1,2,3\n", "stands twice"),
        ("id,cost\n1,2,3\n", "b.csv:2: .*3 cells"),
    ],
)
def test_what_cannot_be_read_is_one_clear_sentence(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read(tmp_path, text)


def test_a_column_that_is_named_and_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'--columns amount: found "cots"; .*"cost"'):
        read(tmp_path, "id,cost\na,1\n", columns={"amount": "cots"})


@pytest.mark.parametrize("text", ["x", "id", "id=", "price=cost", "id=a,id=b"])
def test_a_mapping_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="known are id, time, amount, currency, model"):
        columns_named(text)


@pytest.mark.parametrize(
    ("cell", "amount", "money"),
    [
        (0.14, "0.14", None),
        ("0,140", "0.140", None),
        ("1,234.50", "1234.50", None),
        ("1.234,50", "1234.50", None),
        ("1,234,567", "1234567", None),
        ("¥ 1.00", "1.00", "CNY"),
        ("€0,05", "0.05", "EUR"),
        ("0.14 USD", "0.14", "USD"),
        ("CNY 0.14", "0.14", "CNY"),
        ("- $0.14", "-0.14", "USD"),
        ("(0.14)", "-0.14", None),
        ("4e-2", "0.04", None),
        (".5", "0.5", None),
    ],
)
def test_money_as_people_write_it(cell: Any, amount: str, money: str | None) -> None:
    assert money_of(cell) == (Decimal(amount), money)


@given(st.one_of(st.text(max_size=30), st.floats(), st.integers(), st.none()))
def test_no_cell_is_taken_for_money_or_time_that_is_none(cell: Any) -> None:
    for read_cell in (money_of, lambda one: time_of(one, ZoneInfo("Asia/Shanghai"))):
        try:
            made = read_cell(cell)
        except ValueError:
            continue
        else:
            assert made is None or isinstance(made, float | tuple)
