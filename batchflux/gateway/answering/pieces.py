"""Bodies with pictures in them: JSON as pieces, of which some are files that are encoded when their turn comes.

A picture as base64 is never whole in memory, however large it is: one piece at a time is read and encoded, beside the
event loop, and the next one when the client has taken it.
"""

from __future__ import annotations

import binascii
import io
import json
import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from batchflux.errors import StorageError
from batchflux.gateway.orders import RefusalError, Shot
from batchflux.transport.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

PIECE = 96 << 10  # bytes of a file; a multiple of 3, so that each piece is base64 by itself (RFC 4648)
SMALL = 384 << 10  # bytes of a body that is made at once: about what the pieces of one on its way take
Piece = bytes | Shot
_HOW = os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC  # a pipe in the place of a picture would wait for ever


@dataclass(frozen=True, slots=True)
class Spliced:
    """A string of JSON with pictures, as base64, among its words."""

    parts: tuple[str | Shot, ...]


def data_url(shot: Shot) -> tuple[str | Shot, ...]:
    """Return the parts of a picture's data URL."""
    return f"data:{shot.media_type};base64,", shot


def pieces_of(value: Any, before: str = "", after: str = "") -> list[Piece]:
    """Return a value of JSON, which may have Spliced strings in it, as pieces; all but the pictures is ASCII."""
    pieces: list[Piece] = []
    words = [before]
    for part in _written(value):
        if isinstance(part, str):
            words.append(part)
        else:
            pieces += ["".join(words).encode(), part]
            words.clear()
    return [*pieces, "".join([*words, after]).encode()]


def _written(value: Any) -> Iterator[str | Shot]:
    if isinstance(value, Spliced):
        yield '"'
        yield from (json.dumps(part)[1:-1] if isinstance(part, str) else part for part in value.parts)
        yield '"'
    elif isinstance(value, dict):
        for place, (key, one) in enumerate(value.items()):
            yield f"{',' if place else '{'}{json.dumps(key)}:"
            yield from _written(one)
        yield "}" if value else "{}"
    elif isinstance(value, list | tuple):
        for place, one in enumerate(value):
            yield "," if place else "["
            yield from _written(one)
        yield "]" if value else "[]"
    else:
        yield json.dumps(value)


def length_of(pieces: Sequence[Piece]) -> int:
    """Return how many bytes pieces are on the wire."""
    return sum(len(piece) if isinstance(piece, bytes) else (piece.bytes + 2) // 3 * 4 for piece in pieces)


async def encoded(pieces: Sequence[Piece]) -> AsyncGenerator[bytes]:
    """Yield the bytes of pieces.

    Raises RefusalError before the first of them when a picture is gone, and ConnectionResetError when it goes in the
    midst: half an answer must not look whole.
    """
    shots = [piece for piece in pieces if isinstance(piece, Shot)]
    files = await in_thread(partial(_opened, shots)) if shots else []
    try:
        for piece in pieces:
            if isinstance(piece, bytes):
                yield piece
                continue
            left, file = piece.bytes, files.pop(0)
            with file:
                while left:
                    data = await in_thread(partial(_read, file, min(PIECE, left)))
                    left -= min(PIECE, left)
                    yield data
    finally:
        for file in files:
            file.close()


async def whole(pieces: Sequence[Piece]) -> bytes:
    """Return the bytes of pieces that are SMALL. Raises as `encoded` does."""
    if all(isinstance(piece, bytes) for piece in pieces):
        return b"".join(piece for piece in pieces if isinstance(piece, bytes))
    return await in_thread(partial(_joined, pieces))


def _joined(pieces: Sequence[Piece]) -> bytes:
    parts = []
    for piece in pieces:
        if isinstance(piece, bytes):
            parts.append(piece)
        else:
            with _file(piece) as file:
                parts.append(_read(file, piece.bytes))
    return b"".join(parts)


def _opened(shots: Sequence[Shot]) -> list[BinaryIO]:
    """Open the files of all pictures, in their order; RefusalError when one is gone."""
    with ExitStack() as stack:
        files = [stack.enter_context(_file(shot)) for shot in shots]
        stack.pop_all()
    return files


def _fetched(read: Callable[[], bytes], gone: RefusalError) -> BinaryIO:
    try:
        return io.BytesIO(read())
    except StorageError:
        raise gone from None


def _file(shot: Shot) -> BinaryIO:
    # It is paid for: a status that clients ask again after would buy another.
    gone = RefusalError(400, "picture_gone", f"The picture of {shot.job} was made, but its file is not there any more.")
    try:
        file = os.fdopen(os.open(shot.path, os.O_RDONLY | _HOW), "rb", buffering=0)
    except OSError:
        if shot.elsewhere is None:
            raise gone from None
        return _fetched(shot.elsewhere, gone)
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_size != shot.bytes:
        file.close()
        raise gone
    return file


def _read(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise ConnectionResetError("a picture was cut short while it was sent")
    return binascii.b2a_base64(data, newline=False)
