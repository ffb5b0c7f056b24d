"""Whatever is written to a ledger between two looks, a listener ends up with what is there."""

from __future__ import annotations

import itertools
import sqlite3
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from batchflux.ledger.ledger import Ledger
from batchflux.ledger.reviews import judge, prepare_reviews
from batchflux.ledger.tables import set_meta
from batchflux.review.ledger_access import LedgerChanges

if TYPE_CHECKING:
    from collections.abc import Iterator

NUMBERS = st.integers(1, 5)
_ENDED = ("done", "failed", "unknown")


def key_of(number: int) -> bytes:
    return bytes([number]) * 32


class Following(RuleBasedStateMachine):
    """A run, edits and people write; listeners follow, some late, some from the beginning, some after a reset."""

    def __init__(self) -> None:
        super().__init__()
        self.temporary = tempfile.TemporaryDirectory()
        self.path = Path(self.temporary.name) / "ledger.db"
        self.now = 0.0
        self.runs = 0
        self.changes = LedgerChanges(self.path, self.clock)
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

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")
        connection.close()

    @rule(number=NUMBERS, status=st.sampled_from([*_ENDED, "pending"]), attempts=st.integers(1, 3))
    def a_job_goes_on(self, number: int, status: str, attempts: int) -> None:
        """It may begin, end, or both between two looks; what it took grows, so no row is again what it was."""
        insert = "INSERT INTO jobs (key, id, position, planned, tags, spec) VALUES (?, ?, ?, '', '', '{}')"
        with self.writing() as connection:
            connection.execute(f"{insert} ON CONFLICT DO NOTHING", (key_of(number), f"job{number}", number % 3))
            connection.execute("UPDATE jobs SET status = ? WHERE key = ?", (status, key_of(number)))
            tried = "INSERT INTO attempts (job, model, state, price, counts) SELECT number, '', '', 0, ? FROM jobs"
            connection.execute(f"{tried} WHERE key = ?", (attempts, key_of(number)))

    @rule(number=NUMBERS, listed=st.integers(0, 1))
    def a_run_begins_with_an_edit(self, number: int, listed: int) -> None:
        self.runs += 1
        with self.writing() as connection:
            set_meta(connection, "began", str(self.runs))
            connection.execute("UPDATE jobs SET listed = ?, id = 'x' WHERE key = ?", (listed, key_of(number)))

    @rule(numbers=st.lists(NUMBERS, min_size=1, max_size=3), note=st.sampled_from(["", "a", "b"]))
    def somebody_judges(self, numbers: list[int], note: str) -> None:
        with self.writing() as connection:
            prepare_reviews(connection)
            judge(connection, [key_of(number) for number in numbers], "accept", note, 1.0)

    @rule(really=st.integers(0, 9))
    def the_folder_is_replaced(self, really: int) -> None:
        if really == 0:
            self.path.unlink()
            self.make()

    @rule(listener=st.integers(0, 2), most=st.integers(1, 5), patient=st.booleans())
    def somebody_listens(self, listener: int, most: int, patient: bool) -> None:  # noqa: FBT001  hypothesis gives it
        """What is compared now and then only is seen by who is `patient`; everybody else may miss it for a while."""
        self.now += 1e6 * patient
        self.changes.look()
        seen = self.seen.setdefault(listener, {})
        more = True
        while more:
            news = self.changes.news(self.at.get(listener, 0), most)
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
            "SELECT known.key, id, status, attempts, position, note FROM known LEFT JOIN reviews USING (key)"
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
        self.changes.close()
        self.temporary.cleanup()


TestFollowing = Following.TestCase
TestFollowing.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[tuple[LedgerChanges, sqlite3.Connection]]:
    """Three jobs that were looked at; it is not time to compare everything again."""
    Ledger(tmp_path / "ledger.db", durable=False, threaded=False).close()
    ticks = itertools.count(0.0, 0.001)
    changes = LedgerChanges(tmp_path / "ledger.db", lambda: next(ticks))
    connection = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    for number, status in ((1, "done"), (2, "failed"), (3, "pending")):
        values = (number, key_of(number), status)
        insert = "INSERT INTO jobs (number, key, id, position, planned, tags, spec, status)"
        connection.execute(insert + " VALUES (?, ?, 'x', 0, '', '', '', ?)", values)  # noqa: S608  constants
    changes.look()
    assert changes.news(0, 9).numbers == [1, 2]
    yield changes, connection
    connection.close()
    changes.close()


@pytest.mark.parametrize(
    ("statement", "numbers", "gone"),
    [
        ("INSERT INTO jobs SELECT 4, x'04', id, 0, 1, '', '', '', 'done' FROM jobs WHERE number = 1", [4], []),
        ("UPDATE jobs SET status = 'done' WHERE number = 3", [3], []),
        ("UPDATE jobs SET status = 'pending' WHERE number = 2", [], [2]),
        ("INSERT INTO meta VALUES ('began', '9'); UPDATE jobs SET id = 'y' WHERE number = 1", [1], []),
        ("INSERT INTO meta VALUES ('clean', '1'); UPDATE jobs SET listed = 0 WHERE number = 1", [], [1]),
        ("UPDATE jobs SET id = 'y' WHERE number = 1", [], []),  # that no run does without saying that it began
    ],
)
def test_what_is_noticed_at_once(
    quick: tuple[LedgerChanges, sqlite3.Connection], statement: str, numbers: list[int], gone: list[int]
) -> None:
    """All that a run does while it goes on, without reading everything again."""
    changes, connection = quick
    known = changes.sequence
    columns = "(number, key, id, position, listed, planned, tags, spec, status)"
    for part in statement.replace("jobs SELECT", f"jobs {columns} SELECT").split(";"):
        connection.execute(part)
    changes.look()
    news = changes.news(known, 9)
    assert (news.numbers, news.gone) == (numbers, [key_of(number).hex() for number in gone])


def test_a_verdict_is_noticed_at_once(quick: tuple[LedgerChanges, sqlite3.Connection]) -> None:
    changes, connection = quick
    known = changes.sequence
    prepare_reviews(connection)
    judge(connection, [key_of(2), key_of(3)], "accept", "", 1.0)
    changes.look()
    assert changes.news(known, 9).numbers == [2]
    assert not changes.look()
