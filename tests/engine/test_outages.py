"""Outages on a virtual clock: whenever one comes, whatever it is like, no job is given up and nothing is paid twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.engine.outages import DOWN_SECONDS, FEW, NEVER, Outages, Place, in_words
from batchflux.engine.shutdown import Gate
from batchflux.errors import Code, JobError
from tests.engine.conftest import Reply

if TYPE_CHECKING:
    from batchflux.models import Job
    from tests.engine.conftest import Night, RunEnded

NightOf = Callable[[int], "Night"]
PRICE = 140_000_000
MINUTES = 60.0
SLOW_TIMEOUT = pytest.param(Code.TIMEOUT, marks=pytest.mark.slow)


def now() -> float:
    return asyncio.get_running_loop().time()


def away(scene: Night, code: Code, begin: float, end: float, after: float = 0.05) -> None:
    """Let every request between two times fail like this; the others take a second."""

    def by_key(_: str | None, __: int) -> Reply | None:
        return scene.error(code, after, billed=False) if begin <= now() < end else None

    scene.server.by_key = by_key


def check(scene: Night, ended: RunEnded, jobs: int) -> None:
    """All is done, and was paid once."""
    assert ended.reason is None
    assert (ended.tally.done, ended.tally.failed, ended.tally.unknown) == (jobs, 0, 0)
    assert set(scene.server.delivered.values()) == {1}
    assert scene.spent() == scene.server.charged * PRICE == jobs * PRICE


def messages(ended: RunEnded, name: str) -> list[str]:
    return [fields["message"] for event, fields in ended.notes.events if event == name]


@pytest.mark.parametrize("code", [Code.NETWORK, SLOW_TIMEOUT, Code.SERVER])
@pytest.mark.parametrize("begin", [0.0, 7.5])
@pytest.mark.parametrize(("jobs", "concurrency"), [(1, 4), (3, 4), (30, 4), (150, 64)])
def test_twenty_minutes_without_a_provider_cost_no_job(
    night: NightOf, code: Code, begin: float, jobs: int, concurrency: int
) -> None:
    scene = night(jobs)
    scene.server.api = lambda *_: scene.picture(5.0)
    away(scene, code, begin, begin + 20 * MINUTES)
    ended = scene.run(concurrency=concurrency, max_consecutive_failures=20)
    check(scene, ended, jobs)
    assert ended.seconds < 20 * MINUTES + jobs * 5.0 / concurrency + 120
    assert max(row.attempts for row in scene.rows().values()) <= 2
    late = [call for call in scene.server.calls if begin + 30 <= call.at < begin + 20 * MINUTES]
    assert len(late) <= 30
    if late:
        assert len(messages(ended, "away")) == 1
        assert "probing, next at" in messages(ended, "away")[0]
        assert "back after 20." in messages(ended, "back")[0]


@pytest.mark.parametrize("code", [Code.NETWORK, Code.SERVER])
@pytest.mark.parametrize("jobs", [2, 100])
def test_one_key_of_two_that_reaches_nobody_costs_no_job_and_no_time(night: NightOf, code: Code, jobs: int) -> None:
    scene = night(jobs)
    scene.server.by_key = lambda key, _: (
        scene.error(code, 0.05) if key == "A" and now() < 20 * MINUTES else scene.picture(5.0)
    )
    ended = scene.run(concurrency=8, keys=("A", "B"))
    check(scene, ended, jobs)
    assert ended.seconds < 10 + jobs * 5.0 / 4
    assert sum(call.key == "A" for call in scene.server.calls) < 30
    assert messages(ended, "away") == []


@pytest.mark.parametrize("cause", [Code.NETWORK, Code.SERVER])
@pytest.mark.parametrize("begin", [0.0, 7.5])
@pytest.mark.parametrize(("jobs", "concurrency"), [(1, 4), (30, 4), (150, 64)])
def test_twenty_minutes_without_the_host_of_pictures_cost_no_picture(
    night: NightOf, cause: Code, begin: float, jobs: int, concurrency: int
) -> None:
    scene = night(jobs)
    scene.server.api = lambda *_: scene.picture(2.0)
    end = begin + 20 * MINUTES
    scene.server.files = lambda *_: (
        scene.error(Code.DOWNLOAD, 0.05, cause=cause) if begin <= now() < end else scene.picture(0.5)
    )
    ended = scene.run(concurrency=concurrency, max_consecutive_failures=20)
    check(scene, ended, jobs)
    assert sum(begin + 30 <= call.at < end for call in scene.server.fetches) <= 120


@pytest.mark.parametrize(("jobs", "concurrency"), [(4, 4), (150, 64)])
def test_connections_that_turn_dead_cost_no_job(night: NightOf, jobs: int, concurrency: int) -> None:
    """What is out is cut off at its timeout and may have been billed; what leaves then gets no connection."""
    scene = night(jobs)
    begin, end, timeout = 7.5, 20 * MINUTES, 60.0

    def by_key(_: str | None, __: int) -> Reply:
        if begin <= now() < end:
            return scene.error(Code.TIMEOUT, 15.0)
        left = begin - now()
        return scene.error(Code.UNKNOWN, timeout) if 0 < left < 5.0 else scene.picture(5.0)

    scene.server.by_key = by_key
    ended = scene.run(concurrency=concurrency)
    assert ended.reason is None
    assert (ended.tally.done, ended.tally.failed, ended.tally.unknown) == (jobs, 0, 0)
    lost = sum(call.reply.code is Code.UNKNOWN for call in scene.server.calls)
    assert scene.server.charged == jobs + lost
    assert sum(row.possibly_billed for row in scene.rows().values()) == lost <= concurrency


def test_a_server_that_takes_requests_and_never_answers_costs_few(night: NightOf) -> None:
    scene = night(60)
    scene.server.api = lambda *_: scene.error(Code.UNKNOWN, 30.0) if 10 <= now() < 20 * MINUTES else scene.picture(5.0)
    ended = scene.run(concurrency=4)
    assert (ended.reason, ended.tally.done) == (None, 60)
    assert scene.server.charged - 60 <= 4 + 10, "four were out, and the pauses between probes that may be billed grow"


@pytest.mark.parametrize("patience", [60.0, 1800.0])
def test_after_the_patience_the_run_stops_and_no_job_has_failed(night: NightOf, patience: float) -> None:
    scene = night(30)
    away(scene, Code.NETWORK, 5.0, NEVER)
    ended = scene.run(concurrency=4, patience=patience)
    assert ended.reason is not None
    assert (ended.reason.reason, ended.reason.exit_code) == ("failures", 3)
    assert "The provider has not been there for" in str(ended.reason)
    assert patience / 2 <= ended.seconds <= patience + 120
    assert {row.status for row in scene.rows().values()} <= {"done", "pending"}
    scene.server.by_key = lambda *_: None
    assert scene.run(concurrency=4).reason is None
    assert scene.spent() == 30 * PRICE


def test_an_outage_lasts_into_the_night_for_as_long_as_the_user_says(night: NightOf) -> None:
    scene = night(10)
    away(scene, Code.SERVER, 0.0, 6 * 3600)
    ended = scene.run(concurrency=4, patience=NEVER)
    check(scene, ended, 10)
    assert len(scene.server.calls) < 10 + 6 * 60 + 60


def test_a_host_of_pictures_that_stays_away_stops_the_run_with_its_pictures_pending(night: NightOf) -> None:
    scene = night(4)
    scene.server.files = lambda *_: scene.error(Code.DOWNLOAD, 0.05, cause=Code.NETWORK)
    ended = scene.run(concurrency=4)
    assert ended.reason is not None
    assert "host of pictures cdn.example has not been there" in str(ended.reason)
    assert {row.status for row in scene.rows().values()} == {"pending"}
    scene.server.files = {}
    assert scene.run().tally.done == 4
    assert scene.server.charged == 4


@pytest.mark.parametrize("patience", [5.0, 65.0, NEVER])
@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("jobs", [10, 400])
def test_one_host_that_stays_away_costs_its_own_picture_only_while_others_come(
    night: NightOf, patience: float, jobs: int, *, inline: bool
) -> None:
    scene = night(jobs)
    scene.server.hosts = {"j0": "dead.example"}
    scene.server.api = lambda name, _: Reply(after=2.0, inline=inline and name != "j0")
    scene.server.files = {"j0": (scene.error(Code.DOWNLOAD, 0.1, cause=Code.NETWORK),)}
    ended = scene.run(concurrency=2, patience=patience, deadline=86400.0)
    assert ended.reason is None
    assert (ended.tally.done, ended.tally.codes) == (jobs - 1, {"download": 1})
    assert ended.seconds < max(min(patience, 1800.0), jobs) + 30
    scene.server.files = {}
    assert scene.run().tally.done == 1
    assert scene.server.charged == jobs


@pytest.mark.parametrize("patience", [1.0, 5.0, 100.0])
def test_a_last_probe_leaves_as_the_patience_ends(night: NightOf, patience: float) -> None:
    scene = night(9)
    scene.server.api = lambda *_: scene.error(Code.UNKNOWN, 12.0)
    ended = scene.run(concurrency=1, patience=patience)
    assert ended.reason is not None
    assert scene.server.calls[0].at + 12.0 < scene.server.calls[1].at
    assert ended.seconds < 12.0 + patience + 30.0


def left_on_a_dead_host(scene: Night, jobs: int) -> None:
    """Let the first `jobs` have pictures that were paid for and cannot be fetched."""
    all_jobs, scene.jobs = scene.jobs, scene.jobs[:jobs]
    scene.server.hosts = {job.id: "dead.example" for job in scene.jobs}
    scene.server.files = dict.fromkeys(scene.server.hosts, (scene.error(Code.DOWNLOAD, 0.1, cause=Code.NETWORK),))
    scene.run(patience=20.0)
    assert {row.status for row in scene.rows().values()} == {"pending"}
    assert (len(scene.rows()), scene.server.charged) == (jobs, jobs)
    scene.jobs = all_jobs


@pytest.mark.parametrize("canary", [0, 4])
def test_old_links_to_a_dead_host_keep_nothing_from_being_bought(night: NightOf, canary: int) -> None:
    scene = night(60)
    left_on_a_dead_host(scene, 40)
    ended = scene.run(
        concurrency=4, workers=8, canary=canary, max_consecutive_failures=3, patience=100.0, free_first=True
    )
    assert ended.reason is None
    assert (ended.tally.done, ended.tally.codes) == (20, {"download": 40})
    assert scene.server.charged == 60
    assert scene.server.calls[40].at < 60.0, "they wait for nothing"


@pytest.mark.parametrize("patience", [5.0, 1800.0])
def test_who_pays_again_waits_for_no_dead_host(night: NightOf, patience: float) -> None:
    scene = night(1)
    left_on_a_dead_host(scene, 1)
    scene.server.hosts = {}
    dead = scene.error(Code.DOWNLOAD, 0.1, cause=Code.NETWORK)
    scene.server.files = lambda *_: dead if len(scene.server.calls) == 1 else scene.picture(0.1)
    ended = scene.run(retry_failed=True, pay_again=True, patience=patience)
    assert (ended.reason, ended.tally.done, scene.server.charged) == (None, 1, 2)
    assert ended.seconds < 60.0


@pytest.mark.parametrize("canary", [0, 4])
@pytest.mark.parametrize("limit", [None, 6])
def test_what_is_free_comes_first_and_is_taken_up_when_the_money_has_ended(
    night: NightOf, canary: int, limit: int | None
) -> None:
    scene = night(8)
    scene.jobs, all_jobs = scene.jobs[5:], scene.jobs
    scene.server.files = lambda *_: scene.error(Code.DOWNLOAD, 0.1, dead=True)
    scene.run()
    assert scene.server.charged == 3
    scene.jobs, scene.server.files = all_jobs, lambda *_: scene.picture(9.0)
    ended = scene.run(budget=Decimal("0.56"), canary=canary, free_first=True, limit=limit)
    assert ended.tally.done == (4 if limit is None else 2)
    assert sum(row.status == "done" for row in scene.rows().values()) == ended.tally.done
    if canary:
        assert scene.server.calls[3].at > 9.0, "only what was paid for tells whether more may be bought"


@pytest.mark.parametrize("ends", [{"budget": Decimal("0.20")}, {"deadline": 3.0}])
def test_a_paid_picture_is_fetched_again_behind_a_gate_that_money_or_time_closed(
    night: NightOf, ends: dict[str, Any]
) -> None:
    scene = night(5)
    scene.server.files = lambda _, number: scene.error(Code.DOWNLOAD, 0.1) if number < 3 else scene.picture(0.1)
    ended = scene.run(concurrency=1, **ends)
    assert ended.reason is not None
    assert ended.tally.done == scene.server.charged > 0


def test_tasks_that_are_out_outlive_an_outage_longer_than_their_time(
    night: NightOf, job_number: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = night(0)
    scene.jobs = [job_number(number, style="tasks") for number in range(8)]
    scene.server.api = lambda *_: Reply(after=0.5, task=30.0)
    polled = scene.server._poll

    def poll(request: Any) -> Any:
        if 10 <= now() < 20 * MINUTES:
            raise JobError(Code.NETWORK, "https://api was not reached: connection refused; it is free")
        return polled(request)

    monkeypatch.setattr(scene.server, "_poll", poll)
    ended = scene.run(concurrency=8, timeout=60.0)
    check(scene, ended, 8)
    assert "provider not reachable: connection refused; probing" in messages(ended, "away")[0]
    assert sum(scene.server.polls.values()) < 400


def test_a_job_that_breaks_the_provider_fails_alone_among_others(night: NightOf) -> None:
    scene = night(60)
    scene.server.api = lambda name, _: scene.error(Code.SERVER, 0.2) if name == "j7" else scene.picture(2.0)
    ended = scene.run(concurrency=4)
    assert (ended.reason, ended.tally.done, ended.tally.codes) == (None, 59, {"server": 1})
    assert ended.seconds < 60


@pytest.mark.parametrize("concurrency", [4, 64])
def test_jobs_that_break_the_provider_fail_also_when_they_are_all_that_is_left(
    night: NightOf, concurrency: int
) -> None:
    scene = night(20)
    broken = {"j0", "j7", "j8", "j13"}
    scene.server.api = lambda name, _: scene.error(Code.SERVER, 0.2) if name in broken else scene.picture(0.5)
    ended = scene.run(concurrency=concurrency)
    assert ended.reason is None
    assert {name for name, row in scene.rows().items() if row.status == "failed"} == broken
    assert {row.error_code for row in scene.rows().values() if row.status == "failed"} == {"server"}
    assert ended.seconds < 120


def test_a_job_that_breaks_the_provider_fails_beside_one_that_is_never_answered(night: NightOf) -> None:
    scene = night(12)
    codes = {"j3": Code.SERVER, "j5": Code.UNKNOWN}
    scene.server.api = lambda name, _: scene.error(codes[name], 0.3) if name in codes else scene.picture(0.5)
    ended = scene.run(concurrency=12)
    assert ended.reason is None
    assert {name: row.error_code for name, row in scene.rows().items() if row.error_code} == {
        "j3": "server",
        "j5": "unknown",
    }
    assert ended.seconds < 120


def test_a_file_that_its_host_cannot_give_fails_alone_among_others(night: NightOf) -> None:
    scene = night(30)
    scene.server.files = lambda name, _: (
        scene.error(Code.DOWNLOAD, 0.1, cause=Code.SERVER) if name == "j3" else scene.picture(0.5)
    )
    ended = scene.run(concurrency=4)
    assert (ended.reason, ended.tally.done, ended.tally.codes) == (None, 29, {"download": 1})
    assert scene.server.charged == 30


REFUSED = JobError(Code.NETWORK, "https://api.example was not reached: connection refused; nothing was sent")
BROKEN = JobError(Code.SERVER, "HTTP 503: no channel")
LOST = JobError(Code.UNKNOWN, "no answer: cut off; it may have been billed", billed=True)


@pytest.mark.parametrize(
    ("history", "error", "charged"),
    [
        ([], REFUSED, False),
        (["answer"], REFUSED, False),
        ([], BROKEN, False),
        (["answer"], BROKEN, True),
        (["answer", "another's"], BROKEN, False),
        (["answer", "its own"], BROKEN, True),
        (["answer", "another's", "answer"], BROKEN, True),
        ([], LOST, True),
    ],
)
async def test_which_failures_are_held_against_their_job(history: list[str], error: JobError, charged: bool) -> None:  # noqa: FBT001  pytest's
    outages, place = Outages(20, Gate()), Place()
    outages.keys = lambda: [place]
    for what in history:
        if what == "answer":
            outages.answered(place, 0.0)
        else:
            outages.failed(place, "j" if what == "its own" else "k", BROKEN, 0.1, 0.1)
    assert outages.failed(place, "j", error, 0.2, 0.2) is charged


async def test_a_job_pays_one_attempt_for_a_row_of_5xx_if_it_has_one_to_spare() -> None:
    outages, place = Outages(20, Gate()), Place()
    outages.keys = lambda: [place]
    charged = [outages.failed(place, job, BROKEN, 0.0, 0.1, spare=True) for job in "jkj"]
    assert charged == [True, True, False]
    assert not outages.failed(place, "l", BROKEN, 0.0, 0.1, spare=False)
    outages.answered(place, 1.0)
    assert outages.failed(place, "k", BROKEN, 2.0, 2.1, spare=True)


async def test_a_place_is_down_after_a_few_failures_over_some_seconds_or_many_that_may_be_billed() -> None:
    outages, place = Outages(5, Gate()), Place()
    outages.keys = lambda: [place]
    for job in range(10):
        outages.failed(place, str(job), REFUSED, 0.0, DOWN_SECONDS - 0.1)
    assert not place.down
    outages.answered(place, DOWN_SECONDS)
    for job in range(FEW):
        outages.failed(place, str(job), REFUSED, 0.0, 2 * DOWN_SECONDS)
    assert place.down, "those that left before the last answer count from it on"
    outages.answered(place, 20.0)
    for job in range(5):
        assert not place.down
        outages.failed(place, str(job), LOST, 20.0, 20.1)
    assert place.down


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("https://a.example was not reached: refused; nothing was sent", "refused"),
        (
            "https://a.example was not reached: the TLS handshake failed (wrong version number; is it http?); nothing",
            "the TLS handshake failed (wrong version number; is it http?)",
        ),
        ("not reached", "not reached"),
    ],
)
def test_a_cause_is_told_whole_and_without_what_all_messages_say(message: str, told: str) -> None:
    assert in_words(JobError(Code.NETWORK, message)) == told


async def test_what_a_person_is_told() -> None:
    told: list[tuple[str, str]] = []
    outages, place = Outages(20, Gate()), Place()
    outages.keys = lambda: [place]
    outages.event = lambda name, **fields: told.append((name, fields["message"][9:]))
    outages.wall = lambda: 1_800_000_000.0
    for job in "abc":
        outages.failed(place, job, REFUSED, 0.0, DOWN_SECONDS)
    assert outages.waiting_for(4.0) == ("provider not reachable: connection refused", 1.0)
    place.probing = True
    assert outages.waiting_for(5.0) == ("provider not reachable: connection refused", 0.0)
    outages.failed(place, "a", BROKEN, 5.0, 5.0)
    outages.answered(place, 63.0)
    assert outages.waiting_for(63.0) is None
    said = [message.partition("; probing, next at")[0] for _, message in told]
    assert [name for name, _ in told] == ["away", "probe_failed", "back"]
    assert said == [
        "provider not reachable: connection refused",
        "provider not reachable: HTTP 503: no channel",
        "provider back after 1.1 minutes",
    ]
