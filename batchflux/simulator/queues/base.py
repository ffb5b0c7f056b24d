"""Keep the tasks of an API that makes one of a request: accept, end, bill, forget; and answer polls, as a fault has it.

Tasks are found only by the key that submitted them. What an API says is in the class of it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

from batchflux.simulator import replies
from batchflux.simulator.apis import told
from batchflux.simulator.endpoint import authorize
from batchflux.simulator.faults import FAULTY_POLLS, SLOW_POLLS, UNBILLED
from batchflux.simulator.images import NotAPictureError
from batchflux.simulator.replies import Refusal, Reply, json_reply, whole
from batchflux.simulator.requests import json_object, sniff, upload_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from batchflux.simulator.drawing import Recipe
    from batchflux.simulator.endpoint import Endpoint, Turn
    from batchflux.simulator.replies import Api
    from batchflux.simulator.requests import ImageRequest

    Said = tuple[str, Reply]

KEPT_TASKS = 4_096
_LONGEST_EARLY = 30.0  # seconds that a submit is not answered because its webhook is called first
KEPT_INPUTS = 64 << 20  # bytes: with photos in them they would fill the memory
# Poll fault: the fault of a submit that gives the same answer, where it is not a `server_...` of the same name.
_POLL_ERRORS = {"429": "rate_limited", "401": "auth", "bad_json": "bad_json"}


@dataclass(slots=True, kw_only=True)
class Task:
    """One accepted request. `owner` is the key that submitted it; times are epoch seconds, the price is in credits.

    `free` is one that made nothing new. `data` is what its API keeps of it, `ends` is set when it has ended; `calling`
    calls its webhook then.
    """

    owner: str = field(repr=False)
    request: ImageRequest = field(repr=False)
    recipe: Recipe
    turn: Turn
    id: str = field(default_factory=lambda: str(uuid4()))
    created: float = field(default_factory=time.time)
    ended: float | None = None
    polls: int = 0
    given: bool = False
    cancelled: bool = False
    free: bool = False
    data: dict[str, Any] = field(default_factory=dict)
    calling: asyncio.Task[None] | None = field(default=None, repr=False)
    ends: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def fault(self) -> str:
        """The fault that decides how it ends, "" without one."""
        return self.turn.of("task")

    @property
    def price(self) -> float:
        """What the task costs once there is a picture, in credits."""
        return self.request.price / (2 if "settled_lower" in self.turn.faults else 1)

    @property
    def well(self) -> bool:
        """Whether something is made of it."""
        return not self.cancelled and self.fault not in UNBILLED

    @property
    def billed(self) -> bool:
        """Whether it is paid for when it ends."""
        return self.well and not self.free

    @property
    def progress(self) -> float:
        """How far the task is, from 0 to 1."""
        if self.ended is not None:
            return 1.0
        if self.fault == "task_slow":
            return self.polls / (SLOW_POLLS + 1)
        if self.fault == "task_stuck" or not self.turn.latency:
            return 0.0
        return min(0.99, max(0.0, (time.time() - self.created) / self.turn.latency))


class Bodies:
    """What was asked for, to the letter, by the task's id; the oldest are forgotten when it comes to KEPT_INPUTS."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}
        self._size = 0

    def keep(self, name: str, raw: bytes) -> None:
        """Keep a body."""
        self._kept[name] = raw
        self._size += len(raw)
        while self._size > KEPT_INPUTS:
            self._size -= len(self._kept.pop(next(iter(self._kept))))

    def of(self, name: str) -> dict[str, Any] | None:
        """Return the body of a task, None when it is forgotten."""
        raw = self._kept.get(name)
        return None if raw is None else json_object(raw)


