"""What is done with a gateway's folder between two gateways: who asks again finds the call, and pays nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import TYPE_CHECKING

from batchflux.exports.projection import write_results
from batchflux.folders.merge import merge
from batchflux.folders.prune import listed_no_longer
from batchflux.gateway import redos
from batchflux.ledger.decisions import Decision, decide
from batchflux.planner import load_manifest
from batchflux.runner import RunOptions, run
from batchflux.testing.bank import KEY, PRICE
from tests.gateway.conftest import at_once
from tests.gateway.money.test_money_faults import AGAIN, LEFT, TASKS, clients, manifest
from tests.waiting import until

if TYPE_CHECKING:
    import pytest

    from tests.gateway.conftest import Gateways


async def test_a_mark_and_a_budget_hold_in_a_merged_folder(gateways: Gateways) -> None:
    keys = clients(left=3, right=2)
    out = gateways.folder / "out"
    async with gateways.opened(keys=keys) as front:
        assert (await front.picture("job a", headers=LEFT)).status == 200
    out.rename(gateways.folder / "one")
    async with gateways.opened(keys=keys) as front:
        first = await front.picture("job b", n=2, headers=LEFT | {"Idempotency-Key": "k"})
        assert first.status == 200
    out.rename(gateways.folder / "two")
    await asyncio.to_thread(merge, gateways.folder / "one", gateways.folder / "two", out, write_results)
    async with gateways.opened(keys=keys) as front:
        again = await front.picture("job b", n=2, headers=LEFT | {"Idempotency-Key": "k"})
        assert again.status == 200, again.json
        assert again.headers["x-batchflux-jobs"] == first.headers["x-batchflux-jobs"]
        assert (await front.picture("job c", headers=LEFT)).code == "insufficient_quota"
    assert gateways.bank.billed == {"a": 1, "b": 2}
    assert not listed_no_longer(out).moves


async def test_a_mark_stands_for_its_pictures_also_where_the_manifest_has_changed(gateways: Gateways) -> None:
    mark = {"Idempotency-Key": "k"}
    async with gateways.opened(manifest=manifest(gateways)) as front:
        first = await front.picture("job a", headers=mark)
    changed = manifest(gateways).replace("flux-kontext-pro", "flux-kontext-dev")
    async with gateways.opened(manifest=changed) as front:
        again = await front.picture("job a", headers=mark)
        assert again.status == 200, again.json
        assert again.headers["x-batchflux-jobs"] == first.headers["x-batchflux-jobs"]
        assert (await front.picture("job b", headers=mark)).code == "idempotency_key_reused"
    assert gateways.bank.billed == {"a": 1}


async def test_what_a_client_asks_again_joins_its_call_also_where_the_manifest_has_changed(gateways: Gateways) -> None:
    async with gateways.opened(manifest=manifest(gateways)) as front:
        assert (await front.picture("job a #lost")).code == "unknown_outcome"
    changed = manifest(gateways).replace("flux-kontext-pro", "flux-kontext-dev")
    async with gateways.opened(manifest=changed) as front:
        assert (await front.picture("job a #lost", headers=AGAIN)).code == "unknown_outcome"
        assert (await front.picture("job b #url", headers=AGAIN)).status == 200
    assert gateways.bank.billed == {"a": 1, "b": 1}


async def test_a_task_is_collected_also_where_the_manifest_has_changed(gateways: Gateways) -> None:
    mark = {"Idempotency-Key": "k"}
    async with gateways.opened(manifest=manifest(gateways)) as front:
        asking = asyncio.create_task(front.picture("job a #wait*1000", model=TASKS, headers=mark))
        await until(lambda: gateways.bank.polls["a"])
        await front.run.drained()
        assert (await asking).status == 400
    gateways.bank.prompts["a"] = "job a"
    other = manifest(gateways).replace("provider: tuzi", "provider: bfl")
    async with gateways.opened(manifest=other) as front:
        assert (await front.picture("job a #wait*1000", model=TASKS, headers=mark)).status == 200
    assert gateways.bank.billed == {"a": 1}


async def test_runs_of_a_manifest_over_the_folder_leave_what_a_client_has_failed(gateways: Gateways) -> None:
    async with gateways.opened() as front:
        assert (await front.picture("job a #lost")).code == "unknown_outcome"
        assert (await front.picture("job b #moderated")).status == 400
    text = (gateways.folder / "g.yaml").read_text() + "\njobs:\n  - {id: own, prompt: job own}\n"
    (gateways.folder / "m.yaml").write_text(text)
    environ = {"TEST_KEY": KEY}
    loaded = load_manifest(gateways.folder / "m.yaml", out=str(gateways.folder / "out"), environ=environ)
    summary = await run(loaded, RunOptions(environ=environ))
    assert summary.this_run["done"] == 1
    counts = {"total": 3, "done": 1, "failed": 1, "unknown": 1, "pending": 0}
    assert {name: summary.jobs[name] for name in counts} == counts
    async with gateways.opened() as front:
        assert (await front.picture("job a #lost", headers=AGAIN)).code == "unknown_outcome"
    assert gateways.bank.posts == {"a": 1, "b": 1, "own": 1}
    assert {row["id"] for row in gateways.rows()} >= {"own"}
    assert len(gateways.rows()) == 3


async def test_a_folder_that_is_copied_aside_keeps_its_calls(gateways: Gateways) -> None:
    async with gateways.opened(limits=f", budget: {PRICE:.2f}") as front:
        first = await front.picture("job a")
    shutil.copytree(gateways.folder / "out", gateways.folder / "copy")
    shutil.rmtree(gateways.folder / "out")
    (gateways.folder / "copy").rename(gateways.folder / "out")
    async with gateways.opened(limits=f", budget: {PRICE:.2f}") as front:
        again = await front.picture("job a", headers=AGAIN)
        assert again.headers["x-batchflux-jobs"] == first.headers["x-batchflux-jobs"]
        assert (await front.picture("job a")).code == "insufficient_quota"


async def test_a_redo_is_made_also_where_the_manifest_has_changed(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redos, "LOOK", 0.02)
    async with gateways.opened(manifest=manifest(gateways)) as front:
        assert (await front.picture("job a")).status == 200
    key = bytes.fromhex(gateways.rows()[0]["key"])
    await asyncio.to_thread(decide, gateways.folder / "out" / "ledger.db", Decision(keys=(key,), review="redo"))
    changed = manifest(gateways).replace("flux-kontext-pro", "flux-kontext-dev")
    async with gateways.opened(manifest=changed):
        await until(lambda: gateways.bank.fetched["a"] == 2)
        await until(lambda: len(gateways.rows()) == 2)
    assert gateways.bank.billed == {"a": 2}
    counts = json.loads((gateways.folder / "out" / "summary.json").read_text())["jobs"]
    assert (counts["total"], counts["done"], counts["pending"]) == (2, 2, 0)


async def test_what_was_on_record_and_never_left_counts_as_pending_over_a_restart(gateways: Gateways) -> None:
    mark = {"Idempotency-Key": "k"}
    async with gateways.opened(limits=f", budget: {PRICE:.2f}") as front:
        assert (await front.picture("job a")).status == 200
    async with gateways.opened(limits=f", budget: {PRICE * 2:.2f}") as front:
        calls = (front.picture("job b", headers=mark), front.picture("job c"))
        ends = await at_once(gateways.bank, front.desk, *calls)
        assert sorted(end.status for end in ends) == [200, 429]
    async with gateways.opened() as front:
        assert (await front.picture("job b", headers=mark)).status == 200
    counts = json.loads((gateways.folder / "out" / "summary.json").read_text())["jobs"]
    assert counts["pending"] >= 0
    assert counts["total"] == counts["done"] + counts["pending"]
