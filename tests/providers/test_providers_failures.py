# The relays' words come in full-width punctuation.
# ruff: noqa: RUF001

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.errors import Code, JobError
from batchflux.models import SECONDS
from batchflux.providers.answers.failures import from_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.models import Job

STYLES = ("standard", "chat")


def error(message: str = "no", code: Any = None, type_: str = "") -> str:
    return json.dumps({"error": {"message": message, "type": type_, "param": None, "code": code}}, ensure_ascii=False)


CODES = {
    Code.MODERATED: (
        "sensitive_words_detected prompt_blocked content_policy_violation moderation_blocked input_moderation"
        " output_moderation content_filter"
    ),
    Code.QUOTA: "insufficient_user_quota insufficient_quota billing_hard_limit_reached insufficient_balance",
    Code.RATE_LIMITED: "rate_limit_exceeded token_concurrency_limit_reached too_many_requests rate_limit_error",
    Code.AUTH: "access_denied invalid_api_key authentication_error permission_denied",
    Code.INVALID_REQUEST: "model_not_found context_length_exceeded invalid_value unsupported_parameter",
    Code.SERVER: (
        "get_channel_failed channel:no_available_key bad_response_status_code empty_response do_request_failed"
        " server_error overloaded overloaded_error upstream_error bad_gateway internal_error"
    ),
}
PAIRS = [(code, name) for code, names in CODES.items() for name in names.split()]


