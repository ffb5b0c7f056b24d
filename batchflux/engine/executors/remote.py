"""Performs steps on workers elsewhere, and in this process what is to stay here.

The engine records an attempt before it asks for its request, and an answer before its picture; as each step is one call
of a worker, which does nothing by itself, no byte leaves before its record, and nothing is fetched before it is noted.

A paid request is never repeated here. When its worker is lost, nobody knows whether it left: it is `unknown`, as after
a kill of this process. What is free fails as if the network were gone, or is done here.
"""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import replace
from itertools import count
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from batchflux.engine.executors.remote_worker import Failed, Held, Said, Step
from batchflux.errors import Code, JobError
from batchflux.models import Bytes, Collected, Inline, Json, LocalFile, LocalImage, Multipart
from batchflux.output.base import NUMBERED, SPOOL, place_of
from batchflux.transport.content import size_of_files

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from batchflux.engine.executors.local import LocalExecutor
    from batchflux.engine.executors.remote_worker import Place
    from batchflux.models import Content, Exchanged, HttpRequest, Job, Link, Stored
    from batchflux.output.image_store import ImageStore
    from batchflux.providers import Provider
    from batchflux.transport import CallTimes
    from batchflux.transport.lines import Lines

LATE = 2.0  # seconds after which the word to send a request is not followed any more
GRACE = 10.0  # seconds beyond its own time in which a worker may say that a call took too long
FETCHED = 16  # pictures for each worker that may be in the memory of this process at once
NOBODY = "the request was not sent: no Ray worker is there"


class LostError(Exception):
    """The worker is lost: what it was told to do is done, or not, or half."""


class RemoteWorker(Protocol):
    """A worker as this process knows it."""

    number: int
    out: int  # calls that it has not answered
    shared: bool  # it has the output folder
    near: bool  # it is on this machine

    @property
    def there(self) -> bool:
        """Whether it has answered just now."""
        ...

    async def call(self, name: str, *arguments: object) -> Any:
        """Return what a method of the Worker returns. LostError."""
        ...

    def tell(self, name: str, *arguments: object) -> None:
        """Call a method of the Worker, and wait for nothing."""
        ...

    def its_clock(self) -> float:
        """Return the time by the worker's clock, in seconds, rather too early than too late."""
        ...


class RemoteWorkers(Protocol):
    """All workers of a run, by their numbers."""

    all: Sequence[RemoteWorker]

    async def some(self) -> bool:
        """Wait a little until one is there; say whether one is."""
        ...

    def pack(self, request: HttpRequest) -> bytes:
        """Return a request pickled."""
        ...

    async def bytes_of(self, held: Held) -> bytes:
        """Return the bytes that a worker holds. LostError: they are gone."""
        ...


