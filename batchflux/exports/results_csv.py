"""results.csv, a projection of the ledger: appended as jobs end, rewritten in manifest order when the run ends.

The file is well-formed after a kill: rows are appended whole, each batch in one write, after the ledger has
committed it; and `rewrite` replaces the file in one rename. What a kill leaves out, the next run writes.

One write is whole after a kill as long as it stays within one page: Linux looks for a fatal signal between the pages of
a write (generic_perform_write in mm/filemap.c). So a batch over a page's edge is added by replacing the file: a small
one by a copy, a large one by its twin (twin.py). Where the folder allows neither it is appended to all the same: a kill
within the microsecond at the edge cuts its last row until the next run.

Once anybody judged a picture of the folder, the columns `review` and `note` stand at the very end. They come with a
rewrite: an append follows the header that the file has.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
from itertools import islice
from typing import TYPE_CHECKING, Any, TextIO

from batchflux.errors import StorageError
from batchflux.exports.cells import HEADER, cells, neutralised
from batchflux.exports.twin import Twin
from batchflux.failpoints import reach
from batchflux.output.durable import sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from batchflux.ledger.reviews import Verdict
    from batchflux.ledger.tables import Known

REVIEW_HEADER = ("review", "note")
_TEMPORARY = ".results.csv.tmp"
_AT_ONCE = 500  # rows
_PAGE = 4096  # bytes; where pages are larger, their edges are among these
_SMALL = 1 << 19  # bytes that are copied for a batch over a page's edge


class Results:
    """The results.csv of one output folder. `tag_names` become the columns `tags.NAME`.

    `verdicts`, by key, are what its columns `review` and `note` say; with none there are no such columns. They are
    set before `intact` is asked and before `rewrite`.
    """

    def __init__(self, path: Path, tag_names: Sequence[str]) -> None:
        self.path = path
        self.tag_names = tuple(tag_names)
        self.verdicts: Mapping[bytes, Verdict] = {}
        self._file: io.FileIO | None = None
        self._twin = Twin(path)

    def append(self, rows: Iterable[Known]) -> None:
        """Add the rows of jobs that ended, in one write.

        Raises:
            StorageError: the file cannot take them; it is cut back to its last whole row.
        """
        text = io.StringIO()
        _write_rows(text, map(self._cells, rows))
        data = text.getvalue().encode()
        reach("csv.appending")
        try:
            if self._file is None:
                self._file = self._open()
            self._add(self._file, data)
        except OSError as error:
            raise _explain(self.path, error) from error
        reach("csv.appended")

    def rewrite(self, rows: Iterable[Known]) -> None:
        """Replace the file by one of these rows, whole or not at all.

        Raises:
            StorageError: the folder cannot take the file; the old one stands.
        """
        self.close()
        self.swap(self.write_beside(rows, _TEMPORARY))

    def write_beside(self, rows: Iterable[Known], name: str) -> Path:
        """Write a file of these rows under another name in the folder, for `swap`; return its path.

        Raises:
            StorageError: the folder cannot take it.
        """
        temporary = self.path.with_name(name)
        try:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                _write_rows(file, [self._header()])
                _write_rows(file, map(self._cells, rows))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _explain(self.path, error) from error
        return temporary

    def swap(self, temporary: Path) -> None:
        """Put a file that `write_beside` made in this one's place.

        Raises:
            StorageError: the folder does not allow it; the old one stands.
        """
        reach("csv.rewritten")
        try:
            temporary.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _explain(self.path, error) from error
        reach("csv.replaced")

    def intact(self) -> bool:
        """Whether the file is there, has this run's header, and ends with a whole row."""
        try:
            with self.path.open("rb") as file:
                header = file.readline()
                file.seek(-1, os.SEEK_END)
                return header == self._line(self._header()) and file.read(1) == b"\n"
        except OSError:
            return False

    def close(self) -> None:
        """Close the file; a later append opens it again."""
        self._close()
        self._twin.drop()

    def _open(self) -> io.FileIO:
        file = io.FileIO(self.path, "ab")
        if file.tell() == 0:
            self._write(file, self._line(self._header()))
        return file

    def _add(self, file: io.FileIO, data: bytes) -> None:
        size = file.seek(0, os.SEEK_END)
        within = size // _PAGE == (size + len(data) - 1) // _PAGE
        if within or not (self._twin.add(data) if size > _SMALL else self._add_by_replacing(data)):
            self._write(file, data)
        else:
            self._close()

    def _add_by_replacing(self, data: bytes) -> bool:
        """Put a file with this at its end in the place of this one; False where the folder does not allow it."""
        temporary = self.path.with_name(_TEMPORARY)
        try:
            temporary.write_bytes(self.path.read_bytes() + data)
            temporary.replace(self.path)
        except OSError:  # a full disk, or a folder in which nothing can be made: the file itself may take it
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            return False
        return True

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, file: io.FileIO, data: bytes) -> None:
        before = file.seek(0, os.SEEK_END)
        written = 0
        try:
            while written < len(data):
                written += file.write(data[written:]) or 0
        except OSError:
            file.truncate(before)
            raise

    def _header(self) -> list[str]:
        reviews = REVIEW_HEADER if self.verdicts else ()
        return [*HEADER, *(f"tags.{name}" for name in self.tag_names), *reviews]

    def _cells(self, known: Known) -> list[Any]:
        row = cells(known, self.tag_names)
        if self.verdicts:
            verdict = self.verdicts.get(known.key)
            row += ["", ""] if verdict is None else [verdict.review, neutralised(verdict.note)]
        return row

    @staticmethod
    def _line(row: Sequence[str]) -> bytes:
        text = io.StringIO()
        _write_rows(text, [row])
        return text.getvalue().encode()


def _write_rows(file: TextIO, rows: Iterable[Sequence[Any]]) -> None:
    stream = iter(rows)
    while some := list(islice(stream, _AT_ONCE)):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(some)
        if "\r" in text.getvalue():
            # Before Python 3.13 a lone carriage return is not quoted, and readers end the row there.
            text = io.StringIO()
            plain = csv.writer(text, lineterminator="\n")
            quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
            for row in some:
                careful = any(isinstance(cell, str) and "\r" in cell for cell in row)
                (quoting if careful else plain).writerow(row)
        file.write(text.getvalue())


def _explain(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written ({error.strerror}): free space or repair its permissions, then run again to "
        "continue; nothing that was paid for is lost."
    )
