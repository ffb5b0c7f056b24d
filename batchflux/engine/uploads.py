"""Uploads the local references of a job where its API wants their addresses; free, and each content once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from batchflux.engine.retry import Retrying, Tries
from batchflux.models import Uploaded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from batchflux.engine.limits.key_pool import Lease
    from batchflux.engine.ports import World
    from batchflux.engine.task_polls import JobRun
    from batchflux.models import Exchanged, HttpRequest, Job, Reference
    from batchflux.providers import Provider


class Uploads:
    """Performs uploads with `exchange`, and records in the ledger where each content lies."""

    def __init__(
        self, world: World, exchange: Callable[[JobRun, HttpRequest, Provider, Lease], Awaitable[Exchanged]]
    ) -> None:
        self._world, self._exchange = world, exchange

    async def done(self, run: JobRun, lease: Lease) -> Job:
        """Return the job with URLs in place of the files that its API wants uploaded. Raises JobError."""
        job = run.work.job
        return job.with_references(tuple([await self._placed(run, image, lease) for image in job.references]))

    async def _placed(self, run: JobRun, image: Reference, lease: Lease) -> Reference:
        provider = run.service.wire(run.work.job)
        request = None if image.url is not None else provider.upload(image)
        if request is None:
            return image
        # One server's files are not another's, whatever they speak.
        where = " ".join(filter(None, (provider.api, run.service.name, lease.key.address)))
        digest, ledger = (image.copy or image).sha256 or "", self._world.ledger
        url = await ledger.upload_of(where, digest, self._world.now())
        if url is None:
            policy, random = run.service.policy, self._world.random
            retrying = Retrying(lambda tries, error: policy.upload(tries, error, random), self._world.gate.sleep)
            exchanged = await retrying(lambda: self._exchange(run, request, provider, lease), Tries())
            if not isinstance(exchanged.reply, Uploaded):
                raise TypeError(f"an upload's reader returned {exchanged.reply!r}")
            url = exchanged.reply.url
            await ledger.uploaded(where, digest, url, exchanged.reply.expires)
        return replace(image, url=url)
