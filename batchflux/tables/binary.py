"""Tables of Parquet and Excel files. Each needs a library that an extra brings."""

from __future__ import annotations

import datetime as dt
import re
import warnings
import zipfile
from contextlib import closing, contextmanager, suppress
from functools import reduce
from html import unescape
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from batchflux.errors import ReadError, quoted
from batchflux.tables.cells import Padded, is_empty, trimmed
from batchflux.tables.delimited import HEADER_AGAIN, twice
from batchflux.tables.streams import BOMB_BYTES, BOMB_RATIO, CHUNK, check_file, check_kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchflux.tables.cells import Report, Row

_PACKED = b"PK\x03\x04"  # begins an Excel file, also one that is cut off
_FORMULA = re.compile(  # a cell that has one, and no value or an empty one
    rb"<(?:\w+:)?c\b([^>]*)>\s*<(?:\w+:)?f\b(?:[^>]*/>|[^>]*>[^<]*</(?:\w+:)?f>)\s*"
    rb"(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v>\s*</(?:\w+:)?v>)?\s*</(?:\w+:)?c>"
)
_HIDDEN = re.compile(rb'<row\b(?=[^>]*\bhidden="(?:1|true)")[^>]*[^/>]>\s*<c\b')  # with cells in it
_CELL = re.compile(rb'\br="(\w+)"')
_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\b[^>]*\bref="([A-Z]{1,3})(\d+):[A-Z]{1,3}(\d+)"')
_ZEROS = re.compile(r"0{2,}")  # the format of a number that is shown with zeros in front
_ATTRIBUTE = re.compile(r"""([\w:]+)\s*=\s*("[^"]*"|'[^']*')""")
_WORKBOOK = "xl/"
_RELATIONS = f"{_WORKBOOK}_rels/workbook.xml.rels"
_LONGEST = 16 << 10  # bytes of a cell with a formula
_LOOKED_AT = 100  # rows of a sheet that may have none
BATCH = 1024  # rows of Parquet held at a time


class Parquet:
    """One Parquet file."""

    blank_rows = 0

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._opened() as file:
            self.columns: tuple[str, ...] = tuple(file.schema_arrow.names)

    def rows(self, _report: Report) -> Iterator[tuple[int, Row]]:
        """Yield each row with its number."""
        number = 0
        with self._opened() as file:
            try:
                for batch in file.iter_batches(batch_size=BATCH):
                    for row in _texts(batch).to_pylist():
                        number += 1
                        yield number, row
            except (ValueError, OSError) as error:  # pyarrow's own errors are kinds of these two
                raise ReadError(number + 1, f"cannot be read further: {error}") from None

    def _opened(self) -> Any:
        try:
            from pyarrow import parquet  # noqa: PLC0415  an extra, and heavy
        except ImportError:
            raise ReadError(None, _missing("pyarrow", "parquet")) from None
        try:
            check_file(self._path)
            file = parquet.ParquetFile(self._path)
        except (ValueError, OSError) as error:
            raise ReadError(None, f"is no Parquet file that can be read: {error}") from None
        if name := twice(file.schema_arrow.names):
            file.close()
            raise ReadError(None, f"has the column {name} twice")
        return file


def _texts(batch: Any) -> Any:
    """Return rows of Parquet with texts where a column holds their bytes, as older programs write it."""
    from pyarrow import string, types  # noqa: PLC0415  an extra, and heavy

    for at, field in enumerate(batch.schema):
        if types.is_binary(field.type) or types.is_large_binary(field.type):
            with suppress(ValueError):  # it holds something else
                batch = batch.set_column(at, field.name, batch.column(at).cast(string()))
    return batch


