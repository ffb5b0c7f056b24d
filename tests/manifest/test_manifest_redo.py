"""Redos in the stream of jobs: each another picture, each under a name of its own, the same in plan and run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.manifest import Redos, expand, load_manifest
from batchflux.manifest.redo import Redo
from batchflux.models import Job, Way
from batchflux.providers import capabilities

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from batchflux.errors import Fault

Asked = dict[str, tuple[Redo, ...]]


def stream(path: Path, asked: Mapping[str, Sequence[Redo]], known: Collection[str] = ()) -> tuple[list[Job], Redos]:
    """Expand a manifest with redos; no fault is expected."""
    faults: list[Fault] = []
    redos = Redos(asked, known.__contains__)
    jobs = list(
        expand(load_manifest(path, out="out", offers=capabilities()), capabilities(), faults.append, redos=redos)
    )
    assert faults == []
    return jobs, redos


def redo(job: Job, ordinal: int = 1, **fields: Any) -> Redo:
    return replace(Redo(number=ordinal, origin=job.key, ordinal=ordinal), **fields)


def pinned(redos: Redos) -> Asked:
    """Return what a run pins."""
    asked: Asked = {}
    for made in redos.jobs:
        fixed = replace(made.redo, seed=made.job.seed, variant=made.job.variant)
        asked[fixed.origin] = (*asked.get(fixed.origin, ()), fixed)
    return asked


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def make(jobs: str) -> Path:
        path = tmp_path / "m.yaml"
        path.write_text(f"version: 1\n{jobs}", encoding="utf-8")
        return path

    return make


def test_a_seed_is_chosen_anew_where_there_is_one(write: Callable[[str], Path]) -> None:
    path = write("jobs:\n  - {id: a, prompt: x, seed: 1}\n  - {id: b, prompt: x}\n")
    a, b = stream(path, {})[0]
    jobs, _ = stream(path, {a.key: (redo(a), redo(a, 2)), b.key: (redo(b, 3),)})
    assert [job.id for job in jobs] == ["a", "b", "a-redo1", "a-redo2", "b-redo3"]
    first, second, third = jobs[2:]
    assert len({1, first.seed, second.seed}) == 3
    assert (first.variant, second.variant) == (1, 1)
    assert (third.seed, third.variant) == (None, 2)
    assert [job.redo_of for job in jobs] == [None, None, a.key, a.key, b.key]
    assert [job.position for job in jobs] == [0, 1, 0, 0, 1]
    assert len({job.key for job in jobs}) == 5
    assert stream(path, {a.key: (redo(a), redo(a, 2)), b.key: (redo(b, 3),)})[0] == jobs


def test_what_is_asked_for_is_taken_as_far_as_the_style_carries_it(
    write: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(9))
    path = write(
        "provider: {params: drop}\njobs:\n  - {id: a, prompt: x}\n  - {id: b, prompt: x, image: a.png, seed: 4}\n"
    )
    a, b = stream(path, {})[0]
    wish: dict[str, Any] = {"seed": 9, "prompt": "a {{ literal }}"}
    jobs, _ = stream(path, {a.key: (redo(a, **wish),), b.key: (redo(b, **wish),)})
    assert [(job.seed, job.variant, job.prompt) for job in jobs[2:]] == [
        (9, 1, "a {{ literal }}"),
        (4, 2, "a {{ literal }}"),
    ]
    # The seed that the job has already, and nothing else changed: that would be the same picture.
    jobs, _ = stream(path, {a.key: (redo(a, seed=9), redo(a, 2, seed=9))})
    assert [(job.seed, job.variant) for job in jobs[2:]] == [(9, 1), (9, 2)]


def test_what_the_ledger_has_is_not_chosen_again(write: Callable[[str], Path]) -> None:
    path = write("jobs:\n  - {id: a, prompt: x}\n")
    (a,) = stream(path, {})[0]
    first = stream(path, {a.key: (redo(a),)})[0][1]
    second = stream(path, {a.key: (redo(a),)}, known={first.key})[0][1]
    assert (first.variant, second.variant) == (2, 3)


def test_redos_of_redos_and_of_what_is_not_there(write: Callable[[str], Path]) -> None:
    path = write("jobs:\n  - {id: a, prompt: x, seed: 1}\n")
    (a,) = stream(path, {})[0]
    first = stream(path, {a.key: (redo(a),)})[0][1]
    asked = {a.key: (redo(a),), first.key: (redo(first, 2, prompt="y"),), "0" * 64: (redo(a, 9),)}
    jobs, redos = stream(path, asked)
    assert [(job.id, job.prompt, job.redo_of) for job in jobs] == [
        ("a", "x", None),
        ("a-redo1", "x", a.key),
        ("a-redo2", "y", first.key),
    ]
    assert stream(path, pinned(redos))[0] == jobs


@pytest.mark.parametrize("template", ["", "output: {file_name: 'f/{{ prompt }}.{{ ext }}'}\n"])
def test_names_make_way(write: Callable[[str], Path], template: str) -> None:
    long = "n" * 128
    path = write(
        f"{template}jobs:\n  - {{id: A, prompt: x, output_format: png}}\n  - {{id: a-REDO1, prompt: x-redo1, "
        f"output_format: png}}\n  - {{id: {long}, prompt: y}}\n"
    )
    listed = stream(path, {})[0]
    jobs, _ = stream(path, {job.key: (redo(job),) for job in listed})
    assert jobs[:3] == listed
    made = jobs[3:]
    if template:
        key = made[0].key[:8]
        assert [job.id for job in made[:2]] == ["A-redo1", "a-REDO1-redo1"]
        assert [job.file_name for job in made] == [
            f"images/f/x-redo1-{key}.png",
            "images/f/x-redo1-redo1.png",
            "images/f/y-redo1.jpg",
        ]
    else:
        assert [job.id for job in made[:2]] == [f"A-redo1-{made[0].key[:8]}", "a-REDO1-redo1"]
        assert all(job.file_name.startswith(f"images/{job.id}.") for job in made)
    assert made[2].id == "n" * 122 + "-redo1"


def test_what_the_manifest_lists_by_now_is_no_redo(write: Callable[[str], Path]) -> None:
    path = write("jobs:\n  - {id: a, prompt: x}\n  - {id: b, prompt: x, variant: 2}\n")
    a, b = stream(path, {})[0]
    jobs, redos = stream(path, {a.key: (redo(a, variant=2),), b.key: (redo(b, 2, prompt="z"),)})
    assert [job.id for job in jobs] == ["a", "b", "b-redo2"]
    assert [made.redo.ordinal for made in redos.jobs] == [2]


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_whatever_is_asked_for_every_job_is_another_picture(data: st.DataObject, write: Callable[[str], Path]) -> None:
    kinds = st.sampled_from(["", ", seed: 1", ", variant: 2", ", variant: 3"])
    seeds = data.draw(st.lists(kinds, min_size=1, max_size=4))
    text = "".join(f"  - {{id: j{n}, prompt: p{n // 2}{seed}}}\n" for n, seed in enumerate(seeds))
    path = write(f"jobs:\n{text}")
    listed = stream(path, {})[0]
    asked: Asked = {}
    known: list[Job] = list(listed)
    taken: set[str] = set()
    for number in range(1, data.draw(st.integers(1, 8)) + 1):
        origin = data.draw(st.sampled_from(known))
        prompt = data.draw(st.none() | st.sampled_from(["p0", "p1", "q"]))
        wish = redo(origin, number, prompt=prompt, seed=data.draw(st.none() | st.just(1)))
        asked[origin.key] = (*asked.get(origin.key, ()), wish)
        jobs, redos = stream(path, asked, taken)
        assert jobs[: len(listed)] == listed
        assert len({job.key for job in jobs}) == len({job.id for job in jobs}) == len({job.file_name for job in jobs})
        assert len(jobs) == len(listed) + sum(map(len, asked.values()))
        if data.draw(st.booleans()):  # a run pins them
            asked = pinned(redos)
            taken = {job.key for job in jobs}
            assert stream(path, asked, taken)[0] == jobs
            known = jobs


def test_who_takes_a_redo_over_can_carry_what_it_became(write: Callable[[str], Path]) -> None:
    path = write(
        "providers: {best: {api: bfl, model: max}, more: {name: bfl, model: other}, "
        "plain: {api: openai, model: gpt-image-1}}\nprovider: best\nfallback: [more, plain]\n"
        "jobs: [{id: a, prompt: x}]\n"
    )
    (a,) = stream(path, {})[0]
    assert [way.provider for way in a.fallbacks] == ["more", "plain"]
    jobs, _ = stream(path, {a.key: (redo(a), redo(a, 2, seed=9))})
    assert [[way.provider for way in job.fallbacks] for job in jobs[1:]] == [["more", "plain"], ["more"]]


def test_a_mask_that_is_dropped_is_neither_sent_nor_missed(write: Callable[[str], Path]) -> None:
    path = write(
        "provider: {name: bfl, params: drop}\njobs: [{id: a, prompt: x, mask: none.png}, {id: b, prompt: y}]\n"
    )
    a, b = stream(path, {})[0]
    assert (a.dropped, a.references, a.fault) == (("mask",), (), None)
    assert stream(write("provider: bfl\njobs: [{prompt: x}, {prompt: y}]\n"), {})[0][0].key == a.key != b.key
    other = Way(provider="o", style="openai", model="m", options=(), dropped=())
    assert [image.source for image in a.with_references(a.references).by(other).references] == ["none.png"]
