"""Steps of a provider: those that are free, one after the other, and what is learnt from one that failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.engine.outages import away
from batchflux.errors import RULES, Code
from batchflux.models import Then

if TYPE_CHECKING:
    from batchflux.engine.limits.key_pool import Key, Lease
    from batchflux.engine.ports import Executor
    from batchflux.engine.services import Service
    from batchflux.engine.task_polls import JobRun
    from batchflux.errors import JobError
    from batchflux.models import Exchanged, HttpRequest
    from batchflux.providers import Provider


UNASKED = frozenset({Code.REFERENCE, Code.UNSAFE_URL, Code.INTERNAL})  # they say nothing of who was to be asked


async def ask(executor: Executor, request: HttpRequest, provider: Provider, service: Service, key: Key) -> Exchanged:
    """Return what a free step comes to in the end, with one key of a service.

    Raises JobError, as `exchange`; TypeError: a reader wants a step to follow that is not free.
    """
    at, secret = (service.name, key.address), key.secret
    exchanged = await executor.exchange(request, provider=provider, secret=secret, at=at)
    while isinstance(exchanged.reply, Then):
        request = exchanged.reply.request
        if not request.repeatable:
            raise TypeError(f"a reader returned {exchanged.reply!r}, whose step is not free")
        exchanged = await executor.exchange(request, provider=provider, secret=secret, at=at)
    return exchanged


def learn(run: JobRun, lease: Lease, error: JobError, now: float, *, accepted: bool = False) -> bool:
    """Let limits, outages and breaker learn from a failed step; return whether it is one of the job's attempts.

    `accepted`: the provider took the task that failed, so it is there. A step that failed is counted in `used`.
    """
    service = run.service
    if not RULES[error.code].attempt:
        run.rest = service.limits.refused(lease, error)
        run.tries.used -= 1
        run.tries.refused += 1
        return False
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
    run.tries.failed(charged=counts)
    return counts
