"""Tables of delimited text. The delimiter is what the header proves: it stands in it, and the first rows fit.

Cells stay as they stand, but for `="00123"`: so programs write a text that Excel is not to take for a number. A row may
lack its last cells; one with more than the header has names is a fault, unless they are empty. A column without a name
is left out where its cells are empty or, in front, the numbers of pandas' index.
"""

from __future__ import annotations

import csv
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any

from batchflux.errors import ReadError, quoted
from batchflux.tables.cells import MAX_CELL, trimmed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from batchflux.tables.cells import Report, Row
    from batchflux.tables.streams import TextFile

SHOWN = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
HEADER_AGAIN = "the row says the same as the header, and would be a job of its own; remove it"
_REASONS = {  # part of what the parser says → what is to be done
    "new-line": "a line end in a cell without quotes; put it in quotes, or save the file with one kind of line ends",
    "expected after": 'a text goes on behind a closing quote; write quotes inside a cell twice, as "a 12"" mug"',
    "unexpected end": "a quote opens here and is never closed; close it, or write it twice inside a cell in quotes",
}
_EQUALS = '="'  # begins a text in a formula of its own
_LOOKED_AT, _HEAD = 50, 1 << 20  # lines from which the delimiter is seen, and characters of them


def delimiter_of(text: str) -> str:
    """Read a delimiter as people write it: itself, or its name; a ValueError says what is allowed."""
    named = {name: mark for mark, name in SHOWN.items()} | {"\\t": "\t", "pipe": "|"}
    mark = named.get(text.lower(), text)
    if len(mark) != 1 or mark in '"\r\n\0' or mark.isalnum():
        raise ValueError(f'found {quoted(text)}; allowed is one character, as ";" or "|", or tab')
    return mark


def twice(names: Iterable[str]) -> str | None:
    """Return a name that stands there more than once, in quotes."""
    return next((quoted(name) for name, times in Counter(names).most_common(1) if times > 1), None)


class Delimited:
    """One table, its header read; `preferred` is the delimiter of its suffix, `given` what the user says it is."""

    def __init__(self, file: TextFile, preferred: str, given: str | None) -> None:
        if csv.field_size_limit() < MAX_CELL:
            csv.field_size_limit(MAX_CELL)  # the limit is the process's; it is only ever raised
        self._file = file
        head = _head(file)
        if head and head[0].lstrip().startswith(("[{", '{"')):
            raise ReadError(1, "is JSON; name the file .json, or .jsonl")
        told = _told(head[0]) if head else None
        self._before = 0 if told is None else 1  # lines in front of the header
        self.delimiter = given or told or _delimiter(head, preferred)
        self.blank_rows = 0
        self._names = _names(self._reader(), self._before)
        self.columns = tuple(name for name in self._names if name)

    def _reader(self) -> Any:
        lines = self._file.lines()
        return csv.reader(islice(lines, self._before, None), delimiter=self.delimiter, strict=True)

    def rows(self, report: Report) -> Iterator[tuple[int, Row]]:
        """Yield each row with the line on which it begins."""
        self.blank_rows = 0
        reader, before = self._reader(), self._before
        columns, bare = self.columns, self._names == self.columns
        next(reader)
        names = list(self._names)
        width, start = len(columns), reader.line_num + before + 1
        try:
            for written in reader:
                cells = [*map(_plain, written)] if any(cell[:2] == _EQUALS for cell in written) else written
                line, start = start, reader.line_num + before + 1
                if cells and trimmed(cells[0]) == names[0] and [*map(trimmed, cells)] == names:
                    report(line, HEADER_AGAIN)
                elif bare and len(cells) == width and cells[0][:1].isalnum():  # as nearly all are
                    yield line, dict(zip(columns, cells, strict=True))
                elif any(map(trimmed, cells)):
                    try:
                        yield line, dict(zip(columns, self._fitted(cells), strict=True))
                    except ValueError as error:
                        report(line, str(error))
                elif cells:
                    self.blank_rows += 1
        except csv.Error as error:
            if "field limit" in str(error):
                raise ReadError(start, f"a cell has more than {MAX_CELL} characters; is a quote not closed?") from None
            reason = next((says for part, says in _REASONS.items() if part in str(error)), str(error))
            raise ReadError(start, f"the row cannot be read: {reason}") from None

    def _fitted(self, cells: Sequence[str]) -> Iterator[str]:
        """Yield the cells of the columns that have a name; a ValueError says why these are not what the header says."""
        names, width = self._names, len(self._names)
        if len(cells) > width and any(map(trimmed, cells[width:])):
            mark = SHOWN.get(self.delimiter, self.delimiter)
            raise ValueError(f"the row has {len(cells)} cells and the header {width}; quote a cell that has a {mark}")
        for at, name in enumerate(names):
            cell = cells[at] if at < len(cells) else ""
            if name:
                yield cell
            elif trimmed(cell) and not (at == 0 and cell.isdecimal()):
                raise ValueError(f"column {at + 1} has {quoted(cell)} and no name in the header; name it, or empty it")

    def left_out(self) -> int:
        """Return how many columns are left out, for they have no name."""
        return len(self._names) - len(self.columns)


