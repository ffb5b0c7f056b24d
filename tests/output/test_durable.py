"""What the system refuses becomes a sentence with a remedy, and a file is there whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from batchflux.errors import Code, JobError, StorageError
from batchflux.output.durable import NAME_FAULTS, make_folders, move, storing, sync_folder, write_new

PLACE = Path("out/images/mug.png")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full; free space"),
        (errno.EDQUOT, "the disk quota is used up; free space or raise the quota"),
        (errno.EFBIG, "the file would be larger than the limit for files; raise the limit"),
        (errno.EROFS, "the file system is read-only; mount it writable"),
        (errno.EACCES, "permission denied; make the folder writable"),
        (errno.EMFILE, "too many files are open; raise the limit (ulimit -n) or lower limits.concurrency"),
        (errno.ENOENT, "the folder is gone; put it back"),
        (errno.ENOTDIR, "a file is where a folder should be; move that file away"),
        (errno.EIO, "Input/output error; check the disk"),
        (errno.ENAMETOOLONG, "File name too long; check the disk"),
    ],
)
@pytest.mark.parametrize("named_by_job", [True, False])
def test_what_the_system_refuses_is_said_with_its_remedy(number: int, said: str, *, named_by_job: bool) -> None:
    if named_by_job and number in NAME_FAULTS:
        pytest.skip("then it is the job's fault, see below")
    with pytest.raises(StorageError) as caught, storing(PLACE, named_by_job=named_by_job):
        raise OSError(number, os.strerror(number))
    assert str(caught.value) == f"cannot write out/images/mug.png: {said}, then run again"


@pytest.mark.parametrize("command", [fcntl.F_GETFD, 9999], ids=["known", "unknown to the file system"])
def test_where_a_full_sync_is_named_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: int
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("batchflux.output.durable._FULLFSYNC", command)
    monkeypatch.setattr(os, "fsync", synced.append)
    write_new(tmp_path / "a", b"picture")
    assert (tmp_path / "a").read_bytes() == b"picture"
    assert len(synced) == (command != fcntl.F_GETFD)


def test_an_error_without_a_number_is_a_sentence_too() -> None:
    with pytest.raises(StorageError) as caught, storing(PLACE):
        raise OSError
    assert str(caught.value) == "cannot write out/images/mug.png: input/output error; check the disk, then run again"


def test_a_name_that_cannot_be_is_the_jobs_fault(tmp_path: Path) -> None:
    place = tmp_path / ("x" * 300)
    with pytest.raises(JobError) as caught, storing(place, named_by_job=True):
        write_new(place, b"data")
    assert caught.value.code is Code.INVALID_REQUEST
    assert caught.value.message == (
        f"{place} cannot be a file (File name too long); change output.file_name or the job's id"
    )


def test_a_name_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_folder_on_a_file_system_without_such_a_sync_is_no_error() -> None:
    sync_folder(Path("/proc/self"))


def test_a_folder_that_is_gone_is_one() -> None:
    with pytest.raises(FileNotFoundError):
        sync_folder(Path("/no/such/folder"))


def test_folders_are_made_down_to_the_last_and_below_nothing_that_is_gone(tmp_path: Path) -> None:
    make_folders(tmp_path, tmp_path / "a/b/c")
    make_folders(tmp_path, tmp_path / "a/b/c")
    assert (tmp_path / "a/b/c").is_dir()
    make_folders(tmp_path, tmp_path)
    with pytest.raises(FileNotFoundError, match="gone"):
        make_folders(tmp_path / "gone", tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        make_folders(tmp_path / "gone", tmp_path / "gone/a")
    assert not (tmp_path / "gone").exists()


def test_a_move_that_fails_leaves_the_source(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    with pytest.raises(FileNotFoundError):
        move(source, tmp_path / "missing" / "x")
    assert source.read_bytes() == b"x"
