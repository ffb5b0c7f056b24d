"""OpenRouter: `POST /api/v1/images` and `.../chat/completions`, the latter streamed, too; `usage.cost` is dollars."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchflux.simulator.apis.base import Dialect, apart, as_json, error_in, event, identity_of, stream_of, text_tokens
from batchflux.simulator.replies import DONE, Refusal, error_reply, invalid, json_reply
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
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.simulator.apis.base import Asked, Made
    from batchflux.simulator.replies import Reply
    from batchflux.simulator.requests import Upload

_PRICE = 4.0  # credits a picture
_OUTPUT_TOKENS = 1290
_RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "9:21", "21:9")
_IMAGES = frozenset(
    "model prompt n aspect_ratio resolution size quality background seed output_format input_references".split()  # noqa: SIM905  one line reads best
)
_CHAT = frozenset({"model", "messages", "modalities", "image_config", "stream", "seed", "usage", "stream_options"})
_IMAGES_ONLY = ("openai/gpt-image", "bytedance-seed/", "krea/")
_FORMATS = ("png", "jpeg", "webp")
_STATUSES = {
    "insufficient_user_quota": 402,
    "model_not_found": 404,
    "invalid_api_key": 401,
    "sensitive_words_detected": 403,
    "content_policy_violation": 403,
    "prompt_blocked": 403,
}
_FLAGGED = {"reasons": ["violence"], "flagged_input": "A mug ...", "provider_name": "OpenAI"}


def _parse(asked: Asked) -> ImageRequest:
    body, chat = json_object(asked.raw), asked.path["action"] != "images"
    refuse_unknown(body, _CHAT if chat else _IMAGES)
    model = model_in(body)
    if chat and model.startswith(_IMAGES_ONLY):
        raise Refusal(error_reply(500, "Internal Server Error", "server_error"))
    if chat:
        wanted = body.get("modalities")
        check(isinstance(wanted, list) and "image" in wanted, "modalities must name image.", "modalities")
        prompt, images = _messages(body.get("messages"))
        shape = body.get("image_config", {})
        check(isinstance(shape, dict), "image_config must be an object.", "image_config")
        refuse_unknown(shape, frozenset({"aspect_ratio", "image_size"}), "image_config.")
    else:
        prompt, images, shape = text_in(body, "prompt"), _listed(body.get("input_references", [])), body
    ratio = shape.get("aspect_ratio")
    check(ratio is None or ratio in _RATIOS, f"aspect_ratio must be one of {', '.join(_RATIOS)}.", "aspect_ratio")
    check(body.get("n", 1) == 1, "n must be 1.", "n")
    check(body.get("output_format", "png") in _FORMATS, "output_format must be png, jpeg or webp.", "output_format")
    check(isinstance(body.get("stream", False), bool), "stream must be true or false.", "stream")
    urls, uploads = apart(images)
    fields = sorted((key, str(value)) for key, value in body.items() if key not in ("messages", "input_references"))
    return ImageRequest(
        api="openrouter",
        model=model,
        prompt=prompt,
        content=content_of("openrouter", chat, fields, prompt, identity_of(images)),
        urls=urls,
        uploads=uploads,
        seed=body.get("seed"),
        aspect_ratio=ratio,
        output_format=body.get("output_format", "png"),
        inline=True,
        stream=body.get("stream", False),
        usage=Usage(text=text_tokens(prompt), images=0, output=_OUTPUT_TOKENS),
        price=_PRICE,
        asks={"chat": chat},
    )


def _listed(value: Any) -> list[str | Upload]:
    if not isinstance(value, list):
        raise invalid("input_references must be a list.", "input_references")
    return [_one(part, f"input_references[{index}]") for index, part in enumerate(value)]


def _one(part: Any, place: str) -> str | Upload:
    match part:
        case {"type": "image_url", "image_url": {"url": url}} if len(part) == 2:  # noqa: PLR2004  both of them
            return image_in(url, place)
    raise invalid(f"{place} must be {{type: image_url, image_url: {{url}}}}.", place)


def _messages(messages: Any) -> tuple[str, list[str | Upload]]:
    """Return the text and the pictures of the last message, which must be the user's."""
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        raise invalid("messages must be a list with at least one message.", "messages")
    content = messages[-1].get("content")
    check(messages[-1].get("role") == "user", "The last message must be the user's.", "messages")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise invalid("content must be a text or a list of parts.", "messages")
    texts: list[str] = []
    images: list[str | Upload] = []
    for index, part in enumerate(parts):
        match part:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case _:
                images.append(_one(part, f"messages.content[{index}]"))
    prompt = "\n".join(texts)
    check(prompt.strip(), "The prompt must not be empty.", "messages")
    return prompt, images


