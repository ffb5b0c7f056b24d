"""OpenAI's images: `POST /v1/images/generations` and `.../edits`, the latter also multipart, whole or streamed."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

from PIL import Image

from batchflux.simulator.apis.base import (
    Dialect,
    apart,
    as_json,
    credits_of,
    drawable,
    error_in,
    event,
    identity_of,
    stream_of,
    text_tokens,
)
from batchflux.simulator.replies import error_reply, invalid, json_reply
from batchflux.simulator.requests import (
    ImageRequest,
    Usage,
    check,
    content_of,
    image_in,
    json_object,
    model_in,
    refuse_unknown,
    text_in,
    upload_of,
)

if TYPE_CHECKING:
    from batchflux.simulator.apis.base import Asked, Form, Made
    from batchflux.simulator.replies import Reply
    from batchflux.simulator.requests import Upload

OWN_MODELS = re.compile(r"gpt-image|dall-e|chatgpt-image")
_FREE_SIZES = re.compile(r"gpt-image-[2-9]")
# US dollars a million tokens of text in, image in, image out: the simulator's own, near what such models cost.
_PRICES = {"gpt-image-1-mini": (2.0, 2.5, 8.0), "gpt-image-1.5": (5.0, 8.0, 32.0)}
_USUAL_PRICE = (5.0, 8.0, 32.0)
_OUTPUT_TOKENS = {"low": 272, "medium": 1056, "high": 4160, "auto": 1056}
_IMAGE_TOKENS = 323
_SIZES = {"auto": None, "1024x1024": (1024, 1024), "1536x1024": (1536, 1024), "1024x1536": (1024, 1536)}
_SIZE = re.compile(r"(\d{2,4})x(\d{2,4})", re.ASCII)
_SIDE_STEP, _STEEPEST, _LONGEST, _MOST_IMAGES, _MOST_DRAFTS = 16, 3, 3840, 16, 3
_LONGEST_PROMPT, _MOST_COMPRESSION = 32_000, 100
_COMMON = frozenset(
    "model prompt n size quality background output_format output_compression stream partial_images user".split()  # noqa: SIM905  one line reads best
)
_GENERATIONS = _COMMON | {"moderation", "safety_identifier"}
_EDITS = _GENERATIONS | {"images", "mask", "input_fidelity"}
_NUMBERS = frozenset({"n", "output_compression", "partial_images"})
_CHOICES = {
    "quality": ("auto", "low", "medium", "high"),
    "background": ("auto", "transparent", "opaque"),
    "output_format": ("png", "jpeg", "webp"),
    "moderation": ("auto", "low"),
    "input_fidelity": ("high", "low"),
    "n": (1,),  # the simulator makes one
    "stream": (True, False),
    "output_compression": range(_MOST_COMPRESSION + 1),
    "partial_images": range(_MOST_DRAFTS + 1),
}
# The code of the common envelope: what OpenAI says in its place.
_TOLD: dict[str, tuple[int, str, str]] = {
    "insufficient_user_quota": (429, "insufficient_quota", "insufficient_quota"),
    "token_concurrency_limit_reached": (429, "requests", "rate_limit_exceeded"),
    "model_not_found": (404, "invalid_request_error", "model_not_found"),
    "access_denied": (403, "invalid_request_error", "organization_must_be_verified"),
}
_MODERATION = frozenset({"sensitive_words_detected", "content_policy_violation", "prompt_blocked"})


def _parse(asked: Asked) -> ImageRequest:
    edit = asked.path["action"] == "edits"
    body, images = (json_object(asked.raw), []) if asked.form is None else _parts(asked.form)
    refuse_unknown(body, _EDITS if edit else _GENERATIONS)
    model, prompt = model_in(body), text_in(body, "prompt")
    check(len(prompt) <= _LONGEST_PROMPT, f"prompt must be at most {_LONGEST_PROMPT:,} characters.", "prompt")
    _check_values(body)
    sides = _sides(model, body.get("size", "auto"))
    if edit:
        images += [*_listed(body), *_mask(body)]
        _check_images(images)
    urls, uploads = apart(images)
    counted = Usage(
        text=text_tokens(prompt),
        images=_IMAGE_TOKENS * len(images),
        output=_OUTPUT_TOKENS[body.get("quality", "auto")],
    )
    dollars = next((price for name, price in _PRICES.items() if model.startswith(name)), _USUAL_PRICE)
    fields = sorted((key, str(value)) for key, value in body.items() if key not in ("images", "mask"))
    return ImageRequest(
        api="openai",
        model=model,
        prompt=prompt,
        content=content_of("openai", fields, identity_of(images)),
        urls=urls,
        uploads=uploads,
        aspect_ratio=None if sides is None else drawable(*sides),
        output_format=body.get("output_format", "png"),
        inline=True,
        stream=body.get("stream", False),
        drafts=body.get("partial_images", 0) if body.get("stream") else 0,
        usage=counted,
        price=credits_of(
            sum(a * b for a, b in zip(dollars, (counted.text, counted.images, counted.output), strict=True))
        ),
        asks={"edit": edit, "quality": body.get("quality", "auto"), "size": body.get("size", "auto")},
    )


def _check_values(body: dict[str, Any]) -> None:
    for name, allowed in _CHOICES.items():
        good = name not in body or (body[name] in allowed and isinstance(body[name], type(allowed[0])))
        check(good, f"Invalid value for {name}: {body.get(name)!r}.", name, "invalid_value")
    clear = body.get("background") == "transparent" and body.get("output_format") == "jpeg"
    check(not clear, "Transparent background is not supported for jpeg.", "background")


def _sides(model: str, size: Any) -> tuple[int, int] | None:
    if isinstance(size, str) and size in _SIZES:
        return _SIZES[size]
    found = _SIZE.fullmatch(size) if isinstance(size, str) and _FREE_SIZES.match(model) else None
    width, height = (int(found[1]), int(found[2])) if found else (0, 0)
    good = width and height and not width % _SIDE_STEP and not height % _SIDE_STEP and max(width, height) <= _LONGEST
    says = f"Invalid size {size!r}; supported are 1024x1024, 1536x1024, 1024x1536 and auto."
    check(good and max(width, height) <= _STEEPEST * min(width, height), says, "size", "invalid_value")
    return width, height


def _parts(form: Form) -> tuple[dict[str, Any], list[str | Upload]]:
    """Return the fields of a multipart body as JSON would have them, and its pictures."""
    body: dict[str, Any] = {}
    images: list[str | Upload] = []
    for name, value in form:
        if name in ("image", "image[]", "mask"):
            check(isinstance(value, bytes), f"{name} must be a file.", name)
            images.append(upload_of(value, "mask" if name == "mask" else name) if isinstance(value, bytes) else value)
            continue
        check(isinstance(value, str), f"Unknown file {name!r}.", name)
        text = str(value)
        body[name] = (
            text == "true" if name == "stream" else int(text) if name in _NUMBERS and text.isdecimal() else text
        )
    return body, images


def _listed(body: dict[str, Any]) -> list[str | Upload]:
    given = body.get("images", [])
    check(isinstance(given, list), "images must be a list.", "images")
    return [_one(value, f"images[{index}]") for index, value in enumerate(given)]


def _mask(body: dict[str, Any]) -> list[str | Upload]:
    if "mask" not in body:
        return []
    mask = _one(body["mask"], "mask")
    return [mask if isinstance(mask, str) else replace(mask, place="mask")]


def _one(value: Any, place: str) -> str | Upload:
    if not isinstance(value, dict) or set(value) != {"image_url"}:
        raise invalid(f"{place} must be {{image_url: ...}}; the simulator keeps no files.", place)
    return image_in(value["image_url"], f"{place}.image_url")


def _check_images(images: list[str | Upload]) -> None:
    """Hold an edit to having pictures, and its mask to being a PNG of the first one's size."""
    pictures = [one for one in images if isinstance(one, str) or one.place != "mask"]
    check(pictures, "Missing required parameter: 'image'.", "image", "missing_required_parameter")
    check(len(pictures) <= _MOST_IMAGES, f"At most {_MOST_IMAGES} images are allowed.", "image")
    masks = [one for one in images if not isinstance(one, str) and one.place == "mask"]
    if not masks:
        return
    check(len(masks) == 1 and masks[0].data.startswith(b"\x89PNG"), "mask must be one PNG.", "mask", "invalid_image")
    first = pictures[0]
    if not isinstance(first, str):
        says = "The mask must have the size of the first image."
        check(_size_of(first) == _size_of(masks[0]), says, "mask", "invalid_image")


