"""A night at the provider's in a second: the engine, unchanged, on a virtual clock and in-process ports.

`Night` is one output folder (a real ledger, pictures in memory) and one provider's server, over as many runs as a test
wants; a run can be killed at a virtual time or after a number of loop turns. What is faked is the world outside the
program: the wire, the disk of pictures, the watching user. A test says what the server answers, call by call, and then
reads what it saw (`night.server`) and what the folder knows (`night.rows()`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.capabilities import Capabilities
from batchflux.engine.budget import Budget, Ceiling
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
from batchflux.engine.worker_pool import Tally, WorkerPool, workers_for
from batchflux.errors import Code, JobError, StopRun
from batchflux.ledger.batches import Batch, BatchLedger, Closing, Freed
from batchflux.ledger.bookkeeping import Feeder, FreeFirst
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.means import Means
from batchflux.ledger.reconcile import Selection
from batchflux.ledger.tables import COLUMNS, Known, nanos, spent
from batchflux.models import (
    Collected,
    Cost,
    Ended,
    Exchanged,
    Fetched,
    Finished,
    HttpRequest,
    Inline,
    Job,
    Json,
    Leaving,
    Link,
    Listed,
    Missing,
    Outcome,
    Pending,
    Received,
    Reference,
    Stored,
    Submitted,
)
from batchflux.providers import Provider, providers
from batchflux.transport import CallTimes, DownloadSlots
from batchflux.transport.lines import Lines, write_lines
from batchflux.webhooks.wakes import Wakes
from tests.conftest import numbered_job
from tests.engine.clock import VirtualLoop

if TYPE_CHECKING:
    from batchflux.engine.ports import Buckets
    from batchflux.ledger.reconcile import OnUnknown
    from batchflux.providers.base import Lost

DUSK = 1_800_000_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the server does with one call: after `after` seconds (None: never) a picture, or an error.

    `inline` sends the bytes in the answer instead of a link to them. `crash` raises what no port may raise. `task`: the
    answer is a handle, and the task is ready so many seconds later, or `ends` with that code; its first `trouble` polls
    fail, for `cause` or `network`. `cost` is what the answer says that it cost, `bill` what the last poll of its task
    says.
    """

    after: float | None = 1.0
    code: Code | None = None
    billed: bool = False
    dead: bool = False
    final: bool = False
    cause: Code | None = None
    retry_after: float | None = None
    inline: bool = False
    crash: Exception | None = None
    task: float | None = None
    ends: Code | None = None
    trouble: int | None = None
    cost: Cost | None = None
    bill: Cost | None = None

    async def serve(self) -> None:
        if self.after is None:
            await asyncio.get_running_loop().create_future()
        else:
            await asyncio.sleep(self.after)
        if self.crash is not None:
            raise self.crash
        if self.code is not None:
            error = JobError(
                self.code,
                f"the server says {self.code}",
                retry_after=self.retry_after,
                billed=self.billed,
                dead=self.dead,
                final=self.final,
            )
            error.cause, error.tokens = self.cause, self.cost.tokens if self.cost else None
            raise error


@dataclass(slots=True, kw_only=True)
class Call:
    """One call that reached the server; `ended` is None while it is out, and for ever when the client died."""

    id: str
    key: str | None
    at: float
    ended: float | None = None
    reply: Reply


Script = Mapping[str, Sequence[Reply]] | Callable[[str, int], Reply]