def _answer(made: Made) -> Reply | list[bytes]:
    request, data = made.request, base64.b64encode(made.data or b"").decode()
    usage = _usage(request, told="no_cost" not in made.forms)
    if not request.asks["chat"]:
        said = {"created": made.created, "data": [{"b64_json": data, "media_type": made.media_type}], "usage": usage}
        return replace(json_reply(said), headers={"X-Generation-Id": f"gen-{made.id}"})
    picture = {"type": "image_url", "image_url": {"url": f"data:{made.media_type};base64,{data}"}, "index": 0}
    head = {"id": f"gen-{made.id}", "provider": "Simulator", "model": request.model, "created": made.created}
    message = {"role": "assistant", "content": "", "images": [picture]}
    if not request.stream:
        end = {"index": 0, "finish_reason": "stop", "native_finish_reason": "STOP", "message": message}
        return json_reply({**head, "object": "chat.completion", "choices": [end], "usage": usage})
    head["object"] = "chat.completion.chunk"
    frames = [
        {**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "delta": message, "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {**head, "choices": [], "usage": usage},
    ]
    return [b": OPENROUTER PROCESSING\n\n", *(event(frame) for frame in frames), DONE]


def _usage(request: ImageRequest, *, told: bool) -> dict[str, Any]:
    used = request.usage or Usage(text=0, images=0, output=0)
    dollars = request.price / 100
    counts = {"prompt_tokens": used.text, "completion_tokens": used.output, "total_tokens": used.text + used.output}
    cost = {"cost": dollars, "cost_details": {"upstream_inference_cost": None}}
    return {**counts, **(cost if told else {})}


def _told(reply: Reply) -> Reply:
    if (error := error_in(reply)) is None:
        return reply
    status = _STATUSES.get(str(error["code"]), reply.status)
    return as_json(reply, status, _error(status, error["message"], _FLAGGED if status == 403 else None))  # noqa: PLR2004  moderated


def _error(code: int, message: str, metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, **({"metadata": metadata} if metadata else {})}}


def _in_200(request: ImageRequest) -> Reply:
    error = _error(502, "Provider returned error", {"provider_name": "Simulator", "raw": "upstream failed"})
    if not request.asks["chat"]:
        return json_reply(error)
    if request.stream:
        ending = {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]}
        return stream_of(b": OPENROUTER PROCESSING\n\n", event(ending | error), DONE)
    end = {"index": 0, "finish_reason": "error", "message": {"role": "assistant", "content": ""}}
    return json_reply({"id": "gen-1", "object": "chat.completion", "choices": [end | error]})


def _no_image(request: ImageRequest) -> Reply:
    usage = _usage(request, told=True)
    if not request.asks["chat"]:
        return json_reply({"created": 0, "data": [], "usage": usage})
    said = {"role": "assistant", "content": "I cannot draw that."}
    if request.stream:
        return stream_of(
            event({"choices": [{"index": 0, "delta": said, "finish_reason": "stop"}], "usage": usage}), DONE
        )
    return json_reply({"choices": [{"index": 0, "finish_reason": "stop", "message": said}], "usage": usage})


def _in_flight(_: ImageRequest) -> Reply:
    metadata = {"limit_source": "openrouter_in_flight_budget"}
    says = "Insufficient credits for the requests in flight."
    return replace(json_reply(_error(402, says, metadata), 402), headers={"Retry-After": "1"})


def _moderated_raw(_: ImageRequest) -> Reply:
    raw = '{"id":"t1","status":"Request Moderated","details":{"Moderation Reasons":["Violence"]}}'
    return json_reply(_error(502, "Provider returned error", {"raw": raw, "provider_name": "Black Forest Labs"}), 502)


DIALECT = Dialect(
    name="openrouter",
    routes=("/api/v1/{action:images|chat/completions}", "/v1/{action:images}", "/v1/{action:chat/completions}"),
    parse=_parse,
    answer=_answer,
    told=_told,
    faults={
        "key_limit": lambda _: json_reply(_error(403, "Key limit exceeded (total limit)."), 403),
        "in_flight": _in_flight,
        "moderated_raw": _moderated_raw,
        "error_in_200": _in_200,
        "no_image": _no_image,
    },
    billed=frozenset({"no_image"}),
)
