"""The run without an end: what ends any other run ends the calls of the moment here, and later ones are made."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from batchflux.runner import stream
from tests.waiting import until

if TYPE_CHECKING:
    import pytest

    from tests.gateway.conftest import Gateways


async def test_a_refused_key_is_tried_anew(gateways: Gateways, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "REST", 0.0)
    async with gateways.opened() as front:
        refused = await front.picture("job a #auth*1 #url")
        assert (refused.status, refused.code) == (503, "provider_key_refused")
        await until(lambda: front.run._engine is None)  # what ended is over: until then its reason stands
        assert (await front.picture("job a #auth*1 #url")).status == 200
    assert gateways.bank.billed == {"a": 1}


async def test_while_it_rests_calls_are_told_why_at_once(gateways: Gateways, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "REST", 3600.0)
    async with gateways.opened() as front:
        assert (await front.picture("job a #auth*9")).code == "provider_key_refused"
        again = await front.picture("job b")
        assert (again.status, again.code) == (503, "provider_key_refused")
        assert gateways.bank.posts == {"a": 1}
        assert not front.run.task.done()  # type: ignore[union-attr]


async def test_a_stop_finishes_what_is_under_way(gateways: Gateways) -> None:
    gateways.bank.held = lambda: True
    async with gateways.opened(at_once=1) as front:
        under_way = asyncio.create_task(front.picture("job a"))
        await until(lambda: gateways.bank.posts["a"])
        waiting = asyncio.create_task(front.picture("job b"))
        await until(lambda: front.desk.waiting == 2)
        stopping = asyncio.create_task(front.run.drained())
        await until(lambda: front.run.session.gate.closed)
        gateways.bank.held = None
        assert (await under_way).status == 200
        left = await waiting
        assert (left.status, left.code) == (503, "gateway_stopping")
        assert int(left.headers["retry-after"]) > 0
        await stopping
    assert gateways.bank.billed == {"a": 1}
    async with gateways.opened() as front:
        mark = {"x-stainless-retry-count": "1"}
        assert (await front.picture("job b", headers=mark)).status == 200
    assert [row["status"] for row in gateways.rows()] == ["done", "done"]
