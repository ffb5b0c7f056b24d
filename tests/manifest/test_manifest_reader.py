"""The reader under wild input: a Manifest or a ManifestError, never anything else; and values come back whole."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.errors import Fault, ManifestError
from batchflux.manifest import Manifest, expand, load_manifest, starter
from batchflux.manifest.reading import yaml_nodes
from batchflux.manifest.reading.yaml_nodes import plain_data, read_tree

if TYPE_CHECKING:
    from pathlib import Path

    from batchflux.capabilities import Capabilities

RELAXED = settings(deadline=None, max_examples=75)
WORDS = st.sampled_from(
    [
        *"{}[]:,-?&*!|>'\"%@`#\n\t \\~\x85\ufeffé\u2028",
        *["version: 1\n", "jobs:\n", "  - prompt: x\n", "    matrix:\n", "      seed: [1, 2]\n", "provider: ", "---\n"],
        *["limits: {rate: 1/s}\n", "    from: products.csv\n", "range: [1, 9]", "&a ", "*a", "<<: ", "!!str ", "${A}"],
        *["{{ x }}", "{%", "%}", "1:1", "\r\n", "0x10", "1e999"],
    ]
)


def outcome(data: bytes, path: Path, offers: tuple[Capabilities, ...]) -> Manifest | ManifestError:
    path.write_bytes(data)
    try:
        made = load_manifest(path, environ={})
    except ManifestError as caught:
        error = caught
    else:
        for count, _ in enumerate(expand(made, offers, lambda _: None)):
            if count > 50:
                break
        return made
    assert error.faults
    assert all("\n" not in str(fault) for fault in error.faults)
    return error


@RELAXED
@given(st.lists(WORDS, max_size=30).map("".join))
def test_pieces_of_yaml(folder: Path, offers: tuple[Capabilities, ...], text: str) -> None:
    outcome(text.encode("utf-8", "surrogatepass"), folder / "wild.yaml", offers)


@RELAXED
@given(st.binary(max_size=200))
def test_any_bytes(folder: Path, offers: tuple[Capabilities, ...], data: bytes) -> None:
    outcome(data, folder / "wild.yaml", offers)
    outcome(b"version: 1\njobs:\n  - prompt: " + data, folder / "wild.yaml", offers)


@RELAXED
@given(st.integers(0, 2**32))
def test_a_manifest_with_a_few_bytes_changed(folder: Path, offers: tuple[Capabilities, ...], seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(starter().encode())
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(data))
        data[at : at + chance.randint(0, 3)] = chance.choice([b"", b"[", b"{", b": ", b"\n", b"'", b"\xff", b"- "])
    outcome(bytes(data), folder / "wild.yaml", offers)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(
        st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="\ufeff\ufffe\uffff")
    ).filter(
        lambda text: (
            not re.fullmatch(r"[-+]?[0-9]+[eE][-+]?[0-9]+", text)
        )  # a number in YAML 1.2, which PyYAML takes for text
    ),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc_<", min_size=1, max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


def no_merge(value: Any) -> bool:
    if isinstance(value, dict):
        return "<<" not in value and all(map(no_merge, value.values()))
    return all(map(no_merge, value)) if isinstance(value, list) else True


@settings(deadline=None)
@given(JSON.filter(no_merge), st.booleans())
def test_values_come_back_as_they_were_written(value: Any, flow: bool) -> None:  # noqa: FBT001  hypothesis gives it
    text = yaml.safe_dump({"a": value}, default_flow_style=flow, allow_unicode=True)
    faults: list[Fault] = []
    assert plain_data(read_tree(text.encode(), "x.yaml", faults.append)) == {"a": value}
    assert faults == []


def test_the_parser_in_python_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = starter().encode() + b"x: &a [1, 'b', *c]\n".replace(b", *c", b"")
    fast = plain_data(read_tree(text, "x.yaml", lambda _: None))
    monkeypatch.setattr(yaml_nodes, "_LOADER", yaml.SafeLoader)
    assert plain_data(read_tree(text, "x.yaml", lambda _: None)) == fast
    for bad in [b"a: [" + b"[" * 5000, b"a: b: c\n", b"a: *b\n", b"a: 'x\n", b"\ta: b\n", b"a: !x 1\n"]:
        with pytest.raises(ManifestError):
            read_tree(bad, "x.yaml", lambda _: None)


def bomb(levels: int, merge: bool) -> bytes:  # noqa: FBT001  which of two bombs
    lines = ["version: 1", "a0: &a0 {x: 1, y: 2}"]
    for level in range(1, levels):
        inner = f"*a{level - 1}"
        value = f"{{<<: [{', '.join([inner] * 10)}]}}" if merge else f"[{', '.join([inner] * 10)}]"
        lines.append(f"a{level}: &a{level} {value}")
    return "\n".join(lines).encode()


@pytest.mark.timeout(60)  # expanded, it would take longer than the universe has been there
@pytest.mark.parametrize("merge", [False, True])
def test_bombs_end_before_they_grow(merge: bool) -> None:  # noqa: FBT001  which of two bombs
    with pytest.raises(ManifestError) as caught:
        read_tree(bomb(40, merge), "x.yaml", lambda _: None)
    assert len(caught.value.faults) == 1
