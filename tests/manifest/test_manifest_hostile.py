"""Manifests and tables made to take long, take much, or take what is not theirs: a fault in its place, at once.

What has no bound here runs for minutes or for ever, and ends at the test's timeout.
"""

from __future__ import annotations

import gzip
import os
import socket
from typing import TYPE_CHECKING

import pytest

from batchflux.errors import Fault
from batchflux.manifest.matrix import MAX_COMBINATIONS, combinations
from batchflux.manifest.reading.diagnostics import MAX_FAULTS
from batchflux.tables.streams import MAX_LINE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchflux.models import Job

    Faulty = Callable[[str | bytes], list[str]]
    Jobs = Callable[[str], list[Job]]

pytestmark = pytest.mark.timeout(60)
ROWS = 'version: 1\njobs:\n  - prompt: "{{ title }}"\n    from: '
MATRIX = "version: 1\njobs:\n  - prompt: x\n    matrix: "


# --- files that are none ---------------------------------------------------------------------------------------------


def strange(folder: Path, suffix: str) -> dict[str, str]:
    """Things in a folder that are no files, by name: what is said of each as a table, after its name."""
    os.mkfifo(folder / f"fifo{suffix}")
    (folder / f"zero{suffix}").symlink_to("/dev/zero")
    (folder / f"loop{suffix}").symlink_to(f"loop{suffix}")
    (folder / f"dangling{suffix}").symlink_to("nowhere")
    (folder / f"folder{suffix}").mkdir()
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(f"door{suffix}")  # relative: a socket's path is short
    return {
        f"fifo{suffix}": "is not a file",
        f"zero{suffix}": "is not a file",
        f"folder{suffix}": "is not a file",
        f"door{suffix}": "is not a file",
        f"loop{suffix}": "does not exist",
        f"dangling{suffix}": "does not exist",
        f"missing/../folder{suffix}/x{suffix}": "does not exist",
        f"{'x' * 300}{suffix}": "File name too long",
    }


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".csv.gz", ".parquet"])
def test_a_table_is_a_file(folder: Path, faults: Faulty, suffix: str) -> None:
    for name, said in strange(folder, suffix).items():
        (found,) = faults(f"{ROWS}{name}\n")
        assert found.startswith("m.yaml:4: jobs[0].from: the table "), found
        assert said in found


def test_a_reference_is_a_picture_in_a_file(folder: Path, jobs: Jobs) -> None:
    """Else only its job fails, and no byte of it travels."""
    (folder / "passwd.jpg").symlink_to("/etc/passwd")
    (folder / "inside.jpg").symlink_to("photos/mug.jpg")
    names = {
        **strange(folder, ".jpg"),
        "passwd.jpg": "is not a PNG, JPEG, WEBP or GIF picture",
        "/etc/passwd": "is not a PNG, JPEG, WEBP or GIF picture",
        "../" * 30 + "etc/passwd": "is not a PNG, JPEG, WEBP or GIF picture",
        "/dev/zero": "is not a file",
        "/dev/stdin/x": "",
        "/proc/self/environ": "is empty",
        "loop.jpg": "cannot be read",
        f"{'x' * 300}.jpg": "cannot be read",
        "inside.jpg": "",
        "photos/../photos/mug.jpg": "",
    }
    listed = "".join(
        f"  - {{id: a{at}, prompt: x, variant: {at + 1}, image: {name}}}\n" for at, name in enumerate(names)
    )
    for job, said in zip(jobs(f"version: 1\njobs:\n{listed}"), names.values(), strict=True):
        (reference,) = job.images
        if reference.source in {"inside.jpg", "photos/../photos/mug.jpg"}:
            assert job.fault is None
            continue
        assert job.fault is not None
        assert said in job.fault
        assert reference.media_type is None


@pytest.mark.parametrize("name", ["/dev/zero", "fifo.txt", "/dev", "loop.txt", "x" * 300])
def test_lines_are_a_files(folder: Path, faults: Faulty, name: str) -> None:
    strange(folder, ".txt")
    (found,) = faults(f"{MATRIX}{{a: {{lines: {name}}}}}\n")
    assert found.startswith("m.yaml:4: jobs[0].matrix.a: ")


def test_a_nul_or_half_a_surrogate_is_no_path(faults: Faulty) -> None:
    assert "U+0000" in faults(f'{ROWS}"a\\0b.csv"\n')[0]
    assert "U+0000" in faults('version: 1\njobs: [{prompt: x, image: "a\\0b.jpg"}]\n')[0]
    assert "not valid YAML" in faults(f'{ROWS}"a\\ud800b.csv"\n')[0]


# --- names that read as others ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["photo\u202egnp", "a\u2066b", "a\u2028b"])
def test_a_file_name_reads_in_the_direction_it_is_written(faults: Faulty, name: str) -> None:
    (found,) = faults(f'version: 1\njobs: [{{id: "{name}", prompt: x}}]\n'.encode())
    assert "control character" in found or "U+2028" in found
    assert name not in found


def test_right_to_left_script_is_as_good_as_any(jobs: Jobs) -> None:
    (job,) = jobs("version: 1\njobs: [{id: תמונה-2, prompt: x}]\n")
    assert job.file_name == "images/תמונה-2.jpg"


