"""What the gateway tells Prometheus of itself, and refusals of streams before their heads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.gateway.conftest import numbers_in
from tests.waiting import until

if TYPE_CHECKING:
    from tests.gateway.conftest import Front, Gateways

CHAT = "/chat/completions"


async def numbers(front: Front) -> dict[tuple[str, ...], float]:
    """Return the gateway's own numbers, by name and the values of their labels."""
    async with front.http.get(f"{front.url.removesuffix('/v1')}/metrics") as answer:
        return numbers_in(await answer.text())


async def test_answers_joins_and_money_are_counted(gateways: Gateways) -> None:
    gateways.bank.held = lambda: True
    async with gateways.opened() as front:
        calls = asyncio.gather(*(front.picture("job a") for _ in range(3)))
        await until(lambda: front.desk.waiting == 3)
        meanwhile = await numbers(front)
        assert (meanwhile["calls",], meanwhile["waiting",]) == (1, 3)
        gateways.bank.held = None
        await calls
        await front.post("/nowhere", {})
        await front.picture("")
        told = await numbers(front)
    assert told["answers_total", "/v1/images/generations", "200"] == 3
    assert told["answers_total", "/v1/images/generations", "400"] == 1
    assert told["answers_total", "other", "404"] == 1
    assert (told["joined_total",], told["calls",], told["waiting",]) == (2, 0, 0)
    assert told["client_spent", "local", "CNY"] == pytest.approx(0.14)


@pytest.mark.parametrize("path", ["/images/generations", CHAT])
async def test_a_stream_that_cannot_be_paid_has_the_status_of_a_refusal(gateways: Gateways, path: str) -> None:
    body = {"model": "tuzi", "stream": True}
    body |= {"messages": [{"role": "user", "content": "job a"}]} if path == CHAT else {"prompt": "job a"}
    async with gateways.opened(limits=", budget: 0.1") as front:
        answer = await front.post(path, body)
    assert (answer.status, answer.code) == (429, "insufficient_quota")
    assert answer.headers["x-should-retry"] == "false"
    assert not gateways.bank.billed
