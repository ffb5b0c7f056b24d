"""Rows of the tables that `from` names, one at a time: csv, tsv, jsonl, each also `.gz`, and parquet; files of lines.

Cells are text exactly as they stand; a row is a mapping of column names; a bad row is reported with its line and
skipped, a file that cannot be read further is reported and ends. Nothing holds more than a row (parquet: a batch).
Lines are read as bytes, so that a wrong byte is found on its own line. Parquet needs pyarrow, which an extra brings.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchflux.manifest.yaml_nodes import ReadError, Written, quoted

if TYPE_CHECKING:
    import io

MAX_CELL = 1 << 20
MAX_DIGITS = 1000
MAX_LINE = 16 << 20
BOMB_BYTES, BOMB_RATIO = 32 << 20, 200  # from so many bytes on, no table of rows that differ packs so well
LINE_COSTS = 16  # bytes that a line counts for besides its own: empty ones take time too
MAX_LINES_BYTES = 64 << 20  # of a file of lines, which is read whole
MAX_LINES = 1_000_000
BATCH = 1024  # rows of parquet held at a time
FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}

Row = Mapping[str, Any]
Report = Callable[[int | None, str], None]  # line of the table, message


def table_format(source: str) -> tuple[str, bool]:
    """Return the format by its suffix, and whether the file is gzipped; a ValueError when it is no table's."""
    name = source.lower()
    zipped = name.endswith(".gz")
    suffix = Path(name.removesuffix(".gz")).suffix
    if suffix not in FORMATS or (zipped and suffix == ".parquet"):
        raise ValueError(f"found {quoted(source)}; allowed is a .csv, .tsv or .jsonl file, each also .gz, or .parquet")
    return suffix, zipped


def columns_of(path: Path) -> tuple[str, ...] | None:
    """Return the columns of a table, from its header, or raise ReadError; None for jsonl, whose rows differ."""
    suffix, zipped = table_format(path.name)
    if suffix == ".parquet":
        with _parquet(path) as file:
            return tuple(file.schema_arrow.names)
    with _opened(path, zipped=zipped) as stream:
        if suffix == ".jsonl":
            if not stream.peek(1):
                raise ReadError(None, "is empty; it needs at least one row")
            return None
        return _header(csv.reader(_lines(stream), delimiter=_DELIMITERS[suffix], strict=True))


def rows_of(path: Path, report: Report) -> Iterator[tuple[int, Row]]:
    """Yield each row with its line (parquet: its number), bad ones reported; a ReadError ends what cannot be read."""
    suffix, zipped = table_format(path.name)
    if suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    with _opened(path, zipped=zipped) as stream:
        most = max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size) if zipped else None
        if suffix == ".jsonl":
            yield from _json_rows(_lines(stream, most), report)
        else:
            yield from _csv_rows(_lines(stream, most), _DELIMITERS[suffix], report)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ReadError(None, "is not a file" if path.exists() else "does not exist")


def _twice(names: Iterable[str]) -> str | None:
    return next((quoted(name) for name, times in Counter(names).most_common(1) if times > 1), None)


def _opened(path: Path, *, zipped: bool) -> io.BufferedReader | gzip.GzipFile:
    try:
        _check_file(path)
        return gzip.open(path, "rb") if zipped else path.open("rb")
    except OSError as error:
        raise ReadError(None, f"cannot be read: {error.strerror}") from None


