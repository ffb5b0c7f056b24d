"""How pictures get into their place: whole, durably, and with a way on when the disk says no."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from batchflux.errors import Code, JobError, StorageError
from batchflux.models import Fetched, Inline, Reference
from batchflux.output.base import FURTHER, further_in
from batchflux.output.image_store import ImageStore, expected_of, kept_pictures
from batchflux.output.resources import LowWaterMark
from tests.memory_store import MemoryStore
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeJob


def picture(kind: str, seed: int = 1, size: tuple[int, int] = (64, 48)) -> bytes:
    noise = random.Random(seed).randbytes(size[0] * size[1] * 3)
    out = io.BytesIO()
    Image.frombytes("RGB", size, noise).save(out, format=kind)
    return out.getvalue()


PNG = picture("PNG")


def fetched(data: bytes) -> Fetched:
    return Fetched(data=data, path=None, size=len(data), seconds=0.1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    opened = ImageStore(tmp_path, "decode")
    yield opened
    opened.close()


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_what_was_not_sent_was_not_promised(make_job: MakeJob) -> None:
    reference = Reference(source="a.jpg", path="/a.jpg", sha256="ab" * 32)
    job = make_job(output_format="png", aspect_ratio="16:9", images=(reference, Reference(source="u", url="https://u")))
    promised = expected_of(job)
    assert (promised.kind, promised.ratio) == ("png", "16:9")
    assert promised.references == {"ab" * 32}
    dropped = expected_of(make_job(output_format="png", aspect_ratio="16:9", dropped=("aspect_ratio", "output_format")))
    assert (dropped.kind, dropped.ratio) == (None, None)


async def test_a_picture_lands_whole_in_its_place(store: ImageStore, tmp_path: Path, make_job: MakeJob) -> None:
    stored = await store.store(make_job(file_name="images/a/b/x.png", output_format="png"), fetched(PNG), 7)
    assert (tmp_path / stored.file_name).read_bytes() == PNG
    assert stored.file_name == "images/a/b/x.png"
    assert (stored.width, stored.height, stored.bytes) == (64, 48, len(PNG))
    assert stored.sha256 == hashlib.sha256(PNG).hexdigest()
    assert files(tmp_path) == {"images/a/b/x.png"}


async def test_pictures_may_go_to_another_store_than_the_folder(tmp_path: Path, make_job: MakeJob) -> None:
    assets = MemoryStore()
    store = ImageStore(tmp_path, "decode", assets)
    name = await store.spool(make_job(), Inline(data=PNG))
    assets.full = True
    with pytest.raises(StorageError, match="free space"):
        await store.store(make_job(), name, 7)
    assert files(tmp_path) == {name}, "a picture that was paid for waits"
    assets.full = False
    first = await store.store(make_job(), name, 7)
    assert assets.assets == {"images/mug.png": PNG}
    assert files(tmp_path) == set()
    assert await store.store(make_job(), name, 7) == first, "as after a kill that fell behind the move"
    store.close()


async def test_the_spool_is_private_and_pictures_are_as_the_umask_says(
    store: ImageStore, tmp_path: Path, make_job: MakeJob
) -> None:
    old = os.umask(0o022)
    try:
        await store.store(make_job("x"), await store.spool(make_job("x"), Inline(data=PNG)), 7)
        await store.store(make_job("y"), fetched(PNG), 7)
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
        ("/a.png", "PNG", "a.png"),
        ("./a.png", "PNG", "a.png"),
        ("a.png/", "PNG", "a.png"),
    ],
)
async def test_the_suffix_follows_the_bytes(
    store: ImageStore, tmp_path: Path, make_job: MakeJob, planned: str, kind: str, placed: str
) -> None:
    stored = await store.store(make_job(file_name=f"images/{planned}"), fetched(picture(kind)), 7)
    assert stored.file_name == f"images/{placed}"
    assert files(tmp_path) == {f"images/{placed}"}


@pytest.mark.parametrize("name", ["x.png", "../x.png", "images/../x.png", "/images/x.png", "images", "images/a\0.png"])
async def test_a_place_outside_images_is_refused(
    store: ImageStore, tmp_path: Path, make_job: MakeJob, name: str
) -> None:
    stored = await store.store(make_job(file_name=name), fetched(PNG), 7)
    assert stored.refused is not None
    assert stored.refused[0] is Code.INVALID_REQUEST
    assert files(tmp_path) == {"rejected/mug-7.png"}, "it was paid for"


async def test_bytes_that_are_no_picture_are_kept_only_where_they_were_the_answer(
    store: ImageStore, tmp_path: Path, make_job: MakeJob
) -> None:
    inline = await store.spool(make_job(), Inline(data=b"<html>"))
    download = tmp_path / ".spool" / ".tmp-1"
    download.write_bytes(b"<html>")
    for source in (fetched(b"<html>"), inline, Fetched(data=None, path=str(download), size=6, seconds=0.1)):
        with pytest.raises(JobError, match="an HTML page") as caught:
            await store.store(make_job(), source, 7)
        assert caught.value.code is Code.BAD_IMAGE
    with pytest.raises(JobError, match=r"an HTML page.*kept as answers/mug-7\.html") as caught:
        await store.store(make_job(), inline, 7)
    assert caught.value.code is Code.BAD_IMAGE, "a kill came before the ledger learned where it is"
    assert files(tmp_path) == {"answers/mug-7.html"}
    assert stat.S_IMODE((tmp_path / "answers/mug-7.html").stat().st_mode) == 0o600


async def test_a_spooled_or_downloaded_file_is_moved(store: ImageStore, tmp_path: Path, make_job: MakeJob) -> None:
    job = make_job("x")
    name = await store.spool(job, Inline(data=PNG))
    assert name == f".spool/{job.key}-{hashlib.sha256(PNG).hexdigest()}"
    inode = (tmp_path / name).stat().st_ino
    await store.store(job, name, 7)
    assert (tmp_path / "images/x.png").stat().st_ino == inode
    path = tmp_path / ".spool" / ".tmp-1"
    path.write_bytes(PNG)
    await store.store(make_job("y"), Fetched(data=None, path=str(path), size=len(PNG), seconds=0.1), 7)
    assert files(tmp_path) == {"images/x.png", "images/y.png"}


async def test_kept_pictures_are_found_by_their_job_and_half_written_ones_are_not(
    store: ImageStore, tmp_path: Path, make_job: MakeJob
) -> None:
    key = make_job().key
    name = await store.spool(make_job(), Inline(data=PNG))
    for other in (".tmp-1", f".tmp-{key}-{key}", f"move-{key}", f"{key}-{key}.part"):
        (tmp_path / ".spool" / other).write_bytes(b"half")
    assert kept_pictures(tmp_path) == {bytes.fromhex(key): name}
    assert kept_pictures(tmp_path / "nowhere") == {}


async def test_the_same_bytes_for_many_jobs_at_once_are_kept_for_each(
    store: ImageStore, tmp_path: Path, make_job: MakeJob
) -> None:
    jobs = [make_job(f"j{number}", file_name=f"images/{number % 3}/{number}.png") for number in range(20)]
    names = await asyncio.gather(*(store.spool(job, Inline(data=PNG)) for job in jobs))
    assert len(set(names)) == 20
    await asyncio.gather(*(store.store(job, name, 7) for job, name in zip(jobs, names, strict=True)))
    assert files(tmp_path) == {job.file_name for job in jobs}
    assert all((tmp_path / job.file_name).read_bytes() == PNG for job in jobs)


async def test_a_kill_after_the_move_finds_the_picture_in_its_place(
    store: ImageStore, tmp_path: Path, make_job: MakeJob
) -> None:
    job = make_job(file_name="images/x.jpg")
    name = await store.spool(job, Inline(data=PNG))
    first = await store.store(job, name, 7)
    assert await store.store(job, name, 7) == first
    (tmp_path / first.file_name).write_bytes(picture("PNG", 2))
    with pytest.raises(JobError, match="is gone") as caught:
        await store.store(job, name, 7)
    assert (caught.value.code, caught.value.dead) == (Code.DOWNLOAD, True)


async def test_a_download_that_is_gone_is_fetched_again_and_not_made_again(
    store: ImageStore, tmp_path: Path, make_job: MakeJob
) -> None:
    gone = Fetched(data=None, path=str(tmp_path / ".spool/.tmp-1"), size=1, seconds=0.1)
    with pytest.raises(JobError, match="fetched again") as caught:
        await store.store(make_job(), gone, 7)
    assert (caught.value.code, caught.value.dead) == (Code.DOWNLOAD, False)


async def test_the_sweep_takes_what_a_crash_left_and_leaves_what_the_ledger_needs(
    store: ImageStore, tmp_path: Path, make_job: MakeJob
) -> None:
    needed = await store.spool(make_job(), Inline(data=PNG))
    await store.spool(make_job("unheard of"), Inline(data=PNG))
    await store.store(make_job(file_name="images/.tmp-x.png"), fetched(PNG), 7)
    for name in (".tmp-1", ".tmp-2"):
        (tmp_path / ".spool" / name).write_bytes(b"half")
    assert store.sweep({needed}) == 3
    assert files(tmp_path) == {needed, "images/.tmp-x.png"}


async def test_a_picture_under_way_is_kept_although_nobody_waits_for_it(
    store: ImageStore, tmp_path: Path, make_job: MakeJob
) -> None:
    """A second signal cancels the run's tasks; what came with an answer is paid for."""
    jobs = [make_job(f"j{number}") for number in range(30)]
    tasks = [asyncio.create_task(store.spool(job, Inline(data=PNG))) for job in jobs]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    store.close()
    assert set(kept_pictures(tmp_path)) == {bytes.fromhex(job.key) for job in jobs}


