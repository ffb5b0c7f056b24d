"""An answer of any API in which anything is missing, null or of another type: a code, and never a second payment."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.errors import Code, JobError
from batchflux.models import Finished
from batchflux.providers import providers
from tests.providers.answering import B64, DRAFT_64, made, read

MODELS = {
    "openai": "gpt-image-2",
    "gemini": "gemini-3-pro-image",
    "openrouter": "x/y",
    "together": "x/y",
    "siliconflow": "x/y",
}
_OUT = "https://cdn.example/o/77.png"
_TOKENS = {"input_tokens": 9, "output_tokens": 9, "input_tokens_details": {"text_tokens": 1, "image_tokens": 8}}
_PARTS = [{"inlineData": {"mimeType": "image/png", "data": DRAFT_64}, "thought": True},
          {"text": "Here."}, {"inlineData": {"mimeType": "image/png", "data": B64}}]  # fmt: skip
_COUNTS = {"promptTokenCount": 9, "candidatesTokenCount": 9, "candidatesTokensDetails": [
    {"modality": "IMAGE", "tokenCount": 9}]}  # fmt: skip
_IMAGES = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{B64}"}}]
MADE: list[tuple[str, Any]] = [
    ("openai", {"created": 1, "data": [{"b64_json": B64, "revised_prompt": "a"}], "usage": _TOKENS}),
    ("gemini", {"candidates": [{"content": {"parts": _PARTS}, "finishReason": "STOP"}], "usageMetadata": _COUNTS}),
    ("openrouter", {"data": [{"b64_json": B64, "media_type": "image/png"}], "usage": {
        "cost": 0.1, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.1}}}),
    ("openrouter", {"choices": [{"finish_reason": "stop", "message": {"content": "Here.", "images": _IMAGES}}],
                    "usage": {"cost": 0.1}}),
    ("together", {"id": "o", "object": "list", "data": [{"index": 0, "url": _OUT, "type": "url"}]}),
    ("siliconflow", {"images": [{"url": _OUT}], "timings": {"inference": 0.3}, "seed": 7}),
]  # fmt: skip
REFUSED: list[tuple[str, int, Any]] = [
    ("openai", 400, {"error": {"message": "no", "type": "image_generation_user_error", "code": "moderation_blocked",
                               "moderation_details": {"moderation_stage": "output", "categories": ["x"]}}}),
    ("gemini", 429, {"error": {"code": 429, "message": "no", "status": "RESOURCE_EXHAUSTED", "details": [
        {"violations": [{"quotaId": "XPerDay", "quotaValue": "0"}]}, {"retryDelay": "29.7s"}]}}),
    ("gemini", 200, {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": _COUNTS}),
    ("openrouter", 403, {"error": {"code": 403, "message": "no", "metadata": {
        "reasons": ["x"], "raw": '{"status":"Request Moderated"}', "limit_source": "x"}}}),
    ("openrouter", 200, {"choices": [{"error": {"code": 502, "message": "no"}, "finish_reason": "error"}]}),
    ("siliconflow", 403, {"code": 30001, "message": "no", "data": None}),
]  # fmt: skip
OTHER: list[Any] = [None, True, 0, -1, 1.5, 10**400, "", "x", [], [None], {}, {"x": None}, [[{"a": 1}]]]


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, item in inner for place in places(item, (*at, key)))]


def damaged(value: Any, place: tuple[Any, ...], other: Any, *, gone: bool) -> Any:
    whole = [copy.deepcopy(value)]
    parent: Any = whole
    for key in (0, *place)[:-1]:
        parent = parent[key]
    if gone:
        del parent[(0, *place)[-1]]
    else:
        parent[(0, *place)[-1]] = other
    return whole[0] if whole else ""


@pytest.mark.parametrize(("api", "answer"), MADE)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_damaged_picture_is_one_or_counts_as_billed(api: str, answer: Any, data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(places(answer)))
    told = damaged(answer, place, data.draw(st.sampled_from(OTHER)), gone=data.draw(st.booleans()))
    reply = read(providers()[api, api].submit(made(api, MODELS[api]), 1), told)
    if isinstance(reply, Finished):
        cost = reply.cost
        assert cost is None or (cost.amount or 0) >= 0
        assert cost is None or all(count > 0 for count in cost.tokens.values())
    else:
        assert isinstance(reply, JobError)
        assert reply.code in (Code.NO_IMAGE, Code.BAD_ANSWER)
        assert reply.billed


@pytest.mark.parametrize(("api", "status", "answer"), REFUSED)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_damaged_refusal_is_no_picture(api: str, status: int, answer: Any, data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(places(answer)))
    told = damaged(answer, place, data.draw(st.sampled_from(OTHER)), gone=data.draw(st.booleans()))
    reply = read(providers()[api, api].submit(made(api, MODELS[api]), 1), told, status)
    assert isinstance(reply, JobError)
    assert isinstance(reply.code, Code)
