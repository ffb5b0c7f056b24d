"""Gives out pictures of the folder, and nothing else that is in it or can be reached from it: as they are, and small.

What is in the mirror alone comes from there, by way of this server: so the page loads from nowhere else, and no link
has to be signed. Of the bucket only that is given out which the ledger says was put there.

Each part of a name is opened below the one before it and none may be a symbolic link, so neither `..` nor a link leads
out, whatever is renamed meanwhile; only what begins like a picture is sent, as that kind. All else is not there.
"""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import suppress
from io import FileIO
from typing import TYPE_CHECKING

from aiohttp import web

from batchflux.errors import StorageError, UsageError
from batchflux.output.base import IMAGES, REFERENCES, REJECTED, THUMBS
from batchflux.report.thumbs import REFERENCE_SIDE, THUMB_SIDE, shrink
from batchflux.transport.threads import Unawaited

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    from batchflux.review.ledger_access import InMirror, LedgerAccess

_CHUNK = 1 << 18
_OPENERS = 8  # threads that open pictures: a network file system may take its time
_AT_ONCE = 4  # pictures that are read out of the mirror, and held in memory, at the same time
_HEAD = 12
_DEEPEST = 32
_LONGEST = 4096
_STARTS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"BM": "image/bmp",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
}
_BELOW = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_picture(folder: Path, name: str) -> tuple[FileIO, str] | None:
    """Open the picture `name` of a folder and tell its media type, None when there is no such picture."""
    parts = name.split("/")
    if len(name) > _LONGEST or len(parts) > _DEEPEST or any(part in {"", ".", ".."} or "\0" in part for part in parts):
        return None
    try:
        descriptor = _open(folder, parts)
    except (OSError, UnicodeError):
        return None
    with suppress(OSError):
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        media_type = _media_type(os.pread(descriptor, _HEAD, 0)) if regular else None
        if media_type is not None:
            return FileIO(descriptor), media_type
    os.close(descriptor)
    return None


