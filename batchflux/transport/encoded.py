"""Local pictures as they travel: read, compared with the plan and encoded once, however many jobs use them.

What a request is made of is held while the request is under way, and what was used last for longer, up to a bound. A
file is looked at for each request all the same: one that is gone, or was written since, is never sent from memory.
"""

from __future__ import annotations

import asyncio
import binascii
import errno
import hashlib
import os
import stat
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

from batchflux.errors import Code, JobError
from batchflux.transport.threads import in_thread

if TYPE_CHECKING:
    from batchflux.models import LocalImage

KEPT = 32 << 20  # bytes of pictures that no request is using: six of 4 MB, as base64
PIECE = 192 << 10  # bytes read at a time; a multiple of 3, so that each piece is base64 by itself (RFC 4648)

_Written = tuple[int, ...]
_Key = tuple[str, str, bool]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class EncodedPhoto:
    """A picture's bytes, or their base64, in pieces; `written` tells a file from one that was written since."""

    pieces: tuple[bytes, ...]
    size: int
    written: _Written


class Counts(NamedTuple):
    """What was done so far: how many requests asked for a picture, and how many files were read for them."""

    asked: int
    read: int


class EncodedPhotos:
    """Gives the pictures of the requests of one loop, and holds `bound` bytes of those that were used last."""

    def __init__(self, bound: int = KEPT) -> None:
        self._bound = bound
        self._held = self._asked = self._read = 0
        self._last: OrderedDict[_Key, EncodedPhoto] = OrderedDict()
        self._used: WeakValueDictionary[_Key, EncodedPhoto] = WeakValueDictionary()
        self._turns: WeakValueDictionary[_Key, asyncio.Lock] = WeakValueDictionary()

    @property
    def counts(self) -> Counts:
        """How often pictures were asked for, and files read."""
        return Counts(self._asked, self._read)

    async def get(self, image: LocalImage, *, base64: bool) -> EncodedPhoto:
        """Return a picture; JobError `reference` when it is unreadable or not what it was at plan time."""
        key = image.path, image.sha256, base64
        self._asked += 1
        async with self._turns.setdefault(key, asyncio.Lock()):
            known = self._used.get(key)
            photo = await in_thread(partial(_taken, image, known, base64=base64))
            self._read += photo is not known
            self._use(key, photo)
            return photo

    def _use(self, key: _Key, photo: EncodedPhoto) -> None:
        former = self._last.pop(key, None)
        self._held += photo.size - (former.size if former is not None else 0)
        self._used[key] = self._last[key] = photo
        while self._held > self._bound:
            self._held -= self._last.popitem(last=False)[1].size


def _taken(image: LocalImage, known: EncodedPhoto | None, *, base64: bool) -> EncodedPhoto:
    """Return what is known of a file where nobody wrote it since, else read it."""
    digest, pieces = hashlib.sha256(), list[bytes]()
    try:
        with open(image.path, "rb", opener=_opened) as file:
            now = os.fstat(file.fileno())
            written = now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns
            if known is not None and known.written == written:
                return known
            while data := file.read(PIECE):
                digest.update(data)
                pieces.append(binascii.b2a_base64(data, newline=False) if base64 else data)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _unreadable(image, error) from None
    if digest.hexdigest() != image.sha256:
        raise JobError(Code.REFERENCE, f"reference {image.path} changed since the plan; run again")
    return EncodedPhoto(tuple(pieces), sum(map(len, pieces)), written)


def base64_size(image: LocalImage) -> int:
    """Return how many bytes a picture is as base64, by the size of its file; JobError `reference`: there is none."""
    try:
        return (Path(image.path).stat().st_size + 2) // 3 * 4
    except (OSError, ValueError) as error:
        raise _unreadable(image, error) from None


def _unreadable(image: LocalImage, error: OSError | ValueError) -> JobError:
    why = error.strerror if isinstance(error, OSError) else str(error)
    return JobError(Code.REFERENCE, f"reference {image.path} cannot be read: {why}; put the file back and run again")


def _opened(path: str, flags: int) -> int:
    """Open a file and nothing else: a pipe that took its place would wait for ever, and a device would never end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "is not a file")
