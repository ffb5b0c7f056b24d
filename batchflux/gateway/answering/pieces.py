"""Bodies with pictures in them: JSON as pieces, of which some are files that are encoded when their turn comes.

A picture as base64 is never whole in memory, however large it is: one piece at a time is read and encoded, beside the
event loop, and the next one when the client has taken it.
"""

from __future__ import annotations

import binascii
import io
import json
import os
import secrets
import stat
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from batchflux.errors import StorageError
from batchflux.gateway.orders import RefusalError, Shot
from batchflux.transport.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

PIECE = 96 << 10  # bytes of a file; a multiple of 3, so that each piece is base64 by itself (RFC 4648)
SMALL = 384 << 10  # bytes of a body that is made at once: about what the pieces of one on its way take
Piece = bytes | Shot
_PLACE = f"picture {secrets.token_hex(16)}"  # of one in JSON: no word of anybody's has it
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
    shots: list[Shot] = []

    def written(spliced: Spliced) -> str:
        shots.extend(part for part in spliced.parts if isinstance(part, Shot))
        return "".join(part if isinstance(part, str) else _PLACE for part in spliced.parts)

    words = json.dumps(value, separators=(",", ":"), default=written).split(_PLACE)
    pieces: list[Piece] = []
    for word, shot in zip(words, shots, strict=False):
        pieces += [f"{before}{word}".encode(), shot]
        before = ""
    return [*pieces, f"{before}{words[-1]}{after}".encode()]


def length_of(pieces: Sequence[Piece]) -> int:
    """Return how many bytes pieces are on the wire."""
    return sum(len(piece) if isinstance(piece, bytes) else (piece.bytes + 2) // 3 * 4 for piece in pieces)


async def encoded(pieces: Sequence[Piece]) -> AsyncGenerator[bytes]:
    """Yield the bytes of pieces. No file stays open from one to the next, for who takes them may leave at any time.

    Raises RefusalError before the first of them when a picture is gone, and ConnectionResetError when it goes in the
    midst: half an answer must not look whole.
    """
    if any(not isinstance(piece, bytes) for piece in pieces):
        pieces = await in_thread(partial(_checked, pieces))
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
            continue
        for start in range(0, piece.bytes, PIECE):
            data = await in_thread(partial(part_of, piece.path, piece.bytes, start))
            yield binascii.b2a_base64(data, newline=False)


async def whole(pieces: Sequence[Piece]) -> bytes:
    """Return the bytes of pieces that are SMALL. Raises as `encoded` does."""
    if all(isinstance(piece, bytes) for piece in pieces):
        return b"".join(piece for piece in pieces if isinstance(piece, bytes))
    return await in_thread(partial(_joined, pieces))


def _joined(pieces: Sequence[Piece]) -> bytes:
    return b"".join(piece if isinstance(piece, bytes) else _base64(piece) for piece in pieces)


def _base64(shot: Shot) -> bytes:
    with _file(shot) as file:
        return binascii.b2a_base64(_read(file, shot.bytes), newline=False)


def _checked(pieces: Sequence[Piece]) -> list[Piece]:
    """Return pieces that are all there; a picture whose file may go into a bucket at any time is read at once."""
    made: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, bytes):
            made.append(piece)
        elif piece.elsewhere is not None:
            made.append(_base64(piece))
        else:
            _file(piece).close()
            made.append(piece)
    return made


def _file(shot: Shot) -> BinaryIO:
    try:
        try:
            return _opened(shot.path, shot.bytes)
        except OSError:
            if shot.elsewhere is None:
                raise
            return io.BytesIO(shot.elsewhere())
    except (OSError, StorageError):
        # It is paid for: a status that clients ask again after would buy another.
        message = f"The picture of {shot.job} was made, but its file is not there any more."
        raise RefusalError(400, "picture_gone", message) from None


def begun(path: str) -> tuple[int, bytes]:
    """Return the size of a picture's file, and its beginning: all of it where it is SMALL.

    Raises FileNotFoundError: there is none that can be read.
    """
    try:
        with _opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            return size, _read(file, min(size, SMALL))
    except OSError as error:
        raise FileNotFoundError(path) from error


def part_of(path: str, size: int, start: int) -> bytes:
    """Return a PIECE of a file of this size, from `start` on; ConnectionResetError: it is another file by now."""
    try:
        with _opened(path, size) as file:
            file.seek(start)
            return _read(file, min(PIECE, size - start))
    except OSError as error:
        raise ConnectionResetError("a picture was changed while it was sent") from error


def _opened(path: str, size: int | None = None) -> BinaryIO:
    """Open a file, of this size if one is named; OSError: there is none such."""
    file = os.fdopen(os.open(path, os.O_RDONLY | _HOW), "rb", buffering=0)
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_size != (status.st_size if size is None else size):
        file.close()
        raise FileNotFoundError(path)
    return file


def _read(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise ConnectionResetError("a picture was cut short while it was sent")
    return data
