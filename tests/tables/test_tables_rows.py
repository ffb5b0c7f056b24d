"""What templates see of a row: blank cells, columns by a name of their own, several references in a cell, filters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.tables.conftest import Read

BLANKS = (
    "",
    "(null)",
    "#N/D",
    "#ЗНАЧ!",
    "########",
    "[object Object]",
    " ",
    "\u00a0",
    "nan",
    "NaN",
    "None",
    "NULL",
    "null",
    "#N/A",
    "#REF!",
    "#DIV/0!",
    "#NAME?",
    "<NA>",
    "N/A",
    "NaT",
)
SHOP = """Handle,Title,Body (HTML),Image Src,Image Position,2nd,价格\uff08元\uff09
red-cup,Red Cup,"<p>A <b>red</b> cup &amp; saucer</p>",https://cdn.example/s/a.jpg?v=1,1,x,9
red-cup,,,https://cdn.example/s/b.jpg?v=1,2,,
"""


@pytest.mark.parametrize("cell", BLANKS)
def test_a_blank_cell_in_a_prompt_is_a_fault_unless_it_is_allowed(cell: str, read: Read) -> None:
    data = f"title,seed,note\n{cell},{cell},x\ncup,7,x\n"
    jobs, (fault,), _ = read("t.csv", data, 'prompt: "photo of {{ title }}"\nseed: "{{ seed }}"')
    assert fault.startswith('t.csv:2: jobs[0].prompt: the column "title" ')
    assert """as {{ title | default("a product") }}, leave such rows out with where: '{{ title }}', or set""" in fault
    assert [(job.prompt, job.seed) for job in jobs] == [("photo of cup", 7)]
    for entry, prompt in (
        ("""prompt: 'photo of {{ title | default("a product") }}'""", "photo of a product"),
        ("prompt: \"photo of {{ title or 'it' }}\"", "photo of it"),
        ('prompt: "photo{% if title %} of {{ title }}{% endif %}"', "photo"),
        ('prompt: "photo of {{ title }}"\nallow_empty: true', "photo of "),
        ('prompt: "photo of {{ row.title | upper }}"\nallow_empty: true', "photo of "),
    ):
        jobs, faults, _ = read("t.csv", data, f'{entry}\nseed: "{{{{ seed }}}}"')
        assert (jobs[0].prompt, jobs[0].seed, faults) == (prompt, None, [])
    jobs, faults, (table,) = read("t.csv", data, 'prompt: "photo of {{ title }}"\nwhere: "{{ title }}"')
    assert ([job.prompt for job in jobs], faults, table["where"]) == (["photo of cup"], [], 1)


def test_blank_cells_are_told_with_their_lines_and_counted(read: Read) -> None:
    rows = "".join(f"{n},{'nan' if n % 2 else 'NULL'}\n" for n in range(40))
    _, faults, _ = read("t.csv", f"sku,title\n{rows}", 'prompt: "a {{ title }}"')
    assert [fault.partition(";")[0] for fault in faults] == [
        't.csv:2: jobs[0].prompt: the column "title" says "NULL" here',
        't.csv:3: jobs[0].prompt: the column "title" says "nan" here',
        "t.csv:3: jobs[0].prompt: ... in 38 more rows",
    ]


def test_a_tag_says_what_the_cell_says(read: Read) -> None:
    jobs, faults, _ = read("t.csv", "title,size\ncup,None\nbowl,\n", 'prompt: "{{ title }}"\ntags: {s: "{{ size }}"}')
    assert ([job.tags for job in jobs], faults) == ([(("s", "None"),), (("s", ""),)], [])


PLAIN = 'prompt: x\nimages: "{{ p }}"'
PHOTOS = "title,photo\na,https://x.example/a.jpg\nb,\nc,nan\n"
EDIT = 'prompt: "Clean {{ title }}"\nimages: ["{{ photo }}"]'


def test_an_empty_reference_is_a_fault_or_leaves_its_row_out(read: Read) -> None:
    jobs, faults, _ = read("t.csv", PHOTOS, EDIT)
    assert [fault.partition(";")[0] for fault in faults] == [
        't.csv:3: jobs[0].images[0]: the column "photo" is empty here',
        't.csv:4: jobs[0].images[0]: the column "photo" says "nan" here',
    ]
    jobs, faults, (table,) = read("t.csv", PHOTOS, f"{EDIT}\nskip_empty: true")
    assert ([job.prompt for job in jobs], faults, table["skip_empty"]) == (["Clean a"], [], 2)
    jobs, faults, _ = read("t.csv", f"{PHOTOS}NaN,,\n", f"{EDIT}\nskip_empty: true")
    assert (len(jobs), faults) == (1, []), "what else a row lacks is no fault when the row is left out"
    jobs, faults, _ = read("t.csv", PHOTOS, f"{EDIT}\nallow_empty: true")
    assert ([len(job.images) for job in jobs], faults) == ([1, 0, 0], [])
    jobs, faults, _ = read("t.csv", PHOTOS, EDIT.replace("photo }}", "photo | default('') }}"))
    assert ([len(job.images) for job in jobs], faults) == ([1, 0, 0], [])
    _, faults, _ = read("t.csv", PHOTOS, EDIT.replace("{{ photo }}", "{% if title == 'a' %}{{ photo }}{% endif %}"))
    assert [fault.partition(";")[0] for fault in faults] == [
        "t.csv:3: jobs[0].images[0]: the reference is empty",
        "t.csv:3: jobs[0].images[0]: ... in 1 more row",
    ]


@pytest.mark.parametrize(
    "cell",
    [
        '"https://x.example/w_4,h_4/a.jpg, https://x.example/b.jpg"',
        "https://x.example/w_4|https://x.example/b.jpg".replace("w_4", '"w_4,h_4/a.jpg"').replace('"', ""),
        '"https://x.example/w_4,h_4/a.jpg,https://x.example/b.jpg"',
        '"https://x.example/w_4,h_4/a.jpg\nhttps://x.example/b.jpg"',
        '"[""https://x.example/w_4,h_4/a.jpg"", ""https://x.example/b.jpg""]"',
        "\"['https://x.example/w_4,h_4/a.jpg', 'https://x.example/b.jpg']\"",
        '" https://x.example/w_4,h_4/a.jpg ; \u200bhttps://x.example/b.jpg "',
    ],
)
@pytest.mark.parametrize("images", ['"{{ photos }}"', "{split: \"{{ row['photos'] }}\"}"])
def test_several_references_in_a_cell(cell: str, images: str, read: Read) -> None:
    cell = cell if cell.startswith('"') else f'"{cell}"'
    jobs, faults, _ = read("t.csv", f"title,photos\na,{cell}\n", f'prompt: "{{{{ title }}}}"\nimages: {images}')
    assert faults == []
    assert [image.url for image in jobs[0].images] == ["https://x.example/w_4,h_4/a.jpg", "https://x.example/b.jpg"]


def test_local_references_in_a_cell_and_a_list(read: Read) -> None:
    jobs, faults, _ = read("t.csv", 'title,p\na,"photos/a.jpg,b.jpg"\n', 'prompt: x\nimages: "{{ p }}"')
    assert ([image.source for image in jobs[0].images], faults) == (["photos/a.jpg", "b.jpg"], [])
    jobs, faults, _ = read("t.jsonl", '{"p": ["a.jpg", "b.jpg"]}\n', 'prompt: x\nimages: ["{{ p }}", c.jpg]')
    assert ([image.source for image in jobs[0].images], faults) == (["a.jpg", "b.jpg", "c.jpg"], [])
    jobs, faults, _ = read("t.jsonl", '{"p": [{"id": 3, "src": "https://x.example/a.jpg"}]}\n', PLAIN)
    assert ([image.url for image in jobs[0].images], faults) == (["https://x.example/a.jpg"], [])
    _, (fault,), _ = read("t.jsonl", '{"p": [], "q": 1}\n', 'prompt: x\nimages: "{{ p }}"')
    assert fault.startswith('t.jsonl:1: jobs[0].images[0]: the column "p" ')


def test_columns_with_other_names_have_an_alias(read: Read) -> None:
    prompt = "{{ Title }}: {{ body_html | striptags }} {{ image_src | basename }} {{ _2nd }} {{ 价格_元 }}"
    prompt += " {{ Title | slugify }} {{ image_src | stem }}"
    entry = f'prompt: "{prompt}"\nwhere: "{{{{ row.Title }}}}"\nimages: ["{{{{ image_src }}}}"]'
    jobs, faults, _ = read("t.csv", SHOP, entry)
    assert faults == []
    assert [job.prompt for job in jobs] == ["Red Cup: A red cup & saucer a.jpg x 9 red-cup a"]
    assert [job.prompt for job in read("t.jsonl", '{"Image Src": "x"}\n', 'prompt: "{{ image_src }}"')[0]] == ["x"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Image Src", 'names the column "Image Src", which is read as {{ row["Image Src"] }} or {{ image_src }}'),
        ("Body (HTML) | striptags", 'which is read as {{ row["Body (HTML)"] }} or {{ body_html }}'),
        ("2nd", 'which is read as {{ row["2nd"] }} or {{ _2nd }}'),
        ("价格\uff08元\uff09", 'which is read as {{ row["价格\uff08元\uff09"] }} or {{ 价格_元 }}'),
        ("title", 'the variable "title" does not exist; did you mean "Title"?'),
    ],
)
def test_a_column_that_is_no_variable_is_named(name: str, said: str, read: Read) -> None:
    _, faults, _ = read("t.csv", SHOP, f'prompt: "a {{{{ {name} }}}}"')
    assert len(faults) == 1, faults
    assert said in faults[0]


@pytest.mark.parametrize(
    ("cell", "kept"),
    [("yes", True), ("1", True), ("0.5", True), ("00", True)]
    + [(cell, False) for cell in ("0", "0.00", '"0,00"', "'0", "FALSE", "no", " Off ")],
)
def test_where_keeps_what_says_yes(cell: str, kept: bool, read: Read) -> None:  # noqa: FBT001  pytest gives it
    jobs, faults, _ = read("t.csv", f"title,use\na,{cell}\n", 'prompt: "{{ title }}"\nwhere: "{{ use }}"')
    assert (bool(jobs), faults) == (kept, [])


def test_where_reckons(read: Read) -> None:
    data = "title,stock\na,3\nb,0\nc,\nd,nan\n"
    jobs, faults, _ = read("t.csv", data, 'prompt: "{{ title }}"\nwhere: "{{ stock | default(0) | int > 0 }}"')
    assert ([job.prompt for job in jobs], faults) == (["a"], [])
    _, faults, _ = read("t.csv", data, 'prompt: "{{ title }}"\nwhere: "{{ stok }}"')
    assert 'jobs[0].where: the variable "stok" does not exist; did you mean "stock"?' in faults[0]


def test_axes_of_parts_and_axes_that_go_together(read: Read) -> None:
    entry = """\
