"""The pool of keys, to the millisecond: how long one cools, when a lease is granted, what ends the run."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.engine.circuit_breaker import CircuitBreaker
from batchflux.engine.limits.gcra import ALLOWANCE
from batchflux.engine.limits.key_pool import (
    LEAD,
    PATIENCE,
    SHORT_PATIENCE,
    Allowance,
    Key,
    KeyWatch,
    Lease,
)
from batchflux.engine.limits.limit_finder import EVIDENCE, PAUSE, Learned
from batchflux.engine.limits.rate_limiter import UNKNOWN, RateLimiter
from batchflux.engine.outages import DOWN_SECONDS, FIRST_PAUSE
from batchflux.engine.shutdown import Gate, Halted
from batchflux.errors import Code, JobError, StopRun
from batchflux.models import Outcome

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from batchflux.models import Job, Outcome

TOO_MANY = JobError(Code.RATE_LIMITED, "slow down")
WORDS = {
    Code.AUTH: (
        "The provider says that the key was refused (A, B: bad key): set a key that works, then run again to continue."
    ),
    Code.QUOTA: (
        "The provider says that the key is out of balance (A, B: bad key): "
        "top up the account, then run again to continue."
    ),
}


class Scene:
    """RateLimiter over some keys, on whatever loop is running."""

    def __init__(self, *keys: Key, concurrency: int = 8, active_tasks: int | None = None) -> None:
        self.gate = Gate()
        self.breaker = CircuitBreaker(3, self.gate)
        self.keys = keys or (Key(name="A", secret=None),)
        self.limits = RateLimiter(
            self.keys, concurrency=concurrency, gate=self.gate, breaker=self.breaker, active_tasks=active_tasks
        )
        self.now = asyncio.get_running_loop().time

    def down(self, key: int = 0) -> bool:
        return self.keys[key].place.down

    def bring_down(self, key: int = 0) -> None:
        """What a key reaches is not there any more, and that for long enough."""
        for job in ("a", "b", "c"):
            self.breaker.outages.failed(self.keys[key].place, job, JobError(Code.SERVER, "down"), -DOWN_SECONDS, 0.0)
        assert self.down(key)

    async def out(self) -> Lease:
        """Acquire and depart, as a request does."""
        while True:
            lease = await self.limits.acquire()
            if await self.limits.depart(lease):
                return lease
            self.limits.release(lease)

    async def ends(self, lease: Lease, error: JobError | None = None) -> None:
        """End the request: with a picture, or a refusal."""
        await asyncio.sleep(0)
        if error is None:
            self.limits.answered(lease)
        else:
            self.limits.refused(lease, error)
        self.limits.release(lease)

    async def begun(self, *coroutines: Coroutine[object, object, Lease]) -> list[asyncio.Task[Lease]]:
        tasks = [asyncio.create_task(each) for each in coroutines]
        await asyncio.sleep(0)
        return tasks


def paced(name: str, count: float, seconds: float = 1.0) -> Key:
    return Key(name=name, secret=None, rate=(count, seconds))


def refusals(virtual: asyncio.Runner, key: Key, count: int, error: JobError = TOO_MANY) -> list[float]:
    """Let every request be refused at once; return how long it was to the next each time."""

    async def scene() -> list[float]:
        here, times = Scene(key), list[float]()
        for _ in range(count + 1):
            lease = await here.out()
            times.append(here.now())
            await asyncio.sleep(0.01)
            await here.ends(lease, error)
        return [after - before - 0.01 for before, after in pairwise(times)]

    return virtual.run(scene())


def test_a_key_that_refuses_everything_is_tried_after_ever_longer_pauses(virtual: asyncio.Runner) -> None:
    pauses = refusals(virtual, Key(name="A", secret=None), EVIDENCE + 4)
    assert pauses[: EVIDENCE - 1] == pytest.approx([0.0] * (EVIDENCE - 1), abs=0.02)
    assert pauses[EVIDENCE - 1 :] == pytest.approx([PAUSE * number for number in (1, 2, 3, 4, 5)], abs=0.01)


def test_a_key_that_refuses_everything_rests_as_long_as_it_says(virtual: asyncio.Runner) -> None:
    error = JobError(Code.RATE_LIMITED, "no", retry_after=100.0)
    pauses = refusals(virtual, Key(name="A", secret=None), EVIDENCE + 1, error)
    assert pauses[EVIDENCE - 1 :] == pytest.approx([100.0, 100.0])


def test_a_picture_ends_the_row_of_refusals(virtual: asyncio.Runner) -> None:
    async def scene() -> bool:
        here = Scene()
        for count in (EVIDENCE - 1, EVIDENCE - 1):
            for _ in range(count):
                await here.ends(await here.out(), TOO_MANY)
                await asyncio.sleep(0.1)
            await here.ends(await here.out())
        return here.keys[0].finder.shut

    assert not virtual.run(scene())


def test_a_long_time_of_nothing_but_429s_ends_the_run_in_a_sentence(virtual: asyncio.Runner) -> None:
    async def scene() -> tuple[StopRun | None, float]:
        here = Scene()
        lease = await here.out()
        await asyncio.sleep(2 * PATIENCE)  # idle time is none of it
        here.limits.refused(lease, TOO_MANY)
        await asyncio.sleep(PATIENCE)
        here.limits.refused(lease, TOO_MANY)
        assert not here.gate.closed, "fifteen minutes are not yet more than fifteen minutes"
        await asyncio.sleep(0.001)
        here.limits.refused(lease, TOO_MANY)
        return here.gate.reason, here.now()

    reason, _ = virtual.run(scene())
    assert reason is not None
    assert (reason.reason, reason.exit_code) == ("rate_limited", 3)
    assert str(reason) == (
        "The provider has answered nothing but 'too many requests' for 15 minutes (slow down): "
        "lower limits.rate or wait, then run again to continue."
    )


def test_where_an_outage_is_not_waited_out_429s_are_not_either_but_for_a_minute_s_limits(
    virtual: asyncio.Runner,
) -> None:
    async def scene() -> StopRun | None:
        here = Scene()
        here.breaker.outages.patience = 45.0
        lease, other = await here.out(), await here.out()
        here.limits.refused(lease, TOO_MANY)
        await asyncio.sleep(2 * SHORT_PATIENCE)
        here.limits.refused(lease, TOO_MANY)
        assert not here.gate.closed, "the other one may be served yet"
        here.limits.answered(other)
        here.limits.release(other)
        for seconds in (0.0, SHORT_PATIENCE):
            await asyncio.sleep(seconds)
            here.limits.refused(lease, TOO_MANY)
        assert not here.gate.closed
        await asyncio.sleep(0.001)
        here.limits.refused(lease, TOO_MANY)
        return here.gate.reason

    reason = virtual.run(scene())
    assert reason is not None
    assert str(reason).startswith("The provider has answered nothing but 'too many requests' for 1.5 minutes (slow ")


@pytest.mark.parametrize("answer", ["picture", "failure", "another key's death"])
def test_every_other_answer_renews_the_patience(virtual: asyncio.Runner, answer: str) -> None:
    async def scene() -> bool:
        here = Scene(Key(name="A", secret=None), Key(name="B", secret=None))
        first, second = await here.out(), await here.out()
        here.limits.refused(first, TOO_MANY)
        await asyncio.sleep(PATIENCE - 1)
        if answer == "picture":
            here.limits.answered(second)
        elif answer == "failure":
            here.limits.failed(second, JobError(Code.MODERATED, "no"))
        else:
            other = Lease(key=here.keys[1], clock=here.now)
            here.limits.refused(other, JobError(Code.AUTH, "no"))
        await asyncio.sleep(2)
        here.limits.refused(first, TOO_MANY)
        return here.gate.closed

    assert not virtual.run(scene())


def test_a_picture_that_says_how_long_to_wait_cools_its_key(virtual: asyncio.Runner) -> None:
    async def scene() -> float:
        here = Scene()
        lease = await here.out()
        await asyncio.sleep(3)
        here.limits.release(lease)
        here.limits.answered(lease, 7.0)
        await here.out()
        return here.now()

    assert virtual.run(scene()) == pytest.approx(10.0)


def test_a_shorter_pause_does_not_end_a_longer_one(virtual: asyncio.Runner) -> None:
    async def scene() -> float:
        here = Scene()
        first, second = await here.out(), await here.out()
        await here.ends(first)
        here.limits.answered(first, 100.0)
        here.limits.answered(second, 1.0)
        return here.keys[0].resting_until

    assert virtual.run(scene()) == 100.0


@pytest.mark.parametrize("code", [Code.AUTH, Code.QUOTA])
def test_what_is_said_when_all_keys_are_dead(virtual: asyncio.Runner, code: Code) -> None:
    async def scene() -> StopRun | None:
        here = Scene(Key(name="A", secret="s"), Key(name="B", secret="t"))
        for key in here.keys:
            assert not here.gate.closed
            here.limits.refused(Lease(key=key, clock=here.now), JobError(code, "bad key"))
            assert key.dead is not None
        return here.gate.reason

    reason = virtual.run(scene())
    assert reason is not None
    assert (reason.reason, str(reason)) == (code.value, WORDS[code])


def test_a_lease_is_granted_shortly_before_its_request_may_leave(virtual: asyncio.Runner) -> None:
    async def scene() -> list[float]:
        here, times = Scene(paced("A", 1)), []
        for _ in range(3):
            lease = await here.limits.acquire()
            times.append(here.now())
            assert await here.limits.depart(lease)
            times.append(here.now())
        return times

    every = 1 + ALLOWANCE
    assert virtual.run(scene()) == pytest.approx([0, 0, every - LEAD, every, 2 * every - LEAD, 2 * every])


def test_no_more_leases_are_being_prepared_than_may_leave_within_the_lead(virtual: asyncio.Runner) -> None:
    async def scene() -> list[int]:
        here, counts = Scene(paced("A", 100), concurrency=50), list[int]()
        tasks = await here.begun(*[here.limits.acquire() for _ in range(20)])
        await asyncio.sleep(1)
        counts.append(sum(task.done() for task in tasks))
        assert await here.limits.depart(tasks[0].result())
        await asyncio.sleep(0)
        counts.append(sum(task.done() for task in tasks))
        await asyncio.sleep(1)
        counts.append(sum(task.done() for task in tasks))
        for task in tasks:
            task.cancel()
        return counts

    assert virtual.run(scene()) == [5, 5, 6], "five intervals of 10 ms are the 50 ms of the lead"


def test_a_full_key_takes_no_more_and_the_other_does(virtual: asyncio.Runner) -> None:
    async def scene() -> None:
        small, big = Key(name="A", secret=None, learned=Learned(active=2)), Key(name="B", secret=None)
        here = Scene(small, big)
        leases = [await here.out() for _ in range(6)]
        assert (small.leased, big.leased) == (2, 4)
        for lease in leases:
            here.limits.answered(lease)
            here.limits.release(lease)

    virtual.run(scene())


def test_keys_share_the_work_evenly_and_a_slow_one_gets_less(virtual: asyncio.Runner) -> None:
    async def scene(*seconds: float) -> list[int]:
        here = Scene(*(Key(name=str(number), secret=None) for number in range(len(seconds))))

        async def worker() -> None:
            for _ in range(75):
                lease = await here.out()
                await asyncio.sleep(seconds[int(lease.key.name)])
                await here.ends(lease)

        await asyncio.gather(*(worker() for _ in range(8)))
        return [key.schedule.sent for key in here.keys]

    assert virtual.run(scene(1.0, 1.0, 1.0, 1.0)) == [150] * 4
    uneven = virtual.run(scene(1.0, 1.0, 1.0, 10.0))
    assert uneven[3] < 100
    assert max(uneven[:3]) - min(uneven[:3]) < 20


def test_work_goes_to_the_key_that_can_take_it_first(virtual: asyncio.Runner) -> None:
    async def scene() -> list[str]:
        here = Scene(paced("slow", 1), paced("fast", 3), concurrency=20)
        return [(await here.out()).key.name for _ in range(9)]

    assert sorted(virtual.run(scene())) == ["fast"] * 6 + ["slow"] * 3


def test_the_rate_of_a_key_holds_for_all_addresses_of_a_fleet_together(virtual: asyncio.Runner) -> None:
    async def scene() -> tuple[list[float], list[int]]:
        key, times = Allowance(), list[float]()
        here = Scene(*(Key(name=f"A at {url}", secret=None, address=url, shared=key, rate=(2, 1.0)) for url in "uv"))

        async def worker() -> None:
            for _ in range(6):
                lease = await here.out()
                lease.sent()
                times.append(here.now())
                await asyncio.sleep(0.3)
                await here.ends(lease)

        async def faster() -> None:
            await asyncio.sleep(5.9 * every)
            here.limits.retune(8, (4, 1.0))

        await asyncio.gather(*(worker() for _ in range(4)), faster())
        return times, [key.schedule.sent for key in here.keys]

    every = (1 + ALLOWANCE) / 2
    times, sent = virtual.run(scene())
    assert times[:6] == pytest.approx([every * number for number in range(6)])
    assert [after - before for before, after in pairwise(times[8:])] == pytest.approx([every / 2] * 15)
    assert sent == [12, 12], "the work is shared all the same"


@pytest.mark.parametrize(("pause", "stays"), [(LEAD, True), (2 * LEAD + 0.001, False)])
def test_who_waits_to_leave_is_sent_back_when_the_key_cools_longer_than_the_lead(
    virtual: asyncio.Runner, *, pause: float, stays: bool
) -> None:
    async def scene() -> list[bool]:
        here = Scene(paced("A", 30))
        first = await here.out()
        leases = [await here.limits.acquire() for _ in range(2)]
        tasks = [asyncio.create_task(here.limits.depart(lease)) for lease in leases]
        await asyncio.sleep(0)
        here.limits.answered(first, pause)
        return list(await asyncio.gather(*tasks))

    assert virtual.run(scene()) == [stays, stays]


def test_those_who_wait_to_leave_leave_in_turn_and_a_cancelled_one_is_passed_over(virtual: asyncio.Runner) -> None:
    async def scene() -> list[float | None]:
        here = Scene(paced("A", 100))
        leases = [await here.limits.acquire() for _ in range(4)]
        tasks = [asyncio.create_task(here.limits.depart(lease)) for lease in leases]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return [lease.departed_at for lease in leases]

    first, second, third, fourth = virtual.run(scene())
    assert second is None
    assert first is not None
    assert third is not None
    assert fourth is not None
    assert third - first == pytest.approx((1 + ALLOWANCE) / 100)
    assert fourth - third == pytest.approx((1 + ALLOWANCE) / 100)


def test_a_closing_gate_ends_the_wait_to_leave(virtual: asyncio.Runner) -> None:
    async def scene() -> list[type]:
        here = Scene(paced("A", 1))
        await here.out()
        lease = await here.limits.acquire()
        waiting = [asyncio.create_task(here.limits.depart(lease)), asyncio.create_task(here.limits.acquire())]
        quitter = asyncio.create_task(here.limits.acquire())
        await asyncio.sleep(0)
        quitter.cancel()
        here.gate.close(StopRun("signal", "Stopped."))
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        with pytest.raises(Halted):
            await here.limits.depart(lease)
        assert not here.keys[0].departing
        return [type(result) for result in ended]

    assert virtual.run(scene()) == [Halted, Halted]


def test_other_limits_hold_from_the_moment_they_are_given(virtual: asyncio.Runner) -> None:
    async def scene() -> None:
        key = Key(name="A", secret=None)
        here = Scene(key, concurrency=1)
        await here.out()
        tasks = await here.begun(here.out(), here.out(), here.out())
        await asyncio.sleep(5)
        assert [task.done() for task in tasks] == [False] * 3
        here.limits.retune(3, (10.0, 1.0))
        await asyncio.sleep(1)
        assert [task.done() for task in tasks] == [True, True, False]
        assert here.limits.concurrency == 3
        assert key.schedule.ceiling == pytest.approx(10 / (1 + ALLOWANCE))
        here.limits.retune(20, None)
        await asyncio.sleep(0.2)
        assert key.schedule.ceiling == float("inf")
        assert tasks[2].done()

    virtual.run(scene())


def test_a_provider_that_is_down_gets_one_request_and_a_refusal_is_an_answer(virtual: asyncio.Runner) -> None:
    async def scene() -> list[float]:
        here, times = Scene(), list[float]()
        here.bring_down()
        probe = await here.out()
        times.append(here.now())
        tasks = await here.begun(here.out(), here.out())
        await asyncio.sleep(1)
        assert [task.done() for task in tasks] == [False, False]
        await here.ends(probe, JobError(Code.RATE_LIMITED, "no", retry_after=5.0))
        assert not here.down(), "a refusal is an answer of a provider that is there"
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        times.append(here.now())
        return times

    assert virtual.run(scene()) == pytest.approx([FIRST_PAUSE, FIRST_PAUSE + 1 + 5])


def test_a_probe_that_never_left_is_followed_by_another(virtual: asyncio.Runner) -> None:
    async def scene() -> float:
        here = Scene()
        here.bring_down()
        here.limits.release(await here.limits.acquire())
        await here.out()
        return here.now()

    assert virtual.run(scene()) == pytest.approx(FIRST_PAUSE, abs=0.1)


def test_one_key_that_is_down_leaves_the_work_to_the_others_and_is_probed(virtual: asyncio.Runner) -> None:
    async def scene() -> list[str]:
        here = Scene(*living("A", "B"), concurrency=3)
        here.bring_down(0)
        before = [await here.out() for _ in range(3)]
        assert here.now() == 0.0
        here.limits.release(before.pop())
        await asyncio.sleep(FIRST_PAUSE)
        probe = await here.out()
        return [lease.key.name for lease in (*before, probe)]

    assert virtual.run(scene()) == ["B", "B", "A"]


def test_all_keys_together_have_one_probe(virtual: asyncio.Runner) -> None:
    async def scene() -> None:
        here = Scene(*living("A", "B"))
        here.bring_down(0)
        here.bring_down(1)
        tasks = await here.begun(here.out(), here.out())
        await asyncio.sleep(10 * FIRST_PAUSE)
        assert [task.done() for task in tasks] == [True, False]
        tasks[1].cancel()

    virtual.run(scene())


def test_probes_ask_for_the_job_that_failed_least_then_for_the_one_that_failed_most(virtual: asyncio.Runner) -> None:
    async def scene() -> list[int]:
        here, order = Scene(), list[int]()
        here.bring_down()

        async def probe(failures: int) -> None:
            lease = await here.limits.acquire(failures)
            await here.limits.depart(lease)
            order.append(failures)
            here.breaker.outages.failed(lease.key.place, "x", JobError(Code.SERVER, "down"), here.now(), here.now())
            here.limits.release(lease)

        await asyncio.gather(*map(probe, (2, UNKNOWN, 0, 3, 1)))
        return order

    assert virtual.run(scene()) == [0, 3, 1, 2, UNKNOWN]


def test_one_who_is_cancelled_as_the_lease_comes_gives_it_back(virtual: asyncio.Runner) -> None:
    async def scene() -> None:
        here = Scene(concurrency=1)
        lease = await here.limits.acquire()
        task = asyncio.create_task(here.limits.acquire())
        await asyncio.sleep(0)
        here.limits.release(lease)  # granted to the task, which has not run since
        assert here.limits.in_flight == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert (here.limits.in_flight, here.keys[0].leased, here.keys[0].preparing) == (0, 0, 0)

    virtual.run(scene())


def living(*names: str) -> list[Key]:
    return [Key(name=name, secret=None) for name in names]


@pytest.mark.parametrize(("name", "got"), [("A", "A"), ("B", "B"), ("gone", "A"), (None, "A")])
def test_a_task_of_an_earlier_run_is_polled_with_its_key_or_another(
    virtual: asyncio.Runner, name: str | None, got: str
) -> None:
    async def scene() -> str:
        here = Scene(*living("A", "B"))
        lease = await here.limits.resume(name)
        assert here.limits.in_flight == 1
        here.limits.release(lease)
        assert here.limits.in_flight == 0
        return lease.key.name

    assert virtual.run(scene()) == got


def test_a_task_whose_key_is_dead_is_polled_with_another(virtual: asyncio.Runner) -> None:
    async def scene() -> str:
        here = Scene(*living("A", "B"))
        here.limits.refused(await here.out(), JobError(Code.AUTH, "no"))
        return (await here.limits.resume("A")).key.name

    assert virtual.run(scene()) == "B"


def test_a_resumed_task_takes_a_slot_but_neither_rate_nor_probe(virtual: asyncio.Runner) -> None:
    async def scene() -> None:
        here = Scene(paced("A", 1, 60.0), concurrency=2)
        here.bring_down()
        resumed = [await here.limits.resume("A") for _ in range(2)]
        assert here.now() == 0.0
        third = asyncio.create_task(here.limits.resume("A"))
        fresh = asyncio.create_task(here.out())
        await asyncio.sleep(30)
        assert not third.done()
        here.limits.release(resumed[0])
        await asyncio.wait_for(third, 1)  # it comes before what is still to be submitted
        assert not fresh.done()
        here.limits.release(resumed[1])
        here.limits.release(third.result())
        await fresh
        assert here.now() == 30, "the one request of the minute was still to be had, and the probe too"
        assert here.down()

    virtual.run(scene())


def test_tasks_are_left_to_the_next_run_when_the_gate_closes(virtual: asyncio.Runner) -> None:
    async def scene() -> None:
        here = Scene(concurrency=1)
        await here.out()
        waits = asyncio.create_task(here.limits.resume("A"))
        quitter = asyncio.create_task(here.limits.resume("A"))
        await asyncio.sleep(0)
        quitter.cancel()
        here.gate.close(StopRun("signal", "Stopped."))
        assert isinstance((await asyncio.gather(waits, return_exceptions=True))[0], Halted)
        with pytest.raises(Halted):
            await here.limits.resume("A")

    virtual.run(scene())


@pytest.mark.parametrize("reason", ["budget", "deadline"])
def test_tasks_are_taken_up_behind_a_gate_that_money_or_time_closed(virtual: asyncio.Runner, reason: str) -> None:
    async def scene() -> None:
        here = Scene(concurrency=1)
        here.gate.close(StopRun(reason, "No more attempts."))
        with pytest.raises(Halted):
            await here.limits.acquire()
        lease = await here.limits.resume("A")
        waits = asyncio.create_task(here.limits.resume("A"))
        await asyncio.sleep(1)
        assert not waits.done()
        here.limits.release(lease)
        lease = await waits
        waits = asyncio.create_task(here.limits.resume("A"))
        here.limits.refused(lease, JobError(Code.AUTH, "bad key"))
        with pytest.raises(Halted):
            await waits
        assert here.gate.reason is not None
        assert here.gate.reason.reason == reason

    virtual.run(scene())


@pytest.mark.parametrize(("concurrency", "active_tasks", "most"), [(8, 3, 3), (2, 3, 2), (5, None, 5)])
def test_the_providers_own_cap_of_tasks_holds_if_it_is_smaller(
    virtual: asyncio.Runner, concurrency: int, active_tasks: int | None, most: int
) -> None:
    async def scene() -> list[int]:
        here = Scene(*living("A", "B"), concurrency=concurrency, active_tasks=active_tasks)
        tasks = await here.begun(*[here.out() for _ in range(20)])
        await asyncio.sleep(1)
        before = here.limits.in_flight
        here.limits.retune(10, None)
        await asyncio.sleep(1)
        after = here.limits.in_flight
        for task in tasks:
            task.cancel()
        return [before, after]

    assert virtual.run(scene()) == [most, min(10, active_tasks or 10)]


class Told:
    """An Observer that keeps the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def ended(self, job: Job, outcome: Outcome) -> None:
        raise NotImplementedError

    def event(self, name: str, /, **fields: Any) -> None:
        self.events.append((name, fields))


@pytest.mark.parametrize(("names", "told"), [(("A", "B"), 1), (("A",), 0)])
def test_the_death_of_one_of_several_keys_is_told_once(names: tuple[str, ...], told: int) -> None:
    keys, observer = living(*names), Told()
    watch = KeyWatch(observer, keys)
    watch.event("attempt_failed", id="j0")
    keys[0].dead = JobError(Code.QUOTA, "no money")
    for _ in range(2):
        watch.event("attempt_failed", id="j1")
    text = "The key in A is out of balance (no money): this run goes on without it."
    refused = [fields for name, fields in observer.events if name == "key_refused"]
    assert refused == [{"key": "A", "code": "quota", "message": text}] * told
    assert len(observer.events) == 3 + told