class Server:
    """The provider and its picture host. Scripts say what the n-th call or fetch for a job gets; the last repeats.

    `charged` counts the calls it bills: pictures, errors that say so, and calls whose client died. `exposure` is the
    most that was ever charged and out together, in calls: what the budget must bound.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.sent: list[str] = []
        self.fetches: list[Call] = []
        self.api: Script = {}
        self.files: Script = {}
        self.hosts: dict[str, str] = {}
        self.by_key: Callable[[str | None, int], Reply | None] = lambda key, number: None  # noqa: ARG005
        self.in_flight = 0
        self.peak = 0
        self.per_job: Counter[str] = Counter()
        self.per_key: Counter[str | None] = Counter()
        self.per_file: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self.charged = 0
        self.exposure = 0
        self.tasks: dict[str, tuple[float, Reply]] = {}
        self.polls: Counter[str] = Counter()
        self.asked: list[tuple[str, str | None, float]] = []
        self.deaf: Callable[[float], None] = lambda _: None
        self.whole, self.list_takes = True, 0.0
        self.certain = False
        self.epoch = 0.0
        """How much later than the loop's clock it is at the server: a second run's clock begins at 0 again."""

    async def exchange(
        self,
        request: HttpRequest,
        *,
        provider: Provider,
        secret: str | None,
        at: tuple[str, str],
        on_sent: Callable[[], None] | None = None,
    ) -> Exchanged:
        if request.url.startswith(LIST):
            return await self._listed(request.url.removeprefix(LIST), secret)
        if request.repeatable:
            return self._poll(request)
        if on_sent is not None:
            on_sent()
        assert isinstance(request.content, Json)
        self.sent.append(str(request.content.value["prompt"]))
        name = self.sent[-1].rpartition(" ")[2]  # behind references
        reply = self.by_key(secret, self.per_key[secret]) or _pick(self.api, name, self.per_job[name])
        self.per_job[name] += 1
        self.per_key[secret] += 1
        seen = Call(id=name, key=secret, at=asyncio.get_running_loop().time(), reply=reply)
        self.calls.append(seen)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        self.exposure = max(self.exposure, self.charged + self.in_flight)
        free, handle = False, f"{name}/{self.per_job[name]}"
        if reply.task is not None:  # it is accepted now, whatever becomes of the answer
            self.tasks[handle] = (seen.at + (reply.after or 0.0) + reply.task + self.epoch, reply)
        try:
            await reply.serve()
        except JobError as error:
            free = not error.billed
            raise
        finally:
            self.in_flight -= 1
            self.charged += not free
        seen.ended = asyncio.get_running_loop().time()
        if reply.task is not None:
            return Exchanged(reply=Submitted(handle=handle, cost=reply.cost), seconds=reply.after or 0.0)
        return Exchanged(reply=Finished(asset=self._asset(name, reply), cost=reply.cost), seconds=reply.after or 0.0)

    async def _listed(self, name: str, key: str | None) -> Exchanged:
        """Say which tasks of a name there are; `deaf` raises what is answered in place of a list."""
        now = asyncio.get_running_loop().time() + self.epoch
        self.asked.append((name, key, now))
        self.deaf(now)
        await asyncio.sleep(self.list_takes)
        own = ((handle, due) for handle, (due, _) in self.tasks.items() if handle.split("/")[0] == name)
        handles = tuple(handle for handle, due in own if self.whole or due <= now)
        if self.certain and not handles:
            return Exchanged(
                reply=Ended(error=JobError(Code.NETWORK, "it was not accepted", billed=False)), seconds=0.0
            )
        return Exchanged(reply=Listed(handles=handles, whole=self.whole), seconds=0.0)

    def _poll(self, request: HttpRequest) -> Exchanged:
        """Say how a task stands; a poll takes no time. What `ends` it counts once it is due."""
        handle = request.url
        self.polls[handle] += 1
        if handle not in self.tasks:
            return Exchanged(reply=Missing(), seconds=0.0)
        due, reply = self.tasks[handle]
        if reply.trouble is not None and self.polls[handle] <= reply.trouble:
            raise JobError(reply.cause or Code.NETWORK, "the poll was not answered")
        if asyncio.get_running_loop().time() + self.epoch < due:
            return Exchanged(reply=Pending(), seconds=0.0)
        if reply.ends is not None:
            return Exchanged(reply=Ended(error=JobError(reply.ends, "the task says so")), seconds=0.0)
        asset = self._asset(handle.split("/")[0], reply)
        return Exchanged(reply=Finished(asset=asset, cost=reply.bill), seconds=0.0)

    def _asset(self, name: str, reply: Reply) -> Link | Inline:
        self.delivered[name] += 1
        link = Link(url=f"https://{self.hosts.get(name, 'cdn.example')}/{name}/{self.delivered[name]}")
        return Inline(data=f"picture of {name}".encode()) if reply.inline else link

    def lines(self, request: HttpRequest) -> AsyncGenerator[bytes]:
        raise AssertionError("this server sells no batches")

    async def fetch(self, url: str) -> Fetched:
        name = url.split("/")[3]
        reply = _pick(self.files, name, self.per_file[name])
        self.per_file[name] += 1
        seen = Call(id=url, key=None, at=asyncio.get_running_loop().time(), reply=reply)
        self.fetches.append(seen)
        await reply.serve()
        seen.ended = asyncio.get_running_loop().time()
        data = f"picture of {name}".encode()
        return Fetched(data=data, path=None, size=len(data), seconds=reply.after or 0.0)

    def restart(self) -> None:
        """The client died: nothing of it is out any more."""
        self.in_flight = 0


def _pick(script: Script, name: str, number: int) -> Reply:
    if callable(script):
        return script(name, number)
    replies = script.get(name) or (Reply(),)
    return replies[min(number, len(replies) - 1)]


class Pictures:
    """Pictures in memory; like a disk it outlives the runs. `faults` are raised for a job's next stores, in turn."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.spooled = 0
        self.faults: dict[str, list[Exception]] = {}

    async def spool(self, job: Job, picture: Inline) -> str:
        await asyncio.sleep(0)
        self.spooled += 1
        name = f".spool/{self.spooled}"
        self.files[name] = picture.data
        return name

    async def store(self, job: Job, source: Fetched | str) -> Stored:
        await asyncio.sleep(0)
        data = self.files.get(source) if isinstance(source, str) else source.data
        if self.faults.get(job.id):
            raise self.faults[job.id].pop(0)
        if data is None:  # as ImageStore: the spooled file may have been moved into its place before a kill
            data = self.files.get(job.file_name)
            if data is None:
                raise JobError(Code.DOWNLOAD, "what was kept is gone", dead=True)
        self.files[job.file_name] = data
        if isinstance(source, str):
            self.files.pop(source, None)
        await asyncio.sleep(0)
        digest = hashlib.sha256(data).hexdigest()
        return Stored(file_name=job.file_name, width=1, height=1, bytes=len(data), sha256=digest)


