"""Outages: the provider, or a host of pictures, is not there. That is nobody's fault, so no job is given up for it.

A place is what one key reaches of the provider, or one host of pictures. Its row is what failed there since its last
answer. What a failure means for its job:

| it ended                                          | one of the job's attempts                                  |
|---------------------------------------------------|------------------------------------------------------------|
| not reached (`network`, `timeout`)                | never: nothing was sent                                    |
| `server`, or a download that is slow or meets 5xx | if the row is this job's alone, or lasts and is of         |
|                                                   | suspects only, and answers had come; else the first time   |
|                                                   | in a row, while it has further attempts                    |
| `unknown`                                         | always: it may have been billed                            |
| any other code                                    | always: the place has answered                             |

So a job that breaks the provider fails by itself while others get their answers, and what several jobs meet, or what a
run meets from its first request on, is an outage, also with a single job, unless the API itself said so (500). Several
that break it and are left at a run's end are told from an outage by what came before: each had met 5xx, or no answer,
already while others got theirs (a suspect). A place is down when its row lasts `DOWN_SECONDS`, with `FEW` failures or
one that may have been billed; or at `limit` that may have been. Then it gets one request at a time, after 2, 4, 8, ...
and then every 60 seconds (600, while they may be billed), and everything else waits for its answer. The others go on
when one key of several is down, or one host. When the patience ends with all keys down, or with a host down while no
pictures come from elsewhere, the gate closes and jobs stay pending. Of a host while they do, no more is expected: its
jobs end as `download`, and the next run fetches their links first. Patience counts from the first failure that was
seen, a last probe leaves as it ends, and nobody waits longer than PATIENCE for a host when nothing else is to be done.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from batchflux.errors import Code, JobError, StopRun

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from batchflux.engine.shutdown import Gate

DOWN_SECONDS, FEW = 3.0, 3
FIRST_PAUSE, LONGEST_PAUSE, LONGEST_BILLED_PAUSE = 2.0, 60.0, 600.0
PATIENCE = 1800.0
MOST_HOSTS = 1000
FAILURES = "failures"
NEVER = float("inf")
_UNREACHED = frozenset({Code.NETWORK, Code.TIMEOUT})
_REMARK = re.compile(r";(?![^(]*\))")  # not within parentheses
_AWAY = _UNREACHED | {Code.SERVER, Code.UNKNOWN}


def away(error: JobError) -> bool:
    """Whether a failure says that no answer came from what was asked, or one of 5xx."""
    return (error.cause or error.code) in _AWAY


@dataclass(slots=True, kw_only=True, eq=False)
class Place:
    """How one place stands. Times in seconds of the clock; `since` is when its row began, `probing` while one is out.

    `name` is how it is called in messages. `row` holds the jobs that failed since the last answer, at `answered_at`, of
    which the first was seen at `seen_at`; `suspects` those that met 5xx, or got no answer, in an earlier row, which was
    no outage. `lost`: it is a host of which no more is expected.
    """

    name: str = "provider"
    heard: bool = False
    answered_at: float = float("-inf")
    down: bool = False
    probing: bool = False
    lost: bool = False
    since: float = 0.0
    seen_at: float = 0.0
    probe_at: float = 0.0
    probes: int = 0
    kind: Code = Code.NETWORK
    itself: bool = False
    why: str = ""
    row: set[str] = field(default_factory=set)
    suspects: set[str] = field(default_factory=set)
    failures: int = 0
    billed: int = 0

    def next_at(self, now: float) -> float:
        """Return the earliest time that a request may leave; NEVER while a probe is out."""
        if not self.down:
            return now
        return NEVER if self.probing else max(now, self.probe_at)

    def clear(self) -> None:
        """Begin a new row."""
        self.down, self.lost, self.probes, self.failures, self.billed = False, False, 0, 0, 0
        self.row.clear()

    @property
    def of_jobs(self) -> bool:
        """Whether the row is the fault of its jobs, as far as can be told."""
        if self.kind is not Code.SERVER or not (self.heard or self.itself):
            return False
        return len(self.row) == 1 or self.row <= self.suspects

    def add(self, job: str, error: JobError, left_at: float, now: float, *, spare: bool) -> bool:
        """Add a failure to the row; return whether it is one of the job's attempts, of which it has some to `spare`."""
        self.kind, self.itself, self.why = error.cause or error.code, error.itself, in_words(error)
        first = job not in self.row
        began = max(left_at, self.answered_at)
        if self.failures == 0:
            self.since, self.seen_at = began, now
        self.since = min(self.since, began)
        self.row.add(job)
        self.failures += 1
        self.billed += error.billed
        own = (self.of_jobs and (len(self.row) == 1 or now - self.since >= DOWN_SECONDS)) or (first and spare)
        return self.kind is Code.UNKNOWN or (self.kind is Code.SERVER and own and not self.down)


