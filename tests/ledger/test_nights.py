"""What a folder's ledger and run.log tell of its runs: also a log that is damaged, huge or of an older version."""

from __future__ import annotations

import json
import re
import time
import tracemalloc
from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from batchflux.errors import Code, JobError
from batchflux.ledger.books.runs import note_begun, note_ended, recorded
from batchflux.ledger.connection import reading
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.nights.log import LONGEST, MIRROR, MOST_KEPT, OUTAGE, WAIT, logged
from batchflux.ledger.nights.night import MOST_BINS, Bins, fill_bins, last_night, nights
from batchflux.ledger.tables import empty_ledger, set_meta
from batchflux.output.folder import iso
from tests.attempts import fail, send

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from tests.conftest import MakeJob
    from tests.ledger.conftest import Finish

BEGAN = 1_795_000_000.0
LIMITED = "rate limited by the provider"


def line(at: float, event: str, /, **fields: Any) -> bytes:
    return json.dumps({"at": iso(BEGAN + at), "event": event, **fields}, ensure_ascii=False).encode() + b"\n"


def log_of(folder: Path, *lines: bytes) -> Path:
    path = folder / "run.log"
    path.write_bytes(b"".join(lines))
    return path


def test_a_log_tells_of_outages_waits_and_what_happened(tmp_path: Path) -> None:
    path = log_of(
        tmp_path,
        line(0, "run_started", name="n"),
        line(5, "waits", provider="tuzi", reason=LIMITED, why="slow down"),
        line(
            10, "away", place="provider", message="03:10:00 provider not reachable: connection refused; probing, next"
        ),
        line(11, "away", place="provider", message="said twice"),
        line(12, "probe_failed", place="provider", message="still"),
        line(20, "goes_on", provider="tuzi", reason=LIMITED),
        line(40, "back", place="provider", message="back"),
        line(41, "back", place="nobody", message="never away"),
        line(50, "mirror_away", message="s3://b is not there, pictures are kept here meanwhile: down"),
        line(55, "key_refused", key="K", message="The key in K is out of balance (no money): goes on."),
        line(56, "signal", signal="SIGTERM"),
        line(60, "run_ended", exit_code=143, reason="signal", message="Stopped.", done=3, failed=1, unknown=0),
    )
    (run,) = logged(path)
    assert [(one.kind, one.what, one.why, one.since - BEGAN, (one.until or 0) - BEGAN) for one in run.stretches] == [
        (WAIT, LIMITED, "slow down", 5, 20),
        (OUTAGE, "provider", "connection refused", 10, 40),
        (MIRROR, MIRROR, "down", 50, 60),
    ]
    assert run.waited == {(WAIT, LIMITED): 15, (OUTAGE, "provider"): 30, (MIRROR, MIRROR): 10}
    assert [(note.event, note.text) for note in run.notes] == [
        ("key_refused", "The key in K is out of balance (no money): goes on."),
        ("signal", "SIGTERM"),
    ]
    assert run.end["exit_code"] == 143


def test_of_two_providers_each_has_outages_of_its_own(tmp_path: Path) -> None:
    away = [line(n, "away", place="provider", provider=name, message="m") for n, name in enumerate(("a", "b"), 1)]
    back = [line(9, "back", place="provider", provider="a", message="m")]
    (run,) = logged(log_of(tmp_path, line(0, "run_started"), *away, *back))
    run.close(BEGAN + 12)
    assert run.waited == {(OUTAGE, "a"): 8, (OUTAGE, "b"): 10}


def test_waits_close_upon_each_other_are_one_stretch_and_too_many_are_summed(tmp_path: Path) -> None:
    pairs = [
        line(at + offset, event, provider="p", reason=LIMITED)
        for at in range(0, 40_000, 10)
        for offset, event in ((1.0, "waits"), (2.0, "goes_on"), (3.0, "waits"), (4.0, "goes_on"))
    ]
    (run,) = logged(log_of(tmp_path, line(0, "run_started"), *pairs))
    assert len(run.stretches) == MOST_KEPT
    assert (run.stretches[0].since, run.stretches[0].until) == (BEGAN + 1, BEGAN + 4)
    assert run.waited == {(WAIT, LIMITED): 8000.0}