def test_no_text_of_a_stranger_commands_the_terminal(faults: Faulty) -> None:
    found = faults('version: 1\n"\\e[2J\\e]0;pwned\\a": 1\njobs: [{prompt: x, "a\\nb": 1, "\\u202e": 2}]\n')
    assert len(found) == 3
    assert all(text.isprintable() for text in found)
    assert str(Fault(file="x\x1b[2J.csv", line=1, where="", message="no")) == "x\\x1b[2J.csv:1: no"


def test_a_fault_is_short_whatever_it_is_about(faults: Faulty) -> None:
    for text in (f"{'k' * 100_000}: 1\njobs: [{{prompt: x}}]\n", f"jobs: [{{prompt: x, from: {'f' * 100_000}.csv}}]\n"):
        (found,) = faults(f"version: 1\n{text}")
        assert len(found) < 2000


# --- bombs -----------------------------------------------------------------------------------------------------------


def test_a_product_nobody_can_mean_is_refused_before_it_is_made(faults: Faulty) -> None:
    million = "{range: [1, 1000000]}"
    many = ", ".join(f"a{at}: [1, 2]" for at in range(64))
    for axes in (f"{{seed: {million}, variant: {million}, a: {million}}}", f"{{{many}}}"):
        (found,) = faults(f"{MATRIX}{axes}\n")
        assert found.startswith(
            f"m.yaml:4: jobs[0].matrix: has more than {MAX_COMBINATIONS} combinations; split the job"
        )


def test_a_product_of_lines_is_counted_too(folder: Path, faults: Faulty) -> None:
    (folder / "l.txt").write_text("".join(f"{number}\n" for number in range(4000)))
    (found,) = faults(f"{MATRIX}{{a: {{lines: l.txt}}, b: {{lines: l.txt}}}}\n")
    assert "combinations" in found


def test_many_exclusions_are_one_look(folder: Path, jobs: Jobs) -> None:
    rules = ", ".join(f"{{seed: {number}}}" for number in range(1, 3000))
    made = jobs(f"{MATRIX}{{seed: {{range: [1, 3001]}}, a: [x, y]}}\n    exclude: [{rules}, {{seed: 3000, a: y}}]\n")
    assert [(job.seed, job.prompt) for job in made] == [(3000, "x"), (3001, "x")]


def test_exclusions_name_their_axes_in_any_order() -> None:
    from batchflux.manifest.matrix import AxisValue  # noqa: PLC0415  only here

    axes = [[AxisValue(text, text) for text in "ab"], [AxisValue(text, text) for text in "xy"]]
    rules = [{"second": "x", "first": "a"}, {"first": "b", "second": "y"}]
    left = ["".join(value.text for value in made) for made in combinations(["first", "second"], axes, rules)]
    assert left == ["ay", "bx"]


def test_a_pattern_cannot_walk_in_circles(folder: Path, faults: Faulty, jobs: Jobs) -> None:
    for name in "abc":
        (folder / name).mkdir()
    for pattern, said in (("*/../" * 30 + "x.jpg", "write it in front"), ("**/" * 9 + "x.jpg", "more than 2 **")):
        (found,) = faults(f"{MATRIX}{{image: {{glob: '{pattern}'}}}}\n")
        assert said in found
    assert len(jobs(f"{MATRIX}{{image: {{glob: 'a/../**/*.jpg'}}}}\n")) == 1


def sources(made: list[Job]) -> list[str]:
    return [job.images[0].source for job in made]


def test_links_in_a_circle_are_followed_once(folder: Path, faults: Faulty, jobs: Jobs) -> None:
    for name in "ab":
        (folder / name).mkdir()
        (folder / name / "photo.jpg").write_bytes((folder / "photos/mug.jpg").read_bytes() + name.encode())
    (folder / "a/one").symlink_to("../b")
    (folder / "b/two").symlink_to("../a")
    (folder / "b/self").symlink_to(".")
    (folder / "b/gone").symlink_to("nowhere")
    glob = MATRIX + "{{image: {{glob: '{}'}}}}\n"
    every = ["a/photo.jpg", "b/photo.jpg", "photos/mug.jpg"]
    assert sources(jobs(glob.format("**/*.jpg"))) == every
    assert sources(jobs(glob.format("**/**/*.jpg"))) == every
    assert sources(jobs(glob.format("a/**"))) == ["a/one/photo.jpg", "a/photo.jpg"]
    assert sources(jobs(glob.format(f"{folder}/a/*/*.jpg"))) == [f"{folder}/a/one/photo.jpg"]
    (found,) = faults(glob.format("*/" * 60 + "x.jpg"))
    assert "no file matches" in found


