"""A ComfyUI server: what is not in its history is in its queue."""

from __future__ import annotations

from batchflux.testing.dialect import Dialect, Task, Told


def _history(task: Task) -> Told:
    if task.word in {"missing", "pending"}:
        return 200, {}, {}
    graph = [1, task.id, {}, {"client_id": "batchflux"}, ["9"]]
    if task.word == "failed":
        why = {"prompt_id": task.id, "node_id": "6", "node_type": "KSampler", "exception_message": "out of memory"}
        messages = [["execution_start", {}], ["execution_error", {**why, "exception_type": "torch.OutOfMemoryError"}]]
        status = {"status_str": "error", "completed": False, "messages": messages}
        return 200, {task.id: {"prompt": graph, "outputs": {}, "status": status, "meta": {}}}, {}
    images = [{"filename": task.link.rpartition("/")[2], "subfolder": "", "type": "output"}]
    status = {"status_str": "success", "completed": True, "messages": [["execution_success", {}]]}
    return 200, {task.id: {"prompt": graph, "outputs": {"9": {"images": images}}, "status": status, "meta": {}}}, {}


DIALECT = Dialect(
    paths=("/prompt",),
    text=lambda body: str(body["prompt"]["6"]["inputs"]["text"]),
    accepted=lambda task: {"prompt_id": task.id, "number": 1, "node_errors": {}},
    asks={
        "/history/{id}": _history,
        "/queue": lambda task: (200, {"queue_running": [], "queue_pending": [[1, name] for name in task.all]}, {}),
    },
    task=lambda body: str(body["prompt_id"]),
    keyed=False,
)
