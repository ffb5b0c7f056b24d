"""OpenAI's images, and servers that speak the same: what is sent, and what each answer means."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, ValidationError

from batchflux.errors import Code, JobError
from batchflux.models import Cost, Finished, Inline, LocalImage, Multipart, Then
from batchflux.providers import providers
from tests.providers.answering import B64, DRAFT_64, LOCAL, PNG, REMOTE, body_of, made, read

if TYPE_CHECKING:
    from batchflux.capabilities import Capabilities

OPENAI = providers()["openai", "openai"]
FILE = LocalImage(path="/a.png", sha256="a" * 64, media_type="image/png")
USAGE = {
    "total_tokens": 1110,
    "input_tokens": 60,
    "output_tokens": 1050,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
}
COST = Cost(tokens={"text_in": 10, "image_in": 40, "in": 10, "image_out": 1050})


def job(**fields: Any) -> Any:
    return made("openai", **{"model": "gpt-image-2", **fields})


@pytest.mark.parametrize(
    ("model", "ratio", "size"),
    [
        ("gpt-image-1", "1:1", "1024x1024"),
        ("gpt-image-1.5", "3:2", "1536x1024"),
        ("gpt-image-1-mini", "2:3", "1024x1536"),
        ("chatgpt-image-latest", "7:5", "1536x1024"),
        ("openai/gpt-image-1.5", "2:2", "1024x1024"),
        ("gpt-image-2", "16:9", "1360x768"),
        ("gpt-image-2.5", "21:9", "1568x672"),
        ("gpt-image-10", "9:21", "672x1568"),
        ("Qwen/Qwen-Image", "16:9", "1360x768"),
    ],
)
def test_a_ratio_becomes_a_size(model: str, ratio: str, size: str) -> None:
    able = OPENAI.capabilities(model)
    assert able.value_for("aspect_ratio", ratio) is not None
    sent = body_of(OPENAI.submit(job(model=model, aspect_ratio=ratio), 1))
    assert (sent["model"], sent["size"], "aspect_ratio" in sent) == (model, size, False)
    own = body_of(OPENAI.submit(job(model=model, aspect_ratio=ratio, options=(("size", "2048x1152"),)), 1))
    assert own["size"] == "2048x1152"


def _options(able: Capabilities) -> type[BaseModel]:
    assert able.options is not None
    return able.options


def test_what_a_model_cannot_make_is_known_before() -> None:
    able = OPENAI.capabilities("gpt-image-1.5")
    assert able.value_for("aspect_ratio", "16:9") is None
    assert able.value_for("quality", "hd") is None
    assert {"seed", "negative_prompt"}.isdisjoint(able.fields)
    assert {"seed", "negative_prompt"} < OPENAI.capabilities("Qwen-Image").fields
    for options in ({"n": 2}, {"size": "big"}, {"partial_images": 4}, {"output_compression": 101}):
        with pytest.raises(ValidationError):
            _options(able).model_validate(options)
    lenient = _options(OPENAI.capabilities("Qwen-Image"))
    assert lenient.model_validate({"num_inference_steps": 20}).model_dump(exclude_unset=True)
    with pytest.raises(ValidationError):
        lenient.model_validate({"n": 2})


def test_references_travel_in_json_or_in_a_form() -> None:
    request = OPENAI.submit(job(images=(LOCAL, REMOTE), mask=LOCAL, quality="high"), 1)
    assert (request.url, body_of(request)) == (
        "/v1/images/edits",
        {
            "model": "gpt-image-2",
            "prompt": "a mug",
            "output_format": "jpeg",
            "quality": "high",
            "images": [{"image_url": FILE}, {"image_url": REMOTE.url}],
            "mask": {"image_url": FILE},
        },
    )
    options = (("edits", "multipart"), ("stream", True))
    form = OPENAI.submit(job(images=(LOCAL, LOCAL), mask=LOCAL, output_format="png", options=options), 1)
    assert form.content == Multipart(
        parts=(
            ("model", "gpt-image-2"),
            ("prompt", "a mug"),
            ("output_format", "png"),
            ("stream", "true"),
            ("image[]", FILE),
            ("image[]", FILE),
            ("mask", FILE),
        )
    )
    other = OPENAI.submit(job(model="Qwen-Image", images=(LOCAL,), seed=3), 1).content
    texts = (("model", "Qwen-Image"), ("prompt", "a mug"), ("seed", "3"))
    assert other == Multipart(parts=(*texts, ("image", FILE)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"images": (REMOTE,), "options": (("edits", "multipart"),)}, "save the photo beside the manifest"),
        ({"mask": LOCAL}, "add images"),
        ({"background": "transparent", "output_format": "jpeg"}, "set output_format: png or webp"),
    ],
)
def test_what_cannot_be_sent_says_what_can(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError, match=said) as caught:
        OPENAI.submit(job(**fields), 1)
    assert caught.value.code is Code.INVALID_REQUEST


UNREAD: list[tuple[int, Any]] = [
    (400, {"error": {"message": "request Content-Type isn't multipart/form-data", "type": "invalid_request_error"}}),
    (400, {"error": {"message": "image is required", "code": "invalid_request"}}),
    (415, "Unsupported Media Type"),
    (422, {"detail": [{"type": "missing", "loc": ["body", "prompt"], "msg": "Field required", "input": None}]}),
    (500, {"error": {"message": "isn't multipart/form-data", "code": "convert_request_failed"}}),
]


@pytest.mark.parametrize(("status", "answer"), UNREAD)
def test_a_server_that_does_not_read_json_is_asked_in_a_form(status: int, answer: Any) -> None:
    """That costs nothing, and happens once: the form's own answer counts."""
    reply = read(OPENAI.submit(job(images=(LOCAL,)), 1), answer, status)
    assert isinstance(reply, Then)
    assert isinstance(reply.request.content, Multipart)
    assert not reply.request.repeatable
    again = read(reply.request, answer, status)
    assert isinstance(again, JobError)
    assert again.code in (Code.INVALID_REQUEST, Code.SERVER)
    linked = read(OPENAI.submit(job(images=(REMOTE,)), 1), answer, status)
    assert isinstance(linked, JobError)
    assert "save the photos" in linked.message
    written = read(OPENAI.submit(job(images=(LOCAL,), options=(("edits", "json"),)), 1), answer, status)
    assert "edits: multipart" in written.message