async def test_the_mark_learns_the_size_of_what_comes(
    tmp_path: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    mark = LowWaterMark(tmp_path)
    monkeypatch.setattr(mark, "came", sizes.append)
    store = ImageStore(tmp_path, "decode", mark=mark)
    await store.spool(make_job(), Inline(data=PNG))
    await store.store(make_job("y"), fetched(PNG), 7)
    assert sizes == [len(PNG), len(PNG)]
    store.close()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that takes no files: Linux's /proc")
async def test_a_folder_that_cannot_take_a_paid_picture_keeps_it_spooled(
    store: ImageStore, tmp_path: Path, make_job: MakeJob
) -> None:
    name = await store.spool(make_job(), Inline(data=PNG))
    (tmp_path / "images").rmdir()
    (tmp_path / "images").symlink_to("/proc")
    with pytest.raises(StorageError):
        await store.store(make_job(), name, 7)
    assert (tmp_path / name).read_bytes() == PNG
    (tmp_path / "images").unlink()
    (tmp_path / "images").mkdir()
    assert (await store.store(make_job(), name, 7)).bytes == len(PNG)


async def test_a_source_that_cannot_be_read_stops_the_run(store: ImageStore, make_job: MakeJob) -> None:
    with pytest.raises(StorageError, match="cannot be read: Is a directory"):
        await store.store(make_job(), "images", 7)


async def test_a_missing_folder_is_not_made_anew(tmp_path: Path, make_job: MakeJob) -> None:
    with pytest.raises(StorageError, match="the folder is gone"):
        ImageStore(tmp_path / "out", "decode")
    (tmp_path / "out").mkdir()
    store = ImageStore(tmp_path / "out", "decode")
    for path in sorted((tmp_path / "out").rglob("*"), reverse=True):
        path.rmdir()
    (tmp_path / "out").rmdir()
    with pytest.raises(StorageError, match="the folder is gone"):
        await store.store(make_job(), fetched(PNG), 7)
    with pytest.raises(StorageError, match="the folder is gone"):
        await store.spool(make_job(), Inline(data=b"x"))
    assert not (tmp_path / "out").exists()
    store.close()


async def test_a_folder_that_is_away_has_lost_no_picture(tmp_path: Path, make_job: MakeJob) -> None:
    out, away = tmp_path / "out", tmp_path / "away"
    out.mkdir()
    store = ImageStore(out, "decode")
    name = await store.spool(make_job(), Inline(data=PNG))
    out.rename(away)
    with pytest.raises(StorageError, match="the folder is gone"):
        await store.store(make_job(), name, 7)
    away.rename(out)
    assert (await store.store(make_job(), name, 7)).bytes == len(PNG)
    store.close()


async def test_folders_that_somebody_removed_are_made_again(
    store: ImageStore, tmp_path: Path, make_job: MakeJob
) -> None:
    for name in ("images", ".spool"):
        (tmp_path / name).rmdir()
    await store.store(make_job(), await store.spool(make_job(), Inline(data=PNG)), 7)
    assert files(tmp_path) == {"images/mug.png"}


def test_a_file_where_a_folder_has_to_be_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(b"")
    with pytest.raises(StorageError, match=r"images: something else lies there; move it away, then run again"):
        ImageStore(tmp_path, "decode")


async def test_a_picture_whose_place_cannot_be_is_kept(store: ImageStore, tmp_path: Path, make_job: MakeJob) -> None:
    (tmp_path / "images/a").write_bytes(b"")
    (tmp_path / "images/d.png").mkdir()
    for number, name in enumerate((f"images/{'x' * 300}.png", "images/a/x.png", "images/d.png")):
        job = make_job(file_name=name)
        for source in (fetched(PNG), await store.spool(job, Inline(data=PNG))):
            stored = await store.store(job, source, number)
            assert stored.refused is not None
            assert stored.refused[0] is Code.INVALID_REQUEST
            assert "change output.file_name" in stored.refused[1]
    assert files(tmp_path) == {"images/a", *(f"rejected/mug-{number}.png" for number in range(3))}
    (tmp_path / "images/d.png").rmdir()
    again = await store.store(make_job(file_name="images/d.png"), "rejected/mug-2.png", 2)
    assert (again.file_name, again.refused) == ("images/d.png", None)


async def test_a_file_that_is_no_jobs_is_not_written_over(store: ImageStore, tmp_path: Path, make_job: MakeJob) -> None:
    (tmp_path / "images/mug.png").write_bytes(b"a stranger's")
    stored = await store.store(make_job(), fetched(PNG), 7)
    assert (tmp_path / "images/mug.png").read_bytes() == b"a stranger's"
    assert stored.refused is not None
    assert stored.refused[0] is Code.INVALID_REQUEST
    assert "images/mug.png is another file" in stored.refused[1]
    (tmp_path / "images/mug.png").write_bytes(PNG)  # as after a kill behind the move
    assert (await store.store(make_job(), "rejected/mug-7.png", 7)).file_name == "images/mug.png"
    assert files(tmp_path) == {"images/mug.png"}


async def test_another_jobs_further_picture_makes_way(store: ImageStore, tmp_path: Path, make_job: MakeJob) -> None:
    first, further, other = (picture("PNG", seed) for seed in (1, 2, 3))
    mug = await store.store(make_job(), fetched(first), 1)
    assert await store.store_beside(make_job(), mug, 2, further) == "images/mug_2.png"
    second = await store.store(make_job(file_name="images/mug_2.png"), fetched(other), 2)
    assert (second.file_name, second.refused) == ("images/mug_2.png", None)
    assert second.remarks == "another job's further picture lay here and is now images/mug_3.png"
    kept = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    assert kept == {"images/mug.png": first, "images/mug_2.png": other, "images/mug_3.png": further}


@pytest.mark.parametrize("accept", [("format",), ("any",), ("ratio",), ()])
async def test_a_picture_that_differs_is_kept_by_its_real_kind_until_it_is_accepted(
    tmp_path: Path, make_job: MakeJob, accept: tuple[str, ...]
) -> None:
    strict = ImageStore(tmp_path, "decode")
    job = make_job("a/b ü", output_format="png", file_name="images/x.png")
    gif = picture("GIF")
    first = await strict.store(job, await strict.spool(job, Inline(data=gif)), 12)
    assert (first.file_name, first.differs) == ("rejected/a_b_ü-12.gif", ("format",))
    assert first.remarks == "a PNG was asked for and a GIF came"
    assert first.refused is not None
    assert first.refused[0] is Code.DIFFERS
    assert "output.accept: [format]" in first.refused[1]
    strict.close()
    later = ImageStore(tmp_path, "decode", accept=accept)
    before = await later.kept_before(job, 12)
    assert before == await later.store(job, first.file_name, 12), "as after a kill behind the move"
    taken = accept not in {("ratio",), ()}
    assert (before.refused is None) is taken
    assert files(tmp_path) == {"images/x.gif" if taken else first.file_name}
    assert before.remarks == first.remarks
    assert await later.kept_before(job, 13) is None
    later.close()


RUNS = """
    import asyncio, resource, sys
    from pathlib import Path
    from batchflux.errors import StorageError
    from batchflux.models import Fetched, Inline, Job
    from batchflux.output.image_store import ImageStore

    root = Path(sys.argv[1])
    data = (root / "large.png").read_bytes()

    def job(number):
        return Job(id=f"a{number}", key=f"{number:064x}", prompt="a mug", style="standard", model="m", provider="p",
                   file_name=f"images/{number}.png", position=number)

    def fetched():
        return Fetched(data=data, path=None, size=len(data), seconds=0.1)

    async def main():
        store = ImageStore(root, "structure")
"""
RUNS_OUT = """
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(data) // 2, resource.RLIM_INFINITY))
        for work in (store.spool(job(0), Inline(data=data)), store.store(job(0), fetched(), 7)):
            try:
                await work
            except StorageError as error:
                print(error)
        store.close()

    asyncio.run(main())
"""
IS_KILLED = """
        print("ready", flush=True)
        for number in range(100_000):
            await store.store(job(number), fetched(), 7)

    asyncio.run(main())
"""


def test_a_write_that_runs_out_of_room_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(picture("PNG", size=(200, 200)))
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(RUNS + RUNS_OUT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    assert done.stdout.count("larger than the limit for files") == 2
    assert files(tmp_path) == {"large.png"}


def test_a_kill_leaves_only_whole_pictures_under_images(tmp_path: Path) -> None:
    data = picture("PNG", size=(400, 300))
    (tmp_path / "large.png").write_bytes(data)
    for _ in range(2):
        command = [sys.executable, "-c", textwrap.dedent(RUNS + IS_KILLED), str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            wait_until(lambda: (tmp_path / "images/3.png").exists() or process.poll() is not None, pause=0.001)
            assert process.poll() is None
            process.send_signal(signal.SIGKILL)
        ImageStore(tmp_path, "decode").sweep(set())
        places = files(tmp_path) - {"large.png"}
        assert len(places) >= 4
        assert all(place.startswith("images/") and (tmp_path / place).read_bytes() == data for place in places)
        for place in places:
            (tmp_path / place).unlink()


@pytest.mark.skipif(
    not Path("/dev/shm").is_dir() or os.stat("/dev/shm").st_dev == os.stat(tempfile.gettempdir()).st_dev,  # noqa: PTH116, S108  a mount
    reason="needs a second file system",
)
async def test_images_on_another_disk_are_copied_and_swept(tmp_path: Path, make_job: MakeJob) -> None:
    other = Path("/dev/shm") / f"batchflux-test-{os.getpid()}"  # noqa: S108  a mount, not a temporary file
    other.mkdir()
    try:
        (tmp_path / "images").symlink_to(other)
        store = ImageStore(tmp_path, "decode")
        name = await store.spool(make_job(), Inline(data=PNG))
        await store.store(make_job(), name, 7)
        assert [path.name for path in other.iterdir()] == ["mug.png"]
        assert not (tmp_path / name).exists()
        (other / ".tmp-left").write_bytes(b"half")
        assert store.sweep(set()) == 1
        assert [path.name for path in other.iterdir()] == ["mug.png"]
        store.close()
    finally:
        for path in other.iterdir():
            path.unlink()
        other.rmdir()


def test_remarks_name_further_pictures_and_no_other_file() -> None:
    """A remark quotes links of answers, in which anything may stand."""
    kept = [f"{FURTHER}{name}" for name in ("images/a/mug_2.png", "images/mug_10.webp")]
    others = ("ledger.db", "images/../ledger_2.db", "images/cup.png", "/images/cup_2.png", "images", "")
    forged = [f"{FURTHER}{name}" for name in others]
    assert further_in("; ".join(["a ratio off", *forged, *kept])) == ["images/a/mug_2.png", "images/mug_10.webp"]
    assert further_in(None) == []
