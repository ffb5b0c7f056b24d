"""SiliconFlow: `POST /v1/images/generations`, at the simulator below `/siliconflow`: others have that path too."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from batchflux.simulator.apis.base import Dialect, apart, as_json, drawable, error_in
from batchflux.simulator.replies import dumps, json_reply
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

_PRICE = 4.0  # credits a picture
_IMAGES = ("image", "image2", "image3")
_FIELDS = frozenset(
    "model prompt negative_prompt image_size batch_size num_inference_steps guidance_scale cfg seed".split()  # noqa: SIM905  one line reads best
).union(_IMAGES)
_SIZE = re.compile(r"(\d{2,4})x(\d{2,4})", re.ASCII)
_LARGEST_SEED = 9_999_999_999
_TOLD = {
    "insufficient_user_quota": (403, 30001, "Sorry, your account balance is insufficient"),
    "model_not_found": (400, 20012, "Model does not exist. Please check it carefully."),
    "sensitive_words_detected": (400, 20050, "The prompt contains sensitive content."),
    "content_policy_violation": (400, 20050, "The prompt contains sensitive content."),
    "prompt_blocked": (400, 20050, "The prompt contains sensitive content."),
}
_CODES = {400: 20015, 403: 30003, 429: 50603, 500: 50500, 503: 50505}


def _parse(asked: Asked) -> ImageRequest:
    body = json_object(asked.raw)
    refuse_unknown(body, _FIELDS)
    model, prompt, seed = model_in(body), text_in(body, "prompt"), body.get("seed")
    size = body.get("image_size", "1024x1024")
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    check(found, "image_size must be WIDTHxHEIGHT.", "image_size")
    check(seed is None or whole_number(seed, 0, _LARGEST_SEED), "seed must be a whole number.", "seed")
    check(body.get("batch_size", 1) == 1, "batch_size must be 1.", "batch_size")
    images = [image_in(body[name], name) for name in _IMAGES if name in body]
    urls, uploads = apart(images)
    width, height = map(int, size.split("x"))
    return ImageRequest(
        api="siliconflow",
        model=model,
        prompt=prompt,
        content=content_of("siliconflow", sorted((key, str(value)) for key, value in body.items())),
        urls=urls,
        uploads=uploads,
        seed=seed,
        aspect_ratio=drawable(width, height),
        output_format="png",
        price=_PRICE,
    )


def _answer(made: Made) -> Reply:
    images = [{"url": made.url}]
    seed = made.request.seed if made.request.seed is not None else int(made.id, 16) % _LARGEST_SEED
    body = {"images": images, "timings": {"inference": 1.5}, "seed": seed, "data": images, "created": made.created}
    return replace(json_reply(body), headers={"x-siliconcloud-trace-id": f"ti_{made.id}"})


def _told(reply: Reply) -> Reply:
    if (error := error_in(reply)) is None:
        return reply
    if error["code"] == "invalid_api_key":
        return replace(reply, status=401, body=dumps("Api key is invalid"), content_type="text/plain")
    usual = (reply.status, _CODES.get(reply.status, 50000), error["message"])
    status, code, message = _TOLD.get(str(error["code"]), usual)
    return as_json(reply, status, {"code": code, "message": message, "data": None})


DIALECT = Dialect(name="siliconflow", routes=("/v1/images/generations",), parse=_parse, answer=_answer, told=_told)
