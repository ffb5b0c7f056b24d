"""Keep the files and the batches of an API: take a file, work through its lines, end, and give the answers as lines.

A batch is worked through evenly over its time, so that what is made when it is cancelled is its beginning. Which fault
meets a line, and what it costs, is decided then; its picture is drawn as its answer goes out, so that a batch of any
size takes no memory. Files and batches are found only by the key that brought them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING, Any, ClassVar, Literal
from uuid import uuid4

from aiohttp import web

from batchflux.simulator import replies
from batchflux.simulator.apis import DIALECTS, Asked, told
from batchflux.simulator.calls import pictured
from batchflux.simulator.endpoint import authorize, between, fraction
from batchflux.simulator.faults import NOT_IN_BATCHES, SLOW_BATCH, UNLISTED
from batchflux.simulator.images import NoPictureError
from batchflux.simulator.replies import Refusal, Reply, error_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

    from aiohttp.typedefs import Handler

    from batchflux.simulator.endpoint import Endpoint, Turn
    from batchflux.simulator.replies import Api
    from batchflux.simulator.requests import ImageRequest

State = Literal["validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"]
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
BATCH_SHARE = 0.5
_MOST_LINES = 50_000
_IDLE_FILES = 32  # that no batch was made of
_KEPT_LINES, _KEPT_BYTES = 200_000, 2 << 30
_STEP = 0.05  # seconds between two looks at what is due
_CHECKING, _ENDING = 0.1, 0.1  # shares of a batch's time
_PIECE, _READ = 1 << 18, 1 << 22
_SHOWN = 20  # faults of a file
_TWICE, _HALF = 3, 2
FAILURES = 400  # HTTP


@dataclass(slots=True, kw_only=True)
class StoredFile:
    """A file that was brought, or is a batch's answers: then `batch` is whose, and `part` which."""

    owner: str = field(repr=False)
    id: str
    name: str
    created: float = field(default_factory=time.time)
    source: IO[bytes] | None = field(default=None, repr=False)
    size: int = 0
    batch: Batch | None = None
    part: str = ""
    given: int = 0


@dataclass(slots=True, kw_only=True)
class Line:
    """A request of a batch: where it stands in its file, and once it was made, its turn, or why it was refused."""

    key: str
    start: int
    length: int
    turn: Turn | None = None
    refused: Reply | None = None
    copies: int = 0
    given: bool = False

    @property
    def ended(self) -> bool:
        """Whether there is an answer."""
        return self.copies > 0


@dataclass(slots=True, kw_only=True)
class Batch:
    """One batch. `place` says what all its requests are for, as the paths of the API do; `about` is what came along."""

    owner: str = field(repr=False)
    id: str
    file: StoredFile
    place: dict[str, str]
    about: dict[str, Any]
    fault: str
    seconds: float
    state: State = "validating"
    created: float = field(default_factory=time.time)
    ended: float | None = None
    lines: list[Line] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    outputs: dict[str, StoredFile] = field(default_factory=dict)
    stop: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def counts(self) -> Counter[str]:
        """How many requests there are in all, how many went well, and how many failed."""
        well = sum(line.ended and line.refused is None for line in self.lines)
        ended = sum(line.ended for line in self.lines)
        return Counter(total=len(self.lines), completed=well, failed=ended - well)


