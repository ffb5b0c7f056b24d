"""What every provider keeps to, run as a program against a provider that counts what it bills."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar, TypeVar

import pytest

from batchflux.failpoints import VARIABLE
from batchflux.testing.bank import PRICE, opened
from batchflux.testing.program import program_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batchflux.testing.bank import Bank
    from batchflux.testing.dialect import Dialect
    from batchflux.testing.program import Program

BEFORE = ("attempt.intended", "request.leaving")
SENT = ("request.sent", "answer.received")
TASK = ("handle.recorded", "poll.leaving", "poll.leaving:3")
KEPT = ("answer.recorded", "picture.moving", "pictures.synced", "run.closing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One provider as a manifest names it: what stands in `provider`, and whether it works with tasks.

    `links`: its answers name a link, which can be gone; `formats`: a format can be asked for; `price` is what stands in
    `price` where that is not one number; `keyed`: it wants a key; `moderates`: it may refuse what a prompt says.
    `finds_lost`: its API can tell whether a request was accepted whose answer was lost; it `lists` its requests for
    that, or is certain of each.
    """

    name: str
    provider: str
    tasks: bool
    tells_cost: bool = False
    links: bool = True
    formats: bool = True
    price: str | None = None
    keyed: bool = True
    moderates: bool = True
    finds_lost: bool = False
    lists: bool = False

    @property
    def kills(self) -> tuple[str, ...]:
        """The points at which a run of it is killed."""
        return (*BEFORE, *SENT, *(TASK if self.tasks else ()), *KEPT)


@dataclass
class Shop:
    """A bank and a program that runs one manifest of a way against it."""

    bank: Bank
    program: Program
    way: Way

    def manifest(self, *prompts: str, price: float = PRICE, limits: str = "", more: str = "") -> None:
        """Write a manifest of jobs `a`, `b`, ... with these prompts."""
        jobs = "".join(
            f"  - {{id: {name}, prompt: 'job {name} {prompt}', {'output_format: png' if self.way.formats else ''}}}\n"
            for name, prompt in zip("abcdefgh", prompts, strict=False)
        )
        keys = "keys: [TEST_KEY], " if self.way.keyed else ""
        (self.program.folder / "m.yaml").write_text(
            "version: 1\nname: m\n"
            f"provider: {{{self.way.provider}, base_url: '{self.bank.url}', {keys}"
            f"price: {self.way.price or price}{more}}}\n"
            f"limits: {{concurrency: 6, timeout: 20s{limits}}}\noutput: {{dir: {self.program.out}}}\njobs:\n{jobs}",
            encoding="utf-8",
        )

    def age(self, seconds: int) -> None:
        """Let so many seconds pass since all requests were sent, as the ledger has it."""
        with closing(sqlite3.connect(self.program.out / "ledger.db")) as connection:
            connection.execute("UPDATE submissions SET sent_at = sent_at - ?", (seconds,))
            connection.commit()

    def row(self, name: str = "a") -> dict[str, str]:
        """Return a job's row of results.csv."""
        return next(row for row in self.program.rows() if row["id"] == name)


_Test = TypeVar("_Test", bound="Callable[..., None]")
_HOLDS: dict[str, Callable[[Way], bool]] = {}


def only(holds: Callable[[Way], bool]) -> Callable[[_Test], _Test]:
    """Mark a test of the suite as one of some ways only."""

    def marked(test: _Test) -> _Test:
        _HOLDS[test.__name__] = holds
        return test

    return marked


