"""The source of the pool: a stream, read in small batches and never ahead of need."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.ledger.bookkeeping import BATCH, Feeder
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.reconcile import Selection
from batchflux.models import Job

if TYPE_CHECKING:
    from pathlib import Path

JobOf = Callable[..., Job]


@dataclass(slots=True)
class Reel:
    """A stream of jobs that counts how far it was read."""

    jobs: Iterator[Job]
    read: int = field(default=0)

    def __iter__(self) -> Iterator[Job]:
        return self

    def __next__(self) -> Job:
        job = next(self.jobs)
        self.read += 1
        return job


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.db", durable=False)
    yield opened
    opened.close()


def feed(jobs: Iterator[Job], ledger: Ledger, **selection: Any) -> Feeder:
    return Feeder(jobs, ledger, Selection(**selection), lambda _: True)


async def drain(feeder: Feeder) -> list[str]:
    taken: list[str] = []
    while (work := await feeder.take()) is not None:
        taken.append(work.job.id)
    return taken


async def test_all_jobs_come_in_order(ledger: Ledger, job_number: JobOf) -> None:
    count = 3 * BATCH + 7
    feeder = feed((job_number(n) for n in range(count)), ledger)
    assert await drain(feeder) == [f"j{n}" for n in range(count)]
    assert await feeder.take() is None


async def test_nothing_comes_of_nothing(ledger: Ledger) -> None:
    assert await feed(iter(()), ledger).take() is None


async def test_nothing_is_read_ahead_of_need(ledger: Ledger, job_number: JobOf) -> None:
    reel = Reel(job_number(n) for n in range(5000))
    feeder = feed(reel, ledger)
    for _ in range(BATCH):
        assert await feeder.take() is not None
    assert reel.read == BATCH
    await feeder.take()
    assert reel.read == 2 * BATCH


async def test_many_takers_share_the_stream(ledger: Ledger, job_number: JobOf) -> None:
    feeder = feed((job_number(n) for n in range(2000)), ledger)
    taken = [job for part in await asyncio.gather(*(drain(feeder) for _ in range(40))) for job in part]
    assert Counter(taken) == Counter(f"j{n}" for n in range(2000))


@pytest.mark.parametrize("limit", [0, 1, 5, 100, 1000])
async def test_a_limit_holds_for_all_takers_together(ledger: Ledger, job_number: JobOf, limit: int) -> None:
    feeder = feed((job_number(n) for n in range(300)), ledger, limit=limit)
    taken = [job for part in await asyncio.gather(*(drain(feeder) for _ in range(20))) for job in part]
    assert len(taken) == len(set(taken)) == min(limit, 300)


async def test_long_stretches_without_work_are_passed_over(ledger: Ledger, job_number: JobOf) -> None:
    feeder = feed((job_number(n) for n in range(3000)), ledger, only="j29?7")
    assert await drain(feeder) == [f"j29{n}7" for n in range(10)]


async def test_a_fault_in_the_stream_reaches_the_taker(ledger: Ledger, job_number: JobOf) -> None:
    def broken() -> Iterator[Job]:
        yield job_number(0)
        raise OSError("the table is gone")

    with pytest.raises(OSError, match="the table is gone"):
        await feed(broken(), ledger).take()
