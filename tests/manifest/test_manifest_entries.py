"""Tables, matrices, templates and defaults: which jobs they make, and in which order."""

from __future__ import annotations

import gzip
import pickle
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from pyarrow import parquet

from batchflux.manifest import expand

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchflux.capabilities import Capabilities
    from batchflux.manifest import Manifest
    from batchflux.models import Job

    Jobs = Callable[[str], list[Job]]

HEAD = "version: 1\nprovider: {params: drop}\njobs:\n"


def prompts(made: list[Job]) -> list[str]:
    return [job.prompt for job in made]


def test_rows_come_first_then_the_matrix_last_axis_fastest(jobs: Jobs) -> None:
    made = jobs(HEAD + """\
  - prompt: "{{ title }} on {{ surface }}"
    from: products.csv
    images: ["https://h.example/{{ photo }}"]
    matrix: {surface: [marble, oak], seed: {range: [1, 2]}, aspect_ratio: [1:1, 9:16]}
    exclude: [{surface: oak, aspect_ratio: 9:16}]
""")  # fmt: skip
    assert [(job.prompt, job.seed, job.aspect_ratio) for job in made[:6]] == [
        ("Mug on marble", 1, "1:1"), ("Mug on marble", 1, "9:16"), ("Mug on marble", 2, "1:1"),
        ("Mug on marble", 2, "9:16"), ("Mug on oak", 1, "1:1"), ("Mug on oak", 2, "1:1"),
    ]  # fmt: skip
    assert prompts(made[6:]) == ["Cup on marble"] * 4 + ["Cup on oak"] * 2
    assert {job.style for job in made} == {"standard"}
    assert [job.position for job in made] == list(range(12))


def test_what_is_excluded_is_meant_as_its_field_reads_it(jobs: Jobs) -> None:
    made = jobs(HEAD + """\
  - prompt: x
    matrix: {output_format: [png, jpg], aspect_ratio: [1:1, 16:9], seed: [7, 08]}
    exclude: [{output_format: jpeg, aspect_ratio: " 1:1"}, {output_format: JPG, seed: 8}, {seed: +7}]
""")  # fmt: skip
    assert [(job.output_format, job.aspect_ratio, job.seed) for job in made] == [("png", "1:1", 8), ("png", "16:9", 8)]


def test_what_is_excluded_and_not_there_is_a_fault(faults: Callable[[str], list[str]]) -> None:
    """What was meant would be made, and paid for."""
    found = faults(HEAD + """\
  - prompt: "{{ light }}"
    matrix: {light: [warm, cold], seed: {range: [1, 3]}, image: {glob: photos/*}}
    exclude: [{light: wram, seed: 4}, {image: mug}, {image: photos/gone.jpg}]
""")  # fmt: skip
    assert found == [
        'm.yaml:6: jobs[0].exclude[0]: "wram" is no value of light; did you mean "warm"? Allowed: cold, warm',
        'm.yaml:6: jobs[0].exclude[0]: "4" is no value of seed; allowed is 1 to 3',
        'm.yaml:6: jobs[0].exclude[1]: "mug" is no value of image; write "photos/mug.jpg"',
    ]


ROWS = ["title\ta\nMug\t9:16\n", "title,a\nMug,9:16\n", '{"title": "Mug", "a": "9:16"}\n']


@pytest.mark.parametrize(("suffix", "text"), list(zip(["tsv", "csv", "jsonl"], ROWS, strict=True)))
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_tables(suffix: str, text: str, packed: bool, mark: bytes, folder: Path, jobs: Jobs) -> None:  # noqa: FBT001  a parameter of the test
    name = f"t.{suffix}.gz" if packed else f"t.{suffix}"
    data = mark + text.encode()
    (folder / name).write_bytes(gzip.compress(data) if packed else data)
    (one,) = jobs(HEAD + f'  - {{prompt: "{{{{ title }}}}", aspect_ratio: "{{{{ a }}}}", from: {name}}}\n')
    assert (one.prompt, one.aspect_ratio) == ("Mug", "9:16")


def test_parquet_streams_by_batches(folder: Path, jobs: Jobs) -> None:
    count = 3000
    columns = {"title": [f"Mug {n}" for n in range(count)], "seed": list(range(count)), "none": [None] * count}
    parquet.write_table(pa.table(columns), folder / "t.parquet")
    made = jobs(HEAD + '  - {prompt: "{{ title }}{{ none }}", seed: "{{ seed }}", from: t.parquet}\n')
    assert [(job.prompt, job.seed) for job in made] == [(f"Mug {n}", n) for n in range(count)]