def test_a_pattern_looks_at_so_many_names(folder: Path, faults: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchflux.photos.globs.MAX_LOOKED_AT", 3)
    for name in "abcd":
        (folder / name).mkdir()
    (found,) = faults(f"{MATRIX}{{image: {{glob: '**/*.jpg'}}}}\n")
    assert 'more than 3 names would have to be looked at for the pattern "**/*.jpg"; name the folder' in found
    (found,) = faults(f"{MATRIX}{{image: {{glob: '{'a/' * 64}*.jpg'}}}}\n")
    assert "allowed are at most 64" in found


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"unknown{number}: 1\n" for number in range(20_000)) + "jobs: [{prompt: x}]\n",
        "jobs:\n" + "".join(f"  - {{prompt: x, sed: {number}}}\n" for number in range(5000)),
        "name: y\n" * 50_000 + "jobs: [{prompt: x}]\n",
        "jobs:\n" + "  - {prompt: x, id: same}\n" * 5000,
    ],
    ids=["keys", "job keys", "duplicate keys", "ids"],
)
def test_faults_without_number_are_counted_to_a_bound(faults: Faulty, text: str) -> None:
    found = faults("version: 1\n" + text)
    assert MAX_FAULTS * 0.9 < len(found) <= MAX_FAULTS


def test_a_table_of_very_many_columns(folder: Path, faults: Faulty, jobs: Jobs) -> None:
    names = [f"c{number}" for number in range(20_000)]
    (folder / "t.csv").write_text(f"title,{','.join(names)}\nA{',1' * len(names)}\n")
    assert [job.prompt for job in jobs(f"{ROWS}t.csv\n")] == ["A"]
    (folder / "t.csv").write_text(f"{','.join(names)},{names[-1]}\n")
    assert faults(f"{ROWS}t.csv\n") == ['t.csv:1: jobs[0].from: the column "c19999" stands twice in the header']
    (folder / "t.csv").write_text(f"{','.join(names)}\n1{',1' * (len(names) - 1)}\n")
    unknown = "".join(f"{{{{ x{number} }}}}" for number in range(30))
    found = faults(f"version: 1\njobs:\n  - prompt: '{unknown}'\n    from: t.csv\n")
    assert len(found) == 30
    assert "and 1996" in found[0]


def test_a_json_line_of_very_many_columns(folder: Path, faults: Faulty) -> None:
    pairs = ",".join(f'"c{number}":1' for number in range(50_000))
    (folder / "t.jsonl").write_text(f'{{{pairs},"c49999":1}}\n{{"title": {"9" * 100_000}}}\n{{"a": {"[" * 100_000}\n')
    assert faults(f"{ROWS}t.jsonl\n") == [
        't.jsonl:1: jobs[0].from: the line is not allowed: the column "c49999" stands twice',
        "t.jsonl:2: jobs[0].from: the line is not allowed: a number has more than 1000 digits",
        "t.jsonl:3: jobs[0].from: the line is nested too deeply",
    ]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (b"a" * (17 << 20), "the line has more than 16777216 bytes"),
        (b"\n" * (2 << 20), "the file unpacks to more than 200 times its size, as no table does; unpack it first"),
        (b"A" * 1000 + b"\n", "the file unpacks to more than 200 times its size, as no table does; unpack it first"),
    ],
    ids=["a line", "blank lines", "one row many times"],
)
def test_a_packed_bomb_is_not_unpacked_to_its_end(
    folder: Path, faults: Faulty, monkeypatch: pytest.MonkeyPatch, rows: bytes, said: str
) -> None:
    if len(rows) < MAX_LINE:
        monkeypatch.setattr("batchflux.tables.streams.BOMB_BYTES", 1 << 20)
    data = rows if len(rows) > 2000 else rows * 2000
    (folder / "t.csv.gz").write_bytes(gzip.compress(b"title\n" + data, 9))
    (found,) = [text for text in faults(f"{ROWS}t.csv.gz\n") if "jobs[0].from" in text]
    assert found.endswith(said)


def test_an_honest_packed_table_is_read(folder: Path, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchflux.tables.streams.BOMB_BYTES", 1)
    rows = "".join(f"a cat of colour {number}\n" for number in range(4000))
    (folder / "t.csv.gz").write_bytes(gzip.compress(f"title\n{rows}".encode()))
    assert len(jobs(f"{ROWS}t.csv.gz\n")) == 4000


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"title\n\xff\n", "t.csv:2: jobs[0].from: the byte 0xff is not UTF-8"),
        (b"title\nA\0B\n", "t.csv:2: jobs[0].prompt: found the character U+0000; remove it"),
        (b"\0title\nA\n", "m.yaml:3: jobs[0].prompt: the variable"),
        (b"title\nA\rB\n", "t.csv:2: jobs[0].from: the row cannot be read: a line end in a cell without quotes"),
        (b'title\n"A\nB\nC\n', "t.csv:2: jobs[0].from: the row cannot be read: a quote opens here and is never"),
        (b'title\n"' + b"x\n" * 700_000, "t.csv:2: jobs[0].from: a cell has more than 1048576 characters"),
        ("title\na\ud800b\n".encode("utf-8", "surrogatepass"), "t.csv:2: jobs[0].from: the byte 0xed is not UTF-8"),
    ],
)
def test_what_is_no_text_is_found_in_its_line(folder: Path, faults: Faulty, data: bytes, said: str) -> None:
    (folder / "t.csv").write_bytes(data)
    assert faults(f"{ROWS}t.csv\n")[0].startswith(said)
