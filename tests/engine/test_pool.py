"""The pool as a whole: stages that do not hold each other up, and every way that a run can end early."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from batchflux.engine.worker_pool import Tally, workers_for
from batchflux.errors import Code, JobError, StorageError
from batchflux.models import Fetched, Job, Outcome, Status, Stored

if TYPE_CHECKING:
    from tests.engine.conftest import Night

NightOf = Callable[[int], "Night"]
PRICE = 140_000_000


def statuses(scene: Night) -> dict[str, int]:
    found = [row.status for row in scene.rows().values()]
    return {status: found.count(status) for status in set(found)}


def test_slow_downloads_never_occupy_api_slots(night: NightOf) -> None:
    scene = night(60)
    scene.server.files = lambda name, number: scene.picture(7200)  # noqa: ARG005
    scene.run(concurrency=4)
    assert max(call.at for call in scene.server.calls) < 30
    assert scene.server.peak == 4
    assert statuses(scene) == {"done": 60}


def test_downloads_that_never_end_leave_the_api_busy(night: NightOf) -> None:
    scene = night(60)
    scene.server.files = lambda name, number: scene.silence()  # noqa: ARG005
    scene.run(concurrency=4, kill_at=100.0)
    assert len(scene.server.calls) == 60
    assert all(call.ended is not None for call in scene.server.calls)


def test_downloads_at_once_are_bounded(night: NightOf) -> None:
    scene = night(60)
    scene.server.files = lambda name, number: scene.picture(100)  # noqa: ARG005
    scene.run(concurrency=20, downloads=3)
    starts = sorted(fetch.at for fetch in scene.server.fetches)
    assert starts[3] > 99
    assert starts[-1] > 1800


def test_a_slow_api_does_not_hold_up_downloads(night: NightOf) -> None:
    scene = night(8)
    scene.server.api = {"j0": [scene.picture(5000)]}
    scene.run(concurrency=2)
    assert sorted(fetch.at for fetch in scene.server.fetches)[-2] < 60


def test_a_retry_does_not_wait_for_the_first_pass(night: NightOf) -> None:
    scene = night(400)
    scene.server.api = {"j0": [scene.error(Code.SERVER), scene.picture()]}
    scene.run(concurrency=4)
    order = [call.id for call in scene.server.calls]
    assert order.count("j0") == 2
    assert order.index("j0", 1) < 100


def test_one_jobs_failure_touches_no_other(night: NightOf) -> None:
    scene = night(30)
    scene.server.api = {f"j{n}": [scene.error(Code.MODERATED)] for n in range(0, 30, 3)}
    ended = scene.run()
    assert statuses(scene) == {"done": 20, "failed": 10}
    assert (ended.tally.done, ended.tally.failed, ended.tally.codes) == (20, 10, {"moderated": 10})
    assert len(ended.notes.ends) == 30


def test_the_source_is_read_no_faster_than_its_jobs_are_done(night: NightOf) -> None:
    scene = night(5000)
    read: list[str] = []

    class Counted(list[Job]):
        def __iter__(self) -> Iterator[Job]:
            for job in list.__iter__(self):
                read.append(job.id)
                yield job

    scene.jobs = Counted(scene.jobs)
    scene.server.api = lambda name, number: scene.picture(100)  # noqa: ARG005
    scene.run(concurrency=4, kill_at=250.0)
    assert 4 <= len(read) <= workers_for(4) + 2 * 256 + 32


def test_a_signal_drains_the_run(night: NightOf) -> None:
    scene = night(40)
    scene.server.api = lambda name, number: scene.picture(10)  # noqa: ARG005
    ended = scene.run(concurrency=4, stop_at=25.0)
    assert ended.reason is not None
    assert ended.reason.reason == "signal"
    assert [call for call in scene.server.calls if call.at > 25] == []
    assert len(scene.server.calls) == 12
    assert all(call.ended is not None for call in scene.server.calls)
    assert statuses(scene) == {"done": 12}
    assert all(row.in_flight is None for row in scene.rows().values())
    assert ended.seconds < 40
    scene.run(concurrency=4)
    assert statuses(scene) == {"done": 40}
    assert len(scene.server.calls) == 40


def test_a_signal_ends_waits_for_a_retry_for_money_and_for_the_rate(night: NightOf) -> None:
    scene = night(12)
    scene.server.api = {f"j{n}": [scene.error(Code.SERVER, retry_after=9000)] for n in range(3)} | {
        "j3": [scene.picture(60)]
    }
    ended = scene.run(concurrency=3, interval=0.5, stop_at=50.0, budget=Decimal("1.00"))
    assert ended.seconds < 70
    assert all(row.in_flight is None for row in scene.rows().values())
    assert scene.rows()["j0"].status == "pending"
    assert scene.rows()["j3"].status == "done"


def test_a_download_under_way_is_kept_by_a_signal_and_its_retry_left_to_the_next_run(night: NightOf) -> None:
    scene = night(2)
    scene.server.files = {
        "j0": [scene.picture(100)],
        "j1": [scene.error(Code.DOWNLOAD, 1, retry_after=500), scene.picture()],
    }
    scene.run(stop_at=10.0)
    assert {name: row.status for name, row in scene.rows().items()} == {"j0": "done", "j1": "pending"}
    assert scene.rows()["j1"].link == "https://cdn.example/j1/1"
    scene.run()
    assert statuses(scene) == {"done": 2}
    assert len(scene.server.calls) == 2


def test_a_bug_in_one_jobs_request_ends_that_job_alone(night: NightOf) -> None:
    scene = night(40)
    scene.server.api = {"j5": [scene.bug(KeyError("sk-frobnicate?key=abc"), 0.5)]}
    ended = scene.run(concurrency=4)
    assert (ended.reason, ended.tally.done, ended.tally.codes) == (None, 39, {"internal": 1})
    row = scene.rows()["j5"]
    assert (row.status, row.in_flight, row.possibly_billed, row.attempts) == ("failed", None, 1, 1)
    assert row.error == "batchflux failed in this job (KeyError: '***?key=abc'); run.log has the place"
    (told,) = [fields for name, fields in ended.notes.events if name == "internal"]
    assert told["id"] == "j5"
    assert "in serve" in told["traceback"]
    assert "sk-frobnicate" not in str(told)
    assert scene.spent() == scene.server.charged * PRICE
    scene.server.api = {}
    assert scene.run(retry_failed=True).tally.done == 1


def test_a_bug_in_the_store_ends_that_job_and_keeps_its_picture(night: NightOf) -> None:
    scene = night(20)
    scene.pictures.faults = {"j2": [ZeroDivisionError("oops")]}
    ended = scene.run()
    assert (ended.reason, ended.tally.done, ended.tally.codes) == (None, 19, {"internal": 1})
    assert scene.rows()["j2"].link == "https://cdn.example/j2/1"
    scene.run(retry_failed=True)
    assert statuses(scene) == {"done": 20}
    assert len(scene.server.calls) == 20


def test_a_bug_of_the_engines_own_stops_the_run_and_is_raised(night: NightOf, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = night(20)

    def broken(self: Tally, outcome: Outcome) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(Tally, "add", broken)
    with pytest.raises(ZeroDivisionError, match="oops"):
        scene.run(concurrency=4)
    monkeypatch.undo()
    scene.run()
    assert statuses(scene) == {"done": 20}
    assert len(scene.server.calls) == 20


def test_a_folder_that_can_take_no_more_ends_the_run_resumably(night: NightOf) -> None:
    scene = night(20)
    scene.pictures.faults = {"j2": [StorageError("the disk is full; free space, then run again")]}
    ended = scene.run()
    assert ended.reason is not None
    assert (ended.reason.reason, ended.reason.exit_code) == ("storage", 3)
    assert scene.rows()["j2"].link is not None
    scene.run()
    assert statuses(scene) == {"done": 20}
    assert len(scene.server.calls) == 20


def test_a_ledger_that_fails_ends_the_run_and_nothing_is_sent_unrecorded(night: NightOf) -> None:
    scene = night(20)
    scene.run(limit=1)
    with contextlib.closing(sqlite3.connect(scene.folder / "ledger.db")) as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON jobs WHEN NEW.id = 'j6'"
            " BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    ended = scene.run()
    assert ended.reason is not None
    assert ended.reason.reason == "storage"
    assert "database or disk is full" in str(ended.reason)
    assert "j6" not in {call.id for call in scene.server.calls}
    assert {call.id for call in scene.server.calls} == {name for name, row in scene.rows().items() if row.attempts}
    assert all(row.in_flight is None for row in scene.rows().values())


def test_failures_in_a_row_stop_the_run(night: NightOf) -> None:
    scene = night(100)
    scene.server.api = lambda name, number: scene.error(Code.INVALID_REQUEST)  # noqa: ARG005
    ended = scene.run(concurrency=2, max_consecutive_failures=6)
    assert ended.reason is not None
    assert (ended.reason.reason, ended.reason.exit_code) == ("failures", 3)
    assert 6 <= ended.tally.failed <= 6 + 1 + 3
    assert len(scene.server.calls) <= 6 + 1 + 3, "one was out with the last, and three probes followed"


def test_the_run_of_a_moderated_batch_goes_on(night: NightOf) -> None:
    scene = night(50)
    scene.server.api = lambda name, number: scene.error(Code.MODERATED)  # noqa: ARG005
    ended = scene.run(max_consecutive_failures=5)
    assert (ended.reason, ended.tally.failed) == (None, 50)


def test_a_success_in_between_starts_the_count_again(night: NightOf) -> None:
    scene = night(60)
    scene.server.api = lambda name, _: scene.picture() if int(name[1:]) % 4 == 3 else scene.error(Code.INVALID_REQUEST)
    ended = scene.run(concurrency=1, workers=1, max_consecutive_failures=4)
    assert (ended.reason, ended.tally.done, ended.tally.failed) == (None, 15, 45)


def test_the_deadline_counts_what_a_request_takes_by_the_runs_own_latencies(night: NightOf) -> None:
    scene = night(1000)
    scene.server.api = lambda name, number: scene.picture(40)  # noqa: ARG005
    ended = scene.run(concurrency=2, deadline=600.0)
    assert ended.reason is not None
    assert (ended.reason.reason, ended.reason.exit_code) == ("deadline", 3)
    assert ended.seconds <= 601
    assert max(call.at for call in scene.server.calls) > 500
    assert all(row.status == "done" for row in scene.rows().values())


def test_a_deadline_in_the_past_sends_nothing(night: NightOf) -> None:
    scene = night(10)
    ended = scene.run(deadline=-1.0)
    assert ended.reason is not None
    assert (ended.reason.reason, scene.server.calls) == ("deadline", [])


def test_a_deadline_ends_a_long_wait(night: NightOf) -> None:
    scene = night(10)
    scene.server.api = lambda name, number: scene.error(Code.RATE_LIMITED, retry_after=30_000)  # noqa: ARG005
    ended = scene.run(deadline=600.0)
    assert ended.reason is not None
    assert ended.reason.reason == "deadline"
    assert ended.seconds <= 601


def test_only_and_limit_choose_jobs(night: NightOf) -> None:
    scene = night(30)
    scene.run(only="j1*", limit=4)
    assert sorted(scene.rows()) == ["j1", "j10", "j11", "j12"]
    assert len(scene.server.calls) == 4


def test_an_outcome_tells_what_happened(night: NightOf) -> None:
    scene = night(1)
    scene.server.api = {"j0": [scene.error(Code.SERVER, 2), scene.picture(3)]}
    scene.server.files = {"j0": [scene.picture(4)]}
    ((job, outcome),) = scene.run().notes.ends
    assert (job.id, outcome.status, outcome.attempts) == ("j0", Status.DONE, 2)
    assert (outcome.api_seconds, outcome.download_seconds) == (3, 4)
    assert outcome.result_url == "https://cdn.example/j0/1"
    assert outcome.started_at is not None
    assert outcome.finished_at is not None
    assert outcome.finished_at - outcome.started_at >= 9
    row = scene.rows()["j0"]
    assert (row.api_seconds, row.download_seconds) == (3, 4)
    assert row.finished_at == pytest.approx(outcome.finished_at, abs=1)


def test_there_are_more_workers_than_slots_and_not_without_bound() -> None:
    assert workers_for(1) > 8
    assert workers_for(24) > 48
    assert workers_for(10_000) <= 12_000


def test_a_tally_counts_by_status_and_code() -> None:
    tally = Tally()
    for status, code in ((Status.DONE, None), (Status.FAILED, "server"), (Status.UNKNOWN, "unknown")):
        tally.add(Outcome(status=status, error_code=code))
    assert (tally.done, tally.failed, tally.unknown) == (1, 1, 1)
    assert tally.codes == {"server": 1, "unknown": 1}


async def test_the_pictures_of_the_tests_say_what_the_real_one_says(
    night: NightOf, job_number: Callable[..., Job]
) -> None:
    pictures = night(0).pictures
    with pytest.raises(JobError, match="gone"):
        await pictures.store(job_number(0), ".spool/none")
    stored = await pictures.store(job_number(0), Fetched(data=b"x", path=None, size=1, seconds=0.0))
    assert isinstance(stored, Stored)
