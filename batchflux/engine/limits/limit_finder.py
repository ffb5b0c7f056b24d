"""Finds what a key is allowed when nobody told, by what it is refused.

Four things are told apart:

| cause    | how it shows                                        | the rule, and where it is from                     |
|----------|-----------------------------------------------------|----------------------------------------------------|
| cap      | all is refused while so many are out, and an answer | as many as were out; then cubic growth             |
|          | opens it; or the refusal says so                    |                                                    |
| rate     | all is refused until some time has passed; or fewer | what was let through (a decrease that aims, as in  |
|          | are refused when less is asked                      | TCP Westwood, Mascolo et al., MobiCom 2001), held  |
|          |                                                     | until it has proved; then cubic growth             |
| overload | fewer 5xx when fewer are out                        | fewer out, by the share refused and at most by     |
|          |                                                     | half (AIMD, Chiu and Jain, 1989); cubic growth     |
| chance   | going slower lowers nothing                         | what was lowered for nothing is taken back, a cap  |
|          |                                                     | is given up, and the next refusals teach nothing   |

**Evidence** is `EVIDENCE` refusals. In a row, with nothing let through that left after the first of them, they shut the
key: it is tried with one request at a time, when an answer has made room, else after ever longer pauses or as told.
What opens it says whether it was a cap or a rate. Scattered ones are a share, of the requests it took to see so many.
More than `HEAVY` is a cap if only those were refused that had as many ahead of them; else it lowers the rate to what
was let through. That is a trial. If half of the share is refused after it too, it was in vain, and after `VAIN` such
trials it was chance. Less than `HEAVY` are slots lost, and no more.

**Growth** is the convex part of CUBIC (RFC 9438, 4.2): limit * (1 + (t/K)^3), with K of `CAP_DOUBLES_IN` seconds for a
cap, and for a rate of `DOUBLES_IN` seconds or the time of `DOUBLES_BY` requests, whichever is longer: passing a rate
costs many refusals. A refusal sets t to 0, a 5xx only where the cap is for an overload, for single ones come by chance.
Only a refusal that comes after `RISEN` says that the limit itself has risen. An outage teaches nothing.

A refusal comes soon and an answer late. So what is out for twice as long as refusals take was let through.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchflux.engine.limits.gcra import LATENESS, Cause

if TYPE_CHECKING:
    from batchflux.engine.limits.gcra import Departure

EVIDENCE = 8  # refusals: in a row they are 1 in 1,500 where 40 % come by chance
HEAVY = 0.05  # of requests refused; no more than that costs next to nothing
VAIN = 2  # trials: the first measures what was let through only roughly, after a burst or a change
DOUBLES_IN, DOUBLES_BY = 40.0, 400.0  # a limit that has doubled is found within a minute; a steady one met twice in it
CAP_DOUBLES_IN = 55.0  # as fast, with less refused where the refusals come by chance
RISEN = 0.25  # by more a limit is not passed with the tokens of a second's burst
DEAF, LONGEST_DEAF = 1000, 8000  # requests after which it is tried again whether refusals are still by chance
WORSE = 3.0  # times as many refusals, or half of what was still answered, are more than the chance from before
PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds; each pause is `PAUSE` longer: a minute takes 15 tries and is missed by 8 s
NEVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What a key was found to allow, none of which anybody told: `rate` in requests a second, `active` at once.

    None: no limit was met. It is what a later run may begin from, so it is plain data.
    """

    rate: float | None = None
    active: int | None = None


@dataclass(slots=True)
class Limit:
    """A limit that was found, and that grows from `since` on (NEVER: it is still to prove itself)."""

    value: float
    since: float
    period: float

    def at(self, now: float) -> float:
        """The limit now."""
        return self.value * (1 + self.risen(now))

    def risen(self, now: float) -> float:
        """By what share it has grown."""
        return (max(now - self.since, 0.0) / self.period) ** 3 if self.since < NEVER else 0.0


def _limit(value: float, since: float, rate: float) -> Limit:
    return Limit(value, since, max(DOUBLES_IN, DOUBLES_BY / max(rate, 1.0)))


