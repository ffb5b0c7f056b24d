"""Tables of JSON: an object a line, a list of objects, an object of rows by name, or of lists by column.

Lines and lists stream. An object is read whole, within a bound. Numbers print as they were written.
"""

from __future__ import annotations

import json
import re
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from batchflux.errors import ReadError
from batchflux.tables.cells import MAX_CELL, Written, is_empty
from batchflux.tables.delimited import twice
from batchflux.tables.streams import MAX_LINE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchflux.tables.cells import Report, Row
    from batchflux.tables.streams import TextFile

MAX_DIGITS = 1000
MAX_WHOLE = 64 << 20  # characters of an object that holds all rows
NAME = "row_name"  # the column of the name that a row has in an object of rows
_BETWEEN = re.compile(r"[ \t\r\n,]*")


def _no_constant(name: str) -> Any:
    if name == "NaN":  # as Python and pandas write what is missing
        return None
    raise ValueError(f"{name} is not JSON")


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError(f"the column {twice(name for name, _ in pairs)} stands twice")
    return made


_READ: dict[str, Any] = {
    "parse_float": Written,
    "parse_int": _whole,
    "parse_constant": _no_constant,
    "object_pairs_hook": _unique,
}
_loads: Callable[[str], Any] = partial(json.loads, **_READ)
_decode = json.JSONDecoder(**_READ).raw_decode


class Records:
    """One table; its rows tell their columns themselves. `by_line` says that its suffix means an object a line."""

    columns = None

    def __init__(self, file: TextFile, *, by_line: bool) -> None:
        self._file = file
        self._by_line = by_line
        self.blank_rows = 0
        if next(file.lines(), None) is None:
            raise ReadError(None, "is empty; it needs at least one row")

    def rows(self, report: Report) -> Iterator[tuple[int, Row]]:
        """Yield each row with the line on which it begins; with its number where all are one object."""
        self.blank_rows = 0
        for line, row in self._found(report):
            if not isinstance(row, dict):
                report(line, "the line is not a JSON object; allowed is {...} with the columns as names")
            elif any(isinstance(cell, str) and len(cell) > MAX_CELL for cell in row.values()):
                report(line, f"a cell has more than {MAX_CELL} characters")
            elif all(map(is_empty, row.values())):
                self.blank_rows += 1
            else:
                yield line, row

    def _found(self, report: Report) -> Iterator[tuple[int, Any]]:
        first, *second = [*islice(filter(str.strip, self._file.lines()), 2)] or [""]
        if first.lstrip().startswith("["):
            return self._listed()
        if self._by_line or (second and first.strip() != "{" and _is_object(first)):
            return self._lined(report)
        return self._named()

    def _lined(self, report: Report) -> Iterator[tuple[int, Any]]:
        for line, text in enumerate(self._file.lines(), start=1):
            if text.isspace():
                continue
            try:
                yield line, _loads(text.rstrip("\r\n"))
            except json.JSONDecodeError as error:
                report(line, f"the line is not JSON: {error.msg} at column {error.colno}")
            except ValueError as error:
                report(line, f"the line is not allowed: {error}")
            except RecursionError:
                report(line, "the line is nested too deeply")

    def _listed(self) -> Iterator[tuple[int, Any]]:
        """Yield the elements of one list, from as much of its text as it takes."""
        texts = self._file.texts()
        text, at, line = "", 0, 1
        opened = done = False
        while not done:
            more = next(texts, None)
            line += text.count("\n", 0, at)
            text, at = text[at:] + (more or ""), 0
            while (match := _BETWEEN.match(text, at)) is not None and (begin := match.end()) < len(text):
                if not opened:
                    opened, at = True, begin + 1
                    continue
                if text[begin] == "]":
                    return
                try:
                    element, end = _decode(text, begin)
                except json.JSONDecodeError as error:
                    if more is None or len(text) - begin > MAX_LINE:
                        bad = line + text.count("\n", 0, error.pos)
                        raise ReadError(bad, f"the list is not JSON: {error.msg} at column {error.colno}") from None
                    break
                except ValueError as error:
                    raise ReadError(line + text.count("\n", 0, begin), f"the row is not allowed: {error}") from None
                except RecursionError:
                    raise ReadError(line + text.count("\n", 0, begin), "the row is nested too deeply") from None
                if end == len(text) and more is not None:
                    break  # a number may go on
                yield line + text.count("\n", 0, begin), element
                at = end
            done = more is None
        raise ReadError(line, "the list does not end; is the file whole?")

    def _named(self) -> Iterator[tuple[int, Any]]:
        """Yield the rows of one object."""
        whole, size = [], 0
        for text in self._file.texts():
            whole.append(text)
            size += len(text)
            if size > MAX_WHOLE:
                raise ReadError(None, f"has more than {MAX_WHOLE} characters in one object; write it as .jsonl")
        try:
            found = _loads("".join(whole))
        except json.JSONDecodeError as error:
            raise ReadError(error.lineno, f"the file is not JSON: {error.msg} at column {error.colno}") from None
        except (ValueError, RecursionError) as error:
            raise ReadError(None, f"cannot be read: {error}") from None
        if not isinstance(found, dict):
            raise ReadError(1, "the file is no list of JSON objects; allowed is [{...}, ...] with the columns as names")
        yield from enumerate(_rows_of(found), start=1)


def _is_object(line: str) -> bool:
    try:
        return isinstance(_loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _rows_of(found: dict[str, Any]) -> list[Any]:
    """Return the rows that an object holds: by name, in one list, by column as pandas writes them, or itself."""
    cells = list(found.values())
    lists = [cell for cell in cells if isinstance(cell, list) and any(isinstance(item, dict) for item in cell)]
    if len(lists) == 1:
        return lists[0]
    if cells and all(isinstance(cell, dict) for cell in cells):
        numbered = all(name.isdecimal() for cell in cells for name in cell)
        if numbered and not all(map(str.isdecimal, found)):
            names = dict.fromkeys(name for cell in cells for name in cell)
            return [{column: cell.get(name) for column, cell in found.items()} for name in names]
        return [{NAME: name, **cell} for name, cell in found.items()]
    if len({len(cell) if isinstance(cell, list) else -1 for cell in cells}) == 1 and isinstance(cells[0], list):
        return [dict(zip(found, row, strict=True)) for row in zip(*cells, strict=True)]
    return [found]
