"""All faults in one go: those of rows and jobs too when the manifest has others, and none that is not there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import batchflux
from batchflux.errors import ManifestError
from batchflux.manifest.expansion import MAX_FAULTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.capabilities import Capabilities
    from batchflux.manifest import Manifest

    Faulty = Callable[[str | bytes], list[str]]

ALL = """\
version: 1
nmae: x
limits: {rate: fast, budget: 1}
provider: {name: tuzi, style: chat}
jobs:
  - {id: a, prompt: x, seed: 1}
  - {id: a, prompt: y}
  - {id: c, prompt: z, output_format: gif, aspect_ratio: 1:1}
  - prompt: "{{ title }}"
    id: "{{ sku }}"
    aspect_ratio: "{{ r }}"
    style: standard
    from: cells.csv
"""


def found_in(text: str, faults: Faulty) -> list[tuple[str, str]]:
    """Each fault's place, and the first words of what it says."""
    parts = [fault.split(": ", 2) for fault in faults(text)]
    return [(f"{place} {where}", " ".join(message.split()[:3])) for place, where, message in parts]


def test_faults_of_every_kind_are_listed_in_one_go_and_in_order(faults: Faulty) -> None:
    Path("cells.csv").write_text("sku,title,r\nd,A,99:1\ne,B,1:1\ne,C,1:1\n")
    assert found_in(ALL, faults) == [
        ("m.yaml:2 nmae", 'unknown key "nmae";'),
        ("m.yaml:3 limits.rate", 'found "fast"; allowed'),
        ("m.yaml:3 limits.budget", "a budget needs"),
        ("m.yaml:6 jobs[0] (id a)", "seed cannot be"),
        ("m.yaml:7 jobs[1].id", 'the id "a"'),
        ("m.yaml:8 jobs[2].output_format", 'found "gif"; allowed'),
        ("m.yaml:8 jobs[2] (id c)", "aspect_ratio cannot be"),
        ("cells.csv:2 jobs[3].aspect_ratio", 'found "99:1"; allowed'),
        ("cells.csv:4 jobs[3].id", 'the id "e"'),
    ]


def test_the_public_function_lists_them_too(folder: Path) -> None:
    (folder / "m.yaml").write_text("version: 1\nnmae: x\njobs:\n  - {prompt: x, seed: 1, style: chat}\n")
    with pytest.raises(ManifestError) as caught:
        batchflux.load_manifest("m.yaml", environ={})
    assert [fault.line for fault in caught.value.faults] == [2, 4]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("provider: {params: frop}\njobs: [{prompt: x, seed: 1, style: chat}]", ["2 provider.params"]),
        ("provider: {parms: drop}\njobs: [{prompt: x, seed: 1, style: chat}]", ["2 provider.parms"]),
        ("provider: {price: x, params: drop}\njobs: [{prompt: x, seed: 1, style: chat}]", ["2 provider.price"]),
        (
            "provider: {price: x, style: chat}\njobs: [{prompt: x, seed: 1, id: a}]",
            ["2 provider.price", "3 jobs[0] (id a)"],
        ),
        ("provider: {name: [], base_url: 'http://h.example'}\njobs: [{prompt: x}]", ["2 provider.name"]),
        ("provider: {name: tuzi, price: x}\nlimits: {budget: 1}\njobs: [{prompt: x}]", ["2 provider.price"]),
        ("defaults: {prompt: ' '}\njobs: [{seed: 1}, {seed: 2}]", ["2 defaults.prompt"]),
        ("defaults: {promt: y}\njobs: [{seed: 1}, {seed: a}]", ["2 defaults.promt", "3 jobs[1].seed"]),
        ("defaults: [1]\njobs: [{seed: 1}]", ["2 defaults"]),
        ("jobs: [{promt: x, seed: a}]", ["2 jobs[0].seed", "2 jobs[0].promt"]),
        ("jobs: [{prompt: x, matrix: 1, exclude: [{a: 1}], id: b}]", ["2 jobs[0].matrix"]),
        ("jobs: [{prompt: '{{ a }}', matrix: {a: {}}}]", ["2 jobs[0].matrix.a"]),
        ("output: {file_name: '{{ id }'}\njobs: [{prompt: x, id: a}, {prompt: y, id: A}]", ["2 output.file_name"]),
        (
            "output: {file_name: '{{ nix }}'}\njobs: [{prompt: x, id: a}, {prompt: y, id: A, sed: 1}]",
            ["2 output.file_name", "3 jobs[1].sed"],
        ),
        (
            "output: {verify: x, file_name: f.png}\njobs: [{prompt: x}, {prompt: y}]",
            ["2 output.verify", "3 jobs[1].file_name"],
        ),
        (
            "jobs: [{prompt: x, id: a, seed: a}, {prompt: y, id: a, seed: b}]",
            ["2 jobs[0].seed", "2 jobs[1].seed", "2 jobs[1].id"],
        ),
        ("jobs: [{prompt: x, id: a, id: b}, {prompt: y, id: b}]", ["2 jobs[0].id", "2 jobs[1].id"]),
    ],
)
def test_no_fault_is_told_that_mending_another_takes_away(text: str, places: list[str], faults: Faulty) -> None:
    assert [place for place, _ in found_in(f"version: 1\n{text}\n", faults)] == [f"m.yaml:{at}" for at in places]


def test_faults_are_counted_up_to_a_thousand_of_rows(faults: Faulty) -> None:
    Path("t.csv").write_text("s\n" + "a\n" * 3000)
    found = faults('version: 1\nnmae: x\njobs:\n  - {prompt: x, seed: "{{ s }}", from: t.csv}\n')
    assert [fault.split(": ")[0] for fault in found] == ["m.yaml:2", "t.csv:2", "t.csv:2"]
    assert found[2].endswith(f"... in at least {MAX_FAULTS - 1} more rows")


def test_no_more_than_so_many_jobs_are_looked_at(faults: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchflux.manifest.salvage.MAX_SALVAGED", 10)
    Path("t.csv").write_text("s\n" + "1\n" * 9 + "a\nb\n")
    found = faults('version: 1\nnmae: x\njobs:\n  - {prompt: x, seed: "{{ s }}", from: t.csv}\n')
    assert [fault.split(": ")[0] for fault in found] == ["m.yaml:2", "t.csv:11"]


def test_a_sound_manifest_is_not_expanded(load: Callable[..., Manifest], offers: tuple[Capabilities, ...]) -> None:
    Path("t.csv").write_text("s\n1\nx\n")
    text = 'version: 1\njobs:\n  - {prompt: x, seed: "{{ s }}", from: t.csv}\n'
    assert len(load(text, offers=offers).entries) == 1  # the bad row is found by whoever expands it
    with pytest.raises(ManifestError) as caught:
        load(text + "nmae: x\n", offers=offers)
    assert [fault.line for fault in caught.value.faults] == [4, 3]
