"""The ledger's verbs by job instead of by attempt, for tests that care about jobs: the job's last attempt is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.models import Leaving, Link, Received

if TYPE_CHECKING:
    import asyncio

    from batchflux.errors import JobError
    from batchflux.ledger.ledger import Ledger
    from batchflux.models import Job


def send(ledger: Ledger, job: Job, *, price: int, at: float) -> asyncio.Future[int]:
    leaving = Leaving(provider=job.provider, key_name="KEY", model=job.model, price=price, at=at)
    return ledger.authorize(job, leaving)


def receive(ledger: Ledger, job: Job, picture: Link | str, *, api_seconds: float) -> asyncio.Future[None]:
    return ledger.captured(attempt_of(ledger, job), Received(asset=picture, api_seconds=api_seconds))


def fail(ledger: Ledger, job: Job, error: JobError, *, counts: bool) -> asyncio.Future[None]:
    return ledger.failed(attempt_of(ledger, job), error, counts=counts)


def take_back(ledger: Ledger, job: Job, *, unknown: bool) -> asyncio.Future[None]:
    return ledger.voided(attempt_of(ledger, job), unanswered=unknown)


def attempt_of(ledger: Ledger, job: Job) -> int:
    query = "SELECT MAX(attempts.number) FROM attempts JOIN jobs ON jobs.number = attempts.job WHERE key = ?"
    return int(
        ledger.database.now(lambda connection: connection.execute(query, (bytes.fromhex(job.key),)).fetchone()[0])
    )
