"""Prompts, models, marks and file names as attackers write them: none is a template, a header, a log line or a path."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import logging

import pytest
from aiohttp import FormData
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway.hostile.conftest import CHAT, EDITS, IMAGES, House, picture

pytestmark = pytest.mark.slow

TEMPLATES = [
    "{{ 7 * 7 }}",
    "{% for x in range(3) %}x{% endfor %}",
    "{# gone #} a fox",
    "{{ config.__class__.__mro__ }}",
    "${HOME} ${TEST_KEY}",
    "{{ '/etc/passwd' | read }}",
    "%(home)s {0} {prompt}",
    "$(id) `id` ; rm -rf / #",
]
WILD = [
    "a\r\nSet-Cookie: x=1\r\n\r\n<script>alert(1)</script>",
    "a\nx-batchflux-cost: 0\n",
    "../../etc/passwd",
    "..\\..\\x",
    "CON",
    "\u202egnp.exe",
    "=cmd|'/c calc'!A0",
    "a" * 9000,
    "\x1b[31mred\x1b[0m",
    "\u6c49\u5b57 \U0001f98a \u2028\u2029",
]


async def test_a_prompt_is_never_a_template(house: House) -> None:
    async with house.caller() as caller:
        for prompt in TEMPLATES:
            for path, body in (
                (IMAGES, {"prompt": prompt}),
                (EDITS, {"prompt": prompt, "image": "https://example.com/a.png"}),
                (CHAT, {"messages": [{"role": "user", "content": prompt}]}),
                (IMAGES, {"prompt": "a", "negative_prompt": prompt}),
                (IMAGES, {"prompt": "a", "model": prompt}),
            ):
                status, said, _ = await caller.ask(path, body)
                assert status in {200, 400, 404}, said
    sent = {str(seen.body["prompt"]).removeprefix("https://example.com/a.png ") for seen in house.bank.seen}
    assert {*TEMPLATES} <= sent <= {*TEMPLATES, "a"}


async def test_words_stand_in_no_header_no_log_and_no_path(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with house.caller() as caller:
        for number, words in enumerate(WILD):
            form = FormData()
            form.add_field("prompt", f"job f{number}")
            form.add_field("image", picture(), filename=words.replace("\r", " ").replace("\n", " ").replace("\x1b", ""))
            for path, sent in (
                (IMAGES, {"body": {"prompt": words}}),
                (IMAGES, {"body": {"prompt": "a", "model": words}}),
                (IMAGES, {"body": {"prompt": "a", "size": words}}),
                (IMAGES, {"body": {"prompt": "a", "user": words}}),
                (IMAGES, {"body": {"prompt": "a", words: words}}),
                (CHAT, {"body": {"messages": [{"role": "user", "content": words}], "stream": True}}),
                (EDITS, {"data": form}),
            ):
                status, said, headers = await caller.ask(path, sent.get("body"), **({} if "body" in sent else sent))
                assert status in {200, 400, 404}, said
                assert "Set-Cookie" not in headers
                assert all(value.isascii() and value.isprintable() for value in headers.values())
                assert "x-batchflux-cost: 0\n" not in str(headers)
    assert "Set-Cookie" not in caplog.text
    files = {path for path in house.base.rglob("*") if path.is_file()}
    assert all(path.is_relative_to(house.out) for path in files if path.name != "m.yaml")
    assert not {path.name for path in files} & {"passwd", "x", "CON", "CON.png"}
    text = (house.out / "results.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert not [row for row in rows if row["prompt"].startswith(("=", "@", "+"))]
    log = [json.loads(line) for line in (house.out / "run.log").read_text(encoding="utf-8").splitlines()]
    assert log


MARKS = ["a" * 256, "", "a\tb", "é", "\u202e", "'; DROP TABLE calls; --", "../x", "%00"]


async def test_marks_are_bounded_and_only_compared(house: House) -> None:
    async with house.caller() as caller:
        for number, mark in enumerate(MARKS):
            status, said, _ = await caller.ask(IMAGES, {"prompt": f"job {number}"}, headers={"Idempotency-Key": mark})
            assert status in {200, 400}, said
            if status == 200:
                again = await caller.ask(IMAGES, {"prompt": f"job {number}"}, headers={"Idempotency-Key": mark})
                assert again[2]["x-batchflux-joined"] == "true"
        assert (await caller.ask(IMAGES, {"prompt": "job z"}, headers={"x-stainless-retry-count": "1e9 OR 1=1"}))[
            0
        ] == 200
    assert house.bank.billed.total() == len(house.bank.billed)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    [
        "prompt",
        "model",
        "n",
        "size",
        "image",
        "mask",
        "messages",
        "stream",
        "seed",
        "quality",
        "response_format",
        "user",
    ]
)


@settings(max_examples=40)
@given(st.lists(st.dictionaries(NAMES, VALUES, max_size=6), min_size=20, max_size=20))
def test_no_body_ends_it_or_is_answered_5xx(house: House, bodies: list[dict[str, object]]) -> None:
    async def go() -> None:
        async with house.caller() as caller:
            for body in bodies:
                for path in (IMAGES, EDITS, CHAT):
                    status, said, _ = await caller.ask(
                        path, data=io.BytesIO(json.dumps(body).encode()), headers={"Content-Type": "application/json"}
                    )
                    assert status in {200, 400, 404}, said
            assert (await caller.ask("/health"))[0] == 200

    asyncio.run(go())
