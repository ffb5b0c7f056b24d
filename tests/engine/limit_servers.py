"""Servers as they limit in fact: what each lets through, when, and how long a client that knows its rule would take.

A `Model` is asked once for each request (`admit`), told when one it let in has ended (`leave`), and says how long its
work takes. All are deterministic: what is random comes from the `Random` they are given. Times in seconds of the loop's
clock, which begins at 0.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchflux.errors import Code

if TYPE_CHECKING:
    from random import Random

SPREAD = 0.2  # answers take up to so much less or more than `seconds`
NOW = 1e-9


@dataclass(frozen=True, slots=True)
class No:
    """A refusal: its code, and how long the server says to wait, if it does. `words` is what it says."""

    code: Code = Code.RATE_LIMITED
    wait: float | None = None
    words: str = "too many requests"


@dataclass(slots=True, kw_only=True)
class Model:
    """A server without limits; answers take about `seconds`, refusals `quick` ones."""

    seconds: float = 2.0
    quick: float = 0.1
    spread: float = SPREAD
    active: int = 0

    def admit(self, now: float, random: Random) -> No | None:
        return None

    def took(self, random: Random) -> float:
        return self.seconds * random.uniform(1 - self.spread, 1 + self.spread)

    def ideal(self, jobs: int, slots: int) -> float:
        """The makespan of a client with so many slots that knows the rule and wastes nothing."""
        return max(jobs / slots, 1.0) * self.seconds


@dataclass(slots=True, kw_only=True)
class Bucket(Model):
    """`rate` tokens a second, at most `size` of them; it says how long to wait if it `tells`."""

    rate: float
    size: float
    tells: bool = False
    tokens: float = -1.0
    at: float = 0.0

    def admit(self, now: float, random: Random) -> No | None:
        self.tokens = self.size if self.tokens < 0 else min(self.size, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1 - NOW:
            return No(wait=math.ceil((1 - self.tokens) / self.rate) if self.tells else None)
        self.tokens -= 1
        return None

    def ideal(self, jobs: int, slots: int) -> float:
        return max(Model.ideal(self, jobs, slots), (jobs - self.size) / self.rate + self.seconds)


@dataclass(slots=True, kw_only=True)
class Window(Model):
    """At most `count` in each of the clock's spans of `span` seconds."""

    count: int
    span: float
    tells: bool = False
    current: float = -1.0
    used: int = 0

    def admit(self, now: float, random: Random) -> No | None:
        if now // self.span != self.current:
            self.current, self.used = now // self.span, 0
        if self.used >= self.count:
            return No(wait=math.ceil((self.current + 1) * self.span - now) if self.tells else None)
        self.used += 1
        return None

    def ideal(self, jobs: int, slots: int) -> float:
        return max(Model.ideal(self, jobs, slots), (math.ceil(jobs / self.count) - 1) * self.span + self.seconds)


@dataclass(slots=True, kw_only=True)
class Sliding(Model):
    """At most `count` in any `span` seconds."""

    count: int
    span: float
    tells: bool = False
    times: deque[float] = field(default_factory=deque)

    def admit(self, now: float, random: Random) -> No | None:
        while self.times and now - self.times[0] >= self.span - NOW:
            self.times.popleft()
        if len(self.times) >= self.count:
            return No(wait=math.ceil(self.times[0] + self.span - now) if self.tells else None)
        self.times.append(now)
        return None

    def ideal(self, jobs: int, slots: int) -> float:
        return max(Model.ideal(self, jobs, slots), (math.ceil(jobs / self.count) - 1) * self.span + self.seconds)


@dataclass(slots=True, kw_only=True)
class Slots(Model):
    """At most `most` active at once, whatever the rate; `wait` is the Retry-After of its refusals."""

    most: int
    wait: float | None = None
    words: str = "too many requests"

    def admit(self, now: float, random: Random) -> No | None:
        return No(wait=self.wait, words=self.words) if self.active >= self.most else None

    def ideal(self, jobs: int, slots: int) -> float:
        return Model.ideal(self, jobs, min(slots, self.most))


@dataclass(slots=True, kw_only=True)
class Both(Model):
    """What two servers allow at once; the times are this one's."""

    first: Model
    second: Model

    def admit(self, now: float, random: Random) -> No | None:
        self.first.active = self.second.active = self.active
        return self.first.admit(now, random) or self.second.admit(now, random)

    def ideal(self, jobs: int, slots: int) -> float:
        return max(self.first.ideal(jobs, slots), self.second.ideal(jobs, slots))


@dataclass(slots=True, kw_only=True)
class Chance(Model):
    """Refuses a `share` of requests by chance, however fast they come."""

    share: float
    wait: float | None = None

    def admit(self, now: float, random: Random) -> No | None:
        return No(wait=self.wait) if random.random() < self.share else None

    def ideal(self, jobs: int, slots: int) -> float:
        """That of a client which simply repeats."""
        return Model.ideal(self, jobs, slots) / (1 - self.share)


@dataclass(slots=True, kw_only=True)
class Overload(Model):
    """Serves `knee` at full speed; more make all slower, and from twice as many on it answers 503, ever more often."""

    knee: int

    def admit(self, now: float, random: Random) -> No | None:
        over = (self.active - 2 * self.knee) / self.knee
        return No(code=Code.SERVER, words="HTTP 503: overloaded") if random.random() < over + 0.2 * (over > 0) else None

    def took(self, random: Random) -> float:
        return Model.took(self, random) * max(1.0, self.active / self.knee)

    def ideal(self, jobs: int, slots: int) -> float:
        return Model.ideal(self, jobs, min(slots, self.knee))


@dataclass(slots=True, kw_only=True)
class Changing(Model):
    """Another server from `at` on."""

    before: Model
    after: Model
    at: float

    def admit(self, now: float, random: Random) -> No | None:
        model = self.before if now < self.at else self.after
        model.active = self.active
        return model.admit(now, random)
