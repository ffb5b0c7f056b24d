"""Reads what a provider's website exports of its books: a table, whose columns are named, or told by their headings.

Encodings and delimiters are found out as for tables of jobs. Nothing is passed over in silence: a cell that should be
money or a time and is not is a fault that names its line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from batchflux.charges.books import Charge
from batchflux.errors import ReadError, UsageError, quoted
from batchflux.manifest.reading.diagnostics import nearest
from batchflux.tables import Given, opened
from batchflux.tables.cells import is_blank, trimmed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from batchflux.tables.cells import Row

HEADINGS: Mapping[str, tuple[str, ...]] = {
    "id": (
        "request_id", "requestid", "generation_id", "prediction_id", "task_id", "taskid", "job_id", "transaction_id",
        "id", "请求id", "请求_id", "任务id", "任务_id",
    ),
    "time": (
        "created_at", "created", "timestamp", "time", "datetime", "date_time", "billed_at", "sent_at", "started_at",
        "date", "时间", "创建时间", "请求时间", "日期",
    ),
    "amount": (
        "cost_total", "total_cost", "cost", "amount", "charge", "charged", "total", "price", "spend", "spent",
        "金额", "费用", "花费", "消费", "扣费",
    ),
    "currency": ("currency", "cur", "currency_code", "币种", "货币"),
    "model": (
        "model_permaslug", "model_name", "model", "model_id", "endpoint_id", "endpoint", "模型", "模型名称",
    ),
}  # fmt: skip
"""The headings by which a column is told, the surest first; their case, blanks and signs do not matter."""
_SIGNS = {"$": "USD", "¥": "CNY", "￥": "CNY", "€": "EUR", "£": "GBP"}
_CODE = re.compile(r"[A-Z]{3}")
_IN_HEADING = re.compile(r"_(usd|cny|rmb|eur|gbp)$")
_NUMBER = re.compile(r"[+-]?(?:\d[\d,.' \u00a0]*|\.\d+)(?:[eE][+-]?\d+)?")
_SECONDS = re.compile(r"\d{9,11}(?:\.\d+)?|\d{12,14}|\d{15,17}")
_MOST = Decimal(10) ** 12  # of any currency
_MILLI, _MICRO = 12, 15  # digits from which a time is counted so


@dataclass(frozen=True, slots=True, kw_only=True)
class HowToRead:
    """What the user says of an exported table: its `columns` by what they hold, and what its cells do not tell."""

    columns: Mapping[str, str] = field(default_factory=dict)
    currency: str | None = None
    zone: tzinfo = UTC
    encoding: str | None = None
    delimiter: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The lines of an exported table, and what was assumed of it."""

    charges: tuple[Charge, ...]
    assumed: Mapping[str, str]


def columns_named(text: str) -> dict[str, str]:
    """Read `id=request_id,amount=cost`; a UsageError says what is allowed."""
    made: dict[str, str] = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        kind, sign, name = (part.strip() for part in pair.partition("="))
        if not sign or kind not in HEADINGS or not name or kind in made:
            allowed = f"write pairs as id=request_id,amount=cost, each once; known are {', '.join(HEADINGS)}"
            raise UsageError(f"--columns: found {quoted(pair)}; {allowed}")
        made[kind] = name
    return made


def read_exported(path: Path, how: HowToRead, money: str) -> Exported:
    """Read an exported table; `money` is the currency where nothing tells another. UsageError: it cannot be read."""
    try:
        table = opened(path, Given(how.encoding, how.delimiter))
        rows = [*table.source.rows(_refuse)]
    except ReadError as error:
        raise UsageError(f"{path}{'' if error.line is None else f':{error.line}'}: {error.message}") from error
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    names = table.source.columns or tuple(dict.fromkeys(name for _, row in rows for name in row))
    columns = _columns(path, names, how.columns)
    reader = _Reader(path, columns, how, money)
    charges = [reader.charge(line, row) for line, row in rows]
    assumed = {name: str(value) for name, value in table.assumed.items()} | reader.assumed
    told = [charge.amount for charge in charges if charge.amount]
    if told and all(amount < 0 for amount in told):
        charges = [replace(one, amount=-one.amount if one.amount else one.amount) for one in charges]
        assumed["sign"] = "what was spent stands as negative"
    return Exported(charges=tuple(charges), assumed=assumed)


def _refuse(line: int | None, message: str) -> None:
    raise ReadError(line, message)


def _columns(path: Path, names: tuple[str, ...], given: Mapping[str, str]) -> dict[str, str]:
    """Return the column of each kind; UsageError: one that is named is not there, or one that is needed is not told."""
    for kind, wanted in given.items():
        if wanted not in names:
            raise UsageError(f"{path}: --columns {kind}: found {quoted(wanted)}; {nearest(wanted, names)}")
    plain = {_plain(name): name for name in reversed(names)}
    found = {
        kind: name
        for kind, headings in HEADINGS.items()
        if (name := given.get(kind) or _guessed(plain, kind, headings)) is not None
    }
    shown = ", ".join(map(quoted, names))
    for kind, needed in (("amount", "amount" not in found), ("id or time", not {"id", "time"} & found.keys())):
        if needed:
            example = f"name it with --columns {kind.partition(' ')[0]}=NAME"
            raise UsageError(f"{path}: none of its columns is known to hold the {kind} ({shown}); {example}")
    return found


