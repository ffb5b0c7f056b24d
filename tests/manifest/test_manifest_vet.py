"""A table that is vetted has no fault: what is told of its lines at once is what the expansion finds job by job."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchflux.manifest import expansion as expand, load_manifest, vet
from batchflux.manifest import lines as lines_module
from tests.manifest.conftest import STYLES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from batchflux.errors import Fault
    from batchflux.manifest import Manifest

ENTRY = """
  - from: t.csv
    id: "{{ id }}"
    prompt: "{{ title }} on {{ surface }}"
    images: ["{{ photo }}", "https://x.example/all.png"]
    tags: {sku: "{{ sku }} {{ title }}", kind: mug}
"""
COLUMNS = ("id", "title", "surface", "photo", "sku", "seed", "ratio")
GOOD = ("mug-1", "A mug", "oak", "https://p.example/m/1.jpg", "M-1", "6", "16:9")


def table(rows: Sequence[Sequence[str]], columns: Sequence[str] = COLUMNS, **how: Any) -> str:
    out = io.StringIO()
    csv.writer(out, **{"lineterminator": "\n", **how}).writerows([columns, *rows])
    return out.getvalue()


def row(**cells: str) -> tuple[str, ...]:
    return tuple(cells.get(name, value) for name, value in zip(COLUMNS, GOOD, strict=True))


def made(folder: Path, entry: str, text: str | bytes, *, provider: str = "", name: str = "t.csv") -> Manifest:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    top = f"version: 1\nprovider: {{name: tuzi, base_url: https://api.example, keys: [K]{provider}}}\n"
    (folder / "m.yaml").write_text(f"{top}jobs:{entry.replace('t.csv', name)}", encoding="utf-8")
    return load_manifest(folder / "m.yaml")


def expanded(manifest: Manifest) -> tuple[int, list[Fault]]:
    faults: list[Fault] = []
    jobs = expand(manifest, STYLES, faults.append)
    return sum(1 for _ in jobs) + jobs.merged, faults


def rows_of(manifest: Manifest) -> int | None:
    """Return how many rows are vetted; what is vetted must have as many jobs, and no fault."""
    found = vet(manifest, STYLES)
    if found is None:
        return None
    assert expanded(manifest) == (found.rows, [])
    assert found.style == "standard"
    return found.rows


def test_a_plain_table_is_vetted(folder: Path) -> None:
    rows = [
        row(id="a-1", title="A mug, glazed", seed=""),
        row(id="b_2", title='The 12" pot ""of pots""', surface="Eichenholz ä 木"),
        row(id="A-3", title=" leading", photo="http://localhost", sku=""),
    ]
    for how in ({}, {"lineterminator": "\r\n"}, {"quoting": csv.QUOTE_ALL}):
        assert rows_of(made(folder, ENTRY, table(rows, **how))) == 3
    assert rows_of(made(folder, ENTRY, table(rows, delimiter="\t"), name="t.tsv")) == 3
    assert rows_of(made(folder, ENTRY, b"\xef\xbb\xbf" + table(rows).encode())) == 3
    assert rows_of(made(folder, ENTRY, table(rows).removesuffix("\n"))) == 3


def test_tables_in_many_pieces_are_vetted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "_CHUNK", 256)
    rows = [row(id=f"job-{number % 499:04d}-{number // 499}") for number in range(998)]
    assert rows_of(made(folder, ENTRY, table(rows))) == 998
    assert rows_of(made(folder, ENTRY, table([*rows, rows[3]]))) is None, "an id comes twice, far apart"
    assert rows_of(made(folder, ENTRY, table([*rows, row(id=rows[3][0].upper())]))) is None
    assert rows_of(made(folder, ENTRY, table([*rows[:500], row(title="a\nb"), *rows[500:]]))) is None


WAYS = {
    "prompt alone": ENTRY.replace("{{ title }} on {{ surface }}", "{{ title }}"),
    "seeds and ratios": ENTRY + '    seed: "{{ seed }}"\n    aspect_ratio: "{{ ratio }}"\n    output_format: png\n',
    "no id": ENTRY.replace('    id: "{{ id }}"\n', ""),
    "an id of parts": ENTRY.replace('"{{ id }}"', '"x-{{ id }}_{{ sku }}"'),
    "the id alone": '\n  - {from: t.csv, id: "{{ id }}", prompt: "{{ id }} 100%s"}\n',
    "the ratio in the id": ENTRY.replace('"{{ id }}"', '"{{ id }}-{{ seed }}"'),
    "a prefix of the URL": ENTRY.replace('"{{ photo }}"', '"https://x.example/100%25/{{ sku }}.jpg"'),
    "other words": ENTRY + '    safety_tolerance: "{{ seed }}"\n    variant: "{{ seed }}"\n',
    "no images": '\n  - {from: t.csv, prompt: "{{ title }}"}\n',
}


@pytest.mark.parametrize("way", WAYS)
def test_what_entries_do_with_columns_is_vetted(folder: Path, way: str) -> None:
    rows = [row(), row(id="mug-2", sku="M-2", seed="5")]
    assert rows_of(made(folder, WAYS[way], table(rows))) == 2


DOUBTS = {
    "id twice": [row(), row()],
    "id twice but for case": [row(), row(id="MUG-1")],
    "no id": [row(id="")],
    "a device": [row(id="Con")],
    "another device": [row(id="lpt1")],
    "a long id": [row(id="x" * 129)],
    "an id with a slash": [row(id="a/b")],
    "an id with a dot": [row(id="..")],
    "blank title": [row(title=" ")],
    "empty title": [row(title="")],
    "a control character": [row(title="a\x01")],
    "DEL": [row(title="a\x7f")],
    "a tab": [row(title="a\tb")],
    "a line end": [row(title="a\nb")],
    "a return": [row(title="a\rb")],
    "a local file": [row(photo="photos/mug.jpg")],
    "no photo": [row(photo="")],
    "ftp": [row(photo="ftp://x.example/a.jpg")],
    "a blank in the URL": [row(photo="https://x.example/a b.jpg")],
    "a password": [row(photo="https://a:b@x.example/a.jpg")],
    "no host": [row(photo="https://")],
    "a long URL": [row(photo="https://x.example/" + "x" * 9000)],
    "a cell too many": [(*row(), "more")],
    "a cell too few": [row()[:-1]],
    "an empty line": [(), row()],
    "a seed that is none": [row(seed="seven")],
    "a huge seed": [row(seed="9" * 19)],
    "a ratio that is none": [row(ratio="16x9")],
    "a ratio out of bounds": [row(ratio="30:1")],
    "a long title": [row(title="x" * 100_001)],
    "a long tag": [row(sku="x" * 10_001)],
}


@pytest.mark.parametrize("doubt", DOUBTS)
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_what_may_be_faulty_is_not_vetted(folder: Path, doubt: str, quoting: int) -> None:
    entry = WAYS["seeds and ratios"].replace("{{ title }} on {{ surface }}", "{{ title }}")
    fine = row(id="first")
    assert rows_of(made(folder, entry, table([fine, row(id="last")]))) == 2
    for rows in ([fine, *DOUBTS[doubt]], [*DOUBTS[doubt], fine]):
        assert rows_of(made(folder, entry, table(rows, quoting=quoting))) is None


NOT_PLAIN = {
    "a matrix": ENTRY + "    matrix: {surface2: [oak]}\n",
    "two entries": f"{ENTRY}  - {{prompt: a mug}}\n",
    "the whole row": ENTRY.replace("{{ surface }}", "{{ row.surface }}"),
    "Jinja": ENTRY.replace("{{ title }}", "{{ title | upper }}"),
    "an id with a blank": ENTRY.replace('"{{ id }}"', '"my {{ id }}"'),
    "a style in the table": ENTRY + '    style: "{{ surface }}"\n',
    "a model in the table": ENTRY + '    model: "{{ surface }}"\n',
    "a local reference": ENTRY.replace("https://x.example/all.png", "photos/mug.jpg"),
    "a local folder": ENTRY.replace('"{{ photo }}"', '"photos/{{ photo }}"'),
    "a seed of parts": ENTRY + '    seed: "1{{ seed }}"\n',
    "one cell for two things": ENTRY.replace('"{{ id }}"', '"{{ photo }}"'),
    "a prompt of a seed": '\n  - {from: t.csv, prompt: "{{ seed }}", seed: "{{ seed }}"}\n',
    "a prompt of a ratio": WAYS["seeds and ratios"].replace("{{ title }} on {{ surface }}", "{{ ratio }}"),
    "a tag of many cells": ENTRY.replace("{{ sku }}", "{{ sku }} {{ surface }} {{ seed }} {{ ratio }}"),
    "chat with a seed": ENTRY + '    style: chat\n    seed: "{{ seed }}"\n',
    "jsonl": ENTRY,
}


@pytest.mark.parametrize("way", NOT_PLAIN)
def test_what_is_not_plain_is_not_vetted(folder: Path, way: str) -> None:
    rows = table([row()])
    name = "t.jsonl" if way == "jsonl" else "t.csv"
    assert vet(made(folder, NOT_PLAIN[way], rows, name=name), STYLES) is None


def test_other_names_of_files_are_not_vetted(folder: Path) -> None:
    entry = f"{ENTRY}output: {{file_name: '{{{{ title }}}}.{{{{ ext }}}}'}}\n"
    assert vet(made(folder, entry, table([row()])), STYLES) is None


@pytest.mark.parametrize(
    "text",
    [
        b"id,title\n",
        b"id,title\n\n\n",
        b'id,title,"x\ny"\na,b,c\n',
        b'id,title,x"y,"c\na,b,",c"\na,b,1,2,3\n',
        b"id,title\na,\xff\n",
        b"id,title\r",
        b"id,title\na,b\n\n",
    ],
)
def test_tables_that_are_odd_are_not_vetted(folder: Path, text: bytes) -> None:
    entry = '\n  - {from: t.csv, id: "{{ id }}", prompt: "{{ title }}"}\n'
    assert vet(made(folder, entry, text), STYLES) is None


def test_empty_lines_of_one_column_are_no_rows(folder: Path) -> None:
    entry = '\n  - {from: t.csv, prompt: "A {{ title }}"}\n'
    assert rows_of(made(folder, entry, "title\nmug\n")) == 1
    for text in ("title\nmug\n\n", "title\n\nmug\n", "title\nmug\r\n\r\n", "title\n\n"):
        assert rows_of(made(folder, entry, text)) is None


def test_a_line_without_an_end_is_not_vetted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "_CHUNK", 64)
    entry = '\n  - {from: t.csv, id: "{{ id }}", prompt: "{{ a }}", tags: {b: "{{ b }}", c: "{{ c }}"}}\n'
    long = ",".join("x" * 60 for _ in range(3))
    assert rows_of(made(folder, entry, f"id,a,b,c\nm,{long}\n")) is None
    assert rows_of(made(folder, entry, "id,a,b,c\nm,x,y,z\n")) == 1


def test_a_very_wide_table_is_not_vetted(folder: Path) -> None:
    entry = '\n  - {from: t.csv, prompt: "{{ c1 }}"}\n'
    for count, vetted in ((200, True), (201, False)):
        names = ",".join(f"c{number}" for number in range(count))
        assert (rows_of(made(folder, entry, f"{names}\n{names}\n")) is not None) is vetted


@pytest.mark.parametrize("odd", ["\\x01", "\\x7f", "\\e", "\\0"])
@pytest.mark.parametrize("field", ["prompt: 'x'\n    tags: {t: ODD}", "prompt: ODD"])
def test_texts_with_control_characters_of_their_own_are_not_vetted(folder: Path, odd: str, field: str) -> None:
    text = field.replace("ODD", f'"A{odd} {{{{ title }}}}"')
    assert rows_of(made(folder, f"\n  - from: t.csv\n    {text}\n", table([row()]))) is None
    plain = field.replace("ODD", '"A\\n {{ title }}"')
    assert rows_of(made(folder, f"\n  - from: t.csv\n    {plain}\n", table([row()]))) == 1


def test_many_ids_in_no_order_differ_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchflux.manifest.seen._AT_ONCE", 10)
    rows = [row(id=f"job-{number * 37 % 101}") for number in range(101)]
    assert rows_of(made(folder, ENTRY, table(rows))) == 101
    assert rows_of(made(folder, ENTRY, table([*rows, rows[50]]))) is None


def test_a_table_that_is_gone_is_not_vetted(folder: Path) -> None:
    manifest = made(folder, ENTRY, table([row()]))
    (folder / "t.csv").unlink()
    assert vet(manifest, STYLES) is None


def test_many_different_values_are_not_tried(folder: Path) -> None:
    rows = [row(id=f"m-{number}", seed=str(number)) for number in range(1, 1003)]
    entry = ENTRY + '    variant: "{{ seed }}"\n'
    assert rows_of(made(folder, entry, table(rows[:1000]))) == 1000
    assert rows_of(made(folder, entry, table(rows))) is None


ODD = st.one_of(
    st.sampled_from(
        ["", " ", "a", "A", "con", "a\u2028", '"', '""', ",", "\t", "\u00a0", "-", "x:y", "%s", "\ufeff", "ß"]
    ),
    st.text(st.characters(codec="utf-8"), max_size=6),
)
CELLS = {
    "id": st.one_of(ODD, st.from_regex(r"[A-Za-z0-9_.-]{1,4}", fullmatch=True)),
    "photo": st.one_of(ODD, st.from_regex(r"https?://[a-z.]{1,4}(/[a-z%?#@:,;~ ]{0,5})?", fullmatch=True)),
    "seed": st.one_of(ODD, st.integers(-(2**64), 2**64).map(str), st.sampled_from(["1", "6", "٣", "+2", "1_0"])),
    "ratio": st.one_of(ODD, st.sampled_from(["1:1", "16:9", " 9 : 16", "100:1", "1:1:1"])),
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_vetted_has_no_fault(folder: Path, data: Any) -> None:
    way = data.draw(st.sampled_from(sorted(WAYS)))
    plain = st.just(GOOD)
    odd = st.tuples(*(st.one_of(st.just(good), CELLS.get(name, ODD)) for name, good in zip(COLUMNS, GOOD, strict=True)))
    rows = data.draw(st.lists(st.one_of(plain, odd), min_size=1, max_size=3))
    if data.draw(st.booleans()):
        rows = [(f"{cells[0]}{number}", *cells[1:]) for number, cells in enumerate(rows)]
    try:
        text = table(rows, quoting=data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])))
    except csv.Error:
        return
    rows_of(made(folder, WAYS[way], text))
