"""Gives out pictures of the folder, and nothing else that is in it or can be reached from it.

The rule: a name is taken apart, each part is opened below the one before it and none may be a symbolic link, so neither
`..` nor a link leads out, whatever is renamed meanwhile; and only what begins like a picture is sent, as that kind of
picture. Everything else is not there.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_HEAD = 12
_DEEPEST = 32
_LONGEST = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An open picture: close `descriptor` when done. `etag` changes when the file does."""

    descriptor: int
    size: int
    media_type: str
    etag: str


def open_picture(folder: Path, top: str, name: str) -> Found | None:
    """Open the picture `name` below `folder/top`, None when there is no such picture."""
    parts = [top, *name.split("/")]
    if len(name) > _LONGEST or len(parts) > _DEEPEST or any(part in {"", ".", ".."} or "\0" in part for part in parts):
        return None
    try:
        descriptor = _open(folder, parts)
    except (OSError, UnicodeError):
        return None
    with suppress(OSError):
        found = os.fstat(descriptor)
        media_type = _media_type(os.pread(descriptor, _HEAD, 0)) if stat.S_ISREG(found.st_mode) else None
        if media_type is not None:
            etag = f'"{found.st_mtime_ns:x}-{found.st_size:x}-{found.st_ino:x}"'
            return Found(descriptor=descriptor, size=found.st_size, media_type=media_type, etag=etag)
    os.close(descriptor)
    return None


def _open(folder: Path, parts: list[str]) -> int:
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
        # Not to wait for a writer, should it be a pipe.
        return os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    finally:
        os.close(at)


def _media_type(head: bytes) -> str | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "image/webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None
