"""What the servers beside a run have in common: where they listen, and how many connections they take."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from typing import Any

from aiohttp import ClientConnectionResetError, web
from aiohttp.http_exceptions import HttpProcessingError

from batchflux.errors import UsageError

_WAITING = 128  # connections that may wait to be taken
_TURNS = 4  # of the loop; asyncio makes a connection of what it accepted in three
_OF_CLIENTS = (HttpProcessingError, web.RequestPayloadError, ClientConnectionResetError)


def listen_at(host: str, port: int, remedies: tuple[str, str]) -> socket.socket:
    """Listen at one address: of a name's several the first, so that there is one port.

    Raises UsageError, with one of the `remedies`: the address is none of this machine's, or the port is taken.
    """
    elsewhere, otherwise = remedies
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        listener, address = socket.socket(*found[0][:3]), found[0][4]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{host} is no address of this machine ({error}): {elsewhere}.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_WAITING)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise UsageError(f"Cannot listen on port {port} of {host} ({error.strerror}): {otherwise}.") from error
    return listener


def logger_of(name: str) -> logging.Logger:
    """Return where a server logs faults of ours; what is no HTTP is not logged, for that would quote the request.

    Nor is a body that is garbled, or a client that has gone: whoever reaches the port could fill the log with it.
    """
    logger = logging.getLogger(name)
    if not logger.filters:
        logger.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], _OF_CLIENTS)))
    return logger


class _Full(asyncio.Protocol):
    """Ends a connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """End it at once."""
        if isinstance(transport, asyncio.Transport):
            transport.abort()


def next_connection(server: web.Server | None, most: float = math.inf) -> asyncio.Protocol:
    """Return who takes the next connection of a server that takes so many at most."""
    return _Full() if server is None or len(server.connections) >= most else server()


async def listen(runner: web.AppRunner, host: str, port: int) -> asyncio.Server:
    """Listen for a runner that is set up, at an address; OSError. To be closed by `hang_up`, before the runner is."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: next_connection(runner.server), host, port, backlog=_WAITING)


async def hang_up(listening: asyncio.Server) -> None:
    """Take no more connections; those that were accepted are there when this returns, for their runner to end.

    asyncio loses what it has accepted, and does not close it, where the server is closed before it is a connection.
    """
    loop = asyncio.get_running_loop()
    for listener in listening.sockets:
        loop.remove_reader(listener)
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    listening.close()


async def serve_at(
    app: web.Application, listener: socket.socket, logger: logging.Logger, *, most: int, head: float, patience: float
) -> tuple[web.AppRunner, asyncio.Server]:
    """Serve an application at a socket that listens, which is closed when that fails.

    It takes `most` connections; one has `head` seconds to its first request's end, and to rest between two. Answers
    under way have `patience` seconds when the runner is cleaned up.
    """
    options: dict[str, Any] = {"access_log": None, "logger": logger, "handler_cancellation": True}
    runner = web.AppRunner(app, shutdown_timeout=patience, keepalive_timeout=head, **options)
    try:
        await runner.setup()
        listening = await asyncio.get_running_loop().create_server(
            lambda: next_connection(runner.server, most), sock=listener
        )
    except BaseException:
        listener.close()
        raise
    return runner, listening
