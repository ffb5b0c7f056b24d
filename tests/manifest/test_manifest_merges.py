"""Merge keys: what YAML 1.1 says of them, as PyYAML's own loader reads them, and bounded like aliases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.errors import Fault, ManifestError
from batchflux.manifest.reading.yaml_nodes import Table, plain_data, read_tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.models import Job

    Jobs = Callable[[str], list[Job]]


def read(text: str) -> Any:
    faults: list[Fault] = []
    made = read_tree(text.encode(), "x.yaml", faults.append)
    assert faults == []
    return plain_data(made)


def test_a_job_takes_another_ones_fields_and_keeps_its_own(jobs: Jobs) -> None:
    text = """\
version: 1
jobs:
  - &mug {prompt: A mug, id: a, seed: 1, aspect_ratio: 16:9, tags: {sku: M}}
  - {<<: *mug, id: b}
  - {id: c, seed: 3, <<: *mug}
  - {<<: [{prompt: A cup}, *mug], id: d}
"""
    made = [
        (job.id, job.prompt, job.seed, job.aspect_ratio, job.tags) for job in jobs(text.replace("b}", "b, variant: 2}"))
    ]
    assert made == [
        ("a", "A mug", 1, "16:9", (("sku", "M"),)),
        ("b", "A mug", 1, "16:9", (("sku", "M"),)),
        ("c", "A mug", 3, "16:9", (("sku", "M"),)),
        ("d", "A cup", 1, "16:9", (("sku", "M"),)),
    ]


def test_a_quoted_merge_key_is_a_key() -> None:
    assert read("a: &a {x: 1}\nb: {'<<': *a}\n") == {"a": {"x": 1}, "b": {"<<": {"x": 1}}}


def test_merging_nothing_changes_nothing() -> None:
    assert read("a: {<<: [], x: 1}\nb: {<<: {}}\n") == {"a": {"x": 1}, "b": {}}


def test_a_merged_mapping_is_merged_on(jobs: Jobs) -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, z: 3}\n"
    assert read(text)["c"] == {"x": 1, "y": 2, "z": 3}


def test_what_is_merged_stands_on_its_own_line() -> None:
    made = read_tree(b"a: &a\n  x: 1\n  y: 1\nb:\n  <<: *a\n  y: 2\n", "x.yaml", lambda _: None)
    assert isinstance(made, Table)
    merged = made.pairs["b"]
    assert isinstance(merged, Table)
    assert merged.lines == {"x": 2, "y": 6}


MAPPINGS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 9), max_size=4)


@settings(deadline=None)
@given(st.lists(MAPPINGS, min_size=1, max_size=4), MAPPINGS, st.booleans(), st.data())
def test_merging_is_what_pyyaml_does(
    sources: list[dict[str, int]],
    own: dict[str, int],
    before: bool,  # noqa: FBT001  hypothesis gives it
    data: st.DataObject,
) -> None:
    shown = [f"s{n}: &s{n} {yaml.safe_dump(source, default_flow_style=True)}" for n, source in enumerate(sources)]
    used = data.draw(st.lists(st.sampled_from(range(len(sources))), min_size=1, max_size=3))
    value = f"*s{used[0]}" if len(used) == 1 else f"[{', '.join(f'*s{n}' for n in used)}]"
    pairs = [f"{key}: {number}" for key, number in own.items()]
    pairs.insert(0 if before else len(pairs), f"<<: {value}")
    text = "".join(shown) + f"m: {{{', '.join(pairs)}}}\n"
    assert read(text) == yaml.safe_load(text)


def nested(levels: int, times: int) -> str:
    names = ((n, ", ".join([f"*a{n - 1}"] * times)) for n in range(1, levels))
    return "\n".join(["a0: &a0 {x: 1, y: 2}", *(f"a{n}: &a{n} {{<<: [{inner}], k{n}: 1}}" for n, inner in names)])


@pytest.mark.timeout(60)  # merged, it would double forty times
def test_nested_merge_keys_end_before_they_grow() -> None:
    with pytest.raises(ManifestError) as caught:
        read_tree(nested(40, 2).encode(), "x.yaml", lambda _: None)
    (fault,) = caught.value.faults
    assert fault.message == "the aliases stand for more than 100000 values; write them out or use a table"
    assert len(read(nested(10, 2))["a9"]) == 11


def test_aliases_cannot_nest_deeper_than_text_may() -> None:
    lines = ["a0: &a0 [1]", *(f"a{n}: &a{n} {'[' * 50}*a{n - 1}{']' * 50}" for n in range(1, 50))]
    with pytest.raises(ManifestError) as caught:
        read_tree("\n".join(lines).encode(), "x.yaml", lambda _: None)
    assert str(caught.value) == "x.yaml:3: nested more than 64 levels deep"
