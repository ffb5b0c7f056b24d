"""Gemini's generateContent: a draft that is marked as a thought, then the picture; a cent is 1,000 tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchflux.testing.dialect import BatchDialect, Dialect

if TYPE_CHECKING:
    from batchflux.testing.dialect import Batch, Picture

DRAFT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"


def _picture(made: Picture) -> Any:
    parts = [
        {"inlineData": {"mimeType": "image/png", "data": DRAFT}, "thought": True},
        {"text": "Here it is."},
        {"inlineData": {"mimeType": "image/png", "data": made.base64}},
    ]
    answer: dict[str, Any] = {
        "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}],
        "responseId": "r1",
    }
    if made.cost is not None:
        count = round(made.cost * 100_000)
        answer["usageMetadata"] = {
            "promptTokenCount": 0,
            "candidatesTokenCount": count,
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": count}],
        }
    return answer


def _error(code: int, status: str, **more: Any) -> tuple[int, Any]:
    return code, {"error": {"code": code, "message": f"simulated {status}", "status": status, **more}}


def _batch(batch: Batch) -> Any:
    """An operation: https://ai.google.dev/api/batch-api"""
    states = {"running": "RUNNING", "completed": "SUCCEEDED"}
    state = f"BATCH_STATE_{states.get(batch.state, batch.state.upper())}"
    about: dict[str, Any] = {"displayName": batch.name, "state": state, "name": f"batches/{batch.id}"}
    told = {"name": f"batches/{batch.id}", "metadata": about, "done": batch.state != "running"}
    if batch.state == "failed":
        return {**told, "error": {"code": 3, "message": "line 1 of the file cannot be read"}}
    if batch.files and batch.state != "expired":
        return {**told, "response": {"responsesFile": f"files/{batch.files[0]}"}}
    return told


def _answered(key: str, status: int, body: Any) -> Any:
    if status == 200:
        return {"key": key, "response": body}
    codes = {400: 3, 500: 13}
    return {"key": key, "error": {"code": codes[status], "message": body["error"]["message"]}}


BATCHES = BatchDialect(
    routes={
        "POST /upload/v1beta/files": "begin",
        "POST /put/{id}": "upload",
        "POST /v1beta/models/{model}:batchGenerateContent": "create",
        "GET /v1beta/batches": "list",
        "GET /v1beta/batches/{id}": "poll",
        "POST /v1beta/batches/{id}:cancel": "cancel",
        "GET /download/v1beta/files/{id}:download": "download",
    },
    line=lambda line: (line["key"], line["request"]),
    asked=lambda body: (
        body["batch"]["input_config"]["file_name"].removeprefix("files/"),
        body["batch"]["display_name"],
    ),
    begun=lambda url: {"X-Goog-Upload-URL": url},
    uploaded=lambda name: {"file": {"name": f"files/{name}", "state": "ACTIVE"}},
    told=_batch,
    listed=lambda batches: {"operations": [*map(_batch, batches)]},
    answered=_answered,
    keeps_expired=False,
)
DIALECT = Dialect(
    batches=BATCHES,
    key="x-goog-api-key",
    paths=("/v1beta/models/{model}",),
    text=lambda body: str(body["contents"][0]["parts"][0]["text"]),
    picture=_picture,
    refusals={
        "moderated": (200, {"candidates": [{"finishReason": "IMAGE_SAFETY", "index": 0}]}),
        "500": _error(500, "INTERNAL"),
        "busy": _error(
            429,
            "RESOURCE_EXHAUSTED",
            details=[
                {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": "XPerMinute"}]},
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"},
            ],
        ),
        "auth": _error(400, "INVALID_ARGUMENT", details=[{"reason": "API_KEY_INVALID"}]),
    },
)
