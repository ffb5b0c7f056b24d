"""OpenAI's images; a picture costs 1,000 tokens for each cent that `#cost` tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchflux.testing.dialect import Dialect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.testing.dialect import Picture


def _picture(made: Picture) -> Any:
    answer: dict[str, Any] = {"created": 1, "output_format": "png", "data": [{"b64_json": made.base64}]}
    if made.cost is not None:
        out = round(made.cost * 100_000)
        details = {"text_tokens": 0, "image_tokens": 0}
        answer["usage"] = {
            "total_tokens": out, "input_tokens": 0, "output_tokens": out, "input_tokens_details": details
        }  # fmt: skip
    return answer


def _unread(path: str, kind: str, body: Mapping[str, Any]) -> tuple[int, Any] | None:
    """A relay that knows edits as forms only: it cannot read JSON, and makes nothing of it."""
    if path.endswith("edits") and kind == "application/json" and "#form" in str(body.get("prompt")):
        message = "request Content-Type isn't multipart/form-data"
        return 400, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
    if not body.get("model") or "n" in body:
        return 400, {"error": {"message": "You must provide a model.", "type": "invalid_request_error"}}
    return None


def _moderated() -> Any:
    message = "Your request was rejected by the safety system."
    details = {"moderation_stage": "input", "categories": ["violence"]}
    error = {"message": message, "type": "image_generation_user_error", "param": None, "code": "moderation_blocked"}
    return {"error": {**error, "moderation_details": details}}


DIALECT = Dialect(
    paths=("/v1/images/generations", "/v1/images/edits"),
    mine=lambda path, body: path.endswith("edits") or str(body.get("model")).startswith("gpt-image"),
    text=lambda body: str(body["prompt"]),
    picture=_picture,
    refusals={"moderated": (400, _moderated())},
    unread=_unread,
)
