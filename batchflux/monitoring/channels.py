"""How a notice reaches those who are told: by HTTP, or as apprise does.

An address is a secret: what failed is said by kind and host. Addresses may be private, for they are the user's own.
Nothing is sent on to where a redirect leads.
"""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from batchflux._version import __version__
from batchflux.errors import UsageError
from batchflux.monitoring.base import SECONDS, START, NotToldError
from batchflux.transport.wire_errors import describe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.manifest.reading.targets import NoticeTarget
    from batchflux.monitoring.base import Channel, Notice
    from batchflux.transport.connecting.proxies import Proxies

MOST_BODY = 100_000  # bytes of a ping's body; healthchecks.io keeps as many
_AGAIN = frozenset({408, 425, 429})  # answers, beside 5xx, after which the same request may do
_REDIRECTS, _REFUSED, _BROKEN = 300, 400, 500


class Post:
    """Sends HTTP requests to one address, by the proxy that the environment names for it."""

    starts = False

    def __init__(self, target: NoticeTarget, proxies: Proxies) -> None:
        self.place = target.place
        self._url = target.url
        self._proxy = proxies.for_url(URL(target.url))

    async def ask(self, url: str, body: bytes | None, headers: Mapping[str, str]) -> None:
        """POST a body, or GET without one; NotToldError unless the answer is 2xx."""
        try:
            async with asyncio.timeout(SECONDS), self._session() as session:
                status = await self._status(session, URL(url), body, dict(headers))
        except TimeoutError:
            raise NotToldError(f"no answer within {SECONDS:.0f} s", again=True) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NotToldError(f"it was not reached: {describe(error)}", again=True) from None
        if status >= _REFUSED:
            raise NotToldError(f"it answered {status}", again=status >= _BROKEN or status in _AGAIN)
        if status >= _REDIRECTS:
            what = f"it answered {status}, a redirect, which is not followed; name the address that it leads to"
            raise NotToldError(what, again=False)

    def _session(self) -> aiohttp.ClientSession:
        proxy, connector = self._proxy, None
        if proxy is not None and not proxy.is_http:
            from batchflux.transport.connecting.socks import socks_connector  # noqa: PLC0415  an extra

            connector = socks_connector(proxy)
        agent = {"User-Agent": f"batchflux/{__version__}"}
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), headers=agent)

    async def _status(
        self, session: aiohttp.ClientSession, url: URL, body: bytes | None, headers: dict[str, str]
    ) -> int:
        by: dict[str, Any] = {}
        if (proxy := self._proxy) is not None and proxy.is_http:
            by = {"proxy": proxy.url, "proxy_headers": proxy.headers if url.scheme == "https" else None}
            headers |= proxy.headers if url.scheme == "http" else {}
        method = "GET" if body is None else "POST"
        async with session.request(method, url, data=body, headers=headers, allow_redirects=False, **by) as response:
            return response.status


class Webhook(Post):
    """Gets a POST of JSON: summary.json itself at a run's end, an object with `event` otherwise."""

    async def send(self, notice: Notice) -> None:
        """Try once; NotToldError: it did not arrive."""
        headers = {"Content-Type": "application/json; charset=utf-8", "X-Batchflux-Event": notice.event}
        await self.ask(self._url, notice.body, {**headers, "X-Batchflux-Delivery": notice.number})


class Ping(Post):
    """Is pinged as healthchecks.io is: `/start`, `/log` for what comes in between, and the exit code at the end."""

    starts = True

    async def send(self, notice: Notice) -> None:
        """Try once; NotToldError: it did not arrive."""
        if notice.event == START:
            await self.ask(self._below(START), None, {})
            return
        last = "log" if notice.exit_code is None else str(notice.exit_code)
        text = "\n".join(filter(None, (notice.text, notice.lines))).encode(errors="backslashreplace")
        await self.ask(self._below(last), text[:MOST_BODY], {"Content-Type": "text/plain; charset=utf-8"})

    def _below(self, last: str) -> str:
        parts = urlsplit(self._url)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{last}").geturl()


def channel_of(target: NoticeTarget, proxies: Proxies) -> Channel:
    """Return the way to an address; UsageError: what it needs is not installed, or apprise does not know it."""
    if target.kind == "ping":
        return Ping(target, proxies)
    if target.kind == "webhook":
        return Webhook(target, proxies)
    if find_spec("apprise") is None:
        what = f"notify: {target.place} needs the extra: pip install 'batchflux[notify]'"
        raise UsageError(f"{what}, or name a webhook (https://...) in its place.")
    from batchflux.monitoring.apprised import Apprised  # noqa: PLC0415  an extra

    return Apprised(target)
