"""Atelier, an API that batchflux does not know: orders that are painted, and asked for until they are done.

It calls when one is, and keeps a bill.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

from batchflux.capabilities import Capabilities
from batchflux.charges.books import Balance, Charge, Statement
from batchflux.errors import Code, JobError
from batchflux.models import Cost, Ended, Finished, HttpRequest, Json, Missing, Pending, Submitted
from batchflux.providers import Provider
from batchflux.providers.answers.documents import asking
from batchflux.providers.answers.tasks import TaskReader
from batchflux.providers.base import carried
from batchflux.providers.books.base import Books, amount_in
from batchflux.webhooks.api import Call, WebhookApi, WrongSignatureError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from batchflux.charges.books import Period
    from batchflux.models import Job, Reply
    from batchflux.providers.answers.documents import DocumentReader
    from batchflux.providers.answers.tasks import Task

FIELDS = frozenset({"seed", "output_format"})
PATH = "/atelier/orders"


class Calls(WebhookApi):
    """Each call has the order's id, and the HMAC-SHA256 of its body under the secret that came with the order."""

    def verify(self, call: Call, keys: Collection[str]) -> None:
        told = call.headers.get("x-atelier-signature", "")
        signed = [hmac.new(key.encode(), call.body, hashlib.sha256).hexdigest() for key in keys]
        if not any(hmac.compare_digest(told.encode(), one.encode()) for one in signed):
            raise WrongSignatureError

    def tasks(self, call: Call) -> tuple[str, ...]:
        order = json.loads(call.body).get("id")
        return (order,) if isinstance(order, str) else ()


class Bill(Books):
    """`GET /atelier/bill` has a line for each order, `GET /atelier/purse` says what is left."""

    def statements(self, period: Period) -> tuple[HttpRequest, ...]:
        return (asking(f"/atelier/bill?from={period.since:.0f}&to={period.until:.0f}", _billed),)

    def balance(self, period: Period) -> HttpRequest | None:
        return asking("/atelier/purse", _left)


class Atelier(Provider):
    """`POST /atelier/orders` with the key in `X-Atelier-Token`, then `GET /atelier/orders/ID`."""

    api = style = "atelier"
    webhooks = Calls()
    books = Bill()

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
        if job.webhook_url is not None:
            body |= {"call": job.webhook_url, "secret": job.webhook_secret}
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


def _billed(answer: DocumentReader) -> Reply:
    lines = answer.document.get("lines")
    if not answer.ok or not isinstance(lines, list):
        raise answer.failure()
    return Statement(charges=tuple(Charge(receipt=one.get("order"), amount=amount_in(one.get("usd"))) for one in lines))


def _left(answer: DocumentReader) -> Reply:
    return Balance(left=amount_in(answer.document.get("usd")))


ATELIER = Atelier()
