"""The one HTTP client: performs the steps of a provider's flow, and fetches pictures.

A request leaves at most once: aiohttp never sends a POST again by itself, redirects are not followed, and what
happened is told apart by whether the request's headers had been written (see faults).
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import TYPE_CHECKING, Self

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar
from yarl import URL

from batchflux._version import __version__
from batchflux.errors import Code, JobError
from batchflux.models import Answered
from batchflux.redaction import hush
from batchflux.transport.body import encode
from batchflux.transport.dial import Names, connector
from batchflux.transport.downloads import Downloads
from batchflux.transport.exchange import HEADER_BYTES, Answer, Exchange
from batchflux.transport.headers import lowered, utc_now, wait_asked
from batchflux.transport.links import origin_of, shown
from batchflux.transport.options import MIB, TransportOptions
from batchflux.transport.sent import Sent, tracing
from batchflux.transport.ssrf import Guard
from batchflux.transport.wire_errors import WIRE_ERRORS, unanswered

if TYPE_CHECKING:
    import io
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from aiohttp import ClientResponse

    from batchflux.models import Fetched, Picture, Reader, Request

BASE64_GROWTH = 1.4  # 4/3, line ends and JSON escapes
TAIL_SECONDS = 0.1  # how long an answer that is already whole may take to end, so that its connection can be kept
TAIL_BYTES = 1 << 16
SMALL = 1 << 14  # bytes of a body that is written in one go; a larger one goes through the session, in pieces
KEPT_URLS = 1000  # a flow that polls makes a path for each of its jobs, so not all are kept
_HEADERS = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


class _End(Enum):
    WHOLE = auto()
    CUT = auto()
    OVER = auto()


class Transport:
    """Performs HTTP steps for as long as it is entered: `async with Transport(options) as transport`.

    Safe to use from many tasks of one event loop.

    Raises:
        UsageError: the base URL cannot be one.
    """

    def __init__(self, options: TransportOptions) -> None:
        self._options = options
        self._body_cap = int(BASE64_GROWTH * options.max_bytes) + MIB
        self._base = options.base_url.rstrip("/")
        self._origin = origin_of(self._base)
        self._keys: set[str] = set()
        self._urls: dict[str, URL] = {}
        self._session: ClientSession | None = None
        self._calls: Exchange | None = None
        self._downloads: Downloads | None = None
        self._names: Names | None = None

    async def __aenter__(self) -> Self:
        options = self._options
        guard = Guard()
        self._names = Names(guard, self._origin, options.resolve)
        timeout = ClientTimeout(
            total=options.timeout, connect=options.connect_timeout, sock_read=options.first_byte_timeout
        )
        shared = connector(guard, self._names, options.connections)
        self._session = ClientSession(
            connector=shared,
            timeout=timeout,
            trace_configs=[tracing()],
            cookie_jar=DummyCookieJar(),
            headers={"User-Agent": f"batchflux/{__version__}"},
            trust_env=False,
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
        )
        self._calls = Exchange(shared, _HEADERS, timeout, options.first_byte_timeout)
        self._downloads = Downloads(shared, options)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
        if self._names is not None:
            await self._names.close()
        self._session = self._calls = self._downloads = self._names = None

    async def call(
        self, request: Request, *, key: str | None, on_sent: Callable[[], Awaitable[None]] | None = None
    ) -> Answered:
        """Perform one step of a provider's flow.

        Args:
            request: what to send, and who reads the answer.
            key: the API key, or None for an API without.
            on_sent: awaited once; the request is written to its connection right behind it. (Once more, should the
                connection turn out to be of no use before a byte is written.)

        Raises:
            JobError: with the code of what happened. `network` and `timeout`: nothing was sent. `unknown`: the
                request left, no answer came. Otherwise what the reader made of the answer, with `retry_after` from
                the answer's headers.
        """
        if key is not None:
            self._keys.add(_checked(key))
        url = self._url(request.path)
        data = await encode(request.body)
        loop = asyncio.get_running_loop()
        started = loop.time()
        until = started + self._options.timeout
        sent = Sent(on_sent)
        try:
            response = await self._ask(request.method, url, data, key, until, sent)
        except WIRE_ERRORS as error:
            raise unanswered(error, shown(url), sent=sent.done) from None
        answer = response.headers if isinstance(response, Answer) else lowered(response.headers)
        try:
            picture = await self._answer(request, response, answer, until)
        except JobError as error:
            if error.retry_after is None:
                error.retry_after = wait_asked(response.status, answer, utc_now())
            hush(error, self._keys)
            raise
        finally:
            response.release()  # closes the connection unless the body was read to its end
        return Answered(picture=picture, seconds=loop.time() - started, headers=answer)

    async def _ask(
        self, method: str, url: URL, data: bytes | io.BytesIO, key: str | None, until: float, sent: Sent
    ) -> Answer | ClientResponse:
        """Send a request, and wait for the head of its answer until `until`, on the loop's clock."""
        if self._session is None or self._calls is None:
            raise RuntimeError("the transport is not open; use it in `async with`")
        if method == "POST" and isinstance(data, bytes) and len(data) <= SMALL:
            async with asyncio.timeout_at(until):
                return await self._calls.post(
                    url, data, "" if key is None else f"Authorization: Bearer {key}\r\n", sent
                )
        headers = _HEADERS if key is None else {**_HEADERS, "Authorization": f"Bearer {key}"}
        return await self._session.request(
            method, url, data=data, headers=headers, allow_redirects=False, trace_request_ctx=sent
        )

    async def fetch(self, url: str) -> Fetched:
        """Download the picture behind a link.

        Raises:
            JobError: `unsafe_url` when it leads to an address that is not public, `download` otherwise (`dead` when
                the server says that the picture is gone).
            StorageError: a large download cannot be kept in the spool folder.
        """
        if self._downloads is None or self._names is None:
            raise RuntimeError("the transport is not open; use it in `async with`")
        try:
            return await self._downloads.fetch(url)
        except JobError as error:
            # A run that continues may fetch before its first call has told where the provider's own origin lives.
            if error.code is not Code.UNSAFE_URL or not await self._names.learn():
                raise
        return await self._downloads.fetch(url)

    def _url(self, path: str) -> URL:
        url = self._urls.get(path)
        if url is None:
            url = URL(self._base + path)
            if len(self._urls) < KEPT_URLS:
                self._urls[path] = url
        return url

    async def _answer(
        self, request: Request, response: Answer | ClientResponse, headers: dict[str, str], until: float
    ) -> Picture:
        reader = request.reader(response.status, headers)
        if isinstance(response, Answer) and response.data is not None:
            if response.data:
                reader.feed(response.data)
            return reader.finish(complete=True)
        end = await self._read(response, reader, until)
        try:
            return reader.finish(complete=end is _End.WHOLE)
        except JobError as error:
            if end is not _End.OVER or not 200 <= response.status < 300:  # noqa: PLR2004  success, as HTTP counts it
                raise
            message = (
                f"the answer of {shown(response.url)} is larger than {self._body_cap / MIB:.0f} MiB and was given up; "
                "raise output.max_bytes if its pictures are that large"
            )
            raise JobError(Code.BAD_ANSWER, message, billed=True) from error

    async def _read(self, response: Answer | ClientResponse, reader: Reader, until: float) -> _End:
        """Feed the body to the reader as it arrives, decoded; say how it ended."""
        self._bound_pauses(response)
        content = response.content
        left = self._body_cap
        while True:
            try:
                async with asyncio.timeout_at(until):
                    data = await content.readany()
            except WIRE_ERRORS:
                return _End.CUT
            if not data:
                return _End.WHOLE
            left -= len(data)
            if left < 0:
                return _End.OVER
            if reader.feed(data):
                await _finish_tail(response)
                return _End.WHOLE

    def _bound_pauses(self, response: Answer | ClientResponse) -> None:
        """From the first byte on, the answer may pause for the idle time only."""
        connection = response.connection
        protocol = None if connection is None else connection.protocol
        if protocol is not None and not response.content.is_eof():
            protocol.read_timeout = self._options.idle_timeout
            protocol.start_timeout()


async def _finish_tail(response: Answer | ClientResponse) -> None:
    """Read the few bytes that end an answer already understood, so that its connection can be used again."""
    content = response.content
    if content.at_eof():
        return
    left = TAIL_BYTES
    try:
        async with asyncio.timeout(TAIL_SECONDS):
            while left > 0 and (data := await content.readany()):
                left -= len(data)
    except WIRE_ERRORS:
        return  # the connection is closed instead of kept; the answer is whole all the same


def _checked(key: str) -> str:
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        message = "an API key is empty or holds blanks or characters that no key has; check the environment variable"
        raise JobError(Code.AUTH, message)
    return key
