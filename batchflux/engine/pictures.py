"""Brings the picture of a job into its place: out of the spool, or from its link, as often as that takes; free.

Nothing else waits for a picture whose host is down: neither canary nor circuit breaker, nor, for one of an earlier
run, a worker.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from batchflux.engine.outages import away
from batchflux.engine.retry import Retrying, Tries
from batchflux.engine.task_polls import GRACE
from batchflux.errors import JobError
from batchflux.models import Link

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from batchflux.engine.ports import World
    from batchflux.engine.settings import Rules
    from batchflux.engine.task_polls import JobRun
    from batchflux.models import Collected, Finished, Stored

    Relink = Callable[[JobRun, Link, JobError], Awaitable[Link | str | None]]


class Pictures:
    """Collects pictures, in the slots that there are for downloads, and tells outages and breaker what it learns.

    `relinked` is asked for what there is in place of a link that cannot be followed.
    """

    def __init__(self, world: World, rules: Rules, relinked: Relink) -> None:
        self._relinked = relinked
        self._executor, self._ledger = world.executor, world.ledger
        self._gate, self._random = world.gate, world.random
        self._event, self._clock = world.observer.event, asyncio.get_running_loop().time
        self._canary, self.slots = rules.canary, rules.downloads
        self.parked: Callable[[], object] = lambda: None  # a job of an earlier run waits for a host that is down

    async def collect(self, run: JobRun, asset: Link | str) -> Stored:
        """Return a job's picture, in its place, or refused it. Raises JobError: it cannot be had; Halted."""
        if asset is run.work.picture and not run.more:  # of an earlier run
            run.more = tuple([Link(url=link) for link in await self._ledger.further(run.work.job)])
        if isinstance(asset, str):
            stored = (await self._executor.collect(run.work.job, asset, run.attempt)).stored
            run.service.outages.given(self._clock())
            return stored
        run.link, policy = asset.url, run.service.policy
        fetching = Retrying(lambda tries, error: policy.fetch(tries, error, self._random), self._between_fetches)
        try:
            collected = await fetching(lambda: self._fetched(run, asset), run.downloads)
        except JobError as error:
            other = await self._relinked(run, asset, error)
            if other is None:
                raise
            run.downloads = Tries()
            self.relieve(run)
            return await self.collect(run, other)
        run.download_seconds = collected.seconds
        return collected.stored

    async def kept(self, run: JobRun, finished: Finished) -> Link | str:
        """Keep what came inside an answer, its further pictures too; return the job's own as the ledger records it."""
        job, asset = run.work.job, finished.asset
        own = asset if isinstance(asset, Link) else await self._executor.keep(job, asset)
        links = [one for one in finished.more if isinstance(one, Link)]
        if inside := [one for one in finished.more if not isinstance(one, Link)]:
            run.beside = joined(run.beside, await self._executor.beside(job, None, inside))
        run.more = tuple(dict.fromkeys((*run.more, *links)))
        return own

    async def beside(self, run: JobRun, own: Stored | None) -> str:
        """Keep the pictures that stood as links beside the job's own; return what is to be said of all further ones."""
        if not run.more:
            return run.beside
        return joined(run.beside, await self._executor.beside(run.work.job, own, run.more))

    def free_over(self, run: JobRun) -> None:
        """Let the canary wait no more for what the job may get without a request."""
        if run.free:
            run.free = False
            self._canary.free_over(run.work.job)

    def relieve(self, run: JobRun) -> None:
        """Count the job among the troubled no longer; see the circuit breaker."""
        if run.troubled:
            run.troubled = False
            run.service.breaker.relieved()

    def _trouble(self, run: JobRun) -> None:
        if not run.troubled:
            run.troubled = True
            run.service.breaker.troubled()

    async def _between_fetches(self, seconds: float) -> None:
        """Wait before a picture is fetched again; it is free, so a closed gate ends long waits only."""
        await (self._gate.sleep_polling if seconds <= GRACE else self._gate.sleep)(seconds)

    def _waits(self, run: JobRun, *, fresh: bool) -> None:
        if fresh:
            self._trouble(run)
        elif run.free:
            self.free_over(run)
            self.parked()

    async def _fetched(self, run: JobRun, link: Link) -> Collected:
        fresh = link is not run.work.picture
        waits = fresh or not (run.work.renew and run.work.pay_again)  # else it is bought anew when it cannot be had
        outages, job = run.service.outages, run.work.job
        turn = outages.turn(link.url, lambda: self._waits(run, fresh=fresh), waits=waits)
        async with turn as host, self.slots:
            run.downloads.used += 1
            began = self._clock()
            try:
                collected = await self._executor.collect(job, link, run.attempt)
            except JobError as error:
                if fresh:
                    self._trouble(run)
                if (error.retry_after or 0.0) > GRACE:
                    self.free_over(run)
                said = {"code": error.code.value, "message": error.message}
                self._event("fetch_failed", id=job.id, attempt=run.downloads.used, **said)
                charged = True
                if away(error):
                    charged = outages.failed(host, job.id, error, began, self._clock()) or not waits
                else:
                    outages.fetched(host, self._clock())
                run.downloads.failed(charged=charged)
                raise
            outages.fetched(host, self._clock())
            return collected


def joined(*remarks: str | None) -> str:
    """Return remarks as one; empty for none."""
    return "; ".join(filter(None, remarks))
