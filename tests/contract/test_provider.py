"""What every provider keeps to, run as a program against a provider that counts what it bills."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from batchflux.failpoints import VARIABLE
from tests.contract.conftest import WAYS, Way

if TYPE_CHECKING:
    from tests.contract.conftest import Shop

pytestmark = pytest.mark.timeout(120)  # real processes, also on a loaded machine

BEFORE = ("attempt.intended", "request.leaving")
SENT = ("request.sent", "answer.received")
TASK = ("handle.recorded", "poll.leaving", "poll.leaving:3")
KEPT = ("answer.recorded", "picture.moving", "pictures.synced", "run.closing")
TELLING = {"request.leaving", "handle.recorded", "poll.leaving:3", "answer.recorded"}


def _marks(way: Way, *, telling: bool = True) -> list[pytest.MarkDecorator]:
    """Two ways of one provider differ in their requests, and little in what these tests ask: one is fast."""
    return [] if telling and way.name in {"standard", "bfl"} else [pytest.mark.slow]


KILLS = [
    pytest.param(way, point, id=f"{way.name}-{point}", marks=_marks(way, telling=point in TELLING))
    for way in WAYS
    for point in (*BEFORE, *SENT, *(TASK if way.tasks else ()), *KEPT)
]
one_a_provider = pytest.mark.parametrize(
    "way",
    [pytest.param(way, marks=_marks(way)) for way in WAYS],
    ids=lambda way: way.name,
)
of_links = pytest.mark.parametrize(
    "way", [pytest.param(way, marks=_marks(way)) for way in WAYS if way.links], ids=lambda way: way.name
)
of_tasks = pytest.mark.parametrize(
    "way", [pytest.param(way, marks=_marks(way)) for way in WAYS if way.tasks], ids=lambda way: way.name
)


def test_every_picture_is_paid_once(shop: Shop) -> None:
    shop.manifest("#wait*1", "", "")
    ended = shop.program.run()
    assert ended.code == 0, ended.said
    assert shop.bank.billed == {"a": 1, "b": 1, "c": 1}
    assert shop.program.pictures() == {"a", "b", "c"}
    assert [(row["status"], row["attempts"], row["cost"]) for row in shop.program.rows()] == [("done", "1", "0.14")] * 3
    again = shop.program.run()
    assert (again.code, shop.bank.posts.total()) == (0, 3)


@pytest.mark.parametrize(("way", "point"), KILLS)
def test_a_kill_at_any_point(shop: Shop, point: str) -> None:
    """What has left and was not answered may be billed twice; what was accepted or answered never is."""
    shop.manifest("#wait*3")
    assert shop.program.run(**{VARIABLE: point}).code == -9
    billed = shop.bank.billed["a"]
    ended = shop.program.run()
    assert ended.code == 0, ended.said
    assert shop.program.pictures() == {"a"}
    row = shop.row()
    if point in (*TASK, *KEPT):
        assert (shop.bank.posts["a"], billed, row["possibly_billed"]) == (1, 1, "0")
    else:
        assert shop.bank.billed["a"] <= 1 + int(row["possibly_billed"])
        assert row["possibly_billed"] == "1"


@pytest.mark.slow
@of_tasks
def test_polls_are_one_attempt_and_no_rate(shop: Shop) -> None:
    shop.manifest("#wait*5", limits=", rate: 1/min")
    ended = shop.program.run()
    assert ended.code == 0, ended.said
    assert (shop.bank.posts["a"], shop.bank.polls["a"]) == (1, 6)
    assert shop.row()["attempts"] == "1"


@pytest.mark.parametrize(
    "way",
    [pytest.param(way, marks=[] if way.quick or way.tells_cost else [pytest.mark.slow]) for way in WAYS],
    ids=lambda way: way.name,
)
def test_a_cost_that_is_told_replaces_the_price(shop: Shop) -> None:
    shop.manifest("#cost #wait*1", limits=", budget: 1.00")
    ended = shop.program.run()
    assert ended.code == 0, ended.said
    cost = Decimal("0.035") if shop.way.tells_cost else Decimal("0.14")
    assert Decimal(shop.row()["cost"]) == cost
    assert Decimal(str(shop.program.summary()["spent"])) == cost


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=_marks(way)) for way in WAYS if way.keyed], ids=lambda way: way.name
)
def test_a_wrong_key_ends_the_run_and_costs_nothing(shop: Shop) -> None:
    shop.manifest("", "")
    ended = shop.program.run(TEST_KEY="wrong-key-0000")
    assert ended.code == 3, ended.said
    assert "TEST_KEY" in ended.said
    assert "wrong-key-0000" not in ended.said
    assert shop.bank.billed.total() == 0
    assert shop.program.run().code == 0


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=_marks(way)) for way in WAYS if way.moderates], ids=lambda way: way.name
)
def test_what_is_moderated_is_free_and_not_asked_again(shop: Shop) -> None:
    shop.manifest("#moderated")
    ended = shop.program.run()
    assert ended.code == 1, ended.said
    row = shop.row()
    assert (row["status"], row["error_code"], row["cost"]) == ("failed", "moderated", "0")
    assert (shop.bank.posts["a"], shop.bank.billed["a"]) == (1, 0)
    assert shop.program.run().code == 1
    assert shop.bank.posts["a"] == 1


def test_a_failure_at_the_provider_is_a_new_attempt(shop: Shop) -> None:
    shop.manifest("#500*1")
    ended = shop.program.run()
    assert ended.code == 0, ended.said
    assert (shop.bank.posts["a"], shop.bank.billed["a"], shop.row()["attempts"]) == (2, 1, "2")


@of_tasks
def test_a_task_that_is_not_known_yet_is_waited_for(shop: Shop) -> None:
    shop.manifest("#missing*2")
    ended = shop.program.run()
    assert ended.code == 0, ended.said
    assert (shop.bank.posts["a"], shop.row()["attempts"]) == (1, "1")


@of_tasks
def test_a_task_that_is_not_known_in_its_time_is_asked_for_again_and_not_paid_for(shop: Shop) -> None:
    shop.manifest("#missing", limits=", attempts: 3")
    ended = shop.program.run("--set", "limits.timeout=2s")
    assert ended.code == 1, ended.said
    assert (shop.row()["status"], shop.row()["possibly_billed"]) == ("unknown", "1")
    shop.bank.prompts["a"] = ""
    held = shop.program.run("--on-unknown", "hold")
    assert held.code == 0, held.said
    assert (shop.bank.posts["a"], shop.row()["possibly_billed"]) == (1, "0")


@of_tasks
def test_a_task_that_does_not_end_is_asked_for_first_by_every_later_run(shop: Shop) -> None:
    shop.manifest("#stuck")
    ended = shop.program.run("--set", "limits.timeout=2s")
    assert ended.code == 1, ended.said
    assert shop.row()["status"] == "unknown"
    still = shop.program.run("--set", "limits.timeout=1s", "--on-unknown", "hold")
    assert (still.code, shop.bank.posts["a"]) == (1, 1)
    shop.bank.prompts["a"] = ""
    ended = shop.program.run()
    assert ended.code == 0, ended.said
    row = shop.row()
    assert (row["status"], row["attempts"], row["possibly_billed"], row["cost"]) == ("done", "1", "0", "0.14")
    assert (shop.bank.posts["a"], shop.bank.billed["a"]) == (1, 1)


@of_tasks
def test_a_handle_survives_days(shop: Shop) -> None:
    shop.manifest("#wait*1")
    assert shop.program.run(**{VARIABLE: "handle.recorded"}).code == -9
    with closing(sqlite3.connect(shop.program.out / "ledger.db")) as connection:
        connection.execute("UPDATE submissions SET sent_at = sent_at - 500000")
        connection.commit()
    ended = shop.program.run()
    assert ended.code == 0, ended.said
    assert (shop.bank.posts["a"], shop.row()["cost"]) == (1, "0.14")


@of_links
def test_a_link_that_is_gone_is_paid_again_only_when_asked(shop: Shop) -> None:
    shop.manifest("#gone", limits=", attempts: 1")
    ended = shop.program.run()
    assert ended.code == 1, ended.said
    assert (shop.row()["error_code"], shop.bank.posts["a"]) == ("download", 1)
    assert shop.program.run().code == 1
    assert shop.bank.posts["a"] == 1
    ended = shop.program.run("--retry-failed")
    assert ended.code == 0, ended.said
    assert shop.bank.posts["a"] == 2


@one_a_provider
def test_a_429_costs_no_attempt(shop: Shop) -> None:
    shop.manifest("#busy*1", limits=", attempts: 1")
    ended = shop.program.run()
    assert ended.code == 0, ended.said
    assert (shop.bank.posts["a"], shop.bank.billed["a"], shop.row()["attempts"]) == (2, 1, "1")


@of_tasks
@pytest.mark.parametrize("trouble", ["#poll429*2", "#poll500*2"])
def test_a_poll_that_fails_is_repeated(shop: Shop, trouble: str) -> None:
    shop.manifest(trouble, limits=", attempts: 1")
    ended = shop.program.run()
    assert ended.code == 0, ended.said
    assert (shop.bank.posts["a"], shop.bank.polls["a"], shop.row()["attempts"]) == (1, 3, "1")


def test_a_request_that_was_lost_is_sent_again_once_and_counted(shop: Shop) -> None:
    shop.manifest("#lost")
    ended = shop.program.run()
    assert ended.code == 1, ended.said
    row = shop.row()
    assert (row["status"], shop.bank.billed["a"], row["possibly_billed"]) == ("unknown", 2, "2")


@of_tasks
def test_a_signal_leaves_tasks_to_the_next_run(shop: Shop) -> None:
    shop.manifest("#stuck", "#stuck")
    process = shop.program.start("run", "m.yaml")
    while len(shop.bank.polls) < 2:
        assert process.poll() is None
    ended = shop.program.kill(process, signal.SIGTERM)
    assert ended.code == 143, ended.said
    shop.bank.prompts.update(a="", b="")
    ended = shop.program.run()
    assert ended.code == 0, ended.said
    assert shop.bank.posts == {"a": 1, "b": 1}


@pytest.mark.parametrize("way", WAYS[:1], ids=lambda way: way.name)
def test_two_models_share_one_budget(shop: Shop) -> None:
    """Two jobs of a model at 0.04 and one at 0.08 under a budget of 0.10: never more than 0.10."""
    shop.manifest("", "")
    text = (shop.program.folder / "m.yaml").read_text(encoding="utf-8")
    text = text.replace("price: 0.14", "price: {flux-kontext-pro: 0.04, flux-kontext-max: 0.08}")
    text = text.replace("timeout: 20s", "timeout: 20s, budget: 0.10")
    text = text.replace("id: b,", "id: b, model: flux-kontext-max,")
    (shop.program.folder / "m.yaml").write_text(text, encoding="utf-8")
    ended = shop.program.run()
    assert ended.code == 3, ended.said
    assert shop.bank.posts.total() == 1
    assert shop.program.summary()["reason"] == "budget"
