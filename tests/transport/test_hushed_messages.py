"""Secrets that are known go from messages, in whatever spelling; words that only look alike stay."""

from __future__ import annotations

import json
import pickle
from html import escape
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.errors import Code, JobError
from batchflux.redaction import hush, hushed

KEY = "cnry+K3y/of=no.known~shape"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"key {KEY} is wrong", "key *** is wrong"),
        (f"{KEY}{KEY}", "******"),
        (f"https://h/?key={quote(KEY, safe='')}&x", "https://h/?key=***&x"),
        (
            f"https://h/?key={quote(KEY, safe='').replace('%2B', '%2b').replace('%2F', '%2f').replace('%3D', '%3d')}",
            "https://h/?key=***",
        ),
        (f"as PHP writes it: {KEY.replace('/', chr(92) + '/')}", "as PHP writes it: ***"),
        (f"as .NET writes it: {KEY.replace('+', chr(92) + 'u002B')}", "as .NET writes it: ***"),
        (f"as Gson writes it: {KEY.replace('=', chr(92) + 'u003d')}", "as Gson writes it: ***"),
        (f"cut off in it: {KEY[:9]}…", "cut off in it: ***…"),
        (f"not cut off in it: {KEY[:9]}", f"not cut off in it: {KEY[:9]}"),
        ("a beginning that tells nothing: cnry…", "a beginning that tells nothing: cnry…"),
        ("", ""),
        ("…", "…"),
    ],
)
def test_a_key_is_blotted_out(text: str, shown: str) -> None:
    assert hushed(text, [KEY]) == shown


def test_a_secret_goes_from_json_within_json_and_from_a_page() -> None:
    secret = 'c4nary "quoted" <word>'
    for text in (
        json.dumps(json.dumps(secret)),
        escape(secret),
        json.dumps(secret).replace("<", r"\u003c").replace(">", r"\u003e"),
    ):
        assert "c4nary" not in hushed(text, [secret])


def test_what_is_too_short_to_be_a_secret_is_left() -> None:
    assert hushed("a key of three", ["key", ""]) == "a key of three"


def test_an_error_keeps_the_rest_of_what_it_says() -> None:
    error = JobError(Code.AUTH, f"no {KEY}", retry_after=1.5, billed=True)
    hush(error, [KEY])
    for one in (error, pickle.loads(pickle.dumps(error))):  # noqa: S301  our own bytes
        assert (str(one), one.message, one.code, one.retry_after, one.billed) == (
            "no ***",
            "no ***",
            Code.AUTH,
            1.5,
            True,
        )


@settings(max_examples=40)
@given(st.text(), st.text(st.characters(), min_size=4) | st.just("\udc80\udc81abc"), st.text())
def test_no_secret_is_left_whole(before: str, secret: str, after: str) -> None:
    shown = hushed(before + secret + after, [secret])
    assert secret not in shown.replace("***", "") or secret in before + after or set(secret) <= {"*"}
