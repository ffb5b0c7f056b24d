"""What a failed answer is said to be: the words that users read, where they come from, and what they never show.

The codes are in test_providers_failures.py; here it is the edges of the table, which layer's words win, and how far a
long text is read.
"""

# The relays' words come in full-width punctuation.
# ruff: noqa: RUF001

from __future__ import annotations

import json
from typing import Any

import pytest

from batchflux.errors import Code, JobError
from batchflux.providers.answers.failures import Complaint, from_answer, from_complaints, from_prose, is_html

SECRET = "hush-canary-0123456789"


def said(error: JobError | None) -> tuple[Code, str, bool]:
    assert error is not None
    return error.code, error.message, error.billed


def wrapped(**fields: object) -> str:
    return json.dumps({"error": fields}, ensure_ascii=False)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (299, Code.SERVER), (300, Code.BAD_ANSWER), (399, Code.BAD_ANSWER), (400, Code.INVALID_REQUEST),
        (499, Code.UNKNOWN), (498, Code.INVALID_REQUEST), (500, Code.SERVER), (501, Code.SERVER), (599, Code.SERVER),
    ],
)  # fmt: skip
def test_where_each_class_of_statuses_begins_and_ends(status: int, code: Code) -> None:
    assert from_answer(status, {}, "").code is code


@pytest.mark.parametrize(
    ("status", "code"), [(299, Code.BAD_ANSWER), (400, Code.INVALID_REQUEST), (401, Code.AUTH), (403, Code.SERVER)]
)
def test_a_page_under_success_that_does_not_say_why_may_be_what_was_bought(status: int, code: Code) -> None:
    assert from_answer(status, {}, "<html>").code is code


def test_a_redirect_without_an_address_says_so() -> None:
    assert said(from_answer(302, {}, "")) == (
        Code.BAD_ANSWER,
        "the API redirects (HTTP 302) to another address: set provider.base_url to the final address",
        False,
    )


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_a_redirect_is_asked_once_for_it_would_only_redirect_again(status: int) -> None:
    assert from_answer(status, {"location": "https://h.example/"}, "").final


def test_a_proxy_that_wants_credentials_is_told_from_the_api() -> None:
    assert "a proxy on the way wants credentials (HTTP 407)" in from_answer(407, {}, "<html>Denied</html>").message


def test_a_redirect_shows_no_secret_and_no_endless_address() -> None:
    got = from_answer(307, {"location": f"https://new.example/{SECRET}/{'x' * 400}"}, "", hide=SECRET)
    assert SECRET not in got.message
    assert got.message.startswith("the API redirects (HTTP 307) to https://new.example/***/xxx")
    assert len(got.message.split(" to ")[1].split(": set")[0]) == 150


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("<html><title>502 Bad\n Gateway</title>", " (502 Bad Gateway)"),
        ("<HTML><TITLE lang=en>Oops</TITLE>", " (Oops)"),
        ("<html><body>no title", ""),
        ("<html><title></title>", ""),
        (f"<html>{' ' * 19_960}<title>in time</title>", " (in time)"),
        (f"<html>{' ' * (20_000 - 14)}<title>x", " (x)"),
        (f"<html>{' ' * (20_000 - 13)}<title>x", ""),
        (f"<html><title>{'y' * 190}</title>", f" ({'y' * 119}…)"),
        (f"<html><title>see {SECRET}</title>", " (see ***)"),
    ],
)
def test_a_page_is_named_by_its_title(page: str, shown: str) -> None:
    got = from_answer(502, {}, page, hide=SECRET)
    assert said(got) == (Code.SERVER, f"the API answered HTTP 502 with an HTML page{shown}", False)


