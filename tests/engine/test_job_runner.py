"""What follows each error code, and the order in which one job's steps are recorded, paid and repeated."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.errors import Code, JobError
from batchflux.models import Cost, Job, Reference
from tests.engine.conftest import Reply

if TYPE_CHECKING:
    from batchflux.models import HttpRequest
    from tests.engine.conftest import Night, NightFactory

NightOf = Callable[[int], "Night"]
PRICE = 140_000_000

ONCE = (Code.BAD_ANSWER, Code.NO_IMAGE)
AT_ONCE = (Code.ECHOED_INPUT, Code.MODERATED, Code.INVALID_REQUEST, Code.UNSAFE_URL, Code.REFERENCE)


def test_a_job_that_breaks_the_provider_is_tried_until_its_attempts_are_used(night: NightOf) -> None:
    scene = night(2)
    scene.server.api = {"j1": [scene.error(Code.SERVER)]}
    ended = scene.run(attempts=3, concurrency=1)
    row = scene.rows()["j1"]
    assert scene.server.per_job == {"j0": 1, "j1": 3}
    assert (row.status, row.error_code, row.attempts) == ("failed", "server", 3)
    assert row.error == "the server says server"
    assert (row.possibly_billed, scene.spent()) == (0, PRICE)
    assert ended.reason is None
    assert ended.tally.codes == {"server": 1}


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("billed", [False, True])
@pytest.mark.parametrize("code", ONCE)
def test_an_answer_without_a_picture_is_asked_for_once_more_at_most(
    night: NightOf, code: Code, *, billed: bool, final: bool
) -> None:
    scene = night(1)
    scene.server.api = {"j0": [scene.error(code, billed=billed, final=final)]}
    ended = scene.run()
    row, calls = scene.rows()["j0"], 1 if final else 2
    assert len(scene.server.calls) == calls
    assert (row.status, row.error_code, row.attempts) == ("failed", code.value, calls)
    assert row.possibly_billed == (calls if billed else 0)
    assert scene.spent() == (calls * PRICE if billed else 0)
    assert ended.reason is None


def test_bytes_that_are_no_picture_are_bought_once_more_at_most(night: NightOf) -> None:
    scene = night(1)
    scene.server.api = {"j0": [scene.picture(inline=True)]}
    scene.pictures.faults = {"j0": [JobError(Code.BAD_IMAGE, "half a picture") for _ in range(5)]}
    scene.run()
    assert (scene.rows()["j0"].error_code, len(scene.server.calls)) == ("bad_image", 2)


@pytest.mark.parametrize(("code", "attempts"), [*((code, 2) for code in ONCE), (Code.SERVER, 2), (Code.NETWORK, 1)])
def test_what_passes_ends_well(night: NightOf, code: Code, attempts: int) -> None:
    scene = night(1)
    scene.server.api = {"j0": [scene.error(code), scene.picture()]}
    scene.run(attempts=3)
    row = scene.rows()["j0"]
    assert (row.status, row.attempts, row.error_code, row.possibly_billed) == ("done", attempts, None, 0)
    assert scene.spent() == PRICE
    assert scene.pictures.files["images/j0.png"] == b"picture of j0"


@pytest.mark.parametrize("code", AT_ONCE)
def test_what_will_not_change_fails_at_once(night: NightOf, code: Code) -> None:
    scene = night(1)
    scene.server.api = {"j0": [scene.error(code)]}
    ended = scene.run()
    assert len(scene.server.calls) == 1
    row = scene.rows()["j0"]
    assert (row.status, row.error_code, row.attempts, scene.spent()) == ("failed", code.value, 1, 0)
    assert ended.reason is None


@pytest.mark.parametrize("code", [Code.AUTH, Code.QUOTA])
def test_a_refused_account_stops_the_run_and_costs_the_jobs_nothing(night: NightOf, code: Code) -> None:
    scene = night(20)
    scene.server.api = lambda name, number: scene.error(code)  # noqa: ARG005
    ended = scene.run(concurrency=4)
    assert ended.reason is not None
    assert (ended.reason.reason, ended.reason.exit_code) == (code.value, 3)
    assert "(A: the server says" in str(ended.reason)
    assert len(scene.server.calls) <= 4
    assert all(
        (row.status, row.attempts, row.in_flight, row.possibly_billed) == ("pending", 0, None, 0)
        for row in scene.rows().values()
    )
    assert scene.spent() == 0
    scene.server.api = {}
    assert scene.run().tally.done == 20


def test_a_rate_limit_costs_no_attempt(night: NightOf) -> None:
    scene = night(1)
    scene.server.api = {"j0": [*[scene.error(Code.RATE_LIMITED, 0.1)] * 7, scene.error(Code.SERVER), scene.picture()]}
    scene.run(attempts=2)
    row = scene.rows()["j0"]
    assert (row.status, row.attempts, len(scene.server.calls)) == ("done", 2, 9)
    assert scene.spent() == PRICE


def test_a_server_that_says_when_to_come_back_is_obeyed(night: NightOf) -> None:
    scene = night(1)
    scene.server.api = {"j0": [scene.error(Code.SERVER, retry_after=90), scene.picture()]}
    scene.run()
    first, second = scene.server.calls
    assert first.ended is None
    assert second.at - first.at == pytest.approx(91, abs=1)


@pytest.mark.parametrize(
    ("on_unknown", "calls", "status"), [("retry", 2, "unknown"), ("hold", 1, "unknown"), ("fail", 1, "failed")]
)
def test_unknown_outcomes(night: NightOf, on_unknown: str, calls: int, status: str) -> None:
    scene = night(1)
    scene.server.api = {"j0": [scene.error(Code.UNKNOWN)]}
    scene.run(on_unknown=on_unknown)
    row = scene.rows()["j0"]
    assert len(scene.server.calls) == calls
    assert (row.status, row.error_code, row.attempts, row.possibly_billed) == (status, "unknown", calls, calls)
    assert scene.spent() == calls * PRICE
    assert (row.cost, row.maybe_cost) == (0, calls * PRICE)


def test_an_unknown_outcome_is_resent_once_in_an_invocation_whatever_comes_between(night: NightOf) -> None:
    scene = night(1)
    script = [Code.UNKNOWN, Code.RATE_LIMITED, Code.SERVER, Code.UNKNOWN, Code.UNKNOWN, Code.UNKNOWN]
    scene.server.api = {"j0": [*map(scene.error, script), scene.picture()]}
    scene.run(attempts=9)
    row = scene.rows()["j0"]
    assert (row.status, row.possibly_billed, len(scene.server.calls)) == ("unknown", 2, 4)
    scene.run(attempts=9)
    row = scene.rows()["j0"]
    assert (row.status, row.possibly_billed, len(scene.server.calls)) == ("unknown", 3, 5)
    scene.run(attempts=9)
    scene.run(attempts=9)
    row = scene.rows()["j0"]
    assert (row.status, row.possibly_billed, len(scene.server.calls)) == ("done", 4, 7)
    assert scene.spent() == 5 * PRICE


@pytest.mark.parametrize("code", [Code.DOWNLOAD, Code.BAD_IMAGE])
def test_a_failing_download_is_fetched_again_and_never_paid_again(night: NightOf, code: Code) -> None:
    scene = night(1)
    scene.server.files = {"j0": [scene.error(code)]}
    scene.run(attempts=4)
    row = scene.rows()["j0"]
    assert (len(scene.server.calls), len(scene.server.fetches)) == (1, 4)
    assert (row.status, row.error_code, row.attempts, row.link) == (
        "failed",
        code.value,
        1,
        "https://cdn.example/j0/1",
    )
    assert scene.spent() == PRICE
    scene.run(attempts=4)  # a link is asked for by every run; bytes that came whole and are no picture are not
    again = 8 if code is Code.DOWNLOAD else 4
    assert (len(scene.server.calls), len(scene.server.fetches)) == (1, again)
    assert scene.spent() == PRICE


def test_bytes_that_are_no_picture_are_fetched_again(night: NightOf) -> None:
    scene = night(1)
    scene.pictures.faults = {"j0": [JobError(Code.BAD_IMAGE, "half a picture")]}
    scene.run()
    assert (len(scene.server.calls), len(scene.server.fetches)) == (1, 2)
    assert scene.rows()["j0"].status == "done"


@pytest.mark.parametrize("code", [Code.UNSAFE_URL, Code.ECHOED_INPUT])
def test_what_a_download_cannot_mend_is_not_fetched_again(night: NightOf, code: Code) -> None:
    scene = night(1)
    scene.server.files = {"j0": [scene.error(code)]}
    scene.run()
    assert (len(scene.server.calls), len(scene.server.fetches)) == (1, 1)
    assert scene.rows()["j0"].error_code == code.value


def test_retry_failed_fetches_a_link_that_lives(night: NightOf) -> None:
    scene = night(1)
    scene.server.files = lambda _, number: scene.error(Code.DOWNLOAD) if number < 5 else scene.picture()
    scene.run()
    assert scene.rows()["j0"].status == "failed"
    scene.run(retry_failed=True)
    row = scene.rows()["j0"]
    assert (row.status, row.error_code, len(scene.server.calls)) == ("done", None, 1)


def test_retry_failed_makes_the_picture_of_a_dead_link_again(night: NightOf) -> None:
    scene = night(1)
    scene.server.files = {"j0": [scene.error(Code.DOWNLOAD, dead=True)]}
    scene.run()
    assert len(scene.server.calls) == 1
    fetched = len(scene.server.fetches)

    def dead_then_slow(_: str, number: int) -> Any:
        url_is_old = scene.server.delivered["j0"] == 1
        if url_is_old:
            return scene.error(Code.DOWNLOAD, dead=True)
        return scene.error(Code.DOWNLOAD) if number < 2 * fetched + 2 else scene.picture()

    scene.server.files = dead_then_slow
    scene.run(retry_failed=True)
    row = scene.rows()["j0"]
    assert (row.status, len(scene.server.calls), row.attempts) == ("done", 2, 2)
    assert scene.spent() == 2 * PRICE


def test_a_dead_link_is_not_paid_for_again_unasked(night: NightOf) -> None:
    scene = night(1)
    scene.server.files = {"j0": [scene.error(Code.DOWNLOAD, dead=True)]}
    scene.run()
    scene.run()
    assert len(scene.server.calls) == 1


def test_bytes_in_the_answer_are_spooled_before_they_are_recorded(night: NightOf) -> None:
    scene = night(3)
    scene.server.api = lambda name, number: scene.picture(inline=True)  # noqa: ARG005
    scene.run()
    assert scene.server.fetches == []
    assert scene.pictures.spooled == 3
    assert sorted(scene.pictures.files) == ["images/j0.png", "images/j1.png", "images/j2.png"]
    assert all(row.spool is None and row.status == "done" for row in scene.rows().values())


def test_a_reference_that_cannot_be_read_sends_nothing(night: NightOf, job_number: Callable[..., Job]) -> None:
    scene = night(0)
    broken = Reference(source="a.jpg", path="/a.jpg", fault="a.jpg is not there")
    scene.jobs = [job_number(0, images=(broken,)), job_number(1)]
    ended = scene.run(budget=Decimal("0.14"))
    assert [call.id for call in scene.server.calls] == ["j1"]
    row = scene.rows()["j0"]
    assert (row.status, row.error_code, row.error, row.attempts) == ("failed", "reference", "a.jpg is not there", 0)
    assert ended.tally.done == 1


def tasks(count: int, job_number: Callable[..., Job]) -> list[Job]:
    return [job_number(number, style="tasks") for number in range(count)]


def test_a_task_is_polled_and_holds_its_slot_until_it_ends(night: NightOf, job_number: Callable[..., Job]) -> None:
    scene = night(6)
    scene.jobs = tasks(6, job_number)
    scene.server.api = lambda _, __: Reply(after=0.1, task=30.0)
    ended = scene.run(concurrency=2, rate=(60.0, 60.0))
    assert ended.tally.done == 6
    assert ended.seconds >= 90, "two at a time, thirty seconds each"
    assert len(scene.server.calls) == 6
    assert all(count > 5 for count in scene.server.polls.values())
    assert {row.attempts for row in scene.rows().values()} == {1}


def test_a_task_is_not_asked_for_long_before_any_of_its_model_was_ready(
    night: NightOf, job_number: Callable[..., Job]
) -> None:
    scene = night(60)
    scene.jobs = tasks(60, job_number)
    quick = {"j50", "j58"}
    scene.server.api = lambda name, _: Reply(after=0.1, task=1.0 if name in quick else 30.0)
    ended = scene.run(concurrency=1)
    polls = {handle.partition("/")[0]: count for handle, count in scene.server.polls.items()}
    assert ended.tally.done == 60
    assert len({polls[f"j{number}"] for number in range(20)}) == 1, "until enough are known all are asked for alike"
    assert polls["j0"] > 10
    assert {polls[f"j{number}"] for number in range(21, 50)} <= {2, 3, 4}
    took = {call.id: after.at - call.at for call, after in itertools.pairwise(scene.server.calls)}
    assert took["j30"] == pytest.approx(took["j0"]), "none is noticed later for it"
    assert took["j50"] < 26, "what nobody could expect is noticed still"
    assert polls["j57"] > polls["j49"], "and from then on it is expected"


def test_the_handle_is_recorded_before_the_first_poll(night: NightOf, job_number: Callable[..., Job]) -> None:
    scene = night(1)
    scene.jobs = tasks(1, job_number)
    seen: list[tuple[str, str | None]] = []
    real = scene.server._poll

    def poll(request: HttpRequest) -> Any:
        row = scene.rows()["j0"]
        seen.append((row.status, row.handle))
        return real(request)

    scene.server._poll = poll  # type: ignore[method-assign]  # the stand-in's own, watched
    scene.server.api = {"j0": [Reply(task=1.0)]}
    scene.run()
    assert set(seen) == {("pending", "j0/1")}


@pytest.mark.parametrize("trouble", [0, 3, 12])
def test_polls_that_fail_are_repeated_and_cost_nothing(
    night: NightOf, job_number: Callable[..., Job], trouble: int
) -> None:
    scene = night(1)
    scene.jobs = tasks(1, job_number)
    scene.server.api = {"j0": [Reply(task=1.0, trouble=trouble)]}
    ended = scene.run(attempts=1)
    assert (ended.tally.done, len(scene.server.calls), scene.spent()) == (1, 1, PRICE)


def test_a_task_that_failed_is_a_new_attempt_and_costs_nothing(night: NightOf, job_number: Callable[..., Job]) -> None:
    scene = night(1)
    scene.jobs = tasks(1, job_number)
    scene.server.api = {"j0": [Reply(task=1.0, ends=Code.SERVER), Reply(task=1.0)]}
    ended = scene.run(budget=Decimal("0.14"))
    assert (ended.tally.done, scene.rows()["j0"].attempts, scene.spent()) == (1, 2, PRICE)


def test_a_task_that_does_not_end_keeps_its_handle_and_is_never_submitted_again(
    night: NightOf, job_number: Callable[..., Job]
) -> None:
    scene = night(1)
    scene.jobs = tasks(1, job_number)
    scene.server.api = {"j0": [Reply(task=1000.0)]}
    scene.run(timeout=100.0)
    row = scene.rows()["j0"]
    assert (row.status, row.error_code, row.possibly_billed, row.handle) == ("unknown", "unknown", 1, "j0/1")
    scene.server.epoch = 200.0
    scene.run(timeout=100.0, on_unknown="hold")
    assert scene.rows()["j0"].status == "unknown"
    scene.server.epoch = 5000.0
    ended = scene.run(timeout=100.0, budget=Decimal("0.14"))
    row = scene.rows()["j0"]
    assert (ended.tally.done, row.status, row.attempts, row.possibly_billed) == (1, "done", 1, 0)
    assert (len(scene.server.calls), scene.spent()) == (1, PRICE)


def test_a_task_that_was_given_up_is_not_paid_for_again_by_a_stop_behind_its_picture(
    night: NightOf, job_number: Callable[..., Job]
) -> None:
    scene = night(1)
    scene.jobs = tasks(1, job_number)
    scene.server.api = {"j0": [Reply(task=1000.0)]}
    scene.run(timeout=100.0, on_unknown="fail")
    assert scene.rows()["j0"].status == "failed"
    scene.server.epoch = 5000.0
    scene.server.files = {"j0": [Reply(after=50.0)]}
    scene.run(kill_at=20.0)
    assert (scene.rows()["j0"].status, scene.rows()["j0"].link) == ("pending", "https://cdn.example/j0/1")
    scene.run(retry_failed=True)
    assert (scene.rows()["j0"].status, len(scene.server.calls), scene.spent()) == ("done", 1, PRICE)


def test_what_a_model_was_told_to_cost_is_reserved_from_then_on(night: NightOf, job_number: Callable[..., Job]) -> None:
    scene = night(9)
    scene.jobs = tasks(9, job_number)
    scene.server.api = lambda _, __: Reply(task=1.0, cost=Cost(amount=Decimal("0.30")))
    ended = scene.run(budget=Decimal("1.00"), concurrency=1)
    assert ended.reason is not None
    assert (ended.reason.reason, scene.spent()) == ("budget", 900_000_000)


@pytest.mark.parametrize("keys", [("A",), ("B",)])
def test_a_task_is_not_given_up_for_what_may_pass(
    night: NightOf, job_number: Callable[..., Job], keys: tuple[str, ...]
) -> None:
    """Not known once and then silence, or not known to another key than its own: it is asked for again."""
    scene = night(1)
    scene.jobs = tasks(1, job_number)
    scene.server.api = {"j0": [Reply(task=1.0, trouble=10**6)]}
    scene.run(kill_at=1.2)
    known = dict(scene.server.tasks)
    if keys == ("B",):
        scene.server.tasks.clear()
    scene.run(keys=keys)
    assert (scene.rows()["j0"].status, scene.rows()["j0"].handle) == ("unknown", "j0/1")
    scene.server.tasks = {handle: (0.0, Reply()) for handle in known}
    scene.run()
    assert (scene.rows()["j0"].status, len(scene.server.calls), scene.spent()) == ("done", 1, PRICE)


@pytest.mark.parametrize(
    ("cause", "others", "longest"), [(Code.SERVER, 5, 100.0), (Code.NETWORK, 0, 1900.0), (Code.SERVER, 0, 1900.0)]
)
def test_a_task_whose_polls_always_fail_is_left_in_its_time_or_that_of_an_outage(
    night: NightOf, job_number: Callable[..., Job], cause: Code, others: int, longest: float
) -> None:
    scene = night(1)
    scene.jobs = tasks(1 + others, job_number)
    scene.server.api = lambda name, _: Reply(task=1.0, trouble=10**6 if name == "j0" else 0, cause=cause)
    ended = scene.run(timeout=60.0, patience=float("inf"), deadline=1e6, concurrency=2)
    assert (ended.reason, ended.tally.done, ended.tally.unknown) == (None, others, 1)
    assert scene.rows()["j0"].handle == "j0/1"
    assert ended.seconds < longest


def test_a_task_that_its_api_does_not_know_is_unknown_without_a_handle(
    night: NightOf, job_number: Callable[..., Job]
) -> None:
    scene = night(1)
    scene.jobs = tasks(1, job_number)
    scene.server.api = {"j0": [Reply(task=1.0)]}
    scene.run(kill_at=1.2)
    scene.server.tasks.clear()
    ended = scene.run()
    row = scene.rows()["j0"]
    assert (row.status, row.handle, len(scene.server.calls)) == ("unknown", None, 1)
    assert 55 < ended.seconds < 75, "it may be that it is not known yet"


def test_a_told_cost_replaces_the_price_and_the_budget_counts_it(
    night: NightOf, job_number: Callable[..., Job]
) -> None:
    scene = night(3)
    scene.jobs = tasks(3, job_number)
    scene.server.api = lambda _, __: Reply(task=1.0, cost=Cost(amount=Decimal("0.03")))
    ended = scene.run(budget=Decimal("0.20"), concurrency=1)
    assert (ended.tally.done, scene.spent()) == (3, 3 * 30_000_000)


def test_what_an_answer_without_a_picture_counts_is_what_it_costs(night: NightOf) -> None:
    scene = night(1)
    scene.server.api = {"j0": [scene.error(Code.NO_IMAGE, billed=True, final=True, cost=Cost(tokens={"out": 2}))]}
    scene.run()
    assert scene.spent() == 2 * 10**9


def test_a_signal_leaves_tasks_to_the_next_run(night: NightOf, job_number: Callable[..., Job]) -> None:
    scene = night(2)
    scene.jobs = tasks(2, job_number)
    scene.server.api = lambda _, __: Reply(task=100.0)
    ended = scene.run(stop_at=10.0)
    assert ended.seconds < 12
    assert {row.status for row in scene.rows().values()} == {"pending"}
    scene.server.epoch = 10.0
    assert scene.run().tally.done == 2
    assert len(scene.server.calls) == 2


def test_a_stop_for_money_waits_for_the_tasks_that_are_out(night: NightOf, job_number: Callable[..., Job]) -> None:
    scene = night(3)
    scene.jobs = tasks(3, job_number)
    scene.server.api = lambda _, __: Reply(task=50.0)
    ended = scene.run(budget=Decimal("0.28"))
    assert ended.reason is not None
    assert (ended.reason.reason, ended.tally.done) == ("budget", 2)


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("terms", [{"budget": Decimal("0.28")}, {"deadline": -1.0}], ids=["budget", "deadline"])
def test_tasks_of_an_earlier_run_are_fetched_though_nothing_new_may_be_sent(
    night: NightOf, job_number: Callable[..., Job], count: int, terms: dict[str, Any]
) -> None:
    scene = night(count)
    scene.jobs = tasks(count, job_number)
    scene.server.api = lambda _, __: Reply(task=100.0)
    scene.run(only=f"j[{count - 2}{count - 1}]", stop_at=5.0)
    assert (len(scene.server.calls), scene.spent()) == (2, 2 * PRICE)
    scene.server.epoch = 5.0
    ended = scene.run(concurrency=1, **terms)
    assert (ended.tally.done, len(scene.server.calls), scene.spent()) == (2, 2, 2 * PRICE)
    assert len(scene.pictures.files) == 2
    if count > 2:
        assert ended.reason is not None
        assert ended.reason.reason in terms
    elif "budget" in terms:
        assert ended.reason is None, "no job is left"


def test_what_a_task_of_an_earlier_run_did_cost_takes_the_place_of_its_price(
    night: NightOf, job_number: Callable[..., Job]
) -> None:
    scene = night(2)
    scene.jobs = tasks(2, job_number)
    scene.server.api = lambda _, __: Reply(task=100.0, bill=Cost(amount=Decimal("0.03")))
    scene.run(only="j0", stop_at=5.0)
    scene.server.epoch = 5.0
    ended = scene.run(budget=Decimal("0.18"))
    assert (ended.reason, ended.tally.done, scene.spent()) == (None, 2, 60_000_000)


def test_the_window_learns_when_a_task_is_accepted(night: NightOf, job_number: Callable[..., Job]) -> None:
    scene = night(50)
    scene.jobs = tasks(50, job_number)
    scene.server.api = lambda _, __: Reply(after=0.5, task=10_000.0)
    scene.run(concurrency=50, kill_at=60.0)
    assert len(scene.server.tasks) == 50


def test_a_poll_that_works_closes_the_breaker(night: NightOf, job_number: Callable[..., Job]) -> None:
    scene = night(3)
    scene.jobs = tasks(3, job_number)
    scene.server.api = {"j0": [Reply(task=300.0)], "j1": [scene.error(Code.UNKNOWN), Reply(task=1.0)]}
    ended = scene.run(max_consecutive_failures=1)
    assert (ended.reason, ended.tally.done) == (None, 3)
    assert max(call.at for call in scene.server.calls) < 30


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [(Code.INVALID_REQUEST, "failed", None), (Code.SERVER, None, "failures"), (Code.AUTH, None, "auth")],
)
def test_an_upload_that_fails_for_good_sends_nothing_and_ends(
    night: NightOf, job_number: Callable[..., Job], code: Code, status: str | None, reason: str | None
) -> None:
    def refuse(request: HttpRequest) -> Any:
        raise JobError(code, "no upload")

    scene = night(0)
    scene.jobs = [job_number(0, style="tasks", images=(Reference(source="a.png", path="/a.png", sha256="a"),))]
    scene.server._poll = refuse  # type: ignore[method-assign]  # the stand-in's own
    ended = scene.run(attempts=3)
    assert (scene.server.calls, scene.spent()) == ([], 0)
    assert [row.status for row in scene.rows().values()] == ([status] if status else [])
    assert (None if ended.reason is None else ended.reason.reason) == reason


@settings(max_examples=25)
@given(kill=st.floats(0.0, 12.0))
def test_a_kill_at_any_moment_of_a_task_pays_once(
    nights: NightFactory, job_number: Callable[..., Job], kill: float
) -> None:
    with nights(3) as scene:
        scene.jobs = tasks(3, job_number)
        scene.server.api = lambda _, __: Reply(after=1.0, task=5.0)
        scene.run(kill_at=kill)
        submitted = set(scene.server.tasks)
        scene.server.epoch = kill
        scene.run()
        assert {row.status for row in scene.rows().values()} == {"done"}
        recorded = {handle.split("/")[0] for handle in submitted}
        for name, count in scene.server.per_job.items():
            assert count == 1 or scene.rows()[name].possibly_billed == count - 1
            assert count == 1 or name not in recorded or kill < 1.1


def test_prices_of_models_share_one_budget(night: NightOf, job_number: Callable[..., Job]) -> None:
    scene = night(2)
    scene.jobs = [job_number(0, model="pro"), job_number(1, model="max")]
    prices = {"pro": Decimal("0.04"), "max": Decimal("0.08")}
    ended = scene.run(prices=prices, budget=Decimal("0.10"))
    assert ended.reason is not None
    assert (ended.reason.reason, len(scene.server.calls)) == ("budget", 1)
    assert scene.spent() <= 100_000_000


def test_the_attempt_is_recorded_before_the_request_leaves_and_the_answer_before_the_fetch(night: NightOf) -> None:
    scene = night(1)
    seen: list[tuple[str, int | None, str | None]] = []

    def api(_: str, __: int) -> Any:
        row = scene.rows()["j0"]
        seen.append(("api", row.in_flight, row.link))
        return scene.picture()

    def files(_: str, __: int) -> Any:
        row = scene.rows()["j0"]
        seen.append(("files", row.in_flight, row.link))
        return scene.picture()

    scene.server.api, scene.server.files = api, files
    scene.run()
    assert seen == [("api", PRICE, None), ("files", None, "https://cdn.example/j0/1")]


def test_a_line_of_the_log_for_each_failure(night: NightOf) -> None:
    scene = night(1)
    scene.server.api = {"j0": [scene.error(Code.SERVER), scene.picture()]}
    scene.server.files = {"j0": [scene.error(Code.DOWNLOAD), scene.picture()]}
    events = scene.run().notes.events
    assert [name for name, _ in events] == ["attempt_failed", "fetch_failed"]
    assert events[0][1] == {"id": "j0", "code": "server", "message": "the server says server", "attempt": 1}
