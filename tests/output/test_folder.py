"""One process a folder, and small files that are whole."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import stat
import textwrap
import time
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from batchflux.errors import FolderBusy, StorageError, UsageError
from batchflux.output.folder import FolderLock, RunLog, check_place, write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Start

HOLDER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from batchflux.output.folder import FolderLock

    lock = FolderLock(Path(sys.argv[1]))
    lock.acquire()
    print("held", flush=True)
    sys.stdin.readline()
    lock.release()
    print("released", flush=True)
    sys.stdin.readline()
""")


def test_a_second_process_finds_the_folder_busy(tmp_path: Path, start: Start) -> None:
    folder = tmp_path / "out" / "spring"
    holder = start(HOLDER, folder)
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    lock = FolderLock(folder)
    with pytest.raises(FolderBusy) as caught:
        lock.acquire()
    assert str(caught.value) == (
        f"Another process is running {folder}: wait for it, or choose another folder with --out."
    )
    assert caught.value.exit_code == 4
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "released\n"
    lock.acquire()
    lock.release()


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_lock_that_was_removed_holds_all_the_same(tmp_path: Path, start: Start, how: str) -> None:
    holder = start(HOLDER, tmp_path)
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    (tmp_path / ".lock").unlink()
    if how == "replaced":
        (tmp_path / ".lock").touch()
    lock = FolderLock(tmp_path)
    assert lock.is_held()
    with pytest.raises(FolderBusy):
        lock.acquire()
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "released\n"
    assert not lock.is_held()


def without_locks(monkeypatch: pytest.MonkeyPatch, number: int, *, folders_only: bool) -> None:
    """Make flock fail as on a file system that has none: NFS without a lock daemon, some FUSE and 9p mounts."""
    flock = fcntl.flock

    def refuse(descriptor: int, operation: int) -> None:
        if not folders_only or stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    without_locks(monkeypatch, number, folders_only=False)
    lock = FolderLock(tmp_path)
    with pytest.raises(UsageError, match=r"has no working locks \(.*\): two runs .* choose a folder on a local disk"):
        lock.acquire()
    assert not lock.is_held()


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_where_only_files_have_locks_a_removed_one_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    without_locks(monkeypatch, errno.EBADF, folders_only=True)
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.check()
    (tmp_path / ".lock").rename(tmp_path / "old")
    if how == "replaced":
        (tmp_path / ".lock").touch()
    with pytest.raises(StorageError, match="was removed while this run held the folder by it"):
        lock.check()
    lock.release()


