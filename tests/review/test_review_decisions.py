"""The body of a verdict: whatever comes is a decision within its bounds, or refused in one sentence."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.ledger.decisions import Decision
from batchflux.ledger.reviews import Again
from batchflux.review.decisions import MAX_BODY, MAX_KEYS, MAX_NOTE, MAX_PROMPT, BadBodyError, parse_decision

KEY = "ab" * 32
GOOD: dict[str, Any] = {"keys": [KEY], "review": "accept"}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([KEY, "redo", "accept", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "keys": st.just([KEY]) | st.lists(st.sampled_from([KEY, "cd" * 32]) | VALUES, max_size=4) | VALUES,
        "review": st.sampled_from(["accept", "reject", "redo", ""]) | VALUES,
        "note": st.text() | VALUES,
        "redo": st.fixed_dictionaries({}, optional={"prompt": st.text() | VALUES, "seed": st.integers() | VALUES})
        | VALUES,
        "more": VALUES,
    },
)


def parse(value: Any) -> Decision:
    return parse_decision(json.dumps(value).encode())


def check(data: bytes) -> None:
    try:
        decision = parse_decision(data)
    except BadBodyError as error:
        text = str(error)
        assert text.endswith(".")
        assert "\n" not in text
        text.encode()
        return
    assert 0 < len(decision.keys) <= MAX_KEYS
    assert all(len(key) == 32 for key in decision.keys)
    assert len(set(decision.keys)) == len(decision.keys)
    assert decision.review in {"", "accept", "reject", "redo"}
    assert decision.note is None or len(decision.note.encode()) <= 4 * MAX_NOTE
    if decision.again is not None:
        assert decision.review == "redo"
        assert decision.again.prompt is None or decision.again.prompt.strip()
        assert decision.again.seed is None or abs(decision.again.seed) <= 2**63


@given(data=st.binary())
def test_any_bytes(data: bytes) -> None:
    check(data)


@settings(max_examples=200)
@given(value=NEARLY | VALUES)
def test_nearly_a_verdict(value: Any) -> None:
    check(json.dumps(value).encode())
    check(json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass"))


def test_what_a_verdict_means() -> None:
    assert parse(GOOD) == Decision(keys=(bytes.fromhex(KEY),), review="accept")
    whole = {
        "keys": [KEY, "cd" * 32, KEY],
        "review": "redo",
        "note": "zu dunkel\n\tbitte",
        "redo": {"prompt": " a mug ", "seed": -(2**63)},
    }
    assert parse(whole) == Decision(
        keys=(bytes.fromhex(KEY), bytes.fromhex("cd" * 32)),
        review="redo",
        note="zu dunkel\n\tbitte",
        again=Again(prompt=" a mug ", seed=-(2**63)),
    )
    assert parse(GOOD | {"review": "", "note": "", "redo": None}).note == ""
    assert parse(GOOD | {"review": "redo", "redo": {}}).again == Again()
    assert parse(GOOD | {"review": "redo"}).again is None
    again = Again(find="oak", replace="marble")
    assert parse(GOOD | {"review": "redo", "redo": {"find": "oak", "replace": "marble"}}).again == again
    picked = parse(GOOD | {"siblings": ["cd" * 32], "reviewer": " Ann\t"})
    assert (picked.siblings, picked.reviewer) == ((bytes.fromhex("cd" * 32),), "Ann")


def test_as_many_keys_as_are_allowed_are_within_the_bound_of_the_body() -> None:
    keys = [f"{number:064x}" for number in range(MAX_KEYS)]
    data = json.dumps({"keys": keys, "review": "redo", "note": "x" * MAX_NOTE, "redo": {"prompt": "y" * MAX_PROMPT}})
    assert len(data) <= MAX_BODY
    assert len(parse_decision(data.encode()).keys) == MAX_KEYS == 100_000


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "JSON object"),
        ({}, '"review"'),
        (GOOD | {"review": "maybe"}, '"review"'),
        (GOOD | {"review": None}, '"review"'),
        (GOOD | {"review": ["accept"]}, '"review"'),
        (GOOD | {"keys": []}, '"keys"'),
        (GOOD | {"keys": KEY}, '"keys"'),
        (GOOD | {"keys": [KEY] * (MAX_KEYS + 1)}, '"keys"'),
        (GOOD | {"keys": [KEY.upper()]}, "64 hex digits"),
        (GOOD | {"keys": [KEY + "\n"]}, "64 hex digits"),
        (GOOD | {"keys": ["٣" * 64]}, "64 hex digits"),
        (GOOD | {"keys": [1]}, "64 hex digits"),
        (GOOD | {"note": 1}, '"note" must be text'),
        (GOOD | {"note": "x" * (MAX_NOTE + 1)}, "at most"),
        (GOOD | {"note": "a\0b"}, "U+0000"),
        (GOOD | {"note": "\ud800"}, "U+D800"),
        (GOOD | {"redo": {}}, "review redo only"),
        (GOOD | {"other": 1}, "nothing else"),
        (GOOD | {"review": "redo", "redo": []}, "redo must be a JSON object"),
        (GOOD | {"review": "redo", "redo": {"style": "chat"}}, "prompt, seed"),
        (GOOD | {"review": "redo", "redo": {"prompt": " \n"}}, "blank"),
        (GOOD | {"review": "redo", "redo": {"prompt": "\x1b[31m"}}, "U+001B"),
        (GOOD | {"review": "redo", "redo": {"seed": 1.0}}, '"seed"'),
        (GOOD | {"review": "redo", "redo": {"replace": "oak"}}, '"find"'),
        (GOOD | {"review": "redo", "redo": {"find": "oak", "prompt": "a mug"}}, '"find"'),
        (GOOD | {"siblings": [KEY]}, "both"),
        (GOOD | {"siblings": ["x"]}, "64 hex digits"),
        (GOOD | {"review": "reject", "siblings": ["cd" * 32]}, "accept only"),
        (GOOD | {"reviewer": "x" * 101}, "at most"),
        (GOOD | {"review": "redo", "redo": {"seed": True}}, '"seed"'),
        (GOOD | {"review": "redo", "redo": {"seed": "7"}}, '"seed"'),
        (GOOD | {"review": "redo", "redo": {"seed": 2**63}}, '"seed"'),
    ],
)
def test_what_is_refused(value: Any, says: str) -> None:
    with pytest.raises(BadBodyError, match=re.escape(says)):
        parse(value)


@pytest.mark.parametrize("data", [b"\xff", b"[" * 200_000, b'{"a":' * 100_000, b"1" * 6000, "{}".encode("utf-16")])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(BadBodyError):
        parse_decision(data)
