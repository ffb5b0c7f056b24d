"""Webhooks as the engine sees them: a call makes a poll come now, polls that are for nothing are left out, and a call
that does not come costs time and nothing else.
"""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.engine.task_polls import BACKSTOP
from batchflux.errors import Code
from batchflux.models import Submitted
from batchflux.webhooks.api import Call, WebhookApi
from batchflux.webhooks.wakes import DISTRUST, Hook, Wakes
from tests.engine.conftest import Reply, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from batchflux.models import Exchanged, HttpRequest
    from tests.engine.conftest import Night

    Calls = Callable[[int], float | None]

SOON = 0.4  # seconds from a task's end to its call


class Plain(WebhookApi):
    """Calls that name their task by its handle; they come in no other way than by the test's own word."""

    def verify(self, call: Call, keys: Collection[str]) -> None:
        raise AssertionError("nothing is received here")

    def tasks(self, call: Call) -> tuple[str, ...]:
        raise AssertionError("nothing is received here")


class Calling(Server):
    """Calls so many seconds after the end of its n-th task as `calls` says; None: it does not."""

    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self.hook = Hook(name="tuzi", style="tasks", api=Plain(), url="https://h.example/x", path="x", secret="s")
        self.after, self.submitted, self.told = calls, 0, list[str | None]()

    def wakes(self) -> Wakes:
        self.hook.heard, self.hook.missed = False, {}
        self.of = Wakes({("tuzi", "tasks"): self.hook})
        return self.of

    async def exchange(self, request: HttpRequest, **more: Any) -> Exchanged:
        made = await super().exchange(request, **more)
        if isinstance(made.reply, Submitted):
            due, after = self.tasks[made.reply.handle][0], self.after(self.submitted)
            self.submitted += 1
            if after is not None:
                asyncio.get_running_loop().call_at(due + after, self.of.called, self.hook, made.reply.handle)
        return made

    @property
    def polled(self) -> int:
        """How many polls there were."""
        return sum(self.polls.values())


def scene(night: Callable[[int], Night], jobs: int, calls: Calls, how: Reply | None = None) -> tuple[Night, Calling]:
    """Return tasks of about a minute, most of them between half a minute and two, at one who calls."""
    made, rng, server = night(jobs), random.Random(7), Calling(calls)
    lengths = {job.prompt: rng.lognormvariate(math.log(60), 0.35) for job in made.jobs}
    server.api = lambda name, _: replace(how or Reply(), after=0.3, task=lengths[name])
    made.server, made.wakes = server, server.wakes
    made.jobs = [replace(job, style="tasks") for job in made.jobs]
    return made, server


@pytest.mark.parametrize(
    ("jobs", "at_once", "share"), [(100, 2, 10), pytest.param(1000, 24, 10, marks=pytest.mark.slow)]
)
def test_a_run_polls_at_most_a_tenth_as_often_and_ends_no_later(
    night: Callable[[int], Night], jobs: int, at_once: int, share: int
) -> None:
    without, silent = scene(night, jobs, lambda _: None)
    usual = without.run(concurrency=at_once)
    called, server = scene(night, jobs, lambda _: SOON)
    ended = called.run(concurrency=at_once)
    assert (usual.tally.done, ended.tally.done) == (jobs, jobs)
    assert ended.seconds <= usual.seconds
    assert share * server.polled <= silent.polled, (silent.polled, server.polled, usual.seconds, ended.seconds)
    assert {row.attempts for row in called.rows().values()} == {1}


