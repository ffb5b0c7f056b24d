"""Nights with three providers on a virtual clock: outages, keys that die, refusals, faults, tasks, fallbacks, kills.

What must hold whatever the seed: the budget bounds what is charged and out at every moment, the ledger's money is the
servers' to the last attempt, nothing is paid twice, no provider's limit is exceeded, and every job ends that somebody
can make.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.engine.budget import Budget, Ceiling
from batchflux.engine.canary import Canary
from batchflux.engine.circuit_breaker import CircuitBreaker
from batchflux.engine.limits.key_pool import Key
from batchflux.engine.limits.rate_limiter import RateLimiter, Slots
from batchflux.engine.retry import RetryPolicy
from batchflux.engine.services import Service, Services
from batchflux.engine.settings import Rules
from batchflux.engine.shutdown import Deadline, Gate
from batchflux.errors import Code, JobError
from batchflux.ledger.connection import connect
from batchflux.ledger.summary import state_of
from batchflux.ledger.tables import currency, nanos, spent
from batchflux.models import Cost, Ended, Finished, Job, Json, Submitted, Way
from batchflux.providers import providers
from batchflux.transport import CallTimes, DownloadSlots
from tests.engine.conftest import TASKS, Reply, Server

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.ledger.ledger import Ledger
    from batchflux.models import Exchanged, HttpRequest
    from batchflux.providers import Provider
    from tests.engine.conftest import Night, NightFactory, RunEnded, Terms

JOBS = 75
UNIT = 10**7
NEVER = float("inf")
TOTAL = 9  # requests out at once, over all: fewer than the providers' own limits together
FAULTS = (Code.SERVER, Code.NETWORK, Code.NO_IMAGE, Code.UNKNOWN, Code.MODERATED, Code.RATE_LIMITED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """One provider: its terms, when each of its keys dies, and for what code, and from when to when it is down."""

    name: str
    style: Any = "standard"
    price: int
    told: int | None = None
    concurrency: int
    interval: float | None = None
    keys: dict[str, float] = field(default_factory=dict)
    dies_of: Code = Code.QUOTA
    down: tuple[float, float] = (NEVER, NEVER)
    down_as: Code = Code.NETWORK

    @property
    def way(self) -> Way:
        """How it makes any job."""
        return Way(provider=self.name, style=self.style, model=f"m-{self.name}")


class Street(Server):
    """Several providers: counts the money of each and what is out, and sees where each task is asked for."""

    def __init__(self, shops: list[Shop], seed: int, faults: float) -> None:
        super().__init__()
        self.shops = {shop.name: shop for shop in shops}
        self.seed, self.faults = seed, faults
        self.by_key, self.files = self._mood, self._file
        self.api = self._reply
        self.shop = shops[0]
        self.money: Counter[str] = Counter()  # charged or possibly charged, by provider
        self.out = 0
        self.most = 0
        self.busy: Counter[str] = Counter()
        self.busiest: Counter[str] = Counter()
        self.busiest_of_all = 0
        self.takers: dict[str, str] = {}
        self.log: list[tuple[str, str, str]] = []  # job, provider, what came of it
        self.underway: Counter[str] = Counter()

    def _mood(self, key: str | None, _: int) -> Reply | None:
        now, shop = self.epoch + asyncio.get_running_loop().time(), self.shop
        if shop.keys[key or ""] <= now:
            return Reply(after=0.1, code=shop.dies_of)
        return Reply(after=0.3, code=shop.down_as) if shop.down[0] <= now < shop.down[1] else None

    def _reply(self, name: str, number: int) -> Reply:
        random = Random(f"{self.seed} {self.shop.name} {name} {number}")
        after = 3.0 * random.lognormvariate(0, 0.4)
        told = None if self.shop.told is None else Cost(amount=currency(self.shop.told), currency="CNY")
        if random.random() < self.faults:
            code = random.choice(FAULTS)
            if self.shop.style != "tasks" or random.random() < 0.5:
                return Reply(after=after, code=code, billed=code is Code.UNKNOWN)
            ends = code if code in (Code.SERVER, Code.MODERATED) else None
            return Reply(after=0.2, task=after, ends=ends, trouble=random.randrange(4), bill=told)
        task = after if self.shop.style == "tasks" else None
        return Reply(after=0.2 if task else after, task=task, cost=None if task else told, bill=told if task else None)

    def _file(self, name: str, number: int) -> Reply:
        random = Random(f"{self.seed} file {name} {number}")
        bad = random.random() < self.faults / 2
        return Reply(after=random.uniform(0.05, 1.0), code=Code.DOWNLOAD if bad else None)

    async def exchange(
        self,
        request: HttpRequest,
        *,
        provider: Provider,
        secret: str | None,
        at: tuple[str, str],
        on_sent: Callable[[], None] | None = None,
    ) -> Exchanged:
        self.shop = shop = self.shops[at[0]]
        assert secret in shop.keys, "a key went to another provider"
        assert (provider is TASKS) is (shop.style == "tasks")
        if request.repeatable:
            assert self.takers[request.url] == shop.name, "a task is asked for where it was not accepted"
            answer = await super().exchange(request, provider=provider, secret=secret, at=at)
            if isinstance(answer.reply, Ended | Finished):
                self._settle(shop, answer, request.url)
            return answer
        assert isinstance(request.content, Json)
        job = request.content.value["prompt"]
        assert not self.underway[job], "a job is out twice at once"
        self.underway[job] += 1
        self._begin(shop)
        charged, what = shop.price, "cut off"
        try:
            answer = await super().exchange(request, provider=provider, secret=secret, at=at, on_sent=on_sent)
        except JobError as error:
            charged, what = shop.price if error.billed else 0, error.code.value
            raise
        else:
            what = "task" if isinstance(answer.reply, Submitted) else "picture"
            if isinstance(answer.reply, Finished) and answer.reply.cost is not None:
                charged = nanos(answer.reply.cost.amount or Decimal(0))
            if isinstance(answer.reply, Submitted):
                self.takers[answer.reply.handle] = shop.name
            return answer
        finally:
            self.out -= shop.price
            self.money[shop.name] += charged
            self.busy[shop.name] -= what != "task"
            self.underway[job] -= what != "task"
            self.log.append((job, shop.name, what))

    def _begin(self, shop: Shop) -> None:
        self.out += shop.price
        self.most = max(self.most, self.money.total() + self.out)
        self.busy[shop.name] += 1
        self.busiest[shop.name] = max(self.busiest[shop.name], self.busy[shop.name])
        self.busiest_of_all = max(self.busiest_of_all, self.busy.total())

    def _settle(self, shop: Shop, answer: Exchanged, handle: str) -> None:
        job = handle.split("/", 1)[0]
        if isinstance(answer.reply, Ended):
            self.money[shop.name] -= shop.price
        elif isinstance(answer.reply, Finished) and answer.reply.cost is not None:
            self.money[shop.name] += nanos(answer.reply.cost.amount or Decimal(0)) - shop.price
        self.busy[shop.name] -= 1
        self.underway[job] -= 1
        self.log.append((job, shop.name, "ended" if isinstance(answer.reply, Ended) else "picture"))

    def restart(self) -> None:
        super().restart()
        self.out = 0
        self.busy.clear()
        self.underway.clear()

    def rules(self, asked: Terms, ledger: Ledger, gate: Gate) -> Rules:
        """Return what holds a run with all of them back."""
        slots = Slots(TOTAL)
        return Rules(
            services=Services({shop.name: _service(shop, asked, gate, slots) for shop in self.shops.values()}, gate),
            slots=slots,
            canary=Canary(asked.canary, gate, "out"),
            budget=Budget(
                folder=Ceiling(None if asked.budget is None else nanos(asked.budget), "the budget"),
                spent=ledger.database.now(spent),
                gate=gate,
            ),
            deadline=Deadline(asked.deadline, "06:00", gate),
            downloads=DownloadSlots(64, 256),
        )


def _service(shop: Shop, asked: Terms, run: Gate, slots: Slots) -> Service:
    gate = Gate(run)
    breaker = CircuitBreaker(asked.max_consecutive_failures, gate, asked.patience)
    rate = None if shop.interval is None else (1 / shop.interval, 1.0)
    keys = [Key(name=name, secret=name, rate=rate) for name in shop.keys]
    return Service(
        name=shop.name,
        gate=gate,
        limits=RateLimiter(keys, concurrency=shop.concurrency, gate=gate, breaker=breaker, slots=slots),
        breaker=breaker,
        policy=RetryPolicy(attempts=asked.attempts, on_unknown=asked.on_unknown),
        times=CallTimes(asked.timeout),
        wire=lambda job: TASKS if job.style == "tasks" else providers()["flux-relay", job.style],
        price_of=lambda _: shop.price,
        cost_of=lambda _, cost: nanos(cost.amount or Decimal(0)) if cost else None,
    )


def shops_of(random: Random) -> list[Shop]:
    """Three providers: the first two fail in turn, the last one tells what it cost and stays."""
    begin = random.uniform(2, 14)
    return [
        Shop(
            name="cheap",
            price=2 * UNIT,
            concurrency=4,
            interval=random.choice([None, 0.5, 2.0]),
            keys={"c1": random.choice([6.0, 15.0, NEVER]), "c2": random.choice([9.0, 25.0, NEVER])},
            dies_of=random.choice([Code.QUOTA, Code.AUTH]),
        ),
        Shop(
            name="queue",
            style="tasks",
            price=5 * UNIT,
            concurrency=6,
            keys={"q1": NEVER},
            down=(begin, begin + random.choice([60.0, 600.0, 1500.0])),
            down_as=random.choice([Code.NETWORK, Code.SERVER, Code.TIMEOUT]),
        ),
        Shop(name="best", price=8 * UNIT, told=7 * UNIT, concurrency=3, keys={"b1": NEVER}),
    ]


def opened(night: Night, seed: int, *, fallbacks: bool = True, faults: float = 0.2) -> Street:
    """Let a night's jobs be of the three in turn, each with the other two behind it where `fallbacks` says so."""
    shops = shops_of(Random(seed))
    street = Street(shops, seed, faults)
    night.server, night.rules = street, street.rules
    for number, job in enumerate(night.jobs):
        own, *others = shops[number % 3 :] + shops[: number % 3]
        night.jobs[number] = replace(job.by(own.way), fallbacks=tuple(shop.way for shop in others if fallbacks))
    return street


