"""Fetching a picture from a link. The rule: the link is a stranger's.

It gets no credentials and no cookies; it is followed over at most three redirects, each dialled through the guard;
its bytes are counted as they are decoded, and what they claim to be is not believed. From https a redirect may lead
to http: a link to http is taken as well, nothing secret travels, and a paid picture should not be lost for it.

The bytes wait in memory while few, then in a temporary file. Temporary names start with `.tmp-`: the output folder's
sweep removes what a crash leaves behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import aiofiles
import aiofiles.os
from aiohttp import ClientTimeout, InvalidURL

from batchflux.errors import Code, JobError, StorageError
from batchflux.models import Fetched
from batchflux.transport.connections import MIB, TransportOptions, next_piece
from batchflux.transport.headers import SUCCESS, lowered, utc_now, wait_asked
from batchflux.transport.ssrf import to_url
from batchflux.transport.wire_errors import WIRE_ERRORS, describe, is_unsafe, shown

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from aiofiles.threadpool.binary import AsyncBufferedIOBase
    from aiohttp import ClientResponse, ClientSession
    from yarl import URL

T = TypeVar("T")

HOPS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({401, 403, 404, 410, 451})  # among them signed links that have expired
_BUSY = frozenset({429, 503})
_HEADERS = {"Accept": "image/png,image/jpeg,image/webp,*/*;q=0.5", "Accept-Encoding": "identity"}


class Downloads:
    """Fetches pictures through a session that never uses a connection again."""

    def __init__(self, session: ClientSession, options: TransportOptions) -> None:
        self._session = session
        self._options = options
        self._timeout = ClientTimeout(connect=options.connect_timeout, sock_read=options.idle_timeout)
        self._spool_dir = str(Path(options.spool_dir).absolute())

    async def fetch(self, link: str) -> Fetched:
        """Return the bytes behind `link`; see Transport.fetch."""
        clock = asyncio.get_running_loop().time
        started = clock()
        url = to_url(link)
        until = started + self._options.download_timeout
        try:
            async with asyncio.timeout_at(until):
                data, path, size = await self._download(url, until)
        except WIRE_ERRORS as error:
            raise _failed(error, url) from None
        return Fetched(data=data, path=path, size=size, seconds=clock() - started)

    async def _download(self, url: URL, until: float) -> tuple[bytes | None, str | None, int]:
        response = await self._follow(url)
        spool = Spool(self._spool_dir, self._options.spool_over)
        try:
            self._check(response)
            while data := await next_piece(response, until):
                if spool.size + len(data) > self._options.max_bytes:
                    raise self._too_big(response.url)
                await spool.add(data)
            data_or_none, path = await spool.done()
        finally:
            response.close()
            await spool.discard()
        return data_or_none, path, spool.size

    async def _follow(self, url: URL) -> ClientResponse:
        for _ in range(HOPS + 1):
            response = await self._session.get(url, headers=_HEADERS, timeout=self._timeout, allow_redirects=False)
            target = response.headers.get("Location")
            if response.status not in _REDIRECTS or not target:
                return response
            response.close()
            url = to_url(target, base=url)
        raise JobError(Code.DOWNLOAD, f"{shown(url)} lies behind more than {HOPS} redirects, which are not followed")

    def _check(self, response: ClientResponse) -> None:
        status = response.status
        if status in _GONE:
            message = f"{shown(response.url)} answered {status}: the picture is gone"
            raise JobError(Code.DOWNLOAD, message, dead=True)
        if status not in SUCCESS:
            place = shown(response.url)
            wait = wait_asked(status, lowered(response.headers), utc_now()) if status in _BUSY else None
            raise JobError(Code.DOWNLOAD, f"{place} answered {status} instead of a picture", retry_after=wait)
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > self._options.max_bytes:
            raise self._too_big(response.url)

    def _too_big(self, url: URL) -> JobError:
        cap = self._options.max_bytes
        size = f"{cap / MIB:.0f} MiB" if cap >= MIB else f"{cap} bytes"
        message = f"{shown(url)} is larger than the {size} allowed; raise output.max_bytes and run again"
        return JobError(Code.DOWNLOAD, message)


def _failed(error: Exception, url: URL) -> JobError:
    if is_unsafe(error):
        message = f"{shown(url)} leads to an address that is not public, so it was not fetched"
        return JobError(Code.UNSAFE_URL, message)
    if isinstance(error, InvalidURL):  # among them 127.1 and 2130706433, which a socket would take as addresses
        return JobError(Code.UNSAFE_URL, f"{shown(url)} is not a valid URL, so it was not fetched")
    return JobError(Code.DOWNLOAD, f"{shown(url)} could not be fetched: {describe(error)}")


class Spool:
    """Takes the bytes of one download; holds at most `over` of them in memory."""

    __slots__ = ("_chunks", "_file", "_folder", "_held", "_over", "_path", "size")

    def __init__(self, folder: str, over: int) -> None:
        self.size = 0
        self._folder = folder
        self._over = over
        self._chunks: list[bytes] = []
        self._held = 0
        self._path: str | None = None
        self._file: AsyncBufferedIOBase | None = None

    async def add(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            StorageError: the temporary file cannot be written.
        """
        self._chunks.append(data)
        self._held += len(data)
        self.size += len(data)
        if self._held > self._over:
            await self._flush()

    async def done(self) -> tuple[bytes | None, str | None]:
        """Return the bytes, or the path of the closed file that holds them; the file is now the caller's.

        Raises:
            StorageError: the temporary file cannot be written.
        """
        if self._file is None:
            return b"".join(self._chunks), None
        await self._flush()
        await self._guarded(self._file.close())
        path, self._file, self._path = self._path, None, None
        return None, path

    async def discard(self) -> None:
        """Close and remove the temporary file, if there is one that `done` has not handed over."""
        if self._path is None:
            return
        try:
            if self._file is not None:
                await _settled(self._file.close())
        finally:
            with contextlib.suppress(OSError):  # what cannot be removed now is the sweep's
                await _settled(aiofiles.os.unlink(self._path))

    async def _flush(self) -> None:
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._held = 0
        if self._file is None:
            self._path = f"{self._folder}/.tmp-{uuid.uuid4().hex}"
            await self._guarded(self._open(self._path))
        if self._file is not None:
            await self._guarded(self._file.write(data))

    async def _open(self, path: str) -> None:
        self._file = await aiofiles.open(path, "xb")

    async def _guarded(self, awaitable: Awaitable[T]) -> T:
        try:
            return await _settled(awaitable)
        except OSError as error:
            message = (
                f"cannot keep a download in {self._folder}: {error.strerror}; "
                "make room or make the folder writable, then run again"
            )
            raise StorageError(message) from None


async def _settled(awaitable: Awaitable[T]) -> T:
    """Await file work; when cancelled, leave only once its thread is through with the file."""
    task = asyncio.ensure_future(awaitable)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen: the cancellation is what the caller hears of
        raise