class Sheet:
    """The first sheet of an Excel file that has rows: what its cells show, formulas as they were last reckoned."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.blank_rows = 0
        self.hidden_rows = 0  # which are read as all others
        self.other_sheets = 0  # which have rows, and are not read
        self._merged: dict[int, list[tuple[int, int]]] = {}
        self.name = ""
        header = next(self._filled(), None)
        if header is None:
            raise ReadError(None, "is empty; it needs a header and at least one row")
        names = [*map(_text, header[1])]
        if name := twice(filter(None, names)):
            raise ReadError(header[0], f"the column {name} stands twice in the header")
        self._names = names
        self.columns = tuple(filter(None, names))
        # Those that are read in each row that they reach down to.
        self.merged_cells = sum(len(cells) for row, cells in self._merged.items() if row > header[0])

    def rows(self, report: Report) -> Iterator[tuple[int, Row]]:
        """Yield each row with its number in the sheet."""
        names, width = self._names, len(self._names)
        rows = self._filled()
        next(rows, None)
        self.blank_rows = 0
        for number, cells in rows:
            row = {name: cell for name, cell in zip(names, cells, strict=False) if name}
            for name in names[len(cells) :]:
                row[name] = None
            if [*map(_text, cells[:width])] == names:
                report(number, HEADER_AGAIN)
                continue
            bad = [at for at, cell in enumerate(cells) if not is_empty(cell) and (at >= width or not names[at])]
            if bad and not (bad == [0] and isinstance(cells[0], int)):  # which is the index that pandas wrote
                what = f"column {bad[-1] + 1} has {quoted(str(cells[bad[-1]]))} and no name in the header"
                report(number, f"{what}; name it, or empty it")
            else:
                row.pop("", None)
                yield number, row

    def left_out(self) -> int:
        """Return how many columns between those that have one are left out, for they have no name."""
        named = [at for at, name in enumerate(self._names) if name]
        return self._names[: named[-1]].count("") if named else 0

    def _filled(self) -> Iterator[tuple[int, list[Any]]]:
        """Yield the rows in which something stands, with their numbers."""
        with closing(self._opened()) as book, _read("cannot be read further"):
            seen = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"] or book.worksheets
            sheets = [sheet for sheet in seen if self.name in {"", sheet.title}]
            for sheet in sheets:
                if not self.name:
                    self._look(sheet.title)
                tall: _Tall | None = None  # not in the header, where a cell may reach over those below it
                with suppress(AttributeError):
                    sheet.reset_dimensions()  # some programs write a wrong one
                for number, cells in enumerate(sheet.iter_rows(), start=1):
                    if all(is_empty(cell.value) for cell in cells):
                        self.blank_rows += self.name != ""
                        continue
                    if not self.name:
                        self.name = sheet.title
                        self.other_sheets = sum(_has_rows(one) for one in sheets[sheets.index(sheet) + 1 :])
                    shown = list(map(_shown, cells))
                    if tall is None:
                        tall = _Tall(self._merged)
                    else:
                        tall.fill(number, shown)
                    yield number, shown
                if self.name:
                    return

    def _opened(self) -> Any:
        try:
            from openpyxl import load_workbook  # noqa: PLC0415  an extra, and heavy
        except ImportError:
            raise ReadError(None, _missing("openpyxl", "excel")) from None
        check_file(self._path)
        with _read("is no Excel file that can be read"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and the like, which no cell's value needs
            self._check_size()
            return load_workbook(self._path, read_only=True, data_only=True)

    def _check_size(self) -> None:
        if not zipfile.is_zipfile(self._path):
            with self._path.open("rb") as file:
                check_kind(file.read(CHUNK).removeprefix(_PACKED))
            raise ReadError(
                None, "is no Excel file that can be read: it is cut off, or text; save it again, or name it .csv"
            )
        with zipfile.ZipFile(self._path) as packed:
            size = sum(part.file_size for part in packed.infolist())
            if size > max(BOMB_BYTES, BOMB_RATIO * self._path.stat().st_size):
                raise ReadError(None, f"unpacks to more than {BOMB_RATIO} times its size, as no table does")

    def _look(self, title: str) -> None:
        """Find hidden rows and merged cells of a sheet; refuse formulas of which it does not say what they come to."""
        with zipfile.ZipFile(self._path) as packed:
            found = [_contents(packed, name) for name in _files_of(packed, title)]
        known = found[0] if len(found) == 1 else _Contents(0, {}, None)
        self.hidden_rows, self._merged = known.hidden, known.merged
        cell = next((one.unreckoned for one in found if one.unreckoned is not None), None)
        if cell is not None:
            message = f"holds formulas that were never reckoned, as in cell {cell}"
            raise ReadError(None, f"{message}; open it in a spreadsheet and save it")


def _has_rows(sheet: Any) -> bool:
    rows = islice(sheet.iter_rows(), _LOOKED_AT)
    return any(not is_empty(cell.value) for cells in rows for cell in cells)


class _Tall:
    """Cells that were merged with those below them: what stands in the first is of each row, as a person sees it.

    `merged` has, by the row where they begin, the column and the last row of each.
    """

    def __init__(self, merged: dict[int, list[tuple[int, int]]]) -> None:
        self._merged = merged
        self._open: list[tuple[int, int, Any]] = []  # column, last row, what stands there

    def fill(self, number: int, cells: list[Any]) -> None:
        """Write into the cells of a row what stands there by a merged cell of a row before."""
        self._open = [one for one in self._open if one[1] >= number]
        for column, _, value in self._open:
            cells += [None] * (column + 1 - len(cells))
            if is_empty(cells[column]):
                cells[column] = value
        self._open += [
            (column, last, cells[column]) for column, last in self._merged.get(number, ()) if column < len(cells)
        ]


def _files_of(packed: zipfile.ZipFile, title: str) -> list[str]:
    """Return which file of a workbook a sheet is, or all that it may be; ECMA-376, part 1, 18.2.19, says where it says.

    openpyxl knows, and does not tell.
    """
    names = packed.namelist()
    sheets = [name for name in names if name.startswith(f"{_WORKBOOK}worksheets/")]
    if not {f"{_WORKBOOK}workbook.xml", _RELATIONS} <= {*names}:
        return sheets
    targets = {one.get("Id"): one.get("Target", "") for one in _tags(packed.read(_RELATIONS), "Relationship")}
    for one in _tags(packed.read(f"{_WORKBOOK}workbook.xml"), "sheet"):
        target = targets.get(one.get("r:id"))
        if one.get("name") == title and target is not None:
            name = target.removeprefix("/") if target.startswith("/") else _WORKBOOK + target
            return [name] if name in sheets else sheets
    return sheets


def _tags(xml: bytes, name: str) -> Iterator[dict[str, str]]:
    """Yield the attributes of each tag of that name."""
    for tag in re.finditer(rf"<(?:\w+:)?{name}\b([^>]*)>", xml.decode(errors="replace")):
        yield {key: unescape(value[1:-1]) for key, value in _ATTRIBUTE.findall(tag[1])}


class _Contents(NamedTuple):
    """What openpyxl does not tell of a sheet.

    How many rows with cells are `hidden`; which cells are `merged` with those below them, as `_Tall` takes them; and
    the first cell that has a formula without what it comes to (`unreckoned`), as programs write them.
    """

    hidden: int
    merged: dict[int, list[tuple[int, int]]]
    unreckoned: str | None


def _contents(packed: zipfile.ZipFile, name: str) -> _Contents:
    hidden, merged, unreckoned = set[int](), set[tuple[int, int, int]](), None
    for start, piece in _pieces(packed, name):
        hidden.update(start + match.start() for match in _HIDDEN.finditer(piece))
        for letters, first, last in _MERGED.findall(piece):
            if int(last) > int(first):
                column = reduce(lambda sum_, letter: 26 * sum_ + letter - 64, letters, 0) - 1
                merged.add((int(first), column, int(last)))
        if unreckoned is None:
            cells = (match[1] for match in _FORMULA.finditer(piece) if b't="str"' not in match[1])  # an empty text
            unreckoned = next(((_CELL.search(cell) or [b"", b"?"])[1].decode() for cell in cells), None)
    made: dict[int, list[tuple[int, int]]] = {}
    for first, column, last in sorted(merged):
        made.setdefault(first, []).append((column, last))
    return _Contents(len(hidden), made, unreckoned)


def _pieces(packed: zipfile.ZipFile, name: str) -> Iterator[tuple[int, bytes]]:
    """Yield a file piece by piece, each with where it begins; they overlap by what may be cut through."""
    start, piece = 0, b""
    with packed.open(name) as file:
        while chunk := file.read(CHUNK):
            start += max(0, len(piece) - _LONGEST)
            piece = piece[-_LONGEST:] + chunk
            yield start, piece


@contextmanager
def _read(what: str) -> Iterator[None]:
    """Say that a file is not what it should be; openpyxl raises a dozen kinds of errors for odd ones."""
    try:
        yield
    except (ReadError, MemoryError):
        raise
    except Exception as error:
        raise ReadError(None, f"{what}: {error}; open it in a spreadsheet and save it anew, or as .csv") from error


def _text(cell: Any) -> str:
    return "" if cell is None else trimmed(str(cell))


def _shown(cell: Any) -> Any:
    """Return what a cell of openpyxl's shows: its value, with the zeros in front that its format asks for."""
    value = _value(cell.value)
    if type(value) is int and value >= 0 and cell.has_style and _ZEROS.fullmatch(cell.number_format):
        return Padded(value, len(cell.number_format))
    return value


def _value(cell: Any) -> Any:
    """Return what a value shows: a whole number without .0, a ratio that Excel took for a time as it was typed."""
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    if isinstance(cell, str):
        return cell.replace("_x000D_\n", "\n")  # a line end that came from elsewhere, as the file format writes it
    if isinstance(cell, dt.time) and not cell.second:
        return f"{cell.hour}:{cell.minute}"
    if isinstance(cell, dt.datetime) and cell.time() == dt.time():
        return cell.date().isoformat()
    return cell.isoformat(" ") if isinstance(cell, dt.datetime) else cell


def _missing(library: str, extra: str) -> str:
    return f"needs {library}, which is not installed; run: pip install 'batchflux[{extra}]'"