class Pictures:
    """The routes below /images, /rejected and /thumbs; `tell` takes sentences for people."""

    def __init__(self, folder: Path, ledger: LedgerAccess, tell: Callable[[str], None]) -> None:
        self._folder, self._ledger, self._tell = folder, ledger, tell
        self._one = asyncio.Lock()  # small copies are made one by one
        self._few = asyncio.Semaphore(_AT_ONCE)
        self._openers = Unawaited(_OPENERS, "batchflux-pictures")
        self._told = ""

    def close(self) -> None:
        """Open nothing any more."""
        self._openers.shutdown()

    async def image(self, request: web.Request) -> web.StreamResponse:
        """A picture, as it is."""
        return await self._give(request, f"{IMAGES}/{request.match_info['name']}")

    async def rejected(self, request: web.Request) -> web.StreamResponse:
        """A picture that is not as ordered, as it is."""
        return await self._give(request, f"{REJECTED}/{request.match_info['name']}")

    async def thumb(self, request: web.Request) -> web.StreamResponse:
        """A picture's thumbnail; the picture itself where the folder takes no thumbnail."""
        name = request.match_info["name"]
        thumb = f"{THUMBS}/{name}"
        if not await self._there(thumb):
            picture = await self._ledger.do(self._ledger.picture_of, name)
            if picture is None:
                raise web.HTTPNotFound
            if not await self._there(picture):
                return await self._thumb_of_mirrored(request, picture, thumb)
            if not await self._shrink(self._folder / picture, thumb, THUMB_SIDE):
                thumb = picture
        return await self._give(request, thumb)

    async def _thumb_of_mirrored(self, request: web.Request, picture: str, thumb: str) -> web.StreamResponse:
        """Make the thumbnail of a picture that is not here; give the picture where the folder takes none."""
        there = await self._in_mirror(picture)
        async with self._few:
            made = await self._shrink(await self._read(there), thumb, THUMB_SIDE)
        return await self._give(request, thumb if made else picture)

    async def _in_mirror(self, name: str) -> InMirror:
        there = await self._ledger.do(self._ledger.in_mirror, name)
        if there is None:
            raise web.HTTPNotFound
        return there

    async def _read(self, there: InMirror) -> bytes:
        """Return the bytes of a picture in the mirror; why they cannot be had is said once."""
        try:
            data = await asyncio.to_thread(there.read)
        except (StorageError, UsageError) as error:
            if str(error) != self._told:
                self._told = str(error)
                self._tell(f"Pictures of the mirror cannot be shown: {error}")
            raise web.HTTPServiceUnavailable(text=str(error)) from None
        if data is None:
            raise web.HTTPNotFound
        return data

    async def reference(self, request: web.Request) -> web.StreamResponse:
        """A copy of a local reference that a row has named."""
        name = request.match_info["name"]
        copy = f"{REFERENCES}/{name}"
        if not await self._there(copy):
            source = await self._ledger.do(self._ledger.reference_of, name)
            if source is None or not await self._shrink(source, copy, REFERENCE_SIDE):
                raise web.HTTPNotFound
        return await self._give(request, copy)

    async def _shrink(self, source: Path | bytes, target: str, side: int) -> bool:
        """Make a small copy; False when the folder does not take one."""
        async with self._one:
            with suppress(StorageError, OSError):  # a full disk or a read-only folder; the page can do without
                return await asyncio.to_thread(shrink, source, self._folder / target, side)
        return False

    async def _there(self, name: str) -> bool:
        found = await self._opened(name)
        if found is not None:
            found[0].close()
        return found is not None

    async def _opened(self, name: str) -> tuple[FileIO, str] | None:
        """Open a picture, and close it when whoever asked has gone meanwhile."""
        opening = self._openers.submit(open_picture, self._folder, name)
        try:
            return await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close)
            raise

    async def _give(self, request: web.Request, name: str) -> web.StreamResponse:
        found = await self._opened(name)
        if found is None:
            return await self._give_mirrored(request, name)
        file, media_type = found
        with file:
            status = os.fstat(file.fileno())
            etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"'
            headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
            if request.headers.get("If-None-Match") == etag:
                return web.Response(status=304, headers=headers)
            response = web.StreamResponse(headers=headers)
            response.content_type = media_type
            response.content_length = left = status.st_size
            await response.prepare(request)
            while left and request.method != "HEAD":
                piece = await asyncio.to_thread(file.read, min(_CHUNK, left))
                if not piece:  # cut short meanwhile: what was promised cannot be kept
                    raise ConnectionResetError
                await response.write(piece)
                left -= len(piece)
            return response

    async def _give_mirrored(self, request: web.Request, name: str) -> web.StreamResponse:
        """Give a picture that is not here as the mirror has it: the browser keeps it, and asks whether it changed."""
        there = await self._in_mirror(name)
        headers = {"ETag": f'"{there.sha256}"', "Cache-Control": "private, no-cache"}
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        async with self._few:
            data = await self._read(there)
            media_type = _media_type(data[:_HEAD])
            if media_type is None:
                raise web.HTTPNotFound
            response = web.StreamResponse(headers=headers)
            response.content_type, response.content_length = media_type, len(data)
            await response.prepare(request)
            for start in range(0, 0 if request.method == "HEAD" else len(data), _CHUNK):
                await response.write(data[start : start + _CHUNK])
            return response


def _close(opening: Future[tuple[FileIO, str] | None]) -> None:
    found = None if opening.cancelled() or opening.exception() else opening.result()
    if found is not None:
        found[0].close()


def _open(folder: Path, parts: list[str]) -> int:
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            below = os.open(part, _BELOW | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
        return os.open(parts[-1], _BELOW | os.O_NONBLOCK, dir_fd=at)  # not to wait for a writer, should it be a pipe
    finally:
        os.close(at)


def _media_type(head: bytes) -> str | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp" and head[8:12] in {b"avif", b"avis"}:
        return "image/avif"
    return next((kind for start, kind in _STARTS.items() if head.startswith(start)), None)
