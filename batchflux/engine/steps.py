"""Performs a step of a job with its lease, and the free steps that have to follow it or to come before it.

Local references are put into a bucket where the manifest publishes them, else uploaded where their API wants their
addresses; each content once.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from batchflux.engine.outages import away
from batchflux.engine.retry import Retrying, Tries
from batchflux.engine.shutdown import Halted
from batchflux.errors import RULES, Code, JobError, StopRun, StorageError
from batchflux.models import Then, Uploaded
from batchflux.output.stores.base import PassingError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from batchflux.engine.limits.key_pool import Key, Lease
    from batchflux.engine.ports import Buckets, Executor, World
    from batchflux.engine.services import Service
    from batchflux.engine.task_polls import JobRun
    from batchflux.models import Exchanged, HttpRequest, Job, Reference
    from batchflux.providers import Provider

T = TypeVar("T")
ROOM_PAUSE = 1.0  # seconds until a full disk is looked at again
AWAY_PAUSES = 1.0, 60.0  # seconds between two questions whether a bucket is there: the first, the longest
TRUSTED = 86_400.0  # seconds that what was put into a bucket is taken to be there: a rule of the bucket may end it
DOUBTED = frozenset({Code.INVALID_REQUEST, Code.BAD_ANSWER, Code.NO_IMAGE})  # as APIs say that a link leads nowhere
UNASKED = frozenset({Code.REFERENCE, Code.UNSAFE_URL, Code.INTERNAL})  # they say nothing of who was to be asked


class Steps:
    """Asks the address of a lease, with its key."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def exchange(
        self, run: JobRun, request: HttpRequest, provider: Provider, lease: Lease, *, paid: bool = False
    ) -> Exchanged:
        """Perform a step, and the free ones that have to follow it."""
        if not paid:
            return await self.ask(request, provider, run.service, lease.key)
        at, secret = (run.service.name, lease.key.address), lease.key.secret
        exchanged = await self._executor.exchange(request, provider=provider, secret=secret, at=at, on_sent=lease.sent)
        if isinstance(exchanged.reply, Then):  # refused for its form, for free: once more in another
            await asyncio.sleep(lease.again())
            request = exchanged.reply.request
            return await self._executor.exchange(request, provider=provider, secret=secret, at=at, on_sent=lease.sent)
        return exchanged

    async def ask(self, request: HttpRequest, provider: Provider, service: Service, key: Key) -> Exchanged:
        """Perform a free step with a key of a service, and those that have to follow it."""
        at, secret = (service.name, key.address), key.secret
        exchanged = await self._executor.exchange(request, provider=provider, secret=secret, at=at)
        while isinstance(exchanged.reply, Then):
            request = exchanged.reply.request
            if not request.repeatable:
                raise TypeError(f"a reader returned {exchanged.reply!r}, whose step is not free")
            exchanged = await self._executor.exchange(request, provider=provider, secret=secret, at=at)
        return exchanged


def learn(
    run: JobRun, lease: Lease, error: JobError, now: float, *, accepted: bool = False, counts: bool | None = None
) -> bool:
    """Let limits, outages and breaker learn from a failed step; return whether it is one of the job's attempts.

    `accepted`: the provider took the task that failed, so it is there. `counts` is what `heard` said, if it was told.
    A step that failed is counted in `used`.
    """
    if not RULES[error.code].attempt:
        run.rest = run.service.limits.refused(lease, error)
        run.tries.used -= 1
        run.tries.refused += 1
        return False
    counts = heard(run, lease, error, now, accepted=accepted) if counts is None else counts
    run.tries.failed(charged=counts)
    return counts


def heard(run: JobRun, lease: Lease, error: JobError, now: float, *, accepted: bool = False) -> bool:
    """Let limits, outages and breaker hear of a failed step; return whether it is an attempt, unless it is found."""
    service = run.service
    if not accepted:
        service.limits.failed(lease, error)
    counts = True
    if away(error) and not accepted:
        left_at = now if lease.departed_at is None else lease.departed_at
        job, spare = run.work.job.id, run.tries.used < service.policy.attempts
        counts = service.outages.failed(lease.key.place, job, error, left_at, now, spare=spare)
        service.breaker.gave_back()
    else:
        if error.code not in UNASKED and not away(error):
            service.outages.answered(lease.key.place, now)
        service.breaker.failed(error, now)
    return counts


