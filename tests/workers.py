"""Workers in this process, in Ray's place: what they are told and say is pickled, and a test can lose them."""

from __future__ import annotations

import asyncio
import pickle
import time
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from batchflux.engine.executors.local import LocalExecutor
from batchflux.engine.executors.remote import LostError, RemoteExecutor
from batchflux.engine.executors.remote_worker import Worker, WorkerSettings
from batchflux.output.image_store import ImageStore
from batchflux.transport import CallTimes, DownloadSlots, Transport, TransportOptions

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from contextlib import AsyncExitStack
    from pathlib import Path

    from batchflux.engine.executors.remote import RemoteWorker
    from batchflux.engine.executors.remote_worker import Held
    from batchflux.models import HttpRequest

PLACE = ("bfl", "")
KEY_NAME = "RAY_TEST_KEY"
MARK = ".spool/mark"
LONG = 60.0  # seconds that a call may take, which none does


@dataclass(frozen=True)
class Handle:
    """Bytes that are held: whoever has this can have them."""

    number: int

    def __await__(self) -> Generator[Any, None, bytes]:
        yield from asyncio.sleep(0).__await__()
        return HELD[self.number]


HELD: dict[int, bytes] = {}
_numbers = count()


def put(data: bytes) -> Handle:
    number = next(_numbers)
    HELD[number] = data
    return Handle(number)


class NearWorker:
    """A worker in this process, `there` as a test says; lost in a call of `loses`, and standing still in `hangs`."""

    def __init__(self, settings: WorkerSettings, number: int) -> None:
        self.number, self.out, self.shared, self.near, self.there = number, 0, False, True, True
        self.worker = Worker(settings, number, put, lambda: "here")
        self.late = 0.0
        self.loses = self.hangs = ""
        self.calls: list[str] = []
        self.got = pickle.dumps(settings)  # all that it was given

    async def call(self, name: str, *arguments: object) -> Any:
        if not self.there:
            raise LostError
        self.calls.append(name)
        packed = pickle.dumps(arguments)
        self.got += packed
        arguments = pickle.loads(packed)  # noqa: S301  our own, as another process would get it
        arguments = tuple([await one if isinstance(one, Handle) else one for one in arguments])
        if name == self.loses:
            self.lose()
        if name == self.hangs:
            await asyncio.Event().wait()
        outcome = await getattr(self.worker, name)(*arguments)
        if not self.there:
            raise LostError
        return pickle.loads(pickle.dumps(outcome))  # noqa: S301  our own

    def tell(self, name: str, *arguments: object) -> None:
        self.calls.append(name)
        self.told = asyncio.ensure_future(getattr(self.worker, name)(*arguments))

    def its_clock(self) -> float:
        return time.monotonic() - self.late

    def lose(self) -> None:
        self.there = False
        HELD.clear()


class NearWorkers:
    """See `RemoteWorkers`."""

    def __init__(self, workers: Sequence[NearWorker]) -> None:
        self.all: Sequence[RemoteWorker] = workers

    async def some(self) -> bool:
        return any(one.there for one in self.all)

    def pack(self, request: HttpRequest) -> bytes:
        return pickle.dumps(request)

    async def bytes_of(self, held: Held) -> bytes:
        if held.handle.number not in HELD:
            raise LostError
        return HELD[held.handle.number]


def settings_for(folder: Path, url: str, mark: str = MARK, **more: Any) -> WorkerSettings:
    """Return what workers for BFL's API at `url` work by; they see the folder as theirs when `mark` is MARK."""
    slots = DownloadSlots(8, 8)
    options = TransportOptions(base_url=url, timeout=LONG, connections=4, max_bytes=1 << 20, spool_dir="", slots=slots)
    return WorkerSettings(
        **{
            "folder": str(folder),
            "mark": mark,
            "verify": "decode",
            "accept": (),
            "transports": {PLACE: options},
            "slots": slots,
            "proxies": {"bfl": None},
            "keys": (KEY_NAME,),
            "base": folder,
            "env_file": None,
            "at_once": 20,
            **more,
        }
    )


async def local_for(stack: AsyncExitStack, folder: Path, url: str, key: str) -> LocalExecutor:
    """Return what performs steps in this process."""
    spool = str(folder / ".spool")
    images = ImageStore(folder, "decode")
    stack.callback(images.close)
    transport = await stack.enter_async_context(
        Transport(TransportOptions(base_url=url, timeout=LONG, connections=4, max_bytes=1 << 20, spool_dir=spool))
    )
    return LocalExecutor({PLACE: (transport, url)}, images, [key])


async def remote_for(
    stack: AsyncExitStack, folder: Path, url: str, key: str, workers: Any, **more: Any
) -> RemoteExecutor:
    """Return what has steps performed by `workers`."""
    local = await local_for(stack, folder, url, key)
    images = ImageStore(folder, "decode")
    stack.callback(images.close)
    return RemoteExecutor(
        local,
        workers,
        **{
            "images": images,
            "folder": folder,
            "times": {"bfl": CallTimes(LONG)},
            "key_names": {key: KEY_NAME},
            "secrets": [key],
            "here": (),
            "fetched_here": (),
            "near": (),
            **more,
        },
    )


async def near_workers(stack: AsyncExitStack, settings: WorkerSettings, number: int = 2) -> NearWorkers:
    """Return workers in this process that have greeted; keys are looked up in its environment."""
    made = [NearWorker(settings, each) for each in range(number)]
    for one in made:
        stack.push_async_callback(one.worker._stack.aclose)
        greeting = await one.worker.hello()
        assert greeting.fault is None, greeting.fault
        one.shared = greeting.shared
    return NearWorkers(made)
