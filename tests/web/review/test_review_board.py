"""The board against a plain reading: whatever is written between two looks, a listener ends up with what is there."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from batchflux.storage.ledger import Ledger, get_meta, set_meta
from batchflux.storage.reviews import judge, prepare_reviews
from batchflux.web.review.board import Board

NUMBERS = st.integers(1, 12)
_ENDED = ("done", "failed", "unknown")


class Following(RuleBasedStateMachine):
    """A run, edits and people write; listeners follow, some late, some from the beginning, some after a reset."""

    def __init__(self) -> None:
        super().__init__()
        self.temporary = tempfile.TemporaryDirectory()
        self.path = Path(self.temporary.name) / "ledger.db"
        self.now = 0.0
        self.board = Board(self.path, self.clock)
        self.seen: dict[int, dict[bytes, Any]] = {}
        self.at: dict[int, int] = {}

    def clock(self) -> float:
        self.now += 0.001
        return self.now

    @initialize()
    def begin(self) -> None:
        self.make()

    def make(self) -> None:
        Ledger(self.path, durable=False, threaded=False).close()

    def write(self, *statements: tuple[str, tuple[Any, ...]]) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        for statement, values in statements:
            connection.execute(statement, values)
        connection.execute("COMMIT")
        connection.close()

    @rule(number=NUMBERS)
    def a_job_begins(self, number: int) -> None:
        insert = "INSERT INTO jobs (key, id, position, planned, tags, spec) VALUES (?, ?, ?, '', '', '{}')"
        again = " ON CONFLICT (key) DO UPDATE SET status = 'pending'"
        self.write((insert + again, (bytes([number]) * 32, f"job{number}", number % 4)))

    @rule(number=NUMBERS, status=st.sampled_from(_ENDED), attempts=st.integers(0, 3))
    def a_job_ends(self, number: int, status: str, attempts: int) -> None:
        self.write(
            (
                "UPDATE jobs SET status = ?, attempts = ? WHERE key = ? AND status = 'pending'",
                (status, attempts, bytes([number]) * 32),
            )
        )

    @rule(number=NUMBERS, listed=st.integers(0, 1), began=st.floats(0, 9))
    def a_run_begins_with_an_edit(self, number: int, listed: int, began: float) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        set_meta(connection, "began", f"{began} {get_meta(connection, 'began')}"[:40])
        connection.execute("UPDATE jobs SET listed = ?, id = 'x' WHERE key = ?", (listed, bytes([number]) * 32))
        connection.execute("COMMIT")
        connection.close()

    @rule(numbers=st.lists(NUMBERS, max_size=3), note=st.sampled_from(["", "a", "b"]))
    def somebody_judges(self, numbers: list[int], note: str) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        prepare_reviews(connection)
        judge(connection, [bytes([number]) * 32 for number in numbers], "accept", note, 1.0)
        connection.execute("COMMIT")
        connection.close()

    @rule()
    def the_folder_is_replaced(self) -> None:
        self.path.unlink()
        self.make()

    @rule(listener=st.integers(0, 2), most=st.integers(1, 5), patient=st.booleans())
    def somebody_listens(self, listener: int, most: int, patient: bool) -> None:  # noqa: FBT001  hypothesis gives it
        """What is compared now and then only is seen by who is `patient`; everybody else may miss it for a while."""
        self.now += 1e6 * patient
        self.board.look()
        seen = self.seen.setdefault(listener, {})
        more = True
        while more:
            news = self.board.news(self.at.get(listener, 0), most)
            if news.reset:
                seen.clear()
            assert len(news.numbers) + len(news.gone) <= most
            for row in self.rows(news.numbers):
                seen[row[0]] = row
            for key in news.gone:
                seen.pop(bytes.fromhex(key), None)
            assert news.sequence >= self.at.get(listener, 0) or news.reset
            self.at[listener] = news.sequence
            more = news.more
        assert not patient or seen == {row[0]: row for row in self.rows()}

    @rule(listener=st.integers(0, 2))
    def a_page_is_closed(self, listener: int) -> None:
        self.seen.pop(listener, None)
        self.at.pop(listener, None)

    def rows(self, numbers: list[int] | None = None) -> list[Any]:
        """Read what is to be seen now, as a page shows it."""
        connection = sqlite3.connect(self.path)
        prepare_reviews(connection)
        query = (
            "SELECT jobs.key, id, status, attempts, position, note FROM jobs LEFT JOIN reviews USING (key)"
            " WHERE listed AND status IN ('done', 'failed', 'unknown')"
        )
        if numbers is not None:
            query += f" AND number IN ({','.join(map(str, numbers))})"
        rows = connection.execute(query).fetchall()
        connection.close()
        return rows

    def teardown(self) -> None:
        for listener in range(3):
            self.somebody_listens(listener, 5, patient=True)
        self.board.close()
        self.temporary.cleanup()


TestFollowing = Following.TestCase
TestFollowing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
