"""What is learned of a ledger is what is in it: nothing is drawn that was not seen, and as often as it was."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux import load_manifest
from batchflux.errors import RULES, Code
from batchflux.ledger.reconcile import Selection
from batchflux.ledger.tables import empty_ledger, set_meta
from batchflux.models import Link, Received
from batchflux.night import learned
from batchflux.night.learned import Seen, by_provider, climate_of, seen_in, writing_of
from batchflux.night.rehearsal import Assumed, rehearse, scene_of
from batchflux.night.weather import FETCHED, Call, Draws, Outage, Sky
from tests.night.rehearsing import DUSK, left_behind, manifest_in

if TYPE_CHECKING:
    from pathlib import Path

    from batchflux.ledger.ledger import Ledger
    from batchflux.models import Job

CODES = [code.value for code in Code]


def seen(**given: Any) -> Seen:
    usual: dict[str, Any] = {
        "provider": "tuzi",
        "model": "m",
        "style": "standard",
        "sent_at": DUSK,
        "ended_at": DUSK + 10.0,
        "state": "captured",
        "code": None,
        "billed": "yes",
        "cost": None,
        "status": "done",
        "api_seconds": 9.9,
        "download_seconds": 0.5,
    }
    return Seen(**(usual | given))


@st.composite
def attempts(draw: st.DrawFn) -> Seen:
    sent, took = draw(st.floats(0, 50_000)), draw(st.floats(0, 400))
    state = draw(st.sampled_from(["captured", "failed", "unknown"]))
    fetched = [None, *sorted(code.value for code in FETCHED)]
    code = draw(st.sampled_from(fetched if state == "captured" else [*CODES, None, "of_a_later_version"]))
    return seen(
        model=draw(st.sampled_from(["m", "n"])),
        sent_at=DUSK + sent,
        ended_at=DUSK + sent + took,
        state=state,
        code=code,
        billed=draw(st.sampled_from(["no", "maybe", "yes"])),
        cost=draw(st.none() | st.integers(0, 10**9)),
        status=draw(st.sampled_from(["done", "failed", "pending"])),
        api_seconds=draw(st.none() | st.floats(0, took)),
        download_seconds=draw(st.none() | st.floats(0, 100)),
    )


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_manifest(manifest_in(tmp_path_factory.mktemp("m"), 1))


def draws_of(outage: Outage) -> list[Call]:
    """Return what calls came to in an outage, each once."""
    caught = [] if outage.caught is None else [*outage.caught.seen]
    return caught if outage.caught is not None and outage.met == outage.caught else [*outage.met.seen, *caught]


@settings(max_examples=25, deadline=None)
@given(history=st.lists(attempts(), max_size=60))
def test_nothing_is_drawn_that_was_not_seen(manifest: Any, history: list[Seen]) -> None:
    history.sort(key=lambda one: one.sent_at)
    with closing(empty_ledger()) as ledger:
        made = climate_of(manifest.provider, ledger, history)
    took = {round(one.seconds, 6) for one in history} | {round(one.api_seconds or 0.0, 6) for one in history}
    most = max((one.seconds for one in history), default=0.0)
    if made.past.source == "assumed":
        assert not any(one.state == "captured" for one in history)
        return
    calls = made.usual.seen[: made.past.calls]
    assert {call for kind in made.calls.values() for call in kind.seen} <= {*calls}
    in_outages = sum(len(draws_of(outage)) for outage in made.outages)
    assert len(calls) + in_outages + sum(made.past.left_out.values()) == len(history)
    for draws in (*made.calls.values(), made.usual, made.fetches, *(outage.met for outage in made.outages)):
        assert len(draws.seen) == len(draws.weights)
        assert list(draws.weights) == list(range(1, len(draws.seen) + 1))
        assert all(0.0 <= call.seconds <= max(most, 100.0) for call in draws.seen)
    known = {one.failed for one in history} | {code for code in FETCHED if code.value in {one.code for one in history}}
    sky = Sky(made, Random(1), lambda: 0.0)
    for _ in range(30):
        call, fetch = sky.call("m", "standard"), sky.fetch()
        assert call in [*calls, *made.usual.seen]
        assert {call.code, fetch.code} <= known | {None}
        assert call.code is None or RULES[call.code].fault != "key"
        assert call.code is not None or call.billed is False
    assert sum(made.past.fails.values()) <= 1 + 1e-9
    assert took or not history


@settings(max_examples=25, deadline=None)
@given(
    span=st.tuples(st.floats(0, 100), st.floats(0, 100)).map(sorted),
    shares=st.dictionaries(st.sampled_from([Code.SERVER, Code.UNKNOWN, Code.MODERATED]), st.floats(0, 0.33)),
    seed=st.integers(0, 99),
)
def test_what_is_given_is_drawn_as_often_as_it_is_said(span: Any, shares: dict[Code, float], seed: int) -> None:
    draws, random = Draws.given((span[0], span[1]), shares), Random(seed)
    assert draws.weights[-1] == pytest.approx(1.0)
    assert sorted(draws.weights) == list(draws.weights)
    found = Counter(draws.draw(random).code for _ in range(2000))
    for code, share in shares.items():
        assert abs(found[code] / 2000 - share) < 0.08
    assert all(span[0] <= draws.draw(random).seconds <= span[1] for _ in range(100))


def test_failures_in_a_row_are_one_outage_and_come_to_no_other_call(manifest: Any) -> None:
    down = [
        seen(sent_at=DUSK + 100 + n, ended_at=DUSK + 101 + 10 * n, state="failed", code="network", billed="no")
        for n in range(6)
    ]
    lone = seen(sent_at=DUSK + 30, ended_at=DUSK + 40, state="failed", code="server", billed="no")
    good = [seen(sent_at=DUSK + 20 * n, ended_at=DUSK + 20 * n + 9.95, api_seconds=9.9) for n in (0, 1, 2, 3, 8, 9)]
    history = sorted([*down, lone, *good], key=lambda one: one.sent_at)
    with closing(empty_ledger()) as ledger:
        made = climate_of(manifest.provider, ledger, history)
    assert [outage.seconds for outage in made.outages] == [54.5]  # from 101 to the middle of 151 and 160
    assert made.outages[0].caught == Draws.of([Call(seconds=0.0, code=Code.NETWORK)])
    assert [call.code for call in made.outages[0].met.seen] == [Code.NETWORK] * 5
    assert Counter(call.code for call in made.usual.seen) == {None: 6, Code.SERVER: 1}
    assert made.every == pytest.approx(189.95)
    assert (made.past.outages, made.past.outage_seconds) == (1, 54.5)


def test_keys_that_were_refused_are_counted_and_not_drawn(manifest: Any) -> None:
    history = [seen(), seen(state="failed", code="quota", billed="no"), seen(state="failed", code="rate_limited")]
    with closing(empty_ledger()) as ledger:
        made = climate_of(manifest.provider, ledger, history)
        assert dict(made.past.left_out) == {"quota": 1}
        assert Counter(call.code for call in made.usual.seen) == {None: 1, Code.RATE_LIMITED: 1}


def test_a_call_takes_what_it_took_and_its_record_what_is_left() -> None:
    history = [seen(sent_at=DUSK + n, ended_at=DUSK + n + 10.0, api_seconds=9.9) for n in range(50)]
    writing = writing_of(history)
    assert writing.before == pytest.approx(0.1)
    assert history[0].call(writing.before) == Call(seconds=9.9)
    failed = seen(state="failed", code="server", billed="no", api_seconds=None)
    assert failed.call(writing.before).seconds == pytest.approx(9.9)
    assert failed.call(writing.before).code is Code.SERVER
    # Two slots, and what comes after an end comes 0.04 s later.
    pairs = [seen(sent_at=DUSK + 10.04 * n, ended_at=DUSK + 10.04 * n + 10.0, api_seconds=9.99) for n in range(30)]
    assert writing_of(sorted([*pairs, *pairs])).after == pytest.approx(0.04)
    assert writing_of([]) == learned.Writing()


def test_attempts_of_a_name_that_is_no_more_are_their_models(tmp_path: Path) -> None:
    providers = "providers:\n" + "".join(
        f"  {name}: {{api: openai, base_url: 'https://{name}.example', keys: [K], price: 1, model: {model}}}\n"
        for name, model in (("a", "m"), ("b", "n"), ("c", "m"))
    )
    several = load_manifest(manifest_in(tmp_path / "s", 1, provider=f"{providers}provider: a"))
    history = [
        seen(provider=name, model=model) for name, model in (("b", "n"), ("old", "n"), ("old", "m"), ("old", "x"))
    ]
    assert {name: len(found) for name, found in by_provider(several, history).items()} == {"a": 1, "b": 2, "c": 0}
    one = load_manifest(manifest_in(tmp_path / "o", 1))
    assert len(by_provider(one, history)["tuzi"]) == 4


def test_a_ledger_without_attempts_tells_nothing() -> None:
    with closing(empty_ledger()) as ledger:
        assert seen_in(ledger) == []
        ledger.execute("DROP TABLE submissions")  # as of format 1
        assert seen_in(ledger) == []


def test_what_was_simulated_tells_nothing_of_a_real_provider(tmp_path: Path) -> None:
    manifest = load_manifest(manifest_in(tmp_path, 2))

    def follows(ledger: Ledger, _job: Job, attempt: int) -> None:
        ledger.captured(attempt, Received(asset=Link(url="https://cdn.example/x"), cost=None, api_seconds=9.0))
        ledger.database.now(lambda connection: set_meta(connection, "simulated", "1"))

    left_behind(manifest, follows)
    scene = scene_of(manifest, Selection(), Assumed(at=DUSK))
    assert scene.skipped == (f"{manifest.output.dir} was simulated: it tells nothing",)
    assert scene.pasts["tuzi"].source == "assumed"
    assert rehearse(scene, "1").done == 2
