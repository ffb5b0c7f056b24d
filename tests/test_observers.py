"""What a run says that it waits for."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tqdm.utils import disp_len

from batchflux.engine.budget import Budget
from batchflux.engine.circuit_breaker import CircuitBreaker
from batchflux.engine.limits.key_pool import Key
from batchflux.engine.limits.rate_limiter import RateLimiter
from batchflux.engine.shutdown import Gate
from batchflux.engine.worker_pool import Tally
from batchflux.errors import Code, JobError, StopRun
from batchflux.observers import Progress
from batchflux.transport import CallTimes
from batchflux.transport.call_times import TELLING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def refused(text: str, seconds: float) -> AsyncIterator[Progress]:
    """A run of one key whose only request was refused for so many seconds, and another that waits to leave."""
    gate = Gate()
    limits = RateLimiter(
        [Key(name="A", secret=None)], concurrency=2, gate=gate, breaker=CircuitBreaker(20, gate), clock=lambda: 1000.0
    )
    lease = await limits.acquire()
    assert await limits.depart(lease)
    limits.refused(lease, JobError(Code.RATE_LIMITED, text, retry_after=seconds))
    limits.release(lease)
    waiting = asyncio.ensure_future(limits.acquire())
    await asyncio.sleep(0)
    yield Progress(Tally(), limits, Budget(spent=0, gate=gate), gate)
    gate.close(StopRun("signal", "stopped"))
    await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.parametrize(
    ("seconds", "until"),
    [
        (32.4, ", next try in 32 s"),
        (119.0, ", next try in 119 s"),
        (8580.0, r", next try at \d\d:\d\d:\d\d"),
    ],
)
async def test_until_when(seconds: float, until: str) -> None:
    async with refused("slow down", seconds) as progress:
        said = progress.waiting()
    assert said is not None
    assert re.fullmatch(rf"rate limited by the provider \(slow down\){until}", said)


@given(text=st.text(min_size=1), width=st.integers(40, 200))
async def test_a_strangers_text_neither_breaks_the_line_nor_pushes_out_until_when(text: str, width: int) -> None:
    async with refused(text, 32.0) as progress:
        said = progress.waiting(width)
    assert said is not None
    assert said.isprintable()
    assert said.startswith("rate limited by ")
    assert said.endswith(", next try in 32 s")
    assert disp_len(said) <= width


async def test_a_short_wait_is_none_and_behind_a_closed_gate_only_what_is_out_is_waited_for() -> None:
    async with refused("slow down", 0.5) as progress:
        assert progress.waiting() is None
    assert progress.waiting() == "for what is under way (0 in flight); no new requests"


async def test_near_the_end_what_takes_long_is_named() -> None:
    gate, times, now = Gate(), CallTimes(360.0), 0.0
    times._clock = lambda: now
    limits = RateLimiter([Key(name="A", secret=None)], concurrency=2, gate=gate, breaker=CircuitBreaker(20, gate))
    budget, tally = Budget(spent=0, gate=gate), Tally()
    progress = Progress(tally, limits, budget, gate, times=[times], todo=TELLING + 3)
    for number in range(TELLING):
        with times.watch(f"j{number}", "m"):
            tally.done += 1
    with times.watch("mug-red", "m"), times.watch("mug-" + "blue" * 50, "m"):
        now += 0.05
        assert progress.waiting() is None, "three are left, and two slots: one may still begin"
        tally.failed += 1
        assert progress.waiting() == "for mug-red, 0 s so far and 1 more (99 of 100 calls: 0 s)"
        assert progress.waiting(60) == progress.waiting()
    assert progress.waiting() is None


async def test_what_waits_in_batches_is_said_while_nothing_else_is_out() -> None:
    gate = Gate()
    limits = RateLimiter([Key(name="A", secret=None)], concurrency=2, gate=gate, breaker=CircuitBreaker(20, gate))
    progress = Progress(Tally(), limits, Budget(spent=0, gate=gate), gate)
    progress.batches = lambda: "for 6 jobs in a batch that left at 22:10"
    assert progress.waiting() == "for 6 jobs in a batch that left at 22:10"
    lease = await limits.acquire()
    assert await limits.depart(lease)
    assert progress.waiting() is None
    limits.release(lease)
