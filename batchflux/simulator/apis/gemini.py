"""Gemini: `POST /v1beta/models/{model}:generateContent`, and `:streamGenerateContent?alt=sse`.

Names are taken in snake_case, too, and base64 in its URL-safe alphabet: Google's own client mixes them, below `/v1`.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchflux.simulator.apis.base import Dialect, apart, as_json, credits_of, error_in, event, identity_of, text_tokens
from batchflux.simulator.replies import Refusal, dumps, invalid, json_reply, model_not_found
from batchflux.simulator.requests import (
    ImageRequest,
    Usage,
    check,
    content_of,
    is_web_url,
    json_object,
    known_model,
    refuse_unknown,
    upload_in,
    whole_number,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.simulator.apis.base import Asked, Made
    from batchflux.simulator.replies import Reply
    from batchflux.simulator.requests import Upload

_RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
_SIZES = ("1K", "2K", "4K")
_FIELDS = frozenset({"contents", "generationConfig", "safetySettings", "systemInstruction"})
_CONFIG = frozenset(
    {"responseModalities", "imageConfig", "seed", "candidateCount", "temperature", "topP", "topK", "maxOutputTokens"}
)
# US dollars a million tokens in and out: the simulator's own, near what such models cost.
_PRICES = {"gemini-2.5": (0.3, 30.0), "gemini-3-pro": (2.0, 120.0)}
_USUAL_PRICE = (0.5, 60.0)
_IMAGE_TOKENS, _OUTPUT_TOKENS, _LARGE_TOKENS = 258, 1290, 2000
_LARGEST_SEED = (1 << 31) - 1
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
_TYPES = "type.googleapis.com/google.rpc."
_METRIC = "generativelanguage.googleapis.com/generate_content_requests"
_SNAKE_BREAK = re.compile(r"_([a-z])")
_URL_SAFE = str.maketrans("-_", "+/")
_SNAKE = {"inlineData": "inline_data", "mimeType": "mime_type"}


def _parse(asked: Asked) -> ImageRequest:
    model = known_model(asked.path["model"])
    if "image" not in model:
        raise Refusal(model_not_found(model))
    body = json_object(asked.raw, _named)
    refuse_unknown(body, _FIELDS)
    config = _mapping(body.get("generationConfig", {}), "generationConfig", _CONFIG)
    shape = _mapping(config.get("imageConfig", {}), "imageConfig", frozenset({"aspectRatio", "imageSize"}))
    wanted = config.get("responseModalities", ["TEXT", "IMAGE"])
    check(isinstance(wanted, list) and "IMAGE" in wanted, "responseModalities must name IMAGE.", "responseModalities")
    ratio, size = shape.get("aspectRatio"), shape.get("imageSize", "1K")
    check(ratio in (None, *_RATIOS), f"aspectRatio must be one of {', '.join(_RATIOS)}.", "aspectRatio")
    check(size in _SIZES, f"imageSize must be one of {', '.join(_SIZES)}.", "imageSize")
    seed = config.get("seed")
    check(seed is None or whole_number(seed, -_LARGEST_SEED - 1, _LARGEST_SEED), "seed must be of 32 bits.", "seed")
    prompt, images = _contents(body.get("contents"))
    urls, uploads = apart(images)
    counted = Usage(
        text=text_tokens(prompt),
        images=_IMAGE_TOKENS * len(images),
        output=_LARGE_TOKENS if size == "4K" else _OUTPUT_TOKENS,
    )
    read, written = next((price for name, price in _PRICES.items() if model.startswith(name)), _USUAL_PRICE)
    return ImageRequest(
        api="gemini",
        model=model,
        prompt=prompt,
        content=content_of("gemini", model, prompt, dumps(config).decode(), identity_of(images)),
        urls=urls,
        uploads=uploads,
        seed=seed,
        aspect_ratio=ratio,
        output_format="png",
        inline=True,
        stream=asked.path["action"].startswith("stream"),
        drafts=0 if model.startswith("gemini-2") else 1,
        usage=counted,
        price=credits_of((counted.text + counted.images) * read + counted.output * written),
        asks={"sse": asked.query.get("alt") == "sse"},
    )


def _named(read: dict[str, Any]) -> dict[str, Any]:
    """Return an object with its names in camelCase."""
    return {_SNAKE_BREAK.sub(lambda found: found[1].upper(), key): value for key, value in read.items()}


def _mapping(value: Any, name: str, known: frozenset[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid(f"{name} must be an object.", name)
    refuse_unknown(value, known, f"{name}.")
    return value


def _contents(contents: Any) -> tuple[str, list[str | Upload]]:
    """Return the text and the pictures of the last message, which must be the user's."""
    if not isinstance(contents, list) or not contents or not isinstance(contents[-1], dict):
        raise invalid("contents is not specified.", "contents")
    said = contents[-1]
    refuse_unknown(said, frozenset({"role", "parts"}), "contents.")
    check(said.get("role", "user") == "user", "Please use a valid role: user, model.", "contents")
    parts = said.get("parts")
    if not isinstance(parts, list) or not parts:
        raise invalid("contents.parts must not be empty.", "contents.parts")
    texts: list[str] = []
    images: list[str | Upload] = []
    for index, part in enumerate(parts):
        place = f"contents.parts[{index}]"
        match part:
            case {"text": str(text)} if len(part) == 1:
                texts.append(text)
            case {"inlineData": {"mimeType": str(kind), "data": str(data)}} if len(part) == 1:
                images.append(upload_in(data.translate(_URL_SAFE), place, kind))
            case {"fileData": {"fileUri": str(url)}} if len(part) == 1 and is_web_url(url):
                images.append(url)
            case _:
                raise invalid(f"{place} must have text, inlineData or fileData.", place)
    prompt = "\n".join(texts)
    check(prompt.strip(), "contents must have a text.", "contents")
    return prompt, images