def test_all_of_it_can_be_pickled_and_expanded_again(
    load: Callable[[str], Manifest], offers: tuple[Capabilities, ...]
) -> None:
    text = HEAD + "  - {prompt: '{{ title }} {{ x }}', from: products.csv, matrix: {x: [1.50, a]}}\n"
    manifest = load(text)
    first = expand(manifest, offers, lambda fault: pytest.fail(str(fault)))
    again = expand(pickle.loads(pickle.dumps(manifest)), offers, lambda fault: pytest.fail(str(fault)))  # noqa: S301  our own bytes
    made = list(first)
    assert made == list(again) == list(first) == pickle.loads(pickle.dumps(made))  # noqa: S301  our own bytes


def test_cells_are_verbatim_and_columns_set_nothing(folder: Path, jobs: Jobs) -> None:
    (folder / "t.csv").write_text('seed,"Product Name",class,prompt\n007," a ""b""\nc ",no,"{{ seed }}"\n')
    (one,) = jobs(
        HEAD + "  - {prompt: '{{ seed }}|{{ row[\"Product Name\"] }}|{{ class }}|{{ prompt }}', from: t.csv}\n"
    )
    assert one.prompt == '007| a "b"\nc |no|{{ seed }}'
    assert one.seed is None


def test_empty_cells_leave_optional_fields_out(folder: Path, jobs: Jobs) -> None:
    (folder / "t.csv").write_text("t,s,f,p,i,u,k\nA,,,,,,\nB,5,png,https://h.example/a.png,my-id,true,3\n")
    text = """\
  - prompt: "{{ t }}"
    from: t.csv
    id: "{{ i }}"
    seed: "{{ s }}"
    output_format: "{{ f }}"
    images: ["{{ p | default('') }}"]
    prompt_upsampling: "{{ u }}"
    safety_tolerance: "{{ k }}"
    tags: {t: "{{ t }}!", n: 1.50}
"""
    first, second = jobs(HEAD + text)
    assert (first.seed, first.output_format, first.images, first.prompt_upsampling) == (None, None, (), None)
    assert first.id.startswith("a-")
    assert (second.id, second.seed, second.output_format, second.prompt_upsampling) == ("my-id", 5, "png", True)
    assert second.safety_tolerance == 3
    assert second.tags == (("t", "B!"), ("n", "1.50"))


def test_axes_in_templates_keep_what_was_written(jobs: Jobs) -> None:
    made = jobs(HEAD + "  - {prompt: 'a {{ size }}', matrix: {size: [1.50, 010, no, 2, true, 1:1, '']}}\n")
    assert prompts(made) == ["a 1.50", "a 010", "a no", "a 2", "a true", "a 1:1", "a "]


def test_axes_named_like_fields_set_them(folder: Path, jobs: Jobs) -> None:
    (folder / "prompts.txt").write_text("one\n\n  two  \n{{ three }}\n")
    made = jobs(
        HEAD
        + """\
  - matrix:
      prompt: {lines: prompts.txt}
      variant: [1, 2]
      images: [[photos/mug.jpg, photos/cup.png], photos/cup.png]
"""
    )
    assert [(job.prompt, job.variant, len(job.images)) for job in made[:4]] == [
        ("one", 1, 2), ("one", 1, 1), ("one", 2, 2), ("one", 2, 1),
    ]  # fmt: skip
    assert made[-1].prompt == "{{ three }}"


def test_globs_are_sorted_and_name_their_parts(folder: Path, jobs: Jobs) -> None:
    (folder / "photos/deep").mkdir()
    (folder / "photos/deep/a.b.jpg").write_bytes((folder / "photos/mug.jpg").read_bytes())
    made = jobs(
        HEAD
        + """\
  - prompt: "{{ image.path }} {{ image.name }} {{ image.stem }} {{ image }} {{ image | upper }}"
    matrix: {image: {glob: "photos/**/*.jpg"}}
"""
    )
    assert prompts(made) == [
        "photos/deep/a.b.jpg a.b.jpg a.b photos/deep/a.b.jpg PHOTOS/DEEP/A.B.JPG",
        "photos/mug.jpg mug.jpg mug photos/mug.jpg PHOTOS/MUG.JPG",
    ]
    assert [job.images[0].source for job in made] == ["photos/deep/a.b.jpg", "photos/mug.jpg"]


