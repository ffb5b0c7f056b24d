"""How pictures get into their place: whole, durably, and with a way on when the disk says no."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import signal
import stat
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from batchflux.errors import Code, JobError, StorageError
from batchflux.output.durable import move, storing, write_new
from batchflux.output.image_store import Expected, ImageStore, _suffix, kept_pictures

ANY = Expected()
KEY = hashlib.sha256(b"mug").hexdigest()


def picture(kind: str, seed: int = 1, size: tuple[int, int] = (64, 48)) -> bytes:
    noise = random.Random(seed).randbytes(size[0] * size[1] * 3)
    out = io.BytesIO()
    Image.frombytes("RGB", size, noise).save(out, format=kind)
    return out.getvalue()


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path)


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_a_picture_lands_whole_in_its_place(store: ImageStore, tmp_path: Path) -> None:
    data = picture("PNG")
    stored = store.store(data, file_name="images/a/b/x.png", expect=Expected(kind="png"), verify="decode")
    assert (tmp_path / stored.file_name).read_bytes() == data
    assert stored.file_name == "images/a/b/x.png"
    assert (stored.width, stored.height, stored.bytes) == (64, 48, len(data))
    assert stored.sha256 == hashlib.sha256(data).hexdigest()
    assert files(tmp_path) == {"images/a/b/x.png"}


def test_the_spool_is_private_and_pictures_are_as_the_umask_says(store: ImageStore, tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        name = store.spool(picture("PNG"), KEY)
        store.store(tmp_path / name, file_name="images/x.png", expect=ANY, verify="structure")
        store.store(picture("PNG"), file_name="images/y.png", expect=ANY, verify="structure")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / ".spool").stat().st_mode) == 0o700
    assert {stat.S_IMODE((tmp_path / "images" / name).stat().st_mode) for name in ("x.png", "y.png")} == {0o644}


@pytest.mark.parametrize(
    ("planned", "kind", "placed"),
    [
        ("x.jpg", "PNG", "x.png"),
        ("x.jpg", "WEBP", "x.webp"),
        ("x.JPG", "PNG", "x.png"),
        ("x.png", "JPEG", "x.jpg"),
        ("x.jpg", "JPEG", "x.jpg"),
        ("x.jpeg", "JPEG", "x.jpeg"),
        ("a.b.jpg", "PNG", "a.b.png"),
        ("v1.2", "PNG", "v1.2"),
        ("plain", "JPEG", "plain"),
    ],
)
def test_the_suffix_follows_the_bytes(store: ImageStore, tmp_path: Path, planned: str, kind: str, placed: str) -> None:
    stored = store.store(picture(kind), file_name=f"images/{planned}", expect=ANY, verify="structure")
    assert stored.file_name == f"images/{placed}"
    assert files(tmp_path) == {f"images/{placed}"}


def test_a_new_picture_replaces_the_old_one(store: ImageStore, tmp_path: Path) -> None:
    for seed in (1, 2):
        store.store(picture("PNG", seed), file_name="images/x.png", expect=ANY, verify="structure")
    assert (tmp_path / "images/x.png").read_bytes() == picture("PNG", 2)


@pytest.mark.parametrize("name", ["x.png", "../x.png", "images/../x.png", "/images/x.png", "images", "images/a\0.png"])
def test_a_place_outside_images_is_refused(store: ImageStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(JobError) as caught:
        store.store(picture("PNG"), file_name=name, expect=ANY, verify="structure")
    assert caught.value.code is Code.INVALID_REQUEST
    assert files(tmp_path) == set()


def test_a_bad_picture_leaves_nothing_but_an_inline_source(store: ImageStore, tmp_path: Path) -> None:
    inline = store.spool(b"<html>", KEY)
    download = tmp_path / ".spool" / ".tmp-1"
    download.write_bytes(b"<html>")
    for source in (b"<html>", tmp_path / inline, download):
        with pytest.raises(JobError, match="an HTML page"):
            store.store(source, file_name="images/x.png", expect=ANY, verify="decode")
    assert files(tmp_path) == {inline}


def test_a_spooled_picture_is_moved_and_another_file_is_copied(store: ImageStore, tmp_path: Path) -> None:
    data = picture("JPEG")
    name = store.spool(data, KEY)
    assert name == f".spool/{KEY}-{hashlib.sha256(data).hexdigest()}"
    inode = (tmp_path / name).stat().st_ino
    other = tmp_path / "other.jpg"
    other.write_bytes(data)
    store.store(tmp_path / name, file_name="images/x.jpg", expect=ANY, verify="structure")
    store.store(other, file_name="images/y.jpg", expect=ANY, verify="structure")
    assert files(tmp_path) == {"images/x.jpg", "images/y.jpg", "other.jpg"}
    assert (tmp_path / "images/x.jpg").stat().st_ino == inode


def test_kept_pictures_are_found_by_their_job_and_half_written_ones_are_not(store: ImageStore, tmp_path: Path) -> None:
    name = store.spool(picture("PNG"), KEY)
    for other in (".tmp-1", f".tmp-{KEY}-{KEY}", f"move-{KEY}", f"{KEY}-{KEY}.part"):
        (tmp_path / ".spool" / other).write_bytes(b"half")
    assert kept_pictures(tmp_path) == {bytes.fromhex(KEY): name}
    assert kept_pictures(tmp_path / "nowhere") == {}


def test_the_same_bytes_for_two_jobs_are_kept_twice(store: ImageStore, tmp_path: Path) -> None:
    data = picture("PNG")
    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(store.spool, [data] * 8, [f"{number:064x}" for number in range(8)]))
        assert len(set(names)) == 8
        places = [f"images/{number}.png" for number in range(8)]
        pairs = list(zip(names, places, strict=True))
        list(
            threads.map(
                lambda pair: store.store(tmp_path / pair[0], file_name=pair[1], expect=ANY, verify="decode"), pairs
            )
        )
    assert files(tmp_path) == set(places)
    assert all((tmp_path / place).read_bytes() == data for place in places)


def test_a_move_that_the_ledger_never_heard_of_is_found_again(store: ImageStore, tmp_path: Path) -> None:
    name = store.spool(picture("PNG"), KEY)
    how: dict[str, Any] = {"file_name": "images/x.jpg", "expect": ANY, "verify": "decode"}
    first = store.store(tmp_path / name, **how)
    assert ImageStore(tmp_path).store(tmp_path / name, **how) == first
    (tmp_path / first.file_name).write_bytes(picture("PNG", 2))
    with pytest.raises(JobError, match="is gone") as caught:
        store.store(tmp_path / name, **how)
    assert (caught.value.code, caught.value.dead) == (Code.DOWNLOAD, True)


def test_the_sweep_takes_half_written_files_and_nothing_else(store: ImageStore, tmp_path: Path) -> None:
    kept = store.spool(picture("PNG"), KEY)
    store.store(picture("PNG"), file_name="images/.tmp-x.png", expect=ANY, verify="structure")
    for name in (".tmp-1", ".tmp-2"):
        (tmp_path / ".spool" / name).write_bytes(b"half")
    assert store.sweep() == 2
    assert files(tmp_path) == {kept, "images/.tmp-x.png"}


def test_the_sweep_takes_spooled_pictures_that_the_ledger_does_not_need(store: ImageStore, tmp_path: Path) -> None:
    needed, orphan = store.spool(picture("PNG"), KEY), store.spool(picture("PNG", 2), KEY)
    assert store.sweep() == 0
    assert store.sweep(recorded={needed}) == 1
    assert files(tmp_path) == {needed}
    assert orphan != needed


def test_a_download_that_is_gone_is_fetched_again_and_not_made_again(store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="fetched again") as caught:
        store.store(tmp_path / ".spool/.tmp-1", file_name="images/x.png", expect=ANY, verify="decode")
    assert (caught.value.code, caught.value.dead) == (Code.DOWNLOAD, False)


def test_a_source_that_cannot_be_read_stops_the_run(store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read: Is a directory"):
        store.store(tmp_path / "images", file_name="images/x.png", expect=ANY, verify="decode")


def test_many_threads_store_many_pictures(store: ImageStore, tmp_path: Path) -> None:
    def one(number: int) -> str:
        data = picture("JPEG", number)
        return store.store(data, file_name=f"images/{number % 5}/{number}.jpg", expect=ANY, verify="decode").file_name

    with ThreadPoolExecutor(8) as threads:
        names = set(threads.map(one, range(80)))
    assert len(names) == 80
    assert files(tmp_path) == names


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full; free space, then run again"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, "check the disk"),
        (errno.ENOENT, "the output folder is gone"),
    ],
)
def test_what_the_disk_refuses_stops_the_run_with_a_remedy(number: int, words: str) -> None:
    with pytest.raises(StorageError) as caught, storing(Path("out/images/x.png")):
        raise OSError(number, os.strerror(number))
    assert "cannot write out/images/x.png: " in str(caught.value)
    assert words in str(caught.value)


def test_a_missing_folder_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="the output folder is gone"):
        ImageStore(tmp_path / "out")
    (tmp_path / "out").mkdir()
    store = ImageStore(tmp_path / "out")
    for path in sorted((tmp_path / "out").rglob("*"), reverse=True):
        path.rmdir()
    (tmp_path / "out").rmdir()
    with pytest.raises(StorageError, match="the output folder is gone"):
        store.store(picture("PNG"), file_name="images/x.png", expect=ANY, verify="structure")
    with pytest.raises(StorageError, match="the output folder is gone"):
        store.spool(b"x", KEY)
    assert not (tmp_path / "out").exists()


def test_a_file_where_a_folder_has_to_be_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(b"")
    with pytest.raises(StorageError, match="File exists"):
        ImageStore(tmp_path)


def test_a_name_that_no_file_can_have_fails_its_job_only(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "images/a").write_bytes(b"")
    (tmp_path / "images/d.png").mkdir()
    for name in (f"images/{'x' * 300}.png", "images/a/x.png", "images/d.png"):
        with pytest.raises(JobError, match=r"change output\.file_name") as caught:
            store.store(picture("PNG"), file_name=name, expect=ANY, verify="structure")
        assert caught.value.code is Code.INVALID_REQUEST
    assert files(tmp_path) == {"images/a"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_write_that_fails_is_passed_on() -> None:
    with pytest.raises(FileExistsError):
        write_new("/dev/full", b"x")
    with pytest.raises(StorageError, match="the disk is full"), storing(Path("x")):
        Path("/dev/full").write_bytes(b"x")


RUNS_OUT = """
    import resource, sys
    from pathlib import Path
    from batchflux.errors import StorageError
    from batchflux.output.image_store import Expected, ImageStore
    root = Path(sys.argv[1])
    data = (root / "large.png").read_bytes()
    store = ImageStore(root)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(data) // 2, resource.RLIM_INFINITY))
    for work in (
        lambda: store.spool(data, "0" * 64),
        lambda: store.store(data, file_name="images/x.png", expect=Expected(), verify="structure"),
    ):
        try:
            work()
        except StorageError as error:
            print(error)
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_write_that_runs_out_of_room_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(picture("PNG", size=(200, 200)))
    done = run(RUNS_OUT, str(tmp_path))
    assert done.stderr == ""
    assert done.stdout.count("larger than the limit for files") == 2
    assert files(tmp_path) == {"large.png"}


