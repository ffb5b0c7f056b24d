"""Clients of the servers in `limit_servers`, on a virtual clock: ours, a bare loop of twenty lines, and aiolimiter.

Ours is the real worker pool with the real rate limiter; what is faked is the world outside: the wire, and a ledger in
memory. Each returns what the server saw.
"""

from __future__ import annotations

import asyncio
import random as global_random
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from batchflux.engine.budget import Budget
from batchflux.engine.canary import Canary
from batchflux.engine.circuit_breaker import CircuitBreaker
from batchflux.engine.job_runner import JobRunner
from batchflux.engine.limits.key_pool import Key
from batchflux.engine.limits.rate_limiter import RateLimiter, Slots
from batchflux.engine.ports import World
from batchflux.engine.retry import RetryPolicy
from batchflux.engine.services import Service, Services
from batchflux.engine.settings import Rules
from batchflux.engine.shutdown import Deadline, Gate
from batchflux.engine.worker_pool import WorkerPool, workers_for
from batchflux.errors import JobError
from batchflux.ledger.reconcile import Work
from batchflux.models import Collected, Exchanged, Finished, Link, Stored
from batchflux.providers import providers
from batchflux.transport import CallTimes, DownloadSlots
from tests.conftest import numbered_job
from tests.engine.clock import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from batchflux.engine.limits.limit_finder import Learned
    from tests.engine.limit_servers import Model

LATE = 0.002  # seconds; timers fire up to so much late, and requests take up to so long to the server
STORED = Stored(file_name="x.png", width=1, height=1, bytes=1, sha256="0" * 64)


@dataclass(slots=True)
class Seen:
    """What a server saw: each request's time, key and whether it was refused; and how the client ended."""

    calls: list[tuple[float, str, bool]] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    peak: int = 0
    failed: int = 0
    learned: list[Learned] = field(default_factory=list)

    @property
    def refused(self) -> float:
        """The share of requests that was refused."""
        return sum(no for _, _, no in self.calls) / max(len(self.calls), 1)

    @property
    def makespan(self) -> float:
        """When the last answer came."""
        return max(self.answers, default=0.0)

    def rate(self, begin: float, end: float) -> float:
        """Answers a second in a span of time, by when their requests came."""
        return sum(begin <= at < end and not no for at, _, no in self.calls) / (end - begin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """`jobs` to do with `slots` at once; `rate` is what the client is told: requests, in seconds."""

    jobs: int
    slots: int = 64
    rate: tuple[float, float] | None = None
    keys: int = 1
    seed: int = 1
    learned: Learned | None = None
    attempts: int = 5

    def run(self, way: Callable[[Client, Sequence[Model], Seen], Any], *servers: Model) -> Seen:
        """Run it against a server, or one for each key."""
        late, seen = Random(self.seed), Seen()
        global_random.seed(self.seed)  # tenacity's waits draw from it
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(lambda: late.uniform(0, LATE))) as runner:
            runner.run(way(self, servers, seen))
        return seen


