"""Atelier, an API that batchflux does not know: orders that are painted, and asked for until they are done."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

from batchflux.capabilities import Capabilities
from batchflux.errors import Code, JobError
from batchflux.models import Cost, Ended, Finished, HttpRequest, Json, Missing, Pending, Submitted
from batchflux.providers import Provider
from batchflux.providers.answers.tasks import TaskReader
from batchflux.providers.base import carried

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.models import Job, Reply
    from batchflux.providers.answers.tasks import Task

FIELDS = frozenset({"seed", "output_format"})
PATH = "/atelier/orders"


class Atelier(Provider):
    """`POST /atelier/orders` with the key in `X-Atelier-Token`, then `GET /atelier/orders/ID`."""

    api = style = "atelier"

    def capabilities(self, model: str) -> Capabilities:
        return Capabilities(
            api=self.api, style=self.style, model="", fields=FIELDS, formats=frozenset({"png"}), local_images=False,
            most_images=0, tasks=True, tells_cost=True,
            base_url="https://atelier.example", key_names=("ATELIER_TOKEN",),
        )  # fmt: skip

    def authorize(self, secret: str) -> Mapping[str, str]:
        return {"X-Atelier-Token": secret}

    def submit(self, job: Job, attempt: int) -> HttpRequest:
        body = {"paint": job.prompt, "with": job.model, **carried(job, FIELDS)}
        reader = partial(TaskReader, job, _ordered)
        return HttpRequest(method="POST", url=PATH, content=Json(value=body), reader=reader)

    def poll(self, job: Job, handle: str) -> HttpRequest:
        reader = partial(TaskReader, job, _asked, asked=handle)
        return HttpRequest(method="GET", url=f"{PATH}/{quote(handle, safe='')}", reader=reader, repeatable=True)


def _ordered(task: Task) -> Reply | None:
    return None if task.id is None or task.http >= 400 else Submitted(handle=task.id)


def _asked(task: Task) -> Reply | None:
    cost = None if task.cost is None else Cost(amount=task.cost)
    match task.status:
        case "unknown":
            return Missing()
        case "painting":
            return Pending()
        case "refused":
            return Ended(error=JobError(Code.MODERATED, f"the order was refused: {task.said}"))
        case "spoilt":
            return Ended(error=task.failure())
        case "succeeded" if task.asset is not None:
            return Finished(asset=task.asset, cost=cost)
    return None


ATELIER = Atelier()
