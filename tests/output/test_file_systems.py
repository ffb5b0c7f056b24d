"""File systems whose locks are known not to hold are said, by their kind and where they are mounted."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchflux.output import file_systems
from batchflux.output.file_systems import mounts_of_linux, mounts_of_macos, shaky_locks
from batchflux.testing.inside import inside

if TYPE_CHECKING:
    from collections.abc import Iterator

MS_NOSUID, MS_NODEV, MNT_DETACH = 2, 4, 2  # of mount(2) and umount(2)
LINUX = r"""
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:25 / /mnt/nas rw,relatime shared:9 - nfs4 nas:/export rw,vers=4.2,local_lock=none
31 21 0:26 / /mnt/my\040share rw - cifs //win/share rw
32 21 0:27 / /mnt/bucket rw master:3 propagate_from:2 - fuse.s3fs s3fs rw
33 21 0:28 / /mnt/goofys rw - fuse bucket rw
34 21 0:29 / /mnt/merged rw - fuse.mergerfs a:b rw
35 21 0:30 / /mnt/c rw - 9p C:\134 rw
36 30 8:2 / /mnt/nas/local rw - xfs /dev/sdb1 rw
37 21 0:31 / /mnt/over rw - nfs nas:/old rw
38 21 8:3 / /mnt/over rw - ext4 /dev/sdc1 rw
half a line
"""
MACOS = """\
/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
devfs on /dev (devfs, local, nobrowse)
//ann@nas/share on /Volumes/my share (smbfs, nodev, nosuid, mounted by ann)
nas:/export on /Volumes/nas (nfs)
rclone on /Volumes/bucket (macfuse, nodev, nosuid, synchronous, mounted by ann)
"""


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("/home/ann/out", None),
        ("/mnt/nas/out", "NFS (mounted at /mnt/nas)"),
        ("/mnt/nas", "NFS (mounted at /mnt/nas)"),
        ("/mnt/nas2/out", None),
        ("/mnt/nas/local/out", None),
        ("/mnt/my share/a/b", "SMB (mounted at /mnt/my share)"),
        ("/mnt/bucket/out", "FUSE (s3fs) (mounted at /mnt/bucket)"),
        ("/mnt/goofys/out", "FUSE (mounted at /mnt/goofys)"),
        ("/mnt/merged/out", None),
        ("/mnt/c/out", "9p (mounted at /mnt/c)"),
        ("/mnt/over/out", None),
    ],
)
def test_the_innermost_mount_counts_and_of_two_at_one_place_the_last(folder: str, says: str | None) -> None:
    said = shaky_locks(Path(folder), list(mounts_of_linux(LINUX)))
    assert said is None if says is None else says in str(said)


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("/Users/ann/out", None),
        ("/Volumes/my share/out", "SMB (mounted at /Volumes/my share)"),
        ("/Volumes/nas/out", "NFS"),
        ("/Volumes/bucket/out", "FUSE"),
    ],
)
def test_macos_tells_by_mount(folder: str, says: str | None) -> None:
    said = shaky_locks(Path(folder), list(mounts_of_macos(MACOS)))
    assert said is None if says is None else says in str(said)


def test_a_link_into_a_share_is_in_the_share(tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "link").symlink_to("share")
    said = shaky_locks(tmp_path / "link" / "out", [("/", "ext4"), (f"{tmp_path}/share", "nfs4")])
    assert str(said).startswith(f"{tmp_path}/link/out lies on NFS")


def test_this_machine_tells_of_its_own_mounts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    places = dict(file_systems._mounts())
    assert "/" in places
    assert shaky_locks(Path("/dev/shm")) is None  # noqa: S108  a tmpfs, whose locks hold
    monkeypatch.setattr(file_systems, "MOUNTS", tmp_path / "gone")
    assert shaky_locks(tmp_path) is None


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Path]:
    """Mount a FUSE file system as s3fs does, whose server is gone at once."""
    place, libc = tmp_path / "my bucket", ctypes.CDLL(None, use_errno=True)
    place.mkdir()
    if os.geteuid() or not Path("/dev/fuse").exists() or sys.platform != "linux":
        pytest.skip("this test needs the right to mount, and FUSE")
    server = os.open("/dev/fuse", os.O_RDWR)
    said = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
    failed = libc.mount(b"s3fs", bytes(place), b"fuse.s3fs", MS_NOSUID | MS_NODEV, said)
    os.close(server)
    if failed:
        pytest.skip(f"this test needs the right to mount: {os.strerror(ctypes.get_errno())}")
    yield place
    assert libc.umount2(bytes(place), MNT_DETACH) == 0


def test_a_real_mount_is_found_although_nobody_answers_for_it(bucket: Path) -> None:
    said = shaky_locks(bucket / "out")
    assert str(said).startswith(f"{bucket}/out lies on FUSE (s3fs) (mounted at {bucket}), where locks may not hold")
    assert shaky_locks(bucket.parent / "out") is None


def test_a_run_says_it_once_and_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text(f"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / {tmp_path} rw - nfs4 b rw\n")
    monkeypatch.setattr(file_systems, "MOUNTS", tmp_path / "mounts")
    (tmp_path / "n.yaml").write_text(
        "version: 1\nprovider: {name: simulator, options: {latency: 0, size: 64}}\njobs: [{prompt: x}]\n"
    )
    code, _, said = inside(tmp_path, os.environ, "run", "n.yaml", "--no-progress")
    assert code == 0
    assert said.count("lies on NFS") == 1
    log = [json.loads(line) for line in (tmp_path / "out" / "n" / "run.log").read_text().splitlines()]
    (message,) = [line["message"] for line in log if line["event"] == "shaky_locks"]
    assert message == (
        f"{tmp_path}/out/n lies on NFS (mounted at {tmp_path}), where locks may not hold: two runs could pay for the "
        "same, and the ledger could break. Name a folder on a disk of this machine by --out; output.mirror copies "
        "pictures."
    )
    code, _, said = inside(tmp_path, os.environ, "recipe", "cron", "n.yaml")
    assert code == 0
    assert said.count("lies on NFS") == 1
