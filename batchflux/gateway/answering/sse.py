"""Server-sent events: frames, comments, and the wait between two of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from batchflux.gateway.answering.pieces import Piece, pieces_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

T = TypeVar("T")

EVERY = 5.0  # seconds between two signs of life: clients and proxies give up after 30 or 60
EARLY = 0.1  # seconds in which a call that cannot be made is refused
DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": waiting\n\n"
HEADERS: Mapping[str, str] = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx would keep frames back
}


def frame(value: Any, event: str = "") -> list[Piece]:
    """Return one event. JSON has no line break in it, so its data is one line, whatever the texts in it are."""
    before = f"event: {event}\ndata: " if event else "data: "
    return pieces_of(value, before, "\n\n")


async def early(made: asyncio.Future[Any]) -> None:
    """Wait a moment for a refusal, which has a status of its own as long as no headers left; raise it."""
    await asyncio.wait({made}, timeout=EARLY)
    if made.done():
        made.result()


async def beats(made: asyncio.Future[T], every: float = EVERY) -> AsyncGenerator[float]:
    """Yield how many seconds were waited, every so many, until something is made; nobody who leaves cancels it."""
    waited = 0.0
    while not (await asyncio.wait({made}, timeout=every))[0]:
        waited += every
        yield waited
