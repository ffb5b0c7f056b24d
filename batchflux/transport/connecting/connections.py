"""How connections are opened, and what one request shows of itself while it is under way.

The guard is asked by the socket factory, which sees every address that is dialled: aiohttp asks no resolver about IP
literals. A request that is never sent again gets a connection of its own: what another left behind is never read as its
answer, and of two answers to it the second is never anybody's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
from aiohttp import DefaultResolver
from aiohttp.abc import AbstractResolver, ResolveResult

from batchflux._version import __version__
from batchflux.failpoints import reach
from batchflux.transport.connecting.lenient import LenientConnector
from batchflux.transport.connecting.proxies import Proxies
from batchflux.transport.connecting.ssrf import Guard, UnsafeAddressError, parse
from batchflux.transport.slots import DownloadSlots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from yarl import URL

    from batchflux.transport.connecting.proxies import Proxy

MIB = 1 << 20
DNS_SECONDS = 60  # a provider that moves to other addresses is followed within a minute
HEADER_BYTES = 1 << 16  # one header: signed links travel in headers, and are longer than aiohttp's 8 KB
MOST_HEADERS = 2000

UNKNOWN_TO_PROXY = 407
_UNREACHED = frozenset({502, 503})
_GIVEN_UP = 30.0  # seconds; a later 502 may be of a proxy that had passed the request on, and gave up waiting

LATE_SECONDS, TURN_SECONDS = 0.25, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportOptions:
    """How the one HTTP client behaves. Times in seconds, sizes in bytes."""

    base_url: str
    timeout: float  # of a whole API call, waiting for a connection included
    due: Callable[[float], float] | None = None  # in its place: until when a call may go on; see CallTimes.due
    connections: int  # in each of the two pools
    max_bytes: int  # the largest picture taken
    spool_dir: str
    connect_timeout: float = 15  # of getting a connection: a free place in the pool, DNS, TCP, TLS
    idle_timeout: float = 120  # between two pieces of an answer
    download_timeout: float = 300  # of a whole download with its redirects
    spool_over: int = MIB  # larger downloads go to a temporary file in `spool_dir`
    slots: DownloadSlots = field(default_factory=lambda: DownloadSlots(8, 8))  # of those who fetch, who hold them
    resolve: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # names to address and port: the provider's
    allow_hosts: tuple[str, ...] = ()  # what may be dialled although it is private: see ssrf.Allowed
    download_headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # that hosts of pictures want
    proxies: Proxies = field(default_factory=Proxies)


class Names(AbstractResolver):
    """Resolves names; `fixed` ones to the address and port given. Tells the guard where the provider's origin lives."""

    def __init__(self, guard: Guard, origin: URL, fixed: Mapping[str, tuple[str, int]]) -> None:
        self._guard = guard
        self._origin = (origin.raw_host or "", origin.port or 0)
        self._fixed = dict(fixed)
        self._system = DefaultResolver()
        self._learned = self._origin[0] in self._fixed or parse(self._origin[0]) is not None
        for address, port in (self._origin, *self._fixed.values()):
            guard.trust(address, port)  # a name is no address, and is learned as it is resolved

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of `host`; OSError when the name does not resolve."""
        if host in self._fixed:
            address, port = self._fixed[host]
            kind = socket.AF_INET6 if ":" in address else socket.AF_INET
            flags = socket.AI_NUMERICHOST
            return [ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=flags)]
        try:
            found = await self._system.resolve(host, port, family)
        except UnicodeError as error:  # a label of over 63 characters
            raise OSError(errno.EINVAL, "not a valid host name") from error
        if not found:
            raise OSError(errno.ENOENT, "the name has no address")
        own = (host, port) == self._origin
        self._learned |= own
        if own or self._guard.names(host, port):
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


class Sent:
    """What is known of one request: `done` once it may have left.

    That is once its headers are handed to aiohttp. With `once` it must not leave twice: aiohttp sends a GET or PUT
    again by itself when its connection turns out to be closed. `tell` is called once, as it leaves.
    """

    def __init__(self, *, once: bool, tell: Callable[[], None] | None) -> None:
        self.done = False
        self._once = once
        self._tell = tell

    def leaves(self) -> None:
        """Take note that the request may have left; aiohttp.ServerDisconnectedError when it must not leave again."""
        if self.done and self._once:
            raise aiohttp.ServerDisconnectedError
        if not self.done:
            self.done = True
            if self._once:
                reach("request.sent")
            if self._tell is not None:
                self._tell()


class Until:
    """When a wait is over, in seconds of the loop's clock: `at`. `later` is asked then whether there is more time.

    A process that stood still (Ctrl-Z, a paused machine) finds its timers due before it has looked at its sockets,
    where the answer may lie, paid for. So a timer that fires late lets the sockets be read for one more `TURN_SECONDS`.
    """

    def __init__(self, at: float, later: Callable[[], float] | None = None) -> None:
        self.at = at
        self._later = later

    @contextlib.asynccontextmanager
    async def bound(self, within: float = float("inf")) -> AsyncIterator[asyncio.Timeout]:
        """Raise TimeoutError when this is entered for longer than `within` seconds, or beyond `at`."""
        loop = asyncio.get_running_loop()
        last = loop.time() + within
        due = max(loop.time(), min(self.at, last))
        timer: asyncio.TimerHandle

        def fire() -> None:
            nonlocal due, timer
            now = loop.time()
            if due >= self.at and self._later is not None and (at := self._later()) > now:
                self.at = at
                due = min(at, last)
                timer = loop.call_at(due, fire)
                return
            more = TURN_SECONDS if now - due > LATE_SECONDS else 0.0
            self.at = max(self.at, now + more)
            bound.reschedule(now + more)

        async with asyncio.timeout(None) as bound:
            timer = loop.call_at(due, fire)
            try:
                yield bound
            finally:
                timer.cancel()


async def _headers_sent(_session: aiohttp.ClientSession, context: Any, _params: object) -> None:
    if isinstance(context.trace_request_ctx, Sent):
        context.trace_request_ctx.leaves()


class Route(NamedTuple):
    """How one request goes: by its session, and by the `proxy` that it dials in place of what is asked for.

    `passed_on`: the proxy reads the request, and passes it on; else it only connects.
    """

    session: aiohttp.ClientSession
    proxy: Proxy | None = None
    passed_on: bool = False

    @property
    def headers(self) -> Mapping[str, str]:
        """What the request says to the proxy."""
        return self.proxy.headers if self.proxy is not None and self.passed_on else {}

    @property
    def tunnel(self) -> Mapping[str, str] | None:
        """What is said to the proxy as it is asked to connect."""
        return None if self.proxy is None or self.passed_on or not self.proxy.is_http else self.proxy.headers

    def refused(self, status: int, headers: Mapping[str, str], seconds: float) -> bool:
        """Whether an answer after so many seconds is the proxy's own: it did not reach where the request was to go."""
        own = status in _UNREACHED and seconds < _GIVEN_UP and "json" not in headers.get("Content-Type", "")
        return self.passed_on and (status == UNKNOWN_TO_PROXY or own)


