"""OpenAI's images; a picture costs 1,000 tokens for each cent that `#cost` tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchflux.testing.dialect import BatchDialect, Dialect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.testing.dialect import Batch, Picture


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


def _batch(batch: Batch) -> Any:
    """A batch: https://developers.openai.com/api/reference/resources/batches"""
    status = "in_progress" if batch.state == "running" else batch.state
    fault = {"code": "invalid_json_line", "message": "This line is not parseable as valid JSON.", "line": 1}
    return {
        "id": batch.id,
        "object": "batch",
        "status": status,
        "errors": {"object": "list", "data": [fault]} if status == "failed" else None,
        "output_file_id": next(iter(batch.files), None),
        "error_file_id": None,
        "request_counts": {"total": len(batch.lines), "completed": 0, "failed": 0},
        "metadata": {"batchflux": batch.name},
    }


def _answered(key: str, status: int, body: Any) -> Any:
    response = {"status_code": status, "request_id": "r", "body": body}
    return {"id": f"batch_req_{key}", "custom_id": key, "response": response, "error": None}


BATCHES = BatchDialect(
    routes={
        "POST /v1/files": "upload",
        "POST /v1/batches": "create",
        "GET /v1/batches": "list",
        "GET /v1/batches/{id}": "poll",
        "POST /v1/batches/{id}/cancel": "cancel",
        "GET /v1/files/{id}/content": "download",
    },
    line=lambda line: (line["custom_id"], line["body"]),
    asked=lambda body: (body["input_file_id"], body["metadata"]["batchflux"]),
    uploaded=lambda name: {"id": name, "object": "file", "purpose": "batch"},
    told=_batch,
    listed=lambda batches: {"object": "list", "data": [*map(_batch, batches)], "has_more": False},
    answered=_answered,
)
DIALECT = Dialect(
    batches=BATCHES,
    paths=("/v1/images/generations", "/v1/images/edits"),
    mine=lambda path, body: path.endswith("edits") or str(body.get("model")).startswith("gpt-image"),
    text=lambda body: str(body["prompt"]),
    picture=_picture,
    refusals={"moderated": (400, _moderated())},
    unread=_unread,
)