def check(night: Night, street: Street, ended: RunEnded, budget: int | None = None) -> None:
    """Hold a night of one run to what must hold in all."""
    with contextlib.closing(connect(night.folder / "ledger.db", durable=False)) as connection:
        state = state_of(connection)
        sent = connection.execute(
            "SELECT jobs.id, provider, attempts.model FROM attempts JOIN jobs ON jobs.number = attempts.job"
            " JOIN submissions ON submissions.number = submission WHERE state != 'voided' ORDER BY attempts.number"
        ).fetchall()
    # The money is the servers' to the last attempt, and was within the budget at every moment.
    assert {name: nanos(use.spent) for name, use in state.providers.items()} == {
        name: street.money[name] for name in state.providers
    }
    assert night.spent() == street.money.total()
    assert budget is None or street.most <= budget
    # The ledger says of each request whom it asked.
    assert Counter(provider for _, provider, _ in sent) == Counter(call_shop(street, call.key) for call in street.calls)
    assert all(model == f"m-{provider}" for _, provider, model in sent)
    # No limit was exceeded.
    assert all(street.busiest[shop.name] <= shop.concurrency for shop in street.shops.values())
    assert street.busiest_of_all <= TOTAL
    # Nothing was paid twice: one picture a job, one asking more after an unknown, and nothing after what is final.
    assert all(count == 1 for count in street.delivered.values())
    story: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for job, shop, what in street.log:
        story[job].append((shop, what))
    for job, row in night.rows().items():
        whats = [what for _, what in story[job]]
        assert whats.count("unknown") <= 2
        assert whats.count("moderated") <= 1
        assert not {"picture", "moderated"} & {*whats[:-1]}, (job, whats)
        if row.status == "done":
            assert f'"provider": "{story[job][-1][0]}"' in row.spec, (job, story[job], row.spec)
    made = Counter(story[job][-1][0] for job, row in night.rows().items() if row.status == "done")
    assert {name: use.done for name, use in state.providers.items() if use.done} == made
    assert ended.tally.done == made.total()


