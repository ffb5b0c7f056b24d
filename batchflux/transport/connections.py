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
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import DefaultResolver
from aiohttp.abc import AbstractResolver, ResolveResult

from batchflux._version import __version__
from batchflux.failpoints import reach
from batchflux.transport.lenient import LenientConnector
from batchflux.transport.slots import DownloadSlots
from batchflux.transport.ssrf import Guard, UnsafeAddressError, parse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from yarl import URL

MIB = 1 << 20
DNS_SECONDS = 60  # a provider that moves to other addresses is followed within a minute
HEADER_BYTES = 1 << 16  # one header: signed links travel in headers, and are longer than aiohttp's 8 KB

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


def open_session(guard: Guard, names: Names, options: TransportOptions, *, reuse: bool) -> aiohttp.ClientSession:
    """Return a session that dials what `guard` allows, and keeps the Sent in a `trace_request_ctx` true."""

    def guarded_socket(info: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, proto, _, address = info
        if not guard.allow(str(address[0]), int(address[1])):
            raise UnsafeAddressError
        return socket.socket(family=family, type=kind, proto=proto)

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_headers_sent)
    return aiohttp.ClientSession(
        connector=LenientConnector(
            force_close=not reuse,
            limit=options.connections,
            resolver=names,
            ttl_dns_cache=DNS_SECONDS,
            socket_factory=guarded_socket,
        ),
        timeout=aiohttp.ClientTimeout(connect=options.connect_timeout),
        trace_configs=[trace],
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"batchflux/{__version__}", "Accept-Encoding": "gzip, deflate"},
        auto_decompress=False,  # see body.py
        trust_env=False,
        max_line_size=HEADER_BYTES,
        max_field_size=HEADER_BYTES,
    )