IS_KILLED = """
    import sys
    from pathlib import Path
    from batchflux.output.image_store import Expected, ImageStore
    root = Path(sys.argv[1])
    data = (root / "large.png").read_bytes()
    store = ImageStore(root)
    print("ready", flush=True)
    for number in range(100_000):
        store.store(data, file_name=f"images/{number}.png", expect=Expected(), verify="structure")
"""


def test_a_kill_leaves_only_whole_pictures_under_images(tmp_path: Path) -> None:
    data = picture("PNG", size=(400, 300))
    (tmp_path / "large.png").write_bytes(data)
    for _ in range(3):
        command = [sys.executable, "-c", textwrap.dedent(IS_KILLED), str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            while not (tmp_path / "images/3.png").exists():
                assert process.poll() is None
            process.send_signal(signal.SIGKILL)
        ImageStore(tmp_path).sweep()
        places = files(tmp_path) - {"large.png"}
        assert len(places) >= 4
        assert all(place.startswith("images/") and (tmp_path / place).read_bytes() == data for place in places)
        for place in places:
            (tmp_path / place).unlink()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")  # noqa: S108  a mount, not a temporary file
def test_images_on_another_disk_are_copied_and_swept(tmp_path: Path) -> None:
    other = Path("/dev/shm") / f"batchflux-test-{os.getpid()}"  # noqa: S108  a mount, not a temporary file
    other.mkdir()
    try:
        if other.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("one file system only")
        (tmp_path / "images").symlink_to(other)
        store = ImageStore(tmp_path)
        name = store.spool(picture("PNG"), KEY)
        store.store(tmp_path / name, file_name="images/x.png", expect=ANY, verify="decode")
        assert [path.name for path in other.iterdir()] == ["x.png"]
        assert not (tmp_path / name).exists()
        (other / ".tmp-left").write_bytes(b"half")
        assert store.sweep() == 1
        assert [path.name for path in other.iterdir()] == ["x.png"]
    finally:
        for path in other.iterdir():
            path.unlink()
        other.rmdir()


@given(name=st.text("a. /é", max_size=8))
def test_a_suffix_is_what_a_path_calls_so(name: str) -> None:
    path = PurePosixPath("/out/images") / (name or "x")
    assert _suffix(str(path)) == path.suffix


@pytest.mark.parametrize("name", ["images//a.png", "images/./a.png", "./images/a.png", "images/a.png/", "images/a.png"])
def test_a_name_is_taken_as_a_path(tmp_path: Path, name: str) -> None:
    stored = ImageStore(tmp_path).store(picture("PNG"), file_name=name, expect=ANY, verify="structure")
    assert stored.file_name == "images/a.png"
    assert files(tmp_path) == {"images/a.png"}


def test_a_move_that_fails_leaves_the_source(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    with pytest.raises(FileNotFoundError):
        move(str(source), str(tmp_path / "missing" / "x"))
    assert source.read_bytes() == b"x"