def call_shop(street: Street, key: str | None) -> str:
    return next(shop.name for shop in street.shops.values() if key in shop.keys)


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 60))])
def test_every_job_ends_while_anybody_can_make_it(nights: NightFactory, seed: int) -> None:
    with nights(JOBS) as night:
        street = opened(night, seed)
        ended = night.run(concurrency=TOTAL)
        assert ended.reason is None
        assert {row.status for row in night.rows().values()} <= {"done", "failed", "unknown"}
        assert ended.tally.done + ended.tally.failed + ended.tally.unknown == JOBS
        assert ended.seconds < 300, "what another can make does not wait for an outage"
        check(night, street, ended)
        others = [job.id for job in night.jobs if street_of(street, job) != job.provider]
        assert others, "nobody took over in a night that makes it necessary"


def street_of(street: Street, job: Job) -> str:
    return next((shop for name, shop, _ in reversed(street.log) if name == job.id), job.provider)


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 40))])
def test_the_budget_is_exact_to_the_last_attempt(nights: NightFactory, seed: int) -> None:
    with nights(JOBS) as night:
        street, budget = opened(night, seed), 200 * UNIT
        ended = night.run(concurrency=TOTAL, budget=currency(budget))
        assert ended.reason is not None
        assert ended.reason.reason == "budget"
        check(night, street, ended, budget)
        assert budget - max(shop.price for shop in street.shops.values()) < night.spent() <= budget


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 40))])
def test_jobs_that_nobody_else_can_make_wait_or_stay(nights: NightFactory, seed: int) -> None:
    """Without fallbacks an outage is waited out, and dead keys leave their jobs pending when the others' are done."""
    with nights(JOBS) as night:
        street = opened(night, seed, fallbacks=False)
        ended = night.run(concurrency=TOTAL)
        check(night, street, ended)
        rows = night.rows()
        pending = [job for job in night.jobs if job.id not in rows or rows[job.id].status == "pending"]
        assert {job.provider for job in pending} <= {"cheap"}
        assert (ended.reason is not None) is bool(pending)
        assert all(shop == job.provider for job in night.jobs for name, shop, _ in street.log if name == job.id)


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 60))])
def test_a_night_cut_off_goes_on_where_each_job_stands(nights: NightFactory, seed: int) -> None:
    """Killed at any time, the next run asks for tasks where they were accepted, and stays within the budget."""
    random, budget = Random(f"kill {seed}"), 300 * UNIT
    with nights(JOBS) as night:
        street = opened(night, seed)
        at = random.uniform(2, 30)
        first = night.run(concurrency=TOTAL, budget=currency(budget), kill_at=at)
        street.epoch += at
        ended = night.run(concurrency=TOTAL, budget=currency(budget))
        assert street.most <= budget
        assert street.money.total() <= night.spent() <= budget
        assert night.spent() - street.money.total() <= TOTAL * 8 * UNIT
        assert not first.killed or ended.recovered <= TOTAL
        assert all(count <= 2 for count in street.delivered.values())
        if ended.reason is None:
            assert {row.status for row in night.rows().values()} <= {"done", "failed", "unknown"}
            assert len(night.rows()) == JOBS


@pytest.mark.parametrize("on_unknown", ["hold", "fail"])
def test_an_attempt_whose_outcome_is_unknown_is_made_nowhere_else(nights: NightFactory, on_unknown: Any) -> None:
    with nights(30) as night:
        street = opened(night, 1, faults=0.5)
        ended = night.run(concurrency=TOTAL, on_unknown=on_unknown)
        check(night, street, ended)
        after = {job: [what for name, _, what in street.log if name == job] for job, _, _ in street.log}
        assert any("unknown" in whats for whats in after.values())
        assert all(whats.index("unknown") == len(whats) - 1 for whats in after.values() if "unknown" in whats)
