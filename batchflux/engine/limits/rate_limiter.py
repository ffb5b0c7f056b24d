"""The rate limiter: when a request may leave, and with which key.

At most `concurrency` requests are out, over all keys, and no more than the provider's own cap of active tasks; each key
has a schedule of its own (gcra.py), and a finder of what it allows (limit_finder.py). Work goes to the key that has
least of it out, of those that may go. A job that was refused waits by itself, as told or a little, and what the others
do is the finder's to say; the reset of x-ratelimit headers rests the key; a key that the provider refuses leaves the
pool. A lease is granted `LEAD` before its request may leave, so that the attempt can be written to the ledger
meanwhile; then `depart` waits for the very moment. `resume` gives a lease for a task of an earlier run: it takes a
slot, and neither rate nor probe, and comes first, because it may be paid.

While what a key reaches is down (see outages.py), it is used for one request at a time, the probe, and so are all keys
together when all of them are. Probes ask in turn for the job that has failed least, since what fails may be the jobs,
and for the one that has failed most; and last for those whose outcome is unknown: they are sent only once more.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

from batchflux.engine.limits.gcra import Cause
from batchflux.engine.limits.key_pool import AT, LEAD, Key, Lease, all_dead, nothing_but_refusals
from batchflux.engine.outages import NEVER
from batchflux.engine.shutdown import Halted
from batchflux.errors import RULES, Code, JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchflux.engine.circuit_breaker import CircuitBreaker
    from batchflux.engine.shutdown import Gate

LIMITED, ALLOWED, PACED = HELD = ("rate limited by the provider", "the rate that the provider allows", "limits.rate")
"""What keeps requests back while the provider is there: its 429s, what it was found to allow, the user's own limit."""
SHORT_WAIT = 1.0  # seconds; nobody need be told of a shorter one
_SLOTS = re.compile(r"concurren|并发|parallel|active (?:task|request|generation)|in[ -]flight", re.IGNORECASE)
UNKNOWN = 1 << 30  # failures of a job whose outcome is unknown: it is the last to probe with


@dataclass(frozen=True, slots=True)
class Rest:
    """A job is not to ask with `key` again before `until`, in seconds of the clock; other keys may serve it."""

    key: Key
    until: float


@dataclass(frozen=True, slots=True)
class _Waiter:
    """One who waits for a lease; see `acquire`."""

    failures: int
    future: asyncio.Future[Lease]
    rest: Rest | None
    elsewhere: Callable[[bool], bool]
    only: Key | None = None

    def may(self, key: Key, now: float) -> bool:
        """Whether it may go with a key now."""
        rested = self.rest is None or self.rest.key is not key or self.rest.until <= now
        return not self.future.done() and rested and self.only in (None, key)


class ElsewhereError(Exception):
    """The job is better made elsewhere: this provider is not there, or another that comes before it is back."""


def _nowhere(_away: bool) -> bool:  # noqa: FBT001  as `elsewhere` of acquire
    return False


class Slots:
    """How many requests may be out at once, over several rate limiters."""

    def __init__(self, most: float) -> None:
        self.most = most
        self.taken = 0
        self._limiters: list[RateLimiter] = []

    def shared_by(self, limiter: RateLimiter) -> None:
        """Wake a limiter when a slot is free."""
        self._limiters.append(limiter)

    def freed(self) -> None:
        """Give a slot back; who has least out is asked first whether it takes it."""
        self.taken -= 1
        for limiter in sorted(self._limiters, key=lambda one: one.in_flight):
            limiter.wake()