def awaits_room(world: World, in_flight: int) -> bool:
    """Whether a request has to wait for room on the disk, which is being made; where none is, the gate closes."""
    full = world.room(in_flight)
    if full is not None and not world.clears():
        world.gate.close(full)
    return full is not None


def check_wanted(world: World, run: JobRun) -> None:
    """Raise Halted where a job's next request is not admitted any more."""
    run.withdrawn = not world.admits(run.own)
    if run.withdrawn:
        raise Halted


class Uploads:
    """Puts references where APIs fetch them, and records in the ledger where each content lies."""

    def __init__(self, world: World, steps: Steps) -> None:
        self._world, self._steps, self._buckets = world, steps, world.buckets
        self._putting: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._seen: set[int] = set()  # addresses in buckets, as hashes, at which something is

    async def done(self, run: JobRun, lease: Lease) -> Job:
        """Return the job with addresses in place of the files that its API fetches, or wants uploaded.

        Raises JobError; Halted: a bucket cannot be used, so the run stops.
        """
        try:
            return await self._done(run, lease)
        except JobError as error:  # nothing was submitted, but the job must not be begun for ever
            run.tries.used += 1
            learn(run, lease, error, asyncio.get_running_loop().time())
            raise

    async def _done(self, run: JobRun, lease: Lease) -> Job:
        job, buckets = run.work.job, self._buckets
        if buckets is not None and any(map(buckets.published.concerns, job.references)):
            if run.service.wire(job).takes_links(job):
                job = job.with_references(tuple([await self._put(run, image, buckets) for image in job.references]))
            else:
                job = await with_bytes(self._world, run, job)
        return job.with_references(tuple([await self._placed(run, image, lease) for image in job.references]))

    async def signed(self, job: Job) -> Job:
        """Return the job as its request is built: with links, good from now on, to what lies in buckets.

        Raises Halted, as `done`.
        """
        return job.with_references(tuple([await self._linked(image) for image in job.references]))

    async def _linked(self, image: Reference) -> Reference:
        if self._buckets is None or image.address is None or not self._buckets.published.signs(image):
            return image
        with _usable(self._world):
            return replace(image, url=await self._buckets.sign(image.address))

    async def _put(self, run: JobRun, image: Reference, buckets: Buckets) -> Reference:
        """Return a local reference with its link, or its address where that is to be signed; put it there first."""
        published, ledger = buckets.published, self._world.ledger
        if image.address is not None:
            await self._look(run, image, image.address, buckets)
        if not published.takes(image):
            return image
        where, digest = _published(image, buckets)
        lock = self._putting.setdefault(digest, asyncio.Lock())
        async with lock:
            self._world.gate.check()
            if await ledger.upload_of(where, digest, self._world.now()) is None:
                address = await waited_out(self._world, run, lambda: buckets.put(image))
                await ledger.uploaded(where, digest, address, self._world.now() + TRUSTED)
        return replace(image, url=published.url_of(published.address(image)))

    async def doubt(self, job: Job, code: Code) -> None:
        """Have what is published of a job put again before it is sent again: its API may have found nothing there."""
        if self._buckets is None or self._buckets.published.to is None or code not in DOUBTED:
            return
        for image in job.references:
            if image.path is not None and image.url is not None:
                address = self._buckets.published.address(image)
                await self._world.ledger.uploaded(*_published(image, self._buckets), address, 0.0)

    async def _look(self, run: JobRun, image: Reference, address: str, buckets: Buckets) -> None:
        """See once in a run that a reference is there, before money is spent on a link to it; JobError `reference`."""
        async with self._putting.setdefault(address, asyncio.Lock()):
            self._world.gate.check()
            if hash(address) in self._seen:
                return
            fault = await waited_out(self._world, run, lambda: buckets.look(image))
        if fault is not None:
            raise JobError(Code.REFERENCE, fault)
        self._seen.add(hash(address))

    async def known(self, run: JobRun, job: Job, lease: Lease) -> Job:
        """Return a job as it was sent by an earlier run, with the URLs that were had for its references then."""
        return job.with_references(tuple([await self._once_placed(run, image, lease) for image in job.references]))

    async def _once_placed(self, run: JobRun, image: Reference, lease: Lease) -> Reference:
        buckets, wire = self._buckets, run.service.wire(run.work.job)
        if buckets is not None and buckets.published.takes(image) and wire.takes_links(run.work.job):
            address = await self._world.ledger.upload_of(*_published(image, buckets), -1.0)
            image = image if address is None else replace(image, url=buckets.published.url_of(address))
        if image.url is not None or wire.upload(image) is None:
            return image
        url = await self._world.ledger.upload_of(*self._place(run, image, lease), -1.0)  # also one that has expired
        return image if url is None else replace(image, url=url)

    def _place(self, run: JobRun, image: Reference, lease: Lease) -> tuple[str, str]:
        """Return where the bytes of a reference are put, and which they are: one server's files are not another's."""
        api = run.service.wire(run.work.job).api
        where = " ".join(filter(None, (api, run.service.name, lease.key.address)))
        return where, (image.copy or image).sha256 or ""

    async def _placed(self, run: JobRun, image: Reference, lease: Lease) -> Reference:
        provider = run.service.wire(run.work.job)
        request = None if image.url is not None else provider.upload(image)
        if request is None:
            return image
        ledger, (where, digest) = self._world.ledger, self._place(run, image, lease)
        url = await ledger.upload_of(where, digest, self._world.now())
        if url is None:
            policy, random = run.service.policy, self._world.random
            retrying = Retrying(lambda tries, error: policy.upload(tries, error, random), self._world.gate.sleep)
            exchanged = await retrying(lambda: self._steps.exchange(run, request, provider, lease), Tries())
            if not isinstance(exchanged.reply, Uploaded):
                raise TypeError(f"an upload's reader returned {exchanged.reply!r}")
            url = exchanged.reply.url
            await ledger.uploaded(where, digest, url, exchanged.reply.expires)
        return replace(image, url=url)


