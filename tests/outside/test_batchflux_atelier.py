"""batchflux's suite over Atelier: how its server answers, and how a manifest names it."""

from __future__ import annotations

from typing import Any, ClassVar

from batchflux.testing import Dialect, ProviderSuite, Task, Told, Way

STATUS = {"pending": "painting", "missing": "unknown", "moderated": "refused", "failed": "spoilt", "ready": "succeeded"}


def _told(task: Task) -> Told:
    order: dict[str, Any] = {"id": task.id, "status": STATUS[task.word]}
    if task.word == "ready":
        order |= {"output": task.link}
    if task.cost is not None:
        order |= {"cost": task.cost}
    return 200, order, {}


class TestAtelier(ProviderSuite):
    ways: ClassVar = (Way(name="atelier", provider="name: atelier, model: gouache", tasks=True, tells_cost=True),)
    dialects: ClassVar = (
        Dialect(
            paths=("/atelier/orders",),
            text=lambda body: str(body["paint"]),
            accepted=lambda task: {"id": task.id, "status": "painting"},
            asks={"/atelier/orders/{id}": _told},
            key="X-Atelier-Token",
        ),
    )