class RemoteExecutor:
    """The Executor over workers elsewhere, and over `local` in this process.

    `key_names` are the names of keys by their values. `secrets` are all texts that must not travel. Of the providers
    `here`, all steps are performed in this process; pictures of those `fetched_here` are fetched by it; `near` are
    those that only this machine reaches.
    """

    def __init__(  # noqa: PLR0913  all of it says what goes where
        self,
        local: LocalExecutor,
        workers: RemoteWorkers,
        *,
        images: ImageStore,
        folder: Path,
        times: Mapping[str, CallTimes],
        key_names: Mapping[str, str],
        secrets: Collection[str],
        here: Collection[str],
        fetched_here: Collection[str],
        near: Collection[str],
    ) -> None:
        self._local, self._workers, self._images, self._folder = local, workers, images, folder
        self._times, self._key_names = times, key_names
        self._secrets = [secret.encode() for secret in secrets]
        self._here, self._fetched_here, self._near = here, {*here, *fetched_here}, near
        self._numbers = count(1)
        self._fetching = asyncio.Semaphore(FETCHED * len(workers.all))
        self._kept: dict[str, RemoteWorker] = {}  # who keeps the bytes of what is in the spool in its memory, too

    async def exchange(
        self,
        request: HttpRequest,
        *,
        provider: Provider,
        secret: str | None,
        at: Place,
        on_sent: Callable[[], None] | None = None,
    ) -> Exchanged:
        """Perform one API step on the worker that has least to do; see `Executor.exchange`."""
        packed = self._workers.pack(request)
        if at[0] not in self._here and not any(one in packed for one in self._secrets):
            workers = await self._there(near=at[0] in self._near)
            key = None if secret is None else self._key_names[secret]
            step = Step(
                request=packed,
                provider=(provider.api, provider.style),
                at=at,
                key=key,
                files=tuple(_files(request.content)),
            )
            if workers:
                worker = min(workers, key=lambda one: one.out)
                slack = size_of_files(request.content) / (1 << 17) + GRACE
                told = await (
                    self._asked(worker, step, slack) if request.repeatable else self._paid(worker, step, slack, on_sent)
                )
                if told is not Said.ABSENT:
                    exchanged: Exchanged = told
                    return exchanged
        return await self._local.exchange(request, provider=provider, secret=secret, at=at, on_sent=on_sent)

    async def _there(self, *, near: bool) -> list[RemoteWorker]:
        """Return who may perform a step; none: it is performed here. JobError `network`: nobody is there."""
        able = [one for one in self._workers.all if one.near or not near]
        if able and not any(one.there for one in able):
            await self._workers.some()
            if not any(one.there for one in able):
                raise JobError(Code.NETWORK, NOBODY, billed=False)
        return [one for one in able if one.there]

    async def _asked(self, worker: RemoteWorker, step: Step, slack: float) -> Any:
        try:
            return _given(await self._in_time(step.at, slack, worker.call("ask", step)))
        except (LostError, TimeoutError):
            raise JobError(Code.NETWORK, "the Ray worker was lost that had this step", billed=False) from None

    async def _paid(self, worker: RemoteWorker, step: Step, slack: float, on_sent: Callable[[], None] | None) -> Any:
        number, until = next(self._numbers), worker.its_clock() + LATE

        async def sent_and_answered() -> Any:
            told = await worker.call("leave", number, step, until)
            if told is not Said.LEFT:
                return told
            if on_sent is not None:
                on_sent()
            return await worker.call("answer", number)

        try:
            return _given(await self._in_time(step.at, slack, sent_and_answered()))
        except LostError:
            what = "the Ray worker was lost that had this request: it may have left"
            raise JobError(Code.UNKNOWN, what) from None
        except TimeoutError:
            worker.tell("give_up", number)
            raise JobError(Code.UNKNOWN, "no answer came in time, by way of a Ray worker") from None

    async def _in_time(self, at: Place, slack: float, call: Awaitable[Any]) -> Any:
        """Return what a call gives; TimeoutError when it takes longer than limits.timeout allows, and some."""
        clock, task = asyncio.get_running_loop().time, asyncio.ensure_future(call)
        began, times = clock(), self._times[at[0]]
        due = times.due(began)
        try:
            while not (await asyncio.wait({task}, timeout=max(0.0, due + slack - clock())))[0]:
                if (later := times.due(began)) <= due:
                    raise TimeoutError
                due = later
            return task.result()
        finally:
            task.cancel()

    def lines(
        self, request: HttpRequest, *, provider: Provider, secret: str | None, at: Place
    ) -> AsyncGenerator[bytes]:
        """Perform a free step whose answer is lines, in this process."""
        return self._local.lines(request, provider=provider, secret=secret, at=at)

    async def write_lines(self, name: str, lines: Iterable[tuple[str, Json]]) -> Lines:
        """Write a batch's lines into a file of this machine."""
        return await self._local.write_lines(name, lines)

    async def drop_lines(self, name: str) -> None:
        """Remove the file of a batch."""
        await self._local.drop_lines(name)

    async def keep_answer(self, job: Job, attempt: int, body: bytes) -> str:
        """Keep an answer that was not understood, in this process."""
        return await self._local.keep_answer(job, attempt, body)

    async def keep(self, job: Job, picture: Inline) -> str:
        """Keep the bytes that came with an answer where they came, or here.

        JobError `unknown`: they are lost with their worker; StorageError.
        """
        if not isinstance(picture, Held):
            return await self._local.keep(job, picture)
        worker = self._for(job) if _numbered(job) else self._workers.all[picture.worker]
        name = f"{SPOOL}/{job.key}-{picture.sha256}"
        try:
            if worker is not None and worker.shared:
                kept: str = _given(await worker.call("keep", _bare(job), picture.handle, picture.sha256))
                self._kept[kept] = worker
                return kept
        except LostError:
            if await asyncio.to_thread((self._folder / name).is_file):
                return name
        return await self._local.keep(job, await self._brought(picture))

    async def _brought(self, held: Held) -> Inline:
        try:
            return Inline(data=await self._workers.bytes_of(held), sha256=held.sha256)
        except LostError:
            what = "the Ray worker was lost with the picture that the answer had: it is paid for"
            raise JobError(Code.UNKNOWN, what) from None

    async def collect(self, job: Job, asset: Link | str, attempt: int) -> Collected:
        """Bring a picture to its place: on a worker that has the output folder, else its bytes come here."""
        if isinstance(asset, str):
            worker = self._kept.pop(asset, None)
        else:
            worker = None if job.provider in self._fetched_here else self._for(job)
        try:
            if worker is not None and worker.there and worker.shared:
                collected: Collected = _given(await worker.call("collect", _bare(job), asset, attempt))
                self._images.came(collected.stored.bytes)
                return collected
            if worker is not None and worker.there and not isinstance(asset, str):
                return await self._fetched(worker, job, asset, attempt)
        except LostError:
            pass  # it is free, and whoever does it again gives the same
        return await self._local.collect(job, asset, attempt)

    async def _fetched(self, worker: RemoteWorker, job: Job, link: Link, attempt: int) -> Collected:
        """Let a worker that has not the output folder download a picture, and put it in its place here."""
        if (before := await self._images.kept_before(job, attempt)) is not None:
            return Collected(stored=before)
        async with self._fetching:
            fetched = _given(await worker.call("fetch", job.provider, link.url))
            return Collected(stored=await self._images.store(job, fetched, attempt), seconds=fetched.seconds)

    async def beside(self, job: Job, own: Stored | None, more: Sequence[Link | Inline]) -> str:
        """Keep further pictures of an answer on the worker that has their names, or here."""
        worker = None if job.provider in self._fetched_here else self._for(job, PurePosixPath(place_of(job, own)).stem)
        try:
            if worker is not None and worker.there and worker.shared:
                said: str = _given(await worker.call("beside", _bare(job), own, more))
                return said
        except LostError:
            pass
        had: list[Link | Inline] = []
        lost = 0
        for one in more:
            try:
                had.append(await self._brought(one) if isinstance(one, Held) else one)
            except JobError:
                lost += 1
        told = await self._local.beside(job, own, had)
        gone = f"{lost} more pictures of the answer were lost with a Ray worker" if lost else ""
        return "; ".join(filter(None, (told, gone)))

    def _for(self, job: Job, family: str | None = None) -> RemoteWorker | None:
        """Return who brings a job's picture to its place; None: nobody but this process.

        Names that a further picture of another's answer may take (`mug_2`, `mug_3`: a `family`) are one worker's, which
        sees to it that two never take the same.
        """
        able = [one for one in self._workers.all if one.near or job.provider not in self._near]
        if able and (family := family or _numbered(job)) is not None:
            able = [able[zlib.crc32(family.encode()) % len(able)]]
        return min((one for one in able if one.there), key=lambda one: one.out, default=None)


def _numbered(job: Job) -> str | None:
    """Return what the name of a job's picture is a number of, if it is one."""
    found = NUMBERED.fullmatch(PurePosixPath(job.file_name).stem)
    return None if found is None else found[1]


def _given(outcome: Any) -> Any:
    """Return what a step gave, or raise what it raised."""
    if isinstance(outcome, Failed):
        raise outcome.error
    return outcome


def _bare(job: Job) -> Job:
    """Return a job as it travels: a picture is brought to its place without its secrets."""
    return replace(job, webhook_url=None, webhook_secret=None)


def _files(content: Content | None) -> Iterator[str]:
    """Yield the paths of the local files that a content sends."""
    if isinstance(content, Multipart):
        yield from _paths([value for _, value in content.parts])
    elif isinstance(content, Bytes):
        yield from _paths([content.image])
    elif isinstance(content, Json):
        yield from _paths(content.value)


def _paths(value: object) -> Iterator[str]:
    if isinstance(value, LocalImage | LocalFile):
        yield value.path
    elif isinstance(value, dict):
        for one in value.values():
            yield from _paths(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _paths(one)