def _size_of(image: Upload) -> tuple[int, int]:
    try:
        with Image.open(BytesIO(image.data)) as opened:
            return opened.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise invalid(f"{image.place} is not a picture that can be decoded.", image.place) from error


def _answer(made: Made) -> Reply | list[bytes]:
    request = made.request
    picture = {"url": made.url} if made.data is None else {"b64_json": _base64(made.data)}
    size = "1024x1024" if request.asks["size"] == "auto" else request.asks["size"]
    about = {
        "background": "opaque",
        "output_format": request.output_format,
        "quality": request.asks["quality"],
        "size": size,
    }
    told = {"usage": _usage(request)} if "no_usage" not in made.forms else {}
    if not request.stream:
        headers = {"x-request-id": f"req_{made.id}"}
        return replace(json_reply({"created": made.created, **about, "data": [picture], **told}), headers=headers)
    name = "image_edit" if request.asks["edit"] else "image_generation"
    head = {"created_at": made.created, **about}
    drafts = [
        event(
            {"type": f"{name}.partial_image", "partial_image_index": at, "b64_json": _base64(made.draft), **head},
            f"{name}.partial_image",
        )
        for at in range(request.drafts)
    ]
    return [*drafts, event({"type": f"{name}.completed", **picture, **head, **told}, f"{name}.completed")]


