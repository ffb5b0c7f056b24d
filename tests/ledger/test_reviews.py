"""Verdicts and redos in the ledger: durable, numbered by family, changed only while nobody has begun them."""

from __future__ import annotations

import asyncio
import csv
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from batchflux.errors import StorageError
from batchflux.exports import projection
from batchflux.exports.base import HEADER
from batchflux.exports.projection import show_verdicts
from batchflux.exports.results_csv import Results
from batchflux.ledger.connection import beside, connect
from batchflux.ledger.decisions import Decision, NoSuchJobError, decide, undo
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.reviews import (
    Again,
    Verdict,
    ask_redo,
    has_reviews,
    is_stale,
    judge,
    judged_since,
    last_revision,
    pin,
    prepare_reviews,
    redos,
    shown,
    take_back_redo,
    verdicts,
    verdicts_on,
    waiting_redos,
)
from batchflux.ledger.tables import ended_rows, get_meta, set_meta
from batchflux.manifest.identity import redo_id
from batchflux.manifest.redo import Redo
from batchflux.models import Link, Outcome, Status, Stored
from batchflux.output.folder import FolderLock
from tests.attempts import receive, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchflux.models import Job
    from tests.conftest import MakeJob, Start


def key_of(job: Job) -> bytes:
    return bytes.fromhex(job.key)


def end(ledger: Ledger, job: Job) -> None:
    """End a job with a picture."""

    async def write() -> None:
        await send(ledger, job, price=1, at=1.0)
        await receive(ledger, job, Link(url="https://cdn.example/x"), api_seconds=0.1)
        stored = Stored(file_name=job.file_name, width=1, height=1, bytes=1, sha256="0" * 64)
        await ledger.finish(job, Outcome(status=Status.DONE, stored=stored, finished_at=2.0))

    asyncio.run(write())


@pytest.fixture
def connection(ledger: Ledger) -> Iterator[sqlite3.Connection]:
    with closing(beside(ledger.database.path)) as opened:
        yield opened


