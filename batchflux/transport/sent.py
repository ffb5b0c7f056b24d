"""Whether a request has left. The rule: from the moment that it may have, it has.

Two moments count: from when on a request may have left, for money's sake, and when it is written, by which a pace is
kept. With the small requests of exchange.py they are one. In aiohttp's session a request's headers may leave from when
they are handed to it on, but wait there for the first piece of the body, which a task of its own writes (on Python 3.11
after all else that the loop has to do first). Every request has a body (see body.encode).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import TraceConfig

from batchflux.failpoints import reach

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import ClientSession


class Sent:
    """What is known of one request: `done` once it may have left.

    Args:
        tell: awaited when the request is about to be written to its connection, right behind it.
    """

    __slots__ = ("_tell", "_told", "done")

    def __init__(self, tell: Callable[[], Awaitable[None]] | None) -> None:
        self.done = False
        self._tell = tell
        self._told = False

    def leaves(self) -> None:
        """Take note that the request may have left from here on."""
        self.done = True
        reach("request.sent")

    async def written(self) -> None:
        """Tell that it is written now, if its connection takes it."""
        if self._tell is not None:
            await self._tell()

    async def piece_written(self) -> None:
        """Tell that a piece of its body is written now; further ones are no news."""
        told, self._told = self._told, True
        if not told:
            await self.written()


def tracing() -> TraceConfig:
    """Return what a session is made with, so that the `trace_request_ctx` of each request, a Sent, is kept true."""
    trace = TraceConfig()
    trace.on_request_headers_sent.append(_headers)
    trace.on_request_chunk_sent.append(_piece)
    return trace


async def _headers(_session: ClientSession, context: Any, _params: object) -> None:
    context.trace_request_ctx.leaves()


async def _piece(_session: ClientSession, context: Any, _params: object) -> None:
    await context.trace_request_ctx.piece_written()
