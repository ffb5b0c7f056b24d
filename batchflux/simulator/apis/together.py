"""Together: `POST /v1/images/generations`, at the simulator below `/together`, because others have that path too."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from batchflux.simulator.apis.base import Dialect, apart, as_json, drawable, error_in
from batchflux.simulator.replies import invalid, json_reply
from batchflux.simulator.requests import (
    ImageRequest,
    check,
    content_of,
    image_in,
    json_object,
    model_in,
    refuse_unknown,
    text_in,
    whole_number,
)

if TYPE_CHECKING:
    from batchflux.simulator.apis.base import Asked, Made
    from batchflux.simulator.replies import Reply
    from batchflux.simulator.requests import Upload

_PRICE = 4.0  # credits a picture
_FIELDS = frozenset(
    "model prompt steps image_url reference_images image_urls seed n width height negative_prompt guidance_scale "  # noqa: SIM905  reads best
    "output_format response_format image_loras disable_safety_checker aspect_ratio".split()
)
_LARGEST_SEED, _LONGEST, _SIDE_STEP = (1 << 63) - 1, 4096, 16
_SIDE = 1024
_TOLD = {
    "insufficient_user_quota": (402, "insufficient_quota", "insufficient_quota"),
    "model_not_found": (404, "invalid_request_error", "model_not_available"),
    "sensitive_words_detected": (422, "invalid_request_error", "nsfw_content"),
    "content_policy_violation": (422, "invalid_request_error", "nsfw_content"),
    "prompt_blocked": (422, "invalid_request_error", "nsfw_content"),
}


def _parse(asked: Asked) -> ImageRequest:
    body = json_object(asked.raw)
    refuse_unknown(body, _FIELDS)
    model, prompt, seed = model_in(body), text_in(body, "prompt"), body.get("seed")
    width, height = (_side(body, name) for name in ("width", "height"))
    check(seed is None or whole_number(seed, 0, _LARGEST_SEED), "seed must be a whole number.", "seed")
    check(body.get("n", 1) == 1, "n must be 1.", "n")
    check(body.get("output_format", "jpeg") in ("jpeg", "png"), "output_format must be jpeg or png.", "output_format")
    check(
        body.get("response_format", "url") in ("url", "base64", "b64_json"), "Wrong response_format.", "response_format"
    )
    images = _images(body)
    urls, uploads = apart(images)
    return ImageRequest(
        api="together",
        model=model,
        prompt=prompt,
        content=content_of("together", sorted((key, str(value)) for key, value in body.items())),
        urls=urls,
        uploads=uploads,
        seed=seed,
        aspect_ratio=body.get("aspect_ratio") or drawable(width, height),
        output_format=body.get("output_format", "jpeg"),
        inline=body.get("response_format", "url") != "url",
        price=_PRICE,
    )


def _side(body: dict[str, Any], name: str) -> int:
    side = body.get(name, _SIDE)
    good = whole_number(side, _SIDE_STEP, _LONGEST) and not side % _SIDE_STEP
    check(good, f"{name} must be a multiple of {_SIDE_STEP} up to {_LONGEST}.", name)
    return int(side)


def _images(body: dict[str, Any]) -> list[str | Upload]:
    given = [(body["image_url"], "image_url")] if "image_url" in body else []
    for name in ("reference_images", "image_urls"):
        if not isinstance(listed := body.get(name, []), list):
            raise invalid(f"{name} must be a list of URLs.", name)
        given += [(one, name) for one in listed]
    return [image_in(value, place) for value, place in given]


def _answer(made: Made) -> Reply:
    picture = {"index": 0, "url": made.url, "type": "url"}
    if made.data is not None:
        picture = {"index": 0, "b64_json": base64.b64encode(made.data).decode(), "type": "b64_json"}
    return json_reply({"id": made.id, "model": made.request.model, "object": "list", "data": [picture]})


def _told(reply: Reply) -> Reply:
    if (error := error_in(reply)) is None or (told := _TOLD.get(str(error["code"]))) is None:
        return reply
    status, kind, code = told
    says = "The prompt may contain NSFW content." if code == "nsfw_content" else error["message"]
    return as_json(reply, status, {"error": {**error, "message": says, "type": kind, "code": code}})


DIALECT = Dialect(name="together", routes=("/v1/images/generations",), parse=_parse, answer=_answer, told=_told)
