"""Webhooks as the engine sees them: a call makes a poll come now, polls that are for nothing are left out, and a call
that does not come costs time and nothing else.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchflux.webhooks.api import Call, WebhookApi
from batchflux.webhooks.wakes import Hook, Wakes
from tests.engine.conftest import Night, Reply, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from batchflux.models import Exchanged, HttpRequest, Submitted


class Plain(WebhookApi):
    """Calls that name their task by its handle."""

    def verify(self, call: Call, keys: Collection[str]) -> None:
        raise AssertionError("nothing is received here")

    def task(self, call: Call) -> str | None:
        raise AssertionError("nothing is received here")

    def id_in(self, handle: str) -> str:
        return handle


class Calling(Server):
    """Calls `after` seconds behind the end of each task that `calls` lets through; None: it never calls."""

    def __init__(self, calls: Callable[[int], float | None]) -> None:
        super().__init__()
        self.hook = Hook(name="", style="tasks", api=Plain(), url="https://h.example/x", path="x", secret="s")
        self.after, self.submitted = calls, 0

    def wakes(self) -> Wakes:
        self.of = Wakes({("", "tasks"): self.hook, ("tuzi", "tasks"): self.hook})
        self.hook.heard, self.hook.missed = False, {}
        return self.of

    async def exchange(self, request: HttpRequest, **more: Any) -> Exchanged:
        made = await super().exchange(request, **more)
        if not request.repeatable:
            reply: Submitted = made.reply  # type: ignore[assignment]  # all are tasks here
            due = self.tasks[reply.handle][0]
            after = self.after(self.submitted)
            self.submitted += 1
            if after is not None:
                asyncio.get_running_loop().call_at(due + after, self.of.called, self.hook, reply.handle)
        return made


SPREAD = lambda rng: rng.uniform(40, 80)


def scene(night: Callable[[int], Night], jobs: int, calls: Callable[[int], float | None], seed: int = 7) -> Night:
    made, rng = night(jobs), random.Random(seed)
    server = Calling(calls)
    made.server, made.wakes = server, server.wakes
    made.jobs = [replace(job, style="tasks") for job in made.jobs]
    server.hook.name = made.jobs[0].provider
    lengths = {job.prompt: SPREAD(rng) for job in made.jobs}
    server.api = lambda name, _: Reply(after=0.3, task=lengths[name])
    return made
