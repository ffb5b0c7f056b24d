"""Whole nights on a virtual clock: limits that change, outages, every kind of fault, kills; and what must hold in all.

The long night has 10,000 jobs; its hours shrink with its jobs from those of 100,000 in eight hours.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from batchflux.engine.worker_pool import workers_for
from batchflux.errors import Code
from tests.engine.limit_clients import most_in_a_window

if TYPE_CHECKING:
    from tests.engine.conftest import Call, Night, NightFactory, RunEnded

NightOf = Callable[[int], "Night"]
PRICE = 140_000_000
JOBS = 10_000
HOUR = 3600 * JOBS / 100_000
ATTEMPTS = 5
FREE = {Code.RATE_LIMITED, Code.SERVER, Code.NETWORK, Code.TIMEOUT}
API_FAULTS = (
    Code.SERVER,
    Code.NETWORK,
    Code.TIMEOUT,
    Code.BAD_ANSWER,
    Code.NO_IMAGE,
    Code.UNKNOWN,
    Code.MODERATED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """From `begin` seconds on each key has `count` requests in `seconds`; `down`: every request fails like this."""

    begin: float
    count: float = 1e9
    seconds: float = 1.0
    down: Code | None = None


@dataclass(slots=True, kw_only=True)
class Weather:
    """A server's moods over a night: token buckets, a key each, by phase; faults by job and attempt, by seed."""

    scene: Night
    phases: Sequence[Phase] = (Phase(begin=0.0),)
    faults: float = 0.0
    latency: float = 5.0
    seed: int = 0
    _tokens: dict[str | None, tuple[float, float]] = field(default_factory=dict)

    def begin(self) -> None:
        """Let it rule; each run's clock begins at 0, so call it before each."""
        self._tokens.clear()
        server = self.scene.server
        server.by_key, server.api, server.files = self._by_key, self._call, self._file

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        self.phases, self.faults = (Phase(begin=0.0),), 0.0

    def _phase(self, now: float) -> Phase:
        return [phase for phase in self.phases if phase.begin <= now][-1]

    def _by_key(self, key: str | None, _: int) -> Any:
        now = asyncio.get_running_loop().time()
        phase = self._phase(now)
        if phase.down is not None:
            return self.scene.error(phase.down, 0.3)
        rate = phase.count / phase.seconds
        tokens, at = self._tokens.get(key, (phase.count, now))
        tokens = min(max(phase.count, 1.0), tokens + (now - at) * rate)
        admitted = tokens >= 1 - 1e-9
        self._tokens[key] = (tokens - admitted, now)
        if admitted:
            return None
        return self.scene.error(Code.RATE_LIMITED, 0.1)

    def _call(self, name: str, number: int) -> Any:
        random = Random(f"{self.seed} {name} {number}")
        seconds = self.latency * random.lognormvariate(0, 0.4)
        if random.random() >= self.faults:
            return self.scene.picture(seconds)
        return self.scene.error(random.choice(API_FAULTS), seconds)

    def _file(self, name: str, number: int) -> Any:
        random = Random(f"{self.seed} file {name} {number}")
        if random.random() >= self.faults / 2:
            return self.scene.picture(random.uniform(0.05, 1.0))
        kind = random.randrange(4)
        if kind == 0:
            return self.scene.picture(90.0)
        if kind == 1:
            return self.scene.error(Code.DOWNLOAD, 0.2, dead=True)
        return self.scene.error(Code.DOWNLOAD if kind == 2 else Code.BAD_IMAGE, 30.0)


def check_rate(calls: Sequence[Call], rate: tuple[float, float]) -> None:
    for key in {call.key for call in calls}:
        assert most_in_a_window([call.at for call in calls if call.key == key], rate[1]) <= rate[0]


def check_money(scene: Night, kills: int) -> None:
    """The ledger says what the server charged; after a kill it may hold for sent what had not left."""
    charged = scene.server.charged * PRICE
    assert charged <= scene.spent()
    assert scene.spent() == charged or kills


def check_books(scene: Night, runs: int = 1, kills: int = 0) -> None:
    """Nothing is out; money is what the server charged; no job is sent too often, nor paid twice when it was answered.

    Each run may send a job of unknown outcome once more. After a kill an answer may have come too late to be written.
    While the provider is not there, a job may be what it is tried with, at no cost.
    """
    rows, server = scene.rows(), scene.server
    tries = Counter(call.id for call in server.calls if call.reply.code not in FREE)
    unknown = Counter(call.id for call in server.calls if call.reply.code is Code.UNKNOWN)
    assert all(row.in_flight is None for row in rows.values())
    check_money(scene, kills)
    assert max(tries.values(), default=0) <= ATTEMPTS + runs - 1
    assert max((row.attempts for row in rows.values()), default=0) <= ATTEMPTS + runs - 1
    assert max(unknown.values(), default=0) <= 2 + runs - 1
    for name, delivered in server.delivered.items():
        assert delivered <= 1 + (rows[name].possibly_billed if kills else 0)


