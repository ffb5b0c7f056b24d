"""What reads a table, by its suffix; and what is told of how it was read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from batchflux.errors import ReadError, quoted
from batchflux.tables.binary import Parquet, Sheet
from batchflux.tables.delimited import SHOWN, Delimited
from batchflux.tables.encodings import SHOWN_AS, text_file
from batchflux.tables.records import Records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchflux.tables.cells import Report, Row

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON = {".json": False, ".jsonl": True, ".ndjson": True}  # whether an object stands on each line
FORMATS = (*_DELIMITERS, *_JSON, ".parquet", ".xlsx")
_INSTEAD = {".xls": ".xlsx", ".xlsb": ".xlsx", ".xlsm": ".xlsx", ".ods": ".xlsx", ".numbers": ".csv", ".txt": ".csv"}


@dataclass(frozen=True, slots=True)
class Given:
    """What the user says of a table: its encoding, a codec's name, and its delimiter; None where that is found out."""

    encoding: str | None = None
    delimiter: str | None = None


class Source(Protocol):
    """A table: its columns, None where each row has its own, and its rows; `blank_rows` were passed over so far."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The names of the columns."""

    @property
    def blank_rows(self) -> int:
        """How many rows of empty cells were passed over."""

    def rows(self, report: Report, /) -> Iterator[tuple[int, Row]]:
        """Yield each row with its line, or its number; a ReadError ends what cannot be read further."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A table that can be read, and what was assumed of it."""

    source: Source
    assumed: dict[str, str | int]


def table_format(name: str) -> tuple[str, bool]:
    """Return the format by its suffix, and whether the file is gzipped; a ValueError when it is no table's."""
    lower = name.lower()
    zipped = lower.endswith(".gz")
    suffix = Path(lower.removesuffix(".gz")).suffix
    if suffix not in FORMATS or (zipped and suffix in {".parquet", ".xlsx"}):
        allowed = "allowed is a .csv, .tsv, .json or .jsonl file, each also .gz, .xlsx or .parquet"
        instead = f"; save it as {_INSTEAD[suffix]}" if suffix in _INSTEAD else ""
        raise ValueError(f"found {quoted(name)}; {allowed}{instead}")
    return suffix, zipped


def opened(path: Path, given: Given) -> Opened:
    """Open a table and read its header.

    Raises ReadError: it cannot be read; ValueError: its format has no encoding or no delimiter to be given.
    """
    suffix, zipped = table_format(path.name)
    if given.delimiter is not None and suffix not in _DELIMITERS:
        raise ValueError(f"a {suffix} table has no delimiter; remove delimiter")
    if given.encoding is not None and suffix in {".parquet", ".xlsx"}:
        raise ValueError(f"a {suffix} table has no encoding; remove encoding")
    if suffix == ".parquet":
        return Opened(Parquet(path), {})
    if suffix == ".xlsx":
        sheet = Sheet(path)
        names = ("hidden_rows", "merged_cells", "other_sheets")
        said = {name: number for name in names if (number := getattr(sheet, name))}
        return Opened(sheet, {"sheet": sheet.name, **said, **_left_out(sheet.left_out())})
    file, guessed = text_file(path, zipped=zipped, encoding=given.encoding)
    assumed: dict[str, str | int] = {}
    if file.encoding != "utf-8" or guessed:
        assumed["encoding"] = SHOWN_AS.get(file.encoding, file.encoding)
    if suffix in _JSON:
        return Opened(Records(file, by_line=_JSON[suffix]), assumed)
    table = Delimited(file, _DELIMITERS[suffix], given.delimiter)
    if table.delimiter != _DELIMITERS[suffix]:
        assumed["delimiter"] = SHOWN.get(table.delimiter, table.delimiter)
    return Opened(table, assumed | _left_out(table.left_out()))


def _left_out(columns: int) -> dict[str, str | int]:
    return {"unnamed_columns": columns} if columns else {}


__all__ = ["FORMATS", "Given", "Opened", "ReadError", "Source", "opened", "table_format"]