class Routes:
    """The sessions by which requests go, opened when they are wanted: for each way there is one that keeps connections.

    The other never uses a connection again. What is asked for directly is dialled through the guard; the sessions of a
    proxy dial nothing but that proxy.
    """

    def __init__(self, guard: Guard, names: Names, options: TransportOptions) -> None:
        self._guard, self._names, self._options = guard, names, options
        self._sessions: dict[tuple[Proxy | None, bool], aiohttp.ClientSession] = {}

    def proxy_of(self, url: URL) -> Proxy | None:
        """Return the proxy for a URL; what has a fixed address, as the embedded simulator, is near."""
        return None if url.raw_host in self._options.resolve else self._options.proxies.for_url(url)

    def of(self, url: URL, *, reuse: bool) -> Route:
        """Return how to ask for a URL; with `reuse` over a connection that is kept."""
        proxy = self.proxy_of(url)
        session = self._sessions.get((proxy, reuse))
        if session is None:
            connector = self._connector(proxy, reuse=reuse)
            session = self._sessions[proxy, reuse] = _open_session(connector, proxy, self._options)
        return Route(session, proxy, proxy is not None and proxy.is_http and url.scheme == "http")

    async def close(self) -> None:
        """Close all sessions."""
        for session in self._sessions.values():
            await session.close()

    def _connector(self, proxy: Proxy | None, *, reuse: bool) -> aiohttp.TCPConnector:
        options: dict[str, Any] = {"force_close": not reuse, "limit": self._options.connections}
        if proxy is not None and not proxy.is_http:
            from batchflux.transport.connecting.socks import socks_connector  # noqa: PLC0415  an extra

            return socks_connector(proxy, **options)
        if proxy is not None:
            return LenientConnector(ttl_dns_cache=DNS_SECONDS, **options)

        def guarded_socket(info: aiohttp.AddrInfoType) -> socket.socket:
            family, kind, proto, _, address = info
            if not self._guard.allow(str(address[0]), int(address[1])):
                raise UnsafeAddressError
            return socket.socket(family=family, type=kind, proto=proto)

        options |= {"resolver": self._names, "socket_factory": guarded_socket}
        return LenientConnector(ttl_dns_cache=DNS_SECONDS, **options)


def _open_session(
    connector: aiohttp.TCPConnector, proxy: Proxy | None, options: TransportOptions
) -> aiohttp.ClientSession:
    """Return a session that keeps the Sent in a `trace_request_ctx` true."""
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_headers_sent)
    return aiohttp.ClientSession(
        connector=connector,
        proxy=proxy.url if proxy is not None and proxy.is_http else None,
        timeout=aiohttp.ClientTimeout(connect=options.connect_timeout),
        trace_configs=[trace],
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"batchflux/{__version__}", "Accept-Encoding": "gzip, deflate"},
        auto_decompress=False,  # see body.py
        trust_env=False,
        max_line_size=HEADER_BYTES,
        max_field_size=HEADER_BYTES,
        max_headers=MOST_HEADERS,
    )
