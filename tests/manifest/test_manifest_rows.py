"""Faults that only rows and whole manifests show: at the table's line, or once for all jobs of an entry."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchflux.manifest.expansion import MAX_FAULTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.errors import Fault
    from batchflux.manifest import Expansion

    Faulty = Callable[[str | bytes], list[str]]

AT = "t.jsonl:2: jobs[0].from: "
ENTRY = 'version: 1\njobs:\n  - prompt: "{{ title }}"\n    from: t.csv\n'


def table(text: str | bytes, name: str = "t.csv") -> None:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    ("text", "more", "expected"),
    [
        ("title,b\nA,x\n\n ,\n ,y\n", "",
         ('t.csv:5: jobs[0].prompt: the column "title" is empty here; write what stands there instead, as '
          '{{ title | default("a product") }}, leave such rows out with where: \'{{ title }}\', or set '
          "allow_empty: true")),
        (
            "title,r\nA,9:16\nB,99:1\n",
            'aspect_ratio: "{{ r }}"',
            't.csv:3: jobs[0].aspect_ratio: found "99:1"; allowed is W:H from 21:9 to 9:21, as 16:9',
        ),
        (
            "title,s\nA,1\nB,one\n",
            'seed: "{{ s }}"',
            't.csv:3: jobs[0].seed: found "one"; allowed is a whole number of at most 64 bits, as 42',
        ),
        (
            "title,p\nA,ftp://h/x.png\n",
            'images: ["{{ p }}"]',
            't.csv:2: jobs[0].images[0]: found "ftp://h/x.png"; allowed is an http:// or https:// URL, or s3://bucket/photos/mug.jpg',
        ),
        (
            "title,sku\nA,x/y\n",
            'id: "{{ sku }}"',
            ('t.csv:2: jobs[0].id: found "x/y"; an id has no slash, backslash, control character or space at its ends, '
            "and is not . or .."),
        ),
        (
            "title,sku\nA,x\nB,y\nC,x\n",
            'id: "{{ sku }}"',
            ('t.csv:4: jobs[0].id: the id "x" is used by t.csv:2 too; ids must differ, and by more than upper and '
            "lower case"),
        ),
        (
            "title,n\nA,0\n",
            'tags: {half: "{{ 1 // (n | int) }}"}',
            ('t.csv:2: jobs[0].tags.half: the template "{{ 1 // (n | int) }}" cannot be rendered: integer division or '
            "modulo by zero"),
        ),
        (
            'title,note\n"A",x\n"B"x,y\n',
            "",
            ("t.csv:3: jobs[0].from: the row cannot be read: a text goes on behind a closing quote; write quotes "
             'inside a cell twice, as "a 12"" mug"'),
        ),
        (
            'title\nA\n"B\n',
            "",
            ("t.csv:3: jobs[0].from: the row cannot be read: a quote opens here and is never closed; close it, or "
             "write it twice inside a cell in quotes"),
        ),
        (
            "title,b\nA,x\nB\nC,x,y\n",
            "",
            "t.csv:4: jobs[0].from: the row has 3 cells and the header 2; quote a cell that has a comma",
        ),
        (b"title\nA\ncaf\xe9 \xe0\n", "",
         ('t.csv:3: jobs[0].from: the byte 0xe9 is not UTF-8; say how the file is encoded: "café à" with cp1252 or '
          '"café ŕ" with cp1250 or "caf\u0439 \u0430" with cp1251; save the file as UTF-8, or add encoding: to the '
          "job, as encoding: cp1252")),
        ("title\n", "", "m.yaml:4: jobs[0].from: the table t.csv has no rows; add one for each job"),
        (
            "title\n" + "A" * (1 << 20) + "B\n",
            "",
            "t.csv:2: jobs[0].from: a cell has more than 1048576 characters; is a quote not closed?",
        ),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_a_job(text: str | bytes, more: str, expected: str, faults: Faulty) -> None:
    table(text)
    assert faults(ENTRY + (f"    {more}\n" if more else ""))[0] == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", AT + "the line is not JSON: Expecting property name enclosed in double quotes at column 2"),
        ("[1]", AT + "the line is not a JSON object; allowed is {...} with the columns as names"),
        ('{"title": Infinity}', AT + "the line is not allowed: Infinity is not JSON"),
        ('{"title": 1, "title": 2}', AT + 'the line is not allowed: the column "title" stands twice'),
        ("[" * 100_000, AT + "the line is nested too deeply"),
        (
            '{"titel": "A"}',
            't.jsonl:2: jobs[0].prompt: the variable "title" does not exist; did you mean "titel"? Allowed: row, titel',
        ),
    ],
)  # fmt: skip
def test_a_json_line_that_is_no_row(line: str, expected: str, faults: Faulty) -> None:
    table('{"title": "A"}\n' + line + "\n", "t.jsonl")
    assert faults(ENTRY.replace("t.csv", "t.jsonl")) == [expected]


def test_a_damaged_gzip_file_is_one_fault(faults: Faulty) -> None:
    whole = gzip.compress(b"title\n" + b"".join(b"row %d\n" % n for n in range(10_000)))
    table(whole[: len(whole) // 2], "t.csv.gz")
    (found,) = faults(ENTRY.replace("t.csv", "t.csv.gz"))
    assert "jobs[0].from: cannot be read further: Compressed file ended" in found


def test_what_is_no_gzip_file_is_one_fault(faults: Faulty) -> None:
    table("title\nA\n", "t.csv.gz")
    (found,) = faults(ENTRY.replace("t.csv", "t.csv.gz"))
    assert found.startswith(
        "t.csv.gz:1: jobs[0].from: cannot be read further: it is not gzipped; take .gz from its name"
    )


def test_a_strict_field_names_job_field_and_remedy(faults: Faulty) -> None:
    text = "version: 1\njobs:\n  - id: mug-red\n    prompt: x\n    image: photos/mug.jpg\n    seed: 42\n"
    assert faults(text) == [
        (
            "m.yaml:6: jobs[0] (id mug-red): seed cannot be carried by style chat, which this job needs because "
            "photos/mug.jpg is a local file; give the photo as a URL (references.publish makes them of photos), "
            "remove seed (variant: {range: [1, 3]} in the "
            "matrix makes several takes), or set provider.params: drop"
        )
    ]


def test_a_strict_field_is_told_once_for_all_rows(faults: Faulty) -> None:
    table("title\nA\nB\nC\n")
    found = faults(ENTRY + "    style: chat\n    seed: 1\n    aspect_ratio: 1:1\n")
    assert [text.partition(" (")[0] for text in found] == ["m.yaml:6: jobs[0]", "m.yaml:7: jobs[0]"]
    assert found[0].endswith(
        "seed cannot be carried by style chat, which this job asks for; set style: auto, remove seed (variant: "
        "{range: [1, 3]} in the matrix makes several takes), or set provider.params: drop"
    )


def test_standard_with_a_local_file_names_the_remedy(faults: Faulty) -> None:
    text = "version: 1\njobs:\n  - {id: a, prompt: x, image: photos/mug.jpg, style: standard}\n"
    assert faults(text) == [
        (
            "m.yaml:3: jobs[0] (id a): style standard cannot carry the local file photos/mug.jpg; give the photo as a "
            "URL (references.publish makes them of photos), or set style: auto"
        )
    ]


@pytest.mark.parametrize(
    ("sku", "reason"),
    [
        ("../x", 'found "../x"; a value in a file name has no slash, only the template has'),
        ("a/b", 'found "a/b"; a value in a file name has no slash, only the template has'),
        ("..", 'the file name ".." leaves the output folder'),
        (".hidden", 'the file name ".hidden" starts a part with a dot, which hides the file'),
        ("ä" * 121, 'the file name "' + "ä" * 57 + '..." has a part of more than 240 bytes'),
        ("a\tb", 'the file name "a\\tb" has a control character'),
    ],
)
def test_a_file_name_stays_inside(sku: str, reason: str, faults: Faulty) -> None:
    table(f"title,sku\nA,{sku}\n")
    text = 'output: {file_name: "{{ sku }}"}\n' + ENTRY
    assert faults(text) == [f"t.csv:2: jobs[0].file_name: {reason}"]


@pytest.mark.parametrize("name", ["/etc/{{ id }}", "../{{ id }}", "a/../{{ id }}", "a//{{ id }}", "./{{ id }}"])
def test_a_template_cannot_leave_either(name: str, faults: Faulty) -> None:
    (found,) = faults(f'version: 1\noutput: {{file_name: "{name}"}}\njobs: [{{prompt: x}}]\n')
    assert found.startswith('m.yaml:3: jobs[0].file_name: the file name "')


def test_file_names_differ_by_more_than_case_and_composition(faults: Faulty) -> None:
    table("title,sku\nA,Café\nB,CAFE\u0301\n")
    text = 'output: {file_name: "{{ sku }}.{{ ext }}"}\n' + ENTRY
    assert faults(text) == [
        (
            't.csv:3: jobs[0].file_name: the file name "CAFE\u0301.jpg" is used by t.csv:2 too; add {{ id }} to '
            "output.file_name"
        )
    ]


def test_ids_that_differ_by_case_clash_as_file_names_only(faults: Faulty) -> None:
    two = "jobs:\n  - {id: a, prompt: x, seed: 1}\n  - {id: A, prompt: x, seed: 2}\n"
    (found,) = faults("version: 1\n" + two)
    assert found.startswith('m.yaml:4: jobs[1].id: the id "A" is used by jobs[0] on line 3 too; ids must differ, and')
    assert faults('version: 1\noutput: {file_name: "{{ seed }}.{{ ext }}"}\n' + two) == []


def test_expansion_ends_after_many_faults(expansion: Callable[[str], tuple[Expansion, list[Fault]]]) -> None:
    table("title,r\n" + "A,wide\n" * (MAX_FAULTS + 50) + "B,1:1\n")
    made, found = expansion(ENTRY + '    aspect_ratio: "{{ r }}"\n')
    assert list(made) == []
    assert (len(found), made.faults) == (2, MAX_FAULTS)


def test_parquet_without_pyarrow_names_the_extra(faults: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    table(b"PAR1", "t.parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert faults(ENTRY.replace("t.csv", "t.parquet")) == [
        (
            "m.yaml:4: jobs[0].from: the table t.parquet needs pyarrow, which is not installed; run: pip install "
            "'batchflux[parquet]'"
        )
    ]