def test_a_killed_process_holds_nothing(tmp_path: Path, start: Start) -> None:
    holder = start(HOLDER, tmp_path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()


def test_who_only_looks_keeps_no_run_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To look takes a shared lock for some microseconds; a run that begins just then waits for it to go."""
    looking = os.open(tmp_path / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            fcntl.flock(looking, fcntl.LOCK_UN)

    monkeypatch.setattr(time, "sleep", pause)
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert len(pauses) == 2
    lock.release()
    os.close(looking)


def test_the_lock_of_this_process_counts_too(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    with pytest.raises(FolderBusy):
        second.acquire()
    first.release()
    first.release()
    second.acquire()
    second.release()


def test_a_folder_that_cannot_be_made_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError) as caught:
        FolderLock(tmp_path / "file" / "out").acquire()
    assert str(caught.value) == (
        f"The output folder {tmp_path / 'file' / 'out'} cannot be used (Not a directory): "
        "choose another with --out, or move that file away."
    )
    for folder in (tmp_path / "file", tmp_path / "file" / "out" / "deeper"):
        with pytest.raises(UsageError, match=r"/file is a file\): choose another with --out, or move that file away"):
            check_place(folder)
    check_place(tmp_path / "new" / "out")


def test_a_place_that_cannot_be_looked_at_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to("round")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    places = [(tmp_path / "round", "Too many levels"), (tmp_path / "round" / "out", "Too many levels")]
    places.append((tmp_path / ("x" * 300), "File name too long"))
    if os.geteuid():  # root reads all
        places += [(closed, "Permission denied"), (closed / "out", "Permission denied")]
    for place, why in places:
        with pytest.raises(UsageError, match=rf"cannot be used \({why}.*\): choose another with --out, or see"):
            check_place(place)


def test_lock_and_log_are_for_their_owner_only(tmp_path: Path) -> None:
    lock, log = FolderLock(tmp_path), RunLog(tmp_path / "run.log")
    lock.acquire()
    log.close()
    lock.release()
    for name in (".lock", "run.log"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_the_log_is_one_object_a_line_and_goes_on_in_the_next_run(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run.log")
    log.write("run_started", name="frühling", jobs=3)
    log.write("job_ended", id="a\nb", price=Decimal("0.14"), event_id="\ud800")
    log.close()
    log = RunLog(tmp_path / "run.log")
    log.write("run_started")
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "run.log").read_text(encoding="utf-8").splitlines()]
    assert [line["event"] for line in lines] == ["run_started", "job_ended", "run_started"]
    assert (lines[0]["name"], lines[0]["jobs"], lines[1]["id"], lines[1]["price"]) == ("frühling", 3, "a\nb", "0.14")
    assert all(line["at"].endswith("Z") for line in lines)


def test_a_log_that_cannot_be_opened_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"run\.log cannot be written \(Is a directory\): move that folder away"):
        RunLog(tmp_path_with_folder(tmp_path))


def tmp_path_with_folder(tmp_path: Path) -> Path:
    (tmp_path / "run.log").mkdir()
    return tmp_path / "run.log"


FULL = textwrap.dedent("""
    import resource, sys
    from pathlib import Path
    from batchflux.errors import StorageError
    from batchflux.output.folder import RunLog

    log = RunLog(Path(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        for number in range(100):
            log.write("job_ended", id=f"mug-{number}")
    except StorageError as error:
        print(error)
""")


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, start: Start) -> None:
    out, err = start(FULL, tmp_path / "run.log").communicate(timeout=60)
    assert (err, "run.log cannot be written" in out) == ("", True)
    lines = (tmp_path / "run.log").read_text().splitlines(keepends=True)
    assert all(json.loads(line) and line.endswith("\n") for line in lines)
    assert [json.loads(line)["id"] for line in lines] == [f"mug-{number}" for number in range(len(lines))]


def test_a_small_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_whole(path, "eins ü")
    write_whole(path, "zwei")
    assert path.read_text(encoding="utf-8") == "zwei"
    assert os.listdir(tmp_path) == ["summary.json"]  # noqa: PTH208  names are all that is asked


def test_a_small_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.mkdir()
    with pytest.raises(StorageError, match=r"summary\.json cannot be written \(Is a directory\)"):
        write_whole(path, "x")
    assert os.listdir(tmp_path) == ["summary.json"]  # noqa: PTH208  names are all that is asked


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        (b"", b""),
        (b'{"n": 1}\n', b'{"n": 1}\n'),
        (b'{"n": 1}\n{"n": 2', b'{"n": 1}\n'),
        (b'{"n": 1}\n\0\0\0\0', b'{"n": 1}\n'),
        (b'{"n": 1}\n\0\0\0\0{"n": 3}\n{"n": 4}\n', b'{"n": 1}\n{"n": 4}\n'),
        (b"\0\0\0", b""),
        (b'{"half', b""),
    ],
)
def test_a_log_that_a_power_cut_left_is_mended(tmp_path: Path, left: bytes, kept: bytes) -> None:
    path = tmp_path / "run.log"
    path.write_bytes(left)
    log = RunLog(path)
    log.write("again")
    log.close()
    data = path.read_bytes()
    assert data.startswith(kept)
    assert json.loads(data[len(kept) :])["event"] == "again"


def test_a_folder_in_one_that_cannot_be_read_is_made_all_the_same(tmp_path: Path) -> None:
    outer = tmp_path / "drop"
    outer.mkdir(mode=0o300)
    try:
        lock = FolderLock(outer / "a" / "b")
        lock.acquire()
        assert (outer / "a" / "b").is_dir()
        lock.release()
    finally:
        outer.chmod(0o700)
