"""Tables of JSON and Excel."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openpyxl
import pyarrow as pa
import pytest
from pyarrow import parquet

from batchflux.tables.streams import CHUNK

if TYPE_CHECKING:
    from tests.tables.conftest import Read

ROWS = [{"title": "cup", "seed": 42}, {"title": "bowl", "seed": 7.0}, {"title": "", "seed": None}]
SEEDED = 'prompt: "{{ title }}"\nseed: "{{ seed }}"'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.json", json.dumps(ROWS)),
        ("t.json", json.dumps(ROWS, indent=2)),
        ("t.json", "\n".join(map(json.dumps, ROWS))),
        ("t.jsonl", json.dumps(ROWS)),
        ("t.ndjson", "\n".join(map(json.dumps, ROWS))),
        ("t.json", json.dumps({"A": ROWS[0], "B": ROWS[1]})),
        ("t.json", json.dumps({"count": 2, "rows": ROWS})),
        ("t.json", json.dumps({"title": {"0": "cup", "1": "bowl"}, "seed": {"0": 42, "1": 7}})),
        ("t.json", json.dumps({"title": ["cup", "bowl"], "seed": [42, 7]})),
        ("t.json", json.dumps(ROWS).replace("null", "NaN")),
    ],
)
def test_json_in_any_shape_is_rows(name: str, text: str, read: Read) -> None:
    jobs, faults, _ = read(name, text, SEEDED)
    assert ([(job.prompt, job.seed) for job in jobs], faults) == ([("cup", 42), ("bowl", 7)], [])


def test_a_long_list_of_json_streams(read: Read) -> None:
    rows = [{"title": f"cup {n} " + "x" * 100} for n in range(3 * CHUNK // 100)]
    jobs, faults, _ = read("t.json.gz", gzip.compress(json.dumps(rows).encode()))
    assert (faults, [job.prompt for job in jobs]) == ([], [row["title"] for row in rows])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"title": "a"},\n {"title": "b"', "t.json:2: jobs[0].from: the list is not JSON: Expecting"),
        ('[{"title": "a"},\n 3]', "t.json:2: jobs[0].from: the line is not a JSON object"),
        ('"title"', "t.json:1: jobs[0].from: the file is no list of JSON objects"),
        ('{"title": ', "t.json:1: jobs[0].from: the file is not JSON"),
        ('[{"title": "a", "title": "b"}]', 't.json:1: jobs[0].from: the row is not allowed: the column "title" stands'),
        ('[{"title": "a"}', "t.json:1: jobs[0].from: the list does not end; is the file whole?"),
    ],
)
def test_json_that_is_none_says_where(text: str, said: str, read: Read) -> None:
    _, faults, _ = read("t.json", text)
    assert [fault.startswith(said) for fault in faults] == [True], faults


def book(*rows: tuple[Any, ...]) -> bytes:
    made = openpyxl.Workbook()
    made.active.title = "Notes"
    sheet = made.create_sheet("Products")
    for row in rows:
        sheet.append(row)
    made.save("made.xlsx")
    return Path("made.xlsx").read_bytes()


def test_a_sheet_is_a_table(read: Read) -> None:
    entry = 'prompt: "{{ title }} of {{ day }}"\nseed: "{{ seed }}"\naspect_ratio: "{{ ratio }}"'
    data = book(
        ("title ", "seed", "ratio", "day", None),
        ("cup", 42.0, dt.time(16, 9), dt.date(2026, 3, 1)),
        (None, None, None, None),
        ("bowl", "'7", "1:1 ", "May"),
    )
    jobs, faults, tables = read("t.xlsx", data, entry)
    assert faults == []
    assert [(job.prompt, job.seed, job.aspect_ratio) for job in jobs] == [
        ("cup of 2026-03-01", 42, "16:9"),
        ("bowl of May", 7, "1:1"),
    ]
    assert tables == [{"table": "t.xlsx", "rows": 2, "sheet": "Products", "blank_rows": 1}]


def test_a_number_has_the_zeros_that_its_cell_shows(read: Read) -> None:
    """As skus and barcodes are formatted, so that Excel leaves their zeros."""
    book(("sku", "n"), (123, 7), (123456, 7.5), (-1, "007"))
    made = openpyxl.load_workbook("made.xlsx")
    for cell in (cell for row in made["Products"].iter_rows(min_row=2) for cell in row):
        cell.number_format = "00000"
    made.save("made.xlsx")
    entry = 'prompt: "{{ sku }} {{ sku + 1 }} {{ n }}"\ntags: {sku: "{{ sku }}"}'
    jobs, faults, _ = read("t.xlsx", Path("made.xlsx").read_bytes(), entry)
    assert faults == []
    assert [job.prompt for job in jobs] == ["00123 124 00007", "123456 123457 7.5", "-1 0 007"]
    assert [dict(job.tags)["sku"] for job in jobs] == ["00123", "123456", "-1"]


def test_an_excel_file_that_cannot_be_read(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    _, (fault,), _ = read("t.xlsx", b"PK\x03\x04 no book")
    assert fault.startswith("m.yaml:3: jobs[0].from: the table t.xlsx is no Excel file that can be read")
    _, (fault,), _ = read("t.xlsx", book(("title",), ("a",)), 'prompt: "{{ title }}"\nencoding: gbk')
    assert fault.endswith("a .xlsx table has no encoding; remove encoding")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    _, (fault,), _ = read("t.xlsx", b"PK\x03\x04")
    assert fault.endswith("needs openpyxl, which is not installed; run: pip install 'batchflux[excel]'")


def test_a_column_of_json_as_other_programs_name_it_is_a_fault(read: Read) -> None:
    jobs, (fault,), _ = read("t.json", json.dumps(ROWS), "prompt: a {title}")
    assert (jobs, "{title} would be sent as it stands; write {{ title }}" in fault) == ([], True)


def test_texts_that_parquet_has_as_bytes_are_read_and_other_bytes_are_a_fault(read: Read) -> None:
    """As older programs write it; what a reference cannot be is a fault in a list of references, too."""
    file = io.BytesIO()
    rows = {"title": [b"cup", "caf\u00e9".encode()], "photo": [b"https://x.example/a.jpg", b"https://x.example/b.jpg"]}
    parquet.write_table(pa.table(rows | {"pixels": [b"\xff\xd8", b"x"]}), file)
    jobs, faults, _ = read("t.parquet", file.getvalue(), 'prompt: "{{ title }}"\nimages: ["{{ photo }}"]')
    assert ([job.prompt for job in jobs], faults) == (["cup", "caf\u00e9"], [])
    assert jobs[1].images[0].source == "https://x.example/b.jpg"
    for images in ('["{{ pixels }}"]', '{split: "{{ pixels }}"}'):
        _, faults, _ = read("t.parquet", file.getvalue(), f'prompt: "{{{{ title }}}}"\nimages: {images}')
        assert "a bytes is no text" in faults[0]
    _, (fault,), _ = read("t.jsonl", '{"photo": {"src": {"small": "a.jpg"}}}', 'prompt: x\nimages: ["{{ photo }}"]')
    assert "a dict is no text" in fault
