"""A provider that sells batches, in this process: what it does with each, what it bills, and what it must never see.

`Shop` is its server. A batch is made in `hours`, of what its `Fate` says; each line that is made is billed at half the
price, a live picture at the whole. It takes note when it is sent what it has already: a job in two batches at once, or
live while a batch has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from batchflux import failpoints
from batchflux.capabilities import BatchTerms, Capabilities
from batchflux.engine.budget import Budget, Ceiling
from batchflux.engine.canary import Canary
from batchflux.engine.circuit_breaker import CircuitBreaker
from batchflux.engine.limits.key_pool import Key
from batchflux.engine.limits.rate_limiter import RateLimiter, Slots
from batchflux.engine.retry import RetryPolicy
from batchflux.engine.services import Batching, Service, Services
from batchflux.engine.settings import Rules
from batchflux.engine.shutdown import Deadline, Gate
from batchflux.errors import Code, JobError
from batchflux.ledger.tables import nanos, spent
from batchflux.models import (
    Bytes,
    Closed,
    Cost,
    Exchanged,
    Finished,
    HttpRequest,
    Inline,
    Json,
    LocalFile,
    Missing,
    Pending,
    Submitted,
    Uploaded,
)
from batchflux.providers import Provider
from batchflux.providers.batches import BatchAnswer, BatchApi
from batchflux.transport import CallTimes, DownloadSlots
from tests.engine.conftest import Server, Terms

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Mapping

    from batchflux.ledger.ledger import Ledger
    from batchflux.models import Job, Reply

HALF, WHOLE = 70_000_000, 140_000_000
HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What becomes of a batch: `made` is the share of its lines that is, before it `ends` so after `hours`.

    `lost` is the create's answer: `before` the batch was there, or `after`. `refused`: the create, or with
    `validation` the file, is refused with that code. `twice` lines come twice, `errors` are lines that fail, by the
    number of their job's try, `strange` lines are garbled. Its files break off once after `cut` lines.
    """

    hours: float = 0.2
    made: float = 1.0
    ends: str = "completed"
    lost: str | None = None
    hidden: float = 0.0
    refused: Code | None = None
    validation: Code | None = None
    twice: int = 0
    errors: Code | None = None
    strange: int = 0
    cut: int | None = None


@dataclass(slots=True, kw_only=True)
class Lot:
    """One batch at the server."""

    name: str
    keys: list[str]
    at: float
    fate: Fate
    key: str | None
    ends: str = ""
    lines: list[bytes] | None = None
    cuts: int = 1

    def ended_at(self) -> float:
        return self.at + self.fate.hours * HOUR


class Answer:
    """Reads what the shop answers for one job."""

    def __init__(self, job: Job, status: int, headers: Mapping[str, str]) -> None:
        self._status, self._body = status, b""

    def feed(self, data: bytes) -> bool:
        self._body += data
        return False

    def finish(self, *, complete: bool) -> Reply:
        said = json.loads(self._body)
        if self._status >= 400:
            raise JobError(Code(said["code"]), "the line says so", billed=False)
        cost = Cost(amount=Decimal(said["cost"])) if "cost" in said else None
        return Finished(asset=Inline(data=said["picture"].encode()), cost=cost)


class ShopBatches(BatchApi):
    """Its wire format: the URL says what is asked."""

    def kind(self, job: Job) -> str:
        return job.model

    def line(self, job: Job, key: str) -> Json:
        if job.prompt == "unsendable":
            raise JobError(Code.INVALID_REQUEST, "no batch can carry it")
        return Json(value={"key": key, "prompt": job.prompt})

    def upload(self, file: LocalFile) -> HttpRequest:
        return _free("PUT", "upload", Bytes(image=file))

    def create(self, kind: str, file: str, name: str) -> HttpRequest:
        return HttpRequest(method="POST", url="create", content=Json(value={"file": file, "name": name}), reader=_never)

    def find(self, name: str) -> HttpRequest:
        return _free("GET", f"find/{name}")

    def poll(self, handle: str) -> HttpRequest:
        return _free("GET", f"poll/{handle}")

    def cancel(self, handle: str) -> HttpRequest:
        return _free("POST", f"cancel/{handle}")

    def answers(self, file: str) -> HttpRequest:
        return _free("GET", f"answers/{file}")

    def read(self, line: bytes) -> BatchAnswer | None:
        if not line:
            return None
        try:
            said = json.loads(line)
        except ValueError:
            raise JobError(Code.BAD_ANSWER, "a garbled line") from None
        if said.get("status") is None:
            return None
        return BatchAnswer(key=said["key"], status=said["status"], body=json.dumps(said["body"]).encode())


def _never(status: int, headers: Mapping[str, str]) -> Any:
    raise AssertionError("the server in this process answers with replies, not with bytes")


def _free(method: Any, url: str, content: Any = None) -> HttpRequest:
    return HttpRequest(method=method, url=url, content=content, reader=_never, repeatable=True)


