"""What a call comes to when something breaks in its middle: not bought twice, nor said to be free when it is not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.engine import outages
from batchflux.engine.shutdown import STORAGE
from batchflux.errors import StopRun, StorageError
from batchflux.gateway import redos
from batchflux.gateway.answering import errors
from batchflux.gateway.clients import digest_of
from batchflux.ledger.decisions import Decision, decide
from batchflux.observers import Watcher
from batchflux.output import resources
from batchflux.runner import stream
from batchflux.testing.bank import PRICE
from tests.waiting import until

if TYPE_CHECKING:
    from tests.gateway.conftest import Gateways

AGAIN = {"x-stainless-retry-count": "1"}
RELAY, TASKS = "flux-kontext-pro", "flux-kontext-max"
LEFT, RIGHT = ({"Authorization": f"Bearer sk-{name}"} for name in ("left", "right"))


def manifest(gateways: Gateways, limits: str = "concurrency: 8", relay: str = "") -> str:
    """Return a manifest of a relay and of an API of tasks."""
    url = gateways.bank.url
    return (
        f"version: 1\nname: g\nproviders:\n"
        f"  tuzi: {{base_url: '{url}', keys: [TEST_KEY], model: {RELAY}, price: {PRICE}, currency: USD{relay}}}\n"
        f"  bfl: {{api: bfl, base_url: '{url}', keys: [TEST_KEY], model: {TASKS}, price: {PRICE}}}\n"
        f"provider: tuzi\nlimits: {{{limits}, timeout: 20s}}\n"
    )


def clients(**budgets: int | None) -> str:
    """Return the lines of a file of clients, each with money for so many pictures."""
    return "".join(
        f"- name: {name}\n  sha256: {digest_of(f'sk-{name}').hex()}\n"
        + ("" if most is None else f"  budget: {PRICE * most:.2f}\n")
        for name, most in budgets.items()
    )


async def test_a_stop_with_a_task_out_is_told_as_what_may_be_billed(gateways: Gateways) -> None:
    async with gateways.opened(manifest=manifest(gateways)) as front:
        asking = asyncio.create_task(front.picture("job a #wait*1000", model=TASKS))
        await until(lambda: gateways.bank.polls["a"])
        stopping = asyncio.create_task(front.run.drained())
        answer = await asking
        assert (answer.status, answer.code) == (400, "unknown_outcome")
        await stopping
    gateways.bank.prompts["a"] = "job a"
    async with gateways.opened(manifest=manifest(gateways)) as front:
        assert (await front.picture("job a #wait*1000", model=TASKS, headers=AGAIN)).status == 200
    assert gateways.bank.billed == {"a": 1}


async def test_of_several_failures_the_one_that_may_be_billed_is_told(gateways: Gateways) -> None:
    limits = "concurrency: 1, attempts: 1, max_consecutive_failures: 100"
    async with gateways.opened(manifest=manifest(gateways, limits)) as front:
        answer = await front.picture("job a #500*1 #lost", n=2)
        assert gateways.bank.posts == {"a": 2}
        assert (answer.status, answer.code) == (400, "unknown_outcome")


@pytest.mark.slow  # it is fetched several times, at growing intervals
async def test_a_picture_that_waits_for_its_host_is_not_bought_again_as_the_providers_are_tried_anew(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "REST", 2.0)
    monkeypatch.setattr(outages, "DOWN_SECONDS", 0.0)
    bank = gateways.bank
    async with gateways.opened(manifest=manifest(gateways)) as front:
        asking = asyncio.create_task(front.picture("job a #url #link503"))
        await until(lambda: bank.downloads["a"] >= outages.FEW)
        await until(lambda: front.run.waiting() and front.run._rested())  # nobody asks the host now
        assert (await front.picture("job b #auth")).status == 503
        bank.prompts["a"] = "job a"
        assert (await asking).status == 200
    assert bank.posts["a"] == bank.billed["a"] == 1


async def test_a_budget_that_is_lowered_holds_for_what_waits(gateways: Gateways) -> None:
    bank = gateways.bank
    bank.held = lambda: bank.posts.total() == 2
    async with gateways.opened(at_once=1, keys=clients(left=100)) as front:
        asking = [asyncio.create_task(front.picture(f"job {n}", headers=LEFT)) for n in range(6)]
        await until(lambda: bank.posts.total() == 2 and front.desk.waiting + sum(one.done() for one in asking) == 6)
        (gateways.folder / "keys.yaml").write_text(clients(left=1), encoding="utf-8")
        assert gateways.clients is not None
        gateways.clients.reload()
        bank.held = None
        answers = await asyncio.gather(*asking)
        assert sorted(answer.status for answer in answers) == [200, 200, 429, 429, 429, 429]
    assert gateways.bank.billed.total() == 2


async def test_a_redo_that_waits_for_money_is_in_nobodys_way(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redos, "LOOK", 0.02)
    keys = clients(left=1, right=None)
    async with gateways.opened(keys=keys) as front:
        name = (await front.picture("job a", headers=LEFT)).headers["x-batchflux-jobs"]
        key = next(bytes.fromhex(row["key"]) for row in gateways.rows() if row["id"] == name)
        await asyncio.to_thread(decide, gateways.folder / "out" / "ledger.db", Decision(keys=(key,), review="redo"))
        log = gateways.folder / "out" / "run.log"
        await until(lambda: '"redo_left"' in log.read_text(encoding="utf-8"), 0.02)
        assert (await front.picture("job a", headers=RIGHT)).status == 200
        assert (await front.picture("job a", headers=RIGHT)).status == 200
    assert gateways.bank.billed == {"a": 3}


async def test_a_full_disk_ends_calls_and_not_the_gateway(gateways: Gateways, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "REST", 0.0)
    keys = clients(left=3)
    async with gateways.opened(keys=keys, manifest=manifest(gateways)) as front:
        asking = asyncio.create_task(front.picture("job a #wait*1000", model=TASKS, headers=LEFT))
        await until(lambda: gateways.bank.polls["a"])
        assert await front.health() == (200, {"status": "ok"})
        with monkeypatch.context() as full:
            full.setattr(resources, "RESERVE", 1 << 60)
            said = {"status": "failed", "code": "storage_full", "message": errors.ROWS[STORAGE].says}
            assert await front.health() == (503, said)
            answer = await front.picture("job b", headers=LEFT)
            assert (answer.status, answer.code) == (503, "storage_full")
            answer = await asking
            assert (answer.status, answer.code) == (400, "unknown_outcome")
        await until(lambda: front.run._engine is None)  # what the disk ended is over
        assert await front.health() == (200, {"status": "ok"})
        gateways.bank.prompts["a"] = "job a"
        answer = await front.picture("job b", headers=LEFT)
        assert answer.status == 200, answer.json
        answer = await front.picture("job a #wait*1000", model=TASKS, headers=LEFT | AGAIN)
        assert answer.status == 200, answer.json
        async with asyncio.timeout(60):
            ends = await asyncio.gather(*(front.picture(f"job c{n}", headers=LEFT) for n in range(3)))
        assert sorted(end.status for end in ends) == [200, 429, 429]
    assert gateways.bank.billed.total() == 3


async def test_while_calls_are_still_refused_for_a_disk_that_was_full_so_says_health(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateways.opened() as front:
        with monkeypatch.context() as full:
            full.setattr(resources, "RESERVE", 1 << 60)
            assert (await front.picture("job a")).code == "storage_full"
        assert (await front.picture("job a")).code == "storage_full"
        assert (await front.health())[0] == 503
        monkeypatch.setattr(stream, "REST", 0.0)
        await until(lambda: front.run._engine is None)
        assert (await front.health())[0] == 200
        assert (await front.picture("job a")).status == 200


async def test_a_disk_without_room_for_the_log_is_told_plainly_all_the_same(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Teller(Watcher):
        def event(self, name: str, /, **fields: Any) -> None:
            told.append(f"{name} {fields.get('message')}")

    def full(*_: object, **__: object) -> None:
        raise StorageError(f"cannot write {gateways.folder}/out/run.log: the disk is full")

    async with gateways.opened(watcher=Teller()) as front:
        assert front.run.session.log is not None
        monkeypatch.setattr(front.run.session.log, "write", full)
        monkeypatch.setattr(resources, "RESERVE", 1 << 60)
        async with asyncio.timeout(60):
            answers = [await front.picture("job a") for _ in range(2)]
        assert {(answer.status, answer.code) for answer in answers} == {(503, "storage_full")}
        assert not any(str(gateways.folder) in str(answer.json) for answer in answers)
        assert [one for one in told if one.startswith(f"not_made The disk of {gateways.folder}")]
        monkeypatch.undo()


async def test_a_call_that_comes_as_the_gate_closes_is_answered(gateways: Gateways) -> None:
    async with gateways.opened(limits=f", budget: {PRICE * 2:.2f}") as front:
        asking = asyncio.create_task(front.picture("job a"))
        await until(lambda: front.run._queue.qsize() or asking.done(), 0)
        front.run.session.gate.close(StopRun("renewed", "now"))
        async with asyncio.timeout(60):
            answer = await asking
        assert answer.status in {200, 503}


@pytest.mark.parametrize("marked", [False, True])
async def test_a_ledger_that_cannot_be_written_buys_nothing_and_is_got_over(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch, *, marked: bool
) -> None:
    monkeypatch.setattr(stream, "REST", 0.0)
    mark = {"Idempotency-Key": "k"} if marked else {}

    def broken() -> None:
        raise StorageError("The disk is gone.")

    async with gateways.opened() as front:
        assert (await front.picture("job first")).status == 200
        sound = front.run.database.check
        front.run.database.check = broken
        answer = await front.picture("job a", headers=mark)
        told = (400, "unknown_outcome") if marked else (503, "storage_full")  # it may repeat a call that was paid for
        assert (answer.status, answer.code) == told
        front.run.database.check = sound
        assert (await front.picture("job a", headers=mark or AGAIN)).status == 200
    assert gateways.bank.billed == {"first": 1, "a": 1}


async def test_a_ledger_that_cannot_be_looked_into_for_redos_is_got_over(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redos, "LOOK", 0.02)
    looks = 0

    def broken() -> None:
        nonlocal looks
        looks += 1
        raise StorageError("The disk is gone.")

    async with gateways.opened() as front:
        front.run.database.check, sound = broken, front.run.database.check
        await until(lambda: looks >= 2)
        front.run.database.check = sound
        name = (await front.picture("job a")).headers["x-batchflux-jobs"]
        key = next(bytes.fromhex(row["key"]) for row in gateways.rows() if row["id"] == name)
        await asyncio.to_thread(decide, gateways.folder / "out" / "ledger.db", Decision(keys=(key,), review="redo"))
        await until(lambda: gateways.bank.fetched["a"] == 2)
    assert gateways.bank.billed == {"a": 2}


async def test_what_was_answered_as_the_ledger_broke_is_not_bought_again(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "REST", 0.0)

    def broken() -> None:
        raise StorageError("The disk is gone.")

    async with gateways.opened(keys=clients(left=3)) as front:
        sound = front.run.database.check
        gateways.bank.hook = lambda _: setattr(front.run.database, "check", broken)
        answer = await front.picture("job a", headers=LEFT)
        assert (answer.status, answer.code) == (400, "unknown_outcome")
        gateways.bank.hook = None
        front.run.database.check = sound
        answer = await front.picture("job a", headers=LEFT | AGAIN)
        assert (answer.status, answer.code) == (400, "unknown_outcome")
        await until(lambda: front.run._engine is None)  # what the broken ledger ended is over
        assert (await front.picture("job b", headers=LEFT)).status == 200
        async with asyncio.timeout(60):
            ends = await asyncio.gather(*(front.picture(f"job c{n}", headers=LEFT) for n in range(3)))
        assert sorted(end.status for end in ends) == [200, 429, 429]
    async with gateways.opened(keys=clients(left=3)) as front:
        assert (await front.picture("job a", headers=LEFT | AGAIN)).code == "unknown_outcome"
    assert gateways.bank.billed == {"a": 1, "b": 1} | {f"c{n}": 1 for n in range(3) if gateways.bank.billed[f"c{n}"]}


async def test_a_pool_that_cannot_begin_ends_its_calls_and_not_the_gateway(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "REST", 0.0)
    spool = gateways.folder / "out" / ".spool"
    async with gateways.opened() as front:
        assert (await front.picture("job a")).status == 200
        with monkeypatch.context() as full:
            full.setattr(resources, "RESERVE", 1 << 60)
            assert (await front.picture("job b")).code == "storage_full"
        await until(lambda: front.run._engine is None)
        spool.rename(spool.with_name("aside"))
        spool.write_text("no folder")
        assert (await front.health())[0] == 503
        for _ in range(2):
            async with asyncio.timeout(90):
                assert (await front.picture("job c")).code == "storage_full"
        spool.unlink()
        spool.with_name("aside").rename(spool)
        await until(lambda: front.run._engine is None)
        assert (await front.health())[0] == 200
        assert (await front.picture("job c")).status == 200
    assert gateways.bank.billed == {"a": 1, "c": 1}
