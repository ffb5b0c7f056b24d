"""Fetching a picture from a link. The rule: the link is a stranger's.

It gets no credentials and no cookies; it is followed over at most three redirects, each dialled through the guard;
its bytes are counted as they are decoded, and what they claim to be is not believed. From https a redirect may lead
to http: a link to http is taken as well, nothing secret travels, and a paid picture should not be lost for it.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from aiohttp import ClientTimeout, InvalidURL

from batchflux.errors import Code, JobError
from batchflux.models import Fetched
from batchflux.transport.exchange import Answer, Exchange
from batchflux.transport.headers import utc_now, wait_asked
from batchflux.transport.links import shown, to_url
from batchflux.transport.options import MIB, TransportOptions
from batchflux.transport.spool import Spool
from batchflux.transport.wire_errors import WIRE_ERRORS, describe, is_unsafe

if TYPE_CHECKING:
    from aiohttp import TCPConnector
    from yarl import URL

HOPS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({401, 403, 404, 410, 451})  # among them signed links that have expired
_BUSY = frozenset({429, 503})
_HEADERS = {"Accept": "image/png,image/jpeg,image/webp,*/*;q=0.5", "Accept-Encoding": "identity"}


class Downloads:
    """Fetches pictures through the transport's one pool of connections."""

    def __init__(self, connector: TCPConnector, options: TransportOptions) -> None:
        self._options = options
        timeout = ClientTimeout(connect=options.connect_timeout)
        self._exchange = Exchange(connector, _HEADERS, timeout, options.idle_timeout)
        self._in_memory = min(options.spool_over, options.max_bytes)
        self._spool_dir = os.path.abspath(options.spool_dir)  # noqa: PTH100  a str, as Fetched.path

    async def fetch(self, link: str) -> Fetched:
        """Return the bytes behind `link`; see Transport.fetch."""
        started = asyncio.get_running_loop().time()
        url = to_url(link)
        try:
            async with asyncio.timeout(self._options.download_timeout):
                data, path, size = await self._download(url)
        except WIRE_ERRORS as error:
            raise _failed(error, url) from None
        return Fetched(data=data, path=path, size=size, seconds=asyncio.get_running_loop().time() - started)

    async def _download(self, url: URL) -> tuple[bytes | None, str | None, int]:
        answer = await self._follow(url)
        if answer.data is not None:
            answer.release()
            return answer.data, None, len(answer.data)
        spool = Spool(self._spool_dir, self._options.spool_over)
        try:
            self._check(answer)
            while data := await answer.content.readany():
                if spool.size + len(data) > self._options.max_bytes:
                    raise self._too_big(answer.url)
                await spool.add(data)
            data_or_none, path = await spool.done()
        finally:
            answer.release()
            await spool.discard()
        return data_or_none, path, spool.size

    async def _follow(self, url: URL) -> Answer:
        for _ in range(HOPS + 1):
            answer = await self._exchange.get(url, self._in_memory)
            target = answer.headers.get("location")
            if answer.status not in _REDIRECTS or not target:
                return answer
            answer.release()
            url = to_url(target, base=url)
        raise JobError(Code.DOWNLOAD, f"{shown(url)} lies behind more than {HOPS} redirects, which are not followed")

    def _check(self, answer: Answer) -> None:
        status = answer.status
        if status in _GONE:
            message = f"{shown(answer.url)} answered {status}: the picture is gone"
            raise JobError(Code.DOWNLOAD, message, dead=True)
        if not 200 <= status < 300:  # noqa: PLR2004  success, as HTTP counts it
            place = shown(answer.url)
            wait = wait_asked(status, answer.headers, utc_now()) if status in _BUSY else None
            raise JobError(Code.DOWNLOAD, f"{place} answered {status} instead of a picture", retry_after=wait)
        length = answer.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._options.max_bytes:
            raise self._too_big(answer.url)

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