@dataclass(slots=True)
class _Sample:
    """Requests that left after the one of number `after`, at `begin`: how many were let through, and refused."""

    after: int = 0
    begin: float = 0.0
    passed: int = 0
    refused: int = 0
    server: int = 0
    most_out: int = 1
    passed_ahead: deque[int] = field(default_factory=lambda: deque(maxlen=int(DOUBLES_BY)))
    refused_ahead: int | None = None

    def add(self, departure: Departure) -> None:
        """Count one whose fate is known."""
        if departure.number <= self.after:
            return
        if departure.fate:
            self.passed += 1
            self.passed_ahead.append(departure.ahead)
        else:
            self.refused += 1
            self.server += departure.cause is Cause.SERVER
            least = departure.ahead if self.refused_ahead is None else min(self.refused_ahead, departure.ahead)
            self.refused_ahead = least

    @property
    def cap(self) -> int | None:
        """How many may be out, if refused were those with so many ahead of them, and but few others."""
        least = self.refused_ahead
        return least if least and self.refused >= EVIDENCE and self.passed_with(least) <= 1 else None

    def passed_with(self, ahead: int) -> int:
        """How many were let through with so many ahead of them, or more."""
        return sum(others >= ahead for others in self.passed_ahead)

    @property
    def share(self) -> float:
        return self.refused / max(self.passed + self.refused, 1)

    def rate(self, now: float) -> float:
        """What was let through a second."""
        return max(self.passed, 1) / max(now - self.begin, 1e-3)


