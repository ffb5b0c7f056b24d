"""Pictures by their links: served to whoever has one, and found for orders that name one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import web

from batchflux.errors import StorageError
from batchflux.gateway.answering.send import send_picture
from batchflux.gateway.orders import Picture, RefusalError
from batchflux.ledger.books.calls import pictures_by_prefix
from batchflux.output.base import further_in

if TYPE_CHECKING:
    from batchflux.folders.pictures import FolderPictures
    from batchflux.gateway.answering.links import Names
    from batchflux.ledger.books.calls import Made
    from batchflux.runner import Endless

_KEEP = {"Cache-Control": "private, max-age=31536000, immutable"}


class Pictures:
    """The pictures of a gateway's folder, by their `names`."""

    def __init__(self, names: Names, run: Endless, there: FolderPictures) -> None:
        self._names, self._run, self._there = names, run, there

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Send the picture of a name. RefusalError: there is none."""
        made = await self._made(request.match_info["name"])
        path = await asyncio.to_thread(self._there.path, made.file_name)
        if path is not None:
            with suppress(FileNotFoundError):  # it has gone since; the mirror may have it
                return await send_picture(request, str(path), _media_type(made.file_name), _KEEP)
        data = await asyncio.to_thread(self._read, made)
        return web.Response(body=data, content_type=_media_type(made.file_name), headers=_KEEP)

    async def taken(self, name: str) -> Picture:
        """Return the picture of a name as a reference. RefusalError: there is none."""
        return await self._reference(await self._made(name))

    async def found(self, name: str) -> Picture | None:
        """Return the picture of a name as a reference, None: it is none of ours. RefusalError: it is gone."""
        made = await self._signed(name)
        return None if made is None else await self._reference(made)

    async def _reference(self, made: Made) -> Picture:
        path = await asyncio.to_thread(self._there.path, made.file_name)
        if path is not None:
            return Picture(path=str(path))
        return Picture(data=await asyncio.to_thread(self._read, made))

    async def _made(self, name: str) -> Made:
        if (made := await self._signed(name)) is None:
            raise RefusalError(404, "no_such_picture", "There is no picture at this address.")
        return made

    async def _signed(self, name: str) -> Made | None:
        """Return what was made by a name that we signed."""
        prefix = self._names.prefix(name)
        if prefix is not None:
            for made in await self._run.database.submit(lambda connection: pictures_by_prefix(connection, prefix)):
                if self._names.fits(name, made.key):
                    return made
                for place, further in enumerate(further_in(made.remarks), 2):
                    if self._names.fits(name, made.key, place):
                        return made._replace(file_name=further, sha256="", mirrored=None)  # a file, or gone
        return None

    def _read(self, made: Made) -> bytes:
        try:
            return self._there.read(made.file_name, made.sha256, made.mirrored)
        except StorageError as error:
            raise RefusalError(404, "picture_gone", "This picture is not there any more.") from error


def _media_type(name: str) -> str:
    return {"png": "image/png", "webp": "image/webp", "gif": "image/gif"}.get(name.rpartition(".")[2], "image/jpeg")
