"""How answers leave: refusals, documents and streams, over aiohttp."""

from __future__ import annotations

from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import ClientConnectionResetError, web

from batchflux.gateway.answering.errors import envelope, headers_of
from batchflux.gateway.answering.pieces import PIECE, SMALL, Piece, begun, encoded, length_of, part_of, whole
from batchflux.gateway.answering.sse import HEADERS
from batchflux.gateway.orders import RefusalError
from batchflux.transport.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence


def refused(error: RefusalError) -> web.Response:
    """Return the answer of a refusal."""
    return web.json_response(envelope(error), status=error.status, headers=headers_of(error))


async def send_document(
    request: web.Request, pieces: Sequence[Piece], headers: Mapping[str, str]
) -> web.StreamResponse:
    """Send a document; RefusalError, and nothing is sent, when a picture of it is gone."""
    length = length_of(pieces)
    if length <= SMALL:
        return web.Response(body=await whole(pieces), headers=headers, content_type="application/json")
    response = web.StreamResponse(headers=headers)
    response.content_type, response.content_length = "application/json", length
    with suppress(ClientConnectionResetError):  # the client has gone
        async with aclosing(encoded(pieces)) as parts:
            async for part in parts:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(part)
    return response


async def send_stream(
    request: web.Request, frames: AsyncGenerator[list[Piece]], headers: Mapping[str, str]
) -> web.StreamResponse:
    """Send events as they come; a client that leaves ends the stream, not what it is of.

    The source of the frames is told, by a RefusalError, when the picture of one is gone, and says so in the next.
    """
    response = web.StreamResponse(headers={**headers, **HEADERS})
    with suppress(ClientConnectionResetError):
        await response.prepare(request)
        async with aclosing(frames):
            async for pieces in frames:
                try:
                    await _write(response, pieces)
                except RefusalError as error:  # a picture is gone, before anything of its event was written
                    await _write(response, await frames.athrow(error))
    return response


async def _write(response: web.StreamResponse, pieces: Sequence[Piece]) -> None:
    if length_of(pieces) <= SMALL:
        await response.write(await whole(pieces))
        return
    async with aclosing(encoded(pieces)) as parts:
        async for part in parts:
            await response.write(part)


async def send_picture(
    request: web.Request, path: str, media_type: str, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Send a picture's file; FileNotFoundError, and nothing is sent: there is none."""
    size, first = await in_thread(partial(begun, path))
    if len(first) == size:
        return web.Response(body=first, content_type=media_type, headers=headers)
    response = web.StreamResponse(headers=headers)
    response.content_type, response.content_length = media_type, size
    with suppress(ClientConnectionResetError):
        await response.prepare(request)
        if request.method != "HEAD":
            await response.write(first)
            for start in range(len(first), size, PIECE):
                await response.write(await in_thread(partial(part_of, path, size, start)))
    return response