class InProcess:
    """An Executor over a Server and Pictures."""

    def __init__(self, server: Server, pictures: Pictures, folder: Path) -> None:
        self._folder = folder
        self.exchange = server.exchange
        self.keep = pictures.spool
        self._server = server
        self._pictures = pictures
        self.answers: dict[int, bytes] = {}

    def lines(
        self, request: HttpRequest, *, provider: Provider, secret: str | None, at: tuple[str, str]
    ) -> AsyncGenerator[bytes]:
        return self._server.lines(request)

    async def write_lines(self, name: str, lines: Iterable[tuple[str, Json]]) -> Lines:
        return await write_lines(self._folder / ".batches" / name, lines)

    async def drop_lines(self, name: str) -> None:
        (self._folder / ".batches" / name).unlink(missing_ok=True)

    async def keep_answer(self, job: Job, attempt: int, body: bytes) -> str:
        self.answers[attempt] = body
        return f"answers/{job.id}-{attempt}.txt"

    async def beside(self, job: Job, own: Stored | None, more: Sequence[Link | Inline]) -> str:
        raise AssertionError("no answer here has two pictures")

    async def collect(self, job: Job, asset: Link | str, attempt: int) -> Collected:
        if isinstance(asset, str):
            return Collected(stored=await self._pictures.store(job, asset))
        fetched = await self._server.fetch(asset.url)
        return Collected(stored=await self._pictures.store(job, fetched), seconds=fetched.seconds)


class Tasks(Provider):
    """A provider whose requests give tasks; the handle is the address to ask at."""

    api, style = "in-process", "tasks"

    def capabilities(self, model: str) -> Capabilities:
        return Capabilities(api=self.api, style=self.style, fields=frozenset(), local_images=True)

    def submit(self, job: Job, attempt: int) -> HttpRequest:
        return HttpRequest(method="POST", url="/", content=Json(value={"prompt": job.prompt}), reader=_unread)

    def poll(self, job: Job, handle: str) -> HttpRequest:
        return HttpRequest(method="GET", url=handle, reader=_unread, repeatable=True)

    def upload(self, image: Reference) -> HttpRequest:
        return HttpRequest(method="PUT", url="upload", reader=_unread, repeatable=True)


class Listing(Tasks):
    """One whose server can tell what it accepted."""

    style = "listing"

    def capabilities(self, model: str) -> Capabilities:
        return replace(super().capabilities(model), finds_lost=True)

    def recover(self, job: Job, lost: Lost) -> HttpRequest:
        return HttpRequest(method="GET", url=f"{LIST}{job.prompt}", reader=_unread, repeatable=True)


def _unread(status: int, headers: Mapping[str, str]) -> Any:
    raise AssertionError("the server in this process answers with replies, not with bytes")


LIST = "list:"
TASKS = Tasks()
WIRES = {wire.style: wire for wire in (TASKS, Listing())}
MEANS = Means(finds_lost=lambda job: job.style == "listing")


