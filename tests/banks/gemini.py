"""Gemini's generateContent: a draft that is marked as a thought, then the picture; a cent is 1,000 tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchflux.testing.dialect import Dialect

if TYPE_CHECKING:
    from batchflux.testing.dialect import Picture

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


DIALECT = Dialect(
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
