"""Where the gateway listens, under which names it may be asked, and how its server starts and stops.

Without client keys it is for this machine alone. Connections are bounded, and so is the time to a request's head, and
how long a client may take nothing of its answer.
"""

from __future__ import annotations

import socket
from socket import IPPROTO_TCP
from typing import TYPE_CHECKING, NamedTuple

from batchflux.errors import UsageError
from batchflux.transport.serving import hang_up, listen_at, logger_of, serve_at

if TYPE_CHECKING:
    import asyncio

    from aiohttp import web

MOST_CONNECTIONS = 1024
HEAD_SECONDS = 75.0  # to a first request's end, or of rest between two: longer than a proxy before us keeps one open
STUCK_SECONDS = 120.0  # for which a client may take nothing of its answer
_PATIENCE = 5.0  # seconds that answers under way have when it stops
_AT_ONCE = 0.01  # seconds; 0 would be for ever
_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)  # macOS has none


class Bound(NamedTuple):
    """A socket that listens: `hosts` are the Host headers by which it may be asked, `url` leads there.

    `opens` says whom it lets in where that is not this machine alone.
    """

    socket: socket.socket
    url: str
    hosts: frozenset[str]
    opens: str | None


class Served(NamedTuple):
    """An application that is served."""

    runner: web.AppRunner
    listening: asyncio.Server

    async def stop(self, *, at_once: bool = False) -> None:
        """Take no more connections, and end what is under way, after a moment unless `at_once`."""
        await hang_up(self.listening)
        if at_once and self.runner.server is not None:
            await self.runner.server.shutdown(_AT_ONCE)
        await self.runner.cleanup()


def bind(host: str, port: int, *, keyed: bool) -> Bound:
    """Listen at an address; `keyed`: clients have keys. `port` 0 takes a free one.

    Raises UsageError: the address is none of this machine's, the port is taken, or others could call without a key.
    """
    listening = listen_at(host, port)
    if _USER_TIMEOUT is not None:  # connections have it from their listener
        listening.socket.setsockopt(IPPROTO_TCP, _USER_TIMEOUT, int(STUCK_SECONDS * 1000))
    if not keyed and listening.reach is not None:
        listening.socket.close()
        why = "everyone who reaches it could spend your money"
        raise UsageError(f"--host {host} is open to other machines, and without client keys {why}: add --client-keys.")
    opens = f"Everyone who can reach {listening.reach} and has a key can buy pictures; what is sent is not encrypted."
    return Bound(listening.socket, f"http://{listening.at}", listening.hosts, listening.reach and opens)


async def serve(app: web.Application, listener: socket.socket) -> Served:
    """Serve an application at a socket that listens, which is closed when that fails."""
    logger = logger_of("batchflux.gateway")
    return Served(*await serve_at(app, listener, logger, most=MOST_CONNECTIONS, head=HEAD_SECONDS, patience=_PATIENCE))
