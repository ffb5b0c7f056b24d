"""How connections are opened: names are resolved here, and the guard is asked about each address that is dialled.

aiohttp asks no resolver about IP literals, so the resolver cannot be the guard; the socket factory sees every address.
The handler of a connection is aiohttp's, but for what would put a paid call at risk or leave a worker waiting.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import select
import socket
from typing import TYPE_CHECKING, Any

from aiohttp import ClientPayloadError, DefaultResolver, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler

from batchflux.transport.ssrf import Guard, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohappyeyeballs import AddrInfoType
    from aiohttp import StreamReader
    from yarl import URL

DNS_SECONDS = 60  # a provider that moves to other addresses is followed within a minute


class UnsafeAddress(OSError):  # noqa: N818  reads as what was found
    """The guard refused an address. One text for all: happy eyeballs keeps the type only of equal errors."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "the address is not public")


class Names(AbstractResolver):
    """Resolves names; `fixed` ones to the address and port given. Tells the guard where the provider's origin lives."""

    def __init__(self, guard: Guard, origin: URL, fixed: Mapping[str, tuple[str, int]]) -> None:
        self._guard = guard
        self._origin = (origin.raw_host or "", origin.port or 0)
        self._fixed = dict(fixed)
        self._system = DefaultResolver()
        self._learned = self._origin[0] in self._fixed
        if parse(self._origin[0]) is not None:
            guard.trust(*self._origin)
            self._learned = True
        for address, port in self._fixed.values():
            guard.trust(address, port)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of `host`.

        Raises:
            OSError: the name does not resolve.
        """
        fixed = self._fixed.get(host)
        if fixed is not None:
            return [_result(host, *fixed)]
        try:
            found = await self._system.resolve(host, port, family)
        except UnicodeError as error:  # a label of over 63 characters
            raise OSError(errno.EINVAL, "not a valid host name") from error
        if not found:
            raise OSError(errno.ENOENT, "the name has no address")
        if (host, port) == self._origin:
            self._learned = True
            for result in found:
                self._guard.trust(result["host"], result["port"])
        return found

    async def learn(self) -> bool:
        """Find out where the provider's origin lives, unless that is known; say whether it is known only now."""
        if self._learned:
            return False
        try:
            await self.resolve(*self._origin)
        except OSError:
            return False  # a provider that cannot be found has no addresses to trust; a call will say so
        return True

    async def close(self) -> None:
        """Release the system's resolver."""
        await self._system.close()


class Handler(ResponseHandler):
    """A connection of aiohttp 3.14, stricter about being used again, and telling its reader what it knows.

    Bytes that nobody asked for would be read as the next answer or be missing from it, a request would wait behind what
    is left of an earlier one, and its answer would not be read where reading is held up: a connection with any of these
    is closed, and one on which anything waits to be read, be it the other side's goodbye. And a body whose chunks are
    garbled ends for the parser, and one whose connection is closed from this side ends altogether, while its reader
    would wait until the time for the whole call is over.
    """

    @property
    def should_close(self) -> bool:
        """Whether the connection can be of no use any more once the answer is read."""
        return super().should_close or self.writing_paused or unwritten(self.transport)

    def is_connected(self) -> bool:
        """Whether the connection may be taken out of the pool."""
        transport = self.transport
        return (
            transport is not None
            and super().is_connected()
            and transport.is_reading()
            and not self.should_close
            and not _has_come(transport)
        )

    def set_response_params(self, **params: Any) -> None:
        """Get ready for the answer to a request that is about to be sent."""
        self._payload = None  # that of the answer before
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Take what came; aiohttp's parser would keep half a head behind an answer to itself."""
        answer = self._payload
        if data and answer is not None and answer.is_eof():
            self.force_close()
        super().data_received(data)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Let the connection fail, and with it the answer that is being read, once what has come of it is read."""
        answer = self._payload
        super().set_exception(exc, *cause)
        self._loop.call_soon(_fail, answer, exc if isinstance(exc, TimeoutError) else ClientPayloadError("garbled"))

    def close(self) -> None:
        """Close the connection, and cut off the answer that is being read."""
        _fail(self._payload, ClientPayloadError("closed"))
        super().close()

    def abort(self) -> None:
        """Drop the connection, and cut off the answer that is being read."""
        _fail(self._payload, ClientPayloadError("closed"))
        super().abort()


def _has_come(transport: asyncio.Transport) -> bool:
    """Whether something waits in the system to be read, which the loop has not looked for yet.

    Under TLS that may be none of an answer (a session's ticket).
    """
    sock = transport.get_extra_info("socket")
    if sock is None or transport.get_extra_info("sslcontext") is not None:
        return False
    waits = select.poll()
    waits.register(sock.fileno(), select.POLLIN)
    return bool(waits.poll(0))


def unwritten(transport: asyncio.Transport | None) -> bool:
    """Whether an open connection holds bytes of a request that the server has not taken yet.

    Under TLS there may be such bytes that are none of a request (uvloop counts the end of the handshake).
    """
    if transport is None or transport.is_closing() or transport.get_extra_info("sslcontext") is not None:
        return False
    return transport.get_write_buffer_size() > 0


def _fail(answer: StreamReader | None, error: Exception) -> None:
    if answer is not None and not answer.is_eof() and answer.exception() is None:
        answer.set_exception(error)


def connector(guard: Guard, names: Names, connections: int) -> TCPConnector:
    """Return a connection pool of at most `connections` that dials only what `guard` allows."""

    def guarded_socket(info: AddrInfoType) -> socket.socket:
        family, kind, proto, _, address = info
        if not guard.allow(str(address[0]), int(address[1])):
            raise UnsafeAddress
        return socket.socket(family=family, type=kind, proto=proto)

    pool = TCPConnector(
        limit=connections,
        resolver=names,
        ttl_dns_cache=DNS_SECONDS,
        socket_factory=guarded_socket,
    )
    pool._factory = functools.partial(_handler, asyncio.get_running_loop())  # noqa: SLF001  there is no other way
    return pool


def _handler(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return Handler(loop)


def _result(name: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=name, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
