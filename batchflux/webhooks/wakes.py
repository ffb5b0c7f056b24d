"""Which tasks are waited for, which calls came for them, and whether calls can be relied on.

Polls are what finds the end of a task; a call only makes the next one come now. Once calls are seen to arrive for a
provider, its polls are far apart. When one of those finds a task ended for which no call comes, all tasks are asked for
as without webhooks, until that call comes all the same, or calls have come again for a while.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from batchflux.models import Job
    from batchflux.webhooks.api import WebhookApi

LATE = 5.0  # seconds that a call may come after a poll that found its task ended
DISTRUST = 300.0  # seconds after a call that did not come in which polls are as without webhooks
EARLY_CALLS, EARLY = 4096, 120.0  # calls for tasks that nobody waits for: how many are remembered, for how many seconds
_LETTERS = 48  # hex digits of a secret: 192 bits
MOST_WAKES = 16  # polls of one task that calls bring about; a flood of them brings no more


def secret_of(keys: Collection[str], *names: str) -> str:
    """Return the unguessable part of a URL, or the secret of a signature, of what `names` says.

    It follows from the API keys alone, so that a later run has the same without a file that holds it, and late calls
    find it; without keys it is another each time.
    """
    key = "\n".join(sorted(keys)).encode() if keys else secrets.token_bytes(32)
    of = "\n".join(("batchflux webhook", *names)).encode(errors="surrogatepass")
    return hmac.new(key, of, sha256).hexdigest()[:_LETTERS]


@dataclass(slots=True, kw_only=True, eq=False)
class Hook:
    """How one provider's API calls: `url` is what it is told, and ends in `path`; `secret` goes with it.

    `heard`: a call came for one of its tasks since one was missed; `due` are the tasks whose end a poll found when
    their calls were relied on, `missed` those of them for which none came since, and when that was known.
    """

    name: str
    style: str
    api: WebhookApi
    url: str = field(repr=False)
    path: str = field(repr=False)
    secret: str = field(repr=False)
    heard: bool = False
    due: set[str] = field(default_factory=set)
    missed: dict[str, float] = field(default_factory=dict)

    def arrives(self, now: float) -> bool:
        """Whether calls can be relied on."""
        self.missed = {task: at for task, at in self.missed.items() if now - at < DISTRUST}
        return self.heard and not self.missed


class Wake:
    """One task's: `called` is set when it is to be asked for now; None where nobody calls."""

    def __init__(self, wakes: Wakes, hook: Hook | None, task: str, *, hooked: bool) -> None:
        self.called = None if hook is None else asyncio.Event()
        self.heard = False
        self._wakes, self._hook, self._task, self._hooked = wakes, hook, task, hooked
        self._left = MOST_WAKES

    @property
    def expected(self) -> bool:
        """Whether its call will come, so that polls before are for nothing; one that came too early was all."""
        return self._hooked and not self.heard and self._hook is not None and self._hook.arrives(self._wakes.clock())

    def call(self) -> None:
        """Take note of a call."""
        self.heard = True
        if self.called is not None and self._left:
            self._left -= 1
            self.called.set()

    def ended(self) -> None:
        """Take note that a poll found the task ended: where its call was relied on, it has to come."""
        if self._hook is not None and self.expected:
            self._wakes.expect(self._hook, self._task)


class Wakes:
    """The hooks of a run; `event` is told what changes, with names only. Memory is bounded, whatever calls."""

    def __init__(self, hooks: Mapping[tuple[str, str], Hook] | None = None) -> None:
        self.hooks = hooks or {}
        self.clock = asyncio.get_running_loop().time
        self.event: Callable[..., None] = lambda *_, **__: None
        self._awaited: dict[tuple[str, str], Wake] = {}
        self._early: OrderedDict[tuple[str, str], float] = OrderedDict()

    @property
    def secrets(self) -> list[str]:
        """What no message may show."""
        return [secret for hook in self.hooks.values() for secret in (hook.path, hook.secret)]

    def hooked(self, job: Job) -> Job:
        """Return a job with where its API is to call; as it is where it says that itself, or the API does not call."""
        hook = self.hooks.get((job.provider, job.style))
        if hook is None or job.webhook_url is not None:
            return job
        return replace(job, webhook_url=hook.url, webhook_secret=hook.secret)

    @contextmanager
    def awaited(self, job: Job, task: str, *, hooked: bool) -> Iterator[Wake]:
        """Wait for calls about a task of a job; `hooked`: its API was told to call us, in this run."""
        hook = self.hooks.get((job.provider, job.style))
        wake, place = Wake(self, hook, task, hooked=hooked), (job.provider, task)
        if hook is None:
            yield wake
            return
        if self.clock() - self._early.pop(place, -EARLY) < EARLY:  # it came before the handle was on record
            self._came(hook, wake)
        self._awaited[place] = wake
        try:
            yield wake
        finally:
            if self._awaited.get(place) is wake:
                del self._awaited[place]

    def called(self, hook: Hook, *ids: str) -> bool:
        """Take note of a verified call about the task of one of these ids; return whether anybody waits for it."""
        found = [wake for task in ids if (wake := self._awaited.get((hook.name, task))) is not None]
        for wake in found[:1]:
            self._came(hook, wake)
        for task in () if found else ids:
            self._remember(hook, task)
        return bool(found)

    def _remember(self, hook: Hook, task: str) -> None:
        """Keep a call for a task that nobody waits for: not yet, or not any more."""
        hook.due.discard(task)
        if hook.missed.pop(task, None) is not None:  # it came late, but it came
            hook.heard = True
        self._early.pop((hook.name, task), None)
        self._early[hook.name, task] = self.clock()
        if len(self._early) > EARLY_CALLS:
            self._early.popitem(last=False)

    def expect(self, hook: Hook, task: str) -> None:
        """Wait a little for a call that a poll was quicker than."""
        hook.due.add(task)
        asyncio.get_running_loop().call_later(LATE, self._miss, hook, task)

    def _miss(self, hook: Hook, task: str) -> None:
        """Take note of a call that did not come: all tasks of its provider are asked for at once, and then often."""
        if task not in hook.due:
            return
        hook.due.discard(task)
        hook.heard, hook.missed[task] = False, self.clock()
        self.event("webhook_missed", provider=hook.name)
        for (name, _), wake in self._awaited.items():
            if name == hook.name and wake.called is not None:
                wake.called.set()

    def _came(self, hook: Hook, wake: Wake) -> None:
        if not hook.heard:
            hook.heard = True
            self.event("webhook_arrived", provider=hook.name)
        wake.call()
