"""Batches whose API says odd things: what was paid is counted, nothing is paid twice, and every run ends."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from batchflux.errors import Code, JobError, StopRun, StorageError
from batchflux.models import Closed
from tests.engine.batch_shop import HALF, HOUR, Fate, Lot, Shop, ShopApi, ShopBatches, killing
from tests.engine.test_batches import beside, run

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from batchflux.engine.settings import Rules
    from batchflux.engine.shutdown import Gate
    from batchflux.ledger.ledger import Ledger
    from batchflux.models import HttpRequest, Inline, Job, Json, Reply
    from tests.engine.conftest import Night, NightFactory, Terms

STRANGER = json.dumps({"key": "somebody else's", "status": 200, "body": {"picture": "of another"}}).encode()


class Odd(Shop):
    """A shop whose files are what `told` makes of them; `errors_file` comes after the file of answers."""

    def __init__(self, *fates: Fate, told: Callable[[list[bytes]], list[bytes]] = list) -> None:
        super().__init__(*fates)
        self.says = told
        self.files_gone = self.second = 0
        self.counted: int | None = None

    def _end(self, lot: Lot, ends: str, share: float) -> None:
        super()._end(lot, ends, share)
        assert lot.lines is not None
        lot.lines = self.says(lot.lines)

    def _free(self, step: str, what: str, request: HttpRequest, key: str | None) -> Reply:
        reply = super()._free(step, what, request, key)
        if not isinstance(reply, Closed):
            return reply
        return replace(reply, files=(*reply.files, "errors") if self.second else reply.files, made=self.counted)

    async def lines(self, request: HttpRequest) -> AsyncGenerator[bytes]:
        if self.files_gone > 0 or request.url == "answers/errors":
            self.files_gone -= 1
            raise JobError(Code.DOWNLOAD, "no such file", dead=True)
        async for line in super().lines(request):
            yield line


class Ending(ShopBatches):
    """Batches of a shop, whose provider ends while the first one is put together."""

    def __init__(self, shop: Shop) -> None:
        self._shop, self._lines = shop, 0
        self._rules: Rules | None = None
        shop.wire = ShopApi()
        vars(shop.wire)["batches"] = self

    def rules(self, asked: Terms, ledger: Ledger, gate: Gate) -> Rules:
        self._rules = self._shop.rules(asked, ledger, gate)
        return self._rules

    def line(self, job: Job, key: str) -> Json:
        self._lines += 1
        if self._lines == 60 and self._rules is not None:
            first = next(iter(self._rules.services))
            asyncio.get_running_loop().call_soon(first.gate.close, StopRun("quota", "no money is left there"))
        return super().line(job, key)


def at(night: Night, *fates: Fate, most: int = 50_000, told: Callable[[list[bytes]], list[bytes]] = list) -> Odd:
    shop = Odd(*fates, told=told)
    shop.wire = ShopApi(most=most)
    night.server, night.rules = shop, shop.rules
    return shop


def test_answers_of_strangers_are_nobodys(nights: NightFactory) -> None:
    with nights(4) as night:
        shop = at(night, told=lambda lines: [STRANGER, STRANGER, *lines, STRANGER])
        ended = run(night)
        assert (ended.reason, ended.tally.done) == (None, 4)
        assert night.spent() == shop.money


def test_answers_under_other_keys_are_not_bought_again_and_again(nights: NightFactory) -> None:
    with nights(4) as night:
        shop = at(night, told=lambda _: [STRANGER] * 4)
        ended = run(night, deadline=5 * HOUR)
        assert (ended.reason, shop.creates) == (None, 1)
        assert night.spent() == shop.money == 4 * HALF


@pytest.mark.parametrize("counted", [None, 0, 4])
def test_a_completed_batch_without_answers_is_not_bought_again_and_again(
    nights: NightFactory, counted: int | None
) -> None:
    with nights(4) as night:
        shop = at(night, told=lambda _: [b""])
        shop.counted = counted
        ended = run(night, deadline=5 * HOUR)
        assert (ended.reason, shop.creates) == (None, 1)
        assert night.spent() == shop.money == 4 * HALF


@pytest.mark.parametrize("point", ["batch.leaving", "batch.created"])
def test_a_lost_batch_whose_key_is_gone_ends_the_run(nights: NightFactory, point: str) -> None:
    with nights(4) as night:
        shop = at(night)
        with killing(point, 1):
            assert run(night, keys=("A",)).killed
        ended = run(night, keys=("B",), deadline=30 * HOUR)
        assert ended.reason is None
        assert ended.tally.unknown == 4
        assert night.spent() == 4 * HALF
        assert run(night, keys=("A",)).tally.done == 4
        assert night.spent() == shop.money == 4 * HALF


def test_a_file_that_is_not_there_yet_is_waited_for(nights: NightFactory) -> None:
    with nights(4) as night:
        shop = at(night)
        shop.files_gone = 2
        assert run(night).tally.done == 4
        assert night.spent() == shop.money == 4 * HALF


def test_a_job_both_failed_and_made_is_made(nights: NightFactory) -> None:
    def both(lines: list[bytes]) -> list[bytes]:
        keys = [json.loads(line)["key"] for line in lines if line]
        failed = [json.dumps({"key": key, "status": 429, "body": {"code": "rate_limited"}}).encode() for key in keys]
        return [*failed, *lines]

    with nights(4) as night:
        shop = at(night, told=both)
        assert run(night).tally.done == 4
        assert shop.creates == 1
        assert night.spent() == shop.money == 4 * HALF


def test_what_was_about_to_leave_from_a_provider_that_ends_costs_nothing(nights: NightFactory) -> None:
    """One of two providers ends while a batch of it is put together: its jobs, and their money, go to the other."""
    with nights(100) as night:
        shop = at(night)
        beside(night, "tuzi")
        ending = Ending(shop)
        night.rules = ending.rules
        ended = run(night, budget=Decimal("14.00"))
        assert (ended.tally.done, shop.made_by) == (100, {"other": 100})
        assert night.spent() == shop.money


def test_a_file_that_is_gone_costs_what_is_read_nothing(nights: NightFactory) -> None:
    """One file of two is gone: what the other has is taken, also by a later run which selects it."""
    with nights(6) as night:
        shop = at(night, told=lambda lines: lines[:4])
        shop.second = 10**9
        assert run(night, stop_at=100.0).tally.done == 0
        ended = run(night, only="j1", on_unknown="hold")
        assert ended.tally.done == 1
        ended = run(night, on_unknown="hold")
        assert (ended.tally.done, ended.tally.unknown) == (3, 2)
        assert (shop.creates, night.spent()) == (1, 6 * HALF)
        assert run(night, on_unknown="hold").seconds == 0
        assert run(night).tally.done == 2
        assert (shop.creates, night.spent()) == (2, 8 * HALF)


@pytest.mark.parametrize("step", ["poll", "find", "cancel"])
def test_an_api_that_says_nothing_that_is_understood_is_not_asked_for_ever(nights: NightFactory, step: str) -> None:
    with nights(4) as night:
        shop = at(night, Fate(lost="after" if step == "find" else None, hours=2))
        shop.faults = lambda asked, _: JobError(Code.INVALID_REQUEST, "no such path") if asked == step else None
        ended = run(night, deadline=30 * HOUR, live_from=1 * HOUR if step == "cancel" else None)
        if step != "cancel":
            assert (ended.reason, ended.tally.unknown) == (None, 4)
            assert night.spent() == 4 * HALF
            shop.faults = lambda *_: None
            ended = run(night)
        assert ended.tally.done == 4
        assert (shop.creates, shop.wrong, night.spent()) == (1, [], shop.money)


def test_a_disk_that_is_full_while_answers_are_read_loses_none(nights: NightFactory) -> None:
    with nights(40) as night:
        shop, spool = at(night), night.pictures.spool

        async def full(job: Job, picture: Inline) -> str:
            if night.pictures.spooled == 15:
                raise StorageError("no room is left; make room and run again")
            return await spool(job, picture)

        night.pictures.spool = full  # type: ignore[method-assign]
        ended = run(night, concurrency=3)
        assert ended.reason is not None
        assert (ended.reason.reason, ended.tally.done <= 15, night.spent()) == ("storage", True, 40 * HALF)
        night.pictures.spool = spool  # type: ignore[method-assign]
        run(night)
        assert {row.status for row in night.rows().values()} == {"done"}
        assert (shop.creates, night.spent()) == (1, shop.money)


@pytest.mark.parametrize(("counted", "creates", "failed"), [(4, 1, 2), (None, 1, 2), (2, 2, 0)])
def test_what_a_completed_batch_does_not_say_that_it_made_is_sent_again(
    nights: NightFactory, counted: int | None, creates: int, failed: int
) -> None:
    with nights(4) as night:
        shop = at(night, told=lambda lines: lines[:2] if shop.creates == 1 else lines)
        shop.counted = counted
        ended = run(night)
        assert (shop.creates, ended.tally.done, ended.tally.failed) == (creates, 4 - failed, failed)
        assert night.spent() == 4 * HALF