LINES = st.one_of(
    st.binary(max_size=80),
    st.sampled_from(
        ["run_started", "run_ended", "away", "back", "waits", "goes_on", "signal", "job_ended", "odd"]
    ).flatmap(
        lambda event: st.dictionaries(
            st.sampled_from(["place", "reason", "message", "status", "done", "exit_code", "name", "provider"]),
            st.one_of(
                st.none(), st.booleans(), st.integers(), st.text(max_size=20), st.lists(st.integers(), max_size=2)
            ),
            max_size=4,
        ).map(lambda fields: line(1.0, event, **fields))
    ),
    st.just(line(2.0, "away", place="p", message="m")[:-9]),
    st.just(b'{"at": "2026-13-45T99:99:99.000Z", "event": "run_started"}\n'),
)


@given(lines=st.lists(LINES, max_size=30))
def test_whatever_stands_in_a_log_it_is_read(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    folder = tmp_path_factory.getbasetemp()
    log_of(folder, *lines)
    with closing(empty_ledger()) as connection:
        found = nights(folder, connection, BEGAN + 9, running=False)
        fill_bins(connection, found)
    starts = re.findall(rb'^\{"at": "[^"]+", "event": "run_started".*\n', b"".join(lines), re.MULTILINE)
    assert len(found) == len([one for one in starts if b"-13-" not in one])
    json.dumps([night.as_json() for night in found])


def test_a_line_without_an_end_and_a_huge_one_cost_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    with path.open("wb") as file:
        file.write(line(0, "run_started", name="n"))
        file.write(line(1, "away", place="p", message="x" * 20_000_000))
        file.write(line(2, "job_ended", id="a", status="done", code=None))
        for _ in range(100_000):
            file.write(b'{"at": "2026-11-18T08:00:00.000Z", "event": "attempt_failed", "id": "a", "code": "server"}\n')
        file.write(b"\0" * 20_000_000)
    tracemalloc.start()
    try:
        (run,) = logged(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (run.name, run.made["done"], run.stretches) == ("n", 1, [])
    assert peak < 20 * LONGEST


def with_ledger(folder: Path, then: Callable[[Ledger], None]) -> None:
    ledger = Ledger(folder / "ledger.db", durable=False, threaded=False)
    try:
        then(ledger)
    finally:
        ledger.close()


def nights_in(folder: Path, *, now: float = BEGAN + 100, running: bool = False) -> list[Any]:
    with reading(folder / "ledger.db") as connection:
        return nights(folder, connection, now, running=running)


def begun(ledger: Ledger, at: float, **notes: str) -> None:
    for name, value in {"name": "n", "currency": "CNY", **notes}.items():
        ledger.database.now(lambda connection, name=name, value=value: set_meta(connection, name, value))  # type: ignore[misc]
    ledger.database.now(lambda connection: note_begun(connection, BEGAN + at, 5))


ENDED = {"seconds": 9.0, "exit_code": 0, "reason": "finished", "message": "All.", "failed": 0, "unknown": 0}


async def test_runs_are_recorded_and_one_that_was_cut_off_has_cost_what_was_spent_until_the_next(
    tmp_path: Path, make_job: MakeJob, finish: Finish
) -> None:
    def three(ledger: Ledger) -> None:
        begun(ledger, 0, budget_per_run="2.5", deadline=repr(BEGAN + 50))
        finish(ledger, make_job("a"), price=300, at=BEGAN + 1, finished_at=BEGAN + 2)
        begun(ledger, 20, budget_per_run="")
        finish(ledger, make_job("b"), price=100, at=BEGAN + 21, finished_at=BEGAN + 22)
        end = ENDED | {"ended": BEGAN + 30, "done": 1, "spent": 100}
        ledger.database.now(lambda connection: note_ended(connection, BEGAN + 20, end))
        begun(ledger, 40)
        assert [row.spent for row in ledger.database.now(recorded)] == [None, 100, None]

    with_ledger(tmp_path, three)
    log_of(
        tmp_path,
        line(0.5, "run_started"),
        line(2, "job_ended", id="a", status="done"),
        line(3, "waits", reason=LIMITED),
    )
    first, second, third = nights_in(tmp_path, running=True)
    assert (first.state, second.state, third.state) == ("stopped", "ended", "running")
    assert (first.spent, second.spent, third.spent) == (Decimal("3E-7"), Decimal("1E-7"), Decimal(0))
    assert (first.done, first.todo, first.budget_per_run, first.spare) == (
        1,
        5,
        Decimal("2.5"),
        BEGAN + 50 - first.until,
    )
    assert (second.reason, second.price, second.images_per_minute) == ("finished", Decimal("1E-7"), 60 / 9)
    assert (third.until, third.seconds) == (BEGAN + 100, 60)


async def test_a_ledger_of_before_has_the_runs_that_the_log_tells_of(
    tmp_path: Path, make_job: MakeJob, finish: Finish
) -> None:
    def old(ledger: Ledger) -> None:
        finish(ledger, make_job("a"), price=300, at=BEGAN + 1, finished_at=BEGAN + 2)
        ledger.database.now(lambda connection: connection.execute("UPDATE attempts SET ended_at = ?", (BEGAN + 2,)))
        ledger.database.now(lambda connection: connection.execute("DROP TABLE runs"))

    with_ledger(tmp_path, old)
    log_of(
        tmp_path,
        line(0, "run_started", name="old"),
        line(4, "run_ended", exit_code=1, reason="finished", message="m", done=1, failed=2, unknown=0),
        line(10, "run_started", name="old"),
        line(12, "job_ended", id="b", status="failed", code="server"),
    )
    first, second = nights_in(tmp_path)
    assert (first.name, first.state, first.exit_code, first.done, first.failed) == ("old", "ended", 1, 1, 2)
    assert first.spent == Decimal("3E-7")
    assert (second.state, second.failed, second.seconds, second.spent) == ("stopped", 1, 2, 0)


async def test_a_request_that_was_out_when_the_process_died_is_unknown_and_possibly_billed(
    tmp_path: Path, make_job: MakeJob
) -> None:
    def killed(ledger: Ledger) -> None:
        begun(ledger, 0)
        send(ledger, make_job("a"), price=300, at=BEGAN + 5)
        send(ledger, make_job("b"), price=300, at=BEGAN + 5)
        fail(ledger, make_job("b"), JobError(Code.RATE_LIMITED, "slow"), counts=False)

    with_ledger(tmp_path, killed)
    night = next(iter(nights_in(tmp_path)))
    assert (night.unknown, night.possibly_billed, night.failures, night.refused) == (
        1,
        1,
        {"unknown": 1},
        {"rate_limited": 1},
    )


async def test_bins_hold_what_came_when_and_no_run_has_too_many(
    tmp_path: Path, make_job: MakeJob, finish: Finish
) -> None:
    def run(ledger: Ledger) -> None:
        begun(ledger, 0)
        for at in (10, 11, 3000):
            finish(ledger, make_job(f"j{at}"), price=5, at=BEGAN + at, finished_at=BEGAN + at)
        ledger.database.now(lambda connection: connection.execute("UPDATE attempts SET ended_at = ?", (BEGAN + 3000,)))
        night = ledger.database.now(lambda connection: last_night(tmp_path, connection, BEGAN + 3600, running=True))
        assert night is not None
        ledger.database.now(lambda connection: fill_bins(connection, [night]))
        assert night.bins is not None
        assert (sum(night.bins.images), max(night.bins.images), sum(night.bins.spent)) == (3, 2, 15)

    with_ledger(tmp_path, run)
    assert last_of(Bins.over(BEGAN, BEGAN)) == 1
    assert all(last_of(Bins.over(BEGAN, BEGAN + 10.0**power)) <= MOST_BINS + 1 for power in range(7))


def last_of(bins: Bins) -> int:
    return len(bins.images)


def test_a_hundred_thousand_lines_are_read_in_a_blink(tmp_path: Path) -> None:
    path = log_of(tmp_path, line(0, "run_started"), *[line(1, "job_ended", id="a", status="done", code=None)] * 100_000)
    began = time.perf_counter()
    assert logged(path)[0].made["done"] == 100_000
    print(f"{time.perf_counter() - began:.2f} s")  # noqa: T201  for who looks
