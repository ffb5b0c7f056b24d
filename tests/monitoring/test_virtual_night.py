"""A night in virtual time with notices and metrics on: what is told of it, how often it is written, what it costs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.errors import Code
from batchflux.manifest.reading.targets import EVENTS
from batchflux.monitoring.metrics import Live
from batchflux.monitoring.notices import Notices, Receiver
from batchflux.monitoring.textfile import EVERY, SHARE, MetricsFile
from tests.engine.conftest import night, nights
from tests.engine.test_night import PHASES, Phase, Weather
from tests.monitoring.test_metrics import read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from batchflux.engine.settings import Rules
    from batchflux.models import Job, Outcome
    from batchflux.monitoring.base import Notice
    from tests.engine.conftest import Night, Notes

__all__ = ["night", "nights"]


class Heard:
    """An address in this process, that takes `seconds` to answer; what it was told, and when."""

    starts, place = True, "here"

    def __init__(self, seconds: float) -> None:
        self.told: list[tuple[float, Notice]] = []
        self._seconds = seconds

    async def send(self, notice: Notice) -> None:
        await asyncio.sleep(self._seconds)
        self.told.append((asyncio.get_running_loop().time(), notice))


class Written(MetricsFile):
    """A file that notes when it was written, by the clock of the run, and how long that took, by the real one."""

    times: tuple[float, ...] = ()
    took: tuple[float, ...] = ()

    async def write(self) -> None:
        self.times = (*self.times, asyncio.get_running_loop().time())
        began = time.monotonic()
        await super().write()
        self.took = (*self.took, time.monotonic() - began)


def watched(scene: Night, path: Path, heard: Heard) -> list[Written]:
    """Let a night be told of, and written down; return the file, once it is made."""
    files: list[Written] = []

    @contextlib.asynccontextmanager
    async def beside(notes: Notes, rules: Rules) -> AsyncIterator[None]:
        notices = Notices([Receiver(heard, EVENTS)], "night", str(scene.folder))
        notices.budget = rules.budget
        file = Written(path, scene.folder, notes.event)
        file.live = lambda: Live(providers=("tuzi",), away=notices.outages.providers)
        files.append(file)

        def ended(job: Job, outcome: Outcome) -> None:
            notices.job_ended(job, outcome)

        def event(name: str, /, **fields: Any) -> None:
            notes.events.append((name, fields))
            notices.heard(name, fields)

        notes.ended, notes.event = ended, event  # type: ignore[method-assign]  # they are handed on
        for service in rules.services:
            service.outages.event = lambda name, **fields: event(name, provider="tuzi", **fields)
        notices.started()
        async with notices.telling(), file.kept():
            yield

    scene.beside = beside
    return files


def one_night(scene: Night, folder: Path, jobs: int, budget: float) -> tuple[Heard, Written, float]:
    heard = Heard(2.0)
    files = watched(scene, folder / "night.prom", heard)
    Weather(scene=scene, phases=PHASES, faults=0.1, latency=8.0, seed=1).begin()
    ended = scene.run(
        concurrency=48,
        keys=("A", "B"),
        rate=(22, 10.0),
        max_consecutive_failures=20,
        commit_seconds=0.0,
        budget=Decimal("0.14") * int(jobs * budget),
    )
    assert ended.reason is None
    return heard, files[0], ended.seconds


@pytest.mark.slow
@pytest.mark.timeout(600)  # a night of 6,500 jobs is half a minute of work on a quiet machine
def test_two_outages_and_a_budget_are_told_once_each(night: Callable[[int], Night], tmp_path: Path) -> None:
    jobs = 6_500  # so many that the second outage falls into the night
    scene = night(jobs)
    heard, file, seconds = one_night(scene, tmp_path, jobs, 1.2)
    told = Counter(notice.event for _, notice in heard.told)
    assert told == {"start": 1, "provider": 4, "budget": 1}
    states = [notice.title.rpartition(" ")[2] for _, notice in heard.told if notice.event == "provider"]
    assert states == ["away", "back", "away", "back"]
    rests = [4 * max(EVERY, SHARE * took) for took in file.took[:-1]]
    gaps = [late - early for early, late in pairwise(file.times)]
    assert all(gap <= rest for gap, rest in zip(gaps, rests, strict=True)), "less often only where counting takes long"
    assert len(file.times) > seconds / max(rests)
    found = read((tmp_path / "night.prom").read_text(encoding="utf-8"))
    rows = scene.rows().values()
    name = scene.folder.name  # a ledger without a run's notes has no name
    done = found["batchflux_jobs", frozenset({"name": name, "status": "done"}.items())]
    assert done == sum(row.status == "done" for row in rows)
    spent = found["batchflux_provider_spent", frozenset({"name": name, "provider": "tuzi", "currency": ""}.items())]
    assert spent == pytest.approx(scene.spent() / 1e9)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_night_of_a_hundred_thousand(night: Callable[[int], Night], tmp_path: Path) -> None:
    jobs = 100_000
    heard, file, seconds = one_night(night(jobs), tmp_path, jobs, 1.2)
    told = Counter(notice.event for _, notice in heard.told)
    assert told == {"start": 1, "provider": 4, "budget": 1}
    assert seconds > 3600
    assert len(file.times) > 20
    read((tmp_path / "night.prom").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_place_that_comes_and_goes_is_told_of_once_in_ten_minutes(
    night: Callable[[int], Night], tmp_path: Path
) -> None:
    jobs = 300
    scene = night(jobs)
    heard = Heard(0.1)
    watched(scene, tmp_path / "night.prom", heard)
    away = [Phase(begin=20.0 + 40 * n, down=Code.NETWORK) for n in range(8)]
    there = [Phase(begin=40.0 + 40 * n, count=2) for n in range(8)]
    phases = sorted([Phase(begin=0.0, count=2), *away, *there], key=lambda phase: phase.begin)
    Weather(scene=scene, phases=phases, latency=2.0, seed=2).begin()
    ended = scene.run(concurrency=8)
    assert ended.reason is None
    downs = sum(name == "away" for name, _ in ended.notes.events)
    assert downs >= 4
    told = [notice.title.rpartition(" ")[2] for _, notice in heard.told if notice.event == "provider"]
    assert told == ["away", "back"]
