"""The one HTTP client: performs the HTTP steps that providers want done, and fetches pictures.

A request that may cost money leaves at most once: redirects are not followed, and its connection is its own.
"""

from __future__ import annotations

import asyncio
import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from multidict import CIMultiDict

from batchflux.errors import Code, JobError
from batchflux.models import BASE, SECONDS, Exchanged, Missing
from batchflux.redaction import hush
from batchflux.transport.body import Body
from batchflux.transport.connecting.connections import MIB, Names, Routes, Sent, TransportOptions, Until
from batchflux.transport.connecting.ssrf import Allowed, Guard
from batchflux.transport.content import encode, size_of_files
from batchflux.transport.downloads import Downloads, check_downloads
from batchflux.transport.encoded import EncodedPhotos
from batchflux.transport.headers import SUCCESS, lowered, pause_hinted, wait_asked
from batchflux.transport.lines import Splitter
from batchflux.transport.links import origin_of, to_url
from batchflux.transport.threads import in_thread
from batchflux.transport.waits import wait_in_words
from batchflux.transport.wire_errors import WIRE_ERRORS, lost, refused_by, shown, unanswered, unsafe

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Mapping

    from aiohttp import ClientResponse
    from yarl import URL

    from batchflux.models import Fetched, HttpRequest, Reader, Reply

BASE64_GROWTH = 1.4  # 4/3, line ends and JSON escapes
SLOWEST_UPLOAD = 1 << 17  # bytes a second of a file of our own, which a call may take on top of its time
AT_ONCE = 1 << 16  # bytes of an answer that are read in less time than a thread takes to be woken
_ACCEPT = {"Accept": "application/json, text/event-stream"}
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_CREDENTIAL = re.compile(r"(?:[!-~]+ )?[!-~]+")


class _TooLargeError(Exception):
    """More of an answer came than is taken."""


class _Open(NamedTuple):
    """What a transport has while it is entered."""

    routes: Routes
    guard: Guard
    names: Names
    downloads: Downloads
    reading: ThreadPoolExecutor  # one thread, since reading holds the interpreter: more would only hold more memory


