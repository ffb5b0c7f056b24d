"""The routes of the review, and how each answers: JSON, one sentence for what failed, and the stream of changes.

In the stream (server-sent events) each listener looks every half second, and reads what it does not know yet at its own
speed; nothing is queued. `id:` is up to where it knows all, so a browser that lost the connection goes on where it was.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aiohttp import web

from batchflux.errors import StorageError
from batchflux.ledger.decisions import BlankPromptError, NoSuchJobError, UnlistedJobError
from batchflux.monitoring.exposition import CONTENT_TYPE
from batchflux.report.page import content_security_policy
from batchflux.review.decisions import MAX_BODY, BadBodyError, ResultsRefresh, parse_decision, parse_undo
from batchflux.review.files import Pictures
from batchflux.review.guard import Guard, protect
from batchflux.review.ledger_access import LedgerAccess, NoLedgerError, sequence_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from aiohttp.typedefs import Handler

    from batchflux.ledger.decisions import Before, Decision

LOOK = 0.5  # seconds
HEARTBEAT = 15.0  # seconds
MOST_LISTENERS = 32
BODY_SECONDS = 30.0
MOST_UNDOS = 100  # decisions that can be undone: the last ones of this review
_PASSING = ("made_at", "seconds")  # what a header says of the moment only
_CHUNK = 1 << 18
_JSON = {"Content-Type": "application/json; charset=utf-8"}
_FAULTS: dict[type[Exception], tuple[int, str | None]] = {  # what failed → the answer's status and text; None: its own
    BadBodyError: (400, None),
    NoLedgerError: (409, "Nothing has been run in this folder yet."),
    NoSuchJobError: (404, "There is no such picture in this folder (any more); reload the page."),
    UnlistedJobError: (409, "The manifest does not list this job any more, so no run would redo it."),
    BlankPromptError: (409, "Without that text a prompt would be blank; nothing was asked for."),
    StorageError: (503, None),
}


class Server:
    """The web application of a review of a folder, which need not be there yet; `tell` takes sentences for people."""

    def __init__(self, folder: Path, guard: Guard, tell: Callable[[str], None], rest: float = 0.0) -> None:
        self._guard = guard
        self._ledger = LedgerAccess(folder, rest)
        self._pictures = Pictures(folder, self._ledger, tell)
        self._refresh = ResultsRefresh(self._ledger, tell)
        self._listeners, self._stopping = 0, False
        self._before: dict[int, list[Before]] = {}  # of the last decisions, by number, the latest last
        self._decisions = 0
        self._soon = asyncio.Event()

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(middlewares=[_explain, self._guard.admit], client_max_size=MAX_BODY)
        app.on_response_prepare.append(protect)
        app.router.add_get("/", self._page)
        app.router.add_get("/images/{name:.+}", self._pictures.image)
        app.router.add_get("/rejected/{name:.+}", self._pictures.rejected)
        app.router.add_get("/thumbs/references/{name}", self._pictures.reference)
        app.router.add_get("/thumbs/{name}", self._pictures.thumb)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/api/rows", self._rows)
        app.router.add_get("/api/events", self._stream, allow_head=False)
        app.router.add_post("/api/verdicts", self._verdicts)
        app.router.add_post("/api/undo", self._undo)
        app.on_startup.append(self._start)
        app.on_shutdown.append(self._stop)
        app.on_cleanup.append(self._clean_up)
        return app

    async def _page(self, request: web.Request) -> web.StreamResponse:
        pieces = await self._ledger.do(self._ledger.page, self._guard.token)
        headers = {"Content-Security-Policy": content_security_policy(live=True)}
        response = web.StreamResponse(headers={"Content-Type": "text/html; charset=utf-8", **headers})
        if "token" in request.query:
            self._guard.welcome(response)
        return await self._send(request, response, pieces)

    async def _metrics(self, _request: web.Request) -> web.Response:
        """Answer with the folder's numbers, as `--metrics` writes them."""
        text = await self._ledger.do(self._ledger.metrics)
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _rows(self, request: web.Request) -> web.StreamResponse:
        since = sequence_of(request.query.get("since", "0"))
        if since is None:
            raise web.HTTPBadRequest(text="since must be a whole number.")
        return await self._send(request, web.StreamResponse(headers=_JSON), self._changed(since))

    def _changed(self, since: int) -> Iterator[str]:
        """Yield the header, the rows that changed after `since` and the keys of those that are gone, as JSON."""
        self._ledger.look(exact=True)
        yield f'{{"header": {_dumps(self._ledger.header())}, "rows": ['
        gone: list[str] = []
        more, between = True, ""
        while more:
            news, rows = self._ledger.changed(since)
            for row in rows:
                yield between + _dumps(row)
                between = ", "
            gone += news.gone
            since, more = news.sequence, news.more
        yield f'], "gone": {_dumps(gone)}, "sequence": {since}}}'

    async def _verdicts(self, request: web.Request) -> web.StreamResponse:
        decision = await asyncio.to_thread(parse_decision, await _body(request))
        # Shielded: a verdict that is under way is kept, and shown, also when its page is closed meanwhile.
        numbers, more = await asyncio.shield(asyncio.ensure_future(self._decide(decision)))
        return await self._send(request, web.StreamResponse(headers=_JSON), self._answer(numbers, more))

    async def _undo(self, request: web.Request) -> web.StreamResponse:
        number = parse_undo(await _body(request))
        if number not in self._before:
            raise web.HTTPConflict(text="That verdict cannot be undone any more.")
        numbers = await asyncio.shield(asyncio.ensure_future(self._take_back(number)))
        return await self._send(request, web.StreamResponse(headers=_JSON), self._answer(numbers, {}))

    def _answer(self, numbers: list[int], more: dict[str, Any]) -> Iterator[str]:
        """Yield what a verdict is answered with, as JSON: the rows as they are now, and what else there is to say."""
        yield '{"rows": ['
        for place, row in enumerate(self._ledger.rows(numbers)):
            yield (", " if place else "") + _dumps(row)
        yield "]" + "".join(f', "{name}": {_dumps(value)}' for name, value in more.items()) + "}"

    async def _decide(self, decision: Decision) -> tuple[list[int], dict[str, Any]]:
        """Record a decision; return the numbers of its rows, the redos it asked for, and by what it can be undone."""
        numbers, decided = await self._ledger.do(self._ledger.decide, decision)
        self._decisions += 1
        self._before[self._decisions] = decided.before
        while len(self._before) > MOST_UNDOS:
            del self._before[next(iter(self._before))]
        self._changed_verdicts()
        redo = [{"key": redo.key.hex(), "id": redo.id} for redo in decided.asked]
        already = {"already": [key.hex() for key in decided.already]} if decided.already else {}
        return numbers, {"redo": redo, **already, "undo": self._decisions}

    async def _take_back(self, number: int) -> list[int]:
        numbers, undone = await self._ledger.do(self._ledger.undo, self._before[number])
        self._before.pop(number, None)
        for before in self._before.values():  # those before it can be undone next
            before[:] = [replace(one, revision=undone.get((one.key, one.revision), one.revision)) for one in before]
        self._changed_verdicts()
        return numbers

    def _changed_verdicts(self) -> None:
        self._refresh.wanted()
        self._look_soon()

    async def _send(
        self, request: web.Request, response: web.StreamResponse, pieces: Iterator[bytes] | Iterator[str]
    ) -> web.StreamResponse:
        """Send pieces that are made in the folder's thread; half an answer must not look whole, should it fail."""
        piece = await self._ledger.do(_gathered, pieces)
        await response.prepare(request)
        while piece:
            await response.write(piece)
            try:
                piece = await self._ledger.do(_gathered, pieces)
            except StorageError as error:
                raise ConnectionResetError(str(error)) from error
        return response

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if self._listeners >= MOST_LISTENERS:
            raise web.HTTPServiceUnavailable(text="Too many pages follow this review; close some.")
        since = sequence_of(request.headers.get("Last-Event-ID") or request.query.get("since", "0")) or 0
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        self._listeners += 1
        try:
            with suppress(ConnectionError):  # the listener has gone
                await self._follow(response, since)
        finally:
            self._listeners -= 1
        return response

    async def _follow(self, response: web.StreamResponse, since: int) -> None:
        known: dict[str, Any] = {}
        last, heard = False, time.monotonic()
        while not last:
            last = self._stopping
            with suppress(StorageError):  # the ledger is busy or being replaced: the next look will see
                await self._ledger.do(self._ledger.look, exact=last)
                since = await self._write_rows(response, since)
                header = await self._ledger.do(self._ledger.header)
                lasting = {name: value for name, value in header.items() if name not in _PASSING}
                if lasting != known:
                    known = lasting
                    await response.write(_event("header", header))
            if time.monotonic() >= heard + HEARTBEAT:
                await response.write(b": still here\n\n")
                heard = time.monotonic()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._soon.wait(), 0 if self._stopping else LOOK)

    async def _write_rows(self, response: web.StreamResponse, since: int) -> int:
        more = True
        while more:
            news, rows = await self._ledger.do(self._ledger.changed, since)
            since, more = news.sequence, news.more
            if news.reset:
                await response.write(_event("reset", {"sequence": since}, since))
            if rows or news.gone:
                await response.write(_event("rows", {"sequence": since, "rows": rows, "gone": news.gone}, since))
        return since

    def _look_soon(self) -> None:
        self._soon.set()  # lets all go on who wait now
        self._soon.clear()

    async def _start(self, _app: web.Application) -> None:
        self._refresh.wanted()  # an earlier review may have been killed before it came to that

    async def _stop(self, _app: web.Application) -> None:
        self._stopping = True  # listeners look once more, and their streams end
        self._look_soon()
        await self._refresh.stop()

    async def _clean_up(self, _app: web.Application) -> None:
        self._pictures.close()
        await self._ledger.close()


