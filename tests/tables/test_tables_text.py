"""Delimited tables as Excel, pandas and shops write them."""

from __future__ import annotations

import csv
import hashlib
import io
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchflux.errors import ReadError
from batchflux.tables import Given, opened

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tables.conftest import Read

SEEDED = 'prompt: "{{ title }}"\nseed: "{{ seed }}"'
EUROPE = "sku;title;seed\r\nA1;tasse à café;42\r\nB2;crème brûlée;7\r\n"
CUPS = [("tasse à café", 42), ("crème brûlée", 7)]
ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be", "cp1252", "gbk", "shift_jis")
MARKS = {"utf-8": b"\xef\xbb\xbf", "utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}
HEADER = ("sku", "title", "note")
WORDS = st.sampled_from(
    ["cup", "a, b", "x;y", "p|q", "tab\there", 'the "best"', "café", "Größe", "杯子", "赤い", "two\nlines", "1.50", "é"]
)


@pytest.mark.parametrize(
    ("data", "assumed"),
    [
        (EUROPE.encode(), {"delimiter": "semicolon"}),
        (EUROPE.encode("utf-8-sig"), {"delimiter": "semicolon"}),
        (f"sep=;\r\n{EUROPE}".encode("utf-8-sig"), {"delimiter": "semicolon"}),
        (EUROPE.replace(";", "\t").encode("utf-16"), {"delimiter": "tab", "encoding": "utf-16-le"}),
        (EUROPE.replace(";", "\t").encode("utf-16-be"), {"delimiter": "tab", "encoding": "utf-16-be"}),
        (EUROPE.replace(";", "|").encode("utf-32"), {"delimiter": "bar", "encoding": "utf-32-le"}),
        (EUROPE.replace(";", ",").replace("\r\n", "\r").encode(), {}),
        (EUROPE.replace(";", ",").replace("\r\n", "\r\r\n").encode(), {}),
        (EUROPE.replace(";", ",").replace("\r\n", ",\r\n").encode(), {"unnamed_columns": 1}),
        (EUROPE.replace(";", ",").encode() + b",,\r\n ,\xc2\xa0,\r\n", {"blank_rows": 2}),
        (b",sku,title,seed\n0,A1,tasse \xc3\xa0 caf\xc3\xa9,42.0\n1,B2,cr\xc3\xa8me br\xc3\xbbl\xc3\xa9e,7.0\n",
         {"unnamed_columns": 1}),
        ('="sku";="title";seed\r\n="A1";"=""tasse à café""";="42"\r\n="";crème brûlée;="7"\r\n'.encode(),
         {"delimiter": "semicolon"}),
        (EUROPE.replace(";42", ";'42").replace(";7", ";\u00a07\u200b").encode(), {"delimiter": "semicolon"}),
    ],
)  # fmt: skip
def test_a_table_is_read_as_it_was_meant(data: bytes, assumed: dict[str, Any], read: Read) -> None:
    jobs, faults, tables = read("t.csv", data, SEEDED)
    assert faults == []
    assert [(job.prompt, job.seed) for job in jobs] == CUPS
    assert tables == [{"table": "t.csv", "rows": 2, **assumed}]


@pytest.mark.parametrize(
    ("encoding", "title", "readings"),
    [("cp1252", "tasse à café", ("cp1252", "cp1250")), ("gbk", "红色的杯子", ("gbk", "big5"))],
)
def test_where_two_encodings_make_words_the_user_is_asked(
    encoding: str, title: str, readings: tuple[str, ...], read: Read
) -> None:
    data = f"sku,title,seed\nA1,{title},42\n".encode(encoding)
    jobs, (fault,), _ = read("t.csv", data, SEEDED)
    assert (jobs, fault.startswith("t.csv:2: jobs[0].from: the byte 0x")) == ([], True)
    assert all(f"with {name}" in fault for name in readings)
    assert title in fault
    assert fault.endswith(f"save the file as UTF-8, or add encoding: to the job, as encoding: {readings[0]}")
    jobs, faults, (table,) = read("t.csv", data, f"{SEEDED}\nencoding: {encoding}")
    assert ([job.prompt for job in jobs], faults, table["encoding"]) == ([title], [], encoding)


def test_a_damaged_file_is_not_taken_for_another_encoding(read: Read) -> None:
    jobs, (fault,), _ = read("t.csv", "title,seed\ncafé déjà vu,1\n".encode() * 9 + b"x\xff,2\n", SEEDED)
    assert (jobs, fault.partition(";")[0]) == (
        [],
        "t.csv:19: jobs[0].from: the byte 0xff is not UTF-8, as all others are",
    )


def test_an_encoding_that_alone_makes_words_is_taken(read: Read) -> None:
    rows = "".join(f"{n},在木桌上的红色陶瓷杯子 柔和的自然光线 产品摄影 第{n}张\n" for n in range(30))
    jobs, faults, (table,) = read("t.csv", f"sku,title\n{rows}".encode("gbk"))
    assert (faults, table["encoding"], len(jobs)) == ([], "gbk", 30)
    assert jobs[0].prompt == "在木桌上的红色陶瓷杯子 柔和的自然光线 产品摄影 第0张"


@pytest.mark.parametrize(
    ("data", "entry", "said"),
    [
        ("a,b;c\n1,2;3\n", "prompt: x", "t.csv:1: jobs[0].from: the header may be parted by comma (2 columns) or semi"),
        ("a;b\n1;2;3\n", "prompt: x\ndelimiter: ';'", "t.csv:2: jobs[0].from: the row has 3 cells and the header 2;"),
        ("a,,b\n1,2,3\n", "prompt: x", 't.csv:2: jobs[0].from: column 2 has "2" and no name in the header; name it'),
        ("a\n1\n", "prompt: x\nencoding: klingon", 'm.yaml:5: jobs[0].encoding: found "klingon"; allowed is an'),
        ("a\n1\n", "prompt: x\ndelimiter: xx", 'm.yaml:5: jobs[0].delimiter: found "xx"; allowed is one character'),
        ("a\n1\n", "prompt: x\nwhere: a > 1", 'm.yaml:5: jobs[0].where: found "a > 1"; allowed is a template'),
    ],
)  # fmt: skip
def test_what_is_not_certain_is_one_sentence(data: str, entry: str, said: str, read: Read) -> None:
    jobs, faults, _ = read("t.csv", data, entry)
    assert jobs == []
    assert [fault.startswith(said) for fault in faults] == [True], faults


def test_a_short_row_ends_in_empty_cells(read: Read) -> None:
    jobs, faults, _ = read("t.csv", "title,seed,note\nA\nB,2\nC,3,x,,\n", SEEDED)
    assert ([(job.prompt, job.seed) for job in jobs], faults) == ([("A", None), ("B", 2), ("C", 3)], [])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=5),
    st.sampled_from([(name, mark) for name in ENCODINGS for mark in {b"", MARKS.get(name, b"")}]),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
@example([("café", "Größe", "é")] * 3, ("cp1252", b""), ";", "\r")
def test_one_table_in_any_dress_has_the_same_rows_or_is_asked_about(
    tmp_path: Path, rows: list[tuple[str, ...]], encoding: tuple[str, bytes], mark: str, end: str
) -> None:
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=mark, lineterminator=end)
    if end == "\r":  # the writer forgets to quote a LF then
        writer = csv.writer(written, delimiter=mark, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([HEADER, *rows])
    try:
        data = encoding[1] + written.getvalue().encode(encoding[0])
    except UnicodeEncodeError:  # no table of this encoding has such words
        return
    path = tmp_path / f"{hashlib.sha256(data).hexdigest()}.csv"  # two of one size at one time would be taken for one
    path.write_bytes(data)
    said: list[str] = []
    found: list[tuple[str, ...]] = []
    try:
        table = opened(path, Given()).source
        found += [tuple(row.values()) for _, row in table.rows(lambda _, text: said.append(text))]
    except ReadError as error:
        said.append(error.message)
    asked = len(said) == 1 and ("encoding:" in said[0] or "delimiter:" in said[0])
    assert asked or (found, said) == (rows, [])
