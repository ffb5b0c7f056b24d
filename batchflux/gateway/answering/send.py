"""How answers leave: refusals, documents and streams, over aiohttp."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from aiohttp import web

from batchflux.gateway.answering.errors import envelope, headers_of
from batchflux.gateway.answering.pieces import SMALL, Piece, encoded, length_of, whole
from batchflux.gateway.answering.sse import HEADERS
from batchflux.gateway.orders import RefusalError

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
    async with aclosing(encoded(pieces)) as parts:
        async for part in parts:
            if not response.prepared:
                await response.prepare(request)
            await response.write(part)
    return response


async def send_stream(
    request: web.Request, frames: AsyncGenerator[list[Piece]], headers: Mapping[str, str]
) -> web.StreamResponse:
    """Send events as they come; a client that leaves ends the stream (ConnectionError), not what it is of.

    The source of the frames is told, by a RefusalError, when the picture of one is gone, and says so in the next.
    """
    response = web.StreamResponse(headers={**headers, **HEADERS})
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