def table(folder: Path) -> list[list[str]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_a_ledger_that_nobody_judged_has_nothing(connection: sqlite3.Connection) -> None:
    assert not has_reviews(connection)
    assert (verdicts(connection), verdicts_on(connection, [b"x"]), redos(connection)) == ({}, {}, {})
    assert (waiting_redos(connection), last_revision(connection), judged_since(connection, 0)) == ([], 0, [])
    assert not is_stale(connection)


def test_tables_from_before_names_are_read_as_they_are_and_get_the_column_with_the_next_verdict(
    ledger: Ledger, make_job: MakeJob, connection: sqlite3.Connection
) -> None:
    mug, cup = make_job("mug"), make_job("cup")
    end(ledger, mug)
    end(ledger, cup)
    prepare_reviews(connection)
    connection.execute("ALTER TABLE reviews DROP COLUMN reviewer")
    old = "INSERT INTO reviews (key, review, note, reviewed_at, revision) VALUES (?, 'accept', 'n', 1.0, ?)"
    connection.execute(old, (key_of(mug), 1))
    before = {key_of(mug): Verdict(review="accept", note="n", reviewed_at=1.0)}
    assert (verdicts(connection), verdicts_on(connection, [key_of(mug)])) == (before, before)
    decide(ledger.database.path, Decision(keys=(key_of(cup),), review="reject", reviewer="Ann"))
    assert {said.reviewer for said in verdicts(connection).values()} == {"", "Ann"}
    connection.execute(old.replace("INSERT", "REPLACE"), (key_of(cup), 3))  # as an older version judges
    assert verdicts(connection)[key_of(cup)].reviewer == ""


def test_undoing_leaves_a_redo_that_was_made_meanwhile(
    ledger: Ledger, make_job: MakeJob, connection: sqlite3.Connection
) -> None:
    mug, made = make_job("mug"), make_job("mug-redo1")
    end(ledger, mug)
    path, keys = ledger.database.path, (key_of(mug),)
    decide(path, Decision(keys=keys, review="redo", again=Again(prompt="one")))
    second = decide(path, Decision(keys=keys, review="redo", again=Again(prompt="two")))
    assert undo(path, second.before) == {(key_of(mug), 1): 3}
    assert [one.redo.prompt for one in waiting_redos(connection)] == ["one"]
    assert undo(path, second.before) == {}
    third = decide(path, Decision(keys=keys, review="redo", again=Again(prompt="three")))
    pin(connection, waiting_redos(connection)[0].redo, made.key)
    end(ledger, made)
    assert undo(path, third.before) == {(key_of(mug), 3): 5}
    assert waiting_redos(connection) == []  # nothing is paid for anew
    assert [redo.prompt for redo in redos(connection)[mug.key]] == ["three"]


def test_verdicts_and_their_revisions(connection: sqlite3.Connection) -> None:
    prepare_reviews(connection)
    prepare_reviews(connection)
    judge(connection, [b"a", b"b"], "accept", "good", 1.0)
    known = last_revision(connection)
    judge(connection, [b"a"], "reject", None, 2.0)
    assert judged_since(connection, known) == [b"a"]
    assert verdicts(connection) == {
        b"a": Verdict(review="reject", note="good", reviewed_at=2.0),
        b"b": Verdict(review="accept", note="good", reviewed_at=1.0),
    }
    judge(connection, [b"a"], "", None, 3.0)
    assert verdicts(connection)[b"a"] == Verdict(review="", note="good", reviewed_at=3.0)
    judge(connection, [b"a"], "", "", 3.0)
    assert list(verdicts(connection)) == [b"b"]
    assert verdicts_on(connection, [b"a", b"c"])[b"a"].review == ""
    assert is_stale(connection)
    shown(connection)
    assert not is_stale(connection)


async def test_who_judges_gets_a_turn_beside_a_run_that_always_writes(
    tmp_path: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose next commit always waits, each slow as on a slow disk, does not hold off a verdict until its end."""
    monkeypatch.setattr("batchflux.ledger.connection.BATCH", 1)
    ledger, job, judged = Ledger(tmp_path / "ledger.db", durable=False), make_job("mug"), asyncio.Event()
    commits: list[float] = []
    await ledger.finish(job, Outcome(status=Status.FAILED, error_code="server", finished_at=2.0))

    def take_long(_: sqlite3.Connection) -> None:
        time.sleep(0.005)
        commits.append(time.monotonic())

    async def write() -> None:
        while not judged.is_set():
            await ledger.database.submit(take_long)

    async with asyncio.TaskGroup() as run:
        for _ in range(4):
            run.create_task(write())
        for note in map(str, range(20)):
            decision = Decision(keys=(key_of(job),), review="reject", note=note)
            await asyncio.to_thread(decide, tmp_path / "ledger.db", decision)
        judged.set()
    assert len(commits) < 20 * 20, "each verdict waited for many commits"
    ledger.close()


def test_what_a_run_has_pinned_is_neither_changed_nor_taken_back_while_it_runs(connection: sqlite3.Connection) -> None:
    prepare_reviews(connection)
    query = "INSERT INTO jobs (key, id, position, planned, tags, spec) VALUES (?, 'a', 0, '', '', '')"
    connection.execute(query, (b"a",))
    first = Again(prompt="one")
    assert ask_redo(connection, b"a", first, 1.0, live=False) == "a-redo1"
    redo = redos(connection)[b"a".hex()][0]
    pin(connection, Redo(number=redo.number, origin=redo.origin, ordinal=1, seed=5, variant=2), (b"k" * 32).hex())
    assert redos(connection)[b"a".hex()][0].variant == 2
    assert not take_back_redo(connection, b"a", live=True)
    assert ask_redo(connection, b"a", first, 2.0, live=True) == "a-redo2"
    assert take_back_redo(connection, b"a", live=True)
    # Nobody runs: what was pinned and not begun is free again, and no longer pinned.
    assert ask_redo(connection, b"a", Again(prompt="two"), 3.0, live=False) == "a-redo1"
    assert [(one.prompt, one.variant, one.seed) for one in redos(connection)[b"a".hex()]] == [("two", None, None)]


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("mug", "mug-redo12"),
        ("x" * 128, "x" * 121 + "-redo12"),
        ("ü" * 128, "ü" * 110 + "-redo12"),
        ("a" * 120 + " b" * 4, "a" * 120 + "-redo12"),
    ],
)
def test_an_id_stays_short_enough_for_a_file(root: str, expected: str) -> None:
    assert redo_id(root, 12) == expected


def test_a_decision_is_whole_or_nothing(ledger: Ledger, make_job: MakeJob, connection: sqlite3.Connection) -> None:
    mug = make_job("mug")
    end(ledger, mug)
    path = ledger.database.path
    with pytest.raises(NoSuchJobError):
        decide(path, Decision(keys=(key_of(mug), bytes(32)), review="redo", again=Again()))
    assert not has_reviews(connection)
    asked = decide(path, Decision(keys=(key_of(mug),), review="redo", note="n")).asked
    assert [(one.key, one.id) for one in asked] == [(key_of(mug), "mug-redo1")]
    assert verdicts(connection)[key_of(mug)].note == "n"
    with pytest.raises(StorageError, match="cannot be opened"):
        decide(path.with_name("nowhere.db"), Decision(keys=(key_of(mug),), review="accept"))
    assert not path.with_name("nowhere.db").exists()


def test_looking_on_drops_no_lock_of_the_run(tmp_path: Path, start: Start) -> None:
    """POSIX locks go when any descriptor of the file is closed in the process: opening must not do that by hand.

    `run --watch` opens the ledger in the process that writes it; another process must not get in meanwhile.
    """
    path = tmp_path / "ledger.db"
    Ledger(path, durable=False, threaded=False).close()
    with closing(connect(path)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO meta VALUES ('a', 'b')")
        for opens in (connect, beside):
            opens(path).close()
            code = (
                "import sqlite3, sys\n"
                "c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)\n"
                "try:\n    c.execute('BEGIN IMMEDIATE')\n    print('got in')\n"
                "except sqlite3.OperationalError as error:\n    print(error)\n"
                "c.close()\n"
            )
            process = start(code, path)
            assert process.communicate(timeout=60)[0].strip() == "database is locked"
        writer.execute("COMMIT")


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be opened"):
        beside(tmp_path / "ledger.db")
    assert list(tmp_path.iterdir()) == []


def test_columns_come_with_the_first_verdict_and_follow_the_tags(tmp_path: Path, make_job: MakeJob) -> None:
    results = Results(tmp_path / "results.csv", ["sku"])
    ledger = Ledger(tmp_path / "ledger.db", on_finish=results.append, durable=False, threaded=False)
    mug, cup, jar = (make_job(name, position=n, tags=(("sku", name),)) for n, name in enumerate(["mug", "cup", "jar"]))
    end(ledger, mug)
    assert table(tmp_path)[0] == [*HEADER, "tags.sku"]
    assert results.intact()
    decide(tmp_path / "ledger.db", Decision(keys=(key_of(mug),), review="reject", note="@risk"))
    end(ledger, cup)  # a row that comes before the next rewrite keeps to the header that is there
    assert [len(row) for row in table(tmp_path)] == [len(HEADER) + 1] * 3
    results.verdicts = ledger.database.now(verdicts)
    assert not results.intact()
    ledger.database.now(lambda connection: results.rewrite(ended_rows(connection)))
    end(ledger, jar)
    rows = table(tmp_path)
    assert rows[0] == [*HEADER, "tags.sku", "review", "note"]
    assert [row[-3:] for row in rows[1:]] == [["mug", "reject", "'@risk"], ["cup", "", ""], ["jar", "", ""]]
    assert results.intact()
    results.close()
    ledger.close()


@pytest.fixture
def judged(ledger: Ledger, make_job: MakeJob) -> Path:
    """An output folder with a picture that was judged, and a results.csv that does not show it."""
    folder = ledger.database.path.parent
    mug = make_job("mug", tags=(("sku", "M-1"),))
    end(ledger, mug)
    decide(ledger.database.path, Decision(keys=(key_of(mug),), review="accept"))
    return folder


def test_results_are_brought_up_to_date(judged: Path, connection: sqlite3.Connection) -> None:
    assert show_verdicts(judged) == "written"
    assert table(judged)[0] == [*HEADER, "tags.sku", "review", "note"]
    assert table(judged)[1][-3:] == ["M-1", "accept", ""]
    assert not is_stale(connection)
    assert show_verdicts(judged) == "fresh"


def test_results_of_a_folder_that_is_run_are_left_alone(judged: Path) -> None:
    lock = FolderLock(judged)
    lock.acquire()
    assert show_verdicts(judged) == "held"
    lock.release()
    assert not (judged / "results.csv").exists()


@pytest.mark.parametrize("meanwhile", ["a verdict", "a whole run", "a run begins"])
def test_what_happens_while_results_are_written_wins(
    judged: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    """Between reading and taking the file's place anything may happen; then the file is not ours to write."""
    lock = FolderLock(judged)
    real = projection._swap

    def late(*arguments: Any) -> Any:
        if meanwhile == "a verdict":
            ledger.database.now(lambda connection: judge(connection, [b"x"], "reject", "", 1.0))
        elif meanwhile == "a whole run":
            ledger.database.now(lambda connection: set_meta(connection, "began", "9.0"))
        else:
            lock.acquire()
        return real(*arguments)

    monkeypatch.setattr(projection, "_swap", late)
    assert show_verdicts(judged) == ("held" if meanwhile == "a run begins" else "overtaken")
    lock.release()
    assert [path.name for path in judged.glob("*results*")] == []
    assert [path.name for path in judged.glob(".results*")] == []
    monkeypatch.undo()
    assert show_verdicts(judged) == "written"


def test_a_run_waits_while_results_take_their_place(judged: Path, connection: sqlite3.Connection) -> None:
    """The swap is a write transaction: a run that has the lock cannot have begun before it ends."""
    results = Results(judged / "results.csv", [])
    seen: list[str] = []
    real = results.swap

    def swap(temporary: Path) -> None:
        other = sqlite3.connect(judged / "ledger.db", isolation_level=None, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()
        seen.append("tried")
        real(temporary)

    results.swap = swap  # type: ignore[method-assign]  # to look in at the moment it is called
    temporary = results.write_beside([], ".results.csv.test.tmp")
    assert projection._swap(judged, connection, results, temporary, projection._moment(connection)) == "written"
    assert seen == ["tried"]
    assert get_meta(connection, "reviews_stale") == "0"


@dataclass
class Wanted:
    """What a plain model says of one redo."""

    origin: str
    root: str
    ordinal: int
    prompt: str | None
    pinned: bool = False
    begun: bool = False


@dataclass
class Model:
    names: list[str] = field(default_factory=lambda: ["mug", "cup"])
    wanted: list[Wanted] = field(default_factory=list)
    live: bool = False


class Families(RuleBasedStateMachine):
    """People ask, change their minds and runs come and go: the ledger says what a plain model says."""

    def __init__(self) -> None:
        super().__init__()
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.execute("CREATE TABLE jobs (key BLOB UNIQUE, id TEXT)")
        self.connection.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT)")
        self.model = Model()

    @initialize()
    def begin(self) -> None:
        prepare_reviews(self.connection)
        for name in self.model.names:
            self.connection.execute("INSERT INTO jobs VALUES (?, ?)", (name.encode(), name))

    def _open(self, origin: str) -> Wanted | None:
        found = [
            one
            for one in self.model.wanted
            if one.origin == origin and not one.begun and not (self.model.live and one.pinned)
        ]
        return max(found, key=lambda one: one.ordinal, default=None)

    @rule(data=st.data(), prompt=st.sampled_from([None, "x", "y"]))
    def ask(self, data: st.DataObject, prompt: str | None) -> None:
        origin = data.draw(st.sampled_from(self.model.names))
        name = ask_redo(self.connection, origin.encode(), Again(prompt=prompt), 1.0, live=self.model.live)
        waiting = self._open(origin)
        if waiting is None:
            root = next((one.root for one in self.model.wanted if self._name(one) == origin), origin)
            last = max((one.ordinal for one in self.model.wanted if one.root == root), default=0)
            waiting = Wanted(origin, root, last + 1, prompt)
            self.model.wanted.append(waiting)
        waiting.prompt, waiting.pinned = prompt, False
        assert name == self._name(waiting)

    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        origin = data.draw(st.sampled_from(self.model.names))
        waiting = self._open(origin)
        assert take_back_redo(self.connection, origin.encode(), live=self.model.live) == (waiting is not None)
        if waiting is not None:
            self.model.wanted.remove(waiting)

    @rule()
    def run_begins(self) -> None:
        self.model.live = True
        for one in self.model.wanted:
            if not one.pinned:
                redo = self._row(one)
                pin(self.connection, Redo(number=redo, origin="", ordinal=0, variant=2), self._name(one).encode().hex())
                one.pinned = True

    @rule(data=st.data())
    def run_begins_a_job(self, data: st.DataObject) -> None:
        ready = [one for one in self.model.wanted if self.model.live and one.pinned and not one.begun]
        if ready:
            one = data.draw(st.sampled_from(ready))
            one.begun = True
            self.connection.execute("INSERT INTO jobs VALUES (?, ?)", (self._name(one).encode(), self._name(one)))
            self.model.names.append(self._name(one))

    @rule()
    def run_ends(self) -> None:
        self.model.live = False

    @invariant()
    def the_same(self) -> None:
        if not has_reviews(self.connection):
            return
        found = {
            (bytes.fromhex(one.origin).decode(), one.ordinal, one.prompt, one.variant is not None)
            for family in redos(self.connection).values()
            for one in family
        }
        assert found == {(one.origin, one.ordinal, one.prompt, one.pinned) for one in self.model.wanted}
        waiting = {(one.root, one.redo.ordinal) for one in waiting_redos(self.connection)}
        assert waiting == {(one.root.encode().hex(), one.ordinal) for one in self.model.wanted if not one.begun}

    def _name(self, one: Wanted) -> str:
        return f"{one.root}-redo{one.ordinal}"

    def _row(self, one: Wanted) -> int:
        query = "SELECT number FROM redos WHERE root = ? AND ordinal = ?"
        return int(self.connection.execute(query, (one.root.encode(), one.ordinal)).fetchone()[0])

    def teardown(self) -> None:
        self.connection.close()


TestFamilies = Families.TestCase
TestFamilies.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