def check_ends(scene: Night, ended: RunEnded) -> None:
    """Every job ended, or the run says why it stopped and those that did not are pending."""
    rows = scene.rows()
    for row in rows.values():
        assert (row.error_code is not None) == (row.status in {"failed", "unknown"})
        assert (row.file_name is not None) == (row.status == "done")
    if ended.reason is None:
        assert len(rows) == len(scene.jobs)
        assert {row.status for row in rows.values()} <= {"done", "failed", "unknown"}
    else:
        assert ended.reason.exit_code == 3
        assert ended.reason.reason in {"budget", "deadline", "failures", "rate_limited"}
        assert str(ended.reason).endswith(".")


def overtaken_by(calls: Sequence[Call]) -> list[int]:
    """For each call that follows another of its job: how many jobs began in between."""
    begun, seen, counts = 0, dict[str, int](), []
    for call in calls:
        if call.id in seen:
            counts.append(begun - seen[call.id])
        else:
            begun += 1
        seen[call.id] = begun
    return counts


PHASES = (
    Phase(begin=0.0, count=3),
    Phase(begin=1.0 * HOUR, count=1),
    Phase(begin=1.5 * HOUR, count=4),
    Phase(begin=2.5 * HOUR, down=Code.SERVER),
    Phase(begin=2.5 * HOUR + 240, count=120, seconds=60),
    Phase(begin=4.5 * HOUR, count=4),
    Phase(begin=5.5 * HOUR, down=Code.NETWORK),
    Phase(begin=5.5 * HOUR + 120, count=4),
)


@pytest.mark.slow
def test_a_whole_night(night: NightOf) -> None:
    scene = night(JOBS)
    Weather(scene=scene, phases=PHASES, faults=0.1, latency=8.0, seed=1).begin()
    ended = scene.run(
        concurrency=48,
        keys=("A", "B"),
        rate=(22, 10.0),
        max_consecutive_failures=20,
        commit_seconds=0.0,
    )
    calls = scene.server.calls
    assert ended.reason is None
    check_ends(scene, ended)
    check_books(scene)
    check_rate(calls, (22, 10.0))
    assert ended.seconds < 10 * HOUR
    assert ended.tally.done >= 0.97 * JOBS
    assert scene.server.peak <= 48
    refused = sum(call.reply.code is Code.RATE_LIMITED for call in calls)
    assert refused <= 0.03 * len(calls)
    assert max(overtaken_by(calls)) <= 2 * workers_for(48)
    probes = Counter(call.key for call in calls if 60 <= call.at - 2.5 * HOUR < 240)
    assert max(probes.values()) <= 4, "in three minutes without a provider each key asks once a minute"


def test_a_night_is_the_same_each_time_and_another_with_another_seed(nights: NightFactory) -> None:
    def calls(seed: int) -> list[tuple[str, str | None, float]]:
        with nights(120) as scene:
            phases = (Phase(begin=0.0, count=3), Phase(begin=60.0, down=Code.SERVER), Phase(begin=200.0, count=5))
            Weather(scene=scene, phases=phases, faults=0.2, latency=4.0, seed=seed).begin()
            late = Random(seed)
            scene.run(
                concurrency=24,
                keys=("A", "B"),
                max_consecutive_failures=10,
                seed=seed,
                lag=lambda: late.uniform(0, 0.002),
            )
            return [(call.id, call.key, call.at) for call in scene.server.calls]

    once = calls(7)
    assert len(once) > 120
    assert once == calls(7)
    assert once != calls(8)


def test_a_night_of_four_runs_ends_by_budget_deadline_and_kill_and_is_finished(night: NightOf) -> None:
    scene = night(600)
    weather = Weather(scene=scene, phases=(Phase(begin=0.0, count=10),), faults=0.1, latency=5.0, seed=3)
    weather.begin()
    budget = Decimal("0.14") * 200
    first = scene.run(concurrency=24, budget=budget)
    assert first.reason is not None
    assert first.reason.reason == "budget"
    assert 195 <= scene.server.exposure <= 200
    check_ends(scene, first)
    check_books(scene)
    weather.begin()
    second = scene.run(concurrency=24, deadline=40.0)
    assert second.reason is not None
    assert second.reason.reason == "deadline"
    assert all(call.ended is None or call.ended <= 90 for call in scene.server.calls[200:])
    check_ends(scene, second)
    check_books(scene, runs=2)
    weather.begin()
    assert scene.run(concurrency=24, kill_at=15.0).killed
    weather.begin()
    last = scene.run(concurrency=24)
    assert last.reason is None
    check_ends(scene, last)
    check_books(scene, runs=4, kills=1)


