"""What every provider that sells batches keeps to, run as a program against a bank that bills what a batch made."""

from __future__ import annotations

import signal
import time
from decimal import Decimal
from typing import TYPE_CHECKING

from batchflux.failpoints import VARIABLE
from batchflux.testing.bank import PRICE
from batchflux.testing.suite import Suite

if TYPE_CHECKING:
    from batchflux.testing.suite import Shop, Way

IN_BATCH = Decimal(str(PRICE)) / 2
BATCH = ", mode: batch"
BEFORE = ("batch.written", "batch.authorized", "batch.uploaded", "batch.leaving")
AFTER = ("batch.created", "batch.recorded", "batch.answered", "batch.answered:2", "batch.read", "batch.closed")


class BatchSuite(Suite):
    """The suite of batches: a class `Test...` that inherits it says its `ways`, and `dialects` that have `batches`."""

    def points(self, way: Way) -> tuple[str, ...]:
        """Return the points at which a run of a way is killed."""
        return (*BEFORE, *AFTER)

    def test_every_picture_is_paid_once(self, shop: Shop) -> None:
        """In a batch, at the price of one."""
        shop.manifest("#wait*1", "", "", more=BATCH)
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        assert shop.bank.billed == {"a": 1, "b": 1, "c": 1}
        assert shop.program.pictures() == {"a", "b", "c"}
        assert [(row["status"], row["attempts"], Decimal(row["cost"])) for row in shop.program.rows()] == [
            ("done", "1", IN_BATCH)
        ] * 3
        again = shop.program.run()
        assert (again.code, shop.bank.posts) == (0, {"a": 1, "b": 1, "c": 1})
        assert (shop.program.status()["batches"], shop.program.leftovers()) == ({}, [])

    def test_a_kill_at_any_point(self, shop: Shop, point: str) -> None:
        """No job is in two batches, nor billed twice, nor unknown."""
        shop.manifest("#wait*3", "", more=BATCH)
        assert shop.program.run(**{VARIABLE: point}).code == -9
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        assert shop.program.pictures() == {"a", "b"}
        assert (shop.bank.posts, shop.bank.billed) == ({"a": 1, "b": 1}, {"a": 1, "b": 1})
        assert [(row["attempts"], row["possibly_billed"], Decimal(row["cost"])) for row in shop.program.rows()] == [
            ("1", "0", IN_BATCH)
        ] * 2

    def test_a_batch_whose_answer_was_lost_is_found(self, shop: Shop) -> None:
        shop.manifest("#lost*1", "", more=BATCH)
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        assert (shop.bank.posts, shop.bank.billed) == ({"a": 1, "b": 1}, {"a": 1, "b": 1})
        assert Decimal(str(shop.program.summary()["spent"])) == 2 * IN_BATCH

    def test_what_expired_is_free_and_goes_into_the_next_batch(self, shop: Shop) -> None:
        shop.manifest("#expired*1", more=BATCH, limits=", attempts: 1")
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        row = shop.row()
        assert (shop.bank.posts["a"], shop.bank.billed["a"], row["attempts"]) == (2, 1, "1")
        assert (Decimal(row["cost"]), row["possibly_billed"]) == (IN_BATCH, "0")

    def test_what_is_moderated_is_free_and_not_asked_again(self, shop: Shop) -> None:
        shop.manifest("#moderated", "", more=BATCH)
        ended = shop.program.run()
        assert ended.code == 1, ended.said
        assert (shop.row()["error_code"], shop.row()["cost"], shop.row("b")["status"]) == ("moderated", "0", "done")
        assert shop.program.run().code == 1
        assert (shop.bank.posts, shop.bank.billed) == ({"a": 1, "b": 1}, {"b": 1})

    def test_a_failure_at_the_provider_is_a_new_attempt(self, shop: Shop) -> None:
        """In the next batch; live it never goes."""
        shop.manifest("#500*1", more=BATCH)
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        assert (shop.bank.posts["a"], shop.bank.billed["a"], shop.row()["attempts"]) == (2, 1, "2")
        assert shop.bank.seen == []

    def test_an_answer_that_comes_twice_is_counted_twice_and_shown(self, shop: Shop) -> None:
        shop.manifest("#twice", "", more=BATCH)
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        assert Decimal(shop.row()["cost"]) == shop.bank.billed["a"] * IN_BATCH == 2 * IN_BATCH
        assert shop.program.pictures() == {"a", "b"}
        assert shop.program.summary()["answered_again"] == 1
        assert Decimal(str(shop.program.summary()["spent"])) == 3 * IN_BATCH
        assert shop.row()["remarks"]

    def test_a_batch_that_is_refused_costs_nothing(self, shop: Shop) -> None:
        shop.manifest("#refused", "", more=BATCH)
        ended = shop.program.run()
        assert ended.code == 1, ended.said
        assert [(row["error_code"], row["cost"]) for row in shop.program.rows()] == [("invalid_request", "0")] * 2
        assert shop.bank.billed.total() == 0

    def test_the_budget_holds_for_a_whole_batch(self, shop: Shop) -> None:
        shop.manifest("", "", "", more=BATCH, limits=", budget: 0.15")
        ended = shop.program.run()
        assert ended.code == 3, ended.said
        assert (shop.bank.billed.total(), shop.program.summary()["reason"]) == (2, "budget")
        assert Decimal(str(shop.program.summary()["spent"])) == 2 * IN_BATCH

    def test_a_signal_leaves_batches_to_the_next_run(self, shop: Shop) -> None:
        shop.manifest("#stuck", "", more=BATCH)
        process = shop.program.start("run", "m.yaml")
        while not shop.bank.batch_polls:
            assert process.poll() is None
            time.sleep(0.01)
        ended = shop.program.kill(process, signal.SIGTERM)
        assert ended.code == 143, ended.said
        (use,) = shop.program.status()["batches"].values()
        assert (use["jobs"], use["back"]) == (2, 0)
        shop.bank.prompts.update(a="job a", b="job b")
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        assert (shop.bank.posts, shop.bank.billed) == ({"a": 1, "b": 1}, {"a": 1, "b": 1})

    def test_what_is_not_back_is_sent_live_once_its_batch_is_cancelled(self, shop: Shop) -> None:
        """A cancelled batch has made one of two; that is taken, and only the other is sent live, at its price."""
        shop.manifest("#stuck", "", more=", mode: batch_then_live, live_from: 1s")
        ended = shop.program.run()
        assert ended.code == 0, ended.said
        assert shop.program.pictures() == {"a", "b"}
        assert shop.bank.billed == {"a": 1, "b": 1}
        assert [seen.name for seen in shop.bank.seen] == ["b"]
        assert [Decimal(shop.row(name)["cost"]) for name in "ab"] == [IN_BATCH, Decimal(str(PRICE))]

    def test_a_wrong_key_ends_the_run_and_costs_nothing(self, shop: Shop) -> None:
        shop.manifest("", "", more=BATCH)
        ended = shop.program.run(TEST_KEY="wrong-key-0000")
        assert ended.code == 3, ended.said
        assert "TEST_KEY" in ended.said
        assert "wrong-key-0000" not in ended.said
        assert shop.bank.posts.total() == 0
        assert shop.program.run().code == 0
