"""Whether a request has left. The rule: from the moment that it may have, it has.

Two moments count: from when on a request may have left, for money's sake, and when it is written, by which a pace is
kept. With the small requests of exchange.py they are one. In aiohttp's session a request's headers may leave from when
they are handed to it on, but wait there for the first piece of the body, which a task of its own writes (on Python 3.11
after all else that the loop has to do first). Every request has a body (see body.encode).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import TraceConfig

from batchflux.points import reach

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import ClientSession


class Sent:
    """What is known of one request: `done` once it may have left.

    Args:
        tell: awaited once; the request is written to its connection right behind it.
    """

    __slots__ = ("_tell", "done")

    def __init__(self, tell: Callable[[], Awaitable[None]] | None) -> None:
        self.done = False
        self._tell = tell

    def leaves(self) -> None:
        """Take note that the request may have left from here on."""
        self.done = True
        reach("request.sent")

    async def written(self) -> None:
        """Tell that it is written now; a body's further pieces are no news."""
        tell, self._tell = self._tell, None
        if tell is not None:
            await tell()


def tracing() -> TraceConfig:
    """Return what a session is made with, so that the `trace_request_ctx` of each request, a Sent, is kept true."""
    trace = TraceConfig()
    trace.on_request_headers_sent.append(_headers)
    trace.on_request_chunk_sent.append(_piece)
    return trace


async def _headers(_session: ClientSession, context: Any, _params: object) -> None:
    context.trace_request_ctx.leaves()


async def _piece(_session: ClientSession, context: Any, _params: object) -> None:
    await context.trace_request_ctx.written()
