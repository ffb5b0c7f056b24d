"""fal's queue: `POST /{endpoint}`; what becomes of a request is in `queues.fal`.

Fields are checked of the endpoints that are known, `fal-ai/...`; others take any. 1 billable unit is 1 picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchflux.simulator.apis.base import Dialect, apart, as_json, drawable, error_in, identity_of
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

_COMMON = frozenset({"prompt", "seed", "num_images", "output_format", "sync_mode", "safety_tolerance"})
_KONTEXT = _COMMON | {"aspect_ratio", "guidance_scale", "enhance_prompt"}
_FLUX_2 = _COMMON | {"image_size", "enable_safety_checker", "guidance_scale", "num_inference_steps"}
_BANANA = _COMMON | {"aspect_ratio", "resolution", "limit_generations", "enable_web_search", "thinking_level"}
_FLUX_2 |= {"enable_prompt_expansion"}
_ONE, _SEVERAL = frozenset({"image_url"}), frozenset({"image_urls"})
# Endpoint: its fields, of which those of pictures must be there, and the price of a picture in credits (1 = $0.01).
_ENDPOINTS: dict[str, tuple[frozenset[str], float]] = {
    **{
        f"fal-ai/flux-pro/kontext{size}{kind}": (_KONTEXT | images, price)
        for size, price in (("", 4.0), ("/max", 8.0))
        for kind, images in (("", _ONE), ("/multi", _SEVERAL), ("/text-to-image", frozenset[str]()))
    },
    **{
        f"fal-ai/flux-2-{size}{kind}": (_FLUX_2 | images, price)
        for size, price in (("pro", 3.0), ("max", 7.0), ("flex", 6.0))
        for kind, images in (("", frozenset[str]()), ("/edit", _SEVERAL))
    },
    "fal-ai/nano-banana-2": (_BANANA, 8.0),
    "fal-ai/nano-banana-2/edit": (_BANANA | _SEVERAL, 8.0),
}
_PRICE = 4.0  # of an endpoint that is not known
_RATIOS = ("21:9", "16:9", "4:3", "3:2", "1:1", "2:3", "3:4", "9:16", "9:21")
_MORE_RATIOS = (*_RATIOS, "4:5", "5:4", "auto")
_SIZES = {
    "square_hd": "1:1",
    "square": "1:1",
    "portrait_4_3": "3:4",
    "portrait_16_9": "9:16",
    "landscape_4_3": "4:3",
    "landscape_16_9": "16:9",
    "auto": "",
}
_FORMATS: dict[str, Format] = {"jpeg": "jpeg", "png": "png", "webp": "webp"}
_LARGEST_SEED = (1 << 63) - 1
_TOLD = {
    "invalid_api_key": (401, "invalid key credentials"),
    "insufficient_user_quota": (
        403,
        "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing.",
    ),
    "model_not_found": (404, "Application not found"),
}
_TYPES = {500: "internal_error", 503: "runner_connection_error", 429: "concurrent_requests_limit"}
_INVALID = 400


def _key(headers: Mapping[str, str]) -> str:
    kind, _, key = headers.get("Authorization", "").partition(" ")
    return key if kind.lower() == "key" else ""


def price_of(endpoint: str) -> float:
    """Return what a picture of an endpoint costs, in credits."""
    return _ENDPOINTS.get(endpoint, (None, _PRICE))[1]


def _parse(asked: Asked) -> ImageRequest:
    endpoint = known_model(asked.path["endpoint"])
    body = json_object(asked.raw)
    fields, price = _ENDPOINTS.get(endpoint, (None, _PRICE))
    if fields is not None:
        refuse_unknown(body, fields)
        for name in fields & (_ONE | _SEVERAL):
            check(name in body, "Field required", name, "missing_parameter")
    prompt = text_in(body, "prompt")
    seed, kind, tolerance = body.get("seed"), body.get("output_format") or "jpeg", body.get("safety_tolerance", "2")
    check(seed is None or whole_number(seed, 0, _LARGEST_SEED), "Input should be a valid integer", "seed")
    check(isinstance(kind, str) and kind in _FORMATS, "Input should be 'jpeg' or 'png'", "output_format")
    right = isinstance(tolerance, str) and tolerance in tuple("123456")
    check(right, "Input should be '1', '2', '3', '4', '5' or '6'", "safety_tolerance")
    check(body.get("num_images", 1) == 1, "The simulator makes one picture a request", "num_images")
    urls, uploads = apart(images := _images(body))
    rest = sorted((key, str(value)) for key, value in body.items() if key not in ("image_url", "image_urls"))
    return ImageRequest(
        api="fal",
        model=endpoint,
        prompt=prompt,
        content=content_of("fal", endpoint, rest, identity_of(images)),
        urls=urls,
        uploads=uploads,
        seed=seed,
        aspect_ratio=_ratio(body, kontext="kontext" in endpoint) or None,
        output_format=_FORMATS[kind],
        price=price,
        webhook_url=web_url(asked.query.get("fal_webhook"), "fal_webhook"),
        asks={"sync_mode": body.get("sync_mode") is True},
    )


def _images(body: Mapping[str, Any]) -> list[str | Upload]:
    several = body.get("image_urls", [])
    check(isinstance(several, list), "Input should be a valid list", "image_urls")
    one = [image_in(body["image_url"], "image_url")] if "image_url" in body else []
    return [*one, *(image_in(value, f"image_urls.{index}") for index, value in enumerate(several))]


def _ratio(body: Mapping[str, Any], *, kontext: bool) -> str:
    ratio, size = body.get("aspect_ratio"), body.get("image_size", "auto")
    allowed = _RATIOS if kontext else _MORE_RATIOS
    check(ratio is None or ratio in allowed, f"Input should be one of {', '.join(allowed)}", "aspect_ratio")
    if ratio is not None:
        return "" if ratio == "auto" else str(ratio)
    match size:
        case str():
            check(size in _SIZES, f"Input should be one of {', '.join(_SIZES)}", "image_size")
            return _SIZES[size]
        case {"width": int(width), "height": int(height)} if width > 0 and height > 0:
            return drawable(width, height)
    check(None, "Input should be a name, or {width, height}", "image_size")
    return ""


def _told(reply: Reply) -> Reply:
    """Put a refusal as the gateway does (`detail` and `error_type`), of a field as the model does (`detail` a list)."""
    if (error := error_in(reply)) is None:
        return reply
    if reply.status == _INVALID:
        kind = {} if error["code"] is None else {"type": error["code"]}
        place = ["body", *str(error["param"]).split(".")] if error["param"] else ["body"]
        detail = {"loc": place, "msg": error["message"], "type": "value_error", **kind}
        return as_json(reply, 422, {"detail": [detail]})
    status, detail = _TOLD.get(str(error["code"]), (reply.status, error["message"]))
    kind = {"error_type": _TYPES[status]} if status in _TYPES else {}
    return as_json(reply, status, {"detail": detail, **kind})


DIALECT = Dialect(name="fal", parse=_parse, told=_told, key=_key)