prompt: "{{ title }} {{ scene.text }} at {{ hour }} in {{ light }}"
tags: {scene: "{{ scene }}"}
matrix:
  scene: [{name: white, text: on white}, {name: oak, text: on oak}]
zip:
  hour: [6, 18]
  light: [pink, gold]
exclude: [{scene: oak, hour: 18}]"""
    jobs, faults, _ = read("t.csv", "title\ncup\n", entry)
    assert faults == []
    assert [(job.prompt, job.tags[0][1]) for job in jobs] == [
        ("cup on white at 6 in pink", "white"),
        ("cup on white at 18 in gold", "white"),
        ("cup on oak at 6 in pink", "oak"),
    ]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            "zip: {a: [1, 2], b: [1]}",
            "jobs[0].zip: its values go together, so there must be as many of each; a has 2",
        ),
        ("zip: {a: [1]}\nmatrix: {a: [1]}", 'jobs[0].zip: "a" is an axis of matrix too; keep one of them'),
        ("matrix: {a: [{x: 1, y: 2}, {x: 1, z: 2}]}", 'the values of the axis have different parts, "x, y" and "x, z"'),
        ("matrix: {seed: [{x: 1, y: 2}]}", "jobs[0].matrix.seed: found a mapping; an axis of seed has single values"),
        ("matrix: {style: [noir, oil]}", "style is the call style, so name the axis otherwise, as look"),
        ("seed: [1, 2]", "found a list; allowed is one value. For a job of each write matrix: {seed: [...]}"),
    ],
)
def test_axes_that_cannot_be(entry: str, said: str, read: Read) -> None:
    _, faults, _ = read("t.csv", "title\ncup\n", f"prompt: x\n{entry}")
    assert len(faults) == 1, faults
    assert said in faults[0]


def test_a_thousand_as_many_write_it_is_no_seed_of_1(read: Read) -> None:
    jobs, (fault,), _ = read("t.csv", "title,seed\na,42.00\nb,1.000\nc,1234.000\n", 'prompt: x\nseed: "{{ seed }}"')
    assert ([job.seed for job in jobs], fault.partition(";")[0]) == ([42, 1234], 't.csv:3: jobs[0].seed: found "1.000"')


def test_what_stands_around_a_cell_is_no_part_of_a_path(read: Read) -> None:
    data = "f,a b\n a.jpg\u00a0,1\n'b.jpg,2\n\u200bc d.jpg,3\n"
    jobs, faults, _ = read("t.csv", data, 'prompt: "x {{ a_b }}"\nimages: ["p/{{ f }}", "q/{{ row[\'f\'] }}"]')
    assert faults == []
    names = ["a.jpg", "b.jpg", "c d.jpg"]
    assert [[image.source for image in job.images] for job in jobs] == [[f"p/{name}", f"q/{name}"] for name in names]