class Suite:
    """What a suite of tests over several ways is made of."""

    ways: ClassVar[tuple[Way, ...]]
    dialects: ClassVar[tuple[Dialect, ...]] = ()

    def points(self, way: Way) -> tuple[str, ...]:
        """Return the points at which a run of a way is killed."""
        return way.kills

    def marks(self, test: str, way: Way, point: str) -> tuple[pytest.MarkDecorator, ...]:
        """Return pytest's marks of a test for a way, killed at `point` where that is not empty."""
        return ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test for the ways that it is of."""
        if "shop" not in metafunc.fixturenames:
            return
        name = metafunc.function.__name__
        ways = [way for way in self.ways if name not in _HOLDS or _HOLDS[name](way)]
        kills = "point" in metafunc.fixturenames
        metafunc.parametrize(
            ("way", "point") if kills else ("way",),
            [
                pytest.param(*((way, point) if kills else (way,)), marks=self.marks(name, way, point), id=label)
                for way in ways
                for point in (self.points(way) if kills else ("",))
                for label in (f"{way.name}-{point}" if kills else way.name,)
            ],
        )

    @pytest.fixture
    def shop(self, tmp_path: Path, way: Way) -> Iterator[Shop]:
        """A bank that is open, and a program that runs against it in a folder of its own."""
        with opened(*self.dialects) as bank, program_in(tmp_path) as program:
            bank.out = program.out
            yield Shop(bank, program, way)


class ProviderSuite(Suite):
    """The suite. A class `Test...` that inherits it says `ways`, and `dialects` in which the bank is to answer them."""

    def test_every_picture_is_paid_once(self, shop: Shop) -> None:
        shop.manifest("#wait*1", "", "")
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        assert shop.bank.billed == {"a": 1, "b": 1, "c": 1}
        assert shop.program.pictures() == {"a", "b", "c"}
        assert [(row["status"], row["attempts"], row["cost"]) for row in shop.program.rows()] == [
            ("done", "1", "0.14")
        ] * 3
        again = shop.program.run()
        assert (again.code, shop.bank.posts.total()) == (0, 3)

    def test_a_kill_at_any_point(self, shop: Shop, point: str) -> None:
        """What has left and was not answered may be billed twice; what was accepted or answered never is."""
        shop.manifest("#wait*3")
        assert shop.program.run(**{VARIABLE: point}).code == -9
        billed = shop.bank.billed["a"]
        if point in BEFORE:
            shop.age(3600)  # an API that lists its requests is heard once, and not looked at for a while
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        assert shop.program.pictures() == {"a"}
        row = shop.row()
        if point in (*TASK, *KEPT, *(SENT[1:] if shop.way.finds_lost else ())):
            assert (shop.bank.posts["a"], billed, row["possibly_billed"]) == (1, 1, "0")
        elif shop.way.finds_lost:
            assert shop.bank.billed["a"] == 1
        else:
            assert shop.bank.billed["a"] <= 1 + int(row["possibly_billed"])
            assert row["possibly_billed"] == "1"

    @only(lambda way: way.tasks)
    def test_polls_are_one_attempt_and_no_rate(self, shop: Shop) -> None:
        shop.manifest("#wait*5", limits=", rate: 1/min")
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        assert (shop.bank.posts["a"], shop.bank.polls["a"]) == (1, 6)
        assert shop.row()["attempts"] == "1"

    def test_a_cost_that_is_told_replaces_the_price(self, shop: Shop) -> None:
        shop.manifest("#cost #wait*1", limits=", budget: 1.00")
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        cost = Decimal("0.035") if shop.way.tells_cost else Decimal("0.14")
        assert Decimal(shop.row()["cost"]) == cost
        assert Decimal(str(shop.program.summary()["spent"])) == cost

    @only(lambda way: way.keyed)
    def test_a_wrong_key_ends_the_run_and_costs_nothing(self, shop: Shop) -> None:
        shop.manifest("", "")
        ended = shop.program.run(TEST_KEY="wrong-key-0000")
        assert ended.code == 3, ended.said
        assert "TEST_KEY" in ended.said
        assert "wrong-key-0000" not in ended.said
        assert shop.bank.billed.total() == 0
        assert shop.program.run().code == 0

    @only(lambda way: way.moderates)
    def test_what_is_moderated_is_free_and_not_asked_again(self, shop: Shop) -> None:
        shop.manifest("#moderated")
        ended = shop.program.run()
        assert ended.code == 1, ended.said
        row = shop.row()
        assert (row["status"], row["error_code"], row["cost"]) == ("failed", "moderated", "0")
        assert (shop.bank.posts["a"], shop.bank.billed["a"]) == (1, 0)
        assert shop.program.run().code == 1
        assert shop.bank.posts["a"] == 1

    def test_a_failure_at_the_provider_is_a_new_attempt(self, shop: Shop) -> None:
        shop.manifest("#500*1")
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        assert (shop.bank.posts["a"], shop.bank.billed["a"], shop.row()["attempts"]) == (2, 1, "2")

    @only(lambda way: way.tasks)
    def test_a_task_that_is_not_known_yet_is_waited_for(self, shop: Shop) -> None:
        shop.manifest("#missing*2")
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        assert (shop.bank.posts["a"], shop.row()["attempts"]) == (1, "1")

    @only(lambda way: way.tasks)
    def test_a_task_that_is_not_known_in_its_time_is_asked_for_again_and_not_paid_for(self, shop: Shop) -> None:
        shop.manifest("#missing", limits=", attempts: 3")
        ended = shop.program.run("--set", "limits.timeout=2s")
        assert ended.code == 1, ended.said
        assert (shop.row()["status"], shop.row()["possibly_billed"]) == ("unknown", "1")
        shop.bank.prompts["a"] = ""
        held = shop.program.run("--on-unknown", "hold")
        assert held.code == 0, held.said
        assert (shop.bank.posts["a"], shop.row()["possibly_billed"]) == (1, "0")

    @only(lambda way: way.tasks)
    def test_a_task_that_does_not_end_is_asked_for_first_by_every_later_run(self, shop: Shop) -> None:
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

    @only(lambda way: way.tasks)
    def test_a_handle_survives_days(self, shop: Shop) -> None:
        shop.manifest("#wait*1")
        assert shop.program.run(**{VARIABLE: "handle.recorded"}).code == -9
        shop.age(500_000)
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        assert (shop.bank.posts["a"], shop.row()["cost"]) == (1, "0.14")

    @only(lambda way: way.links)
    def test_a_link_that_is_gone_is_paid_again_only_when_asked(self, shop: Shop) -> None:
        shop.manifest("#gone", limits=", attempts: 1")
        ended = shop.program.run()
        assert ended.code == 1, ended.said
        assert (shop.row()["error_code"], shop.bank.posts["a"]) == ("download", 1)
        assert shop.program.run().code == 1
        assert shop.bank.posts["a"] == 1
        ended = shop.program.run("--retry-failed")
        assert ended.code == 0, ended.said
        assert shop.bank.posts["a"] == 2

    @only(lambda way: way.tasks and way.links)
    def test_a_task_is_asked_once_more_where_its_link_is_gone(self, shop: Shop) -> None:
        shop.manifest("#stale", "#stale", limits=", attempts: 1")
        assert shop.program.run("--only", "a", **{VARIABLE: "answer.recorded"}).code == -9
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        row = shop.row()
        assert (row["attempts"], row["possibly_billed"], row["cost"]) == ("1", "0", "0.14")
        for name in "ab":
            assert (shop.bank.posts[name], shop.bank.polls[name], shop.bank.fetched[name]) == (1, 2, 1)

    def test_a_429_costs_no_attempt(self, shop: Shop) -> None:
        shop.manifest("#busy*1", limits=", attempts: 1")
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        assert (shop.bank.posts["a"], shop.bank.billed["a"], shop.row()["attempts"]) == (2, 1, "1")

    @only(lambda way: way.tasks)
    @pytest.mark.parametrize("trouble", ["#poll429*2", "#poll500*2"])
    def test_a_poll_that_fails_is_repeated(self, shop: Shop, trouble: str) -> None:
        shop.manifest(trouble, limits=", attempts: 1")
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        assert (shop.bank.posts["a"], shop.bank.polls["a"], shop.row()["attempts"]) == (1, 3, "1")

    @only(lambda way: not way.finds_lost)
    def test_a_request_that_was_lost_is_sent_again_once_and_counted(self, shop: Shop) -> None:
        shop.manifest("#lost")
        ended = shop.program.run()
        assert ended.code == 1, ended.said
        row = shop.row()
        assert (row["status"], shop.bank.billed["a"], row["possibly_billed"]) == ("unknown", 2, "2")

    @only(lambda way: way.finds_lost)
    def test_a_request_that_was_lost_and_accepted_is_found(self, shop: Shop) -> None:
        shop.manifest("#lost #queued*1", "#lost502", limits=", budget: 0.28")
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        assert shop.bank.posts == shop.bank.billed == {"a": 1, "b": 1}
        assert shop.program.pictures() == {"a", "b"}
        assert [(row["attempts"], row["possibly_billed"], row["cost"]) for row in shop.program.rows()] == [
            ("1", "0", "0.14")
        ] * 2

    @only(lambda way: way.finds_lost)
    @pytest.mark.parametrize("at", ["lost.asking", "lost.found", "handle.recorded"])
    def test_a_kill_while_a_lost_request_is_looked_for(self, shop: Shop, at: str) -> None:
        """Whatever `--on-unknown` says: to look is free."""
        shop.manifest("#lost", limits=", budget: 0.14")
        assert shop.program.run(**{VARIABLE: at}).code == -9
        planned = json.loads(shop.program("plan", "m.yaml", "--json").out)
        assert (planned["lost"], planned["calls"]) == ((0, 0) if at == "handle.recorded" else (1, 1))
        ended = shop.program.run("--on-unknown", "hold")
        assert ended.code == 0, ended.said
        assert (shop.bank.posts["a"], shop.row()["possibly_billed"], shop.row()["cost"]) == (1, "0", "0.14")
        assert shop.program.pictures() == {"a"}

    @only(lambda way: way.lists)
    def test_of_two_equal_requests_nobody_knows_which_was_lost(self, shop: Shop) -> None:
        shop.manifest("#lost #twin")
        for more in ((), ("--on-unknown", "hold"), ()):
            ended = shop.program.run(*more)
            assert ended.code == 1, ended.said
            row = shop.row()
            assert (row["status"], row["possibly_billed"], shop.bank.posts["a"]) == ("unknown", "1", 1)
            assert "lists 2 requests" in row["error"]
        ended = shop.program.run("--on-unknown", "fail")
        assert (ended.code, shop.row()["status"], shop.bank.posts["a"]) == (1, "failed", 1)

    @only(lambda way: way.lists)
    def test_a_lost_request_that_is_not_listed_is_sent_again_once(self, shop: Shop) -> None:
        shop.manifest("#reset*1", "#reset")
        ended = shop.program.run("--set", "limits.timeout=4s", "--set", "limits.concurrency=2")
        assert ended.code == 1, ended.said
        assert [(row["status"], row["possibly_billed"]) for row in shop.program.rows()] == [
            ("done", "1"),
            ("unknown", "2"),
        ]
        assert shop.bank.posts == {"a": 2, "b": 2}
        held = shop.program.run("--set", "limits.timeout=2s", "--on-unknown", "hold")
        assert (held.code, shop.bank.posts["b"]) == (1, 2)
        assert "its API" in shop.row("b")["error"]

    @only(lambda way: way.lists)
    def test_while_the_list_cannot_be_had_nothing_is_sent_again(self, shop: Shop) -> None:
        shop.manifest("#lost #deaf")
        ended = shop.program.run("--set", "limits.timeout=1s")
        assert (ended.code, shop.row()["status"], shop.bank.posts["a"]) == (1, "unknown", 1), ended.said
        assert "the next run asks again" in shop.row()["error"]
        shop.bank.prompts["a"] = ""
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        assert (shop.bank.posts["a"], shop.row()["possibly_billed"]) == (1, "0")

    @only(lambda way: way.finds_lost and not way.lists)
    def test_what_was_certainly_not_accepted_is_free_and_sent_again(self, shop: Shop) -> None:
        shop.manifest("#reset*1")
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        assert (shop.bank.posts["a"], shop.row()["possibly_billed"], shop.row()["cost"]) == (2, "0", "0.14")

    @only(lambda way: way.tasks)
    def test_a_signal_leaves_tasks_to_the_next_run(self, shop: Shop) -> None:
        shop.manifest("#stuck", "#stuck")
        process = shop.program.start("run", "m.yaml")
        while len(shop.bank.polls) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        ended = shop.program.kill(process, signal.SIGTERM)
        assert ended.code == 143, ended.said
        shop.bank.prompts.update(a="", b="")
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        assert shop.bank.posts == {"a": 1, "b": 1}