def _event(kind: str, **data: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n"


@pytest.mark.parametrize("of", ["image_generation", "image_edit"])
def test_partial_pictures_of_a_stream_are_none(of: str) -> None:
    part = _event(f"{of}.partial_image", b64_json=DRAFT_64, partial_image_index=0)
    request = OPENAI.submit(job(options=(("stream", True),)), 1)
    done = read(request, part + _event(f"{of}.completed", b64_json=B64, usage=USAGE))
    assert done == Finished(asset=Inline(data=PNG), cost=COST)
    assert read(request, part, whole=False).code is Code.UNKNOWN
    assert read(request, part).code is Code.NO_IMAGE


@pytest.mark.parametrize("of", ["image_generation", "image_edit"])
def test_a_stream_that_fails_after_a_partial_picture_may_be_billed(of: str) -> None:
    request = OPENAI.submit(job(options=(("stream", True),)), 1)
    part = _event(f"{of}.partial_image", b64_json=DRAFT_64, partial_image_index=0)
    failed = _typed("server_error", "image_generation_failed", "The picture could not be made.")
    blocked = _typed("image_generation_user_error", "moderation_blocked", "Rejected by our safety system")
    told = [(error.code, error.billed) for error in (read(request, failed), read(request, part + failed))]
    assert told == [(Code.SERVER, False), (Code.UNKNOWN, True)]
    told = [(error.code, error.billed) for error in (read(request, blocked), read(request, part + blocked))]
    assert told == [(Code.MODERATED, False), (Code.MODERATED, True)]


def _typed(kind: str, code: str, message: str) -> str:
    error = {"type": kind, "code": code, "message": message}
    return f"event: error\ndata: {json.dumps({'type': 'error', 'error': error})}\n\n"


def test_a_picture_tells_its_tokens() -> None:
    request = OPENAI.submit(job(), 1)
    answer = {"created": 1, "data": [{"b64_json": B64, "revised_prompt": "a red mug"}], "usage": USAGE}
    assert read(request, answer) == Finished(asset=Inline(data=PNG), cost=COST, revised_prompt="a red mug")
    wrong: list[Any] = [{"output_tokens": "1050"}, {"output_tokens": True}, {"output_tokens": -1}, {"input_tokens": 1}]
    none: list[Any] = [None, {}, [], 3, {"input_tokens": 0, "output_tokens": 0}]
    without = read(request, {**answer, "data": [], "usage": {"input_tokens": 9, "output_tokens": 4}})
    assert (without.code, without.tokens) == (Code.NO_IMAGE, {"in": 9, "image_out": 4})
    for usage in (*none, *({**USAGE, **one} for one in wrong)):
        assert read(request, {**answer, "usage": usage}).cost is None
    assert read(request, {"data": [{"url": "https://cdn.example/x"}]}).cost is None


def _error(message: str = "no", **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **more}}


def _blocked(stage: str) -> dict[str, Any]:
    return _error(code="moderation_blocked", moderation_details={"moderation_stage": stage, "categories": ["x"]})


@pytest.mark.parametrize(
    ("status", "answer", "code", "billed"),
    [
        (400, _error(code="moderation_blocked"), Code.MODERATED, False),
        (400, _blocked("input"), Code.MODERATED, False),
        (400, _blocked("output"), Code.MODERATED, True),
        (400, _error("Rejected by our safety system", type="image_generation_user_error"), Code.MODERATED, False),
        (400, _error("Invalid size"), Code.INVALID_REQUEST, False),
        (400, _error(code="billing_hard_limit_reached"), Code.QUOTA, False),
        (401, _error(code="invalid_api_key"), Code.AUTH, False),
        (403, _error("Your organization must be verified to use gpt-image-2"), Code.AUTH, False),
        (403, _error("Your resource has been temporarily blocked: content policy"), Code.AUTH, False),
        (403, _error(code="unsupported_country_region_territory"), Code.AUTH, False),
        (404, _error(code="model_not_found"), Code.INVALID_REQUEST, False),
        (429, _error(code="rate_limit_exceeded"), Code.RATE_LIMITED, False),
        (429, _error(code="insufficient_quota"), Code.QUOTA, False),
        (429, _error("You have no credits remaining"), Code.QUOTA, False),
        (500, _error(), Code.SERVER, False),
        (504, _error(), Code.UNKNOWN, True),
        (520, "", Code.UNKNOWN, True),
        (200, {"data": [{}]}, Code.NO_IMAGE, True),
        (200, {"data": [], "message": "It violates our content policy"}, Code.MODERATED, False),
        (200, {"data": [{"url": None}], "reason": "it violates our content policy"}, Code.MODERATED, False),
        (200, {"data": [], "message": "success"}, Code.NO_IMAGE, True),
    ],
)  # fmt: skip
def test_what_a_failure_means(status: int, answer: Any, code: Code, billed: bool) -> None:  # noqa: FBT001  a table
    error = read(OPENAI.submit(job(images=(LOCAL,)), 1), answer, status)
    assert (error.code, error.billed) == (code, billed)
