"""A task that one provider accepted is nobody else's to make, and a run says that it left it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.engine.circuit_breaker import CircuitBreaker
from batchflux.engine.limits.key_pool import Key, Lease
from batchflux.engine.limits.rate_limiter import RateLimiter
from batchflux.engine.shutdown import BUDGET, SIGNAL, Gate, Halted
from batchflux.errors import Code, JobError, StopRun
from batchflux.models import Exchanged, Then
from tests.engine.conftest import Reply, Server
from tests.engine.test_several_providers import NEVER, UNIT, Shop, Street

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.models import HttpRequest
    from tests.engine.conftest import Night

QUEUE = Shop(name="queue", style="tasks", price=5 * UNIT, concurrency=4, keys={"q1": NEVER})
BEST = Shop(name="best", price=8 * UNIT, concurrency=4, keys={"b1": NEVER})


class Corner(Street):
    """Two providers, whose replies a test gives by the provider's name."""

    replies: Callable[[str, str, int], Reply]

    def _reply(self, name: str, number: int) -> Reply:
        return self.replies(self.shop.name, name, number)


def opened(night: Night, replies: Callable[[str, str, int], Reply]) -> Corner:
    corner = Corner([QUEUE, BEST], 0, 0.0)
    corner.replies = replies
    night.server, night.rules = corner, corner.rules
    night.jobs = [replace(job.by(QUEUE.way), fallbacks=(BEST.way,)) for job in night.jobs]
    return corner


def test_a_task_is_not_bought_elsewhere_when_its_provider_leaves(night: Callable[[int], Night]) -> None:
    """Its key is refused when it is asked for: the task may still come, so it is the next run's to ask for."""
    three = night(3)
    corner = opened(three, lambda *_: Reply(after=0.2, task=40.0, trouble=10**6, cause=Code.AUTH))
    ended = three.run()
    assert Counter(call.id for call in corner.calls) == {"j0": 1, "j1": 1, "j2": 1}
    assert {row.status for row in three.rows().values()} <= {"pending", "submitted", "unknown"}
    assert ended.reason is not None, "jobs are left, and the run does not say why"
    assert ended.reason.reason == "auth"
    again = three.run()
    assert len(corner.calls) == 3
    assert again.reason is not None


def test_who_refused_a_job_is_not_asked_again_because_the_next_one_left(night: Callable[[int], Night]) -> None:
    two = night(2)
    refused = Reply(after=0.2, code=Code.MODERATED, billed=True)
    corner = opened(two, lambda shop, *_: refused if shop == "queue" else Reply(after=0.2, code=Code.QUOTA))
    rules = corner.rules
    two.rules = lambda *of: replace(rules(*of), fallback_on=("moderated",))
    for _ in range(2):
        two.run()
        assert [job for job, shop, _ in corner.log if shop == "queue"] == ["j0", "j1"]
    assert {(row.status, row.error_code) for row in two.rows().values()} == {("failed", "moderated")}


def test_the_gate_of_a_provider_ends_what_a_signal_ends() -> None:
    run = Gate()
    own, told = Gate(run), []
    own.on_close(lambda: told.append(own.resumes))
    run.close(StopRun(BUDGET, "used up"))
    run.close(StopRun(SIGNAL, "stopped"))
    assert told == [True, False]


@pytest.mark.parametrize("found", [None, 0.5])
def test_a_request_in_another_form_waits_for_its_turn(found: float | None) -> None:
    """What was refused for its form is sent once more within the same lease, but not before the rate allows it."""
    now = [100.0]
    key = Key(name="A", secret="a", rate=None if found else (1, 10.0))
    lease = Lease(key=key, clock=lambda: now[0])
    key.preparing += 1
    if found:
        key.resting_until = 130.0  # as the server said
    lease.leave(now[0])
    now[0] = 101.0
    wait = lease.again()
    assert now[0] + wait >= (130.0 if found else 110.0)
    assert key.schedule.sent == 2
    now[0] += wait
    lease.sent()
    assert len(key.finder.out) == 1
    if not found:
        assert key.schedule.next_at(now[0]) >= now[0] + 10.0, "the next one keeps its distance to it"


class Refusing(Server):
    """Refuses each request's form once, for free, and takes the next."""

    times: list[float]

    async def exchange(self, request: HttpRequest, **how: Any) -> Exchanged:
        self.times.append(asyncio.get_running_loop().time())
        if len(self.times) % 2:
            await asyncio.sleep(0.3)
            return Exchanged(reply=Then(request=request), seconds=0.3)
        return await super().exchange(request, **how)


def test_requests_in_two_forms_keep_to_the_rate_together(night: Callable[[int], Night]) -> None:
    three = night(3)
    three.server = server = Refusing()
    server.times = []
    ended = three.run(interval=10.0, concurrency=1)
    assert ended.tally.done == 3
    assert len(server.times) == 6
    assert all(later - sooner >= 9.99 for sooner, later in pairwise(server.times))


def test_a_task_moves_to_another_key_of_its_own_address(virtual: asyncio.Runner) -> None:
    async def moved() -> None:
        keys = [Key(name=f"{name} at {url}", secret=name, address=url) for url in ("u1", "u2") for name in "ab"]
        gate = Gate()
        limits = RateLimiter(keys, concurrency=4, gate=gate, breaker=CircuitBreaker(5, gate))
        lease = await limits.acquire()
        there, wanted = lease.key.address, lease.key
        wanted.dead = JobError(Code.AUTH, "no")
        assert limits.move(lease)
        assert lease.key is not wanted
        assert lease.key.address == there
        lease.key.dead = JobError(Code.AUTH, "no")
        assert not limits.move(lease), "another address does not know it"
        for key in keys:
            key.dead = JobError(Code.AUTH, "no")
        with pytest.raises(Halted):
            limits.move(lease)

    virtual.run(moved())


def test_a_task_of_an_earlier_run_is_asked_for_where_it_was_accepted(virtual: asyncio.Runner) -> None:
    async def resumed() -> None:
        keys = [Key(name=f"{name} at {url}", secret=name, address=url) for url in ("u2", "u1") for name in "ab"]
        gate = Gate()
        limits = RateLimiter(keys, concurrency=9, gate=gate, breaker=CircuitBreaker(5, gate))
        assert [(await limits.resume(name)).key.name for name in ("a at u1", "b at u2")] == ["a at u1", "b at u2"]
        keys[2].dead = JobError(Code.AUTH, "no")
        assert (await limits.resume("a at u1")).key.name == "b at u1"
        keys[3].dead = JobError(Code.AUTH, "no")
        assert (await limits.resume("a at u1")).key.address == "u1"
        assert (await limits.resume("a")).key.address == "u2", "the only one there was, now the first"
        assert limits.gone("a at u3") == "u3"
        assert not limits.gone("a at u1") + limits.gone("a") + limits.gone(None)

    virtual.run(resumed())
