"""Gives out pictures of the folder, and nothing else that is in it or can be reached from it: as they are, and small.

The rule: a name is taken apart, each part is opened below the one before it and none may be a symbolic link, so neither
`..` nor a link leads out, whatever is renamed meanwhile; and only what begins like a picture is sent, as that kind of
picture. Everything else is not there.
Small ones are made when they are asked for.
"""

from __future__ import annotations

import asyncio
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from batchflux.errors import StorageError
from batchflux.output.base import IMAGES
from batchflux.report.thumbs import REFERENCE_SIDE, REFERENCES, THUMB_SIDE, THUMBS, inside, shrink

if TYPE_CHECKING:
    from pathlib import Path

    from batchflux.review.ledger_access import Do, LedgerAccess

_CHUNK = 1 << 18
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


class Pictures:
    """The routes below /images and /thumbs."""

    def __init__(self, folder: Path, ledger: LedgerAccess, do: Do) -> None:
        self._folder = folder
        self._ledger = ledger
        self._do = do
        self._shrinking = ThreadPoolExecutor(1, "batchflux-review-thumbs")

    def close(self) -> None:
        """Wait for what is being made."""
        self._shrinking.shutdown()

    async def image(self, request: web.Request) -> web.StreamResponse:
        """A picture, as it is."""
        return await self._give(request, IMAGES, request.match_info["name"])

    async def thumb(self, request: web.Request) -> web.StreamResponse:
        """A picture's thumbnail; the picture itself where the folder takes no thumbnail."""
        name = request.match_info["name"]
        if not await self._there(THUMBS, name):
            picture = await self._do(lambda: self._ledger.picture_of(name))
            place = None if picture is None else inside(self._folder, picture)
            if picture is None or place is None or not await self._there(IMAGES, picture.removeprefix(f"{IMAGES}/")):
                raise web.HTTPNotFound
            if not await self._shrink(place, self._folder / THUMBS / name, THUMB_SIDE):
                return await self._give(request, IMAGES, picture.removeprefix(f"{IMAGES}/"))
        return await self._give(request, THUMBS, name)

    async def reference(self, request: web.Request) -> web.StreamResponse:
        """A copy of a local reference that a row has named."""
        name = request.match_info["name"]
        if not await self._there(REFERENCES, name):
            source = await self._do(lambda: self._ledger.reference_of(name))
            if source is None or not await self._shrink(source, self._folder / REFERENCES / name, REFERENCE_SIDE):
                raise web.HTTPNotFound
        return await self._give(request, THUMBS, f"references/{name}")

    async def _shrink(self, source: Path, target: Path, side: int) -> bool:
        """Make a small copy; False when the folder does not take one."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._shrinking, shrink, source, target, side)
        except (StorageError, OSError):  # a full disk or a read-only folder; the page can do without
            return False

    async def _there(self, top: str, name: str) -> bool:
        found = await asyncio.to_thread(self._open, top, name)
        if found is not None:
            os.close(found.descriptor)
        return found is not None

    def _open(self, top: str, name: str) -> Found | None:
        first, _, rest = top.partition("/")
        return open_picture(self._folder, first, f"{rest}/{name}" if rest else name)

    async def _give(self, request: web.Request, top: str, name: str) -> web.StreamResponse:
        found = await asyncio.to_thread(self._open, top, name)
        if found is None:
            raise web.HTTPNotFound
        try:
            headers = {"ETag": found.etag, "Cache-Control": "private, no-cache"}
            if request.headers.get("If-None-Match") == found.etag:
                return web.Response(status=304, headers=headers)
            response = web.StreamResponse(headers=headers)
            response.content_type, response.content_length = found.media_type, found.size
            await response.prepare(request)
            sent = 0
            while sent < found.size and request.method != "HEAD":
                size = min(_CHUNK, found.size - sent)
                piece = await asyncio.to_thread(os.pread, found.descriptor, size, sent)
                if not piece:  # cut short meanwhile: what was promised cannot be kept
                    raise ConnectionResetError
                await response.write(piece)
                sent += len(piece)
            return response
        finally:
            os.close(found.descriptor)


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