def test_what_is_a_page() -> None:
    assert is_html("<!DOCTYPE html>")
    assert not is_html('{"a": "<html>"}')
    assert not is_html("")


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, "", "the API answered HTTP 400"),
        (400, "plain words", "the API answered HTTP 400: plain words"),
        (400, wrapped(message="no", code="bad_size"), "the API answered HTTP 400 (bad_size): no"),
        (400, wrapped(message="no", type="bad_type"), "the API answered HTTP 400 (bad_type): no"),
        (400, wrapped(message="no", type="bad_type", code="bad_size"), "the API answered HTTP 400 (bad_size): no"),
        (400, wrapped(code="bad_size"), "the API answered HTTP 400 (bad_size)"),
        (500, wrapped(message="boom", code=500), "the API answered HTTP 500: boom"),
        (500, wrapped(message="boom", code=502), "the API answered HTTP 500 (502): boom"),
        (200, wrapped(message="boom", code=502), "the API answered HTTP 502: boom"),
        (200, wrapped(message="boom"), "the API reported an error: boom"),
        (200, wrapped(message="boom", code="odd"), "the API reported an error (odd): boom"),
        (399 + 1, wrapped(message=f"see {SECRET}"), "the API answered HTTP 400: see ***"),
        (500, wrapped(message='{"error":{"message":"inner","code":"x_y"}}', code="outer"),
         "the API answered HTTP 500 (outer): inner"),
        (500, wrapped(message='{"error":{"message":"","code":"x_y"}}'),
         'the API answered HTTP 500 (x_y): {"error":{"message":"","code":"x_y"}}'),
    ],
)  # fmt: skip
def test_the_message_names_status_code_and_the_innermost_words(status: int, body: str, message: str) -> None:
    assert from_answer(status, {}, body, hide=SECRET).message == message


def test_an_error_in_a_stream_came_under_success_unless_it_says_otherwise() -> None:
    assert said(from_complaints([Complaint(message="boom")])) == (Code.SERVER, "the API reported an error: boom", False)
    two = [Complaint(code="429"), Complaint(code="503", message="busy")]
    assert said(from_complaints(two)) == (Code.RATE_LIMITED, "the API answered HTTP 429: busy", False)
    assert said(from_complaints([Complaint(code="429")], status=500))[0] is Code.SERVER
    assert said(from_complaints([Complaint(code="429", message="x")], status=299))[0] is Code.RATE_LIMITED
    assert said(from_complaints([Complaint(code="404", message="x")], status=300))[1] == (
        "the API reported an error (404): x"
    )
    assert SECRET not in from_complaints([Complaint(message=SECRET)], hide=SECRET).message


def test_the_outer_layer_decides_before_the_inner_one() -> None:
    outer, inner = Complaint(code="prompt_blocked"), Complaint(code="insufficient_quota")
    assert from_complaints([outer, inner], status=400).code is Code.MODERATED
    assert from_complaints([inner, outer], status=400).code is Code.QUOTA
    by_type = [Complaint(type="insufficient_quota"), Complaint(code="prompt_blocked")]
    assert from_complaints(by_type, status=400).code is Code.MODERATED, "any code is asked before any type"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('data: {"error":{"code":"prompt_blocked"}}', Code.MODERATED),
        ('data:{"error":{"code":"prompt_blocked"}}\ndata: {"error":{"code":"insufficient_quota"}}', Code.MODERATED),
        ('oops\n\n{"error":{"code":"prompt_blocked"}}', Code.MODERATED),
        ("x\n" * 49 + '{"error":{"code":"forbidden"}}', Code.AUTH),
        ("x\n" * 50 + '{"error":{"code":"forbidden"}}', Code.INVALID_REQUEST),
        ('{}\n{"error":{"code":"forbidden"}}', Code.AUTH),
        ('data: {"choices":[]}\n\ndata: {"error":{"code":"forbidden"}}', Code.AUTH),
        ('"insufficient_quota"\n', Code.QUOTA),
        ('{"rate_limit":null}', Code.INVALID_REQUEST),
    ],
)
def test_where_in_a_body_the_error_is_looked_for(body: str, code: Code) -> None:
    assert from_answer(400, {}, body).code is code


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"type": "upstream_error", "message": "用户余额不足"}, 400, Code.QUOTA),
        ({"type": "upstream_error"}, 400, Code.INVALID_REQUEST),
        ({"type": "server_error", "message": "用户余额不足"}, 400, Code.SERVER),
        ({"code": "upstream_error", "message": "用户余额不足"}, 400, Code.SERVER),
        ({"code": "timeout"}, 400, Code.SERVER),
        ({"type": "timeout"}, 400, Code.INVALID_REQUEST),
        ({"code": "upstream_error"}, 429, Code.RATE_LIMITED),
        ({"message": "rate limit"}, 402, Code.QUOTA),
        ({"message": "rate limit"}, 404, Code.INVALID_REQUEST),
        ({"message": "rate limit"}, 405, Code.RATE_LIMITED),
        ({"message": "quota of 3 requests exceeded"}, 400, Code.QUOTA),
        ({"message": "quota of 3 requests exceeded"}, 429, Code.RATE_LIMITED),
        ({"code": "invalid_request_error"}, 200, Code.INVALID_REQUEST),
        ({"code": "bad_request", "type": "image_generation_user_error"}, 200, Code.INVALID_REQUEST),
        ({"code": "odd"}, 200, Code.SERVER),
    ],
)
def test_what_is_trusted_before_what(fields: dict[str, Any], status: int, code: Code) -> None:
    assert from_complaints([Complaint(**fields)], status=status).code is code