@pytest.mark.parametrize("status", [200, 400, 403, 500])
@pytest.mark.parametrize(("code", "name"), PAIRS)
def test_a_code_is_trusted_before_status_and_message(
    answer: Callable[..., Any], make_job: Callable[..., Job], code: Code, name: str, status: int
) -> None:
    misleading = "rate limit" if code is not Code.RATE_LIMITED else "content policy"
    for style in STYLES:
        got = answer(make_job(style=style), error(misleading, name).encode(), status=status)
        assert isinstance(got, JobError)
        # What failed at the server's side failed there, whatever its words say; but for what was moderated.
        assert got.code is (code if status < 500 or code is Code.MODERATED else Code.SERVER)
        assert name in got.message
        assert not got.billed


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, Code.INVALID_REQUEST), (401, Code.AUTH), (402, Code.QUOTA), (403, Code.AUTH), (404, Code.INVALID_REQUEST),
        (405, Code.INVALID_REQUEST), (408, Code.UNKNOWN), (409, Code.SERVER), (413, Code.INVALID_REQUEST),
        (415, Code.INVALID_REQUEST), (422, Code.INVALID_REQUEST), (425, Code.SERVER), (429, Code.RATE_LIMITED),
        (500, Code.SERVER), (502, Code.SERVER), (503, Code.SERVER), (504, Code.UNKNOWN), (520, Code.UNKNOWN),
        (499, Code.UNKNOWN), (524, Code.UNKNOWN), (529, Code.SERVER), (301, Code.BAD_ANSWER), (308, Code.BAD_ANSWER),
    ],
)  # fmt: skip
@pytest.mark.parametrize("body", [b"", b"{}", b"nothing telling", error().encode(), b"\xff\xfe", b"[" * 50_000])
def test_the_status_decides_when_nothing_else_does(
    answer: Callable[..., Any], make_job: Callable[..., Job], status: int, code: Code, body: bytes
) -> None:
    for style in STYLES:
        for complete in (True, False):
            got = answer(make_job(style=style), body, status=status, complete=complete)
            assert (got.code, got.billed) == (code, code is Code.UNKNOWN)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (429, error("no", "insufficient_user_quota"), Code.QUOTA),
        (429, error("You exceeded your quota", None, "insufficient_quota"), Code.QUOTA),
        (429, error("Quota exceeded: 60 requests per minute"), Code.RATE_LIMITED),
        (429, error("当前分组上游负载已饱和", "upstream_error", "upstream_error"), Code.RATE_LIMITED),
        (429, error("用户余额不足"), Code.QUOTA),
        (401, error("rate limit", None, "invalid_request_error"), Code.AUTH),
        (403, error("用户额度不足, 剩余额度: ¥0.00", None, "new_api_error"), Code.QUOTA),
        (403, error("your prompt violates our content policy"), Code.MODERATED),
        (400, error("Rate limit reached for flux", None, "invalid_request_error"), Code.RATE_LIMITED),
        (400, error("safety_tolerance must be between 0 and 6"), Code.INVALID_REQUEST),
        (400, error("the field name is case-sensitive"), Code.INVALID_REQUEST),
        (400, error("rejected by the safety system", "x", "image_generation_user_error"), Code.MODERATED),
        (400, error("bad size", None, "image_generation_user_error"), Code.INVALID_REQUEST),
        (500, error("失败原因：input_moderation", None, "upstream_error"), Code.MODERATED),
        (500, error("boom", 500), Code.SERVER),
        (503, error("no", "Channel:No-Available-Key"), Code.SERVER),
        (400, error('{"error":{"message":"inner","code":"content_policy_violation"}}'), Code.MODERATED),
        (500, error('status 400: {"error":{"message":"in","code":"prompt_blocked"}} (id 1)', "do_request_failed"),
         Code.MODERATED),
        (400, '{"error":"sensitive_words_detected"}', Code.MODERATED),
        (400, '{"error":"prompt_blocked","message":"why"}', Code.MODERATED),
        (403, '{"code":"insufficient_user_quota","message":"no"}', Code.QUOTA),
        (422, '{"detail":"Input is not valid"}', Code.INVALID_REQUEST),
        (422, '{"detail":[{"loc":["body"],"msg":"field required","type":"missing"}]}', Code.INVALID_REQUEST),
        (400, '{"success":false,"message":"rate limit"}', Code.RATE_LIMITED),
        (500, '{"success":false,"message":"rate limit"}', Code.SERVER),
        (503, error("No available channel for model flux", "model_not_found"), Code.SERVER),
        (500, '{"detail":"Content Moderated"}', Code.MODERATED),
        (500, "Content Moderated", Code.MODERATED),
        (503, error("moderation service unavailable"), Code.SERVER),
        (500, error("bad response status code 524", "bad_response_status_code"), Code.UNKNOWN),
        (200, error("upstream timed out", 504), Code.UNKNOWN),
        (500, error("litellm.APIConnectionError: OpenAIException - Connection error.", 500), Code.UNKNOWN),
        (500, error("litellm.InternalServerError: OpenAIException - oops", 500), Code.SERVER),
        (400, error("It is not known what became of this call.", "unknown_outcome"), Code.UNKNOWN),
        (403, "error code: 1020", Code.SERVER),
        (403, "<html><title>Just a moment...</title>", Code.SERVER),
        (403, error("no such token"), Code.AUTH),
        (500, '[{"error":{"code":"prompt_blocked"}}]', Code.MODERATED),
        (400, 'event: error\ndata: {"error":{"code":"prompt_blocked"}}\n\n', Code.MODERATED),
        (502, "<html><head><title>502 Bad Gateway</title></head><body>rate limit moderation</body>", Code.SERVER),
        (429, "<html>Too many</html>", Code.RATE_LIMITED),
        (200, "<!DOCTYPE html><html><title>502: Bad gateway</title>", Code.SERVER),
        (200, "\ufeff\r\n <html><h1>503 Service Unavailable", Code.SERVER),
        (200, "<html><title>Just a moment...</title><img src='https://cdn.example/a.png'>", Code.SERVER),
        (200, '<?xml version="1.0"?><Error><Code>InternalError</Code><Message>no</Message></Error>', Code.SERVER),
        (200, error("no", "insufficient_user_quota"), Code.QUOTA),
        (200, error("no", 429), Code.RATE_LIMITED),
        (200, error("no", "503"), Code.SERVER),
        (200, '{"code":401,"message":"bad token","data":null}', Code.AUTH),
        (200, '{"success":false,"message":"too many requests"}', Code.RATE_LIMITED),
        (200, '{"error":{"message":"something odd"},"data":[]}', Code.SERVER),
        (200, '{"error":"bad size","type":"invalid_request_error"}', Code.INVALID_REQUEST),
        (403, '{"detail":"User is locked. Reason: Exhausted balance. Top up your balance"}', Code.QUOTA),
        (200, '{"success":false,"error":"credits exhausted"}', Code.QUOTA),
        (200, '{"status":"error","message":"Not enough credits. Please top up"}', Code.QUOTA),
        (400, '{"error":{"code":400,"message":"API key not valid. Please pass one.","status":"INVALID_ARGUMENT"}}',
         Code.AUTH),
        (200, '{"success":false,"message":"Unauthorized"}', Code.AUTH),
        (400, error("Unauthorized use of a likeness"), Code.INVALID_REQUEST),
        (403, '{"ResponseMetadata":{"Error":{"Code":"AccountOverdueError","Message":"no"}}}', Code.QUOTA),
        (200, '{"Response":{"Error":{"Code":"RequestLimitExceeded","Message":"rate limit"},"RequestId":"r"}}',
         Code.RATE_LIMITED),
        (400, '{"Code":"DataInspectionFailed","Message":"no","RequestId":"r"}', Code.MODERATED),
        (200, '{"code":50511,"message":"Post Img Risk Not Pass","data":null}', Code.MODERATED),
        (200, '{"code":50430,"message":"Request Has Reached API Concurrent Limit"}', Code.RATE_LIMITED),
        (200, '{"code":24,"description":"Banned prompt detected: x","result":null}', Code.MODERATED),
        (200, '{"code":23,"description":"队列已满，请稍后尝试","result":null}', Code.RATE_LIMITED),
        (200, '{"status":"Request Moderated"}', Code.MODERATED),
        (200, '{"status":"FAILURE","fail_reason":"output_moderation"}', Code.MODERATED),
    ],
)  # fmt: skip
def test_the_order_of_trust(
    answer: Callable[..., Any], make_job: Callable[..., Job], status: int, body: str, code: Code
) -> None:
    for style in STYLES:
        got = answer(make_job(style=style), body.encode(), status=status)
        assert (got.code, got.billed) == (code, code is Code.UNKNOWN), got.message


