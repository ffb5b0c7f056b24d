"""Breaks connections, as the `reset`, `cut` and `hang` faults do, and sends whole answers."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from batchflux.simulator.replies import Reply

_LINGER_NOTHING = struct.pack("ii", 1, 0)


def whole(reply: Reply, headers: dict[str, str]) -> web.Response:
    """Return `reply` as aiohttp sends it."""
    return web.Response(
        status=reply.status,
        body=reply.body,
        content_type=reply.content_type,
        charset="utf-8" if reply.content_type.startswith("text/") else None,
        headers={**headers, **reply.headers},
    )


def reset(request: web.Request) -> web.StreamResponse:
    """Reset the connection: what is lost is not told apart from what was done. The response returned goes nowhere."""
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOTHING)
        transport.abort()
    return web.Response()


async def cut(request: web.Request, reply: Reply, headers: dict[str, str]) -> web.StreamResponse:
    """Send the first half of `reply` and close the connection, whose length promised the rest."""
    response = web.StreamResponse(status=reply.status, headers={**headers, "Content-Type": reply.content_type})
    if reply.content_type == "application/json":
        response.content_length = len(reply.body)
    await response.prepare(request)
    await response.write(reply.body[: len(reply.body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
