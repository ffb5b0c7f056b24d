"""How the rows lie in the page: nothing is lost, and no text breaks out."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.report.page import FIRST, INDEX, SIZE, Block, blocks, script_json

texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ["</script>", "<!--<script>", "]]>", "\u2028", "&lt;", "\\u003c", "\x00"]
)


def unpacked(block: Block) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a block as the page does."""
    index = json.loads(block.head if block.plain else gzip.decompress(base64.b64decode(block.head)))
    return index, json.loads(gzip.decompress(base64.b64decode(block.rest)))


def rows_of(found: list[Block]) -> list[dict[str, Any]]:
    rows = []
    for block in found:
        index, rest = unpacked(block)
        assert index["count"] == rest["count"]
        columns = index["columns"] | rest["columns"]
        rows += [
            {
                name: column["all"][k] if "all" in column else column["of"][column["at"][k] if "at" in column else 0]
                for name, column in columns.items()
            }
            for k in range(index["count"])
        ]
    return rows


def row(number: int, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = dict.fromkeys(INDEX)
    made |= {"id": f"job-{number}", "key": f"{number:064x}", "prompt": f"number {number % 3}", "tags": {"a": "b"}}
    made |= {"references": [], "error": None, "result_url": f"http://x/{number}"}
    return made | changes


@given(st.lists(st.tuples(texts, texts, st.none() | st.integers(), st.dictionaries(texts, texts)), max_size=8))
def test_every_row_comes_back_as_it_was(values: list[tuple[str, str, int | None, dict[str, str]]]) -> None:
    rows = [
        row(k, prompt=prompt, error=error, seed=seed, tags=tags) for k, (prompt, error, seed, tags) in enumerate(values)
    ]
    assert rows_of(list(blocks(rows))) == rows


def test_blocks_grow_after_a_small_first_one_and_only_that_is_plain() -> None:
    rows = [row(number) for number in range(FIRST + SIZE + 5)]
    found = list(blocks(rows))
    assert [unpacked(block)[0]["count"] for block in found] == [FIRST, SIZE, 5]
    assert [block.plain for block in found] == [True, False, False]
    assert rows_of(found) == rows


def test_a_last_block_of_the_first_ones_size_is_packed() -> None:
    found = list(blocks(row(number) for number in range(FIRST + SIZE + FIRST)))
    assert [block.plain for block in found] == [True, False, False]


def test_no_rows_no_blocks() -> None:
    assert list(blocks([])) == []


def test_rows_are_taken_as_they_are_needed() -> None:
    taken = 0

    def stream() -> Any:
        nonlocal taken
        for number in range(10 * SIZE):
            taken += 1
            yield row(number)

    next(blocks(stream()))
    assert taken == FIRST


def test_values_that_repeat_are_kept_once() -> None:
    index, _ = unpacked(next(blocks([row(number) for number in range(100)])))
    assert index["columns"]["prompt"]["of"] == ["number 0", "number 1", "number 2"]
    assert index["columns"]["tags"] == {"of": [{"a": "b"}]}
    assert len(index["columns"]["id"]["all"]) == 100


@settings(max_examples=300)
@given(st.recursive(texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=5))
def test_nothing_in_a_script_element_can_end_it(value: Any) -> None:
    text = script_json(value)
    assert not set("<>&") & set(text)
    assert json.loads(text) == value


def test_half_a_surrogate_pair_does_not_stop_a_report() -> None:
    rows = [row(number, error="half \ud83d") for number in range(FIRST + 1)]
    assert rows_of(list(blocks(rows)))[-1]["error"] == "half ?"
