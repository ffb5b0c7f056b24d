"""A review of a gateway's folder asks for redos, and the gateway makes them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from batchflux.gateway import redos
from batchflux.ledger.decisions import Decision, decide
from batchflux.testing.bank import picture_of
from tests.waiting import until

if TYPE_CHECKING:
    import pytest

    from tests.gateway.conftest import Gateways


async def ended(gateways: Gateways, jobs: int) -> list[dict[str, str]]:
    """Wait until so many jobs have their row, and return all."""
    await until(lambda: len(gateways.rows()) >= jobs, 0.02)
    return gateways.rows()


async def test_a_redo_is_made_and_paid_once_also_over_a_restart(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redos, "LOOK", 0.05)
    ledger = gateways.folder / "out" / "ledger.db"
    async with gateways.opened() as front:
        name = (await front.picture("job a", n=2)).headers["x-batchflux-jobs"].split(", ")[1]
        key = next(bytes.fromhex(row["key"]) for row in gateways.rows() if row["id"] == name)
        await asyncio.to_thread(decide, ledger, Decision(keys=(key,), review="redo"))
        rows = await ended(gateways, 3)
        assert rows[2]["id"] == f"{name}-redo1"
        assert rows[2]["tags.client"] == "local"
        assert (gateways.folder / "out" / rows[2]["file_name"]).read_bytes() == picture_of("a")
        redone = bytes.fromhex(rows[2]["key"])
        await asyncio.to_thread(decide, ledger, Decision(keys=(redone,), review="redo"))
        rows = await ended(gateways, 4)
        assert rows[3]["id"] == f"{name}-redo2"
    assert gateways.bank.billed == {"a": 4}
    async with gateways.opened() as front:
        await asyncio.sleep(0.3)
        assert (await front.picture("job b")).status == 200
    assert gateways.bank.billed == {"a": 4, "b": 1}
