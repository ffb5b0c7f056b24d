"""Replicate: `POST /v1/models/{owner}/{name}/predictions` and `/v1/predictions`; what becomes of it is in `queues`.

Inputs are checked of the models that are known; others take any.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from batchflux.simulator.apis.base import Dialect, apart, as_json, drawable, error_in, identity_of
from batchflux.simulator.replies import invalid, json_reply
from batchflux.simulator.requests import (
    ImageRequest,
    check,
    content_of,
    image_in,
    json_object,
    known_model,
    refuse_unknown,
    text_in,
    web_url,
    whole_number,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.models import Format
    from batchflux.simulator.apis.base import Asked
    from batchflux.simulator.replies import Reply
    from batchflux.simulator.requests import Upload

_ENVELOPE = frozenset({"input", "webhook", "webhook_events_filter", "stream"})
_COMMON = frozenset({"prompt", "aspect_ratio", "seed", "output_format", "safety_tolerance"})
_KONTEXT = _COMMON | {"input_image", "prompt_upsampling"}
_FLUX_2 = _COMMON | {"input_images", "resolution", "width", "height", "output_quality", "prompt_upsampling"}
# Model: its inputs, its default format, and the price of a picture in credits (1 = $0.01).
_MODELS: dict[str, tuple[frozenset[str] | None, str, float]] = {
    "black-forest-labs/flux-kontext-pro": (_KONTEXT, "png", 4.0),
    "black-forest-labs/flux-kontext-max": (_KONTEXT, "png", 8.0),
    "black-forest-labs/flux-2-pro": (_FLUX_2, "webp", 3.0),
    "black-forest-labs/flux-2-max": (_FLUX_2, "webp", 7.0),
    "black-forest-labs/flux-2-flex": (_FLUX_2 | {"guidance", "steps"}, "webp", 6.0),
}
_OTHER: tuple[frozenset[str] | None, str, float] = (None, "webp", 4.0)
_PICTURES = ("input_image", "image", "input_images", "image_input", "image_inputs")
_FORMATS: dict[str, Format] = {"jpg": "jpeg", "jpeg": "jpeg", "png": "png", "webp": "webp"}
_RATIO = re.compile(r"(\d{1,2}):(\d{1,2})", re.ASCII)
_LIKE_INPUT = ("match_input_image", "custom", None)
_LARGEST_SEED = (1 << 63) - 1
_FREEST, _FREEST_WITH_IMAGE = 6, 2
_INVALID, _LIMITED = 400, 429
_TOLD = {
    "invalid_api_key": (401, "Unauthenticated", "You did not pass a valid authentication token"),
    "insufficient_user_quota": (
        402,
        "Insufficient credit",
        "You have insufficient credit to run this model. Go to https://replicate.com/account/billing to purchase some.",
    ),
    "model_not_found": (404, None, "The requested resource could not be found."),
}


def _key(headers: Mapping[str, str]) -> str:
    kind, _, key = headers.get("Authorization", "").partition(" ")
    return key if kind.lower() in ("bearer", "token") else ""


def _parse(asked: Asked) -> ImageRequest:
    body = json_object(asked.raw)
    model = f"{asked.path['owner']}/{asked.path['name']}" if "owner" in asked.path else ""
    refuse_unknown(body, _ENVELOPE if model else _ENVELOPE | {"version"})
    model = known_model(model or text_in(body, "version"))
    given = body.get("input")
    if not isinstance(given, dict):
        raise invalid("input is required", "input", code="missing_parameter")
    fields, default, price = _MODELS.get(model.partition(":")[0], _OTHER)
    if fields is not None:
        refuse_unknown(given, fields, "input.")
    prompt, seed = text_in(given, "prompt"), given.get("seed")
    check(seed is None or whole_number(seed, 0, _LARGEST_SEED), "Must be a whole number", "input.seed")
    kind = given.get("output_format", default)
    allowed = isinstance(kind, str) and kind in _FORMATS and (kind != "jpeg" or fields is None)
    check(allowed, "Must be one of jpg, png", "input.output_format")
    images = _images(given)
    _check_tolerance(given.get("safety_tolerance", _FREEST_WITH_IMAGE), pictures=bool(images))
    urls, uploads = apart(images)
    rest = sorted((key, str(value)) for key, value in given.items() if key not in _PICTURES)
    return ImageRequest(
        api="replicate",
        model=model,
        prompt=prompt,
        content=content_of("replicate", model, rest, identity_of(images)),
        urls=urls,
        uploads=uploads,
        seed=seed,
        aspect_ratio=_ratio(given),
        output_format=_FORMATS[kind],
        price=price,
        webhook_url=web_url(body.get("webhook"), "webhook"),
        asks={"input": {key: value for key, value in given.items() if key not in _PICTURES}, "images": len(images)},
    )


def _images(given: Mapping[str, Any]) -> list[str | Upload]:
    found: list[str | Upload] = []
    for name in _PICTURES:
        value = given.get(name)
        if isinstance(value, list):
            found += [image_in(one, f"input.{name}.{index}") for index, one in enumerate(value)]
        elif value is not None:
            found.append(image_in(value, f"input.{name}"))
    return found


def _check_tolerance(value: Any, *, pictures: bool) -> None:
    most = _FREEST_WITH_IMAGE if pictures else _FREEST
    check(whole_number(value, 0, most), f"Must be less than or equal to {most}", "input.safety_tolerance")


def _ratio(given: Mapping[str, Any]) -> str | None:
    ratio = given.get("aspect_ratio")
    match given:
        case {"width": int(width), "height": int(height)} if width > 0 and height > 0:
            return drawable(width, height)
    if ratio in _LIKE_INPUT:
        return None
    found = _RATIO.fullmatch(ratio) if isinstance(ratio, str) else None
    if found is None or not int(found[1]) or not int(found[2]):
        raise invalid("Must be one of the ratios of the model", "input.aspect_ratio")
    return drawable(int(found[1]), int(found[2]))


def _told(reply: Reply) -> Reply:
    if (error := error_in(reply)) is None:
        return reply
    if reply.status == _LIMITED and error["code"] not in _TOLD:
        wait = int(reply.headers.get("Retry-After", "1")) if reply.headers.get("Retry-After", "1").isdigit() else 1
        says = f"Request was throttled. Your rate limit resets in ~{wait}s."
        return as_json(reply, _LIMITED, {"detail": says, "status": _LIMITED, "retry_after": wait})
    if reply.status == _INVALID:
        place, message = error["param"] or "", error["message"]
        fields = [{"type": "value_error", "field": place, "description": message}]
        body = {"title": "Input validation failed", "detail": f"- {place}: {message}\n", "status": 422}
        return as_json(reply, 422, {**body, "invalid_fields": fields})
    status, title, detail = _TOLD.get(str(error["code"]), (reply.status, None, error["message"]))
    return as_json(reply, status, {**({"title": title} if title else {}), "detail": detail, "status": status})


def _throttled(says: str) -> Reply:
    return json_reply({"detail": says, "status": _LIMITED, "retry_after": 1}, _LIMITED)


DIALECT = Dialect(
    name="replicate",
    parse=_parse,
    told=_told,
    key=_key,
    faults={
        "throttled": lambda _: _throttled("Request was throttled. Your rate limit resets in ~1s."),
        "low_credit": lambda _: _throttled(
            "Request was throttled. Your rate limit for creating predictions is reduced to 6 requests per minute "
            "while you have less than $5.0 in credit. Your rate limit resets in ~1s."
        ),
    },
)
