"""The canary: how much is bought from a provider of which nothing could be kept yet, and when it is trusted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.engine.canary import Canary
from batchflux.engine.shutdown import Gate, Halted
from batchflux.errors import RULES, Code, JobError
from tests.conftest import numbered_job
from tests.engine.conftest import Reply

if TYPE_CHECKING:
    from tests.engine.conftest import Night, NightFactory, RunEnded

NightOf = Callable[[int], "Night"]
GIVEN_BACK = {  # what a user is promised, not what the table says
    Code.RATE_LIMITED,
    Code.SERVER,
    Code.NETWORK,
    Code.TIMEOUT,
    Code.MODERATED,
    Code.INVALID_REQUEST,
    Code.AUTH,
    Code.QUOTA,
    Code.REFERENCE,
}


def stopped(ended: RunEnded) -> str:
    assert ended.reason is not None
    assert (ended.reason.reason, ended.reason.exit_code) == ("canary", 3)
    return str(ended.reason)


def test_which_ends_give_a_place_back() -> None:
    assert {code for code, rule in RULES.items() if rule.untold} == GIVEN_BACK


@pytest.mark.parametrize("code", [Code.BAD_ANSWER, Code.NO_IMAGE, Code.ECHOED_INPUT, Code.UNKNOWN])
@pytest.mark.parametrize(("jobs", "concurrency"), [(200, 24), (200, 1), (3, 8)])
def test_of_two_hundred_at_most_four_are_bought(night: NightOf, code: Code, jobs: int, concurrency: int) -> None:
    scene = night(jobs)
    scene.server.api = lambda *_: scene.error(code, 2.0, billed=True)
    ended = scene.run(concurrency=concurrency, canary=4)
    if jobs > 3:
        assert code.value in stopped(ended)
        assert "limits.canary: 0" in stopped(ended)
    assert len(scene.server.calls) <= 4
    assert len(scene.rows()) <= 4
    scene.run(concurrency=concurrency, canary=4, retry_failed=True)
    assert len(scene.server.calls) <= 8


@pytest.mark.parametrize("code", [Code.BAD_ANSWER, Code.NO_IMAGE])
def test_what_gave_no_picture_is_not_bought_again_each_night(night: NightOf, code: Code) -> None:
    """A job that the canary keeps from being asked again has failed: each night comes to other jobs."""
    scene = night(10)
    scene.server.api = lambda *_: scene.error(code, 2.0, billed=True)
    bought = []
    for _ in range(5):
        scene.run(concurrency=8, canary=4)
        bought.append(len(scene.server.calls))
    assert bought[:2] == [4, 8]
    assert bought[2:] == [bought[2]] * 3
    assert bought[2] <= 12
    assert [row.status for row in scene.rows().values()] == ["failed"] * 10


@pytest.mark.parametrize("code", [Code.DOWNLOAD, Code.UNSAFE_URL, Code.BAD_IMAGE])
def test_pictures_that_cannot_be_had_are_fetched_to_the_end_and_no_more_are_bought(night: NightOf, code: Code) -> None:
    scene = night(200)
    scene.server.files = lambda *_: scene.error(code, 0.5, dead=code is Code.DOWNLOAD)
    ended = scene.run(concurrency=24, canary=4)
    assert f"{code.value} 4" in stopped(ended)
    assert "links are kept in out" in stopped(ended)
    assert len(scene.server.calls) == 4
    scene.server.files = {}
    ended = scene.run(concurrency=24, canary=4, retry_failed=True)
    assert (ended.reason, ended.tally.done) == (None, 200)
    assert len(scene.server.calls) == 200


def test_a_link_that_is_slow_is_waited_for(night: NightOf) -> None:
    scene = night(50)
    scene.server.files = lambda _, number: scene.error(Code.DOWNLOAD, 20.0) if number < 3 else scene.picture(60.0)
    ended = scene.run(concurrency=24, canary=4)
    assert (ended.reason, ended.tally.done) == (None, 50)
    first = min(call.ended for call in scene.server.fetches if call.ended is not None)
    assert sum(call.at < first for call in scene.server.calls) == 4


def test_after_the_first_picture_all_is_free(night: NightOf) -> None:
    scene = night(100)
    scene.server.api = lambda name, _: scene.picture(30.0 if name == "j0" else 3.0)
    ended = scene.run(concurrency=24, interval=0.01, canary=4)
    assert ended.tally.done == 100
    assert sum(call.at < 3.0 for call in scene.server.calls) == 4
    assert sum(call.at < 5.0 for call in scene.server.calls) >= 24


@pytest.mark.parametrize("code", sorted(GIVEN_BACK - {Code.AUTH, Code.QUOTA, Code.REFERENCE}))
def test_what_tells_nothing_of_the_answers_is_not_counted(night: NightOf, code: Code) -> None:
    scene = night(40)
    scene.server.api = lambda name, number: (
        scene.error(code, 0.5) if int(name[1:]) < 10 and number == 0 else scene.picture()
    )
    ended = scene.run(concurrency=8, canary=2)
    assert ended.reason is None
    assert ended.tally.done == (30 if code in {Code.MODERATED, Code.INVALID_REQUEST} else 40)


def test_tasks_count_by_their_submission(night: NightOf, job_number: Callable[..., Any]) -> None:
    scene = night(0)
    scene.jobs = [job_number(number, style="tasks") for number in range(50)]
    scene.server.api = lambda *_: Reply(after=0.5, task=30.0, ends=Code.NO_IMAGE)
    stopped(scene.run(concurrency=24, canary=4))
    assert len(scene.server.tasks) <= 4


def test_one_kind_that_gives_nothing_leaves_the_others_their_way(
    night: NightOf, job_number: Callable[..., Any]
) -> None:
    scene = night(0)
    scene.jobs = [job_number(number, model="good" if number % 2 else "bad") for number in range(40)]
    scene.server.api = lambda name, _: scene.picture() if int(name[1:]) % 2 else scene.error(Code.BAD_ANSWER)
    ended = scene.run(concurrency=8, canary=4, kinds=2)
    assert "tuzi (bad, standard)" in stopped(ended)
    assert ended.tally.done == 20
    assert sum(int(call.id[1:]) % 2 == 0 for call in scene.server.calls) == 4


def test_a_run_with_less_to_do_than_it_may_try_just_ends(night: NightOf) -> None:
    scene = night(2)
    scene.server.api = lambda *_: scene.error(Code.BAD_ANSWER, final=True)
    ended = scene.run(canary=4)
    assert (ended.reason, ended.tally.failed) == (None, 2)


def test_an_outage_during_the_trial_is_waited_out(night: NightOf) -> None:
    scene = night(30)
    scene.server.by_key = lambda _, number: scene.error(Code.NETWORK, 0.1) if number < 12 else None
    ended = scene.run(concurrency=8, canary=4)
    assert (ended.reason, ended.tally.done) == (None, 30)


CODES = st.sampled_from([None, *(set(Code) - {Code.AUTH, Code.QUOTA})])


@settings(max_examples=25)
@given(
    answers=st.lists(CODES, min_size=1, max_size=12),
    files=st.lists(st.sampled_from([None, Code.DOWNLOAD, Code.BAD_IMAGE, Code.UNSAFE_URL]), min_size=1, max_size=4),
    canary=st.integers(1, 5),
    concurrency=st.integers(1, 6),
)
def test_whatever_comes_no_more_is_bought_than_may_be_and_no_run_hangs(
    nights: NightFactory, answers: list[Code | None], files: list[Code | None], *, canary: int, concurrency: int
) -> None:
    with nights(len(answers)) as scene:
        scene.server.api = lambda name, number: reply(scene, answers, int(name[1:]) + number)
        scene.server.files = lambda name, number: reply(scene, files, int(name[1:]) + number)
        scene.run(concurrency=concurrency, canary=canary, attempts=3, patience=100.0)
        stored = [call.ended for call in scene.server.fetches if call.ended is not None and call.reply.code is None]
        first = min(stored, default=float("inf"))
        counted = [
            call
            for call in scene.server.calls
            if call.at < first and (call.reply.code is None or not RULES[call.reply.code].untold)
        ]
        assert len(counted) <= canary


def reply(scene: Night, codes: list[Code | None], number: int) -> Reply:
    code = codes[number % len(codes)]
    return scene.picture(0.5) if code is None else scene.error(code, 0.5)


async def test_what_was_proven_before_needs_no_trial_and_what_is_kept_is_noted_once() -> None:
    asked, noted = list[str](), list[str]()

    async def proven(job: Any) -> bool:
        asked.append(job.model)
        return bool(job.model == "known")

    async def note(job: Any) -> bool:
        noted.append(job.model)
        return True

    gate = Gate()
    canary = Canary(1, gate, "out")
    canary.proven, canary.note = proven, note
    known, fresh = numbered_job(0, model="known"), numbered_job(1, model="fresh")
    for _ in range(9):
        await canary.take(known)
    await canary.take(fresh)
    canary.ended(fresh, JobError(Code.MODERATED, "no"))
    await canary.take(fresh)
    await canary.kept(fresh, placed=True)
    await canary.kept(fresh, placed=False)
    await canary.take(fresh)
    assert (asked, noted, gate.reason) == (["known", "fresh"], ["fresh"], None)


async def test_what_is_said_when_it_fails() -> None:
    gate = Gate()
    canary = Canary(2, gate, "out/spring")
    job = numbered_job(0)
    for _ in range(2):
        await canary.take(job)
    assert canary.waiting_for() is None
    for _ in range(2):
        canary.ended(job, JobError(Code.DIFFERS, "512x512 instead of 16:9"))
    assert str(gate.reason) == (
        "No picture was kept of the first 2 requests to tuzi (m, standard), so no more were bought: differs 2 "
        "(differs: 512x512 instead of 16:9). What was made is in out/spring/rejected: output.accept takes it, which "
        "costs nothing; limits.canary: 0 buys without trying first. Then run again to continue."
    )
    with pytest.raises(Halted):
        await canary.take(job)