class Queue:
    """The handlers of one API, and its tasks; `active` counts the unfinished ones by key."""

    most_active: ClassVar[int | None] = None
    bills_first: ClassVar[bool] = False
    at_once: ClassVar[frozenset[str]] = frozenset()
    lists_inputs: ClassVar[bool] = False

    def __init__(self, endpoint: Endpoint, api: Api) -> None:
        self._endpoint, self.api = endpoint, api
        self._tasks: dict[str, Task] = {}
        self._finished: deque[str] = deque()
        self._bodies = Bodies()
        self.active: dict[str, int] = {}

    @property
    def unfinished(self) -> int:
        """How many tasks have not ended."""
        return sum(self.active.values())

    def accepted(self, task: Task, http: web.Request) -> Reply:
        """Return the answer to a submit."""
        raise NotImplementedError

    def state(self, task: Task, http: web.Request) -> Said:
        """Return how a task stands: the word that is counted, and the answer."""
        raise NotImplementedError

    def first(self, task: Task, http: web.Request) -> Said:
        """Return how a task stood at first."""
        raise NotImplementedError

    def odd(self, task: Task, http: web.Request) -> Reply:
        """Return an answer with a status that nobody knows."""
        raise NotImplementedError

    def absent(self, http: web.Request, task: Task | None, *, code: int) -> Reply:
        """Return the answer for a task that is not found, `task` if it is there all the same."""
        raise NotImplementedError

    async def submit(self, http: web.Request) -> web.StreamResponse:
        """Answer a submit."""
        return await self._endpoint.admit(http, self.api, self._accept, http.match_info.get("model", ""))

    async def poll(self, http: web.Request, name: Callable[[web.Request], str] | None = None) -> web.StreamResponse:
        """Answer a poll for the task that `name` finds in it."""
        try:
            key = self.key(http)
            task = self.find(http.match_info["id"] if name is None else name(http), key)
        except Refusal as refusal:
            return self.refused(refusal.reply)
        if task is None:
            return self.said("Task not found", self.absent(http, None, code=404))
        task.polls += 1
        if task.turn.of("poll") and task.polls <= FAULTY_POLLS:
            return await self._faulty_poll(http, task)
        if task.fault == "task_slow" and task.polls > SLOW_POLLS:
            self.end(task)
        if task.fault == "task_vanished" and task.polls == 1:
            return self.said(*self.first(task, http))
        code = _absent(task)
        if code is not None:
            return self.said("Task not found", self.absent(http, task, code=code))
        return self.said(*self.state(task, http))

    def key(self, http: web.Request) -> str:
        """Return the key that a request came with, or raise its Refusal."""
        return authorize(http.headers, self.api, self._endpoint.options.keys)

    def find(self, name: str, key: str) -> Task | None:
        """Return the task of that name and key."""
        task = self._tasks.get(name)
        return task if task is not None and task.owner == key else None

    def refused(self, reply: Reply) -> web.Response:
        """Answer a poll with a reply that is none of a task."""
        said = told(reply, self.api)
        self._endpoint.journal.polls[str(said.status)] += 1
        return whole(said, {})

    def said(self, word: str, reply: Reply) -> web.Response:
        """Answer a poll with a task's status."""
        self._endpoint.journal.polls[word] += 1
        return whole(reply, {})

    def seen(self, task: Task) -> None:
        """Count, once, that the picture was given."""
        if not task.given:
            task.given = True
            self._endpoint.journal.answer(task.request.content)

    def begin(self, task: Task) -> None:
        """Let a task take its time, and end."""
        self._tasks[task.id] = task
        self.active[task.owner] = self.active.get(task.owner, 0) + 1
        if self.bills_first:
            self._endpoint.journal.bill(task.request, task=task.id, price=task.price)
        if task.fault not in ("task_slow", "task_stuck"):
            if task.turn.latency and not task.free and not task.turn.faults & self.at_once:
                asyncio.get_running_loop().call_later(task.turn.latency, self.end, task)
            else:
                self.end(task)

    def end(self, task: Task) -> None:
        """End a task, once: settle what it costs, and forget the oldest finished ones."""
        if task.ended is not None or self._endpoint.closing.is_set():
            return
        task.ended = time.time()
        task.ends.set()
        task.calling = self._endpoint.caller.ended(task.request, task.id, task.turn.of("webhook"), well=task.well)
        self.active[task.owner] -= 1
        if task.billed != self.bills_first:
            refund = self.bills_first
            self._endpoint.journal.bill(task.request, task=task.id, price=task.price, refund=refund)
        self._finished.append(task.id)
        if len(self._finished) > KEPT_TASKS:
            self._tasks.pop(self._finished.popleft(), None)

    def cancel(self, task: Task) -> None:
        """End a task without a picture, and without a bill."""
        task.cancelled = task.ended is None
        self.end(task)

    async def answered(self, task: Task, http: web.Request) -> Reply:
        """Return the answer to a submit, once it may be sent."""
        if task.turn.faults & self.at_once:
            await self._endpoint.pause(task.turn.latency)
        return self.accepted(task, http)

    def made(self, request: ImageRequest, recipe: Recipe, turn: Turn, key: str) -> Task:
        """Return the task of a request."""
        return Task(owner=key, request=request, recipe=recipe, turn=turn)

    async def _accept(self, http: web.Request, request: ImageRequest, key: str) -> web.StreamResponse:
        endpoint = self._endpoint
        most = endpoint.options.active_tasks or self.most_active
        if most is not None and self.active.get(key, 0) >= most:
            message = f"Active tasks limit exceeded: at most {most} unfinished tasks are allowed."
            raise Refusal(replies.error_reply(429, message, "requests", "active_tasks_limit"))
        turn = endpoint.turn(request)
        if (instead := await endpoint.instead(http, request, turn)) is not None:
            return instead
        recipe = await endpoint.recipe(request, turn)
        task = self.made(replace(request, uploads=()), recipe, turn, key)  # their bytes are in the cache
        self.begin(task)
        if self.lists_inputs:
            self._bodies.keep(task.id, await http.read())
        if "webhook_early" in turn.faults:
            await _called(task)
        if "reset" in turn.faults:
            return replies.reset(http)
        without = "no_task_id" in turn.faults
        reply = json_reply({"status": "Pending"}) if without else await self.answered(task, http)
        return await endpoint.cut(http, reply) if "cut" in turn.faults else endpoint.response(reply, self.api)

    async def _faulty_poll(self, http: web.Request, task: Task) -> web.StreamResponse:
        fault = task.turn.of("poll").removeprefix("poll_")
        if fault == "odd_status":
            return self.said("Rendering", self.odd(task, http))
        chunks = task.turn.chunks(task.request.model)
        if reply := replies.error_answer(_POLL_ERRORS.get(fault, f"server_{fault}"), self.api, chunks):
            return self.refused(reply)
        self._endpoint.journal.polls[fault] += 1
        return await self._endpoint.hang(http) if fault == "hang" else replies.reset(http)

    async def store(self, http: web.Request, data: bytes) -> str:
        """Keep a picture that was uploaded, and return its URL here, or raise the Refusal of what is none."""
        upload = upload_of(data, "file")
        try:
            await asyncio.to_thread(self._endpoint.cache.keep, upload)
        except NotAPictureError as error:
            raise replies.invalid("file is not a picture that can be decoded.", "file") from error
        await asyncio.to_thread(self._endpoint.cache.keep, upload, "orig")
        kind = (sniff(data) or "").removeprefix("image/")
        return f"{http.scheme}://{http.host}/v1/files/uploads/{upload.sha256}.{kind}"


async def _called(task: Task) -> None:
    """Wait until a task has ended and its webhook was called, for a while."""
    with suppress(TimeoutError):
        await asyncio.wait_for(task.ends.wait(), _LONGEST_EARLY)
        if task.calling is not None:
            await asyncio.shield(task.calling)


def _absent(task: Task) -> int | None:
    """Return the status that says that a task is not found, though it is there; None: it is found."""
    if task.fault in ("task_never_found", "task_vanished"):
        return 404
    return {1: 404, 2: 200}.get(task.polls) if task.fault == "task_not_found" else None


def moment(http: web.Request, name: str) -> float | None:
    """Return the time under a name of a query, in epoch seconds, None without one; or raise the Refusal of another."""
    if name not in http.query:
        return None
    try:
        when = datetime.fromisoformat(http.query[name])
    except ValueError as error:
        raise replies.invalid(f"{name} must be an ISO 8601 time", name) from error
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def iso(seconds: float) -> str:
    """Return epoch seconds as an API writes them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def origin_of(http: web.Request, name: str) -> str:
    """Return where this server is for who asks: below the API's name, if it was asked there."""
    below = f"/{name}" if http.path.startswith(f"/{name}/") else ""
    return f"{http.scheme}://{http.host}{below}"