async def _body(request: web.Request) -> bytes:
    """Return the body of a request that says what to change."""
    if request.content_type != "application/json":
        raise BadBodyError("The body must be of type application/json.")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="The body took too long to come.") from None


def _event(name: str, data: Any, number: int | None = None) -> bytes:
    mark = "" if number is None else f"id: {number}\n"
    return f"event: {name}\n{mark}data: {json.dumps(data)}\n\n".encode()


def _gathered(pieces: Iterator[bytes] | Iterator[str]) -> bytes:
    """Return the next pieces together; b'' at the end."""
    made = bytearray()
    for piece in pieces:
        made += piece.encode() if isinstance(piece, str) else piece
        if len(made) >= _CHUNK:
            break
    return bytes(made)


def _dumps(value: Any) -> str:
    """Return JSON; text that is no Unicode (a lone surrogate in a file's name) is written as an escape."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


@web.middleware
async def _explain(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer what failed with one sentence: JSON below /api, else text."""
    headers = None
    try:
        return await handler(request)
    except web.HTTPException as error:
        status, text = error.status, error.text or error.reason
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    except tuple(_FAULTS) as error:
        status, says = next(answer for kind, answer in _FAULTS.items() if isinstance(error, kind))
        text = says or str(error)
    if request.path.startswith("/api/"):
        return web.json_response({"error": text}, status=status, headers=headers)
    return web.Response(status=status, text=f"{text}\n", headers=headers)