class LimitFinder:
    """Learns from what becomes of one key's requests. Times in seconds of the clock.

    `shut` while all is refused, or nothing has shown yet that it is not.
    """

    def __init__(self, learned: Learned | None = None) -> None:
        self.out: dict[int, Departure] = {}
        self._ever = False  # anything was let through
        self._young: deque[Departure] = deque()
        self._verdict = NEVER  # after how many seconds what was not refused was let through
        self._begin_from(learned or Learned())

    def forget(self) -> None:
        """Begin anew: the user has set other limits. What is out stays known."""
        self._begin_from(Learned())

    def _begin_from(self, learned: Learned) -> None:
        self._last = max(self.out, default=0)
        rate, active = learned.rate, learned.active
        self._rate = None if rate is None else _limit(rate, 0.0, rate)
        self._cap = None if active is None else Limit(active, 0.0, CAP_DOUBLES_IN)
        self._fresh = True  # nothing has left since: growth begins with the first that does
        self._sample = _Sample(after=self._last)
        self._cycle = _Sample(after=self._last)
        self._former: tuple[Limit | None, Limit | None] = None, None
        self._trial: float | None = None  # the share of refusals that led to it
        self._vain = 0
        self._deaf, self._doubt, self._usual = 0, DEAF, 0.0
        self._guessed = False  # the cap is what a shut key had out, and may be none
        self._strained = False  # the cap is for a provider that is overloaded
        self._cap_of = float("-inf")
        self._recent: deque[float] = deque(maxlen=2 * EVIDENCE)
        self._doubted, self._doubted_since = 0, 0.0  # refusals, in the order they came, since one was let through
        self._unsure = False  # it was shut, and too little has been let through to say at which rate it may be used
        self._row_over()

    def interrupted(self, now: float) -> None:
        """Note that the provider was not there: what it refused before says nothing of what it allows."""
        if self._trial is not None and 2 * self._sample.server >= self._sample.refused:
            (self._rate, self._cap), self._trial = self._former, None
            self._prove(now)
        self._strained = False
        self._measure(now, cycle=True)

    def _row_over(self) -> None:
        self.shut = False
        self._row = self._tried = 0
        self._row_ahead = 0
        self._row_began = self._row_until = self._pause_until = self._refused_at = self._shut_at = 0.0

    @property
    def learned(self) -> Learned:
        """What is known now, without what has yet to prove itself."""
        rate, cap = self._former if self._trial is not None else (self._rate, None if self._guessed else self._cap)
        return Learned(
            rate=None if rate is None else rate.value,
            active=None if cap is None else int(cap.value),
        )

    def rate(self, now: float) -> float:
        """Requests a second that may leave; infinite while no limit is known."""
        return NEVER if self._rate is None else self._rate.at(now)

    def room(self, now: float) -> float:
        """How many may be out at once; infinite while no cap is known."""
        return NEVER if self._cap is None else max(int(self._cap.at(now) + 1e-9), 1)

    def next_at(self, now: float) -> float:
        """Return the earliest time that a request may leave; NEVER: with the next answer."""
        self._settle(now)
        at, full = self._row_until if self.shut else 0.0, len(self.out) >= self.room(now)
        one_by_one = self._unsure and self._cycle.passed < EVIDENCE
        if self._young and (one_by_one or 2 * max(self._doubted, self._row) >= EVIDENCE):
            return max(at, self._young[0].left + self._verdict)
        if self.shut:
            return max(at, self._pause_until) if full or self._cap is None else at
        return NEVER if full else at

    def left(self, departure: Departure, now: float) -> None:
        """Count a request that leaves."""
        if self._fresh:
            self._fresh = False
            self._sample.begin = self._cycle.begin = now
            for limit in (self._rate, self._cap):
                if limit is not None:
                    limit.since = now
        departure.ahead = len(self.out)
        self.out[departure.number] = departure
        self._young.append(departure)
        self._sample.most_out = max(self._sample.most_out, len(self.out))
        self._last = departure.number

    def gone(self, departure: Departure) -> None:
        """Note that a request, or the task it gave, is out no more; one of no fate found nobody, and tells nothing."""
        self.out.pop(departure.number, None)
        if departure.fate is None and departure in self._young:
            self._young.remove(departure)

    def passed(self, departure: Departure, now: float) -> None:
        """Note that a request was let through."""
        departure.fate = True
        self._settle(now)

    def refused(self, departure: Departure, now: float, wait: float | None = None, cause: Cause = Cause.RATE) -> None:
        """Note a refusal; `wait` is what the server asked for, in seconds."""
        known = 0.0 if self._verdict == NEVER else self._verdict
        self._verdict = max(known, 2 * (now - departure.left))
        departure.fate, departure.wait, departure.cause = False, None if wait is None else now + wait, cause
        self.out.pop(departure.number, None)
        for later in reversed(self._young):
            if later.number <= departure.number:
                break
            later.ahead -= 1
        if cause is not Cause.SERVER:  # whether nothing at all is answered is for outages.py to say
            self._doubted_since = self._doubted_since if self._doubted else departure.left
            self._doubted += 1
        self._settle(now)

    def _settle(self, now: float) -> None:
        """Learn, in the order they left, from those whose fate is known: what is out for long was let through."""
        while self._young:
            first = self._young[0]
            if first.fate is None and now - first.left < self._verdict - 1e-9:
                return
            self._young.popleft()
            if first.fate is False:
                self._learn_refused(first, now)
            else:
                first.fate = True
                self._learn_passed(first, now)

    def _learn_passed(self, departure: Departure, now: float) -> None:
        for sample in (self._sample, self._cycle):
            sample.add(departure)
        self._recent.append(departure.left)
        self._ever = True
        if departure.left > self._doubted_since + LATENESS:
            self._doubted = 0
        if self.shut and departure.left > self._shut_at:
            self._opened_by(departure, now)
            self._row_over()
        elif not self.shut:
            if departure.left > self._row_began + LATENESS or self._row <= 1:
                self._row_over()
            else:  # they left at once, and who came first is not known
                self._row -= 1
            self._judge(departure.left, now)

    def _learn_refused(self, departure: Departure, now: float) -> None:
        if departure.cause is Cause.SLOTS:
            self._full(departure, now)
            return
        by_server = departure.cause is Cause.SERVER  # by chance as often as not: only many of them are a sign
        if not by_server:
            self._in_a_row(departure, now)
        if self._cap is not None and departure.ahead >= int(self._cap.value) and (self._strained or not by_server):
            if not self._guessed and self._cap.since < NEVER:
                self._full(departure, now)
            return
        for sample in (self._sample, self._cycle):
            sample.add(departure)
        if self._rate is not None and self._rate.since < NEVER and not self._deaf and not by_server:
            self._overshot(self._rate, now)

    def _full(self, departure: Departure, now: float) -> None:
        """Let as many be out as were before a refusal; the order of those that left at once is not that of arrival."""
        at_once = self._cap is not None and departure.left <= self._cap_of + LATENESS
        most = max(departure.ahead, int(self._cap.value) if at_once and self._cap is not None else 1)
        self._cap, self._cap_of = Limit(most, now, CAP_DOUBLES_IN), departure.left

    def _overshot(self, rate: Limit, now: float) -> None:
        """Let growth begin anew; from what was reached, as a trial, if that shows that the limit has risen."""
        reached = (len(self._recent) - 1) / max(self._recent[-1] - self._recent[0], 1e-3) if self._recent else 0.0
        if reached < rate.value * (1 + RISEN):
            rate.since = now
        else:
            self._lower(min(reached, rate.at(now)), 1.0, now)

    def _in_a_row(self, departure: Departure, now: float) -> None:
        if not self._row:
            self._row_began, self._row_ahead = departure.left, departure.ahead
        self._row += 1
        self._refused_at = departure.left
        self._row_ahead = max(self._row_ahead, departure.ahead)
        self._row_until = max(self._row_until, departure.wait or 0.0)
        nothing_else = departure.wait is not None and not self.out and not self._ever
        if self._row < EVIDENCE and not self.shut and not nothing_else:
            return
        if not self.shut:
            self.shut, self._shut_at = True, now
            open_ = sum(young.fate is None and now - young.left < self._verdict for young in self._young)
            most = max(self._row_ahead, len(self.out) - open_)
            lower = self._cap is None or most < self._cap.value
            if most and lower and not self._deaf and self._sample.passed_with(most) <= 1:
                self._cap, self._guessed = Limit(most, NEVER, CAP_DOUBLES_IN), True
        elif departure.left > self._shut_at:
            self._tried += 1
            if self._guessed and self._cap is not None and departure.ahead <= max(self._cap.value - 2, 0):
                self._cap, self._guessed = None, False
        self._pause_until = now + min(PAUSE * (1 + self._tried), LONGEST_PAUSE)

    def _opened_by(self, departure: Departure, now: float) -> None:
        """Say what had shut the key, now that a request was let through again."""
        cap = self._cap
        if cap is not None and departure.ahead < cap.value and (self._tried or not self._row_until):
            if self._guessed:
                cap.since = now
            self._guessed = False
            self._measure(now, cycle=False)
            return
        if self._guessed:
            self._cap, self._guessed = None, False
        self._unsure = self._cycle.passed < EVIDENCE
        if not (self._deaf or self._unsure):
            self._lower(self._cycle.rate(self._refused_at if self._tried else departure.left), 1.0, now)
        else:
            self._measure(now, cycle=self._cycle.passed <= 1)

    def _judge(self, left: float, now: float) -> None:
        """See what the sample says, when it is large enough; the last of it left at `left`."""
        sample = self._sample
        sent = sample.passed + sample.refused
        if self._deaf:
            self._deaf -= 1
            if sample.refused >= EVIDENCE:
                if sample.share > min(WORSE * self._usual, (1 + self._usual) / 2):
                    self._deaf = 0
                self._measure(now, cycle=not self._deaf)
        elif left <= sample.begin + LATENESS:
            return  # a burst says nothing about a rate
        elif sample.refused >= EVIDENCE or (self._trial is not None and sent >= 2 * EVIDENCE / self._trial):
            self._weigh(sample.share, left, now)

    def _weigh(self, share: float, left: float, now: float) -> None:
        """Lower the rate, let it prove itself further, or take back what lowering it did not mend."""
        in_vain = self._trial is not None and 2 * share >= self._trial
        if share <= HEAVY and not in_vain:
            if self._trial is not None:
                self._prove(now)
                self._doubt = DEAF
            self._measure(now, cycle=self._trial is not None)
            self._trial = None
            return
        if (cap := self._sample.cap) is not None:
            if self._trial is not None:
                self._rate, self._trial = self._former[0], None
            self._prove(now)
            self._cap = Limit(cap, now, CAP_DOUBLES_IN)
            self._measure(now, cycle=True)
            return
        self._vain = self._vain + 1 if in_vain else 0
        if self._vain >= VAIN or share <= HEAVY:
            (self._rate, self._cap), self._trial = self._former, None
            self._cap = (
                self._cap if self._strained else None
            )  # refusals come by chance below it, too, and would keep it low
            self._prove(now)
            self._deaf, self._usual, self._doubt = self._doubt, share, min(2 * self._doubt, LONGEST_DEAF)
            self._measure(now, cycle=True)
        elif self._trial is not None and 2 * share < self._trial and self._sample.refused < EVIDENCE:
            self._trial = share
            self._measure(now, cycle=True)
        elif 2 * self._sample.server > self._sample.refused:
            self._shrink(share, now)
        else:
            self._lower(self._cycle.rate(left), share, now)

    def _prove(self, now: float) -> None:
        """Let what is known grow from now on."""
        self._vain = 0
        for limit in (self._rate, self._cap):
            if limit is not None and limit.since == NEVER and not self._guessed:
                limit.since = now

    def _lower(self, rate: float, share: float, now: float) -> None:
        """Begin a trial with a rate."""
        self._begin_trial(share, now)
        self._rate = _limit(rate, NEVER, rate)

    def _shrink(self, share: float, now: float) -> None:
        """Begin a trial with fewer out at once."""
        most = self._sample.most_out
        self._begin_trial(share, now)
        self._cap, self._guessed = Limit(max(int(most * (1 - min(share, 0.5))), 1), NEVER, CAP_DOUBLES_IN), False
        self._strained = True

    def _begin_trial(self, share: float, now: float) -> None:
        if self._trial is None:
            self._former = self._rate, None if self._guessed else self._cap
        self._trial = share
        self._measure(now, cycle=True)

    def _measure(self, now: float, *, cycle: bool) -> None:
        """Begin a new sample; what left before now is old news. `cycle`: also of what is let through."""
        self._sample = _Sample(after=self._last, begin=now)
        if cycle:
            self._cycle = _Sample(after=self._last, begin=now)
