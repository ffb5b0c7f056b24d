"""What a user may say of an export: conditions, splits, captions, and the names that come of it."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.errors import UsageError
from batchflux.exports.export import Plan, names_of
from batchflux.exports.selection import Caption, Selection, Split, Vocabulary
from batchflux.exports.similar import Look, Looks
from batchflux.ledger.tables import Known
from batchflux.manifest.identity import folded

WORDS = Vocabulary(["sku", "the title"])
ROW: dict[str, Any] = dict.fromkeys(WORDS.types) | {
    "id": "mug-1",
    "prompt": "a mug on marble",
    "width": 1024,
    "cost": 0.02,
    "tags.sku": "00123",
    "tags.the title": "Mug >= cup",
    "review": "accept",
}


def takes(*where: str, only: str | None = None, accepted: bool = False) -> bool:
    return Selection(WORDS, only, where, accepted=accepted).takes(ROW)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("width>=1024", True),
        ("width > 1024", False),
        ("width=1024.0", True),
        ("width!=1024", False),
        ("seed=", True),  # empty
        ("seed!=", False),
        ("seed!=7", True),
        ("seed<7", False),
        ("cost<=0.02", True),
        ("tags.sku=00123", True),
        ("tags.sku=123", False),
        ("tags.sku == '00123'", True),
        ("tags.the title=Mug >= cup", True),
        ("prompt~marble", True),
        ("prompt!~marble", False),
        ("prompt=", False),
        ("width~02", True),
        ("review=accept", True),
        ("note=", True),
    ],
)
def test_a_condition_holds_or_not(text: str, holds: bool) -> None:  # noqa: FBT001  what a case says
    assert takes(text) is holds


def test_all_that_is_said_has_to_hold() -> None:
    assert takes("width>1", "prompt~mug", only="mug-*", accepted=True)
    assert not takes("width>1", "prompt~cup", only="mug-*")
    assert not takes(only="cup-*")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("widht>3", 'there is no column "widht"; there are id, prompt'),
        ("width>wide", 'width holds numbers; found "wide"'),
        ("width", r"allowed is COLUMN, one of .*, VALUE: width>=1024"),
        ("", "allowed is COLUMN"),
    ],
)
def test_a_condition_that_is_none_is_said(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=rf"--where: .*{says}"):
        takes(text)


@pytest.mark.parametrize("text", ["train", "train=0.9", "train=0.9,train=0.1", "a=0,b=1", "../x=1", "a=1..0", "a=."])
def test_shares_that_are_none_are_said(text: str) -> None:
    with pytest.raises(UsageError, match="--split: "):
        Split.of(text, "prompt")


@given(st.lists(st.tuples(st.text(), st.integers()), min_size=1), st.floats(0.01, 0.99))
def test_what_is_the_same_is_never_in_two_splits(jobs: list[tuple[str, int]], share: float) -> None:
    split = Split.of(f"train={share},test={1 - share!r}", "prompt")
    found: dict[str, set[str]] = {}
    for prompt, _seed in jobs:
        found.setdefault(prompt, set()).add(split.of_value(prompt))
    assert all(len(splits) == 1 for splits in found.values())


def test_the_shares_are_met_and_a_picture_stays_in_its_split() -> None:
    split = Split.of("train=80%,test=15%,validation=5%", "prompt")
    said = [split.of_value(f"a mug, {number}") for number in range(20_000)]
    assert [round(said.count(name) / len(said), 2) for name in split.names] == pytest.approx(
        [0.8, 0.15, 0.05], abs=0.01
    )
    assert said[:3] == ["train", "train", "train"]  # by the text alone, in every version


def test_a_caption_sees_columns_and_tags() -> None:
    caption = Caption('{{ tags.sku }}: {{ prompt }} {{ tags["the title"] }} {{ row["tags.sku"] }}{{ seed }}', WORDS)
    assert caption.of(ROW) == "00123: a mug on marble Mug >= cup 00123"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ title }}", 'there is no "title"; there are '),
        ("{{ prompt", "is not valid"),
        ("{{ prompt.__class__ }}", "for the job mug-1"),
        ("{{ tags.size }}", r'for the job mug-1; the tags are sku, row\["the title"\]'),
        ("{% set x = 1 %}", "not allowed"),
    ],
)
def test_a_caption_that_cannot_be_is_said(template: str, says: str) -> None:
    with pytest.raises(UsageError, match=rf"--caption: .*{says}"):
        Caption(template, WORDS).of(ROW)


def known(number: int, file_name: str) -> Known:
    fields: dict[str, Any] = dict.fromkeys(Known._fields)
    return Known(**(fields | {"number": number, "key": number.to_bytes(32, "little"), "file_name": file_name}))


PARTS = st.text(st.sampled_from("aA_-é杯.xß"), min_size=1, max_size=6)
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join) | st.text(st.sampled_from("aA_/"), min_size=1, max_size=9)


@given(st.lists(st.tuples(NAMES, st.sampled_from([".jpg", ".png"])), max_size=20))
def test_no_two_pictures_have_one_name(names: list[tuple[str, str]]) -> None:
    with closing(Plan()) as plan:
        for number, (name, suffix) in enumerate(names):
            plan.add(known(number, f"images/{name}{suffix}"), "train", suffix, 0)
        made = [name for *_, name, _ in plan.rows()]
    assert len(made) == len(names) == len({folded(name) for name in made})
    assert not any("/" in name for name in made)


def test_names_are_flattened_and_cut() -> None:
    assert next(iter(names_of("images/CUP-104/marble.jpg", "k" * 64))) == "CUP-104__marble"
    assert next(iter(names_of("images/mug.red.v1.png", "k" * 64))) == "mug.red.v1"
    longest = ["杯" * 100 + "/" + "x" * 200]
    assert all(len(name.encode()) <= 205 for name in names_of(f"images/{longest[0]}.png", "k" * 64))


LOOKS = st.builds(Look, st.integers(0, 2**64 - 1), st.binary(min_size=48, max_size=48))


@given(LOOKS, st.sets(st.integers(0, 63), max_size=4), st.lists(st.integers(-13, 13), min_size=48, max_size=48))
def test_what_is_near_is_found_and_nothing_else(look: Look, bits: set[int], shades: list[int]) -> None:
    """As a comparison with each of them would find it."""
    colours = bytes(max(0, min(255, one + shade)) for one, shade in zip(look.colours, shades, strict=True))
    other = Look(look.bits ^ sum(1 << bit for bit in bits), colours)
    with closing(Looks()) as looks:
        looks.add("first", look)
        assert looks.first_like(other) == ("first" if other.is_near(look) else None)
        assert looks.first_like(look) == "first"
