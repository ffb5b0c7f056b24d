"""results.csv, a projection of the ledger: appended as jobs end, rewritten in manifest order when the run ends.

Rows are appended once the ledger has committed them, each batch in one write, and `rewrite` replaces the file in one
rename. A kill may cut the last row or leave rows out: the next run rewrites the file. Once anybody judged a picture of
the folder, a rewrite puts the columns `review` and `note` at the very end, and `reviewer` behind them once anybody gave
a name.
"""

from __future__ import annotations

import csv
import io
import os
from typing import TYPE_CHECKING, Any, TextIO

from batchflux.exports.base import HEADER, cells, neutralised
from batchflux.failpoints import reach
from batchflux.output.durable import sync, sync_folder
from batchflux.output.folder import unwritable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from batchflux.errors import StorageError
    from batchflux.ledger.reviews import Verdict
    from batchflux.ledger.tables import Known

REVIEW_HEADER = ("review", "note", "reviewer")
BOM = "\ufeff"
TAGS = "tags."  # begins the column of a tag


class Results:
    """An Exporter: the results.csv of one output folder. `tag_names` become the columns `tags.NAME`.

    With `bom` it begins with the mark by which Excel knows UTF-8; None: as the file that is there.

    `verdicts`, by key, fill the columns of a review; they are set before `intact` is asked and before `rewrite`.
    """

    def __init__(self, path: Path, tag_names: Sequence[str], *, bom: bool | None = None) -> None:
        self.path = path
        self._mark = BOM if (_begins_marked(path) if bom is None else bom) else ""
        self.tag_names = tuple(tag_names)
        self.verdicts = {}
        self._file: io.FileIO | None = None

    @property
    def verdicts(self) -> Mapping[bytes, Verdict]:
        """What was said of the pictures, by key."""
        return self._verdicts

    @verdicts.setter
    def verdicts(self, verdicts: Mapping[bytes, Verdict]) -> None:
        self._verdicts = verdicts
        named = any(verdict.reviewer for verdict in verdicts.values())
        self._review_header = REVIEW_HEADER[: None if named else -1] if verdicts else ()

    def write(self, row: Known, image: Callable[[], bytes | None]) -> None:
        """Add the row of a job that ended; a picture has no place in it."""
        self.append([row])

    def append(self, rows: Iterable[Known]) -> None:
        """Add the rows of jobs that ended, in one write; StorageError cuts the file back to its last whole row."""
        data = _lines(map(self._cells, rows))
        reach("csv.appending")
        try:
            if self._file is None:
                self._file = io.FileIO(self.path, "ab")
                if self._file.tell() == 0:
                    _write(self._file, self._first_line())
            _write(self._file, data)
        except OSError as error:
            raise self._explain(error) from error
        reach("csv.appended")

    def rewrite(self, rows: Iterable[Known]) -> None:
        """Replace the file by one of these rows; StorageError when the folder cannot take it: the old one stands."""
        self.close()
        self.swap(self.write_beside(rows, f".{self.path.name}.tmp"))

    def write_beside(self, rows: Iterable[Known], name: str) -> Path:
        """Write a file of these rows under another name in the folder, for `swap`; return its path, or StorageError."""
        temporary = self.path.with_name(name)
        try:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                file.write(self._mark)
                _write_rows(file, [self._header()])
                _write_rows(file, map(self._cells, rows))
                file.flush()
                sync(file.fileno())
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise self._explain(error) from error
        return temporary

    def swap(self, temporary: Path) -> None:
        """Put a file that `write_beside` made in this one's place; StorageError, and the old one stands."""
        reach("csv.rewritten")
        try:
            temporary.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise self._explain(error) from error
        reach("csv.replaced")

    def intact(self) -> bool:
        """Whether the file is there, has this run's header, and ends with a whole row."""
        try:
            with self.path.open("rb") as file:
                header = file.readline()
                file.seek(-1, os.SEEK_END)
                return header == self._first_line() and file.read(1) == b"\n"
        except OSError:
            return False

    def close(self) -> None:
        """Close the file; a later append opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _first_line(self) -> bytes:
        return self._mark.encode() + _lines([self._header()])

    def _header(self) -> list[str]:
        return [*HEADER, *(f"{TAGS}{name}" for name in self.tag_names), *self._review_header]

    def _cells(self, known: Known) -> list[Any]:
        row = cells(known, self.tag_names)
        verdict = self.verdicts.get(known.key)
        return row + [neutralised(getattr(verdict, name, "")) for name in self._review_header]

    def _explain(self, error: OSError) -> StorageError:
        return unwritable(self.path, error, " to continue; nothing that was paid for is lost.")


def _begins_marked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(BOM.encode())) == BOM.encode()
    except OSError:
        return False


def _write(file: io.FileIO, data: bytes) -> None:
    """Write all of it, or nothing."""
    before = file.seek(0, os.SEEK_END)
    try:
        while data:
            data = data[file.write(data) or 0 :]
    except OSError:
        file.truncate(before)
        raise


def _lines(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    _write_rows(text, rows)
    return text.getvalue().encode()


def _write_rows(file: TextIO, rows: Iterable[Sequence[Any]]) -> None:
    plain, careful = (
        csv.writer(file, lineterminator="\n", quoting=quoting) for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    )
    for row in rows:
        # Before Python 3.13 a lone carriage return is not quoted, and readers end the row there.
        (careful if "\r" in "".join(map(str, row)) else plain).writerow(row)
