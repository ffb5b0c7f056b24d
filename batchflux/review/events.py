"""The stream of changes (server-sent events): rows as they are made and judged, and how the run stands.

One look for all listeners, at most every half second, and none while nobody listens (why by looking: changes.py). A
listener reads from the ledger what it does not know yet, at its own speed; nothing is queued for it. `id:` is the
number up to which it knows all, so a browser that lost the connection goes on where it was.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiohttp import web

from batchflux.errors import StorageError
from batchflux.review.changes import sequence_of

if TYPE_CHECKING:
    from batchflux.review.ledger_access import LedgerAccess

LOOK = 0.5  # seconds
HEARTBEAT = 15.0  # seconds
MOST_LISTENERS = 32
_PASSING = ("made_at", "seconds")  # what a header says of the moment only


class Events:
    """Looks, and lets all listeners know."""

    def __init__(self, ledger: LedgerAccess) -> None:
        self._ledger = ledger
        self._listeners = 0
        self._turn = asyncio.Condition()
        self._wanted = asyncio.Event()
        self._stopping = False
        self._news = 0  # of the ledger, that listeners know of
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look, while somebody listens."""
        self._task = asyncio.get_running_loop().create_task(self._follow())

    def look_soon(self) -> None:
        """Look now: something was decided here."""
        self._wanted.set()

    async def stop(self) -> None:
        """Tell listeners how things stand, then end their streams."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._look(last=True)

    async def _follow(self) -> None:
        while True:
            self._wanted.clear()
            if self._listeners:
                await self._look()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), LOOK if self._listeners else None)

    async def _look(self, *, last: bool = False) -> None:
        with suppress(StorageError):  # the ledger is busy or being replaced: the next look will see
            await self._ledger.do(self._ledger.look, exact=last)
        self._stopping = last  # only now: a listener that saw it before would end without what this look found
        if last or self._ledger.news != self._news:  # also what others who looked have found
            async with self._turn:
                self._news = self._ledger.news
                self._turn.notify_all()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Send events until the listener goes or the server stops."""
        if self._listeners >= MOST_LISTENERS:
            raise web.HTTPServiceUnavailable(text="Too many pages follow this review; close some.")
        since = sequence_of(request.headers.get("Last-Event-ID") or request.query.get("since", "0")) or 0
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        self._listeners += 1
        self.look_soon()
        try:
            with suppress(ConnectionError):  # the listener has gone
                await self._serve(response, since)
        finally:
            self._listeners -= 1
        return response

    async def _serve(self, response: web.StreamResponse, since: int) -> None:
        known: dict[str, Any] = {}
        last = False
        while not last:
            last, news = self._stopping, self._news
            with suppress(StorageError):  # as in _look
                since = await self._rows(response, since)
                header = await self._ledger.do(self._ledger.header)
                lasting = {name: value for name, value in header.items() if name not in _PASSING}
                if lasting != known:
                    known = lasting
                    await response.write(_event("header", header))
            if not last and not await self._changed(news):
                await response.write(b": still here\n\n")

    async def _rows(self, response: web.StreamResponse, since: int) -> int:
        more = True
        while more:
            news, rows = await self._ledger.do(self._ledger.changed, since)
            since, more = news.sequence, news.more
            if news.reset:
                await response.write(_event("reset", {"sequence": since}, since))
            if rows or news.gone:
                await response.write(_event("rows", {"sequence": since, "rows": rows, "gone": news.gone}, since))
        return since

    async def _changed(self, known: int) -> bool:
        """Wait for news beyond what is known; False when it is time for a sign of life instead."""
        try:
            async with asyncio.timeout(HEARTBEAT), self._turn:
                return await self._turn.wait_for(lambda: self._news != known or self._stopping)
        except TimeoutError:
            return False


def _event(name: str, data: Any, number: int | None = None) -> bytes:
    mark = "" if number is None else f"id: {number}\n"
    return f"event: {name}\n{mark}data: {json.dumps(data)}\n\n".encode()
