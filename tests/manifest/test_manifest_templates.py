"""Templates: the fast path is Jinja's to the letter, and no template can do or cost more than it should."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchflux.manifest.templates import ImagePath, UndefinedError, compile_template
from batchflux.tables.cells import Written

PIECES = st.sampled_from(
    [
        *["{{ a }}", "{{b}}", "{{  a  }}", "{{ a}}", "{{\ta }}", "{{ c }}", "{{- a }}", "{{ a.b }}", "{{ a.upper() }}"],
        *["{{ True }}", "{{ none }}", "{{ _ }}", "{{ self }}", "{{ loop }}", "{{ not }}", "# x", "## y"],
        *["{", "}", "{{", "}}", "{%", "{#", "#}", "%", "%s", "%%", "\n", "\r\n", " ", "x", "é"],
    ]
)
VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from([Written("1.50"), ImagePath("a/b")])
)


def rendered(text: str, variables: dict[str, Any], *, plain: bool, file_name: bool) -> str:
    try:
        return compile_template(text if plain else "{##}" + text, file_name=file_name).render(variables)
    except ValueError:  # which of two faults comes first may differ
        return "refused"


@settings(max_examples=100, deadline=None)
@given(st.lists(PIECES, max_size=6).map("".join), VALUES, VALUES, st.booleans())
@example("{{{ a }}", "x", "y", False)
@example("{{ a }}}", "x", "y", False)
@example("100% {{ a }}", "x", "y", False)
def test_the_fast_path_is_jinja(text: str, a: Any, b: Any, file_name: bool) -> None:  # noqa: FBT001  hypothesis gives it
    variables = {"a": a, "b": b}
    fast = rendered(text, variables, plain=True, file_name=file_name)
    assert fast == rendered(text, variables, plain=False, file_name=file_name)


@pytest.mark.parametrize("plain", [True, False])
def test_an_unknown_variable_is_named(plain: bool) -> None:  # noqa: FBT001  with Jinja, or without
    with pytest.raises(UndefinedError) as caught:
        compile_template("{{ a }}{{ titel }}" if plain else "{##}{{ a }}{{ titel }}").render({"a": 1})
    assert caught.value.name == "titel"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ a | upper }}-{{ b | default('x') }}", "A/B-1"),
        ("{% if b == 1 %}one{% else %}more{% endif %}", "one"),
        ("{% for x in l %}{{ loop.index }}{{ x }},{% endfor %}", "1p,2q,"),
        ("{{ l | join('+') }} {{ l | length }} {{ l[0] }}", "p+q 2 p"),
        ("{{ '%03d' | format(b) }} {{ '%02d' % b }} {{ b + 1 }}", "001 01 2"),
        ("{{ a | replace('/', '_') }} {{ a.split('/')[1] }}", "a_b b"),
        ("{{ n }}{{ t }}{{ w }} {{ w * 2 }}", "true1.50 3.0"),
        ("{{ d.k }} {{ d['k'] }} {{ d.items() | list | length }}", "v v 1"),
        ("{{ missing | default('x') }}{{ 'y' if missing is defined }}", "x"),
        ("{{ e.items }} {{ e.keys() | length }} {{ l | string }}", "pens 1 ['p', 'q']"),
    ],
)
def test_what_templates_can_do(text: str, expected: str) -> None:
    variables = {"a": "a/b", "b": 1, "l": ["p", "q"], "n": None, "t": True, "w": Written("1.50"), "d": {"k": "v"}}
    variables["e"] = {"items": "pens"}
    assert compile_template(text).render(variables) == expected


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "{{ a.__class__ }}", "{{ a.__class__.__mro__ }}", "{{ ''.__class__ }}", "{{ a.format(a) }}", "{{ a.encode() }}",
        "{{ a | attr('__class__') }}", "{{ range(9) }}", "{{ lipsum() }}", "{{ cycler() }}", "{{ namespace() }}",
        "{% set x = a %}", "{% macro m() %}{% endmacro %}", "{% include 'x' %}", "{% import 'x' as y %}",
        "{% extends 'x' %}", "{% block b %}{% endblock %}", "{% with x = 1 %}{% endwith %}",
        "{% for x in a %}{% for y in a %}{% endfor %}{% endfor %}", "{% for x in a recursive %}{% endfor %}",
        "{{ 'x' * 1000000000 }}", "{{ a * 1000000000 }}", "{{ [1] * 1000000000 }}", "{{ 9 ** (9 ** 9) }}",
        "{{ 2 ** 1000000000 }}", "{{ '%1000000000d' % 1 }}", "{{ '%*d' | format(1000000000, 1) }}",
        "{{ a | center(1000000000) }}", "{{ a.ljust(1000000000) }}", "{{ a.zfill(1000000000) }}",
        "{{ big | replace('x', big) }}", "{{ [big, big, big] | join }}", "{{ big ~ big ~ big }}",
        "{% for x in big %}{{ x }}{{ x }}{{ x }}{% endfor %}", "{{ a | tojson }}", "{{ a | random }}",
        "{{ l.append(1) }}", "{{ d.pop('k') }}", "{{ d.update({}) }}", "{{ a[99] }}", "{{ a.x }}", "{{ a + 1 }}",
        "{{ 1 / 0 }}", "{{ " + "(" * 500 + "a" + ")" * 500 + " }}",
        "{{ " + "[" * 500 + "a" + "]" * 500 + " }}", "{{ " + "-" * 5000 + "1 }}", "{{ a(1) }}", "{{ 1 and }}",
        "{% endif %}", "{{ a is callable }}", "{{ a is filter }}", "{{ l | select('callable') | list }}",
        "{{ l | map('string') | list }}", "{{ l | groupby(0) }}", "{{ " + "a ~ " * 65 + "a }}", "{{ a | e }}",
        "{{ a.upper }}", "{{ a.upper | lower }}", "{{ a.upper ~ 1 }}", "{{ d.items }}", "{{ self }}", "{{ d }}",
        "x{{ l }}", "{{ l | select }}", "{{ a, a }}", "{{ d.items() }}",
        "{% filter upper %}x{% endfilter %}", "{{ [big ~ big, big ~ big] | join }}",
    ],
)  # fmt: skip
def test_what_templates_cannot_do(text: str) -> None:
    variables = {"a": "abc", "big": "x" * 500_000, "l": [1], "d": {"k": 1}}
    with pytest.raises(ValueError, match=r"."):
        compile_template(text).render(variables)
    assert variables["l"] == [1]
    assert variables["d"] == {"k": 1}


@settings(max_examples=80, deadline=None)
@given(st.text("{}%#| abcd.()[]'\"+-*/~=<>,:0123\n", max_size=40))
def test_any_text_renders_or_says_why(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(compile_template(text).render({"a": "x", "b": 2, "c": [1], "d": {"a": 1}}), str)
