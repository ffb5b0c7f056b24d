"""Where a picture is: in the folder, or in the bucket that mirrors it, and what is said where it is in neither."""

from __future__ import annotations

import hashlib
import sys
from collections import deque
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from batchflux.errors import StorageError, UsageError
from batchflux.folders.pictures import FolderPictures, pictures_of
from batchflux.ledger.connection import beside, reading
from batchflux.ledger.tables import Known, ended_numbers, jobs_by_number
from tests.exports.folders import folder, job, picture
from tests.mirroring import mirror
from tests.stores import DENIED

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stores import Faulty, Served


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return folder(tmp_path / "out", [job(0), job(1)])


@pytest.fixture
def mirrored(out: Path, moto: Served, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose two pictures are in a bucket alone; its endpoint is in manifest.yaml."""
    mirror(out, moto)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, moto.environ[name])
    return out


def of(out: Path) -> tuple[FolderPictures, list[Known]]:
    with reading(out / "ledger.db") as connection:
        return pictures_of(out, connection), list(jobs_by_number(connection, ended_numbers(connection)))


def read(out: Path, place: int = 0) -> bytes:
    pictures, jobs = of(out)
    known = jobs[place]
    return pictures.read(str(known.file_name), str(known.sha256), known.mirrored)


def test_a_picture_comes_from_the_bucket_where_its_file_is_gone_or_damaged(mirrored: Path) -> None:
    assert read(mirrored) == picture(0)
    (mirrored / "images/j0.jpg").write_bytes(b"damaged")
    assert read(mirrored) == picture(0)


def test_the_name_that_it_has_there_may_be_an_older_one(mirrored: Path) -> None:
    with closing(beside(mirrored / "ledger.db")) as connection:
        connection.execute("UPDATE jobs SET file_name = 'images/renamed.jpg' WHERE id = 'j0'")
    pictures, jobs = of(mirrored)
    assert jobs[0].mirrored == "images/j0.jpg"
    assert read(mirrored) == picture(0)
    assert pictures.address("images/j0.jpg").endswith("/spring/out/images/j0.jpg")


def test_what_is_nowhere_or_another_is_said_by_its_places(mirrored: Path, moto: Served) -> None:
    moto.store().delete("spring/out/images/j0.jpg")
    with pytest.raises(StorageError, match=r"images/j0\.jpg is not there, nor are its bytes at s3://.*images/j0\.jpg"):
        read(mirrored)
    data = picture(7)
    moto.store().put("spring/out/images/j1.jpg", data, hashlib.sha256(data).hexdigest(), over=True)
    with pytest.raises(StorageError, match="nor are its bytes at"):
        read(mirrored, 1)


def test_keys_are_looked_up_beside_the_manifest_as_a_run_does(
    mirrored: Path, moto: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    lines = [f"{name}={value}\n" for name, value in moto.environ.items() if name != "AWS_ENDPOINT_URL_S3"]
    (mirrored.parent / ".env").write_text("".join(lines))
    assert read(mirrored) == picture(0)


def test_without_the_extra_what_to_install_is_said(mirrored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, "batchflux.output.stores.cloud", raising=False)
    with pytest.raises(UsageError, match=r"pip install 'batchflux\[cloud\]'"):
        read(mirrored)


def test_a_bucket_that_fails_rests(tmp_path: Path, faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page asks for many pictures at once; each would wait for the store's own tries."""
    mirror(folder(tmp_path / "many", map(job, range(6))), faulty)
    for name, value in faulty.environ.items():
        monkeypatch.setenv(name, value)
    pictures, jobs = of(tmp_path / "many")
    faulty.front.methods, faulty.front.faults = frozenset({"GET"}), deque([DENIED, DENIED])
    for known in jobs[:2]:
        with pytest.raises(StorageError, match=known.id):
            pictures.in_mirror(str(known.mirrored), str(known.sha256))
    assert pictures.in_mirror(str(jobs[2].mirrored), str(jobs[2].sha256)) == picture(2), "two may be their own fault"
    faulty.front.always = DENIED
    for known in jobs:
        with pytest.raises(StorageError, match=known.id if known.position < 3 else "j2"):
            pictures.in_mirror(str(known.mirrored), str(known.sha256))
    asked = [line.split()[1].rpartition("/")[2] for line in faulty.front.seen if line.startswith("GET")]
    assert asked == ["j0.jpg", "j1.jpg", "j2.jpg", "j0.jpg", "j1.jpg", "j2.jpg"]


def test_a_ledger_of_before_has_nothing_in_a_bucket(out: Path) -> None:
    with closing(beside(out / "ledger.db")) as connection:
        (view,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'known'").fetchone()
        connection.execute("DROP VIEW known")
        connection.execute("DROP TABLE mirrored")
        connection.execute(
            view[: view.index(", COALESCE((SELECT name FROM mirrored")] + view[view.index(" FROM jobs") :]
        )
    assert [known.mirrored for known in of(out)[1]] == [None, None]
    assert read(out) == picture(0)