def _plain(cell: str) -> str:
    """Return the text of a cell that is a formula of nothing but a text; any other as it stands."""
    wrapped = cell[:2] == _EQUALS and len(cell) > len(_EQUALS) and cell[-1] == '"'
    return cell[2:-1].replace('""', '"') if wrapped else cell


def _head(file: TextFile) -> list[str]:
    lines, size = [], 0
    for line in file.lines():
        lines.append(line)
        size += len(line)
        if len(lines) > _LOOKED_AT or size > _HEAD:
            break
    return lines


def _told(first: str) -> str | None:
    """Return the delimiter that a first line `sep=;` tells, as spreadsheets have it."""
    text = first.rstrip("\r\n").strip('"')
    return text[4] if len(text) == len("sep=") + 1 and text.lower().startswith("sep=") else None


def _names(reader: Any, before: int) -> tuple[str, ...]:
    at = before + 1
    try:
        cells = next(reader, None)
    except csv.Error as error:
        raise ReadError(reader.line_num + before or at, f"the header cannot be read: {error}") from None
    if cells is None:
        raise ReadError(None, "is empty; it needs a header and at least one row")
    names = tuple(trimmed(_plain(cell)) for cell in cells)
    if not any(names):
        raise ReadError(at, "the first line is blank; it must be the header with the columns' names")
    if name := twice(filter(None, names)):
        raise ReadError(at, f"the column {name} stands twice in the header")
    return names


def _delimiter(head: Sequence[str], preferred: str) -> str:
    """Return the delimiter by which header and first rows are a table; a ReadError where two are as likely."""
    found = {mark: _columns(head, mark) for mark in dict.fromkeys((preferred, *SHOWN))}
    fit = [mark for mark, columns in found.items() if columns > 1]
    most = max(found.values())
    best = [mark for mark in fit if found[mark] == most]
    if not fit or (len(fit) == 1 and fit == [preferred]):
        return preferred
    if len(best) > 1 or (preferred in fit and preferred not in best):
        ways = " or ".join(f"{SHOWN[mark]} ({found[mark]} columns)" for mark in fit)
        raise ReadError(
            1, f"the header may be parted by {ways}; add delimiter: to the job, as delimiter: {SHOWN[best[0]]}"
        )
    return best[0]


def _columns(head: Sequence[str], mark: str) -> int:
    """Return into how many columns a mark parts a table; 0 where the rows are not what the header says."""
    rows = csv.reader(head, delimiter=mark, strict=True)
    found: list[list[str]] = []
    try:
        found += islice(rows, _LOOKED_AT)
    except csv.Error:
        found = found or []
    header, *body = found or [[]]
    body = [cells for cells in body if any(map(trimmed, cells))]
    fits = all(len(cells) <= len(header) or not any(map(trimmed, cells[len(header) :])) for cells in body)
    parted = sum(len(cells) > 1 for cells in body)
    return len(header) if fits and 2 * parted >= len(body) else 0
