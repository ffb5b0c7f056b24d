"""OpenRouter's images, by its image API and by chat; it says what a picture cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchflux.testing.dialect import Dialect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.testing.dialect import Picture


def _text(body: Mapping[str, Any]) -> str:
    if "prompt" in body:
        return str(body["prompt"])
    content = body["messages"][0]["content"]
    return str(content if isinstance(content, str) else content[0]["text"])


def _picture(made: Picture) -> Any:
    usage = {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "cost": made.cost}}
    more = usage if made.cost is not None else {}
    if made.path.endswith("images"):
        return {"created": 1, "data": [{"b64_json": made.base64, "media_type": "image/png"}], **more}
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{made.base64}"}, "index": 0}
    message = {"role": "assistant", "content": "Here it is.", "images": [image]}
    return {"id": "gen-1", "choices": [{"index": 0, "finish_reason": "stop", "message": message}], **more}


def _error(code: int, message: str, status: int | None = None, **metadata: Any) -> tuple[int, Any]:
    return status or code, {"error": {"code": code, "message": message, "metadata": metadata}}


DIALECT = Dialect(
    paths=("/v1/images", "/v1/chat/completions"),
    mine=lambda path, body: path.endswith("images") or "modalities" in body,
    text=_text,
    picture=_picture,
    refusals={
        "moderated": _error(403, "Your input was flagged", reasons=["violence"], flagged_input="x"),
        "500": _error(502, "Provider returned error", status=200),
        "busy": _error(402, "Budget in flight", limit_source="openrouter_in_flight_budget"),
        "auth": _error(401, "No auth credentials found"),
    },
)
