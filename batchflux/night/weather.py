"""What a rehearsed night may meet at a provider: calls that take their time or fail, outages, limits.

All of it is drawn from what was seen (see `learned`), or from what the user gives in its place; never from a curve that
was fitted to it, so nothing is drawn that did not happen.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import ceil
from typing import TYPE_CHECKING

from batchflux.errors import RULES, Code, JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

FETCHED = frozenset({Code.DOWNLOAD, Code.BAD_IMAGE, Code.DIFFERS, Code.ECHOED_INPUT, Code.UNSAFE_URL})
"""What a picture comes to, and not the call that it is of."""

REFUSAL_SECONDS = 0.1  # that a 429 takes
STEPS = 100  # equally likely values that stand for a range that was given


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What one call came to, or one download: after `seconds` a picture, or an error.

    `cost` is what its answer said that it cost, in nanounits; None: it did not say. `billed`: a failure may have been.
    """

    seconds: float
    code: Code | None = None
    billed: bool = False
    cost: int | None = None


@dataclass(frozen=True, slots=True)
class Draws:
    """Calls to draw from; `weights` are cumulative, the last one is the sum of all."""

    seen: Sequence[Call]
    weights: Sequence[float]

    @classmethod
    def of(cls, seen: Sequence[Call]) -> Draws:
        """Make each of what was seen as likely as any other; of nothing, a call that takes no time."""
        seen = seen or (Call(seconds=0.0),)
        return cls(seen, range(1, len(seen) + 1))

    @classmethod
    def given(cls, seconds: tuple[float, float], fails: Mapping[Code, float]) -> Draws:
        """Make them of a range of seconds, each as likely, and of the share of the calls that fail by each code."""
        low, high = seconds
        took = [low + (high - low) * (step + 0.5) / STEPS for step in range(STEPS)]
        shares: list[tuple[Code | None, float]] = [(None, 1.0 - sum(fails.values())), *fails.items()]
        pairs = [
            (Call(seconds=each, code=code, billed=code is not None and RULES[code].billed != "no"), share / STEPS)
            for code, share in shares
            if share > 0
            for each in took
        ]
        return cls([call for call, _ in pairs], list(accumulate(share for _, share in pairs)))

    def draw(self, random: Random) -> Call:
        """Return one of them."""
        return random.choices(self.seen, cum_weights=self.weights)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A time of so many seconds in which a provider was not there, and what calls came to then.

    Those that were out as it began are `caught`, after so many seconds of it (None: they got their answers); those that
    left later `met` it.
    """

    seconds: float
    met: Draws
    caught: Draws | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What a provider allows: `rate` requests a second, of which `burst` may come at once, and `active` that are out.

    None: any number. Where its answers say when to come back, and how much is left, it `tells`.
    """

    rate: float | None = None
    burst: float = 1.0
    active: int | None = None
    tells: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What is known of a provider, in numbers: of so many `calls`, by the share of them that failed by each code.

    `seconds` are those of 5, 50 and 95 of 100 calls that gave a picture. `outages` lasted `outage_seconds` in all, in
    `active_seconds` of work. `left_out` counts what is not rehearsed: refusals of keys, and of rates where the limit
    itself is. `source` says where it is from: `history`, `given`, `assumed`, or `options` of the simulator.
    """

    source: str
    calls: int = 0
    seconds: tuple[float, float, float] = (0.0, 0.0, 0.0)
    fails: Mapping[str, float] = field(default_factory=dict)
    outages: int = 0
    outage_seconds: float = 0.0
    active_seconds: float = 0.0
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Climate:
    """What is drawn from for one provider; `calls` by model and style, `usual` for those of which too few are known.

    An outage begins once in `every` seconds on average. `allowed` is by the name of a key, or "" of all together.
    """

    past: Past
    usual: Draws
    calls: Mapping[tuple[str, str], Draws] = field(default_factory=dict)
    fetches: Draws = field(default_factory=lambda: Draws.of(()))
    outages: Sequence[Outage] = ()
    every: float = 0.0
    allowed: Mapping[str, Allowed] = field(default_factory=dict)


class Turnstile:
    """Lets requests in as a provider does that allows so much; `clock` gives seconds."""

    def __init__(self, allowed: Allowed, clock: Callable[[], float]) -> None:
        self._allowed, self._clock = allowed, clock
        self._tokens, self._at = allowed.burst, clock()
        self.inside = 0

    def refusal(self) -> JobError | None:
        """Return why a request is refused now; None: it is let in, and leaves by `leave`."""
        allowed = self._allowed
        if allowed.active is not None and self.inside >= allowed.active:
            return JobError(Code.RATE_LIMITED, "too many concurrent requests")
        if allowed.rate is not None:
            self._refill(allowed.rate)
            if self._tokens < 1.0 - 1e-9:
                wait = float(ceil((1.0 - self._tokens) / allowed.rate))  # as Retry-After has it
                return JobError(Code.RATE_LIMITED, "too many requests", retry_after=wait if allowed.tells else None)
            self._tokens -= 1.0
        self.inside += 1
        return None

    def leave(self) -> None:
        """Give back the place of a request that was let in."""
        self.inside -= 1

    def pause(self) -> float | None:
        """Return what x-ratelimit headers ask for now: the seconds until all is there again, where nothing is left."""
        rate = self._allowed.rate
        if rate is None or not self._allowed.tells:
            return None
        self._refill(rate)
        return None if self._tokens >= 1.0 else (self._allowed.burst - self._tokens) / rate

    def _refill(self, rate: float) -> None:
        now = self._clock()
        self._tokens = min(self._allowed.burst, self._tokens + (now - self._at) * rate)
        self._at = now


class Sky:
    """One provider in one night: what calls and downloads come to, in the order in which they are asked for."""

    def __init__(self, climate: Climate, random: Random, clock: Callable[[], float]) -> None:
        self._climate, self._random, self._clock = climate, random, clock
        self._turnstiles = {name: Turnstile(allowed, clock) for name, allowed in climate.allowed.items()}
        self._outage: Outage | None = None
        self._begins, self._ends = 0.0, 0.0
        self.refused = 0
        if climate.outages:
            self._next_outage()

    def turnstiles(self, key: str) -> list[Turnstile]:
        """Return what lets in the requests of a key."""
        return [self._turnstiles[name] for name in ("", key) if name in self._turnstiles]

    def call(self, model: str, style: str) -> Call:
        """Return what a call that leaves now comes to."""
        now = self._clock()
        while self._outage is not None and now >= self._ends:
            self._next_outage()
        outage = self._outage
        if outage is not None and now >= self._begins:
            return outage.met.draw(self._random)
        call = self._climate.calls.get((model, style), self._climate.usual).draw(self._random)
        if outage is None or outage.caught is None or now + call.seconds < self._begins:
            return call
        caught = outage.caught.draw(self._random)
        return replace(caught, seconds=self._begins - now + caught.seconds)

    def fetch(self) -> Call:
        """Return what a download that begins now comes to."""
        return self._climate.fetches.draw(self._random)

    def _next_outage(self) -> None:
        self._outage = self._random.choice(self._climate.outages)
        self._begins = self._ends + self._random.expovariate(1.0 / self._climate.every)
        self._ends = self._begins + self._outage.seconds
