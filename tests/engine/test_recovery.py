"""Requests whose answer was lost, on a virtual clock: they are looked for before anything is sent again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from batchflux.engine.recovery import SETTLED
from batchflux.errors import Code, JobError
from batchflux.ledger.tables import nanos
from tests.engine.conftest import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.engine.conftest import Night

PRICE = Decimal("0.14")
ACCEPTED = Reply(after=0.2, code=Code.UNKNOWN, billed=True, task=5.0)
"""The answer is lost; a task is made of the request all the same."""
NOT_ACCEPTED = Reply(after=0.2, code=Code.UNKNOWN, billed=True)
TASK = Reply(after=0.2, task=5.0)


@pytest.fixture
def scene(night: Callable[[int], Night]) -> Callable[..., Night]:
    """Make a night of jobs at an API that lists what it was asked; `replies` are what each of them is answered."""

    def make(*replies: Reply, jobs: int = 1) -> Night:
        made = night(jobs)
        made.jobs = [replace(job, style="listing") for job in made.jobs]
        made.server.api = {job.prompt: replies for job in made.jobs}
        return made

    return make


def down(until: float = float("inf"), code: Code = Code.NETWORK) -> Callable[[float], None]:
    def deaf(now: float) -> None:
        if now < until:
            raise JobError(code, f"the list says {code}")

    return deaf


def stand(scene: Night, name: str = "j0") -> tuple[str, int, int]:
    """How a job stands: its status, its attempts, and how many of them may have been billed."""
    row = scene.rows()[name]
    return row.status, row.attempts, row.possibly_billed


def test_what_was_accepted_goes_on_as_if_it_had_been_answered(scene: Callable[..., Night]) -> None:
    made = scene(ACCEPTED, jobs=3)
    ended = made.run(budget=3 * PRICE)
    assert (ended.tally.done, len(made.server.calls), made.spent()) == (3, 3, nanos(3 * PRICE))
    assert stand(made) == ("done", 1, 0)
    assert ended.seconds < 10
    assert [name for name, _ in ended.notes.events].count("lost_found") == 3


def test_what_is_listed_only_when_it_ends_is_waited_for_without_its_slot(scene: Callable[..., Night]) -> None:
    made = scene(replace(ACCEPTED, task=200.0), jobs=2)
    made.server.whole = False
    ended = made.run(concurrency=1)
    assert (ended.tally.done, len(made.server.calls), made.spent()) == (2, 2, nanos(2 * PRICE))
    assert SETTLED < made.server.calls[1].at < 2 * SETTLED
    assert len(made.server.asked) < 60


REFUSED = Reply(after=0.2, code=Code.SERVER)
ACCEPTED_ALL_THE_SAME = replace(REFUSED, task=5.0)


@pytest.mark.parametrize("whole", [True, False])
def test_what_was_accepted_in_spite_of_a_5xx_is_not_sent_again(scene: Callable[..., Night], whole: bool) -> None:  # noqa: FBT001  a parameter
    made = scene(ACCEPTED_ALL_THE_SAME, jobs=3)
    made.server.whole = whole
    assert made.run(budget=3 * PRICE).tally.done == 3
    assert (len(made.server.calls), stand(made), made.spent()) == (3, ("done", 1, 0), nanos(3 * PRICE))


@pytest.mark.parametrize("whole", [True, False])
def test_after_a_5xx_that_was_one_it_is_sent_again_soon_and_holds_no_slot(
    scene: Callable[..., Night],
    whole: bool,  # noqa: FBT001  a parameter
) -> None:
    made = scene(jobs=2)
    made.server.api = {"j0": [REFUSED, TASK], "j1": [TASK]}
    made.server.whole = whole
    assert made.run(concurrency=1).tally.done == 2
    assert [call.id for call in made.server.calls] == ["j0", "j1", "j0"]
    assert SETTLED <= made.server.calls[2].at < SETTLED + 10
    assert made.rows()["j0"].possibly_billed == 0


def test_a_5xx_that_may_be_either_of_two_that_are_listed_is_unknown(scene: Callable[..., Night]) -> None:
    made = scene(ACCEPTED_ALL_THE_SAME, jobs=2)
    made.jobs = [replace(job, prompt="j0") for job in made.jobs]
    assert made.run().tally.unknown == 2
    assert (len(made.server.calls), stand(made)) == (2, ("unknown", 1, 1))


@pytest.mark.parametrize("accepted", [True, False])
def test_while_5xx_is_all_that_is_heard_of_an_api_and_of_its_list_it_is_an_outage(
    scene: Callable[..., Night],
    accepted: bool,  # noqa: FBT001  a parameter
) -> None:
    """What was accepted is found when the list is back; what was not spends no attempts on it."""
    made = scene(jobs=60)
    made.server.deaf = down(until=200.0, code=Code.SERVER)
    first = replace(ACCEPTED_ALL_THE_SAME if accepted else REFUSED, after=0.5)

    def weather(_: str, number: int) -> Reply:
        there = asyncio.get_running_loop().time() >= 200.0
        return TASK if there else first if number == 0 else REFUSED

    made.server.api = weather
    ended = made.run(concurrency=4, attempts=3)
    assert (ended.tally.done, ended.reason) == (60, None)
    assert [name for name, _ in ended.notes.events if name in ("away", "back")] == ["away", "back"]
    during = [call for call in made.server.calls if call.at < 200.0]
    assert 20 <= len(during) < 40
    assert max(row.attempts for row in made.rows().values()) <= 2
    if accepted:
        assert len(made.server.calls) == 60


def test_an_outage_is_heard_of_before_what_was_lost_is_found(scene: Callable[..., Night]) -> None:
    made = scene(NOT_ACCEPTED, jobs=40)
    made.server.whole = False
    ended = made.run(concurrency=4, stop_at=300.0)
    assert "away" in [name for name, _ in ended.notes.events]
    assert 8 <= len([call for call in made.server.calls if call.at < 60]) <= 12


@pytest.mark.parametrize(("whole", "least"), [(True, SETTLED), (False, 360.0)])
def test_what_is_not_there_is_sent_again_once(scene: Callable[..., Night], whole: bool, least: float) -> None:  # noqa: FBT001  a parameter
    made = scene(NOT_ACCEPTED, NOT_ACCEPTED, TASK)
    made.server.whole = whole
    assert made.run().tally.unknown == 1
    first, second = made.server.calls
    assert least <= second.at - first.at < least + 30
    assert stand(made) == ("unknown", 2, 2)
    assert made.run(on_unknown="hold").tally.unknown == 1
    assert made.run(on_unknown="fail").tally.failed == 1
    assert len(made.server.calls) == 2


def test_what_was_certainly_not_accepted_costs_nothing(scene: Callable[..., Night]) -> None:
    made = scene(NOT_ACCEPTED, TASK)
    made.server.certain = True
    assert made.run(budget=PRICE).tally.done == 1
    assert stand(made)[2] == 0
    lost = scene(NOT_ACCEPTED, TASK)
    lost.server.certain = True
    assert lost.run(kill_at=0.1).killed
    assert lost.run(budget=PRICE, on_unknown="fail").tally.done == 1
    assert (stand(lost)[2], lost.spent()) == (0, nanos(PRICE))


@pytest.mark.parametrize("on_unknown", ["retry", "hold", "fail"])
def test_while_the_list_is_down_nothing_is_sent_and_the_next_run_asks(
    scene: Callable[..., Night], on_unknown: str
) -> None:
    made = scene(ACCEPTED)
    made.server.deaf = down()
    for number in range(3):
        ended = made.run()
        assert (ended.tally.unknown, len(made.server.calls)) == (1, 1)
        assert "asks again" in str(made.rows()["j0"].error)
        made.server.epoch += ended.seconds + 3600.0 * number
    made.server.deaf = down(0)
    assert made.run(on_unknown=on_unknown, budget=PRICE).tally.done == 1
    assert (stand(made), len(made.server.calls), made.spent()) == (("done", 1, 0), 1, nanos(PRICE))


def test_a_list_without_an_end_is_not_read_again_and_again(scene: Callable[..., Night]) -> None:
    made = scene(ACCEPTED, TASK)

    def endless(_: float) -> None:
        raise JobError(Code.BAD_ANSWER, "the list has no end", final=True)

    made.server.deaf = endless
    assert made.run().tally.unknown == 1
    assert (len(made.server.calls), len(made.server.asked)) == (1, 1)


def test_a_list_that_comes_back_in_time_is_asked_again(scene: Callable[..., Night]) -> None:
    made = scene(ACCEPTED)
    made.server.deaf = down(until=200.0)
    assert made.run().tally.done == 1
    assert len(made.server.calls) == 1
    assert len([at for *_, at in made.server.asked if at < 200]) < 40


@pytest.mark.parametrize("code", [Code.INVALID_REQUEST, Code.AUTH, Code.QUOTA])
def test_a_key_that_may_not_ask_is_not_dead_and_the_api_is_one_that_cannot_tell(
    scene: Callable[..., Night], code: Code
) -> None:
    made = scene(ACCEPTED, TASK)
    made.server.deaf = down(code=code)
    assert made.run().tally.done == 1
    assert (stand(made), len(made.server.asked)) == (("done", 2, 1), 1)


def test_of_two_that_are_equal_none_is_taken_and_nothing_is_sent(scene: Callable[..., Night]) -> None:
    made = scene(ACCEPTED, jobs=2)
    made.jobs = [replace(job, prompt="j0") for job in made.jobs]
    for _ in range(2):
        assert made.run().tally.unknown == 2
        assert len(made.server.calls) == 2
        assert "lists 2 requests" in str(made.rows()["j0"].error)
    assert made.run(on_unknown="fail").tally.failed == 2
    assert made.run(retry_failed=True).tally.done == 0
    assert len(made.server.calls) == 4


@pytest.mark.parametrize("takes", [0.0, 1.0])
def test_one_of_two_that_are_equal_is_taken_once(scene: Callable[..., Night], takes: float) -> None:
    """Both were lost, one was accepted: whose it is makes no difference, but it is not the other's too."""
    made = scene(ACCEPTED, NOT_ACCEPTED, TASK, jobs=2)
    made.server.list_takes = takes
    made.jobs = [replace(job, prompt="j0") for job in made.jobs]
    assert made.run().tally.done == 2
    assert len(made.server.calls) == 3
    assert len({fetch.id for fetch in made.server.fetches}) == 2
    assert sorted(stand(made, name)[2] for name in ("j0", "j1")) == [0, 1]