class Transport:
    """Performs HTTP steps while it is entered, for many tasks of one loop; UsageError when the options cannot be."""

    def __init__(self, options: TransportOptions) -> None:
        self._options = options
        self._body_cap = int(BASE64_GROWTH * options.max_bytes) + MIB
        self._base = options.base_url.rstrip("/")
        self._origin = origin_of(self._base)
        check_downloads(options.allow_hosts, options.download_headers)
        self._allowed = tuple(map(Allowed.of, options.allow_hosts))
        self._photos = EncodedPhotos()
        self._open: _Open | None = None

    async def __aenter__(self) -> Self:
        guard = Guard(self._allowed)
        names = Names(guard, self._origin, self._options.resolve)
        routes, reading = Routes(guard, names, self._options), ThreadPoolExecutor(1, "batchflux-answers")
        self._open = _Open(routes, guard, names, Downloads(routes, guard, self._options), reading)
        return self

    async def __aexit__(self, *_: object) -> None:
        opened, self._open = self._opened(), None
        await opened.routes.close()
        await opened.names.close()
        opened.reading.shutdown(wait=False)

    def _opened(self) -> _Open:
        if self._open is None:
            raise RuntimeError("the transport is not open; use it in `async with`")
        return self._open

    async def exchange(
        self,
        request: HttpRequest,
        *,
        headers: Mapping[str, str] | None = None,
        secrets: Collection[str] = (),
        on_sent: Callable[[], None] | None = None,
    ) -> Exchanged:
        """Perform one HTTP step.

        `headers` are the credentials for this very URL, which go nowhere else; `secrets` are texts that no message may
        show; `on_sent` is called once, as the request leaves. Raises JobError: `network` and `timeout` when nothing was
        sent, or the request is repeatable; `unknown`: it left, and no answer came; `auth`: the headers can hold no key.
        Otherwise what the reader made of the answer, with `retry_after` from the answer's headers,
        or its words.
        """
        opened = self._opened()
        sent = Sent(once=not request.repeatable, tell=on_sent)
        try:
            return await self._exchange(opened, request, headers or {}, sent)
        except JobError as error:
            if not sent.done:
                error.billed = False
            hush(error, secrets)
            raise

    async def lines(
        self,
        request: HttpRequest,
        *,
        headers: Mapping[str, str] | None = None,
        secrets: Collection[str] = (),
    ) -> AsyncGenerator[bytes]:
        """Perform a free HTTP step whose answer is lines, and give them as they come, each without its end.

        The answer may be of any size, and take any time: it is read no faster than its lines are taken. Of a line that
        is longer than any answer may be, only the beginning is given. Raises JobError: as `exchange`; `network` and
        `timeout` also in the midst of it, where it broke off; `download` and dead, where the reader says that it is
        Missing; what else the reader made of an answer that is no success.
        """
        opened, sent = self._opened(), Sent(once=False, tell=None)
        try:
            url = self._checked(request, headers or {})
            until = Until(asyncio.get_running_loop().time() + self._options.timeout)
            response = await self._ask(opened, request, url, headers or {}, (sent, until))
            try:
                if response.status not in SUCCESS:
                    await self._refused(request, response, until)
                body, split = Body(response), Splitter(self._body_cap)
                while data := await body.next(Until(float("inf")), self._options.idle_timeout):
                    for line in split.add(data):
                        yield line
                for line in split.rest():
                    yield line
            except WIRE_ERRORS as error:
                raise lost(error, url) from None
            finally:
                response.close()
        except JobError as error:
            hush(error, secrets)
            raise

    async def fetch(self, url: str) -> Fetched:
        """Download the picture behind a link; StorageError when a large one cannot be kept in the spool folder.

        Raises JobError: `unsafe_url` when it leads to an address that is not public, else `download`: `dead` if gone.
        """
        opened = self._opened()
        try:
            return await opened.downloads.fetch(url)
        except JobError as error:
            # A run that continues may fetch before its first call has told where the provider's own origin lives.
            if error.code is not Code.UNSAFE_URL or not await opened.names.learn():
                raise
        return await opened.downloads.fetch(url)

    def _checked(self, request: HttpRequest, headers: Mapping[str, str]) -> URL:
        """Return where a request goes; JobError `auth`: the headers can hold no key."""
        if not all(map(_CREDENTIAL.fullmatch, headers.values())):
            what = "an API key is empty or holds blanks or characters that no key has"
            raise JobError(Code.AUTH, f"{what}; check the environment variable")
        absolute = _ABSOLUTE.match(request.url)
        return to_url(request.url if absolute else f"{self._base}/{request.url.removeprefix('/')}")

    async def _exchange(self, opened: _Open, request: HttpRequest, headers: Mapping[str, str], sent: Sent) -> Exchanged:
        url = self._checked(request, headers)
        clock = asyncio.get_running_loop().time
        started = clock()
        due, began = self._options.due, started + size_of_files(request.content) / SLOWEST_UPLOAD
        until = Until(began + self._options.timeout) if due is None else Until(due(began), lambda: due(began))
        response = await self._ask(opened, request, url, headers, (sent, until))
        answered = lowered(response.headers)
        try:
            reply = await self._told(request, response, answered, until, clock() - started)
        finally:
            response.close()  # the connection is kept all the same if the answer was read to its end
        return Exchanged(reply=reply, seconds=clock() - started, pause=pause_hinted(answered, time.time()))

    async def _told(
        self, request: HttpRequest, response: ClientResponse, answered: Mapping[str, str], until: Until, seconds: float
    ) -> Reply:
        """Return what the reader makes of an answer that began after so many seconds; JobError with `retry_after`.

        `answered` are its headers, with names in lower case.
        """
        told = {**answered, BASE: self._base, SECONDS: f"{seconds:.3f}"}
        try:
            return await self._answer(request, response, told, until)
        except JobError as error:
            if error.retry_after is None:
                error.retry_after = wait_asked(response.status, answered, time.time())
            if error.retry_after is None and error.code is Code.RATE_LIMITED:
                error.retry_after = wait_in_words(error.message)
            raise

    async def _refused(self, request: HttpRequest, response: ClientResponse, until: Until) -> None:
        """Raise what the reader makes of an answer that is no success, and so has no lines."""
        reply = await self._told(request, response, lowered(response.headers), until, 0.0)
        if isinstance(reply, Missing):
            raise JobError(Code.DOWNLOAD, f"what {shown(response.url)} had is gone (HTTP {response.status})", dead=True)
        raise TypeError(f"the reader of an answer of lines returned {reply!r} for HTTP {response.status}")

    async def _ask(
        self, opened: _Open, request: HttpRequest, url: URL, headers: Mapping[str, str], course: tuple[Sent, Until]
    ) -> ClientResponse:
        """Send a request, by a proxy or directly, and return its answer once that begins; `course` takes note of it."""
        route = opened.routes.of(url, reuse=request.repeatable)
        data, described = await encode(request.content, self._photos)
        known: CIMultiDict[str] = CIMultiDict(_ACCEPT)
        for more in (described, request.headers, headers, route.headers):
            known.update(more)
        own = url.origin() == self._origin.origin()
        (sent, until), clock = course, asyncio.get_running_loop().time
        started = clock()
        try:
            async with until.bound():
                if not own and route.proxy is None:  # it may live where the provider's own origin does: not told yet
                    await opened.names.learn()
                elif not own and not opened.guard.allow_literal(url, resolved=False):
                    raise unsafe(url)
                ways: Any = {"allow_redirects": False, "trace_request_ctx": sent, "proxy_headers": route.tunnel}
                response = await route.session.request(request.method, url, data=data, headers=known, **ways)
        except WIRE_ERRORS as error:
            states = {"sent": sent.done, "repeatable": request.repeatable, "own": own}
            raise unanswered(error, url, **states, proxy=route.proxy) from None
        if route.refused(response.status, response.headers, clock() - started):
            response.close()
            raise refused_by(route.proxy, url, response.status)
        return response

    async def _answer(
        self, request: HttpRequest, response: ClientResponse, headers: dict[str, str], until: Until
    ) -> Reply:
        readers = [request.reader(response.status, headers)]
        body = Body(response)
        cut, size = await self._read(body, readers[0], until)
        finish = partial(_finished, readers, complete=cut is None)
        try:
            return await in_thread(finish, self._opened().reading) if size > AT_ONCE else finish()
        except JobError as error:
            if body.missing and error.code is Code.BAD_ANSWER:  # what was paid for is in it, and would come so again
                error.message = f"the answer is packed in a way that only Python's {body.missing} can undo: install it"
                error.final = True
            if cut is None or response.status not in SUCCESS:
                raise
            if isinstance(cut, _TooLargeError):
                error.answer = None
                largest, remedy = (
                    f"{self._body_cap / MIB:.0f} MiB",
                    "raise output.max_bytes if its pictures are that large",
                )
                message = f"the answer of {shown(response.url)} is larger than {largest} and was given up; {remedy}"
                raise JobError(Code.BAD_ANSWER, message, billed=not request.repeatable) from error
            raise (lost(cut, response.url) if request.repeatable else error) from None

    async def _read(self, body: Body, reader: Reader, until: Until) -> tuple[Exception | None, int]:
        """Feed the body to the reader as it arrives, decoded.

        Return what cut it off, None when it is whole, and its size in bytes.
        """
        size = 0
        try:
            while data := await body.next(until, self._options.idle_timeout):
                size += len(data)
                if size > self._body_cap:
                    return _TooLargeError(), size
                if reader.feed(data):
                    break
        except WIRE_ERRORS as error:
            return error, size
        return None, size


def _finished(readers: list[Reader], *, complete: bool) -> Reply:
    """Return what the one reader makes of its answer; that, megabytes, is freed here, before the loop comes to it."""
    return readers.pop().finish(complete=complete)
