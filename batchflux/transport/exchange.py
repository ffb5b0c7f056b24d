"""One request and the answer to it, over a pooled connection: a download, or a call with a small body.

aiohttp's ClientSession could stand here, as it does for calls with large bodies. It takes two thirds of a request's
processor time for what these must not do anyway (cookies, redirects, proxies, credentials in URLs, tracing), hands a
picture over in pieces, and writes a body some turns of the loop behind its headers. Dialling, TLS, the pool and the
parsing of all answers that are not plain are aiohttp's all the same. `ResponseHandler` and `Connection.protocol` are
not among what aiohttp documents; that is why pyproject.toml bounds its version.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import (
    EMPTY_PAYLOAD,
    ClientConnectionResetError,
    ClientConnectorError,
    ClientOSError,
    ClientRequest,
    ConnectionTimeoutError,
    ServerDisconnectedError,
)
from aiohttp.streams import EofStream

from batchflux._version import __version__
from batchflux.transport.headers import lowered
from batchflux.transport.landing import Landing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import ClientTimeout, StreamReader, TCPConnector
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from yarl import URL

    from batchflux.transport.sent import Sent

HEADER_BYTES = 1 << 16  # one header: signed links travel in headers, and are longer than aiohttp's 8 KB
READ_BYTES = 1 << 18  # what may wait unread before the connection is held up
KEPT_PLACES = 1000  # pictures may lie on many hosts, so not all are kept
DIALS = 3  # connections that turn out to be of no use before the download counts as failed
_INFORMATIONAL = range(100, 200)
_SWITCHING = 101


@dataclass(slots=True, kw_only=True)
class Answer:
    """An answer whose head is there; give it back with `release`. Header names are in lower case.

    `data` is the whole body when it is there already; otherwise it is read from `content`.
    """

    url: URL
    status: int
    headers: dict[str, str]
    data: bytes | None
    content: StreamReader
    connection: Connection

    def release(self) -> None:
        """Let the connection be used again; it is closed unless the body was read to its end."""
        self.connection.release()


class _Place(NamedTuple):
    """A server: what aiohttp's pool knows it by, and the header lines of each request to it."""

    asked: ClientRequest
    lines: str


class Exchange:
    """Sends requests, and waits for the head of what comes back.

    Args:
        connector: the pool, which dials.
        headers: of every request; `Host`, `User-Agent` and what can be unpacked (`Accept-Encoding`) are added.
        timeout: what the connector is told.
        silence: seconds without a byte of an answer; None: as long as the caller waits.
    """

    def __init__(
        self, connector: TCPConnector, headers: Mapping[str, str], timeout: ClientTimeout, silence: float | None
    ) -> None:
        self._connector = connector
        self._timeout = timeout
        self._silence = silence
        self._headers = {"User-Agent": f"batchflux/{__version__}", **headers}
        self._places: dict[tuple[str, str | None, int | None], _Place] = {}

    async def get(self, url: URL, most: int) -> Answer:
        """Ask for what lies at `url`; a body of up to `most` bytes may come along with the answer's head.

        A kept connection that turns out to be closed costs nothing here: the request is sent once more.

        Raises:
            ClientError, HttpProcessingError, TimeoutError, OSError: there is no answer.
        """
        try:
            return await self._get(url, most)
        except ClientConnectorError:
            raise
        except (ClientOSError, ServerDisconnectedError):
            return await self._get(url, most)

    async def _get(self, url: URL, most: int) -> Answer:
        place = self._place(url)
        request = f"GET {url.raw_path_qs} HTTP/1.1\r\n{place.lines}\r\n".encode("ascii")
        connection, protocol = await self._connect(place)
        return await self._ask(url, connection, protocol, request, most)

    async def post(self, url: URL, data: bytes, lines: str, sent: Sent) -> Answer:
        """Send `data` to `url` with these header lines, too; it leaves once, or `sent` stays as it is.

        Raises:
            ClientError, HttpProcessingError, TimeoutError, OSError: there is no answer.
        """
        place = self._place(url)
        head = f"POST {url.raw_path_qs} HTTP/1.1\r\n{place.lines}{lines}Content-Length: {len(data)}\r\n\r\n"
        connection, protocol = await self._connect(place, sent)
        sent.leaves()
        return await self._ask(url, connection, protocol, head.encode("ascii") + data, None)

    async def _ask(
        self, url: URL, connection: Connection, protocol: ResponseHandler, request: bytes, most: int | None
    ) -> Answer:
        landing = None
        try:
            landing = Landing(protocol, self._prepare, most=most, idle=self._silence)
            landing.transport.write(request)
            landed = await landing.done
            if landed is None:
                return await _answer(url, connection, protocol)
        except BaseException:
            if landing is not None:
                landing.give_up()
            connection.close()
            raise
        headers, data = landed
        return Answer(url=url, status=200, headers=headers, data=data, content=EMPTY_PAYLOAD, connection=connection)

    def _place(self, url: URL) -> _Place:
        key = (url.scheme, url.raw_host, url.port)
        place = self._places.get(key)
        if place is None:
            asked = ClientRequest("GET", url.origin(), headers=self._headers, loop=asyncio.get_running_loop())
            lines = "".join(f"{name}: {value}\r\n" for name, value in asked.headers.items())
            place = _Place(asked, lines)
            if len(self._places) < KEPT_PLACES:
                self._places[key] = place
        return place

    async def _connect(self, place: _Place, sent: Sent | None = None) -> tuple[Connection, ResponseHandler]:
        """Return a connection to write to; the moment that `sent` waits for, if any, is now."""
        for _ in range(DIALS):
            try:
                connection = await self._connector.connect(place.asked, traces=[], timeout=self._timeout)
            except TimeoutError as error:
                raise ConnectionTimeoutError from error
            protocol = connection.protocol
            try:
                if protocol is not None and protocol.is_connected():  # a new one, too, may hold bytes already
                    if sent is None:
                        return connection, protocol
                    await sent.written()
                    if protocol.is_connected():
                        return connection, protocol
            except BaseException:
                connection.close()
                raise
            connection.close()
        raise ClientConnectionResetError("no connection stayed usable until the request could be sent")

    def _prepare(self, protocol: ResponseHandler) -> None:
        protocol.set_response_params(
            read_until_eof=True,
            read_timeout=self._silence,
            read_bufsize=READ_BYTES,
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
        )


async def _answer(url: URL, connection: Connection, protocol: ResponseHandler) -> Answer:
    """Wait for the head of the answer; those that only announce it are passed over."""
    while True:
        try:
            message, content = await protocol.read()
        except EofStream:
            raise ServerDisconnectedError from None  # closed from this side, and so without an error of its own
        if message.code not in _INFORMATIONAL or message.code == _SWITCHING:
            break
    headers = lowered(message.headers)
    return Answer(url=url, status=message.code, headers=headers, data=None, content=content, connection=connection)
