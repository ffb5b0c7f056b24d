"""Read and validate request bodies of every API strictly: a field that is not listed is refused.

A refusal is a 400 `invalid_request_error` that names the parameter. Null is absent in a nullable field, else wrong.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import urlsplit

from batchflux.manifest.job_fields import REQUEST_FIELDS
from batchflux.models import Format
from batchflux.simulator.drawing import parse_ratio
from batchflux.simulator.replies import Api, Refusal, dumps, invalid, model_not_found

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_INPUT_IMAGES = tuple(f"input_image{suffix}" for suffix in ("", *(f"_{number}" for number in range(2, 9))))
_NULLABLE = frozenset({"seed", "aspect_ratio", "webhook_url", "webhook_secret", *_INPUT_IMAGES})
_FRONT_URL = re.compile(r"(https?://\S+)(?: |\Z)", re.IGNORECASE)
_DATA_URL = re.compile(r"data:(image/(?:png|jpeg|webp));base64,")
_WEB_URL = re.compile(r"https?://", re.IGNORECASE)
_FREEST = 6
_LARGEST_SEED = (1 << 63) - 1
_SIDE_STEP, _SMALLEST_SIDE, _MOST_PIXELS = 16, 64, 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskModel:
    """A model: the fields its requests may carry, its default format, its price as a task in credits (1 = $0.01)."""

    fields: frozenset[str]
    credits: float
    output_format: Format
    freest: int = _FREEST
    priced_by_result: bool = False  # the price is settled when the task is finished, not before


_STANDARD = TaskModel(fields=frozenset({"model", "prompt", *REQUEST_FIELDS}), credits=0, output_format="jpeg")
_KONTEXT = TaskModel(fields=frozenset({"prompt", *_INPUT_IMAGES[:4], *REQUEST_FIELDS}), credits=4, output_format="png")
_SIDES = frozenset({"prompt", *_INPUT_IMAGES, "width", "height", *REQUEST_FIELDS}) - {
    "aspect_ratio",
    "prompt_upsampling",
}
_FLUX_2 = TaskModel(fields=_SIDES, credits=3, output_format="jpeg", freest=5, priced_by_result=True)
TASK_MODELS: dict[str, TaskModel] = {
    "flux-kontext-pro": _KONTEXT,
    "flux-kontext-max": replace(_KONTEXT, credits=8),
    "flux-2-pro": _FLUX_2,
    "flux-2-max": replace(_FLUX_2, credits=7),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A reference picture that came with the request; `place` is where in the body."""

    sha256: str
    place: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an API that counts tokens counted: of the prompt, of the references, of the picture."""

    text: int
    images: int
    output: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """A request that passed; `prompt` stands behind the URLs, `content` is the SHA-256 of everything that was asked.

    `inline` is whether the picture comes in the answer, and `drafts` how many unfinished ones come before it. `price`
    is in credits (1 = $0.01). `asks` is what only its API's answer needs to know.
    """

    api: Api
    model: str
    prompt: str
    content: str
    urls: tuple[str, ...] = ()
    uploads: tuple[Upload, ...] = field(default=(), repr=False)
    seed: int | None = None
    aspect_ratio: str | None = None
    output_format: Format = "jpeg"
    webhook_url: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)
    inline: bool = False
    stream: bool = False
    drafts: int = 0
    usage: Usage | None = None
    price: float = 0.0
    asks: Mapping[str, Any] = field(default_factory=dict)


def parse_request(api: Api, raw: bytes, model: str = "") -> ImageRequest:
    """Return the request in a body, or raise the Refusal of it; the `model` of a task is in its path."""
    if api in ("bfl", "relay") and model not in TASK_MODELS:
        raise Refusal(model_not_found(model))
    body = json_object(raw)
    request = _chat(body) if api == "chat" else _fields(api, model, body)
    known_model(request.model)
    return request if model else replace(request, price=TASK_MODELS.get(request.model, _KONTEXT).credits)


def json_object(raw: bytes, named: Callable[[dict[str, Any]], Any] | None = None) -> dict[str, Any]:
    """Return the JSON object in a body, each object in it as `named` has it, or raise the Refusal of anything else."""
    try:
        body = json.loads(raw, object_hook=named)
    except (ValueError, RecursionError) as error:
        raise invalid("The body is not valid JSON.", None) from error
    if not isinstance(body, dict):
        raise invalid("The body must be a JSON object.", None)
    return body


def check(holds: object, message: str, param: str | None, code: str | None = None) -> None:
    """Raise the Refusal of what is wrong at `param`, unless it holds."""
    if not holds:
        raise invalid(message, param, code=code)


def content_of(*parts: Any) -> str:
    """Return the SHA-256 of what was asked."""
    return sha256(dumps(parts)).hexdigest()


def _fields(api: Api, path_model: str, body: dict[str, Any]) -> ImageRequest:
    """Return the request of a body that is a flat list of fields; null is absent where that is allowed."""
    message = "input_image is not supported for now; send references as URLs in front of prompt."
    check(api != "standard" or "input_image" not in body, message, "input_image")
    known = TASK_MODELS.get(path_model, _STANDARD)
    refuse_unknown(body, known.fields)
    given = {key: value for key, value in body.items() if value is not None or key not in _NULLABLE}
    for name, (is_allowed, words) in _RULES.items():
        check(name not in given or is_allowed(given[name]), f"{name} must be {words}.", name)
    message = f"safety_tolerance must be at most {known.freest} for {path_model}."
    check(given.get("safety_tolerance", 0) <= known.freest, message, "safety_tolerance")
    prompt = text_in(body, "prompt")
    images = {name: given[name] for name in _INPUT_IMAGES if name in given}
    for name, value in images.items():
        check(isinstance(value, str) and value, f"{name} must be an image as base64, or its URL.", name)
    urls = tuple(value for value in images.values() if is_web_url(value))
    uploads = tuple(upload_in(value, name) for name, value in images.items() if not is_web_url(value))
    if api == "standard":
        urls, prompt = split_urls(prompt, "prompt")
    counted = {name: value for name, value in given.items() if not name.startswith("webhook")}
    counted |= {upload.place: upload.sha256 for upload in uploads}
    return ImageRequest(
        api=api,
        model=path_model or text_in(body, "model"),
        prompt=prompt,
        content=content_of(*filter(None, (api, path_model)), sorted(counted.items())),
        urls=urls,
        uploads=uploads,
        seed=given.get("seed"),
        aspect_ratio=given.get("aspect_ratio") or _ratio_of_sides(given),
        output_format=given.get("output_format", known.output_format),
        webhook_url=given.get("webhook_url"),
        webhook_secret=given.get("webhook_secret"),
        price=known.credits,
    )


def _chat(body: dict[str, Any]) -> ImageRequest:
    refuse_unknown(body, frozenset({"model", "messages", "stream"}))
    model = text_in(body, "model")
    check(body.get("stream") is True, "This model answers as a stream only: set stream to true.", "stream")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid("messages must be a list with at least one message.", "messages")
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        check(isinstance(message, dict), f"{place} must be an object with role and content.", place)
        refuse_unknown(message, frozenset({"role", "content"}), f"{place}.")
        known = message.get("role") in ("system", "user", "assistant")
        check(known, f"{place}.role must be system, user or assistant.", f"{place}.role")
        text, uploads = _content(message.get("content"), f"{place}.content")
    check(message["role"] == "user", "The last message must be the user's.", "messages")
    urls, prompt = split_urls(text, "messages")
    content = content_of("chat", model, text, *(upload.sha256 for upload in uploads))
    return ImageRequest(api="chat", model=model, prompt=prompt, content=content, urls=urls, uploads=uploads)


def _content(content: Any, place: str) -> tuple[str, tuple[Upload, ...]]:
    if isinstance(content, str):
        return content, ()
    check(isinstance(content, list) and content, f"{place} must be a string or a list of parts.", place)
    texts: list[str] = []
    uploads: list[Upload] = []
    for index, part in enumerate(content):
        where = f"{place}[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "image_url") or set(part) != {"type", kind}:
            raise invalid(f"{where} must be {{type: text, text}} or {{type: image_url, image_url}}.", where)
        if kind == "image_url":
            uploads.append(_picture(part["image_url"], f"{where}.image_url"))
        else:
            check(isinstance(part["text"], str), f"{where}.text must be a string.", f"{where}.text")
            texts.append(part["text"])
    return "\n".join(texts), tuple(uploads)


def _picture(value: Any, place: str) -> Upload:
    if not isinstance(value, dict) or set(value) != {"url"} or not isinstance(value["url"], str):
        raise invalid(f"{place} must be {{url: data:image/...;base64,...}}.", place)
    url: str = value["url"]
    found = _DATA_URL.match(url)
    if found is None:
        remedy = "URL references belong in front of the text" if url.startswith("http") else "allowed: png, jpeg, webp"
        raise invalid(f"{place}.url must be a data:image/...;base64 URL; {remedy}.", f"{place}.url")
    return upload_in(url[found.end() :], f"{place}.url", found[1])


def image_in(value: Any, place: str) -> str | Upload:
    """Return the reference in a field that takes an http or https URL or a data URL, or raise its Refusal."""
    found = _DATA_URL.match(value) if isinstance(value, str) else None
    if found is not None:
        return upload_in(value[found.end() :], place, found[1])
    if not isinstance(value, str) or not is_web_url(value):
        raise invalid(
            f"{place} must be an http or https URL, or a data:image/...;base64 URL of png, jpeg or webp.", place
        )
    return value


def upload_in(text: str, place: str, said: str = "") -> Upload:
    """Return the picture in base64, or raise the Refusal of what is none."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise invalid(f"{place} is not valid base64.", place) from error
    return upload_of(data, place, said)


