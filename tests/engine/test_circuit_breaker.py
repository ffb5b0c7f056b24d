"""The circuit breaker: when it opens, how it probes, what closes it, and what it says when it gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.engine.circuit_breaker import CircuitBreaker
from batchflux.engine.outages import NEVER
from batchflux.engine.shutdown import Gate
from batchflux.errors import Code, JobError
from batchflux.models import Outcome, Status

if TYPE_CHECKING:
    from tests.engine.conftest import Night, NightFactory

NightOf = Callable[[int], "Night"]
DONE = Outcome(status=Status.DONE)


def error(code: Code = Code.SERVER) -> JobError:
    return JobError(code, "HTTP 502")


def failed(code: Code = Code.SERVER) -> Outcome:
    return Outcome(status=Status.FAILED, error_code=code.value, error="HTTP 502")


@pytest.fixture
async def gate() -> Gate:
    return Gate()


@pytest.fixture
async def breaker(gate: Gate) -> CircuitBreaker:
    return CircuitBreaker(3, gate)


def fail_jobs(breaker: CircuitBreaker) -> None:
    """Three jobs in a row failed at second 1."""
    for _ in range(3):
        breaker.ended(failed(Code.BAD_ANSWER), 1.0)
    assert is_open(breaker)


def is_open(breaker: CircuitBreaker) -> bool:
    """Read anew: to mypy an attribute keeps what was asserted of it."""
    return breaker.open


def probe_fails(breaker: CircuitBreaker, now: float) -> float:
    """Let the probe that is due leave and fail; return when the next one is due."""
    assert breaker.next_at(now, 0) == now
    breaker.leaves()
    assert breaker.next_at(now, 1) == NEVER
    breaker.failed(error(), now)
    return breaker.next_at(now, 0)


def test_nothing_leaves_while_what_left_before_it_opened_is_out(breaker: CircuitBreaker) -> None:
    fail_jobs(breaker)
    assert breaker.next_at(100.0, 2) == NEVER
    breaker.failed(error(), 100.0)  # one of those: it was no probe
    assert breaker.next_at(100.0, 0) == 100.0


def test_jobs_in_a_row_open_it_and_the_probes_are_brief(breaker: CircuitBreaker, gate: Gate) -> None:
    fail_jobs(breaker)
    assert breaker.next_at(1.0, 0) == 2.0
    assert probe_fails(breaker, 2.0) == 4.0
    assert probe_fails(breaker, 4.0) == 8.0
    assert not gate.closed
    probe_fails(breaker, 8.0)
    assert gate.reason is not None
    assert str(gate.reason) == (
        "3 jobs in a row failed, and 3 probes after a pause did too (server: HTTP 502): "
        "see to the provider, then run again to continue (--retry-failed for jobs that failed)."
    )


def test_a_job_that_is_done_closes_it(breaker: CircuitBreaker) -> None:
    fail_jobs(breaker)
    breaker.leaves()
    assert breaker.next_at(5.0, 0) == NEVER
    breaker.ended(DONE, 6.0)
    assert not is_open(breaker)


@pytest.mark.parametrize("code", [Code.MODERATED, Code.REFERENCE, Code.UNSAFE_URL, Code.ECHOED_INPUT])
def test_jobs_that_fail_by_themselves_say_nothing_about_the_provider(breaker: CircuitBreaker, code: Code) -> None:
    for at in range(50):
        breaker.ended(failed(code), float(at))
    assert not is_open(breaker)


@pytest.mark.parametrize("code", [Code.UNSAFE_URL, Code.ECHOED_INPUT])
def test_a_probe_whose_job_fails_by_itself_is_followed_by_another(breaker: CircuitBreaker, code: Code) -> None:
    told: list[bool] = []
    fail_jobs(breaker)
    breaker.on_change(lambda: told.append(breaker.open))
    breaker.leaves()
    breaker.ended(failed(code), 5.0)
    assert breaker.next_at(5.0, 0) == 5.0
    assert told == [True]


def test_a_lease_that_was_given_back_was_no_probe(breaker: CircuitBreaker) -> None:
    fail_jobs(breaker)
    breaker.leaves()
    breaker.gave_back()
    assert breaker.next_at(30.0, 0) == 30.0


def test_a_done_job_breaks_a_row_of_failed_ones(breaker: CircuitBreaker) -> None:
    for at in range(30):
        breaker.ended(DONE if at % 3 == 2 else failed(), float(at))
    assert not is_open(breaker)


def test_a_run_whose_probe_gets_an_unsafe_link_goes_on(night: NightOf) -> None:
    scene = night(8)
    scene.server.api = lambda name, _: scene.error(Code.BAD_ANSWER, 0.1) if int(name[1:]) < 2 else scene.picture(0.1)
    scene.server.files = {"j2": [scene.error(Code.UNSAFE_URL, 1.0)]}
    ended = scene.run(concurrency=1, workers=1, attempts=1, max_consecutive_failures=2)
    assert ended.reason is None
    assert (ended.tally.done, ended.tally.failed) == (5, 3)


def test_pictures_that_cannot_be_fetched_hold_requests_back_until_that_is_settled(breaker: CircuitBreaker) -> None:
    told: list[bool] = []
    breaker.on_change(lambda: told.append(breaker.open))
    for _ in range(3):
        assert breaker.next_at(1.0, 5) == 1.0
        breaker.troubled()
    assert breaker.next_at(1.0, 0) == NEVER
    breaker.ended(DONE, 2.0)  # its second try succeeded: the host is there
    breaker.relieved()
    assert breaker.next_at(2.0, 5) == 2.0
    assert told == [False]


def test_when_no_troubled_job_is_left_requests_leave_again(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        breaker.troubled()
    for _ in range(3):
        assert breaker.next_at(1.0, 0) == NEVER
        breaker.ended(failed(Code.UNSAFE_URL), 1.0)
        breaker.relieved()
    assert breaker.next_at(1.0, 0) == 1.0


@pytest.mark.parametrize("code", [Code.DOWNLOAD, Code.BAD_IMAGE])
def test_few_pictures_are_paid_for_that_cannot_be_fetched(night: NightOf, code: Code) -> None:
    scene = night(400)
    scene.server.api = lambda _, __: scene.picture(0.05)
    scene.server.files = lambda _, __: scene.error(code, 0.05)
    ended = scene.run(concurrency=8, max_consecutive_failures=5)
    assert ended.reason is not None
    assert ended.reason.reason == "failures"
    assert scene.server.charged <= 5 + 3 * 8  # out, answered and being fetched when the fifth failed


def test_few_requests_are_lost_before_the_run_pauses(night: NightOf) -> None:
    scene = night(400)
    scene.server.api = lambda _, __: scene.error(Code.UNKNOWN, 0.05, billed=True)
    ended = scene.run(concurrency=8, max_consecutive_failures=5)
    assert ended.reason is not None
    assert ended.reason.reason == "failures"
    assert scene.server.charged <= 5 + 8 + 8


def test_a_restart_of_the_host_of_pictures_costs_no_job(night: NightOf) -> None:
    scene = night(100)

    def host(_: str, __: int) -> Any:
        away = 3 <= asyncio.get_running_loop().time() < 9
        return scene.error(Code.DOWNLOAD, 0.05) if away else scene.picture(0.05)

    scene.server.api = lambda _, __: scene.picture(0.2)
    scene.server.files = host
    ended = scene.run(concurrency=4, max_consecutive_failures=20)
    assert ended.reason is None
    assert ended.tally.done == 100


def test_while_it_is_open_neither_fresh_jobs_nor_retries_leave(night: NightOf) -> None:
    scene = night(200)
    down = range(20, 140)

    def moody(_: str | None, __: int) -> Any:
        now = asyncio.get_running_loop().time()
        return scene.error(Code.SERVER, 0.1) if int(now) in down else None

    scene.server.by_key = moody
    ended = scene.run(concurrency=8, interval=0.25, max_consecutive_failures=10)
    assert ended.reason is None
    during = [call.at for call in scene.server.calls if 40 <= call.at < 140]
    assert 1 <= len(during) <= 4
    assert ended.seconds < 250


PROBE = st.sampled_from([*Code, None])


@settings(deadline=None, max_examples=20)
@given(
    answers=st.lists(PROBE, min_size=1, max_size=25),
    files=st.lists(st.sampled_from([None, Code.DOWNLOAD, Code.BAD_IMAGE, Code.UNSAFE_URL]), min_size=1, max_size=25),
    limit=st.integers(1, 4),
    concurrency=st.integers(1, 3),
)
def test_whatever_answers_come_no_run_hangs(
    nights: NightFactory, answers: list[Code | None], files: list[Code | None], *, limit: int, concurrency: int
) -> None:
    """The virtual loop raises when nothing is left that could happen."""
    with nights(len(answers)) as scene:
        scene.server.api = lambda name, number: _reply(scene, answers, int(name[1:]) + number)
        scene.server.files = lambda name, number: _reply(scene, files, int(name[1:]) + number)
        ended = scene.run(concurrency=concurrency, max_consecutive_failures=limit, attempts=3)
        assert ended.reason is None or ended.reason.exit_code == 3
        assert all(row.in_flight is None for row in scene.rows().values())


def _reply(scene: Night, codes: list[Code | None], number: int) -> Any:
    code = codes[number % len(codes)]
    return scene.picture(0.5) if code is None else scene.error(code, 0.5)
