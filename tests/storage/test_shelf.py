"""What happens to received pictures on their way to the shelf, above all when the folder cannot take them."""

from __future__ import annotations

import hashlib
import io
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from batchflux.errors import Code, JobError, StorageError
from batchflux.models import Fetched, Inline, Reference
from batchflux.output.shelf import DiskShelf, expected_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeJob


def picture() -> bytes:
    out = io.BytesIO()
    Image.frombytes("RGB", (64, 36), random.Random(1).randbytes(64 * 36 * 3)).save(out, format="PNG")
    return out.getvalue()


PNG = picture()


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[DiskShelf]:
    opened = DiskShelf(tmp_path, "decode")
    yield opened
    opened.close()


def spooled(root: Path) -> list[str]:
    return sorted(path.name for path in (root / ".spool").iterdir())


def test_what_was_not_sent_was_not_promised(make_job: MakeJob) -> None:
    reference = Reference(source="a.jpg", path="/a.jpg", sha256="ab" * 32)
    job = make_job(output_format="png", aspect_ratio="16:9", images=(reference, Reference(source="u", url="https://u")))
    promised = expected_of(job)
    assert (promised.kind, promised.ratio) == ("png", "16:9")
    assert promised.references == {"ab" * 32}
    dropped = expected_of(make_job(output_format="png", aspect_ratio="16:9", dropped=("aspect_ratio", "output_format")))
    assert (dropped.kind, dropped.ratio) == (None, None)


async def test_a_small_download_is_put_in_its_place(shelf: DiskShelf, tmp_path: Path, make_job: MakeJob) -> None:
    stored = await shelf.store(make_job(), Fetched(data=PNG, path=None, size=len(PNG), seconds=0.1))
    assert (stored.file_name, stored.width, stored.height, stored.bytes) == ("images/mug.png", 64, 36, len(PNG))
    assert stored.sha256 == hashlib.sha256(PNG).hexdigest()
    assert (tmp_path / "images/mug.png").read_bytes() == PNG
    assert spooled(tmp_path) == []


@pytest.mark.parametrize("good", [True, False])
async def test_a_large_download_leaves_no_temporary_file(
    shelf: DiskShelf,
    tmp_path: Path,
    make_job: MakeJob,
    good: bool,  # noqa: FBT001  pytest's
) -> None:
    data = PNG if good else PNG[:-20]
    path = tmp_path / ".spool" / ".tmp-1"
    path.write_bytes(data)
    fetched = Fetched(data=None, path=str(path), size=len(data), seconds=0.1)
    if good:
        assert (await shelf.store(make_job(), fetched)).file_name == "images/mug.png"
    else:
        with pytest.raises(JobError) as caught:
            await shelf.store(make_job(), fetched)
        assert caught.value.code is Code.BAD_IMAGE
        assert not (tmp_path / "images/mug.png").exists()
    assert spooled(tmp_path) == []


async def test_bytes_of_an_answer_are_kept_until_they_are_stored(
    shelf: DiskShelf, tmp_path: Path, make_job: MakeJob
) -> None:
    name = await shelf.spool(make_job(), Inline(data=PNG))
    assert (tmp_path / name).read_bytes() == PNG
    assert (await shelf.store(make_job(), name)).bytes == len(PNG)
    assert spooled(tmp_path) == []


async def test_a_kill_after_the_move_finds_the_picture_in_its_place(
    shelf: DiskShelf, tmp_path: Path, make_job: MakeJob
) -> None:
    name = await shelf.spool(make_job(), Inline(data=PNG))
    first = await shelf.store(make_job(), name)
    assert not (tmp_path / name).exists()
    assert await shelf.store(make_job(), name) == first


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that takes no files: Linux's /proc")
async def test_a_folder_that_cannot_take_a_paid_picture_keeps_it_spooled(
    shelf: DiskShelf, tmp_path: Path, make_job: MakeJob
) -> None:
    name = await shelf.spool(make_job(), Inline(data=PNG))
    (tmp_path / "images").rmdir()
    (tmp_path / "images").symlink_to("/proc")
    with pytest.raises(StorageError):
        await shelf.store(make_job(), name)
    assert (tmp_path / name).read_bytes() == PNG
    (tmp_path / "images").unlink()
    (tmp_path / "images").mkdir()
    assert (await shelf.store(make_job(), name)).bytes == len(PNG)


async def test_bytes_that_are_no_picture_are_not_kept(shelf: DiskShelf, tmp_path: Path, make_job: MakeJob) -> None:
    name = await shelf.spool(make_job(), Inline(data=b"this is no picture"))
    with pytest.raises(JobError) as caught:
        await shelf.store(make_job(), name)
    assert caught.value.code is Code.BAD_IMAGE
    assert spooled(tmp_path) == []


async def test_sweeping_leaves_what_was_paid_for_and_is_on_record(
    shelf: DiskShelf, tmp_path: Path, make_job: MakeJob
) -> None:
    needed = await shelf.spool(make_job(), Inline(data=PNG))
    unheard_of = await shelf.spool(make_job("cup"), Inline(data=PNG))
    (tmp_path / ".spool" / ".tmp-half").write_bytes(b"half")
    assert needed != unheard_of
    shelf.sweep({needed})
    assert [f".spool/{left}" for left in spooled(tmp_path)] == [needed]
