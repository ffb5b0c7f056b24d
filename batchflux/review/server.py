"""The routes of the review, and what each answers; see guard.py for who gets that far."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web

from batchflux.report.page import content_security_policy
from batchflux.review.answers import cut_off, dumps, explain, since_of
from batchflux.review.bodies import MAX_BODY, BadBodyError, parse_decision
from batchflux.review.events import Events
from batchflux.review.guard import Guard, protect
from batchflux.review.pictures import Pictures
from batchflux.review.refresh import Refresh
from batchflux.review.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from batchflux.ledger.reviews import Asked, Decision


T = TypeVar("T")

_CHUNK = 1 << 18
_LONG = 0.02  # seconds of work in one go


class Server:
    """The web application of one folder's review.

    Args:
        folder: the output folder; it need not be there yet.
        guard: who is let in.
        tell: takes one sentence that the person who started the review should read.
        rest: after what took long, the folder's thread rests so many times as long, for whom it shares a process with.
    """

    def __init__(self, folder: Path, guard: Guard, tell: Callable[[str], None], rest: float = 0.0) -> None:
        self._rest = rest
        self._guard = guard
        self._store = Store(folder)
        self._thread = ThreadPoolExecutor(1, "batchflux-review")
        self._pictures = Pictures(folder, self._store, self._do)
        self._events = Events(self._store, self._do)
        self._refresh = Refresh(self._store, self._do, tell)

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(middlewares=[explain, self._guard.middleware()], client_max_size=MAX_BODY)
        app.on_response_prepare.append(protect)
        app.router.add_get("/", self._page)
        app.router.add_get("/images/{name:.+}", self._pictures.image)
        app.router.add_get("/thumbs/references/{name}", self._pictures.reference)
        app.router.add_get("/thumbs/{name}", self._pictures.thumb)
        app.router.add_get("/api/rows", self._rows)
        app.router.add_get("/api/events", self._events.stream, allow_head=False)
        app.router.add_post("/api/verdicts", self._verdicts)
        app.on_startup.append(self._start)
        app.on_shutdown.append(self._stop)
        app.on_cleanup.append(self._clean_up)
        return app

    async def _do(self, work: Callable[[], T]) -> T:
        """Do what touches the folder, in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._rested, work)

    def _rested(self, work: Callable[[], T]) -> T:
        began = time.monotonic()
        try:
            return work()
        finally:
            took = time.monotonic() - began
            if self._rest and took > _LONG:
                time.sleep(self._rest * took)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        pieces = await self._do(lambda: self._store.page(self._guard.token))
        headers = {"Content-Security-Policy": content_security_policy(live=True)}
        response = web.StreamResponse(headers=headers)
        response.content_type, response.charset = "text/html", "utf-8"
        if "token" in request.query:
            self._guard.welcome(response)
        await response.prepare(request)
        with cut_off():
            while piece := await self._do(lambda: _gathered(pieces)):
                await response.write(piece)
        return response

    async def _rows(self, request: web.Request) -> web.StreamResponse:
        since = since_of(request.query.get("since", "0"))
        await self._do(partial(self._store.look, exact=True))
        header = await self._do(self._store.header)
        response = web.StreamResponse()
        response.content_type, response.charset = "application/json", "utf-8"
        await response.prepare(request)
        with cut_off():
            await response.write(f'{{"header": {dumps(header)}, "rows": ['.encode())
            await self._write_rows(response, since)
        return response

    async def _write_rows(self, response: web.StreamResponse, since: int) -> None:
        gone: list[str] = []
        more, between = True, ""
        while more:
            batch = await self._do(partial(self._store.batch, since))
            for row in batch.rows:
                await response.write(f"{between}{dumps(row)}".encode())
                between = ", "
            gone += batch.gone
            since, more = batch.sequence, batch.more
        await response.write(f'], "gone": {dumps(gone)}, "sequence": {since}}}'.encode())

    async def _verdicts(self, request: web.Request) -> web.StreamResponse:
        if request.content_type != "application/json":
            raise BadBodyError("The body must be of type application/json.")
        decision = await asyncio.to_thread(parse_decision, await request.read())
        # Shielded: a verdict that is under way is kept, and shown, also when its page is closed meanwhile.
        numbers, asked = await asyncio.shield(asyncio.ensure_future(self._decide(decision)))
        response = web.StreamResponse()
        response.content_type, response.charset = "application/json", "utf-8"
        await response.prepare(request)
        pieces = _answer(self._store.pages_of(numbers), asked)
        with cut_off():
            while piece := await self._do(lambda: _gathered(pieces)):
                await response.write(piece)
        return response

    async def _decide(self, decision: Decision) -> tuple[list[int], list[Asked]]:
        decided = await self._do(lambda: self._store.decide(decision))
        self._refresh.wanted()
        self._events.look_soon()
        return decided

    async def _start(self, _app: web.Application) -> None:
        self._events.start()
        self._refresh.wanted()  # an earlier review may have been killed before it came to that

    async def _stop(self, _app: web.Application) -> None:
        await self._events.stop()
        await self._refresh.stop()

    async def _clean_up(self, _app: web.Application) -> None:
        with suppress(RuntimeError):
            await self._do(self._store.close)
        self._thread.shutdown()
        self._pictures.close()


def _answer(pages: Iterable[list[dict[str, Any]]], asked: Iterable[Asked]) -> Iterator[bytes]:
    """Yield what a verdict is answered with: the rows as they are now, and the redos that it asked for."""
    yield b'{"rows": ['
    between = ""
    for rows in pages:
        yield between.encode() + ", ".join(map(dumps, rows)).encode()
        between = ", "
    redo = [{"key": redo.key.hex(), "id": redo.id} for redo in asked]
    yield f'], "redo": {dumps(redo)}}}'.encode()


def _gathered(pieces: Iterator[bytes]) -> bytes:
    """Return the next pieces together; b'' at the end."""
    made: list[bytes] = []
    size = 0
    for piece in pieces:
        made.append(piece)
        size += len(piece)
        if size >= _CHUNK:
            break
    return b"".join(made)
