"""OpenRouter's images: what is sent by either endpoint, what a picture cost, and what each error means."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from batchflux.errors import Code, JobError
from batchflux.models import SECONDS, Cost, Finished, Inline, LocalImage
from batchflux.providers import providers
from tests.providers.answering import B64, LOCAL, PNG, REMOTE, body_of, made, read

ROUTER = providers()["openrouter", "openrouter"]
FLUX = "black-forest-labs/flux.2-pro"
REFERENCES = [
    {"type": "image_url", "image_url": {"url": LocalImage(path="/a.png", sha256="a" * 64, media_type="image/png")}},
    {"type": "image_url", "image_url": {"url": REMOTE.url}},
]
CHAT = (("endpoint", "chat"), ("provider", {"order": ["x"]}))


def test_the_image_api() -> None:
    asked: dict[str, Any] = {"seed": 7, "aspect_ratio": "4:5", "resolution": "2K", "output_format": "png"}
    request = ROUTER.submit(made("openrouter", FLUX, images=(LOCAL, REMOTE), **asked), 1)
    assert request.url == "/v1/images"
    assert body_of(request) == {"model": FLUX, "prompt": "a mug", **asked, "input_references": REFERENCES}
    assert body_of(ROUTER.submit(made("openrouter", FLUX), 1)) == {"model": FLUX, "prompt": "a mug"}


def test_chat() -> None:
    job = made("openrouter", FLUX, images=(LOCAL, REMOTE), seed=7, aspect_ratio="4:5", resolution="2K", options=CHAT)
    request = ROUTER.submit(job, 1)
    assert request.url == "/v1/chat/completions"
    assert body_of(request) == {
        "model": FLUX,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a mug"}, *REFERENCES]}],
        "modalities": ["image", "text"],
        "image_config": {"aspect_ratio": "4:5", "image_size": "2K"},
        "seed": 7,
        "provider": {"order": ["x"]},
    }
    with pytest.raises(JobError, match="chat has no place for output_format, quality"):
        ROUTER.submit(made("openrouter", FLUX, quality="high", output_format="png", options=CHAT), 1)


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({"cost": 0.0412, "total_tokens": 9}, "0.0412"),
        ({"cost": 0}, "0"),
        ({"cost": 0.001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.04}}, "0.041"),
        ({"cost": 0.001, "is_byok": True}, None),
        ({"cost": None}, None),
        ({"cost": "0.04"}, None),
        ({"cost": True}, None),
        ({"cost": -1}, None),
        ({"cost": 1e300}, None),
        ([1], None),
        (None, None),
    ],
)
def test_a_picture_tells_its_cost(usage: Any, cost: str | None) -> None:
    told = None if cost is None else Cost(amount=Decimal(cost))
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{B64}"}}
    message = {"role": "assistant", "content": "Here.", "images": [image]}
    plain = made("openrouter", FLUX)
    for request, answer in (
        (ROUTER.submit(plain, 1), {"created": 1, "data": [{"b64_json": B64, "media_type": "image/png"}]}),
        (ROUTER.submit(plain, 1), {"choices": [{"finish_reason": "stop", "message": message}]}),
    ):
        assert read(request, {**answer, "usage": usage}) == Finished(asset=Inline(data=PNG), cost=told)
    frames = [{"choices": [{"delta": {"images": [image]}}]}, {"choices": [], "usage": usage}]
    stream = ": OPENROUTER PROCESSING\n\n" + "".join(f"data: {json.dumps(one)}\n\n" for one in frames)
    assert read(ROUTER.submit(plain, 1), stream + "data: [DONE]\n\n").cost == told


MODERATED = '{"status":"Request Moderated","details":{"Moderation Reasons":["Violence"]}}'


@pytest.mark.parametrize(
    ("code", "metadata", "means"),
    [
        (400, {}, Code.INVALID_REQUEST),
        (401, {}, Code.AUTH),
        (402, {}, Code.QUOTA),
        (402, {"limit_source": "openrouter_in_flight_budget"}, Code.RATE_LIMITED),
        (403, {"reasons": ["violence"], "flagged_input": "a"}, Code.MODERATED),
        (403, {}, Code.AUTH),
        (408, {}, Code.SERVER),
        (429, {}, Code.RATE_LIMITED),
        (500, {}, Code.SERVER),
        (502, {}, Code.SERVER),
        (503, {}, Code.SERVER),
        (400, {"raw": MODERATED, "provider_name": "Black Forest Labs"}, Code.MODERATED),
        (502, {"raw": json.loads(MODERATED)}, Code.MODERATED),
        (400, {"raw": "the prompt was moderated"}, Code.MODERATED),
        (400, {"raw": "[" * 100_000}, Code.INVALID_REQUEST),
        (502, {"raw": [1]}, Code.SERVER),
    ],
)
def test_what_an_error_means_in_any_place(code: int, metadata: Any, means: Code) -> None:
    """As the status, in a body of status 200, in a choice, and in a stream."""
    request = ROUTER.submit(made("openrouter", FLUX), 1)
    error = {"error": {"code": code, "message": "Provider returned error", "metadata": metadata}}
    choice = {"choices": [{**error, "finish_reason": "error", "message": {"role": "assistant", "content": ""}}]}
    for status, body in ((code, error), (200, error), (200, choice), (200, f"data: {json.dumps(error)}\n\n")):
        found = read(request, body, status)
        assert (found.code, found.billed) == (means, False), (status, found.message)


def test_a_budget_in_flight_and_a_gateway() -> None:
    request = ROUTER.submit(made("openrouter", FLUX), 1)
    assert (
        read(request, {"error": {"code": 402, "message": "x"}}, 402, headers={"retry-after": "3"}).code
        is Code.RATE_LIMITED
    )
    for status in (504, 524):
        error = read(request, {"error": {"code": status, "message": "x"}}, status)
        assert (error.code, error.billed) == (Code.UNKNOWN, True)
    assert read(request, "<html>502 Bad Gateway</html>", 502, headers={SECONDS: "40"}).code is Code.UNKNOWN


@pytest.mark.parametrize(("cost", "billed"), [(0.012, True), (0, False)])
def test_an_answer_without_a_picture_tells_what_it_cost(cost: float, *, billed: bool) -> None:
    request = ROUTER.submit(made("openrouter", FLUX), 1)
    error = read(request, {"created": 1, "data": [], "usage": {"cost": cost, "total_tokens": 9}})
    assert (error.code, error.billed, error.amount) == (Code.NO_IMAGE, billed, Decimal(str(cost)))
    lost = read(request, f"data: {json.dumps({'usage': {'cost': cost}})}\n\n", whole=False)
    assert (lost.code, lost.billed, lost.amount) == (Code.UNKNOWN, True, None)
