"""A machine of clients, marks, retries, departures, stops and cuts against a bank that counts what it bills.

Each plan is a list of steps; whatever it is, at its end the bank has billed no job twice, nothing that the ledger does
not know of, and no client past its budget; and what was paid for is there for who asks again.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from batchflux.testing.bank import opened
from tests.gateway.conftest import Answer, Gateways
from tests.gateway.money.test_money_faults import RELAY, TASKS, clients, manifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.testing.bank import Bank
    from tests.gateway.conftest import Front

WAYS = {
    "whole": (RELAY, "#b64"),
    "link": (RELAY, "#url"),
    "task": (TASKS, "#wait*3"),
    "failing": (RELAY, "#500*1 #url"),
    "failed": (TASKS, "#500*1"),
    "busy": (RELAY, "#busy*2 #url"),
    "lost": (RELAY, "#lost"),
    "empty": (RELAY, "#empty*1 #url"),
    "void": (RELAY, "#empty"),
    "slow": (RELAY, "#link503*1"),
    "moderated": (RELAY, "#moderated"),
}
ASKED_TWICE = {"empty", "void"}  # an answer without a picture is asked for once more
MAY_BE_BILLED = {"void"}  # the bank takes nothing for it, which nobody else can know
BUDGETS = {"left": 4, "right": 30}
PATIENCE = 60.0  # seconds in which every call is answered, also by a slow machine


class Ask(NamedTuple):
    """A call: `number` names its content; `again` and `marked` are how a client says that it asked before."""

    client: str
    number: int
    way: str
    pictures: int = 1
    marked: bool = False
    again: bool = False

    @property
    def name(self) -> str:
        """What the bank calls the job: each content has its own."""
        return f"{self.client}{self.number}{self.way}{self.pictures}{'m' if self.marked else ''}"

    @property
    def headers(self) -> dict[str, str]:
        found = {"Authorization": f"Bearer sk-{self.client}"}
        found |= {"Idempotency-Key": self.name} if self.marked else {}
        return found | ({"x-stainless-retry-count": "1"} if self.again else {})


class Pause(NamedTuple):
    """Time that passes, in hundredths of a second."""

    hundredths: int


class Leave(NamedTuple):
    """A client that waits goes away."""

    which: int


class Restart(NamedTuple):
    """The gateway stops, or is stopped at once (`cut`), and another begins."""

    cut: bool


Step = Ask | Pause | Leave | Restart
ASKS = st.builds(
    Ask,
    client=st.sampled_from(sorted(BUDGETS)),
    number=st.integers(0, 1),
    way=st.sampled_from(sorted(WAYS)),
    pictures=st.sampled_from([1, 1, 2]),
    marked=st.booleans(),
    again=st.booleans(),
)
STEPS = st.one_of(
    ASKS,
    ASKS,
    ASKS,
    st.builds(Pause, st.integers(1, 12)),
    st.builds(Leave, st.integers(0, 5)),
    st.builds(Restart, st.booleans()),
)
PLANS = st.lists(STEPS, min_size=2, max_size=9)


@dataclass
class Machine:
    """Drives gateways over one folder by a plan."""

    gateways: Gateways
    front: Front | None = None
    asked: list[Ask] = field(default_factory=list)
    asking: list[asyncio.Task[None]] = field(default_factory=list)
    last: dict[str, Answer | None] = field(default_factory=dict)
    cuts: int = 0
    _serving: asyncio.Task[None] | None = None
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def bank(self) -> Bank:
        return self.gateways.bank

    async def begin(self) -> None:
        ready: asyncio.Future[Front] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        keys = clients(**BUDGETS)
        text = manifest(self.gateways, "concurrency: 3, attempts: 2, max_consecutive_failures: 1000")

        async def serve() -> None:
            async with self.gateways.opened(keys=keys, manifest=text) as front:
                ready.set_result(front)
                await self._stop.wait()

        self._serving = asyncio.create_task(serve())
        self._serving.add_done_callback(lambda _: ready.cancel())
        self.front = await ready

    async def end(self, *, cut: bool) -> None:
        assert self._serving is not None
        self.cuts += cut
        if cut:
            self._serving.cancel()  # it begins to drain
            await asyncio.sleep(0.02)
            self._serving.cancel()
        self._stop.set()
        await asyncio.wait([self._serving])
        assert self._serving.cancelled() or self._serving.exception() is None, self._serving.exception()

    async def take(self, step: Step) -> None:
        match step:
            case Ask():
                self.asked.append(step)
                self.asking.append(asyncio.create_task(self.ask(step)))
                await asyncio.sleep(0)
            case Pause():
                await asyncio.sleep(step.hundredths / 100)
            case Leave() if self.asking:
                self.asking[step.which % len(self.asking)].cancel()
            case Restart():
                await self.end(cut=step.cut)
                await self.begin()

    async def ask(self, call: Ask) -> None:
        assert self.front is not None
        model, how = WAYS[call.way]
        self.last[call.name] = None
        try:
            async with asyncio.timeout(PATIENCE):
                prompt = f"job {call.name} {how}"
                self.last[call.name] = await self.front.picture(prompt, call.pictures, call.headers, model=model)
        except (aiohttp.ClientError, RuntimeError):  # it is stopped at once
            return

    async def drive(self, plan: list[Step]) -> None:
        await self.begin()
        try:
            for step in plan:
                await self.take(step)
            await asyncio.wait([*self.asking, asyncio.create_task(asyncio.sleep(0))])
            for one in self.asking:
                assert one.cancelled() or one.exception() is None, repr(one.exception())
            await self.idle()
            for call in sorted(set(self.asked)):
                await self.judge(call)
            await self.idle()
        finally:
            await self.end(cut=False)
        self.judge_money()

    async def idle(self) -> None:
        """Wait until nothing is made any more: nothing hangs."""
        assert self.front is not None
        run = self.front.run
        async with asyncio.timeout(PATIENCE):
            while run._futures or self.bank.open or run._queue.qsize():  # noqa: ASYNC110  it tells nobody
                await asyncio.sleep(0.02)

    async def judge(self, call: Ask) -> None:
        """Ask again: twice the same is said, and no retryable status where something was billed."""
        again = call._replace(again=True)
        billed = self.bank.billed[call.name]
        before = self.last[call.name]
        if before is not None and (before.status == 429 or before.status >= 500):
            assert not (call.marked and billed and call.way not in ASKED_TWICE), (call, before, billed)
        await self.ask(again)
        first = self.last[call.name]
        await self.ask(again)
        second = self.last[call.name]
        assert first is not None
        assert second is not None
        if first.status == second.status == 200:
            assert first.headers["x-batchflux-jobs"] == second.headers["x-batchflux-jobs"]
        if billed and call.way not in {"lost", "moderated", "failed", "void"}:
            assert first.status == 200 or self.cuts or call.client == "left", (call, first)

    def judge_money(self) -> None:
        """No more than one picture a job, nothing off the record, no budget passed."""
        calls: dict[str, int] = Counter()
        for call in self.asked:
            calls[call.name] += not (call.marked or call.again)
        by_name = {call.name: call for call in self.asked}
        recorded = self.recorded()
        for name, call in by_name.items():
            times = 2 if call.way in ASKED_TWICE else 1
            most = max(1, calls[name]) * call.pictures * times
            sent = self.bank.posts if call.way in MAY_BE_BILLED else self.bank.billed
            assert sent[name] <= most, (call, sent[name], most)
            assert self.bank.billed[name] <= recorded[name], (call, self.bank.billed[name], recorded[name])
        for client, most in BUDGETS.items():
            paid = sum(self.bank.billed[name] for name, call in by_name.items() if call.client == client)
            assert paid <= most, (client, paid)

    def recorded(self) -> Counter[str]:
        """Return how many attempts the ledger counts as billed, or possibly, by job."""
        query = (
            "SELECT json_extract(spec, '$.prompt'), COUNT(*) FROM attempts JOIN jobs ON jobs.number = attempts.job"
            " WHERE billed IS NOT 'no' GROUP BY 1"
        )
        with closing(sqlite3.connect(self.gateways.folder / "out" / "ledger.db")) as connection:
            return Counter({prompt.split()[1]: count for prompt, count in connection.execute(query)})


def driven(plan: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder, opened() as bank:
        bank.delay = (0.0, 0.05)
        machine = Machine(Gateways(Path(folder), bank))
        asyncio.run(machine.drive(plan))


def some(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # a plan takes too long to be made smaller, and is short enough to be read
        suppress_health_check=list(HealthCheck),
    )


@some(2)
@given(PLANS)
def test_a_few_plans(plan: list[Step]) -> None:
    driven(plan)


@pytest.mark.slow
@pytest.mark.timeout(600)
@some(60)
@given(st.lists(STEPS, min_size=6, max_size=30))
def test_many_plans(plan: list[Step]) -> None:
    driven(plan)
