"""batchflux's suite over Atelier: how its server answers, how a manifest names it, how it calls and bills."""

from __future__ import annotations

import hashlib
import hmac
from decimal import Decimal
from typing import Any, ClassVar

import pytest

from batchflux.charges.books import Balance, Charge, Period, Statement
from batchflux.providers import providers
from batchflux.testing import Dialect, ProviderSuite, Task, Told, Way
from batchflux.webhooks.api import Call, WrongSignatureError

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


def test_its_calls_are_verified_and_name_the_order() -> None:
    calls = providers()["atelier", "atelier"].webhooks
    assert calls is not None
    body = b'{"id": "order-1"}'
    signed = hmac.new(b"secret-1", body, hashlib.sha256).hexdigest()
    call = Call(headers={"x-atelier-signature": signed}, body=body, at=0.0)
    calls.verify(call, ["secret-1"])
    assert calls.tasks(call) == ("order-1",)
    with pytest.raises(WrongSignatureError):
        calls.verify(call, ["secret-2"])


def test_its_bill_is_read() -> None:
    books, period = providers()["atelier", "atelier"].books, Period(since=0.0, until=9.0)
    assert books is not None
    (bill,) = books.statements(period)
    purse = books.balance(period)
    assert purse is not None
    said = []
    for request, answer in ((bill, b'{"lines": [{"order": "order-1", "usd": "0.14"}]}'), (purse, b'{"usd": 12.5}')):
        reader = request.reader(200, {})
        reader.feed(answer)
        said.append(reader.finish(complete=True))
    assert said == [
        Statement(charges=(Charge(receipt="order-1", amount=Decimal("0.14")),)),
        Balance(left=Decimal("12.5")),
    ]
