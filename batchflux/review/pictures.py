"""Answers with pictures: of the folder as they are, and small copies made when they are asked for."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from aiohttp import web

from batchflux.errors import StorageError
from batchflux.output.base import IMAGES, REFERENCES, THUMBS
from batchflux.report.places import inside
from batchflux.report.thumbs import REFERENCE_SIDE, THUMB_SIDE, shrink
from batchflux.review.files import open_picture

if TYPE_CHECKING:
    from pathlib import Path

    from batchflux.review.files import Found
    from batchflux.review.refresh import Do
    from batchflux.review.store import Store

_CHUNK = 1 << 18


class Pictures:
    """The routes below /images and /thumbs."""

    def __init__(self, folder: Path, store: Store, do: Do) -> None:
        self._folder = folder
        self._store = store
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
            picture = await self._do(lambda: self._store.picture_of(name))
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
            source = await self._do(lambda: self._store.reference_of(name))
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