def _lines(stream: io.BufferedReader | gzip.GzipFile, most: int | None = None) -> Iterator[str]:
    """Yield the lines as text; `most` is how many bytes a packed table may unpack to."""
    number = size = 0
    try:
        while raw := stream.readline(MAX_LINE + 1):
            number += 1
            if len(raw) > MAX_LINE:
                raise ReadError(number, f"the line has more than {MAX_LINE} bytes")
            size += len(raw) + LINE_COSTS
            if most is not None and size > most:
                message = f"the file unpacks to more than {BOMB_RATIO} times its size, as no table does"
                raise ReadError(number, f"{message}; unpack it first")
            text = raw.decode()
            yield text.removeprefix("\ufeff") if number == 1 else text
    except UnicodeDecodeError as error:
        raise ReadError(number, f"the byte 0x{error.object[error.start]:02x} is not UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ReadError(number + 1, f"cannot be read further: {error}") from None


def _header(reader: Any) -> tuple[str, ...]:
    if csv.field_size_limit() < MAX_CELL:
        csv.field_size_limit(MAX_CELL)  # the limit is the process's; it is only ever raised
    try:
        cells = next(reader, None)
    except csv.Error as error:
        raise ReadError(reader.line_num or 1, f"the header cannot be read: {error}") from None
    if cells is None:
        raise ReadError(None, "is empty; it needs a header and at least one row")
    names = tuple(cell.strip() for cell in cells)
    if not any(names):
        raise ReadError(1, "the first line is blank; it must be the header with the columns' names")
    if "" in names:
        raise ReadError(1, f"column {names.index('') + 1} has no name in the header")
    if name := _twice(names):
        raise ReadError(1, f"the column {name} stands twice in the header")
    return names


def _csv_rows(lines: Iterator[str], delimiter: str, report: Report) -> Iterator[tuple[int, Row]]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    columns = _header(reader)
    width, start = len(columns), reader.line_num + 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if len(cells) == width:
                yield line, dict(zip(columns, cells, strict=True))
            elif cells:
                report(line, f"the row has {len(cells)} cells and the header {width}; quote a cell that has a comma")
    except csv.Error as error:
        if "field limit" in str(error):
            raise ReadError(start, f"a cell has more than {MAX_CELL} characters; is a quote not closed?") from None
        raise ReadError(start, f"the row cannot be read: {error}") from None


def _json_rows(lines: Iterator[str], report: Report) -> Iterator[tuple[int, Row]]:
    decode = partial(
        json.loads, parse_float=Written, parse_int=_whole, parse_constant=_no_constant, object_pairs_hook=_unique
    )
    for line, text in enumerate(lines, start=1):
        if text.isspace():
            continue
        try:
            row = decode(text.rstrip("\r\n"))
        except json.JSONDecodeError as error:
            report(line, f"the line is not JSON: {error.msg} at column {error.colno}")
        except ValueError as error:
            report(line, f"the line is not allowed: {error}")
        except RecursionError:
            report(line, "the line is nested too deeply")
        else:
            if not isinstance(row, dict):
                report(line, "the line is not a JSON object; allowed is {...} with the columns as names")
            elif any(isinstance(cell, str) and len(cell) > MAX_CELL for cell in row.values()):
                report(line, f"a cell has more than {MAX_CELL} characters")
            else:
                yield line, row


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError(f"the column {_twice(name for name, _ in pairs)} stands twice")
    return made


def _parquet(path: Path) -> Any:
    try:
        from pyarrow import parquet  # noqa: PLC0415  an extra, and heavy
    except ImportError:
        message = "needs pyarrow, which is not installed; run: pip install 'batchflux[parquet]'"
        raise ReadError(None, message) from None
    try:
        _check_file(path)
        file = parquet.ParquetFile(path)
    except (ValueError, OSError) as error:
        raise ReadError(None, f"is no Parquet file that can be read: {error}") from None
    if name := _twice(file.schema_arrow.names):
        file.close()
        raise ReadError(None, f"has the column {name} twice")
    return file


def _parquet_rows(path: Path) -> Iterator[tuple[int, Row]]:
    number = 0
    with _parquet(path) as file:
        try:
            for batch in file.iter_batches(batch_size=BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (ValueError, OSError) as error:  # pyarrow's own errors are kinds of these two
            raise ReadError(number + 1, f"cannot be read further: {error}") from None


def lines_of(source: str, base: Path) -> list[str]:
    """Return the lines of a text file that are not blank; a ValueError says why it cannot be read, or is no such."""
    path, shown = base / source, f"the file {quoted(source)}"
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"{quoted(source)} is not a file")
        if path.stat().st_size > MAX_LINES_BYTES:
            raise ValueError(f"{shown} has more than {MAX_LINES_BYTES} bytes; use a table with from")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown} is not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise ValueError(f"{shown} cannot be read: {error.strerror}") from None
    values = [line.strip() for line in text.split("\n") if line.strip()]
    if not values:
        raise ValueError(f"{shown} has no line that is not blank")
    if len(values) > MAX_LINES:
        raise ValueError(f"{shown} has more than {MAX_LINES} lines; use a table with from")
    return values
