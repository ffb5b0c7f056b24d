"""Notices of a run: of its end, of budgets that run low, and of providers that are not there; never of single jobs.

They leave beside the run, in tasks of their own, and change nothing of it: not when requests leave, not how it ends. A
notice that does not arrive is tried again twice; what has not arrived END_SECONDS after the run's end is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from batchflux.engine.shutdown import on_signals
from batchflux.errors import StorageError, UsageError
from batchflux.ledger.tables import currency
from batchflux.models import Status
from batchflux.monitoring.base import START, Notice, NotToldError
from batchflux.monitoring.channels import channel_of
from batchflux.monitoring.words import budget_text, explained, text_of, title_of
from batchflux.output.folder import iso
from batchflux.transport.connecting.proxies import Proxies

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

    from batchflux.engine.budget import Budget
    from batchflux.ledger.summary import Summary
    from batchflux.manifest.reading.targets import NoticeTarget
    from batchflux.models import Job, Outcome
    from batchflux.monitoring.base import Channel

END_SECONDS = 30.0  # that a run's end waits for its notices
START_SECONDS = 3.0  # that the end waits for the start
TRIES = 3
LOW = 0.8  # share of a budget at which it is told
FLAPPING = 600.0  # seconds in which a place that goes and comes is told of once
MOST_WAITING = 50  # notices on their way to one address; of what happens meanwhile only the end is told
_LINES, _LONGEST = 300, 400  # of a run's last lines, and characters of each
PROVIDER = "provider"  # how the places of providers begin
_OWN = frozenset({"run_ended", "notices_failed"})  # events whose message stands in the notice, or tells of it
_AWAY = frozenset({"away", "probe_failed"})


class Receiver:
    """One address: what it wants to hear, and what is on its way there, in order.

    The end overtakes what happened before it, but not the start: a ping of that behind it would tell of another run.
    """

    def __init__(self, channel: Channel, on: Collection[str]) -> None:
        self.channel, self._on = channel, on
        self.told = self.failed = 0
        self.why = ""
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._start: asyncio.Task[Any] | None = None

    def wants(self, notice: Notice, *, stopped: bool = False) -> bool:
        """Whether it is to be told; who wants to hear of the end hears of every end."""
        if notice.event == START:
            return self.channel.starts and not {"end", "stop"}.isdisjoint(self._on)
        return notice.event in self._on or (stopped and "end" in self._on)

    async def tell(self, notice: Notice) -> str | None:
        """Tell it, with all tries; return why it was not told, or None."""
        last = notice.exit_code is not None
        if self._waiting >= MOST_WAITING and not last:
            return self._gave_up("too many notices are on their way to it")
        if notice.event == START:
            self._start = asyncio.current_task()
        elif last and self._start is not None:
            await asyncio.wait([self._start], timeout=START_SECONDS)
            self._start.cancel()
        self._waiting += 1
        try:
            async with contextlib.nullcontext() if last else self._turn:
                async for attempt in _trying():
                    with attempt:
                        await self.channel.send(notice)
        except NotToldError as error:
            return self._gave_up(str(error))
        except asyncio.CancelledError:
            self._gave_up("it took too long")
            raise
        finally:
            self._waiting -= 1
        self.told += 1
        return None

    def _gave_up(self, why: str) -> str:
        self.failed += 1
        self.why = why
        return why


class Outages:
    """Who is not there, by provider and place; a place that comes and goes is told of once in FLAPPING seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._told_at: dict[tuple[str, str], float] = {}
        self._down: set[tuple[str, str]] = set()  # told to be away
        self._away: set[tuple[str, str]] = set()

    @property
    def providers(self) -> frozenset[str]:
        """Who is not there now."""
        return frozenset(provider for provider, place in self._away if place == PROVIDER)

    def tells(self, event: str, provider: str, place: str) -> bool:
        """Take note of an event of run.log; return whether it is to be told."""
        which = provider, PROVIDER if place.startswith(PROVIDER) else place  # an address of a fleet is one, too
        if event == "back":
            known = which in self._down
            self._down.discard(which)
            self._away.discard(which)
            return known
        self._away.add(which)
        now = self._clock()
        if which in self._down or now - self._told_at.get(which, -FLAPPING) < FLAPPING:
            return False
        self._down.add(which)
        self._told_at[which] = now
        return True