def upload_of(data: bytes, place: str, said: str = "") -> Upload:
    """Return the picture in `data`, which `said` calls by its media type, or raise the Refusal of what is none."""
    kind = sniff(data)
    check(kind, f"{place} is no PNG, JPEG or WebP.", place)
    check(said in ("", kind), f"{place} says {said}, but its bytes are not that.", place)
    return Upload(sha256=sha256(data).hexdigest(), place=place, data=data)


def split_urls(text: str, param: str) -> tuple[tuple[str, ...], str]:
    """Split `text` into the reference URLs at its front, one space apart, and the prompt behind them."""
    urls: list[str] = []
    rest = text
    while found := _FRONT_URL.match(rest):
        check(is_web_url(found[1]), f"{found[1][:80]!r} is not a URL.", param)
        urls.append(found[1])
        rest = rest[found.end() :]
    apart = not urls or not rest[:1].isspace() or not _FRONT_URL.match(rest.lstrip())
    check(apart, "Reference URLs must be separated by exactly one space.", param)
    check(rest.strip(), "The prompt must not be empty.", param)
    return tuple(urls), rest


def refuse_unknown(body: Mapping[str, Any], known: frozenset[str], place: str = "") -> None:
    """Raise the Refusal of a field that is not among the known ones."""
    for key in body:
        name = f"{place}{key}"
        check(key in known, f"Unknown parameter: '{name}'.", name, "unknown_parameter")


