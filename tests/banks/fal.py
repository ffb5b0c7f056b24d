"""fal's queue: a failure shows in the result, and units in a header of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from batchflux.testing.dialect import Accepted, Dialect, Task, Told

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def _accepted(task: Task) -> object:
    place = f"{task.url}/fal-ai/flux-pro/requests/{task.id}"
    urls = {"response_url": place, "status_url": f"{place}/status", "cancel_url": f"{place}/cancel"}
    return {"request_id": task.id, "gateway_request_id": task.id, **urls, "queue_position": 0}


def _status(task: Task) -> Told:
    if task.word == "missing":
        return 404, {"status": "NOT_FOUND"}, {}
    if task.word == "pending":
        return 202, {"status": "IN_QUEUE", "request_id": task.id, "queue_position": 3}, {}
    return 200, {"status": "COMPLETED", "request_id": task.id, "logs": None, "metrics": {"inference_time": 4.2}}, {}


def _result(task: Task) -> Told:
    if task.word == "moderated":
        fault = {
            "loc": ["body", "prompt"],
            "msg": "The content could not be processed",
            "type": "content_policy_violation",
        }
        return 422, {"detail": [{**fault, "url": "https://docs.fal.ai/errors", "input": "?"}]}, {}
    if task.word == "failed":
        return 500, {"detail": "Internal Server Error", "error_type": "internal_server_error"}, {}
    # a picture is a unit of 0.14; `#cost` tells another
    units = {} if task.cost is None else {"x-fal-billable-units": str(task.cost / 0.14)}
    image = {"url": task.link, "width": 48, "height": 48, "content_type": "image/png"}
    return 200, {"images": [image], "timings": {}, "has_nsfw_concepts": [False], "prompt": "?"}, units


def _listed(query: Mapping[str, str], accepted: Sequence[Accepted]) -> Told:
    """All of an endpoint that ended within a time, the last first, one a page."""
    start, end = (datetime.fromisoformat(query[name]).timestamp() for name in ("start", "end"))
    found = [one for one in reversed(accepted) if one.path == f"/{query['endpoint_id']}" and start <= one.at < end]
    first = int(query.get("cursor", "0"))
    items = [
        {
            "request_id": one.id,
            "endpoint_id": query["endpoint_id"],
            "sent_at": datetime.fromtimestamp(one.at, UTC).isoformat(),
            "ended_at": datetime.fromtimestamp(one.at, UTC).isoformat(),
            "status_code": 200,
            **({"json_input": dict(reversed([*one.body.items()]))} if query.get("expand") == "payloads" else {}),
        }
        for one in found[first : first + 1]
    ]
    more = len(found) > first + 1
    return 200, {"items": items, "has_more": more, "next_cursor": str(first + 1) if more else None}, {}


DIALECT = Dialect(
    paths=("/fal-ai/{endpoint:.+}",),
    text=lambda body: str(body["prompt"]),
    accepted=_accepted,
    asks={"/fal-ai/{app}/requests/{id}/status": _status, "/fal-ai/{app}/requests/{id}": _result},
    lists={"/v1/models/requests/by-endpoint": _listed},
    refusals={"auth": (401, {"detail": "Invalid key credentials"})},
)
