"""On what kind of file system a folder lies, and whether the locks that keep runs apart can be trusted there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOUNTS = Path("/proc/self/mountinfo")
MOUNT = "/sbin/mount"  # of macOS, which has no such file
NETWORK = {
    "nfs": "NFS",
    "nfs4": "NFS",
    "cifs": "SMB",
    "smb3": "SMB",
    "smbfs": "SMB",
    "9p": "9p",
    "afpfs": "AFP",
    "webdav": "WebDAV",
    "davfs": "WebDAV",
    "vboxsf": "a shared folder of VirtualBox",
    "prl_fs": "a shared folder of Parallels",
    "vmhgfs": "a shared folder of VMware",
    "ncpfs": "NCP",
    "afs": "AFS",
    "lustre": "Lustre",
}
FUSE = re.compile(r"(?:mac|osx)?fuse(?:\.(?P<kind>.+))?")
LOCAL_FUSE = {  # those that pass locks on to a disk of this machine
    "bindfs", "encfs", "fuse-overlayfs", "gocryptfs", "lxcfs", "mergerfs", "ntfs-3g", "securefs", "cryfs", "unionfs",
}  # fmt: skip
_OCTAL = re.compile(r"\\([0-7]{3})")
_OF_MACOS = re.compile(r".+? on (/.*) \((\w+)[,)].*")


def shaky_locks(folder: Path, mounts: Iterable[tuple[str, str]] | None = None) -> str | None:
    """Return a sentence for who runs in a folder whose file system is known for locks that do not hold; else None.

    `mounts` are where file systems are mounted, and their types, in order; this machine's when None. What has no locks
    at all refuses by itself, when the folder is locked.
    """
    kind, where = _of(folder, _mounts() if mounts is None else mounts)
    fuse = FUSE.fullmatch(kind)
    if fuse is not None and fuse["kind"] not in LOCAL_FUSE:
        called = f"FUSE ({fuse['kind']})" if fuse["kind"] else "FUSE"
    elif kind in NETWORK:
        called = NETWORK[kind]
    else:
        return None
    return (
        f"{folder} lies on {called} (mounted at {where}), where locks may not hold: two runs could pay for the same, "
        "and the ledger could break. Name a folder on a disk of this machine by --out; output.mirror copies pictures."
    )


def _of(folder: Path, mounts: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """Return the type of the file system in which a folder is, or will be, and where that is mounted."""
    real = Path(os.path.realpath(folder))
    found = "", ""
    for where, kind in mounts:  # a later mount hides an earlier one at its place
        if real.is_relative_to(where) and len(where) >= len(found[1]):
            found = kind, where
    return found


def _mounts() -> Iterable[tuple[str, str]]:
    if sys.platform == "darwin":
        said = subprocess.run([MOUNT], capture_output=True, check=False)  # noqa: S603  a program of the system
        return mounts_of_macos(os.fsdecode(said.stdout))
    try:
        return mounts_of_linux(os.fsdecode(MOUNTS.read_bytes()))
    except OSError:  # a system that does not tell gives nothing to warn of
        return ()


def mounts_of_linux(text: str) -> Iterator[tuple[str, str]]:
    """Yield place and type of each mount in the text of mountinfo (proc_pid_mountinfo(5))."""
    for line in text.splitlines():
        before, dash, behind = line.partition(" - ")
        fields = before.split(" ")
        if dash and len(fields) > 4:  # noqa: PLR2004  the fifth is the place
            yield _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4]), behind.split(" ")[0]


def mounts_of_macos(text: str) -> Iterator[tuple[str, str]]:
    """Yield place and type of each mount in what mount(8) of macOS prints."""
    for line in text.splitlines():
        if (match := _OF_MACOS.fullmatch(line)) is not None:
            yield match[1], match[2]
