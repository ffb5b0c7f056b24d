"""Replicate's predictions, none of which has finished when it is accepted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from batchflux.testing.dialect import Accepted, Dialect, Task, Told

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ERRORS = {
    "failed": "Director: unexpected error handling prediction (E6716)",
    "moderated": "The input or output was flagged as sensitive. Please try again with different inputs. (E005)",
}


def _prediction(task: Task) -> dict[str, Any]:
    status = {"pending": "processing", "ready": "succeeded"}.get(task.word, "failed")
    place = f"https://api.replicate.com/v1/predictions/{task.id}"
    return {
        "id": task.id,
        "model": "black-forest-labs/flux-kontext-pro",
        "version": "hidden",
        "input": {"prompt": "?", "input_image": "https://photos.example/in.png"},
        "output": task.link if status == "succeeded" else None,
        "error": _ERRORS.get(task.word),
        "status": status,
        "logs": "",
        "data_removed": False,
        "urls": {"get": place, "cancel": f"{place}/cancel", "web": f"https://replicate.com/p/{task.id}"},
    }


def _asked(task: Task) -> Told:
    if task.word == "missing":
        return 404, {"detail": "Not found.", "status": 404}, {}
    return 200, _prediction(task), {}


def _listed(query: Mapping[str, str], accepted: Sequence[Accepted]) -> Told:
    """All that was made within a time, the last first, one a page."""
    after, before = (datetime.fromisoformat(query[f"created_{name}"]).timestamp() for name in ("after", "before"))
    found = [one for one in reversed(accepted) if after < one.at < before]
    first = int(query.get("cursor", "0"))
    results = [
        {
            "id": one.id,
            "model": one.path.removeprefix("/v1/models/").removesuffix("/predictions"),
            "version": "hidden",
            "input": dict(reversed([*one.body["input"].items()])),
            "status": "starting",
            "created_at": datetime.fromtimestamp(one.at, UTC).isoformat().replace("+00:00", "Z"),
        }
        for one in found[first : first + 1]
    ]
    place = f"https://api.replicate.com/v1/predictions?{urlencode({**query, 'cursor': first + 1})}"
    following = place if len(found) > first + 1 else None
    return 200, {"previous": None, "next": following, "results": results}, {}


_THROTTLED = "Request was throttled. Your rate limit resets in ~1s."
DIALECT = Dialect(
    paths=("/v1/models/{owner}/{name}/predictions", "/v1/predictions"),
    text=lambda body: str(body["input"]["prompt"]),
    accepted=lambda task: {**_prediction(task), "status": "starting"},
    asks={"/v1/predictions/{id}": _asked},
    lists={"/v1/predictions": _listed},
    refusals={
        "busy": (429, {"detail": _THROTTLED, "status": 429, "retry_after": 1}),
        "auth": (401, {"title": "Unauthenticated", "detail": "You did not pass a valid token", "status": 401}),
    },
)
