"""Performs a step of a job with its lease, and the free steps that have to follow it or to come before it.

Local references are uploaded where their API wants their addresses, each content once.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from batchflux.engine.outages import away
from batchflux.engine.retry import Retrying, Tries
from batchflux.errors import RULES, Code
from batchflux.models import Then, Uploaded

if TYPE_CHECKING:
    from batchflux.engine.limits.key_pool import Key, Lease
    from batchflux.engine.ports import Executor, World
    from batchflux.engine.services import Service
    from batchflux.engine.task_polls import JobRun
    from batchflux.errors import JobError
    from batchflux.models import Exchanged, HttpRequest, Job, Reference
    from batchflux.providers import Provider


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


class Uploads:
    """Performs uploads, and records in the ledger where each content lies."""

    def __init__(self, world: World, steps: Steps) -> None:
        self._world, self._steps = world, steps

    async def done(self, run: JobRun, lease: Lease) -> Job:
        """Return the job with URLs in place of the files that its API wants uploaded. Raises JobError."""
        job = run.work.job
        return job.with_references(tuple([await self._placed(run, image, lease) for image in job.references]))

    async def known(self, run: JobRun, job: Job, lease: Lease) -> Job:
        """Return a job as it was sent by an earlier run, with the URLs that were had for its references then."""
        return job.with_references(tuple([await self._once_placed(run, image, lease) for image in job.references]))

    async def _once_placed(self, run: JobRun, image: Reference, lease: Lease) -> Reference:
        if image.url is not None or run.service.wire(run.work.job).upload(image) is None:
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
