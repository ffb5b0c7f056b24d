"""Fetching a picture from a link. The rule: the link is a stranger's.

It gets no credentials and no cookies, each of its few redirects is dialled through the guard, and its bytes are counted
as they are decoded. From https a redirect may lead to http: nothing secret travels, and a paid picture should not be
lost for it. The bytes wait in memory while few, then in a temporary file whose name starts with `.tmp-`: the output
folder's sweep removes what a crash leaves behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import aiofiles
from aiohttp import ClientTimeout, InvalidURL

from batchflux.errors import Code, JobError, StorageError
from batchflux.models import Fetched
from batchflux.transport.connections import MIB, TransportOptions, next_piece
from batchflux.transport.headers import SUCCESS, lowered, wait_asked
from batchflux.transport.ssrf import to_url
from batchflux.transport.wire_errors import WIRE_ERRORS, describe, is_unsafe, shown

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from aiofiles.threadpool.binary import AsyncBufferedIOBase
    from aiohttp import ClientResponse, ClientSession
    from yarl import URL

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
        self._spool_dir = Path(options.spool_dir).absolute()

    async def fetch(self, link: str) -> Fetched:
        """Return the bytes behind `link`; see Transport.fetch."""
        clock = asyncio.get_running_loop().time
        started, url = clock(), to_url(link)
        until = started + self._options.download_timeout
        spool = _Spool(self._spool_dir, self._options.spool_over)
        try:
            async with asyncio.timeout_at(until):
                data, path = await self._download(url, until, spool)
        except WIRE_ERRORS as error:
            raise _failed(error, url) from None
        return Fetched(data=data, path=path, size=spool.size, seconds=clock() - started)

    async def _download(self, url: URL, until: float, spool: _Spool) -> tuple[bytes | None, str | None]:
        response = await self._follow(url)
        try:
            self._check(response)
            while data := await next_piece(response, until):
                if spool.size + len(data) > self._options.max_bytes:
                    raise self._too_big(response.url)
                await spool.add(data)
            return await spool.done()
        finally:
            response.close()
            await spool.discard()

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
        status, place = response.status, shown(response.url)
        if status in _GONE:
            raise JobError(Code.DOWNLOAD, f"{place} answered {status}: the picture is gone", dead=True)
        if status not in SUCCESS:
            wait = wait_asked(status, lowered(response.headers), time.time()) if status in _BUSY else None
            raise JobError(Code.DOWNLOAD, f"{place} answered {status} instead of a picture", retry_after=wait)
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > self._options.max_bytes:
            raise self._too_big(response.url)

    def _too_big(self, url: URL) -> JobError:
        cap = self._options.max_bytes
        size = f"the {cap / MIB:.0f} MiB" if cap >= MIB else f"the {cap} bytes"
        place = shown(url)
        return JobError(Code.DOWNLOAD, f"{place} is larger than {size} allowed; raise output.max_bytes and run again")


def _failed(error: Exception, url: URL) -> JobError:
    if is_unsafe(error):
        return JobError(Code.UNSAFE_URL, f"{shown(url)} leads to an address that is not public, so it was not fetched")
    if isinstance(error, InvalidURL):  # among them 127.1 and 2130706433, which a socket would take as addresses
        return JobError(Code.UNSAFE_URL, f"{shown(url)} is not a valid URL, so it was not fetched")
    return JobError(Code.DOWNLOAD, f"{shown(url)} could not be fetched: {describe(error)}")


class _Spool:
    """Takes the bytes of one download: at most `over` in memory, the rest in a file (StorageError where it cannot)."""

    def __init__(self, folder: Path, over: int) -> None:
        self.size = 0
        self._path = folder / f".tmp-{uuid.uuid4().hex}"
        self._over = over
        self._held = bytearray()
        self._file: AsyncBufferedIOBase | None = None

    async def add(self, data: bytes) -> None:
        """Take the next bytes."""
        self._held += data
        self.size += len(data)
        if len(self._held) > self._over:
            await self._settled(self._flush())

    async def done(self) -> tuple[bytes | None, str | None]:
        """Return the bytes, or the path of the closed file that holds them; the file is now the caller's."""
        if self._file is None:
            return bytes(self._held), None
        await self._settled(self._flush())
        await self._settled(self._file.close())
        self._file = None
        return None, str(self._path)

    async def discard(self) -> None:
        """Close and remove the temporary file, if there is one that `done` has not handed over."""
        if self._file is not None:
            with contextlib.suppress(StorageError):  # what cannot be removed now is the sweep's
                await self._settled(self._file.close())
            with contextlib.suppress(OSError):
                self._path.unlink()

    async def _flush(self) -> None:
        if self._file is None:
            self._file = await aiofiles.open(self._path, "xb")
        await self._file.write(self._held)
        self._held = bytearray()

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
            what = f"cannot keep a download in {self._path.parent}: {error.strerror}"
            raise StorageError(f"{what}; make room or make the folder writable, then run again") from None
