"""Lines of a csv or tsv table, many at once: the pattern that a plain one matches, and the table in large pieces.

The rule: a line that matches has the cells that csv.reader would give for it, one for each column, without control
characters and of at most CELL characters. Where a line matches nothing is said of why it does not.
"""

from __future__ import annotations

import codecs
import csv
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchflux.manifest.tables import header_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CELL = 4016  # characters of any text, as below; the other patterns are to give less
_CHUNK = 4 << 20  # bytes of the table that are held at once
_NEVER = r'"\x00-\x1f\x7f'


class OddTable(ValueError):  # noqa: N818  it is no error
    """The table is not of plain lines."""


@dataclass(slots=True)
class Column:
    """What a cell must look like: `inner` None is any text, at least not blank when `filled`; `kept`: it is a group."""

    inner: str | None = None
    filled: bool = False
    kept: bool = False


def line_pattern(columns: Sequence[Column], delimiter: str, first: str) -> re.Pattern[str]:
    """Return the pattern of a line, with its end.

    Args:
        columns: what the cells must look like.
        delimiter: what stands between them.
        first: a line that shows which columns with an `inner` pattern are in quotes.
    """
    made = "^" if len(columns) > 1 else r"^(?!\r?\n)"  # an empty line is no row
    for at, column in enumerate(columns):
        made += re.escape(delimiter) if at else ""
        if column.inner is None:
            made += _any(delimiter, filled=column.filled)
            continue
        quote = '"' if re.match(made + '"', first) else ""
        made += f"{quote}({'' if column.kept else '?:'}{column.inner}){quote}"
    return re.compile(made + "\\r?\\n", re.MULTILINE)


def _any(delimiter: str, *, filled: bool) -> str:
    """Any text, in quotes or not."""
    start, start_in_quotes = (rf"[^\s{delimiter}{_NEVER}]", rf"[^\s{_NEVER}]") if filled else ("", "")
    bare, quoted = rf"[^{delimiter}{_NEVER}]{{0,2000}}", rf"[^{_NEVER}]{{0,500}}"
    return rf'(?:{start}{bare}|"{start_in_quotes}{quoted}(?:""{quoted}){{0,7}}")'


def chunks(path: Path, delimiter: str, columns: Sequence[str]) -> Iterator[str]:
    """Yield the lines behind the header of these `columns`, many at once, each with its end.

    Raises:
        OddTable: the header is not the first line, or a line is endless.
        Unreadable: the first line by itself is no header.
        OSError: the table cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    with path.open("rb") as file:
        header = file.readline(_CHUNK).removeprefix(codecs.BOM_UTF8)
        reader = csv.reader([header.decode()], delimiter=delimiter, strict=True)
        if not header.endswith(b"\n") or header_of(reader) != tuple(columns):
            raise OddTable
        while data := file.read(_CHUNK):
            data += file.readline(_CHUNK)
            if not data.endswith(b"\n"):
                if file.read(1):
                    raise OddTable
                data += b"\n"
            yield data.decode()
