"""Limits as real servers have them, on a virtual clock: how long the engine takes there, and how much is refused.

The real worker pool and limiter against a model of each kind of server; see limit_scenes.py.
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.engine.limits.limit_finder import Learned
from tests.engine.limit_clients import LATE, Client, most_in_a_window, ours
from tests.engine.limit_scenes import BY_NAME, LONG, REFUSED, SCENES, Scene
from tests.engine.limit_servers import Both, Bucket, Chance, Changing, Model, Overload, Slots, Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.engine.limit_clients import Seen

FAST = ("60 in each minute", "24 active, Retry-After 1", "24 jobs of 8 s, 24 slots")


def check(scene: Scene, seen: Seen, seconds: float, *, told: bool) -> None:
    client = scene.client(seconds, told=told)
    ideal = scene.ideal(client)
    assert seen.failed == 0
    assert seen.makespan <= scene.mark(ideal, told=told, long=seconds >= LONG)
    if told and not scene.fixed:
        assert seen.refused == 0
    elif not scene.fixed and seconds >= LONG:
        assert seen.refused <= REFUSED


@pytest.mark.parametrize("name", FAST)
def test_an_untold_limit_costs_little_from_the_start(name: str) -> None:
    check(BY_NAME[name], BY_NAME[name].ours(300.0), 300.0, told=False)


def test_a_told_limit_is_used_and_never_met() -> None:
    scene = BY_NAME["60 in each minute"]
    check(scene, scene.ours(300.0, told=True), 300.0, told=True)


def test_who_counts_more_strictly_than_told_refuses_few() -> None:
    """A bucket of one token: no two may come together, nor, now and then, what was late on its way."""
    model = Both(seconds=5.0, first=Slots(most=24), second=Bucket(rate=5.1, size=1))
    seen = Client(jobs=1440, slots=24, rate=(5.0, 1.0)).run(ours, model)
    assert seen.failed == 0
    assert 0 < seen.refused <= 5 / 1440
    assert seen.makespan <= 1.1 * 300


def test_random_refusals_cost_what_they_refuse_and_no_more() -> None:
    scene = BY_NAME["429 at random, 30%"]
    check(scene, scene.ours(60.0), 60.0, told=False)


def test_a_cap_that_is_none_is_given_up_where_refusals_come_by_chance() -> None:
    """By chance so many are refused in a row that it looks like one; each refusal would keep it as low as it is."""
    scene = BY_NAME["429 at random, 40%"]
    client = replace(scene.client(120.0), learned=Learned(active=8))
    seen = client.run(ours, scene.model())
    assert seen.makespan <= 1.1 * scene.ideal(client)
    assert (seen.learned[0].active or scene.slots) > 24


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2, 6))
def test_random_refusals_cost_no_more_in_whatever_order_they_come(seed: int) -> None:
    scene = BY_NAME["429 at random, 40%"]
    check(scene, scene.ours(LONG, told=True, seed=seed), LONG, told=True)


def test_an_overloaded_server_fails_no_job() -> None:
    scene = BY_NAME["overload: slower, then 503"]
    check(scene, scene.ours(120.0), 120.0, told=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seconds", [300.0, LONG])
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_every_server_is_within_its_mark_untold(scene: Scene, seconds: float) -> None:
    check(scene, scene.ours(seconds), seconds, told=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("scene", [one for one in SCENES if one.rate or one.active], ids=lambda scene: scene.name)
def test_every_server_is_within_its_mark_told(scene: Scene) -> None:
    check(scene, scene.ours(LONG, told=True), LONG, told=True)


CHANGES: dict[str, tuple[Callable[[], Model], float]] = {
    "half": (lambda: Changing(before=Bucket(rate=10, size=10), after=Bucket(rate=5, size=5), at=60.0), 5.0),
    "double": (lambda: Changing(before=Bucket(rate=10, size=10), after=Bucket(rate=20, size=20), at=60.0), 20.0),
    "cap, half": (lambda: Changing(seconds=5.0, before=Slots(most=24), after=Slots(most=12), at=60.0), 2.4),
    "cap, double": (lambda: Changing(seconds=5.0, before=Slots(most=12), after=Slots(most=24), at=60.0), 4.8),
    "rate to cap": (lambda: Changing(before=Bucket(rate=10, size=10), after=Slots(most=12), at=60.0), 6.0),
}


@pytest.mark.parametrize(
    "name", ["half", *(pytest.param(name, marks=pytest.mark.slow) for name in CHANGES if name != "half")]
)
def test_a_limit_that_changes_is_followed_within_a_minute(name: str) -> None:
    make, after = CHANGES[name]
    seen = Client(jobs=int(60 * 12 + 130 * after)).run(ours, make())
    assert seen.rate(120.0, 140.0) == pytest.approx(after, rel=0.1)


def test_a_limit_that_is_lower_than_what_was_told_is_found() -> None:
    seen = Client(jobs=600, rate=(100.0, 1.0)).run(ours, Bucket(rate=10, size=10))
    assert seen.makespan <= 1.15 * Bucket(rate=10, size=10).ideal(600, 64)


def test_a_key_that_refuses_everything_for_a_minute_goes_on_after_it() -> None:
    model = Changing(before=Chance(share=1.0), after=Bucket(rate=10, size=10), at=60.0)
    seen = Client(jobs=400).run(ours, model)
    assert sum(at < 60 for at, _, _ in seen.calls) <= 64 + 30
    assert seen.makespan <= 60 + 1.6 * 400 / 10


MODELS: st.SearchStrategy[Callable[[], Model]] = st.one_of(
    st.builds(lambda share, wait: lambda: Chance(share=share, wait=wait), st.floats(0, 0.6), st.none() | st.just(2.0)),
    st.builds(lambda most, wait: lambda: Slots(most=most, wait=wait), st.integers(1, 20), st.none() | st.just(1.0)),
    st.builds(lambda rate: lambda: Bucket(rate=rate, size=max(rate, 1.0)), st.floats(0.5, 20)),
    st.builds(lambda knee: lambda: Overload(knee=knee), st.integers(2, 20)),
)


@settings(max_examples=8)
@given(
    model=MODELS,
    count=st.integers(1, 20),
    span=st.sampled_from([1.0, 10.0]),
    keys=st.integers(1, 3),
    slots=st.integers(1, 24),
    seed=st.integers(0, 100),
)
def test_whatever_the_server_does_no_told_limit_is_exceeded_and_nothing_starves(
    *, model: Callable[[], Model], count: int, span: float, keys: int, slots: int, seed: int
) -> None:
    """Requests take up to `LATE` to the server, and so the window that it sees is that much shorter."""
    client = Client(jobs=60, slots=slots, rate=(count, span), keys=keys, seed=seed, attempts=50)
    seen = client.run(ours, *(model() for _ in range(keys)))
    for key in range(keys):
        times = [at for at, name, _ in seen.calls if name == str(key)]
        assert most_in_a_window(times, span - LATE) <= count
    assert most_in_a_window([at for at, _, _ in seen.calls], span - LATE) <= count * keys
    assert seen.peak <= slots
    assert seen.failed == 0


@pytest.mark.slow
@settings(max_examples=15)
@given(
    model=st.one_of(
        st.builds(lambda rate: (lambda: Bucket(rate=rate, size=rate), rate), st.floats(2, 25)),
        st.builds(
            lambda count, span: (lambda: Window(count=count, span=span), count / span),
            st.integers(30, 120),
            st.sampled_from([10.0, 30.0]),
        ),
        st.builds(lambda most: (lambda: Slots(most=most, seconds=4.0), most / 4.0), st.integers(4, 40)),
    ),
    seed=st.integers(0, 100),
)
def test_other_numbers_are_found_as_well(model: tuple[Callable[[], Model], float], seed: int) -> None:
    make, pace = model
    client = Client(jobs=int(400 * pace), seed=seed)
    seen = client.run(ours, make())
    assert seen.failed == 0
    assert seen.makespan <= 1.3 * make().ideal(client.jobs, client.slots)


def test_a_run_begins_from_what_another_has_learned() -> None:
    first = Client(jobs=400).run(ours, Slots(most=24))
    learned = pickle.loads(pickle.dumps(first.learned[0]))  # noqa: S301  our own
    assert learned.active == pytest.approx(24, abs=1)
    second = Client(jobs=400, learned=learned).run(ours, Slots(most=24))
    assert second.refused < 0.02 < first.refused
    rates = Client(jobs=60, learned=Learned(rate=5.0)).run(ours, Model())
    gaps = [after - before for before, after in pairwise(at for at, _, _ in rates.calls)]
    assert min(gaps[:20]) > 0.15