def test_defaults_give_way_to_entries_and_axes(jobs: Jobs) -> None:
    made = jobs("""\
version: 1
defaults: {seed: 1, image: https://h.example/a.png, output_format: png, tags: {a: 1, b: 2}}
jobs:
  - {prompt: a}
  - {prompt: b, seed: null, images: [], tags: {b: 3}}
  - {prompt: c, matrix: {seed: [7], image: [https://h.example/b.png]}}
""")
    assert [(job.seed, [r.url for r in job.images], job.tags) for job in made] == [
        (1, ["https://h.example/a.png"], (("a", "1"), ("b", "2"))),
        (None, [], (("a", "1"), ("b", "3"))),
        (7, ["https://h.example/b.png"], (("a", "1"), ("b", "2"))),
    ]


def test_file_names_know_the_job_and_its_variables(jobs: Jobs) -> None:
    made = jobs("""\
version: 1
output: {file_name: "{{ tags.kind }}/{{ sku }}-{{ '%03d' | format(seed) }}-{{ image.stem }}{{ variant }}.{{ ext }}"}
provider: {params: drop}
jobs:
  - {prompt: "{{ title }}", from: products.csv, images: ["{{ photo }}"], seed: 7, tags: {kind: k}, output_format: png}
""")
    assert [job.file_name for job in made] == ["images/k/M-1-007-mug1.png", "images/k/C-1-007-c1.png"]


def test_drop_lists_what_was_dropped(jobs: Jobs) -> None:
    (one,) = jobs("""\
version: 1
provider: {params: drop}
jobs: [{prompt: x, image: photos/mug.jpg, seed: 1, aspect_ratio: 1:1, model: m}]
""")
    assert (one.style, one.dropped, one.seed, one.model) == ("chat", ("seed", "aspect_ratio"), 1, "m")


@pytest.mark.parametrize(
    ("provider", "job", "style"),
    [("auto", "auto", "standard"), ("chat", "auto", "standard"), ("auto", "chat", "chat"), ("chat", "null", "chat")],
)
def test_a_jobs_style_wins_over_the_providers(provider: str, job: str, style: str, jobs: Jobs) -> None:
    (one,) = jobs(f"version: 1\nprovider: {{style: {provider}}}\njobs: [{{prompt: x, style: {job}}}]\n")
    assert one.style == style


def test_references_say_what_is_wrong_with_them(folder: Path, jobs: Jobs) -> None:
    (folder / "photos/empty.png").touch()
    (folder / "photos/text.png").write_text("no picture")
    (folder / "photos/big.png").write_bytes(bytes(21 << 20))
    names = ["none.png", "empty.png", "text.png", "big.png", "../photos", "mug.jpg"]
    made = jobs(HEAD + "  - {prompt: x, matrix: {image: [" + ", ".join(f"photos/{name}" for name in names) + "]}}\n")
    smaller = "references.max_bytes: 10MB sends it smaller"
    assert [job.fault for job in made] == [
        f"the reference photos/none.png does not exist: looked at {folder}/photos/none.png",
        "the reference photos/empty.png is empty",
        "the reference photos/text.png is not a PNG, JPEG, WEBP or GIF picture; save it as one, as PNG",
        f"the reference photos/big.png has 22020096 bytes; at most 20971520 can be sent; {smaller}",
        "the reference photos/../photos is not a file",
        None,
    ]
    assert made[-1].images[0].path == str(folder / "photos/mug.jpg")
    assert made[-1].images[0].media_type == "image/jpeg"


@pytest.mark.parametrize("word", ["true", "True", "TRUE", '"true"'])
def test_true_as_yaml_and_spreadsheets_write_it(word: str, folder: Path, jobs: Callable[[str], list[Job]]) -> None:
    (folder / "up.csv").write_text(f"up\n{word}\n")
    entry = '{prompt: y, prompt_upsampling: "{{ up }}", from: up.csv}'
    made = jobs(f"version: 1\njobs:\n  - {{prompt: x, prompt_upsampling: {word}}}\n  - {entry}\n")
    assert [job.prompt_upsampling for job in made] == [True, True]


def test_an_empty_cell_means_the_providers_model(folder: Path, jobs: Callable[[str], list[Job]]) -> None:
    (folder / "models.csv").write_text("n,model\n1,\n2,other\n")
    text = 'version: 1\nprovider: {model: m}\njobs:\n  - {prompt: "{{ n }}", model: "{{ model }}", from: models.csv}\n'
    assert [job.model for job in jobs(text)] == ["m", "other"]
