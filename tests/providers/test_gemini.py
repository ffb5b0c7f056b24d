"""Gemini's images: what is sent, which picture counts, and what each reason and error means."""

from __future__ import annotations

from typing import Any

import pytest

from batchflux.errors import Code
from batchflux.models import Cost, Finished, Inline, LocalImage
from batchflux.providers import providers
from tests.providers.answering import B64, DRAFT, DRAFT_64, LOCAL, PNG, REMOTE, body_of, made, read

GEMINI = providers()["gemini", "gemini"]
PRO, FLASH = "gemini-3-pro-image", "gemini-2.5-flash-image"
USAGE = {
    "promptTokenCount": 300,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 40}, {"modality": "IMAGE", "tokenCount": 258}],
    "candidatesTokenCount": 1300,
    "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
    "thoughtsTokenCount": 200,
    "totalTokenCount": 1800,
}


def part(data: str, **more: Any) -> dict[str, Any]:
    return {"inlineData": {"mimeType": "image/png", "data": data}, **more}


def answer(*parts: Any, usage: Any = None, **more: Any) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": list(parts)}, "index": 0, **more}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": PRO, "responseId": "r"}


def test_the_request() -> None:
    options = (("generation_config", {"temperature": 0.5}), ("safety_settings", [{"category": "X", "threshold": "Y"}]))
    fields: dict[str, Any] = {"aspect_ratio": "16:9", "resolution": "2K", "seed": 7, "images": (LOCAL, REMOTE)}
    request = GEMINI.submit(made("gemini", f"models/{PRO}", **fields, options=options), 1)
    file = LocalImage(path="/a.png", sha256="a" * 64, media_type="image/png", encoding="base64")
    assert request.url == f"/v1beta/models/{PRO}:generateContent"
    assert GEMINI.authorize("K") == {"x-goog-api-key": "K"}
    assert body_of(request) == {
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"text": "a mug"},
                    {"inlineData": {"mimeType": "image/png", "data": file}},
                    {"fileData": {"fileUri": REMOTE.url}},
                ],
            }
        ],
        "generationConfig": {
            "responseModalities": ["TEXT", "IMAGE"],
            "imageConfig": {"aspectRatio": "16:9", "imageSize": "2K"},
            "seed": 7,
            "temperature": 0.5,
        },
        "safetySettings": [{"category": "X", "threshold": "Y"}],
    }
    plain = body_of(GEMINI.submit(made("gemini", FLASH), 1))["generationConfig"]
    assert plain == {"responseModalities": ["TEXT", "IMAGE"]}


def test_what_a_model_cannot_make_is_known_before() -> None:
    pro, flash = GEMINI.capabilities(PRO), GEMINI.capabilities(FLASH)
    assert (pro.value_for("resolution", "8K"), pro.value_for("aspect_ratio", "9:21")) == (None, None)
    assert pro.value_for("aspect_ratio", "32:18") == "16:9"
    assert pro.fields - flash.fields == {"resolution"}
    assert "output_format" not in pro.fields


def test_the_last_picture_that_is_no_thought_counts() -> None:
    request = GEMINI.submit(made("gemini", PRO), 1)
    cost = Cost(tokens={"text_in": 40, "image_in": 258, "in": 2, "text_out": 200, "image_out": 1290, "out": 10})
    thought = answer(part(DRAFT_64, thought=True), {"text": "Here."}, part(B64), usage=USAGE, finishReason="STOP")
    assert read(request, thought) == Finished(asset=Inline(data=PNG), cost=cost)
    two = answer(part(DRAFT_64), {"text": "Better:"}, part(B64), finishReason="STOP")
    assert read(request, two) == Finished(asset=Inline(data=PNG), more=(Inline(data=DRAFT),))
    snake = {"inline_data": {"mime_type": "image/png", "data": B64}}
    usage = {"prompt_token_count": 5, "candidates_token_count": 1290}
    relayed = {"candidates": [{"content": {"parts": [snake]}}], "usage_metadata": usage}
    assert read(request, relayed).cost == Cost(tokens={"text_in": 5, "image_out": 1290})
    edit = GEMINI.submit(made("gemini", PRO, images=(REMOTE,)), 1)
    assert read(edit, relayed).cost == Cost(tokens={"in": 5, "image_out": 1290})
    for wrong in ({}, {"candidatesTokenCount": 0}, {"candidatesTokenCount": "9"}, {"promptTokenCount": 9}, [1], "x"):
        assert read(request, answer(part(B64), usage=wrong)).cost is None


