"""A file of lines: one JSON document each, local pictures within, for an API that takes many jobs at once.

No more than a picture is in memory at a time. A line whose picture cannot be had is left out, and said; the others
are written.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from typing import IO, TYPE_CHECKING

from batchflux.errors import JobError, StorageError
from batchflux.models import LocalFile
from batchflux.transport.content import Template
from batchflux.transport.encoded import EncodedPhoto, EncodedPhotos
from batchflux.transport.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from batchflux.models import Json

_MEDIA_TYPE = "application/jsonl"
_AT_ONCE = 1 << 18  # bytes that are gathered for one write; the loop waits while small lines come to as many
_ENDS = {end: f"\\u{ord(end):04x}".encode() for end in "\x85\u2028\u2029"}  # that some readers take for a line's end


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """A file of lines, and by its key why a line is not in it."""

    file: LocalFile
    left_out: dict[str, JobError] = field(default_factory=dict)


def size_of(line: Json) -> int:
    """Return how many bytes a line takes, its end included, by the sizes of its pictures, which are not read.

    Raises JobError: `reference`, there is no such picture; `invalid_request`, a text cannot be written as UTF-8.
    """
    return _template(line).size() + 1


async def write_lines(path: Path, lines: Iterable[tuple[str, Json]], photos: EncodedPhotos | None = None) -> Lines:
    """Write a file that its owner alone may read, in place of one that is there; `lines` are pairs of key and content.

    A line is left out for the reasons that `size_of` has, and where a picture is not what it was at plan time. Raises
    StorageError when the file cannot be written.
    """
    photos, left_out = photos or EncodedPhotos(), dict[str, JobError]()
    try:
        with _opened(path) as written:
            file = _Gathered(written)
            for key, line in lines:
                start = file.size
                try:
                    async for part in _template(line).parts(photos):
                        await file.add(part.pieces if isinstance(part, EncodedPhoto) else (part,))
                    await file.add((b"\n",))
                except JobError as error:
                    left_out[key] = error
                    await file.cut(start)
            await file.flush()
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}; make room and run again") from error
    return Lines(file=LocalFile(path=str(path), size=file.size, media_type=_MEDIA_TYPE), left_out=left_out)


class Splitter:
    """Cuts what comes in pieces into lines, without their ends; of a line longer than `most` bytes, the beginning."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._line = bytearray()

    def add(self, piece: bytes) -> Iterator[bytes]:
        """Take the next bytes; give the lines that end in them."""
        first, *others = piece.split(b"\n")
        self._line += first[: self._most - len(self._line)]
        for start in others:
            yield bytes(self._line)
            self._line = bytearray(start[: self._most])

    def rest(self) -> Iterator[bytes]:
        """Give the last line, if it has no end."""
        if self._line:
            yield bytes(self._line)


class _Gathered:
    """Writes pieces to a file, many at a time and beside the loop; `size` is what it comes to."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._pieces, self._gathered = file, list[bytes](), 0
        self.size = 0

    async def add(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self._pieces.append(piece)
            self._gathered += len(piece)
            self.size += len(piece)
        if self._gathered > _AT_ONCE:
            await self.flush()

    async def cut(self, size: int) -> None:
        """Take back all but the first bytes."""
        await self.flush()
        await in_thread(partial(self._file.truncate, size))
        await in_thread(partial(self._file.seek, size))
        self.size = size

    async def flush(self) -> None:
        pieces, self._pieces, self._gathered = self._pieces, [], 0
        await in_thread(partial(self._write, pieces))

    def _write(self, pieces: list[bytes]) -> None:
        self._file.writelines(pieces)
        self._file.flush()


def _opened(path: Path) -> IO[bytes]:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.unlink(missing_ok=True)  # its mode would stay
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))


def _template(line: Json) -> Template:
    text, images = Template.of(line)
    for end, escape in _ENDS.items():
        text = text.replace(end.encode(), escape)
    return Template(text, images)
