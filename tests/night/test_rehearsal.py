"""A rehearsed night is the engine's own: its limits hold, and what it says follows from them by arithmetic."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import time
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from batchflux import Selection, load_manifest
from batchflux.errors import Code, UsageError
from batchflux.models import Link, Outcome, Received, Status
from batchflux.night.outlook import outlook_of
from batchflux.night.rehearsal import Assumed, rehearse, scene_of, variants
from batchflux.night.weather import Allowed, Call, Draws, Outage, Turnstile
from tests.night.rehearsing import DUSK, PRICE, climate, left_behind, manifest_in, scene_in, under

if TYPE_CHECKING:
    from pathlib import Path

    from batchflux.ledger.ledger import Ledger
    from batchflux.models import Job

TWO = (
    "providers:\n"
    "  cheap: {api: openai, base_url: https://a.example/v1, keys: [A_KEY], price: 0.10, currency: CNY, model: m}\n"
    "  dear: {api: openai, base_url: https://b.example/v1, keys: [B_KEY], price: 0.30, currency: CNY, model: m}\n"
    "provider: cheap\nfallback: [dear]"
)


def test_a_night_without_faults_takes_what_arithmetic_says(tmp_path: Path) -> None:
    scene = scene_in(tmp_path, 400, "concurrency: 20, canary: 0")
    night = rehearse(scene, "1")
    assert (night.done, night.failed, night.unknown, night.left, night.reason) == (400, 0, 0, 0, None)
    assert night.spent == Decimal("56.00")
    assert 200 <= night.seconds < 202  # 400 calls of 10 s, 20 at once


def test_the_deadline_cuts_and_says_how_much_is_left(tmp_path: Path) -> None:
    scene = scene_in(tmp_path, 400, "concurrency: 20, canary: 0, deadline: 100s")
    night = rehearse(scene, "1")
    assert night.reason == "deadline"
    assert night.seconds <= 100
    assert night.left == 400 - night.done
    assert 180 <= night.done <= 200
    outlook = outlook_of([night] * 3, 400)
    assert outlook.ends is None
    assert outlook.cuts["deadline"].nights == 3
    assert 0.5 <= outlook.cuts["deadline"].low <= outlook.cuts["deadline"].high <= 0.55


def test_a_deadline_at_a_clock_time_is_the_next_one_after_the_start(tmp_path: Path) -> None:
    hour = (int(DUSK) // 3600 + 1) % 24  # in UTC, which the tests' zone may not be
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TZ", "UTC")
        time.tzset()
        scene = scene_in(tmp_path, 1000, f'concurrency: 1, canary: 0, deadline: "{hour:02d}:00"')
        night = rehearse(scene, "1")
    time.tzset()
    left = 3600 - int(DUSK) % 3600
    assert night.reason == "deadline"
    assert left - 25 <= night.seconds <= left


@pytest.mark.parametrize("key", ["budget", "budget_per_run"])
def test_the_budget_cuts_and_is_never_passed(tmp_path: Path, key: str) -> None:
    scene = scene_in(tmp_path, 400, f"concurrency: 20, canary: 0, {key}: 10.00", fails={Code.UNKNOWN: 0.1})
    for seed in "123":
        night = rehearse(scene, seed)
        assert night.reason == "budget"
        assert Decimal("9.86") < night.spent <= 10


def test_one_provider_that_is_down_has_its_jobs_made_by_the_other(tmp_path: Path) -> None:
    scene = scene_in(tmp_path, 60, "concurrency: 20, canary: 0", TWO)
    down = climate(0.5, Code.NETWORK)
    night = rehearse(under(scene, cheap=down), "1")
    assert night.done == 60
    assert night.spent == Decimal("18.00")  # each at the dear one's price
    alone = rehearse(scene, "1")
    assert alone.spent == Decimal("6.00")


def test_an_outage_of_all_is_waited_out_and_costs_its_time(tmp_path: Path) -> None:
    scene = scene_in(tmp_path, 60, "concurrency: 20, canary: 0")
    away = Outage(seconds=300.0, met=Draws.of([Call(seconds=0.1, code=Code.NETWORK)]))
    nights = [rehearse(under(scene, tuzi=climate(outages=[away], every=10.0)), seed) for seed in "123"]
    assert all(night.done == 60 for night in nights)
    assert max(night.seconds for night in nights) > 300
    assert rehearse(scene, "1").seconds < 35


def test_what_is_out_as_an_outage_begins_is_caught_by_it(tmp_path: Path) -> None:
    scene = scene_in(tmp_path, 200, "concurrency: 20, canary: 0")
    gone, lost = Call(seconds=0.1, code=Code.NETWORK), Call(seconds=0.0, code=Code.UNKNOWN, billed=True)
    away = Outage(seconds=60.0, met=Draws.of([gone]), caught=Draws.of([lost]))
    nights = [rehearse(under(scene, tuzi=climate(outages=[away], every=150.0)), seed) for seed in "12345"]
    assert max(night.possibly_billed for night in nights) >= 15
    assert min(night.possibly_billed for night in nights) == 0
    for night in nights:
        assert night.done + night.unknown == 200
        assert night.spent == Decimal("0.14") * (night.done + night.possibly_billed)


def test_what_the_provider_allows_holds_and_is_found(tmp_path: Path) -> None:
    scene = scene_in(tmp_path, 100, "concurrency: 50, canary: 0")
    slow = rehearse(under(scene, tuzi=climate(allowed={"": Allowed(rate=1.0, burst=1.0, tells=True)})), "1")
    assert slow.done == 100
    assert slow.refused > 0
    assert 100 <= slow.seconds < 250
    few = rehearse(under(scene, tuzi=climate(allowed={"NO_SUCH_KEY": Allowed(active=10)})), "1")
    assert few.done == 100
    assert 100 <= few.seconds < 200


def test_the_users_own_rate_holds(tmp_path: Path) -> None:
    night = rehearse(scene_in(tmp_path, 121, "concurrency: 50, canary: 0, rate: 60/min"), "1")
    assert 130 <= night.seconds < 132
    assert night.refused == 0


def test_the_canary_stops_a_night_that_brings_no_picture(tmp_path: Path) -> None:
    scene = scene_in(tmp_path, 100, "concurrency: 20")
    night = rehearse(under(scene, tuzi=climate(1.0, Code.NO_IMAGE)), "1")
    assert (night.reason, night.done, night.attempts) == ("canary", 0, 4)


def test_calls_longer_than_the_timeout_end_as_unknown(tmp_path: Path) -> None:
    scene = scene_in(tmp_path, 20, "concurrency: 20, canary: 0, timeout: 60s, attempts: 1", seconds=(90.0, 90.0))
    night = rehearse(scene, "1")
    assert night.unknown + night.left == 20
    assert night.done == 0


def test_the_same_seed_is_the_same_night_and_another_is_another(tmp_path: Path) -> None:
    fails = {Code.SERVER: 0.1, Code.MODERATED: 0.05, Code.UNKNOWN: 0.02, Code.DOWNLOAD: 0.01}
    scene = scene_in(tmp_path, 150, "concurrency: 8", seconds=(5.0, 25.0), fails=fails)
    first, again, other = rehearse(scene, "1"), rehearse(scene, "1"), rehearse(scene, "2")
    assert first == again != other


def test_other_limits_are_half_and_twice_of_all_that_are_set(tmp_path: Path) -> None:
    provider = TWO.replace("model: m}\n  dear", "model: m, limits: {concurrency: 6}}\n  dear")
    scene = scene_in(tmp_path, 200, "concurrency: 10, rate: 30/min, canary: 0", provider)
    others = variants(scene)
    assert list(others) == ["concurrency 5", "concurrency 20", "rate 15/min", "rate 60/min"]
    assert others["concurrency 20"].manifest.limits_of("cheap").concurrency == 12
    assert others["concurrency 20"].manifest.limits_of("dear").concurrency == 20
    slow, fast = (rehearse(others[f"rate {rate}/min"], "1").seconds for rate in (15, 60))
    assert slow > 800  # 200 at 15 a minute
    assert fast < 400  # where 6 of 10 s at once are what bounds them
    assert list(variants(scene_in(tmp_path, 1, "concurrency: 10"))) == []


def test_batches_are_refused_in_a_sentence(tmp_path: Path) -> None:
    provider = (
        "provider: {name: openai, api: openai, base_url: https://a.example/v1, keys: [A_KEY], price: 0.10, "
        "currency: USD, model: gpt-image-1, mode: batch}"
    )
    with pytest.raises(UsageError, match=r"openai works in batches, .* provider\.mode: live rehearses it live"):
        scene_in(tmp_path, 3, provider=provider)


def test_the_night_goes_on_where_the_folder_stands(tmp_path: Path) -> None:
    """Of 40 jobs 10 have ended, 10 have a link, 10 a task, 10 nothing: the last alone are paid for."""
    manifest = load_manifest(manifest_in(tmp_path, 40, "concurrency: 5, canary: 0, budget: 5.60"))

    def follows(ledger: Ledger, job: Job, attempt: int) -> None:
        if job.position < 20:
            link = Received(asset=Link(url="https://cdn.example/x"), cost=None, api_seconds=30.0)
            ledger.captured(attempt, link)
        elif job.position < 30:
            ledger.submitted(attempt, f"task-{job.id}", None)
        else:
            ledger.voided(attempt, unanswered=False)
        if job.position < 10:
            ledger.finish(job, Outcome(status=Status.FAILED, error_code="moderated", error="", finished_at=DUSK - 590))

    left_behind(manifest, follows)
    scene = scene_of(manifest, Selection(), Assumed(at=DUSK))
    assert (len(scene.works), scene.free, scene.already) == (30, 20, 30 * PRICE)
    assert scene.pasts["tuzi"].calls == 20
    night = rehearse(scene, "1")
    assert (night.done, night.left) == (30, 0)
    assert night.spent == Decimal("1.40")
    assert 60 <= night.seconds < 63  # 10 calls of 30 s, 5 at once


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_nothing_is_written_into_any_folder(tmp_path: Path) -> None:
    manifest = load_manifest(manifest_in(tmp_path, 10))
    left_behind(manifest, lambda _ledger, _job, _attempt: None)
    before = files(tmp_path)
    scene = scene_of(manifest, Selection(), Assumed(at=DUSK, folders=[manifest.output.dir]))
    assert rehearse(scene, "1").done + rehearse(scene, "2").unknown >= 0
    assert files(tmp_path) == before
    with contextlib.closing(sqlite3.connect(manifest.output.dir / "ledger.db")) as connection:
        assert connection.execute("SELECT COUNT(*) FROM attempts").fetchone() == (10,)


def test_no_folder_is_made(tmp_path: Path) -> None:
    rehearse(scene_in(tmp_path, 10), "1")
    assert {path.name for path in tmp_path.iterdir()} == {"m.yaml", "t.csv"}


def test_a_turnstile_lets_in_what_is_allowed_and_says_when_it_tells() -> None:
    now = 0.0
    gate = Turnstile(Allowed(rate=2.0, burst=2.0, active=3, tells=True), lambda: now)
    assert [gate.refusal(), gate.refusal()] == [None, None]
    refused = gate.refusal()
    assert refused is not None
    assert (refused.code, refused.retry_after) == (Code.RATE_LIMITED, 1.0)
    assert gate.pause() == pytest.approx(1.0)
    now = 0.5
    assert gate.refusal() is None
    now = 10.0
    full = gate.refusal()
    assert full is not None
    assert full.message == "too many concurrent requests"
    assert full.retry_after is None
    gate.leave()
    assert gate.refusal() is None
    assert gate.pause() is None


@pytest.mark.parametrize("api", ["replicate", "fal", "bfl"])
def test_what_a_dead_run_left_unanswered_is_asked_for_and_sent_once_more(tmp_path: Path, api: str) -> None:
    provider = f"provider: {{name: tuzi, api: {api}, keys: [NO_SUCH_KEY], price: 0.14, currency: CNY, model: a/b}}"
    photo = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(photo)
    path = manifest_in(tmp_path, 10, "canary: 0", provider)
    path.write_text(path.read_text().replace('picture {{ n }}"}', 'picture {{ n }}", image: a.png}'))
    manifest = load_manifest(path)
    left_behind(manifest, lambda _ledger, _job, _attempt: None)
    scene = scene_of(manifest, Selection(), Assumed(at=DUSK, seconds=(5.0, 5.0)))
    assert len(scene.works) == 10
    night = rehearse(scene, "1")
    assert (night.done, night.spent) == (10, scene.plan.cost)
