"""fal's queue: a failure shows in the result, and units in a header of it."""

from __future__ import annotations

from batchflux.testing.dialect import Dialect, Task, Told


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


DIALECT = Dialect(
    paths=("/fal-ai/{endpoint:.+}",),
    text=lambda body: str(body["prompt"]),
    accepted=_accepted,
    asks={"/fal-ai/{app}/requests/{id}/status": _status, "/fal-ai/{app}/requests/{id}": _result},
    refusals={"auth": (401, {"detail": "Invalid key credentials"})},
)
