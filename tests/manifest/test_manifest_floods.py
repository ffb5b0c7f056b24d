"""One fault a cause, however many rows and jobs have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from batchflux.planner import load_manifest, plan

if TYPE_CHECKING:
    from pathlib import Path

Faulty = Callable[[str | bytes], list[str]]

ENTRY = 'version: 1\njobs:\n  - id: "{{ sku }}"\n    prompt: "{{ title }}"\n    from: t.csv\n'


def table(folder: Path, rows: list[str], head: str = "sku,title,ratio") -> None:
    (folder / "t.csv").write_text("\n".join([head, *rows]) + "\n")


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ("{seed: [1, 2, 3]}", "the same for all values of seed; add {{ seed }} to it"),
        ("{seed: [1, 2], place: [a, b]}", "the same for all values of seed and place; add {{ seed }} and {{ place }}"),
    ],
)
def test_an_id_without_its_axis_names_the_axis_once(axes: str, said: str, folder: Path, faults: Faulty) -> None:
    table(folder, [f"s{n},Mug,1:1" for n in range(50)])
    (found,) = faults(f"{ENTRY}    matrix: {axes}\n")
    assert found.startswith('m.yaml:3: jobs[0].id: the id "s0" is ')
    assert said in found
    (found,) = faults(f'version: 1\njobs:\n  - {{id: "{{{{ a }}}}", prompt: x, matrix: {{a: [m, n], {axes[1:-1]}}}}}\n')
    assert said in found


def test_an_id_that_two_rows_have_is_told_by_its_rows(folder: Path, faults: Faulty) -> None:
    table(folder, ["a,Mug,1:1", "b,Cup,1:1", "a,Jug,1:1"])
    (found,) = faults(ENTRY)
    assert found.startswith('t.csv:4: jobs[0].id: the id "a" is used by t.csv:2 too')


def test_the_same_in_many_rows_is_told_once(folder: Path, faults: Faulty) -> None:
    table(folder, [f"s{n},Mug,{'wide' if n % 2 else '1:1'}" for n in range(682)])
    told = faults(f'{ENTRY}    aspect_ratio: "{{{{ ratio }}}}"\n')
    assert told == [
        't.csv:3: jobs[0].aspect_ratio: found "wide"; allowed is W:H from 21:9 to 9:21, as 16:9',
        "t.csv:3: jobs[0].aspect_ratio: ... in 340 more rows",
    ]


def test_values_that_differ_are_told_a_few_times(folder: Path, faults: Faulty) -> None:
    table(folder, [f"s{n},Mug,wide{n}" for n in range(10)] + ["x,,1:1", "y,,1:1"])
    told = faults(f'{ENTRY}    aspect_ratio: "{{{{ ratio }}}}"\n')
    assert [text.partition(":")[2].partition(":")[0] for text in told] == ["2", "3", "4", "12", "4", "12"]
    assert told[-2:] == [
        "t.csv:4: jobs[0].aspect_ratio: ... in 7 more rows",
        "t.csv:12: jobs[0].prompt: ... in 1 more row",
    ]


def test_more_than_anybody_counts(folder: Path, faults: Faulty) -> None:
    table(folder, [f"s{n},Mug,wide" for n in range(3000)])
    told = faults(f'{ENTRY}    aspect_ratio: "{{{{ ratio }}}}"\n')
    assert told[1].endswith("... in at least 999 more rows")


def test_a_variable_that_differs_by_case_is_meant(folder: Path, faults: Faulty) -> None:
    table(folder, ["a,Mug,1:1"], "SKU,Title,ratio")
    found = faults(ENTRY)
    assert [text.partition("did you mean ")[2].partition("?")[0] for text in found] == ['"SKU"', '"Title"']


def test_one_broken_photo_is_one_line(folder: Path) -> None:
    (folder / "broken.jpg").write_text("no picture")
    (folder / "m.yaml").write_text(
        "version: 1\nprovider: {params: drop}\njobs:\n"
        "  - {prompt: 'mug {{ n }}', image: broken.jpg, matrix: {n: {range: [1, 18]}}}\n"
        "  - {id: cup, prompt: cup, image: gone.jpg}\n"
    )
    planned = plan(load_manifest("m.yaml"))
    assert planned.unreadable == 19
    first, second = planned.unreadable_samples
    assert first.startswith(
        "the reference broken.jpg is not a PNG, JPEG, WEBP or GIF picture; save it as one, as PNG (18 "
    )
    assert second == f"cup: the reference gone.jpg does not exist: looked at {folder}/gone.jpg"