class Notices:
    """The notices of one run, to all its receivers.

    `event` is told, as lines of run.log, what arrived and what did not. `budget` is the run's, once it has one; `name`
    and `folder` stand in what is told.
    """

    def __init__(self, receivers: Sequence[Receiver], name: str, folder: str, *, signals: bool = False) -> None:
        self.event: Callable[..., Any] = lambda _name, **_: None
        self._signals = signals
        self.budget: Budget | None = None
        self.fault: UsageError | None = None
        self._receivers, self._name, self._folder = receivers, name, folder
        self.outages = Outages(asyncio.get_running_loop().time)
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._low: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = False

    def started(self) -> None:
        """Tell that the run has the folder, and begins."""
        self._tell(Notice(event=START, title="", text="", body=b"", number=uuid.uuid4().hex))

    def heard(self, name: str, fields: Mapping[str, Any]) -> None:
        """Take note of a line of run.log."""
        if "message" in fields and "id" not in fields and name not in _OWN:
            self._line(str(fields["message"]))
        if name in _AWAY or name == "back":
            provider = str(fields.get("provider", ""))
            if self.outages.tells(name, provider, str(fields["place"])):
                state, place = "back" if name == "back" else "away", str(fields["place"])
                what = provider if place.startswith(PROVIDER) else f"the {place}"
                more = {"provider": provider, "place": place, "state": state}
                self._happened("provider", f"{what} is {state}", f"{provider}: {fields['message']}", **more)

    def job_ended(self, job: Job, outcome: Outcome) -> None:
        """Take note of a job's end: of what failed for the last lines, and of what is left of the budgets."""
        if outcome.status is not Status.DONE:
            self._line(f"{job.id}: {outcome.status.value}, {outcome.error_code}: {outcome.error}")
        for key, (used, most, label) in ({} if self.budget is None else self.budget.used()).items():
            if key not in self._low and used >= LOW * most:
                self._low.add(key)
                share = used / most if most else 1.0
                text = budget_text(key, share, currency(used), label)
                self._happened("budget", f"{label} is nearly used up", text, key=key, share=round(share, 4))

    def finished(self, summary: Summary) -> None:
        """Tell how the run ended; a webhook gets summary.json as it is."""
        self._ended = True
        stopped = summary.reason != "finished"
        notice = Notice(
            event="stop" if stopped else "end",
            title=title_of(self._name, summary.exit_code, summary.reason),
            text=text_of(summary),
            body=summary.to_json().encode(),
            number=uuid.uuid4().hex,
            exit_code=summary.exit_code,
            lines=self._last_lines(),
        )
        self._tell(notice, stopped=stopped)

    def broke(self, error: Exception) -> None:
        """Tell that the run ended, or could not begin, by an error."""
        if self._ended:
            return
        self._ended = True
        code, reason, message = explained(error)
        said = {"exit_code": code, "reason": reason, **self._said("stop", message)}
        notice = Notice(
            event="stop",
            title=title_of(self._name, code, reason),
            text=f"{message}\n\nexit code  {code} ({reason})",
            body=_json(said),
            number=uuid.uuid4().hex,
            exit_code=code,
            lines=self._last_lines(),
        )
        self._tell(notice, stopped=True)

    @contextlib.asynccontextmanager
    async def telling(self) -> AsyncIterator[None]:
        """Tell of an error that ends what is done within, and wait until all that is to be told is told."""
        try:
            yield
        except Exception as error:
            self.broke(error)
            raise
        except asyncio.CancelledError:  # who cancels a run does not wait for its notices
            for task in self._tasks:
                task.cancel()
            raise
        finally:
            await self._settled()

    def _happened(self, event: str, title: str, message: str, **more: Any) -> None:
        body = _json({**self._said(event, message), **more})
        title = f"{self._name}: {title}"
        self._tell(Notice(event=event, title=title, text=message, body=body, number=uuid.uuid4().hex))

    def _said(self, event: str, message: str) -> dict[str, Any]:
        return {"event": event, "name": self._name, "folder": self._folder, "at": iso(time.time()), "message": message}

    def _tell(self, notice: Notice, *, stopped: bool = False) -> None:
        for receiver in self._receivers:
            if receiver.wants(notice, stopped=stopped):
                task = asyncio.create_task(self._told(receiver, notice))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _told(self, receiver: Receiver, notice: Notice) -> None:
        why = await receiver.tell(notice)
        how = {"to": receiver.channel.place, "notice": notice.event}
        if why is None:
            self._log("notice_told", **how)
        else:
            self._log("notice_failed", **how, why=why)

    async def _settled(self) -> None:
        """Wait for what is on its way, no longer than END_SECONDS and not beyond a signal; say what did not arrive."""
        if not self._receivers:
            return
        over = asyncio.Event()
        for _ in range(2):
            await asyncio.sleep(0)  # so that a signal which came before is not taken for one against the notices
        with on_signals(over.set) if self._signals else contextlib.nullcontext():
            waits = asyncio.create_task(over.wait())
            ends = asyncio.get_running_loop().time() + END_SECONDS
            while self._tasks and not over.is_set() and (left := ends - asyncio.get_running_loop().time()) > 0:
                await asyncio.wait({*self._tasks, waits}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            waits.cancel()
        late = [*self._tasks]
        for task in late:
            task.cancel()
        await asyncio.gather(waits, *late, return_exceptions=True)
        self._say_failed()

    def _say_failed(self) -> None:
        failed, told = (sum(getattr(one, what) for one in self._receivers) for what in ("failed", "told"))
        places = "; ".join(f"{one.channel.place}: {one.why}" for one in self._receivers if one.failed)
        for receiver in self._receivers:
            receiver.failed = receiver.told = 0
        if failed:
            message = f"{failed} of {failed + told} notices did not arrive ({places}); the run is not touched by that."
            self._log("notices_failed", message=message)

    def _log(self, name: str, **fields: Any) -> None:
        with contextlib.suppress(StorageError):  # the run ends by that, and a notice is no reason of its own
            self.event(name, **fields)

    def _line(self, text: str) -> None:
        now = f"{datetime.fromtimestamp(time.time()).astimezone():%H:%M:%S} "
        self._lines.append((text if text.startswith(now) else now + text)[:_LONGEST])

    def _last_lines(self) -> str:
        return "\n".join(["", *self._lines]) if self._lines else ""


def notices_of(
    targets: Sequence[NoticeTarget],
    environ: Mapping[str, str],
    *,
    name: str,
    folder: str,
    signals: bool = False,
) -> Notices:
    """Return the notices of a run; its `fault` says which address needs what is not there, and the others are told."""
    receivers, faults = list[Receiver](), list[UsageError]()
    for target in targets:
        try:
            receivers.append(Receiver(channel_of(target, Proxies.of(None, environ)), target.on))
        except UsageError as fault:
            faults.append(fault)
    notices = Notices(receivers, name, folder, signals=signals)
    notices.fault = faults[0] if faults else None
    return notices


def _trying() -> AsyncRetrying:
    return AsyncRetrying(
        stop=stop_after_attempt(TRIES),
        wait=wait_exponential_jitter(initial=1.0, max=5.0),
        retry=retry_if_exception(lambda error: isinstance(error, NotToldError) and error.again),
        reraise=True,
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=2).encode(errors="backslashreplace")