def model_in(body: Mapping[str, Any]) -> str:
    """Return the model that a body names, or raise the Refusal of it."""
    return known_model(text_in(body, "model"))


def known_model(name: str) -> str:
    """Return the name of a model, or raise the Refusal of one that says that it is missing."""
    if any(part.startswith("missing-") for part in name.split("/")):
        raise Refusal(model_not_found(name))
    return name


def text_in(body: Mapping[str, Any], name: str) -> str:
    """Return a required text, or raise the Refusal of what stands there."""
    value = body.get(name)
    if not isinstance(value, str):
        code = None if name in body else "missing_parameter"
        raise invalid(f"{name} is required and must be a string.", name, code=code)
    check(value.strip(), f"{name} must not be empty.", name)
    return value


def sniff(data: bytes) -> str | None:
    """Return the media type that the first bytes say, of those the API takes."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "image/png" if data.startswith(b"\x89PNG\r\n\x1a\n") else None


def _ratio_of_sides(given: Mapping[str, Any]) -> str | None:
    if not (width := given.get("width", 0)) or not (height := given.get("height", 0)):
        return None
    ratio = f"{width}:{height}"
    check(width * height <= _MOST_PIXELS, "width and height must come to at most 4 megapixels.", "width")
    check(parse_ratio(ratio), "width and height must be within 21:9 and 9:21.", "width")
    return ratio


def whole_number(value: Any, low: int, high: int) -> bool:
    """Whether a value is a whole number from `low` to `high`."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_web_url(value: Any) -> bool:
    """Whether a value is an http or https URL with a host."""
    try:
        return isinstance(value, str) and bool(_WEB_URL.match(value) and urlsplit(value).hostname)
    except ValueError:
        return False


def web_url(value: Any, place: str) -> str | None:
    """Return the URL of a webhook, None without one, or raise the Refusal of what is none."""
    check(value is None or is_web_url(value), f"{place} must be an http or https URL.", place)
    return None if value is None else str(value)


def _is_side(value: Any) -> bool:
    return value == 0 or (whole_number(value, _SMALLEST_SIDE, _MOST_PIXELS) and value % _SIDE_STEP == 0)


# Field: what its value must be, as a test and in words.
_RULES: dict[str, tuple[Callable[[Any], object], str]] = {
    "seed": (lambda value: whole_number(value, -_LARGEST_SEED, _LARGEST_SEED), "an integer of 64 bits"),
    "aspect_ratio": (lambda value: value == "" or parse_ratio(value), "W:H from 21:9 to 9:21"),
    "output_format": (lambda value: value in get_args(Format), "jpeg, png or webp"),
    "width": (_is_side, f"0, or a multiple of {_SIDE_STEP} from {_SMALLEST_SIDE}"),
    "height": (_is_side, f"0, or a multiple of {_SIDE_STEP} from {_SMALLEST_SIDE}"),
    "safety_tolerance": (lambda value: whole_number(value, 0, _FREEST), f"an integer from 0 to {_FREEST}"),
    "prompt_upsampling": (lambda value: isinstance(value, bool), "true or false"),
    "webhook_url": (is_web_url, "an http or https URL"),
    "webhook_secret": (lambda value: isinstance(value, str), "a string"),
}
