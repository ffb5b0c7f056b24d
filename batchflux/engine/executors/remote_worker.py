"""A worker on another machine: performs single steps as it is told to, over transports and an image store of its own.

It knows no limits, no money and no ledger, and does nothing unless it is told to. All that it takes and gives is
picklable and holds no key: it looks keys up by their names, where it runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import pickle
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from batchflux._version import __version__
from batchflux.engine.executors.local import LocalExecutor
from batchflux.errors import BatchfluxError, Code, JobError, StorageError, UsageError
from batchflux.models import Finished, Inline
from batchflux.output.image_store import ImageStore
from batchflux.output.resources import ensure_open_files
from batchflux.providers import providers
from batchflux.redaction import hushed
from batchflux.secrets import Secrets, wrong_key
from batchflux.transport import Proxies, Transport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from batchflux.models import Exchanged, Fetched, Job, Link, Stored, Verify
    from batchflux.transport import DownloadSlots, TransportOptions

Place = tuple[str, str]
"""Whom to ask: the manifest's name of a provider, and which of its addresses ("": its only one)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker works by; nothing in it is secret.

    `folder` is the output folder, and `mark` a file in it: a worker that sees it has the same folder. `proxies` are
    what the manifest says of each provider's. `keys` are names, looked up in the worker's own environment and in the
    files that a manifest in `base` would have them from. `at_once` is how many requests may be out.
    """

    folder: str
    mark: str
    verify: Verify
    accept: tuple[str, ...]
    transports: Mapping[Place, TransportOptions]
    slots: DownloadSlots
    proxies: Mapping[str, str | None]
    keys: tuple[str, ...]
    base: Path
    env_file: Path | None
    at_once: int
    version: str = __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One API step: a pickled HttpRequest, its provider by API and style, and the name of its key (None: keyless).

    `files` are the local files that it sends.
    """

    request: bytes
    provider: tuple[str, str]
    at: Place
    key: str | None
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What a worker says of itself: its monotonic `clock` in seconds, and whether it has the output folder (`shared`).

    `born` tells it from the one in its place after a restart, `node` is the address of its machine. `fault` says in one
    sentence why it cannot work.
    """

    clock: float
    born: str
    node: str
    shared: bool = False
    fault: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A step raised this error."""

    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Held(Inline):
    """Bytes that came with an answer and stayed where they came: `handle` gives them, `worker` has them."""

    handle: Any = field(repr=False, compare=False)
    worker: int = 0


class Said(StrEnum):
    """What a worker says of a step that has not ended."""

    LEFT = "left"  # its request is out
    ABSENT = "absent"  # not begun: a file that it sends is not on this machine


