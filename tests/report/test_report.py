"""`batchflux report` from outside: whole or not at all, beside a run, of any size."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from batchflux.cli.folder import report as report_command
from batchflux.cli.folder import status
from batchflux.errors import StorageError, UsageError
from batchflux.ledger.connection import reading
from batchflux.ledger.tables import ended_numbers, jobs_by_number
from batchflux.output.folder import FolderLock
from batchflux.report.content import page_header
from batchflux.report.report import write_report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def setup_of(page: Path) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="setup">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert match
    data: dict[str, Any] = json.loads(match[1])
    return data


def header_of(folder: Path) -> dict[str, Any]:
    with reading(folder / "ledger.db") as connection:
        return page_header(folder, connection)


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """Hold the folder, as a run does."""
    lock = FolderLock(folder)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def test_writes_one_page_beside_the_images(filled: Callable[..., Path], tmp_path: Path) -> None:
    folder = filled(tmp_path / "out", count=30, failing=10)
    result = CliRunner().invoke(report_command, [str(folder)])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{folder}/report.html\n"
    assert "30 jobs, 27 thumbnails made." in result.stderr
    header = setup_of(folder / "report.html")["header"]
    assert header["counts"] == {"total": 30, "done": 27, "failed": 3, "unknown": 0, "pending": 0, "in_flight": 0}
    assert header["failures"] == {"bad_answer": 1, "moderated": 1, "timeout": 1}
    assert header["spent"] == "3.78"
    assert len(list((folder / "thumbs").glob("*.jpg"))) == 27
    again = CliRunner().invoke(report_command, [str(folder)])
    assert "30 jobs, 0 thumbnails made." in again.stderr
    assert not list(folder.glob(".report*"))


def test_says_which_pictures_cannot_be_shown(filled: Callable[..., Path], tmp_path: Path) -> None:
    folder = filled(tmp_path / "out", count=10, failing=0)
    for number in range(5):
        (folder / f"images/job-{number:06}.jpg").unlink()
    result = CliRunner().invoke(report_command, [str(folder)])
    assert result.exit_code == 0
    assert "5 pictures cannot be shown" in result.stderr
    assert "(job-000000, job-000001, job-000002 and 2 more)" in result.stderr


def test_a_folder_without_a_ledger_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no output folder"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_written_leaves_the_old_one(filled: Callable[..., Path], tmp_path: Path) -> None:
    folder = filled(tmp_path / "out", count=3)
    write_report(folder)
    before = (folder / "report.html").read_bytes()
    (folder / ".report.html.tmp").mkdir()
    with pytest.raises(StorageError, match=r"report\.html cannot be written"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == before


def test_a_file_where_thumbnails_belong_is_said_so(filled: Callable[..., Path], tmp_path: Path) -> None:
    folder = filled(tmp_path / "out", count=2, failing=0)
    (folder / "thumbs").write_text("mine", encoding="utf-8")
    with pytest.raises(StorageError, match=r"thumbs cannot hold thumbnails \(File exists\): move it away"):
        write_report(folder)


def test_an_empty_run_has_a_page_too(filled: Callable[..., Path], tmp_path: Path) -> None:
    folder = filled(tmp_path / "out", count=0)
    assert write_report(folder).rows == 0
    assert setup_of(folder / "report.html")["header"]["counts"]["total"] == 0


def test_a_run_can_commit_at_any_moment_of_a_report(filled: Callable[..., Path], tmp_path: Path) -> None:
    folder = filled(tmp_path / "out", count=2000)
    with (
        reading(folder / "ledger.db") as connection,
        closing(sqlite3.connect(folder / "ledger.db", timeout=0, isolation_level=None)) as writer,
    ):
        numbers = ended_numbers(connection)
        writer.execute("UPDATE jobs SET error = 'between'")
        jobs = jobs_by_number(connection, numbers)
        seen = [next(jobs).number for _ in range(700)]
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE jobs SET listed = 0 WHERE position >= 1900")
        writer.execute("COMMIT")  # would be SQLITE_BUSY if the reader held the file
        seen += [known.number for known in jobs]
    assert seen == numbers[:1900]


def test_the_header_of_a_run_that_goes_on(filled: Callable[..., Path], tmp_path: Path) -> None:
    began = 1_700_000_000.0  # long ago, by whatever clock
    meta = (("began", str(began)), ("budget", "25.00"), ("waiting", "03:00:12 provider not reachable"))
    folder = filled(tmp_path / "out", count=4, meta=meta)
    (folder / "summary.json").write_text('{"name": "of an earlier run", "seconds": 5, "message": "old"}')
    assert header_of(folder)["state"] == "stopped"
    assert "cut off" in header_of(folder)["message"]
    with running(folder):
        header = header_of(folder)
    assert (header["state"], header["name"]) == ("running", "filled")
    assert header["message"] == "03:00:12 provider not reachable"
    assert (header["this_run"], header["spent_this_run"]) == ({"done": 4, "failed": 0, "unknown": 0}, None)
    assert (header["budget"], header["started_at"]) == ("25.00", "2023-11-14T22:13:20.000Z")
    assert header["seconds"] > 0


def test_the_header_of_a_run_that_ended_says_what_its_summary_does(filled: Callable[..., Path], tmp_path: Path) -> None:
    folder = filled(tmp_path / "out", count=4, meta=(("began", "1795000000.0"),))
    summary = {"name": "mine", "seconds": 5.25, "message": "All 4 jobs are done.", "images_per_minute": 45.71}
    summary |= {"started_at": "2026-11-18T11:06:40.000Z", "finished_at": "2026-11-18T11:06:45.250Z"}
    (folder / "summary.json").write_text(json.dumps(summary))
    header = header_of(folder)
    assert {name: header[name] for name in summary} == summary
    assert header["state"] == "ended"


@pytest.mark.parametrize("earlier", ["2026-11-18T11:06:39.999Z", None])
def test_a_run_that_was_cut_off_is_not_the_one_before_it(
    earlier: str | None, filled: Callable[..., Path], tmp_path: Path
) -> None:
    """Nothing runs, and the summary, if there is one, is of a run that began at another moment."""

    def leave(number: int, row: dict[str, Any], _spec: dict[str, Any]) -> None:
        row |= {"started_at": 1_795_000_000.0, "finished_at": 1_795_000_000.0 + 6 * number - 12}
        if number >= 7:
            row |= {"status": "pending", "in_flight": 140_000_000, "finished_at": None, "file_name": None}

    meta = (("began", "1795000000.0"), ("budget", "25.00"))
    folder = filled(tmp_path / "out", count=10, failing=0, change=leave, meta=meta)
    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as writer:
        writer.execute("UPDATE attempts SET state = 'authorized', billed = NULL, price = 140000000 WHERE job > 7")
    if earlier is not None:
        old = {"name": "old", "seconds": 0.4, "message": "2 of 10 jobs done", "images_per_minute": 300.0, "budget": "1"}
        (folder / "summary.json").write_text(json.dumps(old | {"started_at": earlier, "finished_at": earlier}))
    header = header_of(folder)
    assert (header["state"], header["name"]) == ("stopped", "filled")
    assert header["message"] == "The last run was cut off; run it again to continue."
    assert header["counts"] == {"total": 10, "done": 7, "failed": 0, "unknown": 3, "pending": 0, "in_flight": 0}
    assert header["failures"] == {"unknown": 3}
    assert header["possibly_billed"] == 3
    assert (header["budget"], header["started_at"], header["finished_at"]) == (
        "25.00",
        "2026-11-18T11:06:40.000Z",
        None,
    )
    # Five of the seven pictures are of this run, the last of them 24 s after it began.
    assert (header["seconds"], header["images_per_minute"]) == (24.0, 12.5)
    with running(folder):
        header = header_of(folder)
    assert (header["state"], header["message"], header["counts"]["in_flight"]) == ("running", "", 3)


def test_a_run_that_was_cut_off_before_its_first_picture(filled: Callable[..., Path], tmp_path: Path) -> None:
    folder = filled(tmp_path / "out", count=2, meta=(("began", "9999999999.0"),))
    header = header_of(folder)
    assert (header["state"], header["seconds"], header["images_per_minute"]) == ("stopped", None, 0.0)


@pytest.mark.parametrize("text", ["", "{", "[]", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")])
def test_a_summary_that_cannot_be_read_is_none(text: str, filled: Callable[..., Path], tmp_path: Path) -> None:
    folder = filled(tmp_path / "out", count=2)
    (folder / "summary.json").write_text(text, encoding="latin-1")
    assert header_of(folder)["state"] == "none"


def test_nothing_secret_reaches_the_page(filled: Callable[..., Path], tmp_path: Path) -> None:
    canary = "X-Amz-Signature=c0ffee5ecretc0ffee5ecret"

    def sign(_number: int, row: dict[str, Any], spec: dict[str, Any]) -> None:
        row["link"] = f"https://cdn.example/a.png?{canary}"
        spec["images"] = [f"https://cdn.example/in.png?{canary}"]

    folder = filled(tmp_path / "out", count=3, change=sign)
    write_report(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    packed = re.findall(r'class="rest">([^<]*)<', page)

    whole = page + "".join(gzip.decompress(base64.b64decode(text)).decode() for text in packed)
    assert "https://cdn.example/a.png" in whole
    assert "c0ffee5ecret" not in whole


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("count", "memory", "page"),
    [
        pytest.param(20_000, 110_000_000, 8_000_000, marks=pytest.mark.slow),
        pytest.param(100_000, 300_000_000, 40_000_000, marks=pytest.mark.long),
    ],
)
def test_many_rows_are_streamed(
    filled: Callable[..., Path], tmp_path: Path, count: int, memory: int, page: int
) -> None:
    folder = filled(tmp_path / "out", count=count, thumbs=True)
    code = (
        "import resource, sys; from pathlib import Path; from batchflux.report.report import write_report\n"
        "write_report(Path(sys.argv[1])); status = Path('/proc/self/status')\n"
        # On Linux ru_maxrss also knows the peak of the process that started this one.
        "peak = [line.split()[1] for line in status.read_text().splitlines() if line.startswith('VmHWM')]"
        " if status.exists() else [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]\n"
        "print(peak[0])"
    )
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], env=environ, capture_output=True, text=True, check=True, timeout=200
    )
    assert float(done.stdout) < memory / 1024
    assert (folder / "report.html").stat().st_size < page


def test_the_head_tells_what_each_provider_came_to(filled: Callable[..., Path], tmp_path: Path) -> None:
    def two(number: int, _row: dict[str, Any], spec: dict[str, Any]) -> None:
        spec["provider"] = ("relay", "bfl")[number % 2]

    folder = filled(tmp_path / "out", count=6, failing=3, change=two)
    with closing(sqlite3.connect(folder / "ledger.db")) as connection, connection:
        connection.execute("INSERT INTO submissions VALUES (1, 'relay', 'A', NULL, 0), (2, 'bfl', 'B', NULL, 0)")
        connection.execute(
            "UPDATE attempts SET submission ="
            " (SELECT 1 + (json_extract(spec, '$.provider') = 'bfl') FROM jobs WHERE jobs.number = job)"
        )
        connection.execute(
            "UPDATE attempts SET code = 'quota'"
            " WHERE number = (SELECT MAX(number) FROM attempts WHERE state = 'failed' AND submission = 2)"
        )
    head = header_of(folder)
    made = {name: (use["done"], use["failed"], use["refused"]) for name, use in head["providers"].items()}
    assert made == {"relay": (2, 1, 0), "bfl": (2, 1, 1)}
    assert sum(Decimal(use["spent"]) for use in head["providers"].values()) == Decimal(head["spent"])
    write_report(folder)
    setup = setup_of(folder / "report.html")
    assert setup["header"]["providers"] == head["providers"]
    assert "provider" in setup["columns"]
    text = CliRunner().invoke(status, [str(folder)]).stdout
    assert re.search(r"  provider   bfl: 2 done, 1 failed, \d attempts, 0\.\d\d CNY, 1 refused\n", text)
