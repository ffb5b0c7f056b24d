"""YAML that says something else than was meant: the remedy is named, not what the parser ran into."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Faulty = Callable[[str | bytes], list[str]]

WHOLE = "must stand in quotes as a whole, as prompt: "
COMMENT = "what stands behind the # is a comment and not part of the text; put the text in quotes, as "


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a cup on white #FFFFFF, soft", COMMENT + 'prompt: "a cup on white #FFFFFF, soft"'),
        ("a cup # red", COMMENT + 'prompt: "a cup # red"'),
        ("#FFFFFF cup", COMMENT + 'prompt: "#FFFFFF cup"'),
        ("Style: noir", 'a text with a colon and a blank in it must stand in quotes, as prompt: "Style: noir"'),
        ('"SALE" sign on a wall', f"a text that begins with a quote {WHOLE}'\"SALE\" sign on a wall'"),
        ("'it's a cup'", f"a text that begins with a quote {WHOLE}\"'it's a cup'\""),
        ('"a cup', 'the quote in front of "a cup" is not closed'),
        ("*bold* cup", f'a text that begins with * {WHOLE}"*bold* cup"'),
        ("*bold cup", "a text that begins with * must stand in quotes"),
        ("@home cup", f'a text that begins with @ {WHOLE}"@home cup"'),
        ("`x` cup", f'a text that begins with ` {WHOLE}"`x` cup"'),
        ("%5 cup", f'a text that begins with % {WHOLE}"%5 cup"'),
        ("&co cup", f'a text that begins with & {WHOLE}"&co cup"'),
        ("! cup", f'a text that begins with ! {WHOLE}"! cup"'),
        ("!wow cup", "leave it out, or put the text in quotes"),
        ("> 50 cups", f'a text that begins with > {WHOLE}"> 50 cups"'),
        ("[red] cup", f'a text that begins with [ {WHOLE}"[red] cup"'),
        ("- a cup", f'a text that begins with - {WHOLE}"- a cup"'),
        ("? a cup", f'a text that begins with ? {WHOLE}"? a cup"'),
    ],
)  # fmt: skip
def test_a_prompt_that_needs_quotes(prompt: str, said: str, faults: Faulty) -> None:
    found = faults(f"version: 1\njobs:\n  - prompt: {prompt}\n    seed: 1\n")
    assert said in found[0]
    assert found[0].startswith("m.yaml:")
    assert "not valid YAML" not in found[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jobs:\n\u00a0\u00a0- prompt: x\n", "m.yaml:3: the character U+00A0, which looks like a blank, stands"),
        ("jobs:\n  - prompt: x\n\u3000\u3000seed: 1\n", "m.yaml:4: the character U+3000, which looks like"),
        ("jobs:\n  -\u00a0prompt: x\n", "m.yaml:3: the character U+00A0"),
        ("jobs:\n\t- prompt: x\n", "m.yaml:3: a tab stands in the indentation; YAML allows spaces only"),
        ("jobs:\n  - prompt:a cup\n    seed: 1\n", "m.yaml:4: a blank is missing behind the colon; write prompt: and"),
        ("jobs:\n  - prompt: x\n   seed: 1\n", "m.yaml:4: the line begins in another column than the keys that it be"),
        ("jobs: [{prompt: a, images: [b.jpg}]\n", "m.yaml:2: a [ or { is not closed here, or a text between them"),
        ("jobs:\n  - prompt: x\n    matrix: {s: [white #FFF, oak]}\n", f'matrix.s[0]: {COMMENT}"white #FFF'),
        ("jobs:\n  - prompt: x\n    matrix:\n      s:\n        - a: b\n", 'quotes, as "a: b"'),
        ('jobs: [{prompt: x, images: ["photos\\mug.jpg"]}]\n', "write single quotes, or / in a path"),
        ('jobs: [{prompt: x, images: ["C:\\Users\\mug.jpg"]}]\n', "write single quotes, or / in a path"),
        ("jobs:\n  - prompt: {{ title }} cup\n", "Put quotes around a template"),
    ],
)  # fmt: skip
def test_a_line_that_is_not_what_it_looks_like(text: str, said: str, faults: Faulty) -> None:
    assert said in faults(f"version: 1\n{text}")[0]


def test_comments_and_anchors_that_are_meant_stay(faults: Faulty) -> None:
    text = """\
version: 1  # the format
x-light: &light soft light  # kept
jobs:       # all
  - prompt: "a cup"  # in quotes
    seed: 42 #answer
    tags: {light: *light, n: 1}  # of both
  - prompt: &p a bowl
    tags:
      again: *p
  - prompt: >-
      a vase on #FFFFFF
    matrix:
      s: [a, b]  # two
"""
    assert faults(text.replace("tags: {light: *light, n: 1}", "tags: {light: *light}")) == []