class RateLimiter:
    """Hands out leases on `keys`, at least one, to at most `concurrency` requests at once.

    The gate is closed when all keys are dead; its closing ends all waits. The breaker holds everything back while the
    provider is failing. `active_tasks` is the provider's own cap, None for none. `clock` gives monotonic seconds, by
    default the event loop's. (uvloop's moves once a turn and in milliseconds, which is too coarse for a pace.) `slots`
    bounds what is out together with other limiters.
    """

    def __init__(  # noqa: PLR0913  all of it is of one provider, and none a part of another
        self,
        keys: Sequence[Key],
        *,
        concurrency: int,
        gate: Gate,
        breaker: CircuitBreaker,
        active_tasks: int | None = None,
        clock: Callable[[], float] | None = None,
        slots: Slots | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock or self._loop.time
        self.keys, self._active_tasks = list(keys), active_tasks
        self.concurrency = self._capped(concurrency)
        self.in_flight = 0
        self._slots = slots or Slots(NEVER)
        self._slots.shared_by(self)
        self._gate = gate
        self._breaker = breaker
        self._waiting: deque[_Waiter] = deque()
        self._resuming: deque[tuple[str | None, asyncio.Future[Lease]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._refusal = ""
        self._refused_at: float | None = None  # the first refusal since the last request that was served
        gate.on_close(self._dispatch)
        breaker.on_change(lambda: self._loop.call_soon(self._dispatch))
        self._outages = breaker.outages
        self._outages.keys = lambda: [key.place for key in self._living()]
        self._outages.busy = lambda: bool(self._waiting) or self.in_flight > 0
        for key in self.keys if len(self.keys) > 1 else ():
            key.place.name = f"provider (key {key.name})"

    def retune(self, concurrency: int, rate: tuple[float, float] | None) -> None:
        """Let other limits hold from now on; `rate` is requests in seconds."""
        self.concurrency = self._capped(concurrency)
        for key in self.keys:
            key.retune(rate)
        self._dispatch()

    @property
    def away(self) -> bool:
        """Whether the provider is down, and a probe has shown it."""
        places = [key.place for key in self._living()]
        return self._breaker.away or (bool(places) and all(place.down and place.probes for place in places))

    def wake(self, *, others: bool = False) -> None:
        """Look again who may go on: something has changed that is not this limiter's; `others`: another provider."""
        if others:
            self._send_elsewhere()
        self._dispatch()

    async def acquire(
        self,
        failures: int = 0,
        rest: Rest | None = None,
        elsewhere: Callable[[bool], bool] = _nowhere,
        only: Key | None = None,
    ) -> Lease:
        """Wait for a lease; give it back with `release`. Raises Halted when the run is stopping.

        `failures` is how often the job has failed before, UNKNOWN when it may have been billed; `rest` what a key that
        refused it has asked for. Raises ElsewhereError: `elsewhere` says that the job is better made by another, when
        told whether this one is down; a probe that is due is made all the same; or `only` this key will do, which is
        dead.
        """
        if only is not None and only.dead:
            raise ElsewhereError
        waiter = _Waiter(failures, self._loop.create_future(), rest, elsewhere, only)
        self._waiting.append(waiter)
        return await self._granted(waiter.future)

    def gone(self, key_name: str | None) -> str:
        """Return the address of a task that was submitted with that key, if it is none of these any more."""
        address = (key_name or "").partition(AT)[2]
        return address if self.keys[0].address and not self._at(key_name) else ""

    async def resume(self, key_name: str | None) -> Lease:
        """Wait for a lease to poll a task of an earlier run, submitted with that key; another serves when it is dead.

        Of a fleet it is one of the same address, which must not be `gone`.

        Give it back with `release`. Raises Halted when the run is stopping, for another cause than money or time.
        """
        future: asyncio.Future[Lease] = self._loop.create_future()
        self._resuming.append((key_name, future))
        return await self._granted(future)

    async def _granted(self, future: asyncio.Future[Lease]) -> Lease:
        self._dispatch()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release(future.result())
            raise

    async def depart(self, lease: Lease) -> bool:
        """Wait for the moment that the request may leave; raise Halted when the run is stopping.

        False: not soon; give the lease back and acquire again.
        """
        now = self._clock()
        if lease.key.dead or lease.key.next_at(now) - now > 2 * LEAD:  # what was granted may leave
            return False
        future: asyncio.Future[bool] = self._loop.create_future()
        lease.key.departing.append((lease, future))
        self._dispatch()
        return await future

    def move(self, lease: Lease) -> bool:
        """Let a task whose key is dead be asked for with another; raise Halted when none is left.

        False: none is left at its address, and it is known nowhere else.
        """
        if not self._living():
            raise Halted
        living = [key for key in self._living() if key.address == lease.key.address]
        if not living:
            return False
        lease.key.leased -= 1
        lease.key = min(living, key=lambda key: key.leased)
        lease.key.leased += 1
        return True

    def release(self, lease: Lease) -> None:
        """Give the lease back, however the request ended or whether it left at all; once."""
        if not lease.held:
            return
        lease.held = False
        self.in_flight -= 1
        lease.key.leased -= 1
        if lease.departure is not None:
            lease.key.finder.gone(lease.departure)
        if lease.probe:
            lease.key.place.probing = False
        if lease.preparing:
            lease.preparing = False
            lease.key.preparing -= 1
            self._breaker.gave_back()
        self._slots.freed()

    def failed(self, lease: Lease, error: JobError) -> None:
        """Note that a submit failed for another cause than its rate.

        A 5xx is as good as a refusal: while more is asked of it than it can do, a provider answers so.
        """
        now = self._clock()
        self._refused_at = None
        if lease.departure is None or RULES[error.code].free:  # it left without reaching anybody, or not at all
            return
        if error.code is Code.SERVER:
            lease.key.finder.refused(lease.departure, now, error.retry_after, Cause.SERVER)
            self._dispatch()
        else:
            lease.key.finder.passed(lease.departure, now)

    def answered(self, lease: Lease, wait: float | None = None) -> None:
        """Note the answer to a submit; `wait` is how long nothing more is to be had, when the provider says so."""
        self._refused_at = None
        now = self._clock()
        if lease.departure is not None:
            lease.key.finder.passed(lease.departure, now)
        if lease.key.place.down:
            lease.key.finder.interrupted(now)
        self._outages.answered(lease.key.place, self._loop.time())
        if wait:
            lease.key.resting_until = max(lease.key.resting_until, now + wait)
        self._dispatch()

    def refused(self, lease: Lease, error: JobError) -> Rest | None:
        """Note a 429, or a refusal of the key itself; return until when the job is not to ask with that key again."""
        now, key = self._clock(), lease.key
        self._refusal = error.message
        self._breaker.gave_back()
        if RULES[error.code].fault == "key":
            key.dead = error
            self._refused_at = None
            self._send_elsewhere(key)
            if not self._living():
                self._gate.close(all_dead(self.keys, error))
        else:
            if lease.departure is not None:
                cause = Cause.SLOTS if _SLOTS.search(error.message) else Cause.RATE
                key.finder.refused(lease.departure, now, error.retry_after, cause)
                key.refused()
            if lease.probe and error.retry_after:  # of a place that was down, it is all that is known
                key.resting_until = max(key.resting_until, now + error.retry_after)
            self._outages.answered(key.place, self._loop.time())
            self._refused_at = now if self._refused_at is None else self._refused_at
            patience = NEVER if self.in_flight > 1 else self._outages.patience  # another request may be served yet
            if stop := nothing_but_refusals(error, now - self._refused_at, patience):
                self._gate.close(stop)
        self._dispatch()
        return Rest(key, now + error.retry_after) if error.retry_after else None

    def waiting_for(self) -> tuple[str, float] | None:
        """Return what keeps back the request that is next, for how many seconds; None when nothing does for long."""
        down = self._outages.waiting_for(self._loop.time())
        if down is not None:
            return down
        now, living = self._clock(), self._living()
        if not living or not (self._waiting or any(key.departing for key in living)):
            return None
        may = [key for key in living if key.departing or any(waiter.may(key, now) for waiter in self._waiting)]
        pause = min((key.next_at(now) if key in may else self._rested(key)) for key in living) - now
        if pause == NEVER or pause < SHORT_WAIT:
            return None
        if not may or all(key.finder.shut or key.resting_until > now for key in may):
            return f"{LIMITED}{self._refusal and f' ({self._refusal})'}", pause
        learned = any(key.finder.learned.rate is not None for key in living)
        what = ALLOWED if learned else PACED
        return (what, pause) if self.in_flight == 0 else None

    def _capped(self, concurrency: int) -> int:
        return concurrency if self._active_tasks is None else min(concurrency, self._active_tasks)

    def _dispatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._gate.closed:
            self._halt()
        self._grant_resumed()
        now = self._clock()
        wake = min(self._let_depart(now), self._grant(now))
        if self._waiting and self.away:
            self._send_elsewhere()
        if wake < NEVER:
            self._timer = self._loop.call_later(max(0.0, wake - self._clock()), self._dispatch)

    def _let_depart(self, now: float) -> float:
        """Let those leave whose time has come; return when to look again."""
        wake = NEVER
        for key in self.keys:
            while key.departing and (key.departing[0][1].done() or (not key.dead and key.next_at(now) <= now)):
                lease, future = key.departing.popleft()
                if not future.done():
                    lease.leave(now)
                    self._breaker.leaves()
                    future.set_result(True)
            at = NEVER if key.dead or not key.departing else key.next_at(now)
            if at - now > 2 * LEAD:  # what is on record as leaving must not wait
                while key.departing:
                    _, future = key.departing.popleft()
                    if not future.done():
                        future.set_result(False)
            else:
                wake = min(wake, at)
        return wake

    def _grant_resumed(self) -> None:
        """Grant leases for tasks of earlier runs, as far as there are slots."""
        while self._resuming and self._has_room():
            name, future = self._resuming.popleft()
            if not future.done():
                key = min(self._at(name), key=lambda key: (key.dead is not None, key.name != name, key.leased))
                future.set_result(self._lease(key, preparing=False))

    def _grant(self, now: float) -> float:
        """Grant leases to those who wait; return when to look again."""
        while self._waiting and self._has_room():
            if self._waiting[0].future.done():
                self._waiting.popleft()
                continue
            held = NEVER
            turns = [(self._turn(key, now), key) for key in self._living()]
            for (ready, *_), key in sorted(turns, key=itemgetter(0)):
                at = max(ready, self._breaker.next_at(now, self.in_flight), self._next_probe_at(now))
                waiter = self._next(key, now) if at <= now else None
                if waiter is not None:
                    self._waiting.remove(waiter)
                    key.preparing += 1
                    waiter.future.set_result(self._lease(key, preparing=True))
                    break
                held = min(held, at if at > now else self._rested(key))
            else:
                return held
        return NEVER

    def _send_elsewhere(self, dead: Key | None = None) -> None:
        """Let those go whom another can serve better, or those who wait for a key that is dead."""
        for waiter in list(self._waiting):
            gone = waiter.elsewhere(self.away) if dead is None else waiter.only is dead
            if not waiter.future.done() and gone:
                self._waiting.remove(waiter)
                waiter.future.set_exception(ElsewhereError())

    def _rested(self, key: Key) -> float:
        """Return when the first of those who wait may go with a key again that refused all of them."""
        return min(
            (waiter.rest.until for waiter in self._waiting if waiter.rest and waiter.rest.key is key), default=NEVER
        )

    def _turn(self, key: Key, now: float) -> tuple[float, bool, int, int, int]:
        """Return what says whose turn it is: who can go first, what is down for a probe, then who has least to do."""
        return max(now, key.grant_at(now)), not key.place.down, key.place.failures, key.leased, key.schedule.sent

    def _next_probe_at(self, now: float) -> float:
        """Return NEVER while all that the keys reach is down and a probe of it is out."""
        places = [key.place for key in self._living()]
        return NEVER if all(place.down for place in places) and any(place.probing for place in places) else now

    def _next(self, key: Key, now: float) -> _Waiter | None:
        """Return the next of those who wait for a key, or of a place that is down the one that may probe it."""
        if not key.place.down:
            return next((waiter for waiter in self._waiting if waiter.may(key, now)), None)
        sign = 1 if key.place.probes % 2 == 0 else -1
        waiting = [waiter for waiter in self._waiting if waiter.may(key, now)]
        order = lambda waiter: waiter.failures if waiter.failures == UNKNOWN else sign * waiter.failures  # noqa: E731
        return min(waiting, key=order, default=None)

    def _has_room(self) -> bool:
        return self.in_flight < self.concurrency and self._slots.taken < self._slots.most

    def _lease(self, key: Key, *, preparing: bool) -> Lease:
        self.in_flight += 1
        self._slots.taken += 1
        key.leased += 1
        probe = preparing and key.place.down
        key.place.probing |= probe
        return Lease(key=key, clock=self._clock, preparing=preparing, probe=probe)

    def _at(self, key_name: str | None) -> list[Key]:
        """Return the keys that reach what a task was submitted to with that key.

        A name without an address is of a time when there was one only, now the first.
        """
        address = (key_name or "").partition(AT)[2] or self.keys[0].address
        return [key for key in self.keys if key.address in ("", address)]

    def _living(self) -> list[Key]:
        return [key for key in self.keys if key.dead is None]

    def _halt(self) -> None:
        """Let nobody wait who is to submit, nor, when the gate says so, for the task of an earlier run."""
        futures: list[asyncio.Future[Lease] | asyncio.Future[bool]] = [waiter.future for waiter in self._waiting]
        self._waiting.clear()
        if not self._gate.resumes:
            futures += [future for _, future in self._resuming]
            self._resuming.clear()
        for key in self.keys:
            futures += [future for _, future in key.departing]
            key.departing.clear()
        for future in futures:
            if not future.done():
                future.set_exception(Halted())