def _plain(name: str) -> str:
    return re.sub(r"\W+", "_", name.strip().casefold()).strip("_")


def _guessed(plain: Mapping[str, str], kind: str, headings: tuple[str, ...]) -> str | None:
    for heading in headings:
        if heading in plain:
            return plain[heading]
        found = [name for text, name in plain.items() if kind == "amount" and _IN_HEADING.sub("", text) == heading]
        if len(found) == 1:
            return found[0]
    return None


class _Reader:
    """Makes lines of rows, and takes note of what had to be assumed."""

    def __init__(self, path: Path, columns: Mapping[str, str], how: HowToRead, money: str) -> None:
        self._path, self._columns, self._how = path, columns, how
        self.assumed = {kind: name for kind, name in columns.items() if kind not in how.columns}
        headed = _IN_HEADING.search(_plain(columns["amount"]))
        self._money = how.currency or (headed[1].upper().replace("RMB", "CNY") if headed else None)
        self._default = money

    def charge(self, line: int, row: Row) -> Charge:
        """Return the line that a row is."""
        cells = {kind: None if is_blank(row.get(name)) else row.get(name) for kind, name in self._columns.items()}
        try:
            amount, money = money_of(cells["amount"])
            at = time_of(cells.get("time"), self._how.zone)
        except ValueError as error:
            raise UsageError(f"{self._path}:{line}: {error}") from None
        money = (_text(cells.get("currency")) or "").upper() or money or self._money
        if money is None:
            self.assumed.setdefault("currency", f"{self._default}, as the folder's")
        if isinstance(cells.get("time"), str) and at is not None and self._how.zone is UTC:
            self.assumed.setdefault("times", "UTC where they name no zone")
        return Charge(
            receipt=_text(cells.get("id")),
            at=at,
            amount=amount,
            currency=(money or self._default).replace("RMB", "CNY"),
            model=_text(cells.get("model")),
            where=f"{self._path.name}:{line}",
        )


def _text(cell: Any) -> str | None:
    return None if cell is None else trimmed(str(cell)) or None


def money_of(cell: Any) -> tuple[Decimal, str | None]:
    """Return the amount that a cell holds, and the currency that stands beside it; ValueError: it holds none."""
    text = "" if cell is None else trimmed(str(cell))
    negative = text.startswith("(") and text.endswith(")")
    bare = text[1:-1].strip() if negative else text
    sign = next((code for mark, code in _SIGNS.items() if mark in bare), None)
    code = _CODE.search(bare)
    bare = re.sub(r"[A-Z]{3}|[$¥￥€£]", "", bare).strip().replace("\u2212", "-")
    bare = re.sub(r"^([+-])\s+", r"\1", bare)
    if not _NUMBER.fullmatch(bare):
        raise ValueError(f"found {quoted(text)}; allowed is an amount of money, as 0.14, -0.14 or $0.14")
    try:
        amount = Decimal(_with_point(bare))
    except InvalidOperation:
        amount = _MOST
    if abs(amount) >= _MOST:
        raise ValueError(f"found {quoted(text)}, which is no amount; write it as 1234.50")
    return (-amount if negative else amount), code[0] if code else sign


def _with_point(text: str) -> str:
    """Return a number with a point before its decimals and nothing between thousands; ValueError: it is in doubt."""
    text = re.sub(r"[' \u00a0]", "", text)
    if "," not in text:
        return text
    if "." in text:
        last = max(text.rfind(","), text.rfind("."))
        return text[:last].replace(",", "").replace(".", "") + "." + text[last + 1 :]
    whole, _, rest = text.rpartition(",")
    if "," in whole:
        return text.replace(",", "")
    if len(rest) == len("000") and whole.strip("+-").strip("0"):
        raise ValueError(f"found {quoted(text)}, which may be thousands or decimals; write it with a point, or without")
    return f"{whole}.{rest}"


def time_of(cell: Any, zone: tzinfo) -> float | None:
    """Return the time that a cell holds in epoch seconds, None of an empty one; ValueError: it holds none.

    Without a zone of its own it is in `zone`.
    """
    if cell is None:
        return None
    if isinstance(cell, datetime):
        return _stamp(cell, zone)
    text = trimmed(str(cell))
    if _SECONDS.fullmatch(text):
        digits = len(text.partition(".")[0])
        return float(text) / (1 if digits < _MILLI else 1e3 if digits < _MICRO else 1e6)
    try:
        return _stamp(datetime.fromisoformat(re.sub(r"\s*UTC$", "Z", text.replace("/", "-", 2))), zone)
    except ValueError:
        allowed = "allowed is a time as 2026-11-30T22:15:00Z, 2026-11-30 22:15:00 or in epoch seconds"
        raise ValueError(f"found {quoted(text)}; {allowed}") from None


def _stamp(when: datetime, zone: tzinfo) -> float:
    return (when if when.tzinfo else when.replace(tzinfo=zone)).timestamp()
