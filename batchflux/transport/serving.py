"""What our servers have in common: where they listen, whom that lets in, and how many connections they take."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import socket
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientConnectionResetError, web
from aiohttp.http_exceptions import HttpProcessingError

from batchflux.errors import UsageError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HTTP_PORT = 80  # which http means without saying
_REMEDIES = ("try --host 127.0.0.1", "name another --port, or --port 0")
_WAITING = 128  # connections that may wait to be taken
_TURNS = 4  # of the loop; asyncio makes a connection of what it accepted in three
_OF_CLIENTS = (HttpProcessingError, web.RequestPayloadError, ClientConnectionResetError)


def host_of(address: str, port: int) -> str:
    """Return the Host header of an address, as browsers write it."""
    name = f"[{address}]" if ":" in address else address
    return name if port == _HTTP_PORT else f"{name}:{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """A `socket` that listens at one `address` and `port`; `host` is that address, or its name, as a user wrote it."""

    socket: socket.socket
    host: str
    address: str
    port: int

    @property
    def wildcard(self) -> bool:
        """Whether it listens at all addresses of this machine."""
        return self._where.is_unspecified

    @property
    def at(self) -> str:
        """Its host and port as a URL has them; where it listens at all addresses, that of this machine alone."""
        return host_of(LOOPBACK[0] if self.wildcard else self.address, self.port)

    @property
    def hosts(self) -> frozenset[str]:
        """The Host headers of those who mean it."""
        return frozenset(host_of(name, self.port) for name in (*LOOPBACK, self.host.lower(), self.address))

    @property
    def reach(self) -> str | None:
        """What others than this machine can reach, in words; None: it is for this machine alone."""
        if self._where.is_loopback:
            return None
        return f"any address of this machine, port {self.port}," if self.wildcard else self.at

    @property
    def _where(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        return ipaddress.ip_address(self.address.partition("%")[0])


def listen_at(host: str, port: int, remedies: tuple[str, str] = _REMEDIES) -> Listening:
    """Listen at one address: of a name's several the first, so that there is one port; `port` 0 takes a free one.

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
    address, port = listener.getsockname()[:2]
    return Listening(socket=listener, host=host, address=address, port=port)


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


async def accept(runner: web.AppRunner, listener: socket.socket, most: float = math.inf) -> asyncio.Server:
    """Take `most` connections for a runner that is set up. To be closed by `hang_up`, before the runner is."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: next_connection(runner.server, most), sock=listener, backlog=_WAITING)


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
        listening = await accept(runner, listener, most)
    except BaseException:
        listener.close()
        raise
    return runner, listening