@pytest.mark.parametrize(("seconds", "code"), [("0.500", Code.SERVER), ("29.9", Code.SERVER), ("30.0", Code.UNKNOWN)])
def test_a_bad_gateway_after_a_long_wait_may_have_been_billed(
    answer: Callable[..., Any], make_job: Callable[..., Job], seconds: str, code: Code
) -> None:
    got = answer(make_job(), b"<html>502</html>", status=502, headers={SECONDS: seconds})
    assert (got.code, got.billed) == (code, code is Code.UNKNOWN)


@pytest.mark.parametrize("status", [408, 499, 502, 504, 520, 524])
def test_what_is_free_is_asked_again(status: int) -> None:
    got = from_answer(status, {SECONDS: "99"}, "", paid=False)
    assert (got.code, got.billed) == (Code.SERVER, False)


@pytest.mark.parametrize("body", ["", "<html><title>413 Request Entity Too Large</title>", error("too large")])
def test_a_request_that_is_too_large_says_what_makes_it_smaller(body: str) -> None:
    assert "references: {max_bytes: 4MB}" in from_answer(413, {}, body).message


def test_messages_are_one_short_line_without_secrets(answer: Callable[..., Any], make_job: Callable[..., Job]) -> None:
    said = (
        "line one\nline two\x00 sk-abcdefgh12345678 Bearer abc.def-ghi12345 https://me:pw@x.example/a?sig=S1G#f"
        ' {"webhook_secret": "hook-canary", "api_key":"KEYCANARY1"} data:image/png;base64,QUJDREVG hush-canary \ud800'
    )
    job = make_job(style="standard", webhook_secret="hush-canary")
    for status in (200, 400, 500):
        got = answer(job, json.dumps({"error": {"message": said + " x" * 500}}).encode(), status=status)
        assert len(got.message) <= 300
        assert got.message.isprintable()
        for secret in ("abcdefgh12345678", "abc.def", "S1G", "pw@", "hook-canary", "KEYCANARY1", "QUJD", "hush-canary"):
            assert secret not in got.message
        assert "line one line two" in got.message
        assert "https://x.example/a" in got.message


def test_a_redirect_says_what_to_set() -> None:
    got = from_answer(308, {"location": "https://new.example/v1/images/generations?key=S3CRET"}, "")
    assert got.message == (
        "the API redirects (HTTP 308) to https://new.example/v1/images/generations: "
        "set provider.base_url to the final address"
    )


def test_an_error_body_is_read_to_a_megabyte(answer: Callable[..., Any], make_job: Callable[..., Job]) -> None:
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 100_000

    assert answer(make_job(), endless(), status=500).code is Code.SERVER
    assert taken == 10


@pytest.mark.parametrize(
    ("body", "wait"),
    [
        ({"error": {"message": "slow down", "code": "rate_limit_exceeded", "retry_after": 7}}, 7),
        ({"error": {"message": "slow down", "code": "rate_limit_exceeded"}, "retry_after": "7.5"}, 7.5),
        ({"error": "too many requests", "retryAfter": "7s"}, 7),
        ({"detail": "throttled", "retry_after_seconds": 7.5}, 7.5),
        (
            {"error": {"status": "RESOURCE_EXHAUSTED", "message": "rate limit", "details": [{"retryDelay": "29.7s"}]}},
            29.7,
        ),
        ({"error": {"message": "rate limit", "retry_after": True}}, None),
        ({"error": {"message": "rate limit", "retry_after": 0}}, None),
        ({"error": {"message": "rate limit", "retry_after": 1_796_076_266}}, None),
        ({"error": {"message": "rate limit", "retry_after": "soon", "details": ["x"]}}, None),
    ],
)
def test_a_wait_that_a_field_asks_for_is_told(
    answer: Callable[..., Any], make_job: Callable[..., Job], body: dict[str, Any], wait: float | None
) -> None:
    for style, status in ((style, status) for style in STYLES for status in (200, 429)):
        if status == 429 or "error" in body:
            got = answer(make_job(style=style), json.dumps(body).encode(), status=status)
            assert (got.code, got.retry_after) == (Code.RATE_LIMITED, wait)


def test_a_wait_that_a_header_asks_for_comes_first() -> None:
    assert from_answer(429, {"retry-after": "3"}, '{"error": {"retry_after": 7}}').retry_after is None