class Notes:
    """An Observer that writes down what it is told."""

    def __init__(self) -> None:
        self.ends: list[tuple[Job, Outcome]] = []
        self.events: list[tuple[str, dict[str, Any]]] = []

    def ended(self, job: Job, outcome: Outcome) -> None:
        self.ends.append((job, outcome))

    def event(self, name: str, /, **fields: Any) -> None:
        self.events.append((name, fields))


class SlowDisk:
    """A Ledger that takes time: a kill can come before its record is committed, and before its caller knows."""

    def __init__(self, ledger: Ledger, seconds: float) -> None:
        self._ledger = ledger
        self._half = seconds / 2

    async def authorize(self, job: Job, leaving: Leaving) -> int:
        await asyncio.sleep(self._half)
        attempt = await self._ledger.authorize(job, leaving)
        await asyncio.sleep(self._half)
        return attempt

    async def submitted(self, attempt: int, handle: str, cost: int | None) -> None:
        await asyncio.sleep(self._half)
        await self._ledger.submitted(attempt, handle, cost)
        await asyncio.sleep(self._half)

    async def captured(self, attempt: int, received: Received) -> None:
        await asyncio.sleep(self._half)
        await self._ledger.captured(attempt, received)
        await asyncio.sleep(self._half)

    async def voided(self, attempt: int, *, unanswered: bool) -> None:
        await asyncio.sleep(self._half)
        await self._ledger.voided(attempt, unanswered=unanswered)
        await asyncio.sleep(self._half)

    async def found(self, attempt: int, received: Received) -> int:
        await asyncio.sleep(self._half)
        number = await self._ledger.found(attempt, received)
        await asyncio.sleep(self._half)
        return number

    async def failed(self, attempt: int, error: JobError, *, counts: bool, **more: Any) -> None:
        await asyncio.sleep(self._half)
        await self._ledger.failed(attempt, error, counts=counts, **more)
        await asyncio.sleep(self._half)

    async def finish(self, job: Job, outcome: Outcome) -> None:
        await asyncio.sleep(self._half)
        await self._ledger.finish(job, outcome)
        await asyncio.sleep(self._half)

    async def further(self, job: Job) -> list[str]:
        return await self._ledger.further(job)

    async def handles_near(self, attempt: int, seconds: float) -> list[str]:
        return await self._ledger.handles_near(attempt, seconds)

    async def upload_of(self, provider: str, sha256: str, now: float) -> str | None:
        return await self._ledger.upload_of(provider, sha256, now)

    async def uploaded(self, provider: str, sha256: str, url: str, expires: float | None) -> None:
        await self._ledger.uploaded(provider, sha256, url, expires)