def test_a_task_of_another_that_is_out_is_not_taken(scene: Callable[..., Night]) -> None:
    """It is listed before its own answer has come, and its handle is on record."""
    made = scene(NOT_ACCEPTED, replace(TASK, after=20.0), TASK, jobs=2)
    made.jobs = [replace(job, prompt="j0") for job in made.jobs]
    assert made.run().tally.done == 2
    assert len(made.server.calls) == 3
    assert len({fetch.id for fetch in made.server.fetches}) == 2
    assert [stand(made, name) for name in ("j0", "j1")] == [("done", 2, 1), ("done", 1, 0)]


def test_it_is_asked_for_with_the_key_that_sent_it(scene: Callable[..., Night]) -> None:
    made = scene(ACCEPTED, jobs=4)
    assert made.run(keys=("A", "B"), kill_at=0.1).killed
    sent = {call.id: call.key for call in made.server.calls}
    assert set(sent.values()) == {"A", "B"}
    assert made.run(keys=("B", "A"), on_unknown="hold").tally.done == 4
    assert {name: key for name, key, _ in made.server.asked} == sent
    assert len(made.server.calls) == 4


def test_a_signal_ends_the_search_and_the_next_run_takes_it_up(scene: Callable[..., Night]) -> None:
    made = scene(replace(ACCEPTED, task=100.0))
    made.server.whole = False
    ended = made.run(stop_at=20.0)
    assert ended.seconds < 25
    assert made.rows()["j0"].status == "unknown"
    made.server.epoch = 30.0
    assert made.run().tally.done == 1
    assert (len(made.server.calls), stand(made)) == (1, ("done", 1, 0))


def test_a_task_that_was_found_and_failed_is_a_new_attempt(scene: Callable[..., Night]) -> None:
    made = scene(replace(ACCEPTED, ends=Code.SERVER), TASK)
    assert made.run().tally.done == 1
    assert (len(made.server.calls), stand(made)) == (2, ("done", 2, 0))


@pytest.mark.parametrize("turns", range(4, 64, 6))
def test_a_kill_at_any_turn_pays_nothing_twice(scene: Callable[..., Night], turns: int) -> None:
    made = scene(ACCEPTED, jobs=2)
    made.run(kill_after_turns=turns)
    sent = len(made.server.calls)
    made.server.epoch = 5.0
    made.run(budget=4 * PRICE)
    assert {row.status for row in made.rows().values()} == {"done"}
    assert len(made.server.calls) == 2, f"{sent} were sent before the kill"
    unsent = sum(row.possibly_billed for row in made.rows().values())
    assert unsent <= 2 - sent
    assert made.spent() == nanos((2 + unsent) * PRICE)