async def with_bytes(world: World, run: JobRun, job: Job) -> Job:
    """Return the job with files in place of the references that lie in buckets, read from there.

    Raises JobError `reference`: one is not to be had, or no picture; Halted: buckets cannot be read, so the run stops.
    """
    buckets = world.buckets
    if buckets is None or all(image.address is None for image in job.references):
        return job
    images = list(job.references)
    for number, image in enumerate(images):
        if image.address is not None:
            images[number] = await waited_out(world, run, partial(buckets.read, image))
    job = job.with_references(tuple(images))
    if job.fault is not None:
        raise JobError(Code.REFERENCE, job.fault)
    return await world.ready(job)


def _published(image: Reference, buckets: Buckets) -> tuple[str, str]:
    """Return where what is sent of a local reference is put, and its digest."""
    return buckets.published.where, (image.copy or image).sha256 or ""


async def waited_out(world: World, run: JobRun, work: Callable[[], Awaitable[T]]) -> T:
    """Return what a bucket gives, which is waited for as long as a provider would be.

    Raises JobError; Halted: it cannot be used, so the run stops, or the gate closed meanwhile.
    """
    clock = asyncio.get_running_loop().time
    until, (pause, longest) = clock() + run.service.breaker.outages.patience, AWAY_PAUSES
    while True:
        with _usable(world):
            try:
                return await work()
            except PassingError as error:
                if clock() + pause > until:
                    raise
                world.observer.event("bucket_away", message=str(error))
        await world.gate.sleep(pause)
        pause = min(2 * pause, longest)


@contextlib.contextmanager
def _usable(world: World) -> Iterator[None]:
    """Stop the run where a bucket cannot be used: it would fail job after job."""
    try:
        yield
    except StorageError as error:
        world.gate.close(StopRun("bucket", str(error)))
        raise Halted from error
