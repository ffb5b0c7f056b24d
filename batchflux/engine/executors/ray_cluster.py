"""Workers as actors of a Ray cluster: the one module that knows Ray.

An actor that ends is started again, by Ray, and no call of it is ever repeated. One that does not answer for SILENT
seconds (frozen, cut off, or its machine is) is ended, so that what it was told is over before it is told anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError, RayTaskError

from batchflux.engine.executors.remote import LostError
from batchflux.engine.executors.remote_worker import Worker
from batchflux.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from batchflux.engine.executors.remote import RemoteWorker
    from batchflux.engine.executors.remote_worker import Greeting, Held, WorkerSettings
    from batchflux.models import HttpRequest

PREFIX = "ray://"
CLIENT_PORT = 10001
BEAT = 1.0  # seconds between two greetings
FRESH = 5.0  # seconds after a greeting in which a worker is given work
SILENT = 30.0  # seconds without a greeting after which a worker is ended
STARTING = 120.0  # seconds in which the first worker must be there
WAIT = 2.0  # seconds that a step waits for a worker
AT_ONCE = 100_000  # calls of a worker: it never refuses one, for the limits are the driver's
BRINGING = 60.0  # seconds in which bytes that a worker holds must be here


class RayWorker:
    """An actor, as the driver knows it; see `RemoteWorker`."""

    def __init__(self, number: int, actor: Any, here: str, tell: Callable[..., None], greeted: asyncio.Event) -> None:
        self.number, self.out = number, 0
        self.shared = self.near = False
        self.fault: str | None = None
        self.node = self._born = ""
        self._actor, self._here, self._tell, self._greeted = actor, here, tell, greeted
        self._clock, self._offset, self._trip = time.monotonic, 0.0, float("inf")
        self._heard = self._lost = float("-inf")

    @property
    def there(self) -> bool:
        """Whether it has answered just now."""
        return self._clock() - self._heard < FRESH

    def its_clock(self) -> float:
        """Return the time by its clock, rather too early than too late."""
        return self._clock() + self._offset

    async def call(self, name: str, *arguments: object) -> Any:
        """Return what a method of the Worker returns. LostError."""
        self.out += 1
        try:
            return await _got(getattr(self._actor, name).remote(*arguments))
        except LostError:
            self._is_lost()
            raise
        finally:
            self.out -= 1

    def tell(self, name: str, *arguments: object) -> None:
        """Call a method of the Worker, and wait for nothing."""
        getattr(self._actor, name).remote(*arguments)

    async def watch(self) -> None:
        """Greet it for ever, and end it when it is silent for too long."""
        known = False
        while True:
            try:
                await asyncio.wait_for(self._greet(), SILENT if known else STARTING)
            except (LostError, TimeoutError) as error:
                self._is_lost()
                if known:
                    self._tell("ray_worker_lost", worker=self.number, silent=isinstance(error, TimeoutError))
                if isinstance(error, TimeoutError):
                    await asyncio.to_thread(ray.kill, self._actor, no_restart=False)
                known = False
            else:
                if not known:
                    self._tell("ray_worker", worker=self.number, shared=self.shared, fault=self.fault)
                known = True
            await asyncio.sleep(BEAT)

    def _is_lost(self) -> None:
        self._heard, self._lost = float("-inf"), self._clock()

    async def _greet(self) -> None:
        began = self._clock()
        greeting: Greeting = await _got(self._actor.hello.remote())
        now = self._clock()
        if began < self._lost:
            return
        if now - began < self._trip or greeting.born != self._born:
            self._trip, self._offset, self._born = now - began, greeting.clock - now, greeting.born
        self.shared, self.fault, self.node = greeting.shared, greeting.fault, greeting.node
        self.near = self.node == self._here
        self._heard = float("-inf") if greeting.fault else now
        self._greeted.set()


class RayWorkers:
    """All actors of a run; see `RemoteWorkers`."""

    def __init__(self, workers: Sequence[RayWorker], greeted: asyncio.Event) -> None:
        self.all: Sequence[RemoteWorker] = workers
        self._workers, self._greeted = workers, greeted

    async def some(self) -> bool:
        """Wait a little until one is there; say whether one is."""
        return await self._waited(WAIT, lambda: any(one.there for one in self._workers))

    async def started(self) -> None:
        """Wait until all workers are there, or some are and the others take too long; UsageError: none can work."""
        await self._waited(STARTING, lambda: all(one.there or one.fault for one in self._workers))
        faults = [f"the Ray worker on {one.node} cannot work: {one.fault}" for one in self._workers if one.fault]
        if faults:
            raise UsageError(f"--on ray: {faults[0]}. Nothing was spent.")
        if not any(one.there for one in self._workers):
            what = "Ray has started no worker: each wants one CPU of a node"
            raise UsageError(f"--on ray: {what}; see `ray status`. Nothing was spent.")

    async def _waited(self, seconds: float, enough: Callable[[], bool]) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not enough():
                    self._greeted.clear()
                    await self._greeted.wait()
        return enough()

    def pack(self, request: HttpRequest) -> bytes:
        """Return a request pickled."""
        packed: bytes = ray.cloudpickle.dumps(request)
        return packed

    async def bytes_of(self, held: Held) -> bytes:
        """Return the bytes that a worker holds. LostError: they are gone."""
        try:
            data: bytes = await asyncio.wait_for(_got(held.handle), BRINGING)
        except TimeoutError:
            raise LostError from None
        return data


@contextlib.asynccontextmanager
async def ray_workers(
    on: str, workers: int | None, settings: WorkerSettings, tell: Callable[..., None]
) -> AsyncIterator[RayWorkers]:
    """Have workers on Ray while this is entered, one on each node if their number is not told; UsageError."""
    began = await asyncio.to_thread(_connect, on)
    watching: list[asyncio.Task[None]] = []
    actors: list[Any] = []
    try:
        made = ray.remote(Worker).options(
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=AT_ONCE,
            scheduling_strategy="SPREAD",
        )
        where, greeted = ray.util.get_node_ip_address, asyncio.Event()
        actors += [made.remote(settings, number, ray.put, where) for number in range(workers or _nodes())]
        found = [RayWorker(number, actor, where(), tell, greeted) for number, actor in enumerate(actors)]
        watching += [asyncio.create_task(one.watch()) for one in found]
        all_workers = RayWorkers(found, greeted)
        await all_workers.started()
        yield all_workers
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        await asyncio.to_thread(_end, actors, shut=began)


def _connect(on: str) -> bool:
    """Connect to the cluster that `on` names, or start one on this machine; say whether that is to be undone."""
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # what counts is told as the run's own events
    where, options = on.removeprefix("ray").removeprefix("://"), {}
    if where not in {"", "auto"}:
        address = PREFIX + (where if ":" in where else f"{where}:{CLIENT_PORT}")
    elif where or "RAY_ADDRESS" in os.environ:
        address = "auto"
    else:
        address, options = "local", {"include_dashboard": False}
    try:
        ray.init(address, log_to_driver=False, configure_logging=False, **options)
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UsageError(f"--on {on}: Ray cannot be used there ({first}). Nothing was spent.") from error
    return True


def _nodes() -> int:
    """Return how many nodes can have a worker."""
    return sum(node["Alive"] and node["Resources"].get("CPU", 0.0) >= 1 for node in ray.nodes()) or 1


def _end(actors: Sequence[Any], *, shut: bool) -> None:
    for actor in actors:
        ray.kill(actor)
    if shut:
        ray.shutdown()


async def _got(ref: Any) -> Any:
    """Return what a call gives; LostError: its worker is gone, or cannot be reached."""
    try:
        return await asyncio.wrap_future(ref.future())
    except RayTaskError:
        raise
    except (RayError, ConnectionError) as error:
        raise LostError(str(error).partition("\n")[0]) from None