class Outages:
    """Learns from what is answered and what is not, and says who may go on. One for a run.

    `limit` is the most failures in a row that may have been billed, `patience` how long an outage is waited out, in
    seconds. `event` is told what a person should know, with the time of day by `wall` (epoch seconds). `keys` gives the
    places of the living keys, `busy` whether anything is, or waits to be, asked of the provider.
    """

    def __init__(self, limit: int, gate: Gate, patience: float = PATIENCE) -> None:
        self.limit, self.patience = limit, patience
        self.event: Callable[..., Any] = lambda _name, **_: None
        self.wall: Callable[[], float] = time.time
        self.keys: Callable[[], Iterable[Place]] = list
        self.busy: Callable[[], bool] = bool
        self._gate = gate
        self._provider_down = False
        self._hosts: dict[str, Place] = {}
        self._fetched_at: float | None = None
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[], object]] = [self._changed.set]
        gate.on_close(self._changed.set)

    def on_change(self, listener: Callable[[], object]) -> None:
        """Call `listener` when a place is back that was down."""
        self._listeners.append(listener)

    def answered(self, place: Place, now: float) -> None:
        """Note an answer of any kind to what may have been paid for, or a picture of a host."""
        if place.down:
            self._back(place, now)
        elif place.kind in (Code.SERVER, Code.UNKNOWN):
            place.suspects |= place.row
        place.heard, place.answered_at = True, now
        place.clear()

    def reached(self, place: Place, now: float) -> None:
        """Note an answer to a free step, as a poll: the place is there, but may still be failing what costs money."""
        if place.kind in _UNREACHED and place.failures:
            self.answered(place, now)

    def failed(
        self, place: Place, job: str, error: JobError, left_at: float, now: float, *, spare: bool = False
    ) -> bool:
        """Note a failure that is `away`, of a request that left at `left_at`; return whether it counts as an attempt.

        `spare`: the job has attempts left after it.
        """
        charged = place.add(job, error, left_at, now, spare=spare)
        if place.down:
            if place.probing:
                place.probes += 1
                self._probe_later(place, now)
        elif self._is_down(place, now):
            place.down = True
            self._probe_later(place, now)
        return charged

    @contextlib.asynccontextmanager
    async def turn(self, link: str, on_wait: Callable[[], object], *, waits: bool = True) -> AsyncIterator[Place]:
        """Wait until a picture may be fetched from a link's host; call `on_wait` before each wait.

        Raises JobError: `download`, it is down and no more is expected of it, or not waited for; Halted: it is down,
        and the run stops.
        """
        place, clock = self._host(link), asyncio.get_running_loop().time
        while (at := place.next_at(clock())) > clock() or (place.down and not waits):
            if place.lost or not waits:
                why = f"its {place.name} is not there ({place.why}); the link is kept, and the next run fetches it"
                raise JobError(Code.DOWNLOAD, why, final=True)
            self._gate.check()
            on_wait()
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), None if at == NEVER else at - clock())
        place.heard = self._fetched_at is not None
        probe = place.probing = place.down
        try:
            yield place
        finally:
            if probe:
                place.probing = False
                self._changed.set()

    def _host(self, link: str) -> Place:
        name = link.partition("//")[2].partition("/")[0].rpartition("@")[2].lower()
        if name not in self._hosts and len(self._hosts) >= MOST_HOSTS:
            self._hosts = {other: place for other, place in self._hosts.items() if place.failures}
        return self._hosts.setdefault(name, Place(name=f"host of pictures {name[:80]}"))

    def fetched(self, host: Place, now: float) -> None:
        """Note that a host answered with a picture, or what was to be one."""
        self.given(now)
        self.answered(host, now)

    def given(self, now: float) -> None:
        """Note a picture, also one that came with its answer."""
        self._fetched_at = now

    def waiting_for(self, now: float) -> tuple[str, float] | None:
        """Return what is down and how many seconds it is to the next probe (0: one is out); None when nothing is."""
        places = [place for place in self.keys() if place.down] if self._provider_down else []
        places += [place for place in self._hosts.values() if place.down and not place.lost]
        if not places:
            return None
        at = min(place.next_at(now) for place in places)
        return f"{places[0].name} not reachable: {places[0].why}", 0.0 if at == NEVER else at - now

    def _is_down(self, place: Place, now: float) -> bool:
        if place.billed >= self.limit:
            return True
        enough = place.failures >= min(FEW, self.limit) or place.billed > 0
        return enough and not place.of_jobs and now - place.since >= DOWN_SECONDS

    def _probe_later(self, place: Place, now: float) -> None:
        """Set when the next probe leaves, and say so; when the patience is over, end the waiting."""
        longest = LONGEST_BILLED_PAUSE if place.kind is Code.UNKNOWN else LONGEST_PAUSE
        place.probe_at = now + min(FIRST_PAUSE * 2.0 ** min(place.probes, 30), longest)
        keys = list(self.keys())
        others, patience, seen_at = False, self.patience, place.seen_at
        if place in keys:
            if any(not key.down for key in keys):
                if place.probes == 0:
                    self._say("key_away", place, now)
                return
            self._provider_down = True
            seen_at = max(key.seen_at for key in keys)
        else:
            others = self._others_give(place)
            patience = patience if self.busy() and not others else min(patience, PATIENCE)
        if place.lost:
            return
        left = seen_at + patience - now
        if left > 0:  # the last probe leaves as the patience ends
            place.probe_at = min(place.probe_at, now + left)
        if left > 0 or place.probes == 0:
            self._say("away", place, now)
        elif others:
            place.lost = True
            self._changed.set()
        else:
            minutes = max(now - place.since, 0.0) / 60
            what = f"The {place.name} has not been there for {minutes:.1f} minutes ({place.why})"
            remedy = "nothing is lost and no job has failed for it; see to the provider, then run again to continue."
            self._gate.close(StopRun(FAILURES, f"{what}: {remedy}"))

    def _others_give(self, host: Place) -> bool:
        """Whether pictures came from elsewhere after this host's last, or from anywhere and nothing else is to do."""
        at = self._fetched_at
        return at is not None and (at > host.answered_at or not self.busy())

    def _back(self, place: Place, now: float) -> None:
        place.down = place.probing = False
        minutes = max(now - place.since, 0.0) / 60
        self.event(
            "back", place=place.name, message=f"{_hms(self.wall())} {place.name} back after {minutes:.1f} minutes"
        )
        self._provider_down = self._provider_down and all(key.down for key in self.keys())
        for listener in self._listeners:
            listener()

    def _say(self, name: str, place: Place, now: float) -> None:
        at, first = self.wall(), place.probes == 0
        until = at + place.probe_at - now
        message = f"{_hms(at)} {place.name} not reachable: {place.why}; probing, next at {_hms(until)}"
        self.event(
            name if first else "probe_failed", place=place.name, probes=place.probes, until=until, message=message
        )


def in_words(error: JobError) -> str:
    """Return the cause of a failure without what every message of its kind says."""
    told = _REMARK.split(error.message)[0]
    return told.partition(": ")[2] or told if (error.cause or error.code) in _UNREACHED else told


def _hms(at: float) -> str:
    return f"{datetime.fromtimestamp(at).astimezone():%H:%M:%S}"