class BatchQueue:
    """The handlers of one API's batches, and its files."""

    api: ClassVar[Api]
    keeps_expired: ClassVar[bool]  # whether what was made of a batch that expired is given, and billed
    quota_at_once: ClassVar[bool]  # whether a spent balance is said when a batch is made

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.files: dict[str, StoredFile] = {}
        self.batches: dict[str, Batch] = {}
        self._lists: Counter[str] = Counter()
        self._asked = 0
        self._working: set[asyncio.Task[None]] = set()

    def routes(self, router: web.UrlDispatcher, *, alone: bool) -> None:
        """Put the handlers at their paths: below the API's name, and at the top where no other API has them.

        `alone`: no other is served.
        """
        raise NotImplementedError

    def entry(self, raw: bytes) -> tuple[str, Asked]:
        """Return the key of a line and the request that it is; ValueError: it is no line of a batch."""
        raise NotImplementedError

    def check(self, batch: Batch, asked: Asked) -> str | None:
        """Return what a line has that its batch must not; None: nothing."""
        raise NotImplementedError

    def answer(self, line: Line, reply: Reply) -> bytes:
        """Return the line that tells an answer."""
        raise NotImplementedError

    def parts(self, batch: Batch) -> dict[str, Iterable[Line]]:
        """Return the files that a batch which ended has, by what they are called, and whose answers are in them."""
        raise NotImplementedError

    def rest(self, batch: Batch, part: str) -> bytes:
        """Return what a file of answers says of the requests that were not made."""
        del batch, part
        return b""

    def handled(self, handle: Callable[[web.Request, str], Awaitable[web.StreamResponse]]) -> Handler:
        """Return the handler that calls `handle` with the key of a call, and answers a refusal."""

        async def answered(http: web.Request) -> web.StreamResponse:
            try:
                return await handle(http, authorize(http.headers, self.api, self.endpoint.options.keys))
            except Refusal as refusal:
                return self.endpoint.response(refusal.reply, self.api)

        return answered

    def store(self, key: str, name: str, source: IO[bytes], size: int) -> StoredFile:
        """Keep a file that was brought; the oldest of many that no batch was made of are forgotten."""
        file = StoredFile(owner=key, id=self.new_id("file"), name=name, source=source, size=size)
        self.files[file.id] = file
        used = {batch.file.id for batch in self.batches.values()}
        idle = [one for one in self.files.values() if one.source is not None and one.id not in used]
        for old in idle[:-_IDLE_FILES]:
            self._drop(old)
        return file

    def _drop(self, file: StoredFile) -> None:
        del self.files[file.id]
        if file.source is not None:
            file.source.close()

    def _forget(self) -> None:
        """Forget the batches that ended first, with their files, where those that are known come to too much."""
        known = [*self.batches.values()]
        lines, size = sum(len(batch.lines) for batch in known), sum(batch.file.size for batch in known)
        for batch in known[:-1]:
            if lines <= _KEPT_LINES and size <= _KEPT_BYTES:
                return
            if batch.state in ENDED:
                lines, size = lines - len(batch.lines), size - batch.file.size
                del self.batches[batch.id]
                for file in batch.outputs.values():
                    self._drop(file)
                if batch.file.id in self.files and all(other.file is not batch.file for other in self.batches.values()):
                    self._drop(batch.file)

    def new_id(self, kind: str) -> str:
        """Return a name that nothing has yet."""
        return f"{kind}-{uuid4().hex[:24]}"

    def file(self, key: str, name: str) -> StoredFile:
        """Return a file, or raise the Refusal: there is none."""
        file = self.files.get(name)
        if file is None or file.owner != key:
            raise Refusal(error_reply(404, f"No such File object: {name}", "invalid_request_error", param="id"))
        return file

    def batch(self, key: str, name: str) -> Batch:
        """Return a batch, or raise the Refusal: there is none."""
        batch = self.batches.get(name)
        if batch is None or batch.owner != key:
            raise Refusal(error_reply(404, f"No batch found with id '{name}'.", "invalid_request_error"))
        return batch

    def listed(self, key: str) -> list[Batch]:
        """Return the batches of a key, newest first, without one that its fault keeps from the first lists."""
        found = [batch for batch in reversed(self.batches.values()) if batch.owner == key]
        hidden = [batch for batch in found if batch.fault == "batch_unlisted" and self._lists[batch.id] < UNLISTED]
        self._lists.update(batch.id for batch in hidden)
        return [batch for batch in found if batch not in hidden]

    async def made(
        self, http: web.Request, key: str, file: StoredFile, place: dict[str, str], about: dict[str, Any]
    ) -> Batch | web.StreamResponse:
        """Make a batch of a file, let it be worked through, and return it; or what is answered in its place."""
        journal = self.endpoint.journal
        journal.received += 1
        if file.source is None:
            raise replies.invalid("The file is not one that a batch can be made of.", "input_file_id")
        with self.endpoint.throttle.admitted():
            first = os.pread(file.source.fileno(), _PIECE, 0).partition(b"\n")[0].decode(errors="replace")
            fault = self.endpoint.batch_fault(self.api, first, self._asked)
            self._asked += 1
            if fault == "batch_dropped":
                return replies.reset(http)
            if fault == "batch_quota" and self.quota_at_once:
                raise Refusal(replies.plain_error("quota"))
            chance = (self.endpoint.options.seed, "batch", len(self.batches))
            seconds = between(*self.endpoint.options.batch_seconds, *chance)
            seconds *= SLOW_BATCH if fault == "batch_slow" else 1
            named = self.new_id("batch").replace("-", "_")
            batch = Batch(owner=key, id=named, file=file, place=place, about=about, fault=fault, seconds=seconds)
            self.batches[batch.id] = batch
            journal.batches["created"] += 1
            task = asyncio.create_task(self._work(batch))
            self._working.add(task)
            task.add_done_callback(self._working.discard)
        return replies.reset(http) if fault in ("batch_lost", "batch_unlisted") else batch

    def cancel(self, batch: Batch) -> None:
        """Let a batch end before its time."""
        if batch.state not in ENDED:
            batch.state = "cancelling"
            batch.stop.set()

    async def close(self) -> None:
        """Work no more, and close what was brought."""
        for task in self._working:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)
        for file in self.files.values():
            if file.source is not None:
                file.source.close()

    async def download(self, http: web.Request, file: StoredFile) -> web.StreamResponse:
        """Give a file: one that was brought as it is, answers line by line."""
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        await response.prepare(http)
        self.endpoint.journal.by_status[response.status] += 1
        file.given += 1
        batch = file.batch
        sent, last = 0, -1
        if batch is not None and batch.fault == "batch_cut" and file.given == 1:
            last = math.ceil(sum(line.copies for line in self.parts(batch)[file.part]) / _HALF)
        async for piece in self._pieces(file, f"{http.scheme}://{http.host}"):
            if sent == last and http.transport is not None:
                await response.write(piece[: len(piece) // _HALF])
                http.transport.close()
                return response
            await response.write(piece)
            sent += 1
        await response.write_eof()
        return response

    async def _pieces(self, file: StoredFile, origin: str) -> AsyncIterator[bytes]:
        batch = file.batch
        if batch is None:
            if file.source is not None:
                for at in range(0, file.size, _PIECE):
                    yield os.pread(file.source.fileno(), _PIECE, at)
            return
        for line in sorted(self.parts(batch)[file.part], key=lambda line: fraction(batch.id, line.key)):
            for _ in range(line.copies):
                yield await self._answered(batch, line, origin)
        yield self.rest(batch, file.part)

    async def _answered(self, batch: Batch, line: Line, origin: str) -> bytes:
        """Return what was answered to a request of a batch, with its picture if there is one."""
        if line.refused is not None:
            return self.answer(line, told(line.refused, self.api))
        request, turn = await asyncio.to_thread(self._request, batch, line), line.turn
        if isinstance(request, Reply) or turn is None:
            raise RuntimeError(f"the line {line.key} of {batch.id} has no answer")
        if (error := self.endpoint.refusal(request, turn)) is not None:
            return self.answer(line, told(error, self.api))
        said = await pictured(self.endpoint, request, turn, origin)
        if not line.given:
            line.given = True
            self.endpoint.journal.answer(request.content)
        return self.answer(line, said if isinstance(said, Reply) else Reply(body=b"".join(said)))

    async def _work(self, batch: Batch) -> None:
        """See a batch through to its end."""
        await self._wait(batch, batch.seconds * _CHECKING)
        batch.errors = await asyncio.to_thread(self._checked, batch)
        if batch.errors:
            self._end(batch, "failed")
            return
        total = len(batch.lines)
        stops = batch.fault in ("batch_expired", "batch_cancelled")
        until = total // _HALF if stops or batch.fault in ("batch_half", "batch_stuck") else total
        if batch.state == "validating":
            batch.state = "in_progress"
        began, takes, done = time.monotonic(), batch.seconds * (1 - _CHECKING - _ENDING), 0
        while done < until and not batch.stop.is_set():
            share = (time.monotonic() - began) / takes if takes else 1.0
            due = min(until, math.floor(total * share))
            await self._make(batch, done, due)
            done = due
            if done < until:
                await self._wait(batch, _STEP)
        if batch.fault == "batch_stuck":
            await batch.stop.wait()
        end: State = "cancelled" if batch.stop.is_set() else "completed"
        if stops:
            end = "expired" if batch.fault == "batch_expired" else "cancelled"
        elif not batch.stop.is_set():
            batch.state = "finalizing"
        await self.endpoint.pause(batch.seconds * _ENDING)
        self._end(batch, end)

    async def _wait(self, batch: Batch, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(batch.stop.wait(), seconds)

    async def _make(self, batch: Batch, start: int, end: int) -> None:
        """Decide what is answered to the requests from one place to another, and bill it."""
        lines = batch.lines[start:end]
        if not lines:
            return
        found = await asyncio.to_thread(lambda: [_small(self._request(batch, line)) for line in lines])
        for number, (line, request) in enumerate(zip(lines, found, strict=True), start):
            line.copies = 1
            if isinstance(request, Reply):
                line.refused = request
                continue
            line.turn = self.endpoint.turn(request, NOT_IN_BATCHES)
            error = self.endpoint.refusal(request, line.turn)
            paid = error is None or line.turn.of("instead") in DIALECTS[self.api].billed
            if batch.fault == "batch_twice" and paid and number % _TWICE == 0:
                line.copies = 2
            if error is not None and error.status >= FAILURES:
                line.refused = error
            free = batch.fault == "batch_expired" and not self.keeps_expired
            for _ in range(line.copies if paid and not free else 0):
                price = request.price * BATCH_SHARE
                self.endpoint.journal.bill(request, task=batch.id, price=price)

    def _end(self, batch: Batch, state: State) -> None:
        batch.state, batch.ended = state, time.time()
        for part in self.parts(batch):
            file = StoredFile(owner=batch.owner, id=self.new_id("file"), name=f"{batch.id}_{part}.jsonl")
            file.batch, file.part = batch, part
            self.files[file.id] = batch.outputs[part] = file
        self.endpoint.journal.batches[state] += 1
        self._forget()

    def _request(self, batch: Batch, line: Line) -> ImageRequest | Reply:
        """Return the request in a line, or why it is refused."""
        raw = b"" if batch.file.source is None else os.pread(batch.file.source.fileno(), line.length, line.start)
        try:
            _, asked = self.entry(raw)
            return self.endpoint.validated(Asked(raw=asked.raw, path=batch.place), self.api)
        except Refusal as refusal:
            return refusal.reply
        except NoPictureError:
            return error_reply(500, "An upload was dropped from the cache.", "server_error")

    def _checked(self, batch: Batch) -> list[dict[str, Any]]:
        """Take note of a batch's lines, and return what is wrong with its file."""
        if batch.fault == "batch_failed":
            return [_fault("invalid_json_line", "This line is not parseable as valid JSON.", 1)]
        if batch.fault == "batch_quota":
            return [_fault("billing_hard_limit_reached", "Billing hard limit has been reached.")]
        errors, keys = list[dict[str, Any]](), set[str]()
        for number, (start, raw) in enumerate(_lines(batch.file), 1):
            try:
                key, asked = self.entry(raw)
            except ValueError as error:
                errors.append(_fault("invalid_json_line", str(error), number))
                continue
            if (wrong := self.check(batch, asked)) is not None:
                errors.append(_fault("mismatched_request", wrong, number))
            if key in keys:
                errors.append(_fault("duplicate_custom_id", f"{key} is the name of an earlier request.", number))
            keys.add(key)
            batch.lines.append(Line(key=key, start=start, length=len(raw)))
        if not keys and not errors:
            errors.append(_fault("empty_file", "The file has no requests."))
        if len(batch.lines) > _MOST_LINES:
            errors.append(_fault("too_many_tasks", f"The file has more than {_MOST_LINES} requests."))
        return errors[:_SHOWN]


def _small(request: ImageRequest | Reply) -> ImageRequest | Reply:
    """Return a request without the bytes of its photos, which are in the cache."""
    return request if isinstance(request, Reply) else replace(request, uploads=())


def new_file() -> IO[bytes]:
    """Return a file of no name, which is gone when it is closed."""
    return tempfile.TemporaryFile()


def _fault(code: str, message: str, line: int | None = None) -> dict[str, Any]:
    return {"code": code, "message": message, "param": None, "line": line}


def _lines(file: StoredFile) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file that are not blank, and where they start."""
    left, start = b"", 0
    for at in range(0, file.size, _READ):
        left += b"" if file.source is None else os.pread(file.source.fileno(), _READ, at)
        *whole, left = left.split(b"\n")
        for raw in whole:
            if raw.strip():
                yield start, raw
            start += len(raw) + 1
    if left.strip():
        yield start, left