class SlowBatches:
    """As SlowDisk, of batches."""

    def __init__(self, batches: BatchLedger, seconds: float) -> None:
        self._batches = batches
        self._half = seconds / 2

    async def open(self) -> list[Batch]:
        return await self._batches.open()

    async def jobs(self, number: int) -> frozenset[str]:
        return await self._batches.jobs(number)

    async def has(self, attempt: int) -> bool:
        return await self._batches.has(attempt)

    async def authorize(self, name: str, kind: str, sent: Sequence[tuple[Job, Leaving]]) -> list[int]:
        await asyncio.sleep(self._half)
        numbers = await self._batches.authorize(name, kind, sent)
        await asyncio.sleep(self._half)
        return numbers

    async def leaves(self, number: int, at: float) -> None:
        await asyncio.sleep(self._half)
        await self._batches.leaves(number, at)
        await asyncio.sleep(self._half)

    async def recorded(self, number: int, handle: str) -> None:
        await asyncio.sleep(self._half)
        await self._batches.recorded(number, handle)
        await asyncio.sleep(self._half)

    async def closed(self, number: int, closing: Closing) -> Freed:
        await asyncio.sleep(self._half)
        freed = await self._batches.closed(number, closing)
        await asyncio.sleep(self._half)
        return freed


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a run is held back, and how the world around it behaves. Times in seconds, money in the currency.

    The rate of each key is one request an `interval`, or `rate`: so many requests in so many seconds.
    """

    concurrency: int = 4
    keys: tuple[str, ...] = ("A",)
    interval: float | None = None
    rate: tuple[float, float] | None = None
    attempts: int = 5
    price: Decimal = Decimal("0.14")
    budget: Decimal | None = None
    budget_per_run: Decimal | None = None
    deadline: float | None = None
    max_consecutive_failures: int = 10**9
    patience: float = 1800.0
    canary: int = 0
    kinds: int = 1
    on_unknown: OnUnknown = "retry"
    retry_failed: bool = False
    pay_again: bool = False
    free_first: bool = False
    only: str | None = None
    limit: int | None = None
    workers: int | None = None
    downloads: int | None = None
    timeout: float = 360.0
    floor: float | None = None
    prices: Mapping[str, Decimal] | None = None
    commit_seconds: float = 0.002
    lag: Callable[[], float] = float
    seed: int = 0
    kill_at: float | None = None
    kill_after_turns: int | None = None
    stop_at: float | None = None
    batches: bool = True
    live_from: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """How a run ended: why it stopped (None: it had no more to do), when, and what came of its jobs."""

    reason: StopRun | None
    seconds: float
    tally: Tally
    notes: Notes
    killed: bool = False
    recovered: int = 0


@dataclass(slots=True, kw_only=True)
class Night:
    """One folder, one server, one manifest; `run` it as often as you like."""

    folder: Path
    jobs: list[Job]
    server: Server = field(default_factory=Server)
    pictures: Pictures = field(default_factory=Pictures)
    rules: Callable[[Terms, Ledger, Gate], Rules] | None = None
    """What holds the run back, where it is not one provider by the terms."""
    epoch: float = 0.0
    """How many seconds after DUSK the next run begins."""
    wakes: Callable[[], Wakes] = Wakes
    buckets: Buckets | None = None
    beside: Callable[[Notes, Rules], contextlib.AbstractAsyncContextManager[None]] | None = None
    """What goes on beside a run, with its notes and rules."""

    def run(self, **terms: Any) -> RunEnded:
        """Run the manifest on a fresh loop; raise what the engine raises."""
        asked = Terms(**terms)
        self.server.restart()
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(asked.lag, asked.kill_after_turns)) as runner:
            loop = runner.get_loop()
            ledger = Ledger(self.folder / "ledger.db", durable=False, threaded=False)
            # No journal file for each commit: kills are simulated, this process lives, and a night is twice as fast.
            ledger.database._connection.execute("PRAGMA journal_mode=MEMORY")
            ended: list[RunEnded] = []
            notes = Notes()
            if asked.kill_at is not None:
                loop.call_at(asked.kill_at, loop.stop)
            try:
                runner.run(self._run(asked, ledger, notes, ended))
            except RuntimeError as error:
                if "loop stopped" not in str(error):
                    raise
                return RunEnded(reason=None, seconds=loop.time(), tally=Tally(), notes=notes, killed=True)
            finally:
                ledger.close()  # what the tasks still do as they are cleaned away cannot reach it any more
        return ended[0]

    async def _run(self, asked: Terms, ledger: Ledger, notes: Notes, ended: list[RunEnded]) -> None:
        loop = asyncio.get_running_loop()
        gate = Gate()

        def now() -> float:
            return DUSK + self.epoch + loop.time()

        batches = BatchLedger(ledger.database, now)
        world = World(
            executor=InProcess(self.server, self.pictures, self.folder),
            ledger=SlowDisk(ledger, asked.commit_seconds) if asked.commit_seconds else ledger,
            batches=SlowBatches(batches, asked.commit_seconds) if asked.commit_seconds else batches,
            observer=notes,
            gate=gate,
            random=random.Random(asked.seed),
            now=now,
            wakes=self.wakes(),
            buckets=self.buckets,
        )
        if asked.stop_at is not None:
            loop.call_at(asked.stop_at, gate.close, StopRun("signal", "Stopped by SIGTERM."))
        rules = (self.rules or _rules)(asked, ledger, gate)
        rules.canary.alone = asked.kinds == 1
        pool = WorkerPool(JobRunner(world, rules), world, asked.on_unknown)
        selection = Selection(
            **{name: getattr(asked, name) for name in ("only", "limit", "retry_failed", "pay_again", "on_unknown")}
        )
        held = self.pictures.files.__contains__
        first, rest = (Feeder(iter(self.jobs), ledger, selection, held, MEANS) for _ in range(2))
        both = FreeFirst(first, rest, asked.limit or len(self.jobs))
        async with contextlib.nullcontext() if self.beside is None else self.beside(notes, rules):
            await pool.run(both if asked.free_first else rest, asked.workers or workers_for(asked.concurrency))
        ended.append(
            RunEnded(reason=gate.reason, seconds=loop.time(), tally=pool.tally, notes=notes, recovered=ledger.recovered)
        )

    def rows(self) -> dict[str, Known]:
        """What the ledger knows, by id, as a `status` beside the run would read it: without recovery."""
        query = f"SELECT {COLUMNS} FROM known"  # noqa: S608  a constant
        with contextlib.closing(_reader(self.folder)) as connection:
            return {known.id: known for known in map(Known.of, connection.execute(query))}

    def spent(self) -> int:
        """What the folder has spent, in nanounits."""
        with contextlib.closing(_reader(self.folder)) as connection:
            return spent(connection)

    @staticmethod
    def picture(after: float = 1.0, *, inline: bool = False) -> Reply:
        return Reply(after=after, inline=inline)

    @staticmethod
    def error(code: Code, after: float | None = 1.0, **how: Any) -> Reply:
        how.setdefault("billed", code is Code.UNKNOWN)
        return Reply(after=after, code=code, **how)

    @staticmethod
    def silence() -> Reply:
        return Reply(after=None)

    @staticmethod
    def bug(error: Exception, after: float = 1.0) -> Reply:
        return Reply(after=after, crash=error)


def _ceiling(budget: Decimal | None) -> Ceiling:
    return Ceiling(None if budget is None else nanos(budget), f"{budget} CNY")


def _rules(asked: Terms, ledger: Ledger, gate: Gate) -> Rules:
    rate = asked.rate or (None if asked.interval is None else (1 / asked.interval, 1.0))
    keys = [Key(name=name, secret=name, rate=rate) for name in asked.keys]
    breaker = CircuitBreaker(asked.max_consecutive_failures, gate, asked.patience)
    budget = Budget(
        folder=_ceiling(asked.budget),
        run=_ceiling(asked.budget_per_run),
        spent=ledger.database.now(spent),
        gate=gate,
    )
    service = Service(
        name="tuzi",
        gate=gate,
        limits=RateLimiter(keys, concurrency=asked.concurrency, gate=gate, breaker=breaker),
        breaker=breaker,
        policy=RetryPolicy(attempts=asked.attempts, on_unknown=asked.on_unknown),
        times=CallTimes(asked.timeout, asked.floor),
        wire=lambda job: WIRES.get(job.style) or providers()["flux-relay", job.style],
        price_of=lambda job: nanos((asked.prices or {}).get(job.model, asked.price)),
        cost_of=lambda _, cost: nanos(cost.amount or Decimal(sum(cost.tokens.values()))) if cost else None,
    )
    return Rules(
        services=Services({service.name: service}, gate),
        slots=Slots(asked.concurrency),
        canary=Canary(asked.canary, gate, "out"),
        budget=budget,
        deadline=Deadline(asked.deadline, "06:00", gate),
        downloads=_slots(asked),
    )


def _slots(asked: Terms) -> DownloadSlots:
    least = asked.downloads or 2 * asked.concurrency + 8
    return DownloadSlots(least, asked.downloads or 1024)


def _reader(folder: Path) -> Any:
    from batchflux.ledger.connection import connect  # noqa: PLC0415  opened beside the run, as `status` does

    return connect(folder / "ledger.db", durable=False)


NightFactory = Callable[[int], contextlib.AbstractContextManager[Night]]


@pytest.fixture(scope="session")
def nights() -> NightFactory:
    """Make nights of n jobs (`j0`, `j1`, ...), each in its own folder; for hypothesis."""

    @contextlib.contextmanager
    def make(count: int) -> Iterator[Night]:
        with tempfile.TemporaryDirectory(prefix="night-") as folder:
            yield Night(folder=Path(folder), jobs=[numbered_job(number) for number in range(count)])

    return make


@pytest.fixture
def night(tmp_path: Path) -> Callable[[int], Night]:
    """Make a night of n jobs, each in its own folder."""

    def make(count: int) -> Night:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        return Night(folder=folder, jobs=[numbered_job(number) for number in range(count)])

    return make


@pytest.fixture
def virtual() -> Iterator[asyncio.Runner]:
    """A runner on a virtual clock, for parts of the engine by themselves."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        yield runner


@pytest.fixture(scope="session")
def virtual_loop() -> type[VirtualLoop]:
    """The loop itself, for a test that wants its timers late."""
    return VirtualLoop
