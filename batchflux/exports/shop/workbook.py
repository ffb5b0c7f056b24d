"""products.xlsx: a row for each picture, with its thumbnail where one is wanted; the one place that writes .xlsx.

Its bytes follow from the rows alone: openpyxl would write the time into it.
"""

from __future__ import annotations

import io
import re
from datetime import datetime
from importlib.util import find_spec
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_DEFLATED, ZipFile

from batchflux.exports.archive import entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import BinaryIO

MOST_CHARACTERS = 32_767  # of a cell
_LONG_AGO = datetime(1980, 1, 1)  # noqa: DTZ001  the format's times have no zone
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_WIDTHS = {"caption": 60, "prompt": 60, "note": 40, "file": 32, "url": 48}  # of columns, in characters
_WIDTH, _WIDE, _HIGH = 16, 15, 76  # of other columns, of that of thumbnails, of rows with one (points)
_TEXT = "s"  # the type of a cell that is never a formula


def has_openpyxl() -> bool:
    """Whether a workbook can be written here."""
    return find_spec("openpyxl") is not None


def write_workbook(
    file: BinaryIO, header: Sequence[str], rows: Iterable[tuple[Sequence[Any], bytes]], *, thumbnails: bool
) -> None:
    """Write rows with the thumbnail (JPEG) of each; text is text whatever it begins with."""
    from openpyxl import Workbook  # noqa: PLC0415  an extra, and heavy
    from openpyxl.drawing.image import Image as Picture  # noqa: PLC0415  an extra, and heavy
    from openpyxl.utils import get_column_letter  # noqa: PLC0415  an extra, and heavy
    from openpyxl.writer.excel import ExcelWriter  # noqa: PLC0415  an extra, and heavy

    book = Workbook(write_only=True)
    sheet = book.create_sheet("products")
    sheet.freeze_panes = "A2"
    columns = ["picture", *header] if thumbnails else [*header]
    for number, name in enumerate(columns, 1):
        width = _WIDE if thumbnails and number == 1 else _WIDTHS.get(name, _WIDTH)
        sheet.column_dimensions[get_column_letter(number)].width = width
    sheet.append([_cell(sheet, name) for name in columns])
    for number, (row, thumbnail) in enumerate(rows, 2):
        if thumbnails:
            sheet.row_dimensions[number].height = _HIGH
            sheet.add_image(Picture(io.BytesIO(thumbnail)), f"A{number}")
        sheet.append([_cell(sheet, value) for value in ([None, *row] if thumbnails else row)])
    book.properties.created = book.properties.modified = _LONG_AGO
    with TemporaryFile() as first:
        ExcelWriter(book, ZipFile(first, "w")).save()
        with ZipFile(first) as made, ZipFile(file, "w") as timeless:
            for member in made.infolist():
                info = entry(member.filename)
                info.compress_type = ZIP_DEFLATED
                timeless.writestr(info, made.read(member))


def _cell(sheet: Any, value: Any) -> Any:
    """Return what stands in a cell: a number, or text that no spreadsheet runs."""
    if not isinstance(value, str):
        return value
    from openpyxl.cell import WriteOnlyCell  # noqa: PLC0415  an extra, and heavy

    cell = WriteOnlyCell(sheet, _NOT_IN_XML.sub("\ufffd", value)[:MOST_CHARACTERS])
    cell.data_type = _TEXT
    return cell