def _usage(request: ImageRequest) -> dict[str, Any]:
    used = request.usage or Usage(text=0, images=0, output=0)
    read = used.text + used.images
    return {
        "total_tokens": read + used.output,
        "input_tokens": read,
        "output_tokens": used.output,
        "input_tokens_details": {"text_tokens": used.text, "image_tokens": used.images},
        "output_tokens_details": {"text_tokens": 0, "image_tokens": used.output},
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _told(reply: Reply) -> Reply:
    if (error := error_in(reply)) is None:
        return reply
    code = str(error["code"])
    if code in _MODERATION:
        return _blocked(reply, "input")
    if code not in _TOLD:
        return reply
    status, kind, own = _TOLD[code]
    return as_json(reply, status, {"error": {**error, "type": kind, "code": own}})


def _blocked(reply: Reply, stage: str) -> Reply:
    error = {
        "message": "Your request was rejected by the safety system. safety_violations=[violence].",
        "type": "image_generation_user_error",
        "param": None,
        "code": "moderation_blocked",
        "moderation_details": {"moderation_stage": stage, "categories": ["violence"]},
    }
    return as_json(reply, 400, {"error": error})


def _error_event(request: ImageRequest) -> Reply | None:
    error = {"type": "server_error", "code": "image_generation_failed", "message": "The picture could not be made."}
    return stream_of(event({"type": "error", "error": error}, "error")) if request.stream else None


def _no_image(request: ImageRequest) -> Reply:
    about = {"created": 0, "data": [], "usage": _usage(request)}
    return (
        stream_of(event({"type": "image_generation.completed", "usage": _usage(request)}))
        if request.stream
        else json_reply(about)
    )


def is_own(raw: bytes) -> bool:
    """Whether a body names a model of OpenAI's, by which its path is told from a relay's."""
    try:
        model = json.loads(raw)["model"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return False
    return isinstance(model, str) and OWN_MODELS.match(model) is not None


DIALECT = Dialect(
    name="openai",
    routes=("/v1/images/{action:generations|edits}",),
    parse=_parse,
    answer=_answer,
    told=_told,
    faults={
        "moderated_output": lambda _: _blocked(error_reply(400, "", ""), "output"),
        "billing_limit": lambda _: error_reply(
            400, "Billing hard limit has been reached.", "image_generation_user_error", "billing_hard_limit_reached"
        ),
        "error_event": _error_event,
        "no_image": _no_image,
    },
    billed=frozenset({"moderated_output", "no_image"}),
)
