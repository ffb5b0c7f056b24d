"""Faults that few manifests have: values too long, files that are none, tables cut off; and null for a value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from pyarrow import parquet

from batchflux.errors import ManifestError
from batchflux.manifest import load_manifest
from batchflux.manifest.job_fields import MAX_PROMPT
from batchflux.manifest.matrix import MAX_RANGE
from batchflux.manifest.reading.values import MAX_TEMPLATE, MAX_TEXT, MAX_URL
from batchflux.tables.cells import MAX_CELL
from batchflux.tables.streams import MAX_LINE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchflux.models import Job

    Faulty = Callable[[str | bytes], list[str]]
    Jobs = Callable[[str], list[Job]]

HEAD = "version: 1\njobs:\n"
ROWS = HEAD + '  - {prompt: "{{ title }}", from: %s}\n'


def job(fields: str) -> str:
    return f"{HEAD}  - {{{fields}}}\n"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (f"prompt: {'x' * (MAX_PROMPT + 1)}",
         f"jobs[0].prompt: found {MAX_PROMPT + 1} characters; allowed are at most {MAX_PROMPT}"),
        (f'prompt: x, model: {"m" * (MAX_TEXT + 1)}',
         f"jobs[0].model: found {MAX_TEXT + 1} characters; allowed are at most {MAX_TEXT}"),
        (f'prompt: x, tags: {{a: {"t" * (MAX_TEXT + 1)}}}',
         f"jobs[0].tags.a: found {MAX_TEXT + 1} characters; allowed are at most {MAX_TEXT}"),
        ('prompt: x, tags: {a: "b\\u0007c"}', "jobs[0].tags.a: found the character U+0007; remove it"),
        ('prompt: "a\\u0007b"', "jobs[0].prompt: found the character U+0007; remove it"),
        (f'prompt: "{{{{ a }}}}{"x" * MAX_TEMPLATE}"',
         f"jobs[0].prompt: found a template of {MAX_TEMPLATE + 7} characters; allowed are at most {MAX_TEMPLATE}"),
        (f"prompt: x, images: [https://h.example/{'u' * MAX_URL}]",
         f"jobs[0].images: found a URL of {MAX_URL + 18} characters; allowed are at most {MAX_URL}"),
        ('prompt: x, images: ["https://h.example/a b"]',
         'found "https://h.example/a b", with a space or control character; write it as %20 or remove it'),
        *((f"prompt: x, {empty}", "found nothing; allowed is a path or a URL, or leave the reference out")
          for empty in ("images: [null]", "images: [~, a.jpg]", "images: ['']", "image: ''", "image: ' '")),
        ('prompt: "{{ \'%1000d\' % 1 }}"', "a width in a format has at most 3 digits"),
        (f'prompt: "{{{{ {"(" * 300}1{")" * 300} }}}}"', "is nested too deeply"),
    ],
)  # fmt: skip
def test_a_value_that_is_refused(faults: Faulty, fields: str, expected: str) -> None:
    (found,) = faults(job(fields))
    assert expected in found
    assert found.startswith("m.yaml:3: jobs[0].")
    assert len(found) < 400


@pytest.mark.parametrize("limit", [MAX_PROMPT, MAX_PROMPT - 1])
def test_the_longest_prompt_is_allowed(jobs: Jobs, limit: int) -> None:
    (made,) = jobs(job(f"prompt: {'x' * limit}"))
    assert len(made.prompt) == limit


def test_null_is_as_good_as_nothing(jobs: Jobs) -> None:
    text = (
        "version: 1\nprovider:\n  keys:\nlimits:\noutput:\ndefaults:\njobs:\n"
        "  - {prompt: x, images: null, tags: null, matrix: null, exclude: null, webhook_secret: null, seed: null}\n"
    )
    (made,) = jobs(text)
    assert (made.images, made.tags, made.seed, made.webhook_secret) == ((), (), None, None)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty; it needs at least one row"),
        (b'{"title": "A"}\n' + b"[" * 100_000 + b"\n", ("the line is nested too deeply", "the line is not JSON")),
        (b'{"title": "A"}\n[1, 2]\n',
         "the line is not a JSON object; allowed is {...} with the columns as names"),
        (b'{"title": "A"}\n{"title": Infinity}\n', "the line is not allowed: "),
        (b'{"title": "' + b"x" * (MAX_CELL + 1) + b'"}\n', f"a cell has more than {MAX_CELL} characters"),
        (b'{"title": "' + b"x" * (MAX_LINE + 1) + b'"}\n', f"the line has more than {MAX_LINE} bytes"),
    ],
)  # fmt: skip
def test_a_table_of_json_lines_that_is_refused(
    folder: Path, faults: Faulty, content: bytes, expected: str | tuple[str, ...]
) -> None:
    (folder / "t.jsonl").write_bytes(content)
    (found,) = faults(ROWS % "t.jsonl")
    assert any(words in found for words in ([expected] if isinstance(expected, str) else expected))


def test_blank_lines_between_json_lines_are_passed_over(folder: Path, jobs: Jobs) -> None:
    (folder / "t.jsonl").write_text('{"title": "A"}\n\n  \n{"title": "B"}\n')
    assert [made.prompt for made in jobs(ROWS % "t.jsonl")] == ["A", "B"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("\n", "t.csv:1: jobs[0].from: the first line is blank; it must be the header with the columns' names"),
        ("title,\nA,B\n", 't.csv:2: jobs[0].from: column 2 has "B" and no name in the header; name it, or empty it'),
        ('"title\n', "the header cannot be read: unexpected end of data"),
    ],
)
def test_a_table_whose_header_is_refused(folder: Path, faults: Faulty, content: str, expected: str) -> None:
    (folder / "t.csv").write_text(content)
    (found,) = faults(ROWS % "t.csv")
    assert expected in found


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
@pytest.mark.parametrize("there", [True, False])
def test_a_table_that_is_no_file(folder: Path, faults: Faulty, name: str, *, there: bool) -> None:
    if there:
        (folder / name).mkdir()
    (found,) = faults(ROWS % name)
    assert found == f"m.yaml:3: jobs[0].from: the table {name} {'is not a file' if there else 'does not exist'}"


def test_a_parquet_table_that_is_none(folder: Path, faults: Faulty) -> None:
    (folder / "t.parquet").write_bytes(b"PAR1" + bytes(100))
    (found,) = faults(ROWS % "t.parquet")
    assert found.startswith("m.yaml:3: jobs[0].from: the table t.parquet is no Parquet file that can be read: ")


def test_a_parquet_table_with_a_column_twice(folder: Path, faults: Faulty) -> None:
    twice = pa.table([pa.array(["A"]), pa.array(["B"])], names=["title", "title"])
    parquet.write_table(twice, folder / "t.parquet")
    (found,) = faults(ROWS % "t.parquet")
    assert found == 'm.yaml:3: jobs[0].from: the table t.parquet has the column "title" twice'


def test_a_parquet_table_whose_pages_are_damaged_is_a_fault(folder: Path, faults: Faulty) -> None:
    path = folder / "t.parquet"
    parquet.write_table(pa.table({"title": [f"row {number}" for number in range(10_000)]}), path, compression="gzip")
    data = bytearray(path.read_bytes())
    data[100 : len(data) // 2] = b"\xff" * (len(data) // 2 - 100)
    path.write_bytes(data)
    (found,) = faults(ROWS % "t.parquet")
    assert found.startswith("t.parquet:1: jobs[0].from: cannot be read further: ")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: path.mkdir(), '"words.txt" is not a file'),
        (lambda path: path.write_bytes(b"\xff\n"),
         'the file "words.txt" cannot be read, line 1: the byte 0xff is not UTF-8; save it as UTF-8'),
        (lambda path: path.write_text(" \n\n"), 'the file "words.txt" has no line that is not blank'),
        (lambda path: path.write_text("a\n" * (MAX_RANGE + 1)),
         f'the file "words.txt" has more than {MAX_RANGE} lines; use a table with from'),
        (lambda path: path.write_bytes(b"a" * ((64 << 20) + 1)),
         f'the file "words.txt" has more than {64 << 20} bytes; use a table with from'),
        (lambda _: None, 'the file "words.txt" cannot be read: No such file or directory'),
    ],
    ids=["folder", "latin", "blank", "lines", "bytes", "gone"],
)  # fmt: skip
def test_a_file_of_lines_that_is_refused(
    folder: Path, faults: Faulty, make: Callable[[Path], object], expected: str
) -> None:
    make(folder / "words.txt")
    (found,) = faults(HEAD + '  - {prompt: "{{ word }}", matrix: {word: {lines: words.txt}}}\n')
    assert found == f"m.yaml:3: jobs[0].matrix.word: {expected}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/etc/passwd", "is absolute; allowed is a name inside the output folder"),
        ("{{ '%c' % 7 }}.png", "has a control character"),
        (("x" * 200 + "/") * 5 + "y.png", "has more than 1000 characters"),
    ],
)
def test_a_file_name_that_is_refused(faults: Faulty, name: str, expected: str) -> None:
    (found,) = faults(f'version: 1\noutput: {{file_name: "{name}"}}\njobs:\n  - prompt: x\n')
    assert expected in found


def test_a_reference_that_no_system_takes(faults: Faulty) -> None:
    (found,) = faults(job('prompt: x, images: ["a\\u0000b.png"]'))
    assert found == "m.yaml:3: jobs[0].images: found the character U+0000 in a path; remove it"


def test_kinds_of_pictures_are_told_by_their_first_bytes(folder: Path, jobs: Jobs) -> None:
    (folder / "a.webp").write_bytes(b"RIFF\x10\x00\x00\x00WEBPVP8 ")
    (folder / "a.gif").write_bytes(b"GIF89a" + bytes(20))
    made = jobs(job("prompt: x, style: chat, images: [a.webp, a.gif]"))
    assert next((image.media_type, image.fault) for image in made[0].images) == ("image/webp", None)


def test_a_manifest_whose_name_no_system_takes(folder: Path) -> None:
    with pytest.raises(ManifestError, match="this is not a path"):
        load_manifest("a\0b.yaml")


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("standard", ""),
        (
            "chat",
            "seed cannot be carried by style chat, which this job asks for; set style: auto, remove seed (variant: ",
        ),
    ],
)
def test_the_remedy_for_what_a_style_cannot_carry(faults: Faulty, style: str, expected: str) -> None:
    found = faults(job(f"prompt: x, seed: 1, style: {style}"))
    assert len(found) == bool(expected)
    assert all(expected in fault for fault in found)


@pytest.mark.parametrize("written", ["{ Surface }", "${surface}", "%(surface)s"])
def test_a_variable_as_other_programs_have_it_is_not_sent_as_it_stands(
    faults: Faulty, jobs: Jobs, written: str
) -> None:
    entry = HEAD + "  - {prompt: '%s', matrix: {surface: [oak]}}\n"
    (found,) = faults(entry % f"A mug on {written}")
    assert found.startswith(f"m.yaml:3: jobs[0].prompt: {written} would be sent as it stands; write {{{{ surface }}}}")
    (made,) = jobs(entry % f'{{{{ "{written}" }}}} {{x}} {{{{ surface }}}}')
    assert made.prompt == f"{written} {{x}} oak"