def _answer(made: Made) -> Reply | list[bytes]:
    request, usage = made.request, {} if "no_usage" in made.forms else _usage(made.request)
    pictures = [_inline(made.draft, "image/png") | {"thought": True}] * request.drafts
    parts = [*pictures, {"text": "Here is your picture."}, _inline(made.data or b"", made.media_type)]
    head = {"modelVersion": request.model, "responseId": made.id}
    if not request.stream:
        return _reply(made, {"candidates": [_candidate(*parts, finish="STOP")], **usage, **head})
    ends = [None] * (len(parts) - 1) + ["STOP"]
    frames = [{"candidates": [_candidate(part, finish=end)], **head} for part, end in zip(parts, ends, strict=True)]
    frames[-1] |= usage
    if not request.asks["sse"]:
        return _reply(made, frames)
    return [event(json.loads(_reply(made, frame).body)) for frame in frames]


def _reply(made: Made, value: Any) -> Reply:
    """Return it in the words that the request gets: in snake_case, as some gateways pass it on."""
    reply = json_reply(value)
    if "snake_case" not in made.forms:
        return reply
    body = reply.body
    for name, other in _SNAKE.items():
        body = body.replace(f'"{name}":'.encode(), f'"{other}":'.encode())
    return replace(reply, body=body)


def _inline(data: bytes, kind: str) -> dict[str, Any]:
    return {"inlineData": {"mimeType": kind, "data": base64.b64encode(data).decode()}}


def _candidate(*parts: Mapping[str, Any], finish: str | None) -> dict[str, Any]:
    content = {"content": {"role": "model", "parts": [*parts]}} if parts else {}
    return {**content, **({"finishReason": finish} if finish else {}), "index": 0}


def _usage(request: ImageRequest, *, made: bool = True) -> dict[str, Any]:
    used = request.usage or Usage(text=0, images=0, output=0)
    read, written = used.text + used.images, used.output if made else 0
    taken = {"TEXT": used.text, "IMAGE": used.images}
    details: dict[str, Any] = {
        "promptTokensDetails": [{"modality": kind, "tokenCount": count} for kind, count in taken.items() if count]
    }
    if made:
        details["candidatesTokensDetails"] = [{"modality": "IMAGE", "tokenCount": written}]
    counts = {"promptTokenCount": read, "candidatesTokenCount": written, "totalTokenCount": read + written}
    return {"usageMetadata": {**counts, **details}}


def _ended(request: ImageRequest, value: dict[str, Any]) -> Reply:
    if request.stream and request.asks["sse"]:
        return replace(json_reply({}), body=event(value), content_type="text/event-stream")
    return json_reply([value] if request.stream else value)


def _finished(request: ImageRequest, reason: str, *parts: Mapping[str, Any], made: bool) -> Reply:
    return _ended(request, {"candidates": [_candidate(*parts, finish=reason)], **_usage(request, made=made)})


def _told(reply: Reply) -> Reply:
    if (error := error_in(reply)) is None:
        return reply
    status, details = reply.status, []
    match error["code"]:
        case "invalid_api_key":
            status = 400
            details = [{"@type": f"{_TYPES}ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}]
            error["message"] = "API key not valid. Please pass a valid API key."
        case "model_not_found":
            status = 404
        case "insufficient_user_quota":
            details = [_violation("GenerateRequestsPerDayPerProjectPerModel", "250")]
        case "rate_limit_exceeded" | "token_concurrency_limit_reached":
            wait = reply.headers.get("retry-after-ms", "1000")
            details = [
                _violation("GenerateRequestsPerMinutePerProjectPerModel", "10"),
                {"@type": f"{_TYPES}RetryInfo", "retryDelay": f"{int(wait) / 1000:g}s"},
            ]
    if status == 429:  # noqa: PLR2004  Too Many Requests, of either kind
        error["message"] = "You exceeded your current quota, please check your plan and billing details."
    said = {"code": status, "message": error["message"], "status": _STATUSES.get(status, "UNKNOWN")}
    unheard = replace(reply, headers={})  # it says when to come back in the body only
    return as_json(unheard, status, {"error": {**said, **({"details": details} if details else {})}})


def _violation(name: str, value: str) -> dict[str, Any]:
    violation = {"quotaMetric": _METRIC, "quotaId": name, "quotaValue": value}
    return {"@type": f"{_TYPES}QuotaFailure", "violations": [violation]}


def _region(_: ImageRequest) -> Reply:
    says = "User location is not supported for the API use."
    return json_reply({"error": {"code": 400, "message": says, "status": "FAILED_PRECONDITION"}}, 400)


DIALECT = Dialect(
    name="gemini",
    routes=(r"/{version:v1|v1beta}/models/{model:[\w.-]+}:{action:generateContent|streamGenerateContent}",),
    parse=_parse,
    answer=_answer,
    told=_told,
    key=lambda headers: headers.get("x-goog-api-key", ""),
    faults={
        "moderated": lambda request: _finished(request, "IMAGE_SAFETY", made=False),
        "blocked_prompt": lambda request: _ended(
            request, {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, **_usage(request, made=False)}
        ),
        "no_image": lambda request: _finished(request, "NO_IMAGE", made=True),
        "text_only": lambda request: _finished(request, "STOP", {"text": "I cannot draw that yet."}, made=True),
        "region": _region,
    },
    billed=frozenset({"no_image", "text_only"}),
)
