"""What is written as YAML reads back as the same, and what is no template stays none."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.exports.redo_manifest import literal, plain_scalar, quoted_scalar, table, yaml_text
from batchflux.manifest.job_fields import READERS
from batchflux.manifest.reading.values import is_template
from batchflux.manifest.reading.yaml_nodes import Items, Node, Scalar, Table, read_tree
from batchflux.manifest.templates import compile_template

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
WILD = TEXT | st.sampled_from(
    ["null", "", " a ", "16:9", "- x", "a: b", "#", "{{ x }}", "{%", "{#", "\r\n", "\x85", "\u2028"]
)
NODES = st.recursive(
    st.builds(quoted_scalar, WILD),
    lambda inner: (
        st.builds(lambda items: Items(0, items), st.lists(inner, max_size=3))
        | st.builds(lambda pairs: Table(0, pairs), st.dictionaries(WILD, inner, max_size=3))
    ),
    max_leaves=8,
)


def plain(node: Node) -> Any:
    """Return what a node says, without lines."""
    if isinstance(node, Scalar):
        return node.text, node.is_null
    if isinstance(node, Items):
        return [plain(item) for item in node.items]
    return {key: plain(child) for key, child in node.pairs.items()}


def read(text: str) -> Node:
    return read_tree(text.encode(), "m.yaml", lambda _: None)


@settings(max_examples=50, deadline=None)
@given(root=st.dictionaries(WILD, NODES, min_size=1, max_size=4))
def test_everything_reads_back(root: dict[str, Node]) -> None:
    written = Table(0, root)
    assert plain(read(yaml_text(written))) == plain(written)


@settings(max_examples=50, deadline=None)
@given(text=WILD | st.lists(st.sampled_from(["{", "}", "%", "#", "a", " ", "'", '"', "\n"]), max_size=12).map("".join))
def test_no_text_is_a_template(text: str) -> None:
    node = literal(text)
    if is_template(node.text):
        assert compile_template(node.text).render({}) == text.replace("\r\n", "\n").replace("\r", "\n")
    else:
        assert node.text == text


def test_what_was_written_plain_stays_plain() -> None:
    source = "a: 16:9\nb:\n  - 300/min\n  - 0.140\n  - ${NAME}\n  - no\n  - ~\nc: {d: 'x', e: }\nf: one\n  two\n"
    text = yaml_text(read(source))  # type: ignore[arg-type]  # a mapping
    assert text == 'a: 16:9\nb:\n  - 300/min\n  - 0.140\n  - ${NAME}\n  - no\n  - ~\nc:\n  d: "x"\n  e:\nf: one two\n'
    assert plain(read(text)) == plain(read(source))


def test_values_are_those_of_a_manifest() -> None:
    text = yaml_text(table(seed=plain_scalar(-7), upsampling=plain_scalar(True), left=None, price=plain_scalar(0.5)))
    assert text == "seed: -7\nupsampling: true\nprice: 0.5\n"
    node = read(text)
    assert isinstance(node, Table)
    assert READERS["seed"](getattr(node.pairs["seed"], "text", "")) == -7