class ShopApi(Provider):
    api, style = "shop", "standard"
    answers: ClassVar[Any] = Answer
    batches = ShopBatches()

    def __init__(self, **terms: Any) -> None:
        self._terms = BatchTerms(**{"most": 50_000, "most_bytes": 1 << 30} | terms)

    def capabilities(self, model: str) -> Capabilities:
        return Capabilities(
            api=self.api, style=self.style, fields=frozenset(), local_images=True, batch=self._terms, model="m"
        )

    def submit(self, job: Job, attempt: int) -> HttpRequest:
        return HttpRequest(method="POST", url="live", content=Json(value={"prompt": job.key}), reader=_never)


class Shop(Server):
    """The server. `fates` are those of its batches in turn, the last for all further ones; `faults` fail free steps."""

    def __init__(self, *fates: Fate) -> None:
        super().__init__()
        self.fates = fates or (Fate(),)
        self.wire = ShopApi()
        self.uploads: dict[str, list[str]] = {}
        self.lots: dict[str, Lot] = {}
        self.money = 0
        self.pictures: Counter[str] = Counter()
        self.tries: Counter[str] = Counter()
        self.creates = 0
        self.wrong: list[str] = []
        self.live: set[str] = set()
        self.free_steps: Counter[str] = Counter()
        self.faults: Callable[[str, int], JobError | None] = lambda step, number: None  # noqa: ARG005
        self.live_takes = 5.0
        self.told: Decimal | None = None
        self.creating = 0.05
        self.unreadable: JobError | None = None
        self.sells = True
        self.kept: Callable[[], int] = int
        self.read = self.most_ahead = 0
        self.beside = False
        self.refuses: dict[str, Code] = {}
        self.made_by: Counter[str] = Counter()

    @property
    def now(self) -> float:
        return self.epoch + asyncio.get_running_loop().time()

    async def exchange(self, request: HttpRequest, **how: Any) -> Exchanged:
        step, _, what = request.url.partition("/")
        await asyncio.sleep(0.05)
        if request.repeatable:
            self.free_steps[step] += 1
            if (error := self.faults(step, self.free_steps[step])) is not None:
                raise error
            return Exchanged(reply=self._free(step, what, request, how["secret"]), seconds=0.05)
        how["on_sent"]()
        assert isinstance(request.content, Json)
        said = request.content.value
        if step == "live":
            return await self._live(said["prompt"], how["at"][0])
        return Exchanged(reply=await self._create(said["file"], said["name"], how["secret"]), seconds=0.05)

    def _free(self, step: str, what: str, request: HttpRequest, key: str | None) -> Reply:
        self._age()
        if step == "upload":
            assert isinstance(request.content, Bytes)
            text = Path(request.content.image.path).read_text(encoding="utf-8")
            self.uploads[f"file-{len(self.uploads)}"] = [json.loads(line)["key"] for line in text.splitlines()]
            return Uploaded(url=f"file-{len(self.uploads) - 1}")
        mine = {name: lot for name, lot in self.lots.items() if lot.key == key}
        if step == "find":
            lot = mine.get(what)
            seen = lot is not None and self.now >= lot.at + lot.fate.hidden
            return Submitted(handle=f"lot-{what}") if seen else Missing()
        lot = mine.get(what.removeprefix("lot-"))
        if lot is None:
            return Missing()
        if step == "cancel" and not lot.ends:
            self._end(lot, "cancelled", (self.now - lot.at) / HOUR / lot.fate.hours)
        if lot.fate.validation is not None and lot.ends:
            return Closed(state="failed", error=JobError(lot.fate.validation, "the file is refused"))
        return Closed(state=lot.ends, files=(lot.name,)) if lot.ends else Pending()  # type: ignore[arg-type]

    async def _live(self, key: str, provider: str) -> Exchanged:
        self._age()
        if provider in self.refuses:
            raise JobError(self.refuses[provider], "it does not make this")
        self.made_by[provider] += 1
        self.wrong += [f"{key[:8]} is sent live while a batch has it" for lot in self._open() if key in lot.keys]
        self.wrong += [f"{key[:8]} is sent live twice at once"] * (key in self.live)
        self.live.add(key)
        self.money += WHOLE
        self.pictures[key] += 1
        await asyncio.sleep(self.live_takes)
        self.live.discard(key)
        return Exchanged(reply=Finished(asset=Inline(data=b"live")), seconds=self.live_takes)

    async def _create(self, file: str, name: str, key: str | None) -> Reply:
        self._age()
        fate = self.fates[min(self.creates, len(self.fates) - 1)]
        self.creates += 1
        if fate.refused is not None:
            raise JobError(fate.refused, "the batch is refused")
        if fate.lost == "before":
            raise JobError(Code.UNKNOWN, "no answer came")
        keys = self.uploads[file]
        for lot in self._open():
            self.wrong += [f"{one[:8]} is in two batches" for one in keys if one in lot.keys]
        self.wrong += [f"{one[:8]} is in a batch while it is made live" for one in keys if one in self.live]
        self.lots[name] = Lot(name=name, keys=keys, at=self.now, fate=fate, key=key)
        await asyncio.sleep(self.creating)
        if fate.lost == "after":
            raise JobError(Code.UNKNOWN, "no answer came")
        return Submitted(handle=f"lot-{name}")

    def _open(self) -> list[Lot]:
        return [lot for lot in self.lots.values() if not lot.ends]

    def _age(self) -> None:
        """Let batches end whose time has come."""
        for lot in self._open():
            if lot.fate.validation is not None:
                lot.ends, lot.lines = "failed", []
            elif self.now >= lot.ended_at():
                self._end(lot, lot.fate.ends, 1.0)

    def _end(self, lot: Lot, ends: str, share: float) -> None:
        fate, lot.ends, lot.lines = lot.fate, ends, []
        made = lot.keys[: int(len(lot.keys) * min(1.0, share) * fate.made)]
        for number, key in enumerate(made):
            self.tries[key] += 1
            failing = fate.errors is not None and self.tries[key] == 1 and number % 2 == 0
            body: dict[str, Any] = {"code": str(fate.errors)} if failing else {"picture": f"of {key}"}
            if self.told is not None and not failing:
                body["cost"] = str(self.told)
            line = json.dumps({"key": key, "status": 429 if failing else 200, "body": body}).encode()
            times = 2 if number < fate.twice else 1
            lot.lines += [b"{garbled" if number < fate.strange else line] * times
            if not failing:
                self.money += times * (HALF if self.told is None else nanos(self.told))
                self.pictures[key] += 1
        lot.lines += [json.dumps({"key": key}).encode() for key in lot.keys[len(made) :]]
        lot.lines.append(b"")

    async def lines(self, request: HttpRequest) -> AsyncGenerator[bytes]:
        lot = self.lots[request.url.removeprefix("answers/")]
        if self.unreadable is not None:
            raise self.unreadable
        assert lot.lines is not None
        for number, line in enumerate(lot.lines):
            await asyncio.sleep(0)
            if lot.fate.cut == number and lot.cuts:
                lot.cuts -= 1
                raise JobError(Code.NETWORK, "the answer broke off")
            self.read += 1
            self.most_ahead = max(self.most_ahead, self.read - self.kept())
            yield line

    def rules(self, asked: Terms, ledger: Ledger, gate: Gate) -> Rules:
        """Return the rules of a run in mode batch; `asked.deadline` there is the hour from which on it is live."""
        already = ledger.database.now(spent)
        most = Ceiling(None if asked.budget is None else nanos(asked.budget), "budget")
        budget = Budget(folder=most, spent=already, gate=gate)
        batching = Batching(
            on=asked.batches,
            price_of=lambda _: HALF,
            cost_of=_cost_of,
            seller=self.wire,
            live_from=None if asked.live_from is None else lambda at: at + (asked.live_from or 0.0),
        )
        sold = batching if self.sells else None
        services = {"tuzi": self._service("tuzi", asked, Gate(gate) if self.beside else gate, sold)}
        if self.beside:
            services["other"] = self._service("other", asked, Gate(gate), None)
        return Rules(
            services=Services(services, gate),
            fallback_on=("moderated",),
            slots=Slots(100),
            canary=Canary(asked.canary, gate, "out"),
            budget=budget,
            deadline=Deadline(asked.deadline, "06:00", gate),
            downloads=DownloadSlots(8, 8),
        )

    def _service(self, name: str, asked: Terms, gate: Gate, batching: Batching | None) -> Service:
        keys = [Key(name=key, secret=key) for key in asked.keys]
        breaker = CircuitBreaker(asked.max_consecutive_failures, gate, asked.patience)
        return Service(
            name=name,
            gate=gate,
            limits=RateLimiter(keys, concurrency=asked.concurrency, gate=gate, breaker=breaker),
            breaker=breaker,
            policy=RetryPolicy(attempts=asked.attempts, on_unknown=asked.on_unknown),
            times=CallTimes(asked.timeout),
            wire=lambda _: self.wire,
            price_of=lambda _: WHOLE,
            cost_of=_cost_of,
            batching=batching,
        )


def _cost_of(_job: Job, cost: Cost | None) -> int | None:
    return None if cost is None or cost.amount is None else nanos(cost.amount)


@contextlib.contextmanager
def killing(point: str, number: int) -> Iterator[None]:
    """Kill the run at the so-manieth pass of a failpoint, wherever the program passes it."""
    passes = Counter[str]()

    def reach(passed: str) -> None:
        passes[passed] += 1
        if (passed, passes[passed]) == (point, number):
            asyncio.get_running_loop().stop()

    real, changed = failpoints.reach, []
    for name, module in list(sys.modules.items()):
        if name.startswith("batchflux") and getattr(module, "reach", None) is real:
            vars(module)["reach"] = reach
            changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            vars(module)["reach"] = real