@pytest.mark.parametrize("reason", ["IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "SAFETY",
                                    "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "RECITATION"])  # fmt: skip
def test_a_reason_of_moderation(reason: str) -> None:
    """It is billed where tokens of a picture are counted."""
    request = GEMINI.submit(made("gemini", PRO), 1)
    error = read(request, {"candidates": [{"finishReason": reason, "index": 0}]})
    assert (error.code, error.billed) == (Code.MODERATED, False)
    error = read(request, answer({"text": ""}, usage=USAGE, finishReason=reason))
    assert (error.code, error.billed) == (Code.MODERATED, True)
    assert error.tokens["image_out"] == 1290


@pytest.mark.parametrize("reason", ["NO_IMAGE", "IMAGE_OTHER", "OTHER", "MAX_TOKENS", "MALFORMED_FUNCTION_CALL"])
def test_a_reason_without_a_picture_is_not_asked_again(reason: str) -> None:
    error = read(GEMINI.submit(made("gemini", PRO), 1), {"candidates": [{"finishReason": reason, "index": 0}]})
    assert (error.code, error.billed, error.final, error.tokens) == (Code.NO_IMAGE, True, True, None)
    told = {"promptTokenCount": 5, "candidatesTokenCount": 7, "thoughtsTokenCount": 100}
    error = read(GEMINI.submit(made("gemini", PRO), 1), answer({"text": ""}, usage=told, finishReason=reason))
    assert error.tokens == {"text_in": 5, "text_out": 100, "out": 7}


@pytest.mark.parametrize("reason", ["SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY", "JAILBREAK",
                                    "MODEL_ARMOR"])  # fmt: skip
def test_a_blocked_prompt(reason: str) -> None:
    error = read(GEMINI.submit(made("gemini", PRO), 1), {"promptFeedback": {"blockReason": reason}})
    assert (error.code, error.billed) == (Code.MODERATED, False)


def _error(code: int, status: str, message: str = "no", details: Any = None) -> tuple[int, Any]:
    return code, {"error": {"code": code, "message": message, "status": status, "details": details}}


def _exhausted(*details: Any, message: str = "You exceeded your current quota, please check your plan") -> Any:
    return _error(429, "RESOURCE_EXHAUSTED", message, list(details))


def _quota(identity: str, value: str = "10") -> dict[str, Any]:
    return {"@type": "google.rpc.QuotaFailure", "violations": [{"quotaId": identity, "quotaValue": value}]}


RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "29.7s"}


@pytest.mark.parametrize(
    ("told", "code", "wait"),
    [
        (_error(400, "INVALID_ARGUMENT", "API key not valid."), Code.AUTH, None),
        (_error(400, "INVALID_ARGUMENT", details=[{"reason": "API_KEY_INVALID"}]), Code.AUTH, None),
        (_error(400, "INVALID_ARGUMENT", "bad ratio"), Code.INVALID_REQUEST, None),
        (_error(400, "FAILED_PRECONDITION", "User location is not supported"), Code.AUTH, None),
        (_error(401, "UNAUTHENTICATED"), Code.AUTH, None),
        (_error(403, "PERMISSION_DENIED"), Code.AUTH, None),
        (_error(404, "NOT_FOUND"), Code.INVALID_REQUEST, None),
        (_error(500, "INTERNAL"), Code.SERVER, None),
        (_error(503, "UNAVAILABLE"), Code.SERVER, None),
        (_error(504, "DEADLINE_EXCEEDED"), Code.SERVER, None),
        (_exhausted(_quota("GenerateRequestsPerMinutePerProjectPerModel"), RETRY), Code.RATE_LIMITED, 29.7),
        (_exhausted(_quota("GenerateRequestsPerDayPerProjectPerModel"), RETRY), Code.QUOTA, 29.7),
        (_exhausted(_quota("XPerMinute", "0")), Code.QUOTA, None),
        (_exhausted(message="Quota exceeded for metric: x, limit: 0"), Code.QUOTA, None),
        (_exhausted(), Code.RATE_LIMITED, None),
    ],
)
def test_what_an_error_means(told: tuple[int, Any], code: Code, wait: float | None) -> None:
    request = GEMINI.submit(made("gemini", PRO), 1)
    for body in (told[1], [told[1]]):
        error = read(request, body, told[0])
        assert (error.code, error.billed, error.retry_after) == (code, False, wait)


def test_a_gateway_that_gave_up_leaves_it_open() -> None:
    error = read(GEMINI.submit(made("gemini", PRO), 1), "<html>504 Gateway Time-out</html>", 504)
    assert (error.code, error.billed) == (Code.UNKNOWN, True)