def test_no_job_that_is_tried_again_waits_for_the_end_of_the_first_pass(night: NightOf) -> None:
    scene = night(500)
    Weather(scene=scene, faults=0.2, latency=4.0, seed=5).begin()
    ended = scene.run(concurrency=16)
    assert ended.reason is None
    overtaken = overtaken_by(scene.server.calls)
    assert len(overtaken) > 80
    assert max(overtaken) <= 2 * workers_for(16)
    order = [number for number, call in enumerate(scene.server.calls) if scene.server.per_job[call.id] > 1]
    assert min(order) < 100


PHASE = st.builds(
    Phase,
    begin=st.floats(1, 900),
    count=st.one_of(st.floats(1, 30), st.just(1e9)),
    seconds=st.sampled_from([1.0, 10.0, 60.0]),
    down=st.sampled_from([None, None, Code.SERVER, Code.NETWORK, Code.TIMEOUT, Code.UNKNOWN]),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One night that hypothesis thought of; `budget` in calls."""

    jobs: int
    phases: list[Phase]
    faults: float
    latency: float
    concurrency: int
    keys: tuple[str, ...]
    rate: tuple[float, float] | None
    failures: int
    budget: int | None
    deadline: float | None
    kills: list[float]
    seed: int


PLAN = st.builds(
    Plan,
    jobs=st.integers(1, 200),
    phases=st.lists(PHASE, max_size=3).map(lambda phases: sorted(phases, key=lambda phase: phase.begin)),
    faults=st.sampled_from([0.0, 0.1, 0.3]),
    latency=st.floats(0.01, 30),
    concurrency=st.integers(1, 32),
    keys=st.sampled_from([("A",), ("A", "B")]),
    rate=st.one_of(
        st.none(), st.tuples(st.integers(1, 30).map(float), st.sampled_from([1.0, 10.0])), st.just((60.0, 60.0))
    ),
    failures=st.sampled_from([3, 20]),
    budget=st.one_of(st.none(), st.integers(0, 250)),
    deadline=st.one_of(st.none(), st.floats(1, 600)),
    kills=st.lists(st.floats(0.1, 200), max_size=2),
    seed=st.integers(0, 1000),
)


@settings(deadline=None, max_examples=8)
@given(plan=PLAN)
def test_whatever_the_night_brings(nights: NightFactory, plan: Plan) -> None:
    with nights(plan.jobs) as scene:
        weather = Weather(
            scene=scene,
            phases=(Phase(begin=0.0), *plan.phases),
            faults=plan.faults,
            latency=plan.latency,
            seed=plan.seed,
        )
        kills = 0
        for kill in plan.kills:
            kills += one_run(scene, weather, plan, kill_at=kill).killed
        ended = one_run(scene, weather, plan)
        event(f"ended by {ended.reason.reason if ended.reason else 'the last job'}, kills: {kills}")
        check_ends(scene, ended)
        check_books(scene, len(plan.kills) + 1, kills)
        weather.clear()
        for _ in range(3):
            one_run(scene, weather, plan, budget=None, deadline=None, retry_failed=True)
        assert {row.status for row in scene.rows().values()} == {"done"}
        assert len(scene.rows()) == plan.jobs
        check_money(scene, kills)


def one_run(scene: Night, weather: Weather, plan: Plan, **terms: Any) -> RunEnded:
    """Run it once more, and check what no run may do, killed or not."""
    weather.begin()
    before, late = len(scene.server.calls), Random(plan.seed)
    money = None if plan.budget is None else Decimal("0.14") * plan.budget
    asked: dict[str, Any] = {"budget": money, "deadline": plan.deadline, **terms}
    ended = scene.run(
        concurrency=plan.concurrency,
        keys=plan.keys,
        rate=plan.rate,
        max_consecutive_failures=plan.failures,
        attempts=ATTEMPTS,
        seed=plan.seed,
        lag=lambda: late.uniform(0, 0.002),
        **asked,
    )
    if plan.rate is not None:
        check_rate(scene.server.calls[before:], plan.rate)
    if plan.budget is not None and asked["budget"] is not None:
        assert scene.server.exposure <= plan.budget
    assert scene.server.peak <= plan.concurrency
    return ended


@pytest.mark.parametrize(("times", "most"), [([0.0, 0.5, 1.0, 1.4], 3), ([0.0, 1.0, 2.0], 1), ([0.0, 0.0], 2)])
def test_the_window_check_can_fail(times: list[float], most: int) -> None:
    assert most_in_a_window(times, 1.0) == most


def test_the_overtaking_check_can_fail(night: NightOf) -> None:
    scene = night(6)
    scene.server.api = lambda name, number: (
        scene.error(Code.SERVER, 0.1) if name == "j0" and number < 1 else (scene.picture(0.1))
    )
    scene.run(concurrency=1)
    first_pass = [call for call in scene.server.calls if call.id != "j0"]
    assert overtaken_by([scene.server.calls[0], *first_pass, scene.server.calls[0]]) == [5]
