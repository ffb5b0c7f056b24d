"""Fetching a picture from a link. The rule: the link is a stranger's.

It gets no key and no cookies, only the headers that the user set for hosts of pictures (`provider.download_headers`);
over a redirect to another origin none of those but what every browser sends: a link's host may hand on to anyone. Each
redirect is dialled through the guard, and a picture's bytes are counted as they are decoded. From https a redirect may
lead to http: a paid picture should not be lost for it. A host that refuses (401, 403, 451) may have the picture still;
only 404 and 410 say that it is gone. A connection that breaks off behind a whole picture (a length that is too large, a
reset) has brought it all the same. The bytes wait in memory while few, and fewer the more downloads there are, then
in a temporary file whose name starts with `.tmp-`: the output folder's sweep removes what a crash leaves behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import aiofiles
from aiohttp import ClientTimeout
from multidict import CIMultiDict

from batchflux.errors import Code, JobError, StorageError
from batchflux.models import Fetched
from batchflux.output.containers import ends_as_picture
from batchflux.output.durable import remedy_of
from batchflux.transport.body import Body
from batchflux.transport.connecting.connections import MIB, UNKNOWN_TO_PROXY, TransportOptions, Until
from batchflux.transport.connecting.ssrf import Allowed
from batchflux.transport.headers import SUCCESS, check_sendable, lowered, wait_asked
from batchflux.transport.links import to_url
from batchflux.transport.wire_errors import WIRE_ERRORS, refused_by, shown, unfetched, unsafe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Mapping

    from aiofiles.threadpool.binary import AsyncBufferedIOBase
    from aiohttp import ClientResponse
    from yarl import URL

    from batchflux.transport.connecting.connections import Routes
    from batchflux.transport.connecting.ssrf import Guard

HOPS = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({404, 410})
_REFUSED = frozenset({401, 403, 451})  # a signature that has run out, a User-Agent or Referer that it does not like
_BUSY = frozenset({429, 503})
_AWAY = 500  # and above: the host is at fault, not the link
_HEADERS = {"Accept": "image/png,image/jpeg,image/webp,*/*;q=0.5", "Accept-Encoding": "identity"}
_HARMLESS = re.compile(r"(?i)user-agent|referer|origin|accept(?:-.*)?|sec-fetch-.*|cache-control|pragma")


def check_downloads(allow_hosts: Iterable[str], headers: Mapping[str, str]) -> None:
    """See that what a manifest says of downloads can be done; UsageError when it cannot."""
    check_sendable(headers)
    for text in allow_hosts:
        Allowed.of(text)


class Downloads:
    """Fetches pictures over connections that are kept."""

    def __init__(self, routes: Routes, guard: Guard, options: TransportOptions) -> None:
        self._routes = routes
        self._guard = guard
        self._options, self._slots = options, options.slots
        self._timeout = ClientTimeout(connect=options.connect_timeout, sock_read=options.idle_timeout)
        self._headers = CIMultiDict(_HEADERS)
        self._headers.update(options.download_headers)
        self._public = CIMultiDict((name, text) for name, text in self._headers.items() if _HARMLESS.fullmatch(name))
        self._spool_dir = Path(options.spool_dir).absolute()

    async def fetch(self, link: str) -> Fetched:
        """Return the bytes behind `link`; see Transport.fetch."""
        clock = asyncio.get_running_loop().time
        started, url = clock(), to_url(link)
        until = Until(started + self._options.download_timeout)
        spool = _Spool(self._spool_dir)
        try:
            async with until.bound():
                data, path = await self._download(url, until, spool)
        except WIRE_ERRORS as error:
            failure = unfetched(error, url)
            self._slots.ended(turned_away=failure.cause is not None)
            raise failure from None
        except JobError as error:
            self._slots.ended(turned_away=error.cause is not None)
            raise
        self._slots.sized(spool.size)
        self._slots.ended(turned_away=False)
        return Fetched(data=data, path=path, size=spool.size, seconds=clock() - started)

    async def _download(self, url: URL, until: Until, spool: _Spool) -> tuple[bytes | None, str | None]:
        response = await self._follow(url)
        try:
            self._check(response)
            try:
                await self._read(response, until, spool)
            except WIRE_ERRORS:
                if not ends_as_picture(await spool.all()):
                    raise
            return await spool.done()
        finally:
            response.close()
            await spool.discard()

    async def _read(self, response: ClientResponse, until: Until, spool: _Spool) -> None:
        body = Body(response)
        while data := await body.next(until):
            self._slots.came(len(data))
            if spool.size + len(data) > self._options.max_bytes:
                raise self._too_big(response.url)
            await spool.add(data, min(self._options.spool_over, self._slots.share))

    async def _follow(self, url: URL) -> ClientResponse:
        first = url
        for _ in range(HOPS + 1):
            route = self._routes.of(url, reuse=True)
            if not self._guard.allow_literal(url, resolved=route.proxy is None):
                raise unsafe(url)
            headers = self._headers if url.origin() == first.origin() else self._public
            if route.headers:
                headers = CIMultiDict((*headers.items(), *route.headers.items()))
            try:
                response = await route.session.get(
                    url, headers=headers, timeout=self._timeout, allow_redirects=False, proxy_headers=route.tunnel
                )
            except WIRE_ERRORS as error:
                raise unfetched(
                    error, url, route.proxy
                ) from None  # of this hop: it may be another host than the link's
            if response.status == UNKNOWN_TO_PROXY and route.passed_on:
                response.close()
                failure = refused_by(route.proxy, url, response.status)
                failure.code, failure.cause = Code.DOWNLOAD, Code.NETWORK
                raise failure
            target = response.headers.get("Location")
            if response.status not in _REDIRECTS or not target:
                return response
            response.close()
            url = to_url(target, base=url)
        raise JobError(
            Code.DOWNLOAD, f"{shown(url)} lies behind more than {HOPS} redirects, which are not followed", final=True
        )

    def _check(self, response: ClientResponse) -> None:
        status = response.status
        if status in SUCCESS:
            self._check_size(response)
            return
        place = shown(response.url)
        if status in _GONE:
            raise JobError(Code.DOWNLOAD, f"{place} answered {status}: the picture is gone", dead=True)
        if status in _REFUSED:
            remedy = "the link is kept; if its host wants a User-Agent or Referer, set provider.download_headers"
            raise JobError(Code.DOWNLOAD, f"{place} refused the picture (HTTP {status}): {remedy}, then run again")
        wait = wait_asked(status, lowered(response.headers), time.time()) if status in _BUSY else None
        failure = JobError(Code.DOWNLOAD, f"{place} answered {status} instead of a picture", retry_after=wait)
        failure.cause = Code.SERVER if status in _BUSY or status >= _AWAY else None
        raise failure

    def _check_size(self, response: ClientResponse) -> None:
        length = response.headers.get("Content-Length", "")
        if length.isdecimal():
            if int(length) > self._options.max_bytes:
                raise self._too_big(response.url)
            self._slots.sized(int(length))

    def _too_big(self, url: URL) -> JobError:
        cap = self._options.max_bytes
        size = f"the {cap / MIB:.0f} MiB" if cap >= MIB else f"the {cap} bytes"
        place = shown(url)
        what = f"{place} is larger than {size} allowed; raise output.max_bytes and run again"
        return JobError(Code.DOWNLOAD, what, final=True)


class _Spool:
    """Takes the bytes of one download: the first in memory, many in a file (StorageError where it cannot)."""

    def __init__(self, folder: Path) -> None:
        self.size = self._written = 0
        self._folder = folder
        self._held: list[bytes] = []
        self._file: tuple[Path, AsyncBufferedIOBase] | None = None

    async def add(self, data: bytes, over: int) -> None:
        """Take the next bytes; more than `over` are not left in memory."""
        self._held.append(data)
        self.size += len(data)
        if self.size - self._written > over:
            await self._settled(self._flush())

    async def done(self) -> tuple[bytes | None, str | None]:
        """Return the bytes, or the path of the closed file that holds them; the file is now the caller's."""
        if self._file is None:
            return b"".join(self._held), None
        await self._settled(self._flush())
        path, file = self._file
        await self._settled(file.close())
        self._file = None
        return None, str(path)

    async def all(self) -> bytes:
        """Return what came so far."""
        if self._file is None:
            return b"".join(self._held)
        await self._settled(self._flush())
        path, written = self._file
        await self._settled(written.flush())
        async with aiofiles.open(path, "rb") as file:
            return await file.read()

    async def discard(self) -> None:
        """Close and remove the temporary file, if there is one that `done` has not handed over."""
        if self._file is not None:
            path, file = self._file
            with contextlib.suppress(StorageError):  # what cannot be removed now is the sweep's
                await self._settled(file.close())
            with contextlib.suppress(OSError):
                path.unlink()

    async def _flush(self) -> None:
        if self._file is None:
            path = self._folder / f".tmp-{uuid.uuid4().hex}"
            self._file = path, await aiofiles.open(path, "xb")
        await self._file[1].write(b"".join(self._held))
        self._held, self._written = [], self.size

    async def _settled(self, work: Awaitable[None]) -> None:
        """Await file work; when cancelled, leave only once its thread is through with the file."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # seen: the cancellation is what the caller hears of
            raise
        except OSError as error:
            what = f"cannot keep a download in {self._folder}: {error.strerror}"
            raise StorageError(f"{what}; {remedy_of(error)}, then run again") from None