@pytest.mark.parametrize(
    ("calls", "later"),
    [
        pytest.param(lambda n: SOON if n < 20 else None, BACKSTOP, id="the receiver dies"),
        pytest.param(lambda n: None if n % 7 == 3 else SOON, BACKSTOP, id="some never come"),
        pytest.param(lambda n: 20.0 if n % 5 == 3 else SOON, BACKSTOP, id="some come late"),
        pytest.param(lambda _: 1000.0, 0, id="all come too late"),
        pytest.param(lambda n: -20.0 if n % 2 else SOON, 0, id="some come before the end"),
    ],
)
def test_calls_that_fail_cost_time_at_most(night: Callable[[int], Night], calls: Calls, later: float) -> None:
    without, silent = scene(night, 40, lambda _: None)
    usual = without.run(concurrency=4)
    called, server = scene(night, 40, calls)
    ended = called.run(concurrency=4)
    assert ended.tally.done == 40
    assert ended.seconds <= usual.seconds + later
    assert len(server.calls) == len(silent.calls) == 40, "nothing is bought twice"
    assert called.spent() == without.spent()


def test_after_a_call_that_did_not_come_polls_are_as_without(night: Callable[[int], Night]) -> None:
    """The receiver dies when all is well: what is out then is asked for at once, and later tasks as ever."""
    called, server = scene(night, 60, lambda n: SOON if n < 20 else None)
    ended = called.run(concurrency=6)
    events = [name for name, _ in ended.notes.events if name.startswith("webhook")]
    assert (events[0], events[-1]) == ("webhook_arrived", "webhook_missed")
    polls = [server.polls[f"j{n}/1"] for n in range(60)]
    assert sum(polls[6:18]) <= 2 * 12, "calls were relied on"
    assert sum(polls[30:]) > 3 * 30, "and are no more"


def test_calls_are_relied_on_again_when_they_come_again(night: Callable[[int], Night]) -> None:
    gap = range(20, 32)
    called, server = scene(night, 150, lambda n: None if n in gap else SOON)
    called.run(concurrency=6)
    polls = [server.polls[f"j{n}/1"] for n in range(150)]
    assert max(polls[-30:]) <= 2
    assert DISTRUST > 2 * BACKSTOP


def test_a_flood_of_calls_wakes_a_poll_a_few_times(night: Callable[[int], Night]) -> None:
    called, server = scene(night, 1, lambda _: SOON)

    async def flood() -> None:
        while True:
            await asyncio.sleep(0.05)
            server.of.called(server.hook, "j0/1")

    wakes = server.wakes

    def flooded() -> Wakes:
        server.task = asyncio.ensure_future(flood())  # type: ignore[attr-defined]  # kept, or it is collected
        return wakes()

    called.wakes = flooded
    assert called.run(timeout=1000.0).tally.done == 1
    assert server.polled < 60, "the task took a minute, and 1200 calls came"


def test_a_poll_that_failed_is_not_hurried(night: Callable[[int], Night]) -> None:
    """Its pause is what the API asked for, or what an outage needs; a call changes neither."""
    trouble = Reply(trouble=3, cause=Code.SERVER)
    without, silent = scene(night, 4, lambda _: None, trouble)
    called, server = scene(night, 4, lambda _: -30.0, trouble)
    assert without.run().tally.done == 4
    assert called.run().tally.done == 4
    assert server.polled <= silent.polled + 4 * 2


def test_a_job_with_a_webhook_of_its_own_is_polled_as_without(night: Callable[[int], Night]) -> None:
    called, server = scene(night, 40, lambda _: SOON)
    own = "https://mine.example/"
    called.jobs = [replace(job, webhook_url=own) if n % 2 else job for n, job in enumerate(called.jobs)]
    assert called.run(concurrency=4).tally.done == 40
    assert server.of.hooked(called.jobs[1]) is called.jobs[1]
    assert server.of.hooked(called.jobs[0]).webhook_url == "https://h.example/x"
    assert min(server.polls[f"j{n}/1"] for n in range(21, 40, 2)) > 2


def test_after_a_kill_the_next_run_finishes_what_was_called_meanwhile(night: Callable[[int], Night]) -> None:
    called, server = scene(night, 40, lambda _: SOON)
    assert called.run(concurrency=8, kill_at=150.0).killed
    server.epoch += 150.0
    again = called.run(concurrency=8)
    assert {row.status for row in called.rows().values()} == {"done"}
    assert again.tally.failed == again.tally.unknown == 0
    assert len(server.calls) <= 40 + 8