def most_in_a_window(times: Sequence[float], seconds: float) -> int:
    """The most of `times` in any half-open window of so many seconds, as a server counts them."""
    most, first = 0, 0
    for last, time in enumerate(times):
        while time - times[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


async def ask(model: Model, key: str, random: Random, seen: Seen) -> None:
    """Make one request; JobError when it is refused."""
    clock = asyncio.get_running_loop().time
    await asyncio.sleep(random.uniform(0, LATE))
    no = model.admit(clock(), random)
    seen.calls.append((clock(), key, no is not None))
    if no is not None:
        await asyncio.sleep(model.quick)
        raise JobError(no.code, no.words, retry_after=no.wait)
    model.active += 1
    seen.peak = max(seen.peak, model.active)
    try:
        await asyncio.sleep(model.took(random))
    finally:
        model.active -= 1
    seen.answers.append(clock())


async def ours(client: Client, servers: Sequence[Model], seen: Seen) -> None:
    """The engine, unchanged."""
    gate, random = Gate(), Random(client.seed)
    keys = [
        Key(name=str(number), secret=str(number), rate=client.rate, learned=client.learned)
        for number in range(client.keys)
    ]
    breaker = CircuitBreaker(20, gate)
    service = Service(
        name="tuzi",
        gate=gate,
        limits=RateLimiter(keys, concurrency=client.slots, gate=gate, breaker=breaker),
        breaker=breaker,
        policy=RetryPolicy(attempts=client.attempts),
        times=CallTimes(360.0),
        wire=lambda job: providers()["flux-relay", job.style],
        price_of=lambda _: 0,
        cost_of=lambda *_: None,
    )
    rules = Rules(
        services=Services({service.name: service}, gate),
        slots=Slots(client.slots),
        canary=Canary(0, gate),
        budget=Budget(spent=0, gate=gate),
        deadline=Deadline(None, "", gate),
        downloads=DownloadSlots(10_000, 10_000),
    )
    wire = _Wire(servers, random, seen)
    world = World(executor=wire, ledger=_Books(), batches=_NoBatches(), observer=_Nobody(), gate=gate, random=random)
    pool = WorkerPool(JobRunner(world, rules), world, "retry")
    await pool.run(_Jobs(client.jobs), workers_for(client.slots))

    seen.failed = client.jobs - pool.tally.done
    seen.learned = [key.found for key in keys]


async def bare(client: Client, servers: Sequence[Model], seen: Seen) -> None:
    """The loop of twenty lines: a semaphore, and tenacity's random exponential waits, up to a minute."""
    random, slots = Random(client.seed), asyncio.Semaphore(client.slots)
    await asyncio.gather(
        *(_repeated(number % client.keys, servers, random, seen, slots, None) for number in range(client.jobs))
    )


async def limited(client: Client, servers: Sequence[Model], seen: Seen) -> None:
    """The same with aiolimiter's bucket, told the rate."""
    random, slots = Random(client.seed), asyncio.Semaphore(client.slots)
    rate = AsyncLimiter(*client.rate) if client.rate else None
    jobs = range(client.jobs)
    await asyncio.gather(*(_repeated(number % client.keys, servers, random, seen, slots, rate) for number in jobs))


async def _repeated(
    key: int, servers: Sequence[Model], random: Random, seen: Seen, slots: asyncio.Semaphore, rate: AsyncLimiter | None
) -> None:
    async for attempt in AsyncRetrying(retry=retry_if_exception_type(JobError), wait=wait_random_exponential(max=60)):
        with attempt:
            async with slots:
                if rate is not None:
                    await rate.acquire()
                await ask(servers[key % len(servers)], str(key), random, seen)


class _Wire:
    """An Executor whose requests are answered by models."""

    def __init__(self, servers: Sequence[Model], random: Random, seen: Seen) -> None:
        self._servers, self._random, self._seen = servers, random, seen

    async def exchange(
        self, request: Any, *, provider: Any, secret: str | None, at: Any, on_sent: Callable[[], None] | None = None
    ) -> Exchanged:
        if on_sent is not None:
            on_sent()
        server = self._servers[int(secret or 0) % len(self._servers)]
        await ask(server, secret or "", self._random, self._seen)
        return Exchanged(reply=Finished(asset=Link(url="https://cdn.example/x")), seconds=1.0)

    def lines(self, request: Any, *, provider: Any, secret: str | None, at: Any) -> AsyncGenerator[bytes]:
        raise NotImplementedError

    async def write_lines(self, name: str, lines: Any) -> Any:
        raise NotImplementedError

    async def drop_lines(self, name: str) -> None:
        raise NotImplementedError

    async def keep(self, job: Any, picture: Any) -> str:
        raise NotImplementedError

    async def keep_answer(self, job: Any, attempt: int, body: bytes) -> str:
        raise NotImplementedError

    async def collect(self, job: Any, asset: Any, attempt: int) -> Collected:
        return Collected(stored=STORED, seconds=0.1)

    async def beside(self, job: Any, stored: Any, more: Any) -> Any:
        raise NotImplementedError


class _Books:
    """A Ledger that keeps nothing: what is on record is another test's."""

    def __init__(self) -> None:
        self._attempts = 0

    async def authorize(self, job: Any, leaving: Any) -> int:
        self._attempts += 1
        return self._attempts

    async def submitted(self, attempt: int, handle: str, cost: int | None) -> None: ...

    async def captured(self, attempt: int, received: Any) -> None: ...

    async def further(self, job: Any) -> list[str]:
        return []

    async def handles_near(self, attempt: int, seconds: float) -> list[str]:
        return []

    async def found(self, attempt: int, received: Any) -> int:
        return attempt

    async def voided(self, attempt: int, *, unanswered: bool) -> None: ...

    async def failed(self, attempt: int, error: JobError, *, counts: bool, **more: Any) -> None: ...

    async def finish(self, job: Any, outcome: Any) -> None: ...

    async def upload_of(self, provider: str, sha256: str, now: float) -> str | None: ...

    async def uploaded(self, provider: str, sha256: str, url: str, expires: float | None) -> None: ...


class _NoBatches:
    async def open(self) -> list[Any]:
        return []

    async def jobs(self, number: int) -> frozenset[str]:
        raise NotImplementedError

    async def has(self, attempt: int) -> bool:
        return False

    async def authorize(self, name: str, kind: str, sent: Any) -> list[int]:
        raise NotImplementedError

    async def leaves(self, number: int, at: float) -> None:
        raise NotImplementedError

    async def recorded(self, number: int, handle: str) -> None:
        raise NotImplementedError

    async def closed(self, number: int, closing: Any) -> Any:
        raise NotImplementedError


class _Nobody:
    def ended(self, job: Any, outcome: Any) -> None: ...

    def event(self, name: str, /, **fields: Any) -> None: ...


class _Jobs:
    """So many jobs, one by one."""

    def __init__(self, count: int) -> None:
        self._left = iter(range(count))

    async def take(self) -> Work | None:
        number = next(self._left, None)
        return None if number is None else Work(job=numbered_job(number))
