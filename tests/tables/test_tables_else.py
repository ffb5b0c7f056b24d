"""Files that are named like tables and are something else, and rows that say nothing new."""

from __future__ import annotations

import gzip
import io
import zipfile
from typing import TYPE_CHECKING, Any

import openpyxl
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.tables.conftest import Read


def book(*rows: list[object], also: Callable[[openpyxl.Workbook], object] = lambda _: None) -> bytes:
    """Return an Excel file of these rows."""
    made, data = openpyxl.Workbook(), io.BytesIO()
    assert made.active is not None
    for row in rows:
        made.active.append(row)
    also(made)
    made.save(data)
    return data.getvalue()


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
HTML = b"\xef\xbb\xbf\r\n<!DOCTYPE html><html><table><tr><td>title</td></tr></table></html>"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("t.csv", book(["title"], ["mug"]), "is a packed file, as Excel's are; name it .xlsx"),
        ("t.csv", OLE, "is an old Excel file (.xls), or one with a password; save it as .xlsx"),
        ("t.xlsx", OLE, "is an old Excel file (.xls), or one with a password; save it as .xlsx"),
        ("t.tsv", HTML, "is a web page or XML and no table"),
        ("t.xlsx", HTML, "is a web page or XML and no table"),
        ("t.json", b"%PDF-1.4\n%\xe2\xe3\n", "is a PDF"),
        ("t.csv", gzip.compress(b"title\nmug\n"), "is packed by gzip; name it so, as .csv.gz"),
        ("t.csv", b"PAR1" + bytes(90), "is a Parquet file; name it .parquet"),
        ("t.csv", b'[{"title": "mug"}]', "is JSON; name the file .json"),
        (
            "t.xlsx",
            b"title\nmug\n",
            "is no Excel file that can be read: it is cut off, or text; save it again, or name",
        ),
        ("t.xlsx", book(["title"], ["mug"])[:3000], "is no Excel file that can be read: it is cut off"),
        ("t.csv", 'title,b\n"a 12" mug",1\n', 'write quotes inside a cell twice, as "a 12"" mug"'),
        ("t.csv", 'title,b\n"a mug,1\nb,2\n', "t.csv:2: jobs[0].from: the row cannot be read: a quote opens here"),
        ("t.csv", "title,b\nmug,1\n\ufefftitle, b\n", "t.csv:3: jobs[0].from: the row says the same as the header"),
        (
            "t.xlsx",
            book(["title", "b"], ["mug", '="a"&1']),
            "formulas that were never reckoned, as in cell B2; open it",
        ),
        ("t.xlsx", book(["title", 1], ["title", 1], ["mug", 2]), "t.xlsx:2: jobs[0].from: the row says the same as"),
    ],
    ids=map(str, range(16)),  # the files hold the time at which they were made
)
def test_what_is_no_table_is_said_to_be_what_it_is(name: str, data: bytes | str, said: str, read: Read) -> None:
    _, (fault,), _ = read(name, data)
    assert said in fault


@pytest.mark.parametrize("part", ["xl/workbook.xml", "xl/worksheets/sheet1.xml"])
def test_an_excel_file_with_a_broken_part_is_a_fault(part: str, read: Read) -> None:
    broken = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(book(["title"], ["mug"], ["cup"]))) as whole,
        zipfile.ZipFile(broken, "w") as made,
    ):
        for name in whole.namelist():
            text = whole.read(name)
            made.writestr(name, text[: len(text) * 2 // 3] if name == part else text)
    jobs, (fault,), _ = read("t.xlsx", broken.getvalue())
    assert ("save it anew, or as .csv" in fault, "\n" in fault, len(jobs) < 2) == (True, False, True)


def test_a_hidden_sheet_is_not_read_and_line_ends_are_what_they_were(read: Read) -> None:
    def seen(made: openpyxl.Workbook) -> None:
        made.worksheets[0].sheet_state = "hidden"
        sheet = made.create_sheet("seen")
        sheet.append(["title"])
        sheet.append(["a mug_x000D_\nin red"])

    jobs, faults, (table,) = read("t.xlsx", book(["title"], ["old"], also=seen))
    assert ([job.prompt for job in jobs], faults, table["sheet"]) == (["a mug\nin red"], [], "seen")


def test_other_sheets_with_rows_are_said(read: Read) -> None:
    def more(made: openpyxl.Workbook) -> None:
        for name, text in (("plates", "plate"), ("empty", None), ("bowls", "bowl"), ("old", "jug")):
            made.create_sheet(name).append(["title", text])
        made["empty"]["A1"] = None
        made["old"].sheet_state = "hidden"

    jobs, _, (table,) = read("t.xlsx", book(["title"], ["mug"], also=more))
    assert ([job.prompt for job in jobs], table["other_sheets"]) == (["mug"], 2)


def test_hidden_rows_are_read_and_said(read: Read) -> None:
    """As a filter leaves them: who hid them may have meant to leave them out."""

    def hide(made: openpyxl.Workbook) -> None:
        for number in (3, 4, 9):  # the last one is empty
            made.worksheets[0].row_dimensions[number].hidden = True

    jobs, _, (table,) = read("t.xlsx", book(["title"], ["a"], ["b"], ["c"], also=hide))
    assert (len(jobs), table["hidden_rows"]) == (3, 2)


def test_a_merged_cell_is_of_each_row_that_it_reaches(read: Read) -> None:
    """As people write a product with several photos, and see it; a row below would else be another product's."""

    def merge(made: openpyxl.Workbook) -> None:
        for place in ("A1:A2", "A3:B5", "A6:C6", "A7:A9"):  # the header, two products, a heading across
            made.worksheets[0].merge_cells(place)

    rows: list[list[Any]] = [["title", "by", "n"], [None, "x", 1], ["mug", None, 2], [None, None, 3], [None, None, 4]]
    rows += [["cups", None, None], ["cup", "you", 5], [None, None, None], [None, "us", 6]]
    form = "prompt: \"{{ title | default('-') }} {{ by | default('-') }} {{ n | default('-') }}\""
    jobs, faults, (table,) = read("t.xlsx", book(*rows, also=merge), form)
    texts = ["- x 1", "mug - 2", "mug - 3", "mug - 4", "cups - -", "cup you 5", "cup us 6"]
    assert ([job.prompt for job in jobs], faults) == (texts, [])
    assert (table["merged_cells"], table["blank_rows"]) == (2, 1)


def test_formulas_count_where_they_are_read(read: Read) -> None:
    def beside(made: openpyxl.Workbook) -> None:
        made.create_sheet("sums")["A1"] = "=1+1"

    jobs, faults, _ = read("t.xlsx", book(["title"], ["mug"], also=beside))
    assert ([job.prompt for job in jobs], faults) == (["mug"], [])

    def before(made: openpyxl.Workbook) -> None:
        made.create_sheet("all", 0)["A1"] = "=Sheet!A1"

    _, (fault,), _ = read("t.xlsx", book(["title"], ["mug"], also=before))
    assert "formulas that were never reckoned, as in cell A1; open it" in fault