def test_words_of_all_layers_are_read() -> None:
    layers = [Complaint(message="try again"), Complaint(message="content policy")]
    assert from_complaints(layers, status=400).code is Code.MODERATED
    apart = [Complaint(message="rate"), Complaint(message="limit")]
    assert from_complaints(apart, status=400).code is Code.RATE_LIMITED, "blanks of any kind stand between words"
    assert from_complaints([Complaint(message="r"), Complaint(message="ate limit")], status=400).code is (
        Code.INVALID_REQUEST
    )


def test_prose_that_reports_no_failure_is_no_error() -> None:
    assert from_prose("Here is your picture of a red mug.") is None


@pytest.mark.parametrize(
    ("prose", "loosely", "expected"),
    [
        ("生成失败 ❌ 失败原因：input_moderation", True,
         (Code.MODERATED, "the model answered: 生成失败 ❌ 失败原因：input_moderation", False)),
        ("too many requests", False, (Code.RATE_LIMITED, "the model answered: too many requests", False)),
        ("quota exhausted", True, (Code.QUOTA, "the model answered: quota exhausted", False)),
        ("An error occurred", True, (Code.NO_IMAGE, "the answer holds no picture but says: An error occurred", True)),
        ("An error occurred", False, None),
        ("Generation failed", False,
         (Code.NO_IMAGE, "the answer holds no picture but says: Generation failed", True)),
    ],
)  # fmt: skip
def test_prose_that_reports_a_failure(prose: str, expected: tuple[Code, str, bool] | None, *, loosely: bool) -> None:
    got = from_prose(prose, loosely=loosely)
    assert (said(got) if got is not None else None) == expected


def test_prose_is_taken_loosely_unless_told() -> None:
    assert from_prose("I am unable to do this") is not None


@pytest.mark.parametrize("prose", [f"failed: {SECRET} {'z' * 400}", f"nsfw: {SECRET} {'z' * 400}"])
def test_prose_is_quoted_briefly_and_without_the_secret(prose: str) -> None:
    got = from_prose(prose, hide=SECRET)
    assert got is not None
    quoted = got.message.split(": ", 1)[1]
    assert len(quoted) == 220
    assert SECRET not in quoted


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [(9_990, 0, True), (0, 9_990, True), (9_996, 20_000, False), (9_990, 10_010, True), (10_010, 10_000, False)],
)
def test_both_ends_of_a_long_text_are_read_and_its_middle_is_not(before: int, after: int, *, found: bool) -> None:
    got = from_prose("x" * before + " failed " + "x" * after)
    assert (got is not None) is found


@pytest.mark.parametrize(("cut", "found"), [(0, True), (1, False)])
def test_a_text_of_twice_the_reading_length_is_read_whole(cut: int, *, found: bool) -> None:
    text = "x" * 9_996 + " failed " + "x" * (9_996 + cut)
    assert (from_prose(text) is not None) is found
