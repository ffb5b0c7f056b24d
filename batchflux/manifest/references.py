"""Reference images: a URL as it is, a local file by the digest of its bytes.

The rule: a local file is read once for each (path, size, time of change), and a missing or unfit one is not a fault
of the manifest: its Reference says what is wrong, and only its jobs fail. Which kind of picture it is, its first
bytes say, never its name.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import OrderedDict
from typing import TYPE_CHECKING

from batchflux.manifest.values import is_url
from batchflux.models import Reference

if TYPE_CHECKING:
    from pathlib import Path

MAX_REFERENCE = 20 << 20
_CHUNK = 1 << 20
_KEPT = 16_384  # references remembered; beyond, the oldest are read again when they come back


def media_type(head: bytes) -> str | None:
    """The kind of picture by its first bytes (12 are enough), or None."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return "image/gif" if head.startswith((b"GIF87a", b"GIF89a")) else None


class _Digests:
    """Digests by (path, size, mtime in ns), the last used kept; shared by plan and run in one process."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, int, int], tuple[str, str | None]] = OrderedDict()

    def of(self, path: str, found: os.stat_result) -> tuple[str, str | None]:
        key = (path, found.st_size, found.st_mtime_ns)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _read(path)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return known


_DIGESTS = _Digests()


def _read(path: str) -> tuple[str, str | None]:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:  # noqa: PTH123  a plain path, opened a million times
        chunk = stream.read(_CHUNK)
        kind = media_type(chunk)
        while chunk:
            digest.update(chunk)
            chunk = stream.read(_CHUNK)
    return digest.hexdigest(), kind


class References:
    """Makes the References of one expansion, relative to the manifest's folder."""

    def __init__(self, base: Path) -> None:
        self._base = str(base)
        self._made: OrderedDict[str, Reference] = OrderedDict()

    def of(self, source: str) -> Reference:
        """The reference that the user wrote as `source`, which was checked by `fields.reference`."""
        made = self._made.get(source)
        if made is None:
            made = Reference(source=source, url=source) if is_url(source) else self._local(source)
            self._made[source] = made
            if len(self._made) > _KEPT:
                self._made.popitem(last=False)
        return made

    def _local(self, source: str) -> Reference:
        path = os.path.normpath(os.path.join(self._base, source))  # noqa: PTH118  keeps symbolic links as they are
        try:
            found = os.stat(path)  # noqa: PTH116  a plain path
            fault = _unfit(found)
            digest, kind = (None, None) if fault else _DIGESTS.of(path, found)
        except OSError as error:
            reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
            return Reference(source=source, path=path, fault=f"the reference {source} {reason}")
        except ValueError:
            return Reference(source=source, path=path, fault=f"the reference {source} is not a path")
        if fault is None and kind is None:
            fault = "is not a PNG, JPEG, WEBP or GIF picture"
        text = None if fault is None else f"the reference {source} {fault}"
        return Reference(source=source, path=path, sha256=digest, media_type=kind, fault=text)


def _unfit(found: os.stat_result) -> str | None:
    if not stat.S_ISREG(found.st_mode):
        return "is not a file"
    if found.st_size == 0:
        return "is empty"
    if found.st_size > MAX_REFERENCE:
        return f"has {found.st_size} bytes; at most {MAX_REFERENCE} can be sent"
    return None


def identity(reference: Reference) -> str:
    """What stands for the reference in a job's key: the digest of its bytes, its URL, or that it is missing."""
    return reference.sha256 or reference.url or f"missing:{reference.source}"