class Worker:
    """Performs steps for one driver; `number` is its own, `put` gives a handle to bytes that others can have.

    `where` gives the address of this machine. `hello` comes first. What fails is returned as `Failed`, not raised.
    """

    def __init__(
        self, settings: WorkerSettings, number: int, put: Callable[[bytes], object], where: Callable[[], str]
    ) -> None:
        self._settings, self._number, self._put, self._where = settings, number, put, where
        self._born = uuid4().hex
        self._opening: asyncio.Task[Greeting] | None = None
        self._stack = AsyncExitStack()  # closed by the process's end
        self._under_way: dict[int, asyncio.Task[Any]] = {}
        self._downloads: dict[str, Transport] = {}
        self._secrets: dict[str, str] = {}
        self._local: LocalExecutor

    async def hello(self) -> Greeting:
        """Open what is needed, the first time; say what the time is here."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        greeting = await asyncio.shield(self._opening)
        return replace(greeting, clock=time.monotonic())

    async def leave(self, number: int, step: Step, until: float) -> Any:
        """Perform a step that may cost money, at once or not at all; LEFT once its request is out.

        Otherwise what it came to. A word that comes later than `until`, of this clock, is not followed: its turn has
        passed.
        """
        if time.monotonic() > until:
            what = "the request was not sent: the word to send it reached the Ray worker too late"
            return Failed(error=JobError(Code.NETWORK, what, billed=False))
        if await self._lacks(step):
            return Said.ABSENT
        sent = asyncio.Event()
        task = self._under_way[number] = asyncio.create_task(self._outcome(self._exchanged(step, sent.set)))
        left = asyncio.create_task(sent.wait())
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        left.cancel()
        return Said.LEFT if sent.is_set() else await self.answer(number)

    async def answer(self, number: int) -> Any:
        """Return what a step came to that has left."""
        task = self._under_way[number]
        try:
            await asyncio.wait({task})
            return Failed(error=TimeoutError()) if task.cancelled() else task.result()
        finally:
            self._under_way.pop(number, None)

    async def give_up(self, number: int) -> None:
        """Close the connection of a step: nobody waits for its answer any more."""
        if (task := self._under_way.pop(number, None)) is not None:
            task.cancel()

    async def ask(self, step: Step) -> Any:
        """Perform a free step; return what it came to."""
        return Said.ABSENT if await self._lacks(step) else await self._outcome(self._exchanged(step))

    async def keep(self, job: Job, data: bytes, sha256: str) -> Any:
        """Keep the bytes that came with an answer in the output folder; return their name."""
        return await self._outcome(self._local.keep(job, Inline(data=data, sha256=sha256)))

    async def collect(self, job: Job, asset: Link | str, attempt: int) -> Any:
        """Bring a picture to its place in the output folder; return it as Collected."""
        if isinstance(asset, str):
            return await self._outcome(self._local.collect(job, asset, attempt))
        async with self._settings.slots:
            return await self._outcome(self._local.collect(job, asset, attempt))

    async def beside(self, job: Job, own: Stored | None, more: Sequence[Link | Inline]) -> Any:
        """Keep further pictures of an answer in the output folder; return remarks that say so."""
        had = [Inline(data=await one.handle) if isinstance(one, Held) else one for one in more]
        async with self._settings.slots:
            return await self._outcome(self._local.beside(job, own, had))

    async def fetch(self, provider: str, url: str) -> Any:
        """Download a picture; return it as Fetched, with its bytes."""
        async with self._settings.slots:
            return await self._outcome(self._fetched(provider, url))

    async def _fetched(self, provider: str, url: str) -> Fetched:
        fetched = await self._downloads[provider].fetch(url)
        if fetched.path is None:
            return fetched
        path = Path(fetched.path)
        data = await asyncio.to_thread(path.read_bytes)
        await asyncio.to_thread(path.unlink)
        return replace(fetched, data=data, path=None)

    async def _exchanged(self, step: Step, on_sent: Callable[[], None] | None = None) -> Exchanged:
        request = pickle.loads(step.request)  # noqa: S301  the driver's own, over Ray, which runs its code anyway
        secret, provider = self._secrets.get(step.key or ""), providers()[step.provider]
        exchanged = await self._local.exchange(request, provider=provider, secret=secret, at=step.at, on_sent=on_sent)
        reply = exchanged.reply
        if not isinstance(reply, Finished):
            return exchanged
        more = tuple([await self._held(one) for one in reply.more])
        return replace(exchanged, reply=replace(reply, asset=await self._held(reply.asset), more=more))

    async def _held(self, asset: Link | Inline) -> Link | Inline:
        if not isinstance(asset, Inline):
            return asset
        digest = asset.sha256 or await asyncio.to_thread(lambda: hashlib.sha256(asset.data).hexdigest())
        handle = await asyncio.to_thread(self._put, asset.data)
        return Held(data=b"", sha256=digest, handle=handle, worker=self._number)

    async def _outcome(self, step: Awaitable[object]) -> object:
        """Return what a step gives, or how it failed; no error holds a key."""
        try:
            return await step
        except JobError as error:
            if error.answer is not None:
                text = hushed(error.answer.decode(errors="surrogateescape"), self._secrets.values())
                error.answer = text.encode(errors="surrogateescape")
            return Failed(error=error)
        except BatchfluxError as error:
            return Failed(error=error)
        except Exception as error:  # noqa: BLE001  a bug: the driver ends this job with it
            what = hushed(f"{type(error).__name__} on a Ray worker: {error}", self._secrets.values())
            return Failed(error=RuntimeError(what))

    async def _lacks(self, step: Step) -> bool:
        return bool(step.files) and not await asyncio.to_thread(lambda: all(map(os.path.isfile, step.files)))

    async def _open(self) -> Greeting:
        settings, greeting = self._settings, Greeting(clock=0.0, born=self._born, node=self._where())
        if settings.version != __version__:
            what = f"batchflux {__version__} is there, and {settings.version} here"
            return replace(greeting, fault=f"{what}: install the same version on all nodes")
        try:
            shared = await asyncio.to_thread((Path(settings.folder) / settings.mark).is_file)
            self._look_keys_up()
            ensure_open_files(settings.at_once)
            await self._open_transports(shared=shared)
        except (UsageError, StorageError) as error:
            return replace(greeting, fault=str(error))
        return replace(greeting, shared=shared)

    def _look_keys_up(self) -> None:
        found = Secrets(os.environ, self._settings.base, self._settings.env_file)
        for name in self._settings.keys:
            if (wrong := wrong_key(name, found)) is not None:
                raise UsageError(wrong)
            self._secrets[name] = (found.get(name) or "").strip()

    async def _open_transports(self, *, shared: bool) -> None:
        settings = self._settings
        folder = settings.folder if shared else self._stack.enter_context(TemporaryDirectory(prefix="batchflux-"))
        images = ImageStore(Path(folder), settings.verify, accept=settings.accept)
        transports: dict[Place, tuple[Transport, str]] = {}
        for place, options in settings.transports.items():
            proxies = Proxies.of(settings.proxies[place[0]], os.environ)
            spool = str(Path(folder) / ".spool")
            own = replace(options, slots=settings.slots, proxies=proxies, spool_dir=spool)
            transports[place] = await self._stack.enter_async_context(Transport(own)), options.base_url
        self._downloads = {name: transport for (name, _), (transport, _) in reversed([*transports.items()])}
        self._local = LocalExecutor(transports, images, self._secrets.values())
